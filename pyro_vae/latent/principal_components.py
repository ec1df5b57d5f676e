"""Principal components: of codes, for a plane to plot, and of images, beside what a linear decoder spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.data import Images
from pyro_vae.latent.encode import check_encodes, codes, decode_codes
from pyro_vae.models import Model
from pyro_vae.models.base import device_of

if TYPE_CHECKING:
    from sklearn.decomposition import PCA


class Plane(NamedTuple):
    """Codes in two dimensions, `(N, 2)`, and what the axes are."""

    codes: Tensor
    axes: tuple[str, str]


def to_plane(z: Tensor) -> Plane:
    """Codes `(N, d)` in the plane: as they are for d = 2, with a zero beside them for d = 1, else by PCA."""
    z = checks.matrix("z", z)
    dimensions = z.shape[1]
    if dimensions == 1:
        return Plane(torch.cat([z, torch.zeros_like(z)], dim=1), ("$z_1$", ""))
    if dimensions == 2:
        return Plane(z, ("$z_1$", "$z_2$"))
    pca = principal_components(z, 2)
    first, second = pca.explained_variance_ratio_
    labels = (f"first principal component ({first:.0%} of variance)", f"second ({second:.0%})")
    return Plane(torch.from_numpy(pca.transform(z.cpu().double().numpy())).float(), labels)


def principal_components(x: Tensor, n: int) -> PCA:
    """scikit-learn's PCA of the rows of `x` to n components, exact and in float64.

    >>> principal_components(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), 1).components_.round(3)
    array([[0.707, 0.707]])
    """
    from sklearn.decomposition import PCA

    x = checks.matrix("x", x)
    n = checks.positive_integer("n", n)
    if n > min(x.shape):
        raise checks.fail("n", n, f"from 1 to {min(x.shape)} components of data of shape {tuple(x.shape)}")
    return PCA(n, svd_solver="covariance_eigh").fit(x.cpu().double().numpy())


def principal_angles(model: Model, images: Images) -> Tensor:
    """Angles between the range of a linear decoder and the first d principal components of images: degrees, `(d,)`.

    A linear autoencoder of d units that minimizes the squared error spans the space of these components, though its
    weights need not be the components: all angles are then 0.

    Source: Baldi and Hornik, "Neural networks and principal component analysis", 1989,
    https://doi.org/10.1016/0893-6080(89)90014-2

    Args:
        model: a model whose decoder is a linear function of the code, plus a constant.
        images: those that it was trained on.

    Returns:
        The angles, from the largest to the smallest.

    Raises:
        InputError: the decoder is not linear, or there are fewer pixels or images than latent dimensions.
    """
    check_encodes(model, images, 1)
    columns = linear_columns(model, images)
    pca = principal_components(images.as_float().flatten(1), columns.shape[1])
    return subspace_angles(columns, torch.from_numpy(pca.components_.T))


def subspace_angles(a: Tensor, b: Tensor) -> Tensor:
    """Principal angles between the column spaces of two matrices, in degrees, from the largest to the smallest."""
    from scipy.linalg import subspace_angles as in_radians

    a, b = checks.matrix("a", a), checks.matrix("b", b)
    if len(a) != len(b):
        raise checks.fail("b", b, f"{len(a)} rows, as a has")
    return torch.rad2deg(torch.from_numpy(in_radians(a.numpy(), b.numpy())))


def linear_columns(model: Model, images: Images) -> Tensor:
    """W of a decoder W z + b, `(C H W, d)` in float64; determined from a few points, of which one is a check."""
    check_encodes(model, images, 1)
    d = codes(model, images.take(slice(0, 1)), device=device_of(model)).shape[1]
    z = torch.cat([torch.zeros(1, d), torch.eye(d), torch.full((1, d), -3.0)])
    decoded = decode_codes(model, z).flatten(1).double()
    columns = (decoded[1:-1] - decoded[0]).T
    expected = decoded[0] - 3 * columns.sum(1)
    if not torch.allclose(decoded[-1], expected, rtol=1e-3, atol=1e-3 * columns.abs().max().item()):
        raise checks.fail("model", type(model).__name__, "a model whose decoder, with its likelihood's mean, is linear")
    return columns
