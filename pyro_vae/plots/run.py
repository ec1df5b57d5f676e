"""The figures of one run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_vae import latent
from pyro_vae.data import Images
from pyro_vae.models import Autoencoder, Model
from pyro_vae.models.images import evaluating
from pyro_vae.plots.codes import latent_scatter
from pyro_vae.plots.curves import learning_curves
from pyro_vae.plots.frame import save_figure
from pyro_vae.plots.images import image_grid, manifold, reconstructions

if TYPE_CHECKING:
    from pyro_vae.training import History


def save_run_figures(
    model: Model, images: Images, history: History | None, folder: str | os.PathLike[str]
) -> list[Path]:
    """The pictures of a run: reconstructions, codes, interpolation, curves; of a VAE also samples and 2-d manifold."""
    shown = images.take(slice(0, 20)).as_float()
    with evaluating(model):
        reconstructed = model.reconstruct(shown.to(next(model.parameters()).device)).cpu()
    codes = latent.codes(model, images)
    figures = {
        "reconstructions": reconstructions(shown, reconstructed, f"{images.name}: originals and reconstructions")
    }
    if len(images) > 1:
        title = f"{images.name}: codes of {len(images):,} images"
        figures["latent"] = latent_scatter(latent.to_plane(codes), images.labels, images.class_names, title)
        line = latent.interpolate(model, shown[0], shown[1])
        figures["interpolation"] = image_grid(line, "Between the codes of two test images", columns=len(line))
    if history is not None and history.epochs:
        figures["curves"] = learning_curves(history, images.name)
    if not isinstance(model, Autoencoder):
        figures["samples"] = image_grid(latent.prior_samples(model, 64), "Samples from the prior, decoded")
        if codes.shape[1] == 2:
            for spacing, name in (("even", "an even grid"), ("quantiles", "quantiles of the prior")):
                figures[f"manifold-{spacing}"] = manifold(
                    latent.manifold(model, spacing=spacing), spacing, title=f"The latent space on {name}"
                )
    return [save_figure(figure, Path(folder) / f"{name}.png") for name, figure in figures.items()]
