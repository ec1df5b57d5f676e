"""Exercise 4: where the mean-field posterior fails. Evidence and ELBO of a small VAE are integrals over a grid of z."""

import math
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch.nn.functional import softplus

from pyro_vae import load_data, save

from .compare import estimates, numbers, recognise, shaped
from .quadrature import log_normal, square_grid
from .submission import AnswerError
from .training import binary, trained

IMAGES, DRAWS = 10, 4000


@cache
def small_vae():
    """A VAE with 2 latent dimensions, and 10 binary images."""
    return trained({"epochs": 5}, latent_dim=2), binary(load_data("digits").test.take(slice(0, IMAGES)))


@cache
def on_a_grid():
    """log p(x|z), log p(z), log q(z|x), each (M, N), and the log of a cell's area."""
    vae, x = small_vae()
    z, log_cell = square_grid()
    with torch.no_grad():
        logits = vae.decoder(z.float()).flatten(1).double()
        q = vae.encode(x)
        likelihood = logits @ x.flatten(1).double().T - softplus(logits).sum(1, keepdim=True)
        posterior = log_normal(z[:, None], q.mean, q.stddev).sum(-1)
    prior = log_normal(z, 0.0, 1.0).sum(-1, keepdim=True).expand_as(posterior)
    return likelihood, prior, posterior, log_cell


def weights_are_right(answer):
    """log_weights(vae, x, k) has shape (k, N); the log of its mean is log p(x), its mean the ELBO"""
    vae, x = small_vae()
    likelihood, prior, posterior, log_cell = on_a_grid()
    with tempfile.TemporaryDirectory() as folder:
        save(vae, path := Path(folder) / "vae.safetensors")
        weights = numbers(answer.log_weights(path, x, DRAWS), "log_weights")
    if weights.shape == (IMAGES,):
        raise AnswerError(f"log_weights has the shape ({IMAGES},): the mean over the draws is taken already")
    if weights.shape == (IMAGES, DRAWS):
        raise AnswerError("log_weights has the shape (N, k), expected (k, N)")
    if weights.shape == (DRAWS, IMAGES, 2):
        raise AnswerError("log_weights has a value per latent dimension; log p(z) and log q(z|x) are sums over these")
    weights = shaped(weights, (DRAWS, IMAGES), "log_weights")
    if weights.std(0).min() == 0:
        raise AnswerError("all draws have the same weight: z must be drawn k times for each image")
    q, p = (posterior + log_cell).exp(), (prior + log_cell).exp()

    def average(values, density=q):
        return (density * values).sum(0)

    log_w = likelihood + prior - posterior
    pixels = x[0].numel()
    mistakes = {
        "log p(z) is missing": average(likelihood - posterior),
        "log q(z|x) is missing": average(likelihood + prior),
        "log q(z|x) is added; it must be subtracted": average(likelihood + prior + posterior),
        "log p(z) is subtracted; it must be added": average(likelihood - prior - posterior),
        "this is log p(x|z); log p(z) - log q(z|x) is missing": average(likelihood),
        "log p(x|z) is missing": average(prior - posterior),
        "the mean over the pixels is taken; log p(x|z) is a sum": average(likelihood / pixels + prior - posterior),
        "these are minus the log-weights": -average(log_w),
        "z is drawn from the prior; it must come from q(z|x)": average(log_w, p),
        "z is drawn from the prior, and then log p(x|z) is the whole weight: the draws must come from q(z|x)": average(
            likelihood, p
        ),
        "these are the weights, expected their logarithms": average(log_w.exp()),
    }
    error = weights.std(0) / DRAWS**0.5
    estimates(weights.mean(0), average(log_w), error, mistakes, "the mean log-weight")
    ratio = weights.var(0) / (average(log_w**2) - average(log_w) ** 2)
    if not bool(((ratio > 0.6) & (ratio < 1.6)).all()):
        raise AnswerError("the log-weights have the right mean, but not the right spread: are all k draws independent?")
    evidence = (likelihood + prior).logsumexp(0) + log_cell
    second = (2 * log_w + posterior).logsumexp(0) + log_cell - 2 * evidence
    error = ((second.exp() - 1) / DRAWS).sqrt()  # the delta method
    believable = error < 0.05
    log_mean = weights.logsumexp(0) - math.log(DRAWS)
    estimates(
        log_mean[believable],
        evidence[believable],
        error[believable],
        {},
        "the log of the mean weight",
    )


