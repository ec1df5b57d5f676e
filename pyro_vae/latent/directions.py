"""Directions of code space along which an attribute changes: unit vectors, by three estimates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_vae._utils import checks


def mean_difference(codes: Tensor, present: Tensor) -> Tensor:
    r"""From the mean code of images without an attribute to that of those with it, of length 1, float64 `(d,)`.

    .. math:: v \propto \bar c_{\text{with}} - \bar c_{\text{without}}

    It carries along whatever is correlated with the attribute: see :func:`orthogonalised`.

    Args:
        codes: `(N, d)`.
        present: whether each image has the attribute, boolean `(N,)`.

    Source: White, "Sampling generative networks", 2016, https://arxiv.org/abs/1609.04468

    >>> codes = torch.tensor([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0], [3.0, 2.0]])
    >>> mean_difference(codes, torch.tensor([False, False, True, True]))
    tensor([1., 0.], dtype=torch.float64)
    """
    codes, present = _codes(codes), _present(present, len(codes))
    return _unit(codes[present].mean(0) - codes[~present].mean(0), "present")


def probe_direction(codes: Tensor, present: Tensor, penalty: float = 1.0) -> Tensor:
    r"""The normal of the plane by which logistic regression tells images with and without an attribute, `(d,)`.

    .. math:: P(\text{present}|c) = \mathrm{sigmoid}(v^\top c + b)

    Unlike :func:`mean_difference` it is the direction in which the attribute changes while what is correlated with it
    is held, as far as a linear function of the code tells them apart.

    Args:
        codes: `(N, d)`.
        present: whether each image has the attribute, boolean `(N,)`.
        penalty: weight of the squared norm of v, of codes that are standardized as a whole; scikit-learn's 1 / C.

    >>> codes = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    >>> (probe_direction(codes, codes[:, 0] > 0)[0] > 0.99).item()
    True
    """
    from sklearn.linear_model import LogisticRegression

    codes, present = _codes(codes), _present(present, len(codes))
    penalty = checks.positive("penalty", penalty)
    scale = codes.std().clamp(min=torch.finfo(torch.float64).tiny)
    probe = LogisticRegression(C=1 / penalty, max_iter=1000).fit((codes / scale).numpy(), present.numpy())
    return _unit(torch.from_numpy(np.asarray(probe.coef_[0], np.float64)), "present")


def regression_direction(codes: Tensor, values: Tensor) -> Tensor:
    r"""The gradient of the least-squares prediction of an attribute from the code, of length 1, float64 `(d,)`.

    .. math:: v \propto \mathrm{Cov}(c)^{+}\, \mathrm{Cov}(c, a)

    Args:
        codes: `(N, d)`.
        values: of the attribute of each image, such as a measured thickness, `(N,)`.

    >>> codes = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    >>> regression_direction(codes, 3 * codes[:, 0] - 4 * codes[:, 1]).round(decimals=3)
    tensor([ 0.6000, -0.8000], dtype=torch.float64)
    """
    codes = _codes(codes)
    a = checks.tensor("values", values).cpu().double()
    if a.shape != (len(codes),) or not bool(a.isfinite().all()):
        raise checks.fail("values", values, f"a finite number for each of {len(codes)} codes")
    centred = codes - codes.mean(0)
    return _unit(torch.linalg.pinv(centred) @ (a - a.mean()), "values")


def orthogonalised(direction: Tensor, others: Sequence[Tensor]) -> Tensor:
    """The part of a direction that is orthogonal to others, of length 1, `(d,)`.

    Moving along it leaves the linear predictions whose gradients the others are (:func:`regression_direction`,
    :func:`probe_direction`) as they were.

    Raises:
        InputError: the direction is a combination of the others.

    >>> orthogonalised(torch.tensor([3.0, 4.0]), [torch.tensor([2.0, 0.0])])
    tensor([0., 1.], dtype=torch.float64)
    """
    v = checks.tensor("direction", direction).cpu().double()
    if v.dim() != 1 or isinstance(others, Tensor) or not others:
        raise checks.fail("others", others, "a list of at least one direction of shape (d,)")
    rows = [checks.tensor("others", each).cpu().double() for each in others]
    if any(row.shape != v.shape for row in rows):
        raise checks.fail("others", [tuple(row.shape) for row in rows], f"directions of shape {tuple(v.shape)}")
    basis = torch.linalg.svd(torch.stack(rows), full_matrices=False)
    spanned = basis.Vh[1e-9 * basis.S.max() < basis.S]
    rest = v - (v @ spanned.T) @ spanned
    if rest.norm() <= 1e-6 * v.norm():
        raise checks.fail("direction", direction, "one that is no combination of the others")
    return rest / rest.norm()


def _codes(value: Tensor) -> Tensor:
    codes = checks.matrix("codes", value).double()
    if len(codes) < 2 or not bool(codes.isfinite().all()):
        raise checks.fail("codes", value, "finite codes of at least 2 images")
    return codes


def _present(value: Tensor, n: int) -> Tensor:
    present = checks.tensor("present", value).cpu()
    if present.dtype != torch.bool or present.shape != (n,):
        raise checks.fail("present", value, f"a boolean for each of {n} codes")
    if bool(present.all()) or not bool(present.any()):
        raise checks.fail("present", value, "some images with the attribute, and some without")
    return present


def _unit(direction: Tensor, argument: str) -> Tensor:
    length = direction.norm()
    if length == 0:
        raise checks.fail(argument, "an attribute that no direction tells", "one that varies with the code")
    return direction / length
