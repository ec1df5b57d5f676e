"""Errors of non-finite numbers and of memory, with the epoch and step where they occurred."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pyro_vae._utils.checks import InputError
from pyro_vae.svi import CompiledSVI, NotFiniteError


@contextmanager
def located(svi: CompiledSVI, location: Callable[[int], str]) -> Iterator[None]:
    """Inside, errors of non-finite numbers or of memory name epoch and step.

    Args:
        svi: whose steps are counted.
        location: the epoch and step of a step by its number.

    Raises:
        FloatingPointError: a loss is not finite, or a distribution refused a value.
        torch.OutOfMemoryError: the device has no room.
    """
    try:
        try:
            yield
        except ValueError:  # the validation of distributions meets a NaN, perhaps one of an earlier step
            svi.check_finite()
            raise
    except NotFiniteError as error:
        raise FloatingPointError(f"the loss is {error.loss} at {location(error.step)}; try a smaller lr") from error
    except ValueError as error:
        if isinstance(error, InputError) or not re.search("satisfy the constraint|within the support", str(error)):
            raise
        reason = str(error).splitlines()[0][:160]
        place = location(svi.steps_taken)
        raise FloatingPointError(f"not a number, or out of range, at {place}; try a smaller lr ({reason})") from error
    except RuntimeError as error:
        if not re.search("out of memory|can't allocate memory", str(error), re.IGNORECASE):
            raise
        reason = " ".join(str(error).split()).split(". ")[0][:160]
        place = location(svi.steps_taken)
        hint = "try a smaller batch_size, or fewer particles"
        raise torch.OutOfMemoryError(f"out of memory at {place}; {hint} ({reason})") from error


def check_finite_loss(loss: float, location: str) -> None:
    """Checks the loss of a pass without steps."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss} at {location}; try a smaller lr")


def check_finite_weights(model: nn.Module, epoch: int) -> None:
    """Checks that weights are finite after an epoch: no loss follows its last step that would show it."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise FloatingPointError(f"{name} is not finite after the last step of epoch {epoch}; try a smaller lr")
