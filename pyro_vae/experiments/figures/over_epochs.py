"""How a training went: curves, and pictures and scores after some of its epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import plots
from pyro_vae._utils import checks
from pyro_vae.data import Images
from pyro_vae.evaluation.samples.features import Extractor, extract
from pyro_vae.evaluation.samples.inception_score import confidence
from pyro_vae.experiments.figures.trained_runs import Runs, check_runs, models_of, plane, reconstruct, sample
from pyro_vae.models import Autoencoder, Model
from pyro_vae.models.base import check_fits

EPOCHS = (1, 5, 10, 20)


def training_curves(runs: Runs, images: Images | None = None, *, weighted: bool = True) -> Figure:
    """Loss, reconstruction, KL, and the KL's share of the loss, over the epochs; the images are not looked at."""
    check_runs(runs)
    for name, one in runs.items():
        if not one.history.epochs:
            raise checks.fail("runs", name, "runs with a history")
    return plots.learning_curves({name: one.history for name, one in runs.items()}, weighted=weighted)


def latent_spaces_by_epoch(
    runs: Runs, images: Images, *, epochs: Sequence[int] = EPOCHS, n: int = 3000, seed: int = 0
) -> Figure:
    """:func:`latent_spaces`, a row for each run and a column for each epoch."""
    shown = images.draw(n, seed)
    planes = {name: plane(model, shown) for name, model in _over_epochs(runs, images, epochs).items()}
    title = f"{images.name}: codes of {len(shown):,} images"
    return plots.latent_panels(planes, shown.labels, shown.class_names, len(epochs), title)


def reconstructions_by_epoch(
    runs: Runs, images: Images, *, epochs: Sequence[int] = EPOCHS, n: int = 5, seed: int = 0
) -> Figure:
    """n originals over their reconstructions, a row for each run and a column for each epoch."""
    shown = images.draw(n, seed)
    x = shown.as_float()
    models = _over_epochs(runs, images, epochs)
    panels = {name: torch.cat([x, reconstruct(model, shown)]) for name, model in models.items()}
    return plots.image_panels(panels, len(epochs), len(x), f"{images.name}: originals over reconstructions")


def samples_by_epoch(
    runs: Runs, images: Images, *, epochs: Sequence[int] = EPOCHS, n: int = 20, seed: int = 0
) -> Figure:
    """Samples from the prior, decoded: a row for each run and a column for each epoch."""
    models = _over_epochs(runs, images, epochs)
    panels = {name: sample(model, n, seed) for name, model in models.items()}
    return plots.image_panels(panels, len(epochs), 5, f"{images.name}: decoded samples from the prior")


class Confidence(NamedTuple):
    """Mean top-class probabilities after an epoch, over that of the real images; no samples without a prior."""

    name: str
    epoch: int
    samples: float | None
    reconstructions: float


def confidences(
    runs: Runs,
    images: Images,
    *,
    classifier: Extractor,
    epochs: Sequence[int] | None = None,
    n: int = 1000,
    seed: int = 0,
) -> list[Confidence]:
    """How sure a classifier is of samples and of reconstructions, over how sure it is of the real images.

    Args:
        runs: by name.
        images: real images; `n` of them at random are the baseline, and what is reconstructed.
        classifier: an extractor with logits.
        epochs: after which; by default all that have a snapshot, and the last.
        n: real images, and samples.
        seed: of the choice and of the samples.
    """
    check_runs(runs)
    shown = images.draw(n, seed)
    real = _logits(classifier, shown.as_float())
    found = []
    for name, one in runs.items():
        for epoch in epochs or one.epochs:
            model = one.at(epoch)
            check_fits(model, images)
            sampled = None
            if not isinstance(model, Autoencoder):
                sampled = confidence(_logits(classifier, sample(model, n, seed)), real)
            again = confidence(_logits(classifier, reconstruct(model, shown)), real)
            found.append(Confidence(name, epoch, sampled, again))
    return found


def confidence_by_epoch(
    runs: Runs,
    images: Images,
    *,
    classifier: Extractor,
    epochs: Sequence[int] | None = None,
    n: int = 1000,
    seed: int = 0,
) -> Figure:
    """:func:`confidences` over the epochs: above 1, the classifier is surer than of real images."""
    found = confidences(runs, images, classifier=classifier, epochs=epochs, n=n, seed=seed)
    panels = []
    for title, part in (("reconstructions", "reconstructions"), ("samples from the prior", "samples")):
        curves = []
        for name in runs:
            points = {one.epoch: getattr(one, part) for one in found if one.name == name}
            if None not in points.values():
                curves.append(plots.Curve(name, list(points), list(points.values())))
        panels.append(plots.Panel(title, "epoch", "confidence / that of real images", curves, "real images"))
    return plots.curve_panels(panels, title=f"{images.name}: how sure a classifier is")


def _over_epochs(runs: Runs, images: Images, epochs: Sequence[int]) -> dict[str, Model]:
    if not epochs:
        raise checks.fail("epochs", list(epochs), "at least one epoch")
    models_of(runs, images)
    return {f"{name}, epoch {epoch}": one.at(epoch) for name, one in runs.items() for epoch in epochs}


def _logits(classifier: Extractor, pixels: Tensor) -> Tensor:
    logits = extract(classifier, pixels, device="cpu").logits
    if logits is None:
        raise checks.fail("classifier", classifier.name, "an extractor that has logits")
    return logits
