"""Exercise 3: posterior collapse. KL and active units come from quadrature and variances of the trained posterior."""

from pathlib import Path

import torch

from pyro_vae import load_data

from .compare import recognise, shaped, tuple_of
from .quadrature import log_ratio_moments
from .submission import AnswerError, Submission
from .training import binary

TRAINING_SECONDS = 300.0


def unit_means(active, noisy, silent, constant):
    """Means (500, d) with so many active dimensions, ones of deviation 0.05, ones that are 0, and ones that are not."""
    draw = torch.Generator().manual_seed(0)
    scales = torch.tensor([0.5] * active + [0.05] * noisy + [0.0] * (silent + constant))
    offsets = torch.tensor([0.0] * (active + noisy + silent) + [3.0] * constant)
    means = torch.randn(500, len(scales), generator=draw) * scales + offsets
    return means[:, torch.randperm(len(scales), generator=draw)]


def units_are_counted(answer):
    """active_units(means) counts the dimensions whose posterior means vary by more than 0.01 over the images"""
    for active, noisy, silent, constant in ((3, 2, 3, 4), (1, 1, 0, 2), (0, 0, 5, 0)):
        means = unit_means(active, noisy, silent, constant)
        counted = float(shaped(answer.active_units(means), (), "active_units"))
        if counted == active:
            continue
        mistakes = {
            "all dimensions are counted": active + noisy + silent + constant,
            "the inactive dimensions are counted": noisy + silent + constant,
            "the standard deviation is compared with 0.01; it must be the variance": active + noisy,
            "the mean square is compared with 0.01; a constant mean is not active": active + constant,
            "dimensions and images are exchanged: the variance must be over the images": int(
                (means.var(1) > 0.01).sum()
            ),
        }
        recognise(mistakes, lambda wrong, counted=counted: counted == wrong)
        raise AnswerError(f"active_units is {counted:.0f}, expected {active}")


def settings(value, name):
    if not isinstance(value, dict):
        raise AnswerError(f"{name} returns {str(value)[:60]!r}, expected a dictionary of arguments of fit")
    return value


def posterior_after(arguments):
    """What `training.train` gives; a failure is the student's."""
    try:
        with Submission(Path(__file__).with_name("training.py"), TRAINING_SECONDS) as training:
            outputs = tuple_of(training.train(arguments), 3, "the training")
    except AnswerError as error:
        raise AnswerError(f"fit with these arguments: {error}") from error
    if not all(bool(part.isfinite().all()) for part in outputs):
        raise AnswerError("fit with these arguments gives a posterior that is not finite")
    return outputs


def collapse_happens(answer):
    """collapsed() gives arguments of fit under which the KL falls below 0.1 nats, while the decoder learns"""
    loc, scale, reconstruction_nats = posterior_after(settings(answer.collapsed(), "collapsed"))
    kl = log_ratio_moments(loc, scale)[0].sum(-1).mean().item()
    if kl >= 0.1:
        raise AnswerError(f"the KL is {kl:.2f} nats per image, expected below 0.1")
    # The best decoder that sees no code has for each pixel its frequency among the training images.
    splits = load_data("digits")
    frequency = binary(splits.train).double().mean(0).clamp(0.005, 0.995)
    x = binary(splits.test).double()
    independent = -(x * frequency.log() + (1 - x) * (1 - frequency).log()).flatten(1).sum(1).mean().item()
    if reconstruction_nats > independent + 1:
        raise AnswerError(
            f"the decoder has not learnt: {reconstruction_nats:.1f} nats per image, and {independent:.1f} for pixels "
            "that are independent; an untrained model is not a collapsed one"
        )


def collapse_is_mended(answer):
    """mended() differs from collapsed() in the beta's warm-up or value only, and keeps at least 2 units active"""
    collapsed, mended = (settings(getattr(answer, name)(), name) for name in ("collapsed", "mended"))
    changed = sorted(
        name for name in {*collapsed, *mended} if str(collapsed.get(name, "")) != str(mended.get(name, ""))
    )
    if others := [name for name in changed if name not in ("beta", "beta_warmup")]:
        raise AnswerError(f"something other than beta and beta_warmup was changed: {', '.join(others)}")
    loc, _, _ = posterior_after(mended)
    active = int((loc.double().var(0, unbiased=False) > 0.01).sum())
    if active < 2:
        raise AnswerError(f"{active} of {loc.shape[1]} units are active, expected at least 2")


CHECKS = ((4, units_are_counted), (3, collapse_happens), (3, collapse_is_mended))
