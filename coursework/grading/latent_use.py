"""Exercise 7: is the latent used? Integrals over z are quadratures or sums over a grid; the optima are known."""

import math

import torch
from torch.distributions import MultivariateNormal

from .compare import recognise, same, shaped, tuple_of
from .quadrature import log_normal, normal_points
from .submission import AnswerError

COVARIANCES = (((1.0, 0.8), (0.8, 1.0)), ((4.0, -1.2), (-1.2, 0.5)))
PRICE = 1.2  # the beta that breaks the tie between the optima of the full model


def points(covariance, n=400):
    """n points whose mean is 0 and whose covariance is exactly this."""
    draw = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draw = draw - draw.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(draw.T @ draw / n), draw.T, upper=False)
    return (torch.linalg.cholesky(covariance) @ white).T


def pairs():
    """x, w, noise, a and s of pairs that are not at their optimum."""
    draw = torch.Generator().manual_seed(1)
    for covariance in COVARIANCES:
        w, a, root = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((2,), (2,), (2, 2)))
        noise = root @ root.T + 0.3 * torch.eye(2, dtype=torch.float64)
        yield points(torch.tensor(covariance).double()), w, noise, 0.4 * a, torch.tensor(0.6).double()


def log_likelihood(x, w, noise, z):
    """log p(x|z) for x (N, 2), z (M, N): shape (M, N)."""
    return MultivariateNormal(torch.zeros_like(w), noise).log_prob(x - z[..., None] * w)


def integrated(x, w, noise):
    """log p(x), by summing p(x|z) p(z) over a grid."""
    z = torch.linspace(-10, 10, 1001, dtype=torch.float64)[:, None].expand(-1, len(x))
    cell = (z[1, 0] - z[0, 0]).log()
    return (log_likelihood(x, w, noise, z) + log_normal(z, 0.0, 1.0)).logsumexp(0) + cell


def quadratures(x, w, noise, a, s):
    """E_q[log p(x|z)] and KL(q || p(z)) of each point."""
    node, weight = normal_points(torch.zeros(1), torch.ones(1))
    z = x @ a + s * node
    ratio = log_normal(z, x @ a, s) - log_normal(z, 0.0, 1.0)
    return weight @ log_likelihood(x, w, noise, z), weight @ ratio


def terms_are_exact(answer):
    """terms(x, w, noise, a, s) gives E_q[log p(x|z)], the KL and log p(x), each as a mean over the points"""
    for x, w, noise, a, s in pairs():
        returned = tuple_of(answer.terms(x, w, noise, a, s), 3, "terms")
        fits, kls = quadratures(x, w, noise, a, s)
        evidences = integrated(x, w, noise)
        fit, kl, evidence = fits.mean(), kls.mean(), evidences.mean()
        at_mean = log_likelihood(x, w, noise, (x @ a)[None])[0].mean()
        alone = torch.diag(noise.diagonal())
        constant = math.log(2 * math.pi)
        mistakes = (
            {
                "the noise of z is not carried through w: E_q[log p(x|z)] is taken at the mean of z alone": at_mean,
                "the noise of z enters with s, expected s^2": at_mean + (fit - at_mean) / s,
                "the noise of z has the wrong sign": 2 * at_mean - fit,
                "the entries beside the diagonal of `noise` are left out": quadratures(x, w, alone, a, s)[0].mean(),
                "`noise` is used as the standard deviation; it is the covariance": quadratures(
                    x, w, noise @ noise, a, s
                )[0].mean(),
                "the sum over the points is taken, expected the mean": fits.sum(),
                "this is minus E_q[log p(x|z)]": -fit,
                "the constant -log(2 pi) of two coordinates is missing": fit + constant,
                "log det of `noise` is missing": fit + 0.5 * torch.logdet(noise),
                "the mean over the coordinates is taken; log p(x|z) is a sum": fit / 2,
                "this is the ELBO; the KL is a term of its own": fit - kl,
            },
            {
                "this is minus the KL: the sign is flipped": -kl,
                "this is twice the KL: the factor 1/2 is missing": 2 * kl,
                "the sum over the points is taken, expected the mean": kls.sum(),
                "the part of the KL from the mean a . x is missing; each point has its own KL": kl
                - 0.5 * (x @ a).square().mean(),
                "the mean a . x is not squared": kl + (0.5 * (x @ a) - 0.5 * (x @ a) ** 2).mean(),
                "s is used as if it were the variance": (0.5 * ((x @ a) ** 2 + s - 1 - s.log())).mean(),
                "log s stands where log s^2 belongs": kl + 0.5 * s.log(),
                "the -1 is missing": kl + 0.5,
            },
            {
                "the covariance of x is w w^T + noise; w w^T is missing": integrated(x, 0 * w, noise).mean(),
                "the covariance of x is w w^T + noise; it has w . w in place of w w^T": MultivariateNormal(
                    torch.zeros_like(w), (w @ w) * torch.eye(2) + noise
                )
                .log_prob(x)
                .mean(),
                "the entries beside the diagonal of the covariance of x are left out": log_normal(
                    x, 0.0, (w**2 + noise.diagonal()).sqrt()
                )
                .sum(-1)
                .mean(),
                "this is the ELBO; the evidence does not depend on the guide": fit - kl,
                "this is log p(x|z) at the mean of the guide; z must be integrated out": at_mean,
                "this is E_q[log p(x|z)]; z must be integrated out": fit,
                "the sum over the points is taken, expected the mean": evidences.sum(),
                "this is minus log p(x)": -evidence,
            },
        )
        names = ("E_q[log p(x|z)]", "the KL", "log p(x)")
        for value, expected, wrong, name in zip(returned, (fit, kl, evidence), mistakes, names, strict=True):
            same(value, expected, wrong, name, 1e-6)


