"""Exercise 5: two gradients. Means are quadratures, variances come from 400,000 draws in float64."""

from functools import cache

import torch

from .compare import estimates, near, numbers, recognise, shaped
from .quadrature import normal_points
from .submission import AnswerError
from .worker import quadratic


@cache
def score_variance(dimensions, baseline):
    """The variance of (f(z) - baseline) times the score of N(0, I), averaged over the dimensions."""
    z = torch.randn(400_000, dimensions, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return ((quadratic(z) - baseline)[:, None] * z).var(0).mean()


def per_draw(value, draws, dimensions, name):
    """Gradients (draws, d); says what is wrong with the shape."""
    gradients = numbers(value, name)
    if gradients.shape == (dimensions,):
        raise AnswerError(f"{name} has the shape ({dimensions},): the mean over the draws is taken already")
    return shaped(value, (draws, dimensions), name)


def both_are_unbiased(answer):
    """score_function and reparameterized (f, loc, scale, draws) give single-draw gradients with the right mean"""
    loc, scale, draws = torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([0.5, 1.5, 0.8]), 100_000
    z, weights = normal_points(loc, scale)
    score = (z - loc) / scale**2
    weighted = (weights * quadratic(z))[:, None]
    expected = (weighted * score).sum(0)
    true_error = (((weighted * quadratic(z)[:, None] * score**2).sum(0) - expected**2) / draws).sqrt()
    mistakes = {
        "this is minus the gradient: the sign is flipped": -expected,
        "the gradient is 0 on average: z is detached from loc, or f is left out": 0 * expected,
        "the gradient comes out times scale^2: the score is (z - loc) / scale^2": expected * scale**2,
        "this is the gradient with respect to the noise, or a score divided by scale and not by scale^2": expected
        * scale,
        "this is the gradient with respect to scale, expected loc": (
            weighted * ((z - loc) ** 2 - scale**2) / scale**3
        ).sum(0),
        "this is f(z); it must be multiplied by the score": weighted.sum().expand(3).clone(),
        "the gradients are divided by the number of draws; each draw has its own": expected / draws,
    }
    for name in ("score_function", "reparameterized"):
        gradients = per_draw(getattr(answer, name)(quadratic, loc, scale, draws), draws, 3, name)
        if gradients.std(0).min() == 0 and not near(gradients.mean(0), 0 * expected, 1e-6):
            raise AnswerError(f"{name} gives the same gradient for all draws: is there noise in z?")
        error = gradients.std(0) / draws**0.5
        if bool((error > 3 * true_error).any()):
            raise AnswerError(
                f"{name} scatters {(error / true_error).max():.1f} times as much as the score function does"
            )
        estimates(gradients.mean(0), expected, error.clamp(min=1e-7), mistakes, name)


def reparameterization_is_quieter(answer):
    """the variance of the reparameterized gradient stays the same in 20 dimensions; that of the other does not"""
    loc, scale, draws = torch.zeros(20), torch.ones(20), 20_000
    noisy = score_variance(20, 0.0)  # the gradient of f is 1 - z, of variance 1
    for name, expected, others in (
        ("score_function", noisy, "it has that of the reparameterized gradient"),
        ("reparameterized", torch.tensor(1.0), "it has that of the score function"),
    ):
        gradients = per_draw(getattr(answer, name)(quadratic, loc, scale, draws), draws, 20, name)
        variance = gradients.var(0).mean()
        if not 0.8 < variance / expected < 1.25:
            hint = f"; {others}" if 0.8 < variance * expected / noisy < 1.25 else ""
            raise AnswerError(f"the variance of {name} is {variance:.4g}, expected {expected:.4g}{hint}")


def baseline_helps_without_bias(answer):
    """with_baseline is unbiased for as few as 2 draws at a time, and has less than half the variance"""
    loc, scale, repeats = torch.zeros(5), torch.ones(5), 1500
    few = torch.stack(
        [
            per_draw(answer.with_baseline(quadratic, loc, scale, 2), 2, 5, "with_baseline").mean(0)
            for _ in range(repeats)
        ]
    )
    mean, error = few.mean().reshape(1), few.mean(1).std() / repeats**0.5
    if error == 0 or few.std(0).min() == 0:
        raise AnswerError(
            "with_baseline gives the same gradient at each call: the gradient is 0, or there is no noise in z"
        )
    mistakes = {
        "the baseline is the mean over all draws, and with a draw in its own baseline the gradient is too small": 0.5,
        "the gradient is 0 on average: the baseline must be subtracted from f, before the product with the score": 0.0,
        "this is minus the gradient: the sign is flipped": -1.0,
    }
    estimates(mean, torch.ones(1), error, mistakes, "with_baseline, of 2 draws at a time,")
    if error > 0.2:
        raise AnswerError(f"with_baseline scatters too much for its mean to be seen: {mean.item():.2g} +- {error:.2g}")
    many = per_draw(answer.with_baseline(quadratic, loc, scale, 20_000), 20_000, 5, "with_baseline")
    variance, plain, best = many.var(0).mean(), score_variance(5, 0.0), score_variance(5, -5.0)
    recognise(
        {
            "the variance is that of the score function: there is no baseline": plain,
            "the variance is that of the reparameterized gradient; it must be the score function with a baseline": 1.0,
            "the variance is larger than without a baseline: is it added where it must be subtracted?": score_variance(
                5, 5.0
            ),
        },
        lambda wrong: 0.8 < variance / wrong < 1.25,
    )
    if not 0.5 * best < variance < 0.5 * plain:
        raise AnswerError(
            f"the variance is {variance:.3g}; {plain:.3g} without a baseline, {best:.3g} with the mean of f"
        )


CHECKS = (
    (4, both_are_unbiased),
    (3, reparameterization_is_quieter),
    (3, baseline_helps_without_bias),
)
