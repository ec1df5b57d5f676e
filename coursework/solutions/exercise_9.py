"""Exercise 9, solved."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

Parameters = dict[str, Tensor]


def _identity(matrix: Tensor) -> Tensor:
    """Of as many dimensions as the matrix has columns."""
    return torch.eye(matrix.shape[1], dtype=matrix.dtype)


def _z1_given_x(x: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    prior = p["a"] @ p["a"].T + p["s1"] ** 2 * _identity(p["b"])  # of z1, with z2 integrated out
    covariance = torch.linalg.inv(torch.linalg.inv(prior) + p["b"].T @ p["b"] / p["s2"] ** 2)
    return x @ p["b"] @ covariance / p["s2"] ** 2, covariance


def _z2_given_z1(p: Parameters) -> tuple[Tensor, Tensor]:
    """The matrix that makes the mean of z1, and the covariance."""
    covariance = torch.linalg.inv(_identity(p["a"]) + p["a"].T @ p["a"] / p["s1"] ** 2)
    return covariance @ p["a"].T / p["s1"] ** 2, covariance


def _z2_given_x(x: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    mean_x = p["b"] @ p["a"]  # p(x|z2) = N(b a z2, noise)
    noise = p["s1"] ** 2 * p["b"] @ p["b"].T + p["s2"] ** 2 * _identity(p["b"].T)
    weighted = torch.linalg.solve(noise, mean_x)
    covariance = torch.linalg.inv(_identity(p["a"]) + mean_x.T @ weighted)
    return x @ weighted @ covariance, covariance


def _z1_given_z2_and_x(z2: Tensor, x: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    # p(z1|z2) and the likelihood of x, weighted by their precisions
    precision = _identity(p["b"]) / p["s1"] ** 2 + p["b"].T @ p["b"] / p["s2"] ** 2
    covariance = torch.linalg.inv(precision)
    return (z2 @ p["a"].T / p["s1"] ** 2 + x @ p["b"] / p["s2"] ** 2) @ covariance, covariance


def bottom_up(x: Tensor, p: Parameters) -> None:
    gain, covariance = _z2_given_z1(p)
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", dist.MultivariateNormal(*_z1_given_x(x, p)))
        pyro.sample("z2", dist.MultivariateNormal(z1 @ gain.T, covariance))


def top_down(x: Tensor, p: Parameters) -> None:
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.MultivariateNormal(*_z2_given_x(x, p)))
        pyro.sample("z1", dist.MultivariateNormal(*_z1_given_z2_and_x(z2, x, p)))


def _negative_entropy(covariance: Tensor) -> Tensor:
    return -0.5 * torch.logdet(2 * math.pi * math.e * covariance)


def _expected_log_normal(mean: Tensor, covariance: Tensor, scale: Tensor | float) -> Tensor:
    """E[log N(r; 0, scale^2 I)] for r ~ N(mean, covariance)."""
    squares = (mean**2).sum(-1) + covariance.trace()
    return -0.5 * squares / scale**2 - len(covariance) * math.log(scale * math.sqrt(2 * math.pi))


def kl_per_level(x: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    mean1, covariance1 = _z1_given_x(x, p)
    mean2, covariance2 = _z2_given_x(x, p)
    gain, spread2 = _z2_given_z1(p)
    _, spread1 = _z1_given_z2_and_x(mean2, x, p)
    # z1 - a z2 = (1 - a gain) z1 - a e, with e ~ N(0, spread2)
    off = _identity(p["b"]) - p["a"] @ gain
    covariance = off @ covariance1 @ off.T + p["a"] @ spread2 @ p["a"].T
    log_p1 = _expected_log_normal(mean1 - mean2 @ p["a"].T, covariance, p["s1"])
    log_p2 = _expected_log_normal(mean2, covariance2, 1.0)
    return (
        torch.stack(
            [_negative_entropy(covariance1) - log_p1, _negative_entropy(spread2) - log_p2], -1
        ),
        torch.stack(
            [_negative_entropy(spread1) - log_p1, _negative_entropy(covariance2) - log_p2], -1
        ),
    )
