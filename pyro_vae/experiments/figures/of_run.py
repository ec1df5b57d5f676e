"""The figures of one run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import latent
from pyro_vae._utils import checks
from pyro_vae.data import Images
from pyro_vae.data.images import class_name
from pyro_vae.models import Model
from pyro_vae.models.base import condition_of, conditioned_batches, device_of, evaluating
from pyro_vae.plots.curves import learning_curves
from pyro_vae.plots.frame import save_figure
from pyro_vae.plots.image_grids import image_grid, manifold, reconstructions
from pyro_vae.plots.scatter import latent_scatter
from pyro_vae.programs.densities import groups_lacking, has_parts

if TYPE_CHECKING:
    from pyro_vae.training.history import History


def save_run_figures(
    model: Model, images: Images, history: History | None, folder: str | os.PathLike[str]
) -> list[Path]:
    """Saves the pictures of a run: reconstructions, codes, interpolation, curves; of a VAE also samples, 2-d manifold.

    A model that is conditional on labels or covariates reconstructs images given theirs, and is sampled given the
    labels of test images; it has no interpolation and no manifold, whose codes have no label, and neither has a model
    whose images depend on a latent class besides the code. Of a model with several latent sites the codes are those of
    the site next to the image. A picture that can't be drawn is left out, with a warning that says why.
    """
    curves: dict[str, Callable[[], Figure]] = {}
    if history is not None and history.epochs:
        curves["curves"] = lambda: learning_curves(history, images.name)
    figures = _of_model(model, images) | curves
    saved = (save_if_drawn(draw, Path(folder) / f"{name}.png") for name, draw in figures.items())
    return [path for path in saved if path is not None]


def _of_model(model: Model, images: Images) -> dict[str, Callable[[], Figure]]:
    """The pictures that need a trained model, by name."""
    first = images.take(slice(0, 20))
    originals, condition, lacking = first.as_float(), condition_of(model), groups_lacking(model)
    decodes_codes = _decodes_codes(model, images)
    title = f"{images.name}: codes of {len(images):,} images"

    def plane() -> latent.Plane:
        return latent.to_plane(latent.codes(model, images))

    def of_interpolation() -> Figure:
        line = latent.interpolate(model, originals[0], originals[1])
        return image_grid(line, "Between the codes of two test images", columns=len(line))

    def of_manifold(spacing: str, name: str) -> Figure:
        return manifold(latent.manifold(model, spacing=spacing), spacing, title=f"The latent space on {name}")

    figures: dict[str, Callable[[], Figure]] = {
        "reconstructions": lambda: reconstructions(
            originals, _reconstructed(model, first), f"{images.name}: originals and reconstructions"
        )
    }
    if len(images) > 1 and _has_codes(model, images):
        figures["latent"] = lambda: latent_scatter(plane(), images.labels, images.class_names, title)
        if decodes_codes:
            figures["interpolation"] = of_interpolation
    if condition == ["labels"]:
        figures["samples"] = lambda: _samples_of_labels(model, images)
    elif not condition and "samples" not in lacking:
        figures["samples"] = lambda: image_grid(latent.prior_samples(model, 64), "Samples from the prior, decoded")
        if decodes_codes and latent.codes(model, images.take(slice(0, 1))).shape[1] == 2:
            figures["manifold-even"] = lambda: of_manifold("even", "an even grid")
            figures["manifold-quantiles"] = lambda: of_manifold("quantiles", "quantiles of the prior")
    return figures


def _has_codes(model: Model, images: Images) -> bool:
    """Whether the model has a continuous latent site: not so with discrete codes alone, or without any."""
    try:
        latent.codes(model, images.take(slice(0, 1)))
    except checks.InputError:
        return False
    return True


def _decodes_codes(model: Model, images: Images) -> bool:
    """Whether a code alone makes an image, without a condition, or a class that the model infers."""
    if condition_of(model) or has_parts(model):
        return not condition_of(model)
    if "samples" in groups_lacking(model):
        return False
    try:
        latent.decode_codes(model, latent.codes(model, images.take(slice(0, 1))))
    except checks.InputError:
        return False
    return True


def _samples_of_labels(model: Model, images: Images) -> Figure:
    """A column of 8 samples for each of the labels that the images have, of the first 10 where there are more."""
    if images.labels is None:
        raise checks.fail("images", images.name, "images with labels")
    labels = images.labels[images.labels >= 0].unique()[:10].cpu()
    samples = latent.prior_samples(model, 8 * len(labels), labels=labels.repeat(8))
    names = [class_name(label, images.class_names) for label in labels.tolist()]
    title = "Samples from the prior, decoded: a column for each label"
    return image_grid(samples, title, columns=len(names), column_names=names)


def save_if_drawn(draw: Callable[[], Figure], path: Path) -> Path | None:
    """Saves a figure; if it can't be drawn, warns and returns None, so that the other figures are still drawn.

    Numbers, names, fonts or matplotlib may make a figure fail; a folder that can't be written to is an error.
    """
    try:
        return save_figure(draw(), path)
    except OSError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        warnings.warn(f"figure {path.name} is left out: {reason}", stacklevel=2)
        return None


def _reconstructed(model: Model, images: Images) -> Tensor:
    (x, densities), *_ = conditioned_batches(model, images, len(images), device_of(model))
    with evaluating(model):
        return densities.reconstruct(x).cpu()
