"""Exercise 2, solved."""

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal


def evidence(w: Tensor, sigma: float, x: Tensor) -> Tensor:
    covariance = w @ w.T + sigma**2 * torch.eye(len(x), dtype=x.dtype)
    return MultivariateNormal(torch.zeros_like(x), covariance).log_prob(x)


def objective(
    w: Tensor, sigma: float, x: Tensor, loc: Tensor, scale: Tensor, beta: float
) -> Tensor:
    # E ||x - w z||^2 = ||x - w loc||^2 + the noise of z, carried through w
    squares = (x - w @ loc).square().sum() + (w**2 @ scale**2).sum()
    reconstruction = -0.5 * squares / sigma**2 - 0.5 * len(x) * math.log(2 * math.pi * sigma**2)
    kl = 0.5 * (loc**2 + scale**2 - 1 - (scale**2).log()).sum()
    return reconstruction - beta * kl


def breaking_beta(w: Tensor, sigma: float, x: Tensor) -> tuple[Tensor, Tensor, float]:
    # At beta = 0 nothing is paid for the code: the least-squares z, and no noise.
    loc = torch.linalg.lstsq(w, x[:, None]).solution[:, 0]
    return loc, torch.full_like(loc, 1e-3), 0.0
