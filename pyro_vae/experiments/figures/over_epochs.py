"""Training over its epochs: learning curves, and pictures and scores after some epochs."""

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
from pyro_vae.models import Model
from pyro_vae.models.base import check_fits
from pyro_vae.programs.densities import groups_lacking

EPOCHS = (1, 5, 10, 20)


def training_curves(runs: Runs, images: Images | None = None, *, weighted: bool = True) -> Figure:
    """Loss, reconstruction, KL, and the KL's share of the loss, over the epochs; the images are not used."""
    check_runs(runs)
    for name, run in runs.items():
        if not run.history.epochs:
            raise checks.fail("runs", name, "runs with a history")
    return plots.learning_curves({name: run.history for name, run in runs.items()}, weighted=weighted)


def latent_spaces_by_epoch(
    runs: Runs, images: Images, *, epochs: Sequence[int] = EPOCHS, n: int = 3000, seed: int = 0
) -> Figure:
    """:func:`latent_spaces`, a row for each run and a column for each epoch."""
    chosen = images.draw(n, seed)
    planes = {name: plane(model, chosen) for name, model in _over_epochs(runs, images, epochs).items()}
    title = f"{images.name}: codes of {len(chosen):,} images"
    return plots.latent_panels(planes, chosen.labels, chosen.class_names, len(epochs), title)


def reconstructions_by_epoch(
    runs: Runs, images: Images, *, epochs: Sequence[int] = EPOCHS, n: int = 5, seed: int = 0
) -> Figure:
    """n originals over their reconstructions, a row for each run and a column for each epoch."""
    originals = images.draw(n, seed)
    x = originals.as_float()
    models = _over_epochs(runs, images, epochs)
    panels = {name: torch.cat([x, reconstruct(model, originals)]) for name, model in models.items()}
    return plots.image_panels(panels, len(epochs), len(x), f"{images.name}: originals over reconstructions")


def samples_by_epoch(
    runs: Runs, images: Images, *, epochs: Sequence[int] = EPOCHS, n: int = 20, seed: int = 0
) -> Figure:
    """Samples from the prior, decoded: a row for each run and a column for each epoch."""
    models = _over_epochs(runs, images, epochs)
    panels = {name: sample(model, n, seed, images) for name, model in models.items()}
    return plots.image_panels(panels, len(epochs), 5, f"{images.name}: decoded samples from the prior")


class Confidence(NamedTuple):
    """Mean top-class probabilities after an epoch, relative to real images; `samples` is None without a prior."""

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
    """A classifier's mean top-class probability on samples and on reconstructions, relative to that on real images.

    Args:
        runs: by name.
        images: real images; `n` of them, drawn at random, are the baseline and are reconstructed.
        classifier: an extractor with logits.
        epochs: after which to evaluate; by default all with a snapshot, and the last.
        n: number of real images, and of samples.
        seed: for the choice of images and for the samples.
    """
    check_runs(runs)
    originals = images.draw(n, seed)
    real = _logits(classifier, originals.as_float())
    results = []
    for name, run in runs.items():
        for epoch in epochs or run.epochs:
            model = run.at(epoch)
            check_fits(model, images)
            sampled = None
            if "samples" not in groups_lacking(model):
                sampled = confidence(_logits(classifier, sample(model, n, seed, originals)), real)
            reconstructed = confidence(_logits(classifier, reconstruct(model, originals)), real)
            results.append(Confidence(name, epoch, sampled, reconstructed))
    return results


def confidence_by_epoch(
    runs: Runs,
    images: Images,
    *,
    classifier: Extractor,
    epochs: Sequence[int] | None = None,
    n: int = 1000,
    seed: int = 0,
) -> Figure:
    """:func:`confidences` over the epochs: above 1, the classifier is more confident than on real images."""
    results = confidences(runs, images, classifier=classifier, epochs=epochs, n=n, seed=seed)
    panels = []
    for title, part in (("reconstructions", "reconstructions"), ("samples from the prior", "samples")):
        curves = []
        for name in runs:
            points = {result.epoch: getattr(result, part) for result in results if result.name == name}
            if None not in points.values():
                curves.append(plots.Curve(name, list(points), list(points.values())))
        panels.append(plots.Panel(title, "epoch", "confidence / that of real images", curves, "real images"))
    return plots.curve_panels(panels, title=f"{images.name}: confidence of a classifier")


def _over_epochs(runs: Runs, images: Images, epochs: Sequence[int]) -> dict[str, Model]:
    if not epochs:
        raise checks.fail("epochs", list(epochs), "at least one epoch")
    models_of(runs, images)
    return {f"{name}, epoch {epoch}": run.at(epoch) for name, run in runs.items() for epoch in epochs}


def _logits(classifier: Extractor, pixels: Tensor) -> Tensor:
    logits = extract(classifier, pixels, device="cpu").logits
    if logits is None:
        raise checks.fail("classifier", classifier.name, "an extractor that has logits")
    return logits
