"""Losses as Pyro returns them, functions for objectives, and the check that losses are finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pyro_vae.svi.program import as_tensor
from pyro_vae.svi.signature import number_like

CHECKED_EVERY = 200  # steps between checks of losses that stay on the device


class NotFiniteError(FloatingPointError):
    """The loss of a step is NaN or infinite."""

    def __init__(self, loss: float, step: int) -> None:
        super().__init__(f"the loss is {loss} at step {step}")
        self.loss, self.step = loss, step


class FiniteCheck:
    """Checks the losses of steps: at once, or for many of them together, without waiting for the device at each.

    >>> losses = FiniteCheck()
    >>> losses.note(torch.tensor(1.0), step=1)
    >>> losses.note(torch.tensor(torch.nan), step=2)
    >>> losses.check_noted()
    Traceback (most recent call last):
    pyro_vae.svi.losses.NotFiniteError: the loss is nan at step 2
    """

    def __init__(self) -> None:
        self._may_be_infinite = False  # as the loss of the first step was
        self._noted: list[tuple[int, Tensor]] = []

    def check(self, loss: Any, step: int) -> None:
        """Raises :class:`NotFiniteError` if this loss, or the sum of these, is not finite."""
        total = sum(loss) if isinstance(loss, tuple) else loss
        if step == 1:
            self._may_be_infinite = total == math.inf
        if math.isnan(total) or (math.isinf(total) and not self._may_be_infinite):
            raise NotFiniteError(loss, step)

    def note(self, loss: Tensor, step: int) -> None:
        """Checks this loss later."""
        self._noted.append((step, loss))
        if len(self._noted) >= CHECKED_EVERY:
            self.check_noted()

    def check_noted(self) -> None:
        """Waits for the device, and checks the losses that were noted."""
        if not self._noted:
            return
        steps = [step for step, _ in self._noted]
        losses = torch.stack([loss.sum() for _, loss in self._noted]).tolist()
        self._noted.clear()
        for step, loss in zip(steps, losses, strict=True):
            self.check(loss, step)


def number_of(loss: Any) -> Any:
    """A loss as Pyro's SVI returns it: a float, or several, of objectives that have several losses."""
    if isinstance(loss, Tensor) and loss.dim() == 1:
        return tuple(loss.tolist())
    return tuple(map(float, loss)) if isinstance(loss, tuple) else float(loss)


def tensor_of(loss: Any, *arguments: Any) -> Tensor:
    """Pyro's number or numbers as a tensor on the device of the arguments, like the losses of captured steps."""
    if isinstance(loss, (Tensor, tuple)):
        return as_tensor(loss)
    return torch.as_tensor(loss, **number_like(pytree.tree_leaves(arguments)))


class LossFunctions(NamedTuple):
    """An objective whose loss and gradients are functions, as Pyro's SVI allows.

    >>> LossFunctions(lambda model, guide: 1.0, lambda model, guide: 1.0).loss(None, None)
    1.0
    """

    loss: Callable[..., Any]
    loss_and_grads: Callable[..., Any]
