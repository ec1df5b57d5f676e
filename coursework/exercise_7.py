"""Exercise 7: is the latent used?

`python coursework/grade.py 7` grades this file.

Points x in the plane, with mean 0. The model is z ~ N(0, 1), x given z ~ N(w z, noise), with w of shape (2,) and a
covariance `noise` of shape (2, 2): any covariance in a *full* model, a diagonal one in a *factorised* model. The guide
is q(z|x) = N(a . x, s^2), with a of shape (2,) and a number s.
"""

from torch import Tensor


def terms(
    x: Tensor, w: Tensor, noise: Tensor, a: Tensor, s: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """E_q[log p(x|z)], KL(q || p(z)) and log p(x), exactly, each as a mean over the points x (N, 2)."""
    raise NotImplementedError


def trained(x: Tensor, full: bool, beta: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """w, noise, a and s that maximise E_q[log p(x|z)] - beta KL over the points; noise is diagonal unless `full`."""
    raise NotImplementedError


def smallest_kl(rho: float, full: bool) -> float:
    """The smallest KL, in nats, of a pair whose ELBO is E[log p(x)] for normal x with correlation rho."""
    raise NotImplementedError
