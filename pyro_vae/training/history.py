"""The history of a training, epoch by epoch."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from dataclasses import dataclass
from typing import Any

from pyro_vae._utils import checks, files
from pyro_vae._utils.progress import duration
from pyro_vae.objectives import Losses


@dataclass(frozen=True)
class Epoch:
    """One line of a `History`; losses and their parts in nats per image, parts at beta = 1.

    `loss = reconstruction + beta * kl` for the ELBO (up to the noise of one sample of the KL term where the loss has it
    in closed form); the importance-weighted loss is lower than its parts. A model may add terms of its own to its loss,
    such as a discriminator's, a classification loss, or a codebook's penalty. `reconstruction` is -E[log p(x|z)].
    """

    epoch: int
    beta: float
    train_loss_nats: float
    train_reconstruction_nats: float
    train_kl_nats: float
    validation_loss_nats: float | None
    validation_reconstruction_nats: float | None
    validation_kl_nats: float | None
    seconds: float
    images_per_second: float
    lr: float | None = None


@dataclass(frozen=True)
class History:
    """The measurements of :func:`fit`, an `Epoch` per pass."""

    epochs: tuple[Epoch, ...] = ()

    def column(self, name: str) -> list[Any]:
        """One quantity over all epochs."""
        checks.one_of("column", name, (field.name for field in dataclasses.fields(Epoch)))
        return [getattr(epoch, name) for epoch in self.epochs]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes a row per epoch; what was not measured is an empty cell."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, [field.name for field in dataclasses.fields(Epoch)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(epoch) for epoch in self.epochs)
        files.write(checks.path("path", path), buffer.getvalue())

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str]) -> History:
        """Reads what :meth:`to_csv` wrote."""
        path = checks.path("path", path)
        try:
            with open(path, newline="", encoding="utf-8") as file:
                return cls(tuple(_epoch_from_text(row) for row in csv.DictReader(file)))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise checks.fail("history", str(path), f"a history.csv that a training wrote ({error})") from error


def _epoch_from_text(row: dict[str, str]) -> Epoch:
    numbers: dict[str, Any] = {name: float(text) if text else None for name, text in row.items() if name != "epoch"}
    return Epoch(epoch=int(row["epoch"]), **numbers)


def epoch_of(
    number: int, beta: float, lr: float, train: Losses, validation: Losses | None, seconds: float, num_images: int
) -> Epoch:
    held_out = (None, None, None) if validation is None else validation
    return Epoch(
        epoch=number,
        beta=beta,
        train_loss_nats=train.loss,
        train_reconstruction_nats=train.reconstruction,
        train_kl_nats=train.kl,
        validation_loss_nats=held_out[0],
        validation_reconstruction_nats=held_out[1],
        validation_kl_nats=held_out[2],
        seconds=seconds,
        images_per_second=num_images / seconds,
        lr=lr,
    )


def epoch_line(epoch: Epoch, epochs: int, left: str) -> str:
    """The line of an epoch in a log."""
    return f"epoch {epoch.epoch} of {epochs}: {summary(epoch)}; {duration(epoch.seconds)}, {left}"


def summary(epoch: Epoch) -> str:
    parts = f"reconstruction {epoch.train_reconstruction_nats:.2f}, KL {epoch.train_kl_nats:.2f}"
    text = f"{epoch.train_loss_nats:.2f} nats ({parts})"
    return text if epoch.validation_loss_nats is None else f"{text}, validation {epoch.validation_loss_nats:.2f}"
