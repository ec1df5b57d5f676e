"""Exercise 7, solved."""

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal


def terms(
    x: Tensor, w: Tensor, noise: Tensor, a: Tensor, s: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    loc, zero = x @ a, torch.zeros_like(w)
    at_mean = MultivariateNormal(zero, noise).log_prob(x - loc[:, None] * w).mean()
    reconstruction = at_mean - 0.5 * s**2 * (w @ torch.linalg.solve(noise, w))  # the noise of z
    kl = (0.5 * (loc**2 + s**2 - 1) - s.log()).mean()
    evidence = MultivariateNormal(zero, torch.outer(w, w) + noise).log_prob(x).mean()
    return reconstruction, kl, evidence


def trained(x: Tensor, full: bool, beta: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    w, a = (0.3 * torch.randn(2, dtype=x.dtype)).requires_grad_(), torch.zeros_like(x[0])
    log_diagonal, below, log_s = torch.zeros_like(a), torch.zeros_like(a[0]), torch.zeros_like(a[0])
    parameters = [w, a, log_diagonal, log_s, *([below] if full else [])]

    def pair():
        corner = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=x.dtype)
        root = torch.diag(log_diagonal.exp()) + below * corner
        return w, root @ root.T, a, log_s.exp()

    def loss():
        optimizer.zero_grad()
        reconstruction, kl, _ = terms(x, *pair())
        value = beta * kl - reconstruction
        value.backward()
        return value

    # Nothing is drawn, so that a quasi-Newton method can be used.
    optimizer = torch.optim.LBFGS(
        [parameter.requires_grad_() for parameter in parameters],
        max_iter=300,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(loss)
    return tuple(part.detach() for part in pair())


def smallest_kl(rho: float, full: bool) -> float:
    # Both coordinates, scaled to variance 1, get sqrt(|rho|) z and independent noise of variance 1 - |rho|.
    return 0.0 if full else 0.5 * math.log((1 + abs(rho)) / (1 - abs(rho)))