def shape_is_known(answer):
    """pareto_k(rho) is the shape for the best mean-field guide of a 2-d normal posterior with correlation rho"""
    for rho in (-0.8, 0.3, 0.6):
        precision = torch.linalg.inv(torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64))
        scale = precision.diagonal().rsqrt()  # of the best guide
        # log w = z' (I - P) z / 2 with z ~ N(0, I), P the precision in units of the guide. Along an eigenvector with
        # eigenvalue c > 0, P(w > t) = P(z^2 > 2 log(t) / c) falls as t^(-1/c), up to a logarithm: the shape is c.
        expected = torch.linalg.eigvalsh(torch.eye(2) - scale[:, None] * precision * scale).max().item()
        shape = float(shaped(answer.pareto_k(rho), (), "pareto_k"))
        if abs(shape - expected) < 0.15:  # an estimate from draws is an answer, too
            continue
        mistakes = {
            "this is the correlation itself; the shape is not negative when rho is": rho,
            "this is rho^2, what the guide's variance lacks; look along the direction with the worst ratio": rho**2,
            "this is the smallest eigenvalue of the ratio; the shape is 1 minus it": 1 - abs(rho),
            "this is 1 - rho^2, the guide's variance": 1 - rho**2,
            "this is half of the shape": abs(rho) / 2,
            "this is minus the shape": -abs(rho),
            "this is for a guide with the posterior's variances": abs(rho) / (1 + abs(rho)),
        }
        recognise(mistakes, lambda wrong, shape=shape: abs(shape - wrong) < 0.01)
        raise AnswerError(f"pareto_k({rho}) is {shape:.3g}, expected {expected:.3g} to within 0.15")


def tails(shapes, draws):
    """Log-weights (draws, N), the quantiles of k Exponential(1), in an order of their own for each image."""
    quantiles = -torch.log1p(-(torch.arange(draws, dtype=torch.float64) + 0.5) / draws)
    order = torch.Generator().manual_seed(0)
    return torch.stack([k * quantiles[torch.randperm(draws, generator=order)] for k in shapes], 1)


def failures_are_found(answer):
    """distrusted(log_weights) gives the positions of the images whose Pareto k is above the limit for this K"""
    # The limits are 0.7, and 1 - 1 / log10(200) = 0.565.
    for shapes, draws, limit in (
        ((0.1, 1.2, 0.6, 1.0, 0.2, 1.5), 4000, 0.7),
        ((0.3, 0.64, 1.2, 0.1), 200, 0.565),
    ):
        positions = answer.distrusted(tails(shapes, draws))
        positions = sorted(numbers(positions, "distrusted").flatten().tolist())
        everything = range(len(shapes))
        expected = [i for i in everything if shapes[i] > limit]
        if positions == expected:
            continue
        mistakes = {
            "these are the trusted images": [i for i in everything if shapes[i] <= limit],
            "the limit is 0.7 here, whatever K; it is min(1 - 1/log10 K, 0.7)": [
                i for i in everything if shapes[i] > 0.7
            ],
            "the limit is 0.5 here; it is min(1 - 1/log10 K, 0.7)": [i for i in everything if shapes[i] > 0.5],
            "the limit is 1 here; it is min(1 - 1/log10 K, 0.7)": [i for i in everything if shapes[i] > 1.001],
            "no image is returned; is -log w given where log w is expected?": [],
            "all images are returned": list(everything),
        }
        recognise(mistakes, lambda wrong, positions=positions: positions == wrong)
        raise AnswerError(f"distrusted gives {positions[:10]}, expected {expected} at K = {draws}")


CHECKS = ((4, weights_are_right), (3, shape_is_known), (3, failures_are_found))
