"""The state of a training, which checkpoints hold and from which it resumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.infer import ELBO

from pyro_vae._utils import checks
from pyro_vae._utils.rng import generator_states, set_generator_states
from pyro_vae.models import Model
from pyro_vae.parts import Part, kinds
from pyro_vae.training.averaging import WeightAverage
from pyro_vae.training.backend import backend_on
from pyro_vae.training.checkpoint import same_settings
from pyro_vae.training.history import Epoch, History
from pyro_vae.training.schedules import LearningRate
from pyro_vae.training.settings import Settings, settings_as_now


@dataclass
class State:
    """What changes during training, and the settings that must be the same on resuming.

    Args:
        model: on the device.
        optimizer: of its parameters.
        device: whose generators are used.
        settings: of the training.
        described: the settings, the model and the images, as plain values.
        objective: a part, or one of Pyro's objects.
        backend: of the compiled step; `auto` until it is chosen.
        steps_per_epoch: of the optimizer.
        rate: the schedule of the learning rate.
        average: of the weights, if any.
        epochs: so far.
    """

    model: Model
    optimizer: torch.optim.Optimizer
    device: torch.device
    settings: Settings
    described: dict[str, Any]
    objective: Part | ELBO
    backend: str
    steps_per_epoch: int
    rate: LearningRate
    average: WeightAverage | None
    epochs: list[Epoch] = field(default_factory=list)

    @property
    def history(self) -> History:
        """The epochs so far."""
        return History(tuple(self.epochs))

    @contextmanager
    def averaged(self, epochs: int) -> Iterator[None]:
        """Inside, the weights are their moving average after `epochs` epochs, if the training has one."""
        with nullcontext() if self.average is None else self.average.applied(epochs * self.steps_per_epoch):
            yield

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain values, as a checkpoint holds them."""
        return {
            "settings": self.described,
            "backend": self.backend,
            "epochs": [dataclasses.asdict(epoch) for epoch in self.epochs],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.rate.state_dict(),
            "average": [] if self.average is None else self.average.sums,
            "generators": generator_states(self.device),
        }

    def resume(self, stored: dict[str, Any]) -> None:
        """Restores what :meth:`to_dict` returned, and the state of the default generators.

        If the objective or the backend is `auto`, the stored one is used: another backend would round differently.

        Raises:
            InputError: it has other settings, another model, or more epochs.
        """
        before = settings_as_now(stored["settings"])
        if self.settings.objective == "auto" and Part.of(before["objective"]).kind in kinds("objective"):
            self.objective, self.described["objective"] = Part.of(before["objective"]), before["objective"]
        same_settings(before, self.described)
        self.epochs = [Epoch(**epoch) for epoch in stored["epochs"]]
        if len(self.epochs) > self.settings.epochs:
            expected = f"at least {len(self.epochs)}, which the checkpoint has already"
            raise checks.fail("epochs", self.settings.epochs, expected)
        self.rate.load_state_dict(stored.get("schedule", {}))  # which may refuse it
        if self.backend == "auto":
            self.backend = backend_on(self.device, stored.get("backend", "off"))
        try:
            self.model.load_state_dict(stored["model"])
        except RuntimeError as error:
            raise checks.fail("checkpoint", "the state of another model", f"that of this model ({error})") from error
        self.optimizer.load_state_dict(stored["optimizer"])
        if self.average is not None:
            self.average.load(stored["average"])
        set_generator_states(self.device, stored["generators"])
