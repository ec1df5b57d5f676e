"""Looking into the latent space: codes, samples, interpolations, grids. Tensors in, tensors out, on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.device import resident
from pyro_vae._utils.rng import NOISE_BLOCK, seeded_rng, stream_seed
from pyro_vae.data import Images
from pyro_vae.data.batches import batches
from pyro_vae.models import Model, with_prior
from pyro_vae.models.base import check_fits, check_model, check_set, device_of, dtype_of, evaluating, move
from pyro_vae.posteriors import location

if TYPE_CHECKING:
    from sklearn.decomposition import PCA


class Plane(NamedTuple):
    """Codes in two dimensions, `(N, 2)`, and what the axes are."""

    codes: Tensor
    axes: tuple[str, str]


def codes(model: Model, images: Images, *, batch_size: int = 500, device: str | torch.device = "auto") -> Tensor:
    """One code for each image, `(N, d)`: the :func:`~pyro_vae.posteriors.location` of q(z|x)."""
    _check(model, images, batch_size)
    target = move(model, device)
    check_fits(model, images)
    chunks = batches(resident(images.pixels, target), batch_size, target, dtype=dtype_of(model))
    with evaluating(model):
        return torch.cat([location(model.encode(x)).cpu() for x in chunks])


def posterior_means(
    model: Model,
    images: Images,
    *,
    draws: int = 32,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> Tensor:
    """The mean of `draws` codes from q(z|x) for each image, `(N, d)`: what to take where q's mean is not known.

    A deterministic autoencoder has one code for each image, and that is it.
    """
    _check(model, images, NOISE_BLOCK)
    draws = checks.positive_integer("draws", draws)
    seed = checks.seed("seed", seed)
    target = move(model, device)
    check_fits(model, images)
    means = []
    with evaluating(model):
        for block, x in enumerate(batches(resident(images.pixels, target), NOISE_BLOCK, target, dtype=dtype_of(model))):
            with seeded_rng(target, stream_seed(seed, f"codes {block}")):
                means.append(model.encode(x).sample((draws,)).mean(0).cpu())
    return torch.cat(means)


def prior_samples(
    model: Model, n: int, *, batch_size: int = 500, device: str | torch.device = "auto", seed: int = 0
) -> Tensor:
    """n samples, as the means of p(x|z) for z from the prior, `(n, C, H, W)`.

    The codes are drawn 100 at a time, each block from a seed of its own: `batch_size`, of the decoder, changes the
    result by rounding only, and the first samples are the same whatever `n` is.

    Raises:
        InputError: the model has no prior.
    """
    n, batch_size = checks.positive_integer("n", n), checks.positive_integer("batch_size", batch_size)
    seed = checks.seed("seed", seed)
    vae = with_prior(model)
    target = move(model, device)
    blocks = []
    with evaluating(model):
        for block in range(-(-n // NOISE_BLOCK)):
            with seeded_rng(target, stream_seed(seed, f"samples {block}")):
                blocks.append(vae.prior().sample((NOISE_BLOCK,)))
        return torch.cat([vae.decode(z).mean.cpu() for z in torch.cat(blocks)[:n].split(batch_size)])


def decode_codes(model: Model, z: Tensor) -> Tensor:
    """The means of p(x|z), `(N, C, H, W)`, for codes `(N, d)`."""
    check_model(model, "decode")
    codes = checks.tensor("z", z)
    if codes.dim() != 2:
        raise checks.fail("z", z, "codes of shape (N, d)")
    with evaluating(model):
        try:
            return model.decode(codes.to(device_of(model), dtype_of(model))).mean.cpu()
        except RuntimeError as error:
            raise checks.fail("z", codes, f"codes that the model's decoder takes ({error})") from error


def interpolate(model: Model, start: Tensor, end: Tensor, steps: int = 10) -> Tensor:
    """Decoded points on the line between the codes of two images `(C, H, W)`, ends included: `(steps, C, H, W)`."""
    steps = checks.positive_integer("steps", steps)
    check_model(model, "encode", "decode")
    images = [checks.tensor(name, one) for name, one in (("start", start), ("end", end))]
    for name, one in zip(("start", "end"), images, strict=True):
        if one.dim() != 3 or not one.is_floating_point() or one.shape != images[0].shape:
            raise checks.fail(name, one, "an image of floats in [0, 1], of shape (C, H, W), the same for both")
    with evaluating(model):
        try:
            ends = location(model.encode(torch.stack(images).to(device_of(model), dtype_of(model)))).cpu()
        except RuntimeError as error:
            raise checks.fail("start", images[0], f"images that the model's encoder takes ({error})") from error
    weight = torch.linspace(0, 1, steps, dtype=ends.dtype)[:, None]
    return decode_codes(model, (1 - weight) * ends[0] + weight * ends[1])


def manifold(model: Model, size: int = 20, *, spacing: str = "even", limit: float = 3.0) -> Tensor:
    """A 2-d latent space decoded on a `size x size` grid: `(size, size, C, H, W)`, first axis z_2 from high to low.

    Args:
        model: a model with a 2-d latent space.
        size: points along each axis.
        spacing: `even` from -`limit` to `limit`; `quantiles` through the inverse normal CDF, so that each picture
            stands for an equal share of a standard normal prior.
        limit: half the width of the even grid.
    """
    size = checks.positive_integer("size", size)
    limit = checks.positive("limit", limit)
    check_model(model, "decode")
    checks.one_of("spacing", spacing, ("even", "quantiles"))
    if spacing == "even":
        axis = torch.linspace(-limit, limit, size)
    else:
        axis = torch.special.ndtri((torch.arange(size) + 0.5) / size)
    second, first = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    try:
        images = decode_codes(model, torch.stack([first, second], dim=-1).reshape(-1, 2))
    except checks.InputError as error:
        raise checks.fail("model", type(model).__name__, f"a model with a 2-d latent space ({error})") from error
    return images.reshape(size, size, *images.shape[1:])


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
    """Angles between what a linear decoder can say and the d first principal components of images: degrees, `(d,)`.

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
    _check(model, images, 1)
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
    """W of a decoder W z + b, `(C H W, d)` in float64; found out from some points, which must lie on such a map."""
    _check(model, images, 1)
    d = codes(model, images.take(slice(0, 1)), device=device_of(model)).shape[1]
    z = torch.cat([torch.zeros(1, d), torch.eye(d), torch.full((1, d), -3.0)])
    decoded = decode_codes(model, z).flatten(1).double()
    columns = (decoded[1:-1] - decoded[0]).T
    expected = decoded[0] - 3 * columns.sum(1)
    if not torch.allclose(decoded[-1], expected, rtol=1e-3, atol=1e-3 * columns.abs().max().item()):
        raise checks.fail("model", type(model).__name__, "a model whose decoder, with its likelihood's mean, is linear")
    return columns


def _check(model: Model, images: Images, batch_size: int) -> None:
    check_model(model, "encode", "decode", "reconstruct")
    check_set("images", images)
    checks.positive_integer("batch_size", batch_size)
