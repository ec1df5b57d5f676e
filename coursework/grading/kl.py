"""Exercise 1: the Kullback-Leibler divergence of two normals. The right values are Gauss-Hermite quadratures."""

import torch

from .compare import estimates, recognise, same, shaped, tuple_of
from .quadrature import log_ratio_moments
from .submission import AnswerError


def pair(seed, *shape):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw), 0.2 + 1.5 * torch.rand(shape, generator=draw)


def formula_is_right(answer):
    """closed_form(loc, scale) is the KL from N(loc, scale^2) to the standard normal, summed over the last dimension"""
    for shape in ((50, 3), (3,), (2, 5, 4)):
        loc, scale = pair(0, *shape)
        answered = answer.closed_form(loc, scale)
        same(
            answered,
            log_ratio_moments(loc, scale)[0].sum(-1),
            mistakes(loc.double(), scale.double()),
            "closed_form",
        )


def mistakes(m, s):
    kl = log_ratio_moments(m, s)[0]
    half = 0.5 * (m**2 - 1)  # what does not depend on the scale
    return {
        "this is minus the KL: the sign is flipped": -kl.sum(-1),
        "this is twice the KL: the factor 1/2 is missing": 2 * kl.sum(-1),
        "the mean over the dimensions is taken; the KL of independent dimensions is their sum": kl.mean(-1),
        "the sum over the last dimension is missing": kl,
        "the sum is over the pairs as well; each pair has its own KL": kl.sum(),
        "the mean over the pairs is taken; each pair has its own KL": kl.sum(-1).mean(),
        "the sum is over the first dimension, expected the last": kl.sum(0),
        "log(scale) stands where the log-variance belongs": (half + 0.5 * s**2 - 0.5 * s.log()).sum(-1),
        "the scale is used as if it were the variance": (half + 0.5 * s - 0.5 * s.log()).sum(-1),
        "the scale is used as if it were the log-variance": (half + 0.5 * s.exp() - 0.5 * s).sum(-1),
        "scale^2 is used as if it were the scale": (half + 0.5 * s**4 - 2 * s.log()).sum(-1),
        "this is the KL the other way round, from N(0, 1) to N(loc, scale^2)": (
            s.log() + (1 + m**2) / (2 * s**2) - 0.5
        ).sum(-1),
        "the -1 is missing": (kl + 0.5).sum(-1),
        "loc is not squared": (kl - 0.5 * m**2 + 0.5 * m).sum(-1),
        "the term of the log-variance has the wrong sign": (half + 0.5 * s**2 + s.log()).sum(-1),
        "the term of loc is missing": (kl - 0.5 * m**2).sum(-1),
    }


def draws_agree(answer):
    """monte_carlo(loc, scale, draws) estimates it without bias; its standard error is the spread of the estimates"""
    loc, scale, draws, repeats = torch.tensor([0.5, -1.0]), torch.tensor([0.3, 2.0]), 500, 300
    pairs = [tuple_of(answer.monte_carlo(loc, scale, draws), 2, "monte_carlo") for _ in range(repeats)]
    means = torch.stack([shaped(mean, (), "the estimate") for mean, _ in pairs])
    errors = torch.stack([shaped(error, (), "the standard error") for _, error in pairs])
    kl, variance = log_ratio_moments(loc, scale)
    backwards = -(scale.log() + (1 + loc**2) / (2 * scale**2) - 0.5).sum().double()
    spread = means.std()
    if spread == 0:
        raise AnswerError("every call gives the same estimate: nothing is drawn, or a seed is set in the function")
    true_error = (variance.sum() / draws).sqrt()
    if spread > 2 * true_error:
        raise AnswerError(
            f"the estimates scatter by {spread:.2g}, expected {true_error:.2g}: are all {draws} draws used?"
        )
    wrong_means = {
        "the estimate is minus the KL: the sign is flipped": -kl.sum(),
        "the mean over the dimensions is taken; the KL of independent dimensions is their sum": kl.mean(),
        "z is drawn from the prior; the expectation is over q": backwards,
        "the estimate is log q on average; log p is missing": kl.sum() + expected_log_prior(loc, scale),
        "the estimate is -log p on average; log q is missing": -expected_log_prior(loc, scale),
    }
    estimates(means.mean(), kl.sum(), spread / repeats**0.5, wrong_means, "the estimate")
    reported = errors.mean()
    wrong_errors = {
        "the standard deviation of the terms is given; the standard error is that over sqrt(draws)": spread
        * draws**0.5,
        "the variance of the terms is given; the standard error is its root over sqrt(draws)": spread**2 * draws,
        "the square of the standard error is given": spread**2,
        "the standard deviation is divided by draws, expected by sqrt(draws)": spread / draws**0.5,
    }
    if not 0.8 < reported / spread < 1.25:
        recognise(wrong_errors, lambda wrong: 0.8 < reported / wrong < 1.25)
        raise AnswerError(f"the standard error is {reported:.3g}, but the estimates scatter by {spread:.3g}")
    many = shaped(
        tuple_of(answer.monte_carlo(loc, scale, 16 * draws), 2, "monte_carlo")[1],
        (),
        "the standard error",
    )
    if not 3 < reported / many < 5.3:
        raise AnswerError(
            f"16 times the draws make the standard error {reported / many:.2f} times smaller, expected 4 times"
        )


def expected_log_prior(loc, scale):
    return -0.5 * (loc**2 + scale**2 + torch.tensor(2 * torch.pi).log()).sum().double()


def draws_are_enough(answer):
    """draws_needed(loc, scale, error) gives how many draws bring the standard error down to `error`"""
    for loc, scale, error in (
        (torch.tensor([1.0, 0.0, -2.0]), torch.tensor([0.5, 1.5, 1.0]), 0.02),
        (torch.tensor([0.5]), torch.tensor([2.0]), 0.05),
    ):
        needed = float(shaped(answer.draws_needed(loc, scale, error), (), "draws_needed"))
        kl, variance = (moment.sum().item() for moment in log_ratio_moments(loc, scale))
        expected = variance / error**2
        if 0.8 < needed / expected < 1.25:
            continue
        wrong = {
            "this is the variance over the error; the error must be squared": variance / error,
            "this is the standard deviation over the error; both must be squared": variance**0.5 / error,
            "this is the standard deviation over the squared error; it must be the variance": variance**0.5 / error**2,
            "this is the KL over the squared error; it is the variance of the terms that matters": kl / error**2,
            "the part of the variance from loc is missing": (0.5 * (scale.double() ** 2 - 1) ** 2).sum() / error**2,
            "the part of the variance from scale is missing": (loc * scale).double().square().sum() / error**2,
        }
        recognise(wrong, lambda value, needed=needed: abs(needed - value) < 0.05 * abs(value) + 1)
        raise AnswerError(f"draws_needed is {needed:.4g}, expected {expected:.4g} to within 20 %")


CHECKS = ((4, formula_is_right), (3, draws_agree), (3, draws_are_enough))
