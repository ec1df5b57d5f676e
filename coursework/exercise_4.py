"""Exercise 4: find where the mean-field posterior fails.

`python coursework/grade.py 4` grades this file."""

from torch import Tensor

from pyro_vae import VAE


def log_weights(vae: VAE, x: Tensor, k: int) -> Tensor:
    """log p(x|z) + log p(z) - log q(z|x) for k draws of z from q(z|x), for each of N images: shape (k, N)."""
    raise NotImplementedError


def pareto_k(rho: float) -> float:
    """The shape k of the weights for a 2-d normal posterior with correlation rho, under the best diagonal guide.

    The best one in KL(q || p) has the posterior's mean, and variances 1 / (the diagonal of its precision matrix).
    """
    raise NotImplementedError


def distrusted(log_w: Tensor) -> list[int]:
    """The positions of the images, of weights (K, N), whose Pareto k is above the limit for this K."""
    raise NotImplementedError
