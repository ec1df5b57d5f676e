"""Trained runs, and what the pictures of them share: checks of the images, choices of images, codes and samples."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae import latent
from pyro_vae._utils import checks
from pyro_vae.data import Images
from pyro_vae.data.images import class_name
from pyro_vae.latent.encode import labels_of_samples
from pyro_vae.models import Model
from pyro_vae.models.base import batch_arguments, check_fits, conditioned_batches, evaluating
from pyro_vae.models.weights import load
from pyro_vae.programs.densities import has_parts
from pyro_vae.spec import Spec
from pyro_vae.training.history import History

_SNAPSHOT = re.compile(r"epoch-(\d+)\.safetensors")


@dataclass(frozen=True)
class Fitted:
    """A trained model, its training history, and files of its weights after earlier epochs."""

    model: Model
    history: History = History()
    snapshots: Mapping[int, Path] = field(default_factory=dict)

    @property
    def spec(self) -> Spec | None:
        """The spec that :func:`pyro_vae.build` built the model from."""
        return self.model.spec

    @property
    def last_epoch(self) -> int | None:
        """The number of epochs that `model` was trained for, or None where it is not known."""
        return len(self.history.epochs) or (self.spec.epochs if self.spec else None)

    @property
    def epochs(self) -> list[int]:
        """The epochs after which the weights are known: those with a snapshot, and the last."""
        return sorted({*self.snapshots, *([self.last_epoch] if self.last_epoch else [])})

    def at(self, epoch: int) -> Model:
        """The model after an epoch; the last one needs no snapshot.

        Raises:
            InputError: there is no snapshot of that epoch.
        """
        if epoch == self.last_epoch:
            return self.model
        if epoch not in self.snapshots:
            known = self.epochs
            raise checks.fail("epochs", epoch, f"epochs with a snapshot: {', '.join(map(str, known)) or 'none'}")
        return load(self.snapshots[epoch], copy.deepcopy(self.model)).eval()


Runs = Mapping[str, Fitted]


def open_run(
    folder: str | os.PathLike[str], device: str | torch.device = "cpu", *, trust: bool | Spec = False
) -> Fitted:
    """The run in a folder: its weights, `history.csv`, and snapshots such as `snapshots/epoch-00005.safetensors`.

    Code that its spec names is imported only if `trust` is True, or a `Spec` that names it too.
    """
    folder = checks.path("folder", folder)
    matches = {path: _SNAPSHOT.fullmatch(path.name) for path in (folder / "snapshots").glob("*")}
    snapshots = {int(name[1]): path for path, name in matches.items() if name}
    model = load(folder, trust=trust).to(device).eval()
    return Fitted(model, History.from_csv(folder / "history.csv"), dict(sorted(snapshots.items())))


def check_runs(runs: Runs) -> None:
    """Raises unless there is at least one run."""
    if not runs:
        raise checks.fail("runs", list(runs), "at least one run")


def models_of(runs: Runs, images: Images) -> dict[str, Model]:
    """The models by name, after a check that each takes the images."""
    check_runs(runs)
    for run in runs.values():
        check_fits(run.model, images)
    return {name: run.model for name, run in runs.items()}


def choose(images: Images, n: int, per_class: int | None, seed: int) -> Images:
    """n images at random; or `per_class` of each class, sorted by class."""
    if per_class is None:
        return images.draw(n, seed)
    checks.positive_integer("per_class", per_class)
    labels = labels_of(images, "per_class", per_class)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    chosen = [order[labels[order] == label][:per_class] for label in labels[labels >= 0].unique()]
    return images.take(torch.cat(chosen))


def labels_of(images: Images, argument: str, value: object) -> Tensor:
    """The labels of the images; without labels, an error that names `argument`, which needs them."""
    if images.labels is None or not bool((images.labels >= 0).any()):
        raise checks.fail(argument, value, f"images with labels, which {images.name} lacks")
    return images.labels.cpu()


def classes_of(images: Images) -> list[str]:
    """The name of the class of each image."""
    labels = labels_of(images, "images", images.name).tolist()
    return [class_name(label, images.class_names) for label in labels]


def two_of(images: Images, seed: int) -> tuple[int, int]:
    """The indices of two images at random, of different classes if there are any."""
    if len(images) < 2:
        raise checks.fail("images", len(images), "at least 2 images")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    labels = None if images.labels is None else images.labels.tolist()
    others = [index for index in order[1:] if labels is None or labels[index] != labels[order[0]]]
    return order[0], (others or order[1:])[0]


def at(images: Images, index: int) -> slice:
    """The slice of a single image, for :meth:`Images.take`."""
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(images):
        raise checks.fail("index", index, f"a whole number from 0 to {len(images) - 1}")
    return slice(index, index + 1)


def device_of(model: Model) -> torch.device:
    """The device of a model's weights."""
    return next(model.parameters()).device


def reconstruct(model: Model, images: Images) -> Tensor:
    """The means of p(x|z) at the codes of all images, `(N, C, H, W)`, given their labels and covariates."""
    if batch_arguments(model, images) or not has_parts(model):
        with evaluating(model):
            batches = conditioned_batches(model, images, 500, device_of(model))
            return torch.cat([densities.reconstruct(x).cpu() for x, densities in batches])
    return latent.decode_codes(model, latent.codes(model, images, device=device_of(model)))


def sample(model: Model, n: int, seed: int, images: Images) -> Tensor:
    """Decoded samples from the prior, `(n, C, H, W)`; of a model that needs labels, given those of the images."""
    labels = labels_of_samples(model, images, n)
    return latent.prior_samples(model, n, labels=labels, device=device_of(model), seed=seed)


def plane(model: Model, images: Images) -> latent.Plane:
    """The codes of the images in two dimensions."""
    return latent.to_plane(latent.codes(model, images, device=device_of(model)))


def latent_dim(model: Model, images: Images) -> int:
    """The number d of latent dimensions, from the code of an image."""
    return latent.codes(model, images.take(slice(0, 1)), device=device_of(model)).shape[1]


def two_dimensional(name: str, model: Model, images: Images) -> None:
    """Raises unless the model has two latent dimensions."""
    dimensions = latent_dim(model, images)
    if dimensions != 2:
        raise checks.fail("runs", f"{name} of {dimensions} latent dimensions", "models with a 2-d latent space")
