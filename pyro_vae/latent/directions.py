"""Directions of code space along which an attribute changes: unit vectors by several estimates, and how far to go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_vae._utils import checks

METHODS = ("covariance", "mean-difference", "probe", "regression")


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

    Unlike :func:`mean_difference` it is a gradient: of all directions, the log odds change fastest along it. It may put
    weight on dimensions in which codes hardly vary (:func:`covariance_direction`).

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
    a = _numbers(values, len(codes))
    centred = codes - codes.mean(0)
    return _unit(torch.linalg.pinv(centred) @ (a - a.mean()), "values")


def covariance_direction(codes: Tensor, values: Tensor) -> Tensor:
    r"""How the mean code moves with an attribute: the slope of the regression of the code on it, float64 `(d,)`.

    .. math:: v \propto \mathrm{Cov}(c, a)

    It is :func:`mean_difference` for attributes that are numbers, and the same direction where these are 0 and 1. With
    the covariance of the codes it is made of the gradient w of :func:`regression_direction`,
    :math:`v \propto \mathrm{Cov}(c)\, w`: dimensions in which codes hardly vary, as of a collapsed posterior, have next
    to no weight in it, while the gradient may put nearly all of its weight there, where a decoder does nothing.

    Args:
        codes: `(N, d)`.
        values: of the attribute of each image, such as a measured thickness, `(N,)`.

    Source: Haufe et al., "On the interpretation of weight vectors of linear models in multivariate neuroimaging", 2014,
    https://doi.org/10.1016/j.neuroimage.2013.10.067, who call v a pattern and w a filter.

    >>> codes = torch.tensor([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0], [3.0, 2.0]])
    >>> covariance_direction(codes, torch.tensor([0.0, 0.0, 1.0, 1.0]))
    tensor([1., 0.], dtype=torch.float64)
    """
    codes = _codes(codes)
    a = _numbers(values, len(codes))
    return _unit((codes - codes.mean(0)).T @ (a - a.mean()), "values")


def attribute_direction(codes: Tensor, values: Tensor, method: str = "covariance") -> Tensor:
    """The direction of an attribute by the method of this name, float64 `(d,)`.

    Args:
        codes: `(N, d)`.
        values: of the attribute of each image, `(N,)`: numbers, or whether it has the attribute, boolean. Booleans are
            0 and 1 where a method takes numbers; numbers are cut at their median where it takes two groups.
        method: `covariance` (:func:`covariance_direction`), `mean-difference` (:func:`mean_difference`), `probe`
            (:func:`probe_direction`) or `regression` (:func:`regression_direction`).

    >>> codes = torch.tensor([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0], [3.0, 2.0]])
    >>> attribute_direction(codes, torch.tensor([1.0, 2.0, 3.0, 4.0]), "mean-difference")
    tensor([1., 0.], dtype=torch.float64)
    """
    method = checks.one_of("method", method, METHODS)
    a = checks.tensor("values", values).cpu()
    if method in ("covariance", "regression"):
        return covariance_direction(codes, a) if method == "covariance" else regression_direction(codes, a)
    present = a if a.dtype == torch.bool else a > a.double().median()
    return mean_difference(codes, present) if method == "mean-difference" else probe_direction(codes, present)


def even_amounts(codes: Tensor, direction: Tensor, range_sd: float = 1.0, steps: int = 7) -> Tensor:
    r"""How far to move along a direction, evenly from one side to the other, `(steps,)`.

    .. math:: t_s = r\, \mathrm{sd}(c^\top v)\, \frac{2 s - S - 1}{S - 1}, \qquad s = 1, \dots, S

    Args:
        codes: of images, `(N, d)`, N at least 2.
        direction: v, `(d,)`.
        range_sd: r, the largest amount in standard deviations of the codes' projections.
        steps: S, odd, so that the middle one is 0.

    >>> even_amounts(torch.tensor([[-1.0, 5.0], [0.0, 5.0], [1.0, 5.0]]), torch.tensor([1.0, 0.0]), 2, 5)
    tensor([-2., -1.,  0.,  1.,  2.], dtype=torch.float64)
    """
    c, v = _codes(codes), checks.tensor("direction", direction).cpu().double()
    if v.shape != c.shape[1:]:
        raise checks.fail("direction", direction, f"a direction of shape ({c.shape[1]},), as codes have")
    range_sd, steps = checks.positive("range_sd", range_sd), checks.positive_integer("steps", steps)
    if steps < 3 or steps % 2 == 0:
        raise checks.fail("steps", steps, "an odd number of at least 3, so that the middle one is the image itself")
    sd = (c @ v).std()
    if sd == 0:
        raise checks.fail("direction", "one along which all codes are the same", "one along which codes vary")
    half = steps // 2
    return torch.arange(-half, half + 1, dtype=torch.float64) / half * range_sd * sd


def orthogonalised(direction: Tensor, others: Sequence[Tensor], covariance: Tensor | None = None) -> Tensor:
    r"""A direction made orthogonal to others by the smallest change, of length 1, `(d,)`.

    Moving along it leaves the linear predictions whose gradients the others are (:func:`regression_direction`,
    :func:`probe_direction`) as they were. With W the others in columns,

    .. math:: v' \propto v - S W (W^\top S W)^{+} W^\top v

    Args:
        direction: v, `(d,)`.
        others: gradients of predictions to be left, `(d,)` each.
        covariance: S, of codes, `(d, d)`: the change is then smallest in their standard deviations, so that the
            result remains a direction in which codes vary. By default the identity.

    Raises:
        InputError: the direction is a combination of S times the others.

    >>> orthogonalised(torch.tensor([3.0, 4.0]), [torch.tensor([2.0, 0.0])])
    tensor([0., 1.], dtype=torch.float64)
    """
    v = checks.tensor("direction", direction).cpu().double()
    if v.dim() != 1 or isinstance(others, Tensor) or not others:
        raise checks.fail("others", others, "a list of at least one direction of shape (d,)")
    rows = [checks.tensor("others", each).cpu().double() for each in others]
    if any(row.shape != v.shape for row in rows):
        raise checks.fail("others", [tuple(row.shape) for row in rows], f"directions of shape {tuple(v.shape)}")
    s = (
        torch.eye(len(v), dtype=torch.float64)
        if covariance is None
        else checks.matrix("covariance", covariance).double()
    )
    if s.shape != (len(v), len(v)) or not bool(s.isfinite().all()):
        raise checks.fail("covariance", covariance, f"finite numbers of shape ({len(v)}, {len(v)})")
    w = torch.stack(rows)
    w = w / (w @ s * w).sum(1, keepdim=True).sqrt().clamp(min=torch.finfo(torch.float64).tiny)  # of variance 1
    rest = v - s @ w.T @ (torch.linalg.pinv(w @ s @ w.T, rtol=1e-9, hermitian=True) @ (w @ v))
    if rest.norm() <= 1e-6 * v.norm():
        raise checks.fail("direction", direction, "one that is no combination of the others")
    return rest / rest.norm()


def _codes(value: Tensor) -> Tensor:
    codes = checks.matrix("codes", value).double()
    if len(codes) < 2 or not bool(codes.isfinite().all()):
        raise checks.fail("codes", value, "finite codes of at least 2 images")
    return codes


def _numbers(value: Tensor, n: int) -> Tensor:
    a = checks.tensor("values", value).cpu().double()
    if a.shape != (n,) or not bool(a.isfinite().all()):
        raise checks.fail("values", value, f"a finite number for each of {n} codes")
    return a


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
