"""Looking into the latent space: codes, samples, interpolations, grids. Tensors in, tensors out, on the CPU."""

from pyro_vae.latent.encode import codes, decode_codes, posterior_means, prior_samples, site_means
from pyro_vae.latent.interpolation import interpolate
from pyro_vae.latent.manifold import manifold
from pyro_vae.latent.principal_components import (
    Plane,
    linear_columns,
    principal_angles,
    principal_components,
    subspace_angles,
    to_plane,
)
from pyro_vae.latent.style import style_grid

__all__ = [
    "Plane",
    "codes",
    "decode_codes",
    "interpolate",
    "linear_columns",
    "manifold",
    "posterior_means",
    "principal_angles",
    "principal_components",
    "prior_samples",
    "site_means",
    "style_grid",
    "subspace_angles",
    "to_plane",
]
