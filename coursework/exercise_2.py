"""Exercise 2: break the bound.

`python coursework/grade.py 2` grades this file.

The model is linear: z ~ N(0, I), x given z ~ N(w z, sigma^2 I), with w of shape (D, d) and one x of shape (D,). The
guide is q(z|x) = N(loc, diag(scale^2)).
"""

from torch import Tensor


def evidence(w: Tensor, sigma: float, x: Tensor) -> Tensor:
    """log p(x), exactly."""
    raise NotImplementedError


def objective(
    w: Tensor, sigma: float, x: Tensor, loc: Tensor, scale: Tensor, beta: float
) -> Tensor:
    """E_q[log p(x|z)] - beta KL(q || p(z)), exactly: no draws."""
    raise NotImplementedError


def breaking_beta(w: Tensor, sigma: float, x: Tensor) -> tuple[Tensor, Tensor, float]:
    """loc, scale and a beta from 0 to below 1 for which `objective` is above `evidence`."""
    raise NotImplementedError
