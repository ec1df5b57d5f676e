"""Exercise 2: break the bound. The right values are integrals over a grid of z, and Gauss-Hermite quadratures."""

import math

import torch

from .compare import same, shaped, tuple_of
from .quadrature import log_normal, normal_points, square_grid
from .submission import AnswerError


def linear_model(seed):
    """W (5, 2), the noise's deviation, and one x of the linear model p(z) = N(0, I), p(x|z) = N(W z, sigma^2 I)."""
    draw = torch.Generator().manual_seed(seed)
    w = torch.randn(5, 2, generator=draw, dtype=torch.float64)
    return w, 0.7, w @ torch.randn(2, generator=draw, dtype=torch.float64) + 0.5


def log_likelihood(w, sigma, x, z):
    """log p(x|z) for z (M, 2)."""
    return log_normal(x, z @ w.T, sigma).sum(-1)


def integrated(w, sigma, x):
    """log p(x), by summing p(x|z) p(z) over a grid."""
    z, log_cell = square_grid()
    return (log_likelihood(w, sigma, x, z) + log_normal(z, 0.0, 1.0).sum(-1)).logsumexp(0) + log_cell


def terms(w, sigma, x, loc, scale):
    """E_q[log p(x|z)] and KL(q || p(z))."""
    z, weights = normal_points(loc, scale)
    kl = log_normal(z, loc, scale).sum(-1) - log_normal(z, 0.0, 1.0).sum(-1)
    return (log_likelihood(w, sigma, x, z) * weights).sum(), (kl * weights).sum()


def normal_log_density(x, covariance):
    half = torch.linalg.solve(covariance, x) @ x + torch.linalg.slogdet(covariance).logabsdet
    return -0.5 * (half + len(x) * math.log(2 * math.pi))


def evidence_is_exact(answer):
    """evidence(w, sigma, x) is log p(x) of the linear model"""
    for seed in range(3):
        w, sigma, x = linear_model(seed)
        expected, identity = integrated(w, sigma, x), torch.eye(5, dtype=torch.float64)
        best = torch.linalg.solve(w.T @ w + sigma**2 * torch.eye(2, dtype=torch.float64), w.T @ x)
        at_best = log_likelihood(w, sigma, x, best[None])[0]
        mistakes = {
            "this is minus log p(x)": -expected,
            "this is p(x), expected its logarithm": expected.exp(),
            "the covariance has sigma where sigma^2 belongs": normal_log_density(x, w @ w.T + sigma * identity),
            "the covariance of x is W W^T + sigma^2 I; W W^T is missing": normal_log_density(x, sigma**2 * identity),
            "the constant -D/2 log(2 pi) is missing": expected + 2.5 * math.log(2 * math.pi),
            "log det of the covariance is missing": expected
            + 0.5 * torch.linalg.slogdet(w @ w.T + sigma**2 * identity).logabsdet,
            "this is log p(x|z) at the posterior's mean; z must be integrated out": at_best,
            "this is log p(x, z) at the posterior's mean; z must be integrated out": at_best
            + log_normal(best, 0.0, 1.0).sum(),
            "x is taken to have independent coordinates; the covariance has entries beside its diagonal": log_normal(
                x, 0.0, (w.square().sum(1) + sigma**2).sqrt()
            ).sum(),
        }
        same(answer.evidence(w, sigma, x), expected, mistakes, "evidence", 1e-6)


def objective_is_exact(answer):
    """objective(w, sigma, x, loc, scale, beta) is E_q[log p(x|z)] - beta KL(q || p(z)), without draws"""
    for seed, beta in ((0, 0.3), (1, 1.0), (2, 4.0)):
        w, sigma, x = linear_model(seed)
        loc, scale = torch.tensor([0.4, -1.2]).double(), torch.tensor([0.3, 1.6]).double()
        fit, kl = terms(w, sigma, x, loc, scale)
        at_mean = log_likelihood(w, sigma, x, loc[None])[0]
        spread = 0.5 * (w**2 @ scale**2).sum() / sigma**2  # at_mean - fit
        mistakes = {
            "this is minus the objective, the loss": -(fit - beta * kl),
            "the KL is added; it must be subtracted": fit + beta * kl,
            "beta is left out": fit - kl,
            "beta weighs the reconstruction; it must weigh the KL": beta * fit - kl,
            "beta weighs both terms; it must weigh the KL alone": beta * (fit - kl),
            "the KL is left out": fit,
            "E ||x - W z||^2 also has the noise of z, carried through W; only its mean is used": at_mean - beta * kl,
            "the noise of z is not carried through W": at_mean - 0.5 * scale.square().sum() / sigma**2 - beta * kl,
            "the noise of z comes in with scale, expected scale^2": at_mean
            - 0.5 * (w**2 @ scale).sum() / sigma**2
            - beta * kl,
            "the noise of z has the wrong sign": at_mean + spread - beta * kl,
            "the constant -D/2 log(2 pi sigma^2) is missing": fit + 2.5 * math.log(2 * math.pi * sigma**2) - beta * kl,
            "the squares are divided by sigma, expected by sigma^2": (fit + 2.5 * math.log(2 * math.pi * sigma**2))
            * sigma
            - 2.5 * math.log(2 * math.pi * sigma**2)
            - beta * kl,
            "the KL is twice what it should be: the factor 1/2 is missing": fit - 2 * beta * kl,
            "the mean over the dimensions of the KL is taken; it is a sum": fit - beta * kl / 2,
            "the mean over the pixels is taken; log p(x|z) is a sum": fit / len(x) - beta * kl,
        }
        same(
            answer.objective(w, sigma, x, loc, scale, beta),
            fit - beta * kl,
            mistakes,
            "objective",
            1e-6,
        )


def bound_is_broken(answer):
    """breaking_beta(w, sigma, x) gives loc, scale and beta for which the objective is above the evidence"""
    for seed in range(3):
        w, sigma, x = linear_model(seed)
        loc, scale, beta = tuple_of(answer.breaking_beta(w, sigma, x), 3, "breaking_beta")
        loc, scale, beta = (
            shaped(loc, (2,), "loc"),
            shaped(scale, (2,), "scale"),
            shaped(beta, (), "beta"),
        )
        if not 0 <= beta < 1:
            raise AnswerError(f"beta is {beta:.4g}, expected from 0 to below 1")
        if not bool((scale > 0).all()):
            raise AnswerError(f"scale is {scale.tolist()}, expected above 0: N(loc, 0) has no density")
        fit, kl = terms(w, sigma, x, loc, scale)
        missing = integrated(w, sigma, x) - (fit - beta * kl)
        if missing >= 0:
            raise AnswerError(
                f"for W, x number {seed} the objective is {missing:.3g} nats below the evidence, expected above"
            )


CHECKS = ((3, evidence_is_exact), (4, objective_is_exact), (3, bound_is_broken))
