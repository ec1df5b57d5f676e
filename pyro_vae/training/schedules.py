"""Schedules of the learning rate. All are torch's schedulers; those that ask for `steps_per_epoch` count steps."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_vae import part_classes
from pyro_vae._utils import checks
from pyro_vae.parts import Part
from pyro_vae.training.optimizers import described


class Constant:
    """The learning rate stays as it is.

    >>> Constant.kind
    'constant'
    """

    kind = "constant"


class _OfEpochs(LRScheduler):
    """Multiplies the initial rates by `factor` of the epochs done, a fraction that grows with each step."""

    def __init__(self, optimizer: Optimizer, epochs: int, steps_per_epoch: int) -> None:
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        super().__init__(optimizer)

    def factor(self, epoch: float) -> float:
        """The factor of the learning rate of a step that begins after `epoch` epochs, a fraction."""
        raise NotImplementedError

    def get_lr(self) -> list[Any]:
        """The rates of the next step."""
        factor = self.factor(self.last_epoch / self.steps_per_epoch)  # torch's name: here it counts steps
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """The state of the scheduler; the rest are its arguments."""
        return {name: vars(self)[name] for name in ("last_epoch", "_step_count", "base_lrs", "_last_lr")}


class Cosine(_OfEpochs):
    r"""Half a cosine from the learning rate down to a share of it, over all steps; T are the epochs.

    .. math:: \mathrm{lr}_t = \mathrm{lr} \, \big(r + (1 - r) \tfrac12 (1 + \cos(\pi t / T))\big)

    Args:
        optimizer: whose rates move.
        epochs: T, those of the warm-up counted in.
        steps_per_epoch: of the optimizer.
        warmup_epochs: over which the rate rises linearly before; the cosine is over the rest.
        final: the share r.

    Source: Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983
    """

    kind = "cosine"

    def __init__(
        self, optimizer: Optimizer, epochs: int, steps_per_epoch: int, warmup_epochs: float = 0.0, final: float = 0.0
    ) -> None:
        self.warmup_epochs = checks.non_negative("warmup_epochs", warmup_epochs)
        self.final = checks.non_negative("final", final)
        if self.warmup_epochs >= epochs:
            raise checks.fail("warmup_epochs", warmup_epochs, f"less than the {epochs} epochs of the training")
        super().__init__(optimizer, epochs, steps_per_epoch)

    def factor(self, epoch: float) -> float:
        """The share of the learning rate."""
        if epoch < self.warmup_epochs:
            return rise(epoch, self.warmup_epochs, self.steps_per_epoch)
        share = min(1.0, (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * share))


class Step(_OfEpochs):
    """The learning rate is multiplied by `factor` after each `every` epochs.

    Args:
        optimizer: whose rates move.
        epochs: of the training.
        steps_per_epoch: of the optimizer.
        every: epochs between two drops.
        factor: of each drop.
    """

    kind = "step"

    def __init__(
        self, optimizer: Optimizer, epochs: int, steps_per_epoch: int, every: int = 10, factor: float = 0.1
    ) -> None:
        self.every, self.drop = checks.positive_integer("every", every), checks.positive("factor", factor)
        super().__init__(optimizer, epochs, steps_per_epoch)

    def factor(self, epoch: float) -> float:
        """The share of the learning rate."""
        return self.drop ** (int(epoch) // self.every)


class WarmUp(_OfEpochs):
    """The learning rate rises linearly, step by step, and then stays.

    Args:
        optimizer: whose rates move.
        epochs: of the training.
        steps_per_epoch: of the optimizer.
        warmup_epochs: over which it rises.
    """

    kind = "warm-up"

    def __init__(self, optimizer: Optimizer, epochs: int, steps_per_epoch: int, warmup_epochs: float = 1.0) -> None:
        self.warmup_epochs = checks.positive("warmup_epochs", warmup_epochs)
        super().__init__(optimizer, epochs, steps_per_epoch)

    def factor(self, epoch: float) -> float:
        """The share of the learning rate."""
        return rise(epoch, self.warmup_epochs, self.steps_per_epoch)


def rise(epoch: float, warmup_epochs: float, steps_per_epoch: int) -> float:
    """The share of a linear warm-up in the step that begins after so many epochs, 1 in its last step.

    >>> [rise(step / 2, 2, 2) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return min(1.0, (epoch * steps_per_epoch + 1) / (warmup_epochs * steps_per_epoch))


_SUPPLIED = ("epochs", "steps_per_epoch")
_EXPECTED = "a kind with options, a class of torch's schedulers, or a function of the optimizer that makes a scheduler"
Scheduler = str | Mapping[str, Any] | Part | Callable[..., LRScheduler]


class LearningRate:
    """The rates of an optimizer, moved by a schedule.

    A scheduler whose class or function has an argument `steps_per_epoch`, as ours and `OneCycleLR` have, moves with
    each step; others, such as most of torch's, with each epoch. `epochs` is passed if there is such an argument.

    Args:
        optimizer: whose rates move.
        schedule: a kind, a scheduler class, or a function of the optimizer that makes a scheduler.
        epochs, steps_per_epoch: of the training.

    Raises:
        InputError: an unknown kind or option, or something else than a scheduler.

    >>> sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> rate = LearningRate(sgd, {"kind": "step", "every": 1}, epochs=2, steps_per_epoch=2)
    >>> for _ in range(2):
    ...     sgd.step()
    ...     rate.after_step()
    >>> rate.lr
    0.1
    """

    def __init__(self, optimizer: Optimizer, schedule: Scheduler, epochs: int, steps_per_epoch: int) -> None:
        self.optimizer, self._epochs = optimizer, epochs
        self.of_last_step = self.lr
        make = part_classes.resolve("schedule", schedule) if isinstance(schedule, str | Mapping | Part) else schedule
        if not callable(make):
            raise checks.fail("schedule", schedule, _EXPECTED)
        supplied = {"optimizer": optimizer, "epochs": epochs, "steps_per_epoch": steps_per_epoch}
        try:
            names = inspect.signature(make).parameters
            if isinstance(schedule, str | Mapping | Part):
                scheduler = part_classes.construct("schedule", schedule, **supplied)
            else:
                scheduler = make(optimizer, **{name: supplied[name] for name in _SUPPLIED if name in names})
        except checks.InputError:
            raise
        except (TypeError, ValueError) as error:
            expected = f"arguments that it takes ({error}); a function of the optimizer can give it others"
            raise checks.fail("schedule", described(schedule), expected) from error
        self._with_steps = "steps_per_epoch" in names
        self._scheduler = None if isinstance(scheduler, Constant) else scheduler
        if not isinstance(scheduler, LRScheduler | Constant):
            raise checks.fail("schedule", described(scheduler), _EXPECTED)

    @property
    def lr(self) -> float:
        """The learning rate of the first group of parameters."""
        return float(self.optimizer.param_groups[0]["lr"])

    def after_step(self) -> None:
        """Called after a step; its rate is now `of_last_step`."""
        self.of_last_step = self.lr
        if self._with_steps:
            self._move()

    def after_epoch(self, loss: float) -> None:
        """Called after an epoch; the loss, of the held-out images if any, is for `ReduceLROnPlateau`."""
        if not self._with_steps:
            self._move(loss)

    def _move(self, loss: float = math.nan) -> None:
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(loss)
        elif self._scheduler is not None:
            self._scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of the scheduler."""
        return {} if self._scheduler is None else self._scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from the state of a checkpoint.

        Raises:
            InputError: the scheduler, such as `OneCycleLR`, ends after the steps of the earlier number of epochs.
        """
        if self._scheduler is None or not state:
            return
        steps, steps_before = getattr(self._scheduler, "total_steps", None), state.get("total_steps")
        if steps is not None and steps_before is not None and steps != steps_before:
            expected = f"as many as before: {described(self._scheduler)} ends after {steps_before} steps, not {steps}"
            raise checks.fail("epochs", self._epochs, expected)
        self._scheduler.load_state_dict(state)
