"""Arrays -> matplotlib `Figure`. Only `save_figure` writes a file; no function opens a window."""

from pyro_vae._utils.figure_style import COLOURS, MARKERS
from pyro_vae.plots.calibration import calibration_panels
from pyro_vae.plots.curves import Curve, Panel, curve_panels, learning_curves
from pyro_vae.plots.frame import save_figure
from pyro_vae.plots.image_grids import (
    captioned_images,
    image_grid,
    image_panels,
    image_rows,
    image_rows_and_curves,
    manifold,
    manifold_panels,
    reconstructions,
    tile,
)
from pyro_vae.plots.predictive import predictive_panels
from pyro_vae.plots.rate_distortion import rate_distortion_plane
from pyro_vae.plots.roc import roc_curves
from pyro_vae.plots.sampling import sampling_weights
from pyro_vae.plots.scatter import Density, density_panels, latent_panels, latent_scatter, projections
from pyro_vae.plots.traversal import effect_matrix, traversal

__all__ = [
    "COLOURS",
    "MARKERS",
    "Curve",
    "Density",
    "Panel",
    "calibration_panels",
    "captioned_images",
    "curve_panels",
    "density_panels",
    "effect_matrix",
    "image_grid",
    "image_panels",
    "image_rows",
    "image_rows_and_curves",
    "latent_panels",
    "latent_scatter",
    "learning_curves",
    "manifold",
    "manifold_panels",
    "predictive_panels",
    "projections",
    "rate_distortion_plane",
    "reconstructions",
    "roc_curves",
    "sampling_weights",
    "save_figure",
    "tile",
    "traversal",
]