def used_kl(rho, beta):
    """KL of the factorised model that is best at this beta: in units of variance 1, p(x|z) has the variance noise."""
    noise = (1 - abs(rho)) / (2 - beta)
    return 0.5 * math.log((1 + abs(rho)) / (beta * noise))


def returned_pair(value, full):
    """w, noise, a and s that were returned, if they are a pair of this kind."""
    w, noise, a, s = tuple_of(value, 4, "trained")
    w, noise, a, s = shaped(w, (2,), "w"), shaped(noise, (2, 2), "noise"), shaped(a, (2,), "a"), shaped(s, (), "s")
    if s <= 0:
        raise AnswerError(f"s is {s:.3g}, expected above 0")
    if (noise - noise.T).abs().max() > 1e-6 or torch.linalg.eigvalsh(noise).min() <= 0:
        raise AnswerError(f"noise is {noise.tolist()}, expected a covariance: symmetric, with eigenvalues above 0")
    if not full and noise[0, 1] != 0:
        raise AnswerError(f"noise has {noise[0, 1]:.3g} beside its diagonal, where the model is factorised")
    return w, noise, a, s


def training_reaches_the_optimum(answer):
    """trained(x, full, beta) reaches the highest ELBO at beta 1; at beta 1.2 the full model ignores z, the other not"""
    for covariance in map(torch.tensor, COVARIANCES):
        covariance = covariance.double()
        x = points(covariance)
        rho = (covariance[0, 1] / covariance.diagonal().prod().sqrt()).item()
        highest = -0.5 * torch.logdet(2 * math.pi * math.e * covariance)  # the mean of log p(x) under the best normal
        for full, beta in ((True, 1.0), (False, 1.0), (True, PRICE), (False, PRICE)):
            kind = f"the {'full' if full else 'factorised'} model at beta {beta}"
            w, noise, a, s = returned_pair(answer.trained(x, full, beta), full)
            fit, kl = (term.mean() for term in quadratures(x, w, noise, a, s))
            if beta == 1 and highest - (fit - kl) > 0.01:
                raise AnswerError(
                    f"{kind} has an ELBO of {fit - kl:.3f} nats per point after training, expected {highest:.3f}"
                )
            if beta == 1:
                continue
            best = 0.0 if full else used_kl(rho, beta)
            wrong = used_kl(rho, 1.0)
            if abs(kl - best) > 0.02:
                recognise(
                    {
                        f"{kind} has the KL of beta 1: beta is left out": 0.0 if full else wrong,
                        f"{kind} has the KL of the factorised model: is its noise free beside the diagonal?": used_kl(
                            rho, beta
                        ),
                    },
                    lambda value, kl=kl: abs(kl - value) < 0.02,
                )
                raise AnswerError(f"{kind} has a KL of {kl:.3f} nats after training, expected {best:.3f}")


def smallest_kl_is_right(answer):
    """smallest_kl(rho, full) is the smallest KL of a pair whose ELBO is as high as that of the best density"""
    for rho in (0.8, -0.5, 0.0):
        for full in (True, False):
            factorised = used_kl(rho, 1.0)
            expected = 0.0 if full else factorised
            value = answer.smallest_kl(rho, full)
            if isinstance(value, float) and math.isinf(value):
                raise AnswerError("smallest_kl is infinite: neither coordinate has to be known exactly from z")
            mistakes = {
                "a full model can have the density of x without z: its smallest KL is 0": factorised,
                "this is the mutual information of the two coordinates: z must carry at least that, and more": -0.5
                * math.log(1 - rho**2),
                "the factor 1/2 is missing": 2 * factorised,
                "this is minus the KL": -factorised,
                "this is in bits, expected nats": factorised / math.log(2),
                "without a KL the two coordinates of a factorised model are independent; those of x are not": 0.0,
            }
            wrong = {words: torch.tensor(number).double() for words, number in mistakes.items()}
            same(value, torch.tensor(expected).double(), wrong, f"smallest_kl({rho}, {full})", 1e-3)


CHECKS = ((4, terms_are_exact), (3, training_reaches_the_optimum), (3, smallest_kl_is_right))
