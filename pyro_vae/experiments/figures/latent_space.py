"""Pictures of latent spaces: scatters of codes, posterior densities, decoded grids, principal components."""

from __future__ import annotations

import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import latent, plots
from pyro_vae._utils import checks
from pyro_vae._utils.rng import seeded_rng
from pyro_vae.data import Images
from pyro_vae.experiments.figures.trained_runs import (
    Runs,
    at,
    choose,
    device_of,
    models_of,
    plane,
    reconstruct,
    two_dimensional,
)
from pyro_vae.models import Autoencoder, Model
from pyro_vae.models.base import evaluating
from pyro_vae.posteriors import location


def latent_spaces(
    runs: Runs, images: Images, *, n: int = 10_000, per_class: int | None = None, seed: int = 0
) -> Figure:
    """The codes of n images, or of `per_class` of each class, coloured by class; by PCA if of over 2 dimensions."""
    chosen = choose(images, n, per_class, seed)
    planes = {name: plane(model, chosen) for name, model in models_of(runs, images).items()}
    title = f"{images.name}: codes of {len(chosen):,} images"
    return plots.latent_panels(planes, chosen.labels, chosen.class_names, title=title)


def manifolds(runs: Runs, images: Images, *, size: int = 20, spacing: str = "even", limit: float = 3.0) -> Figure:
    """2-d latent spaces decoded on a grid; arguments as in :func:`pyro_vae.latent.manifold`."""
    grids = {}
    for name, model in models_of(runs, images).items():
        two_dimensional(name, model, images)
        grids[name] = latent.manifold(model, size, spacing=spacing, limit=limit)
    title = f"an even grid from {-limit:g} to {limit:g}" if spacing == "even" else "quantiles of the prior"
    return plots.manifold_panels(grids, spacing, limit, title=f"{images.name}: latent spaces decoded on {title}")


def posterior_density(runs: Runs, images: Images, *, index: int = 0, seed: int = 0) -> Figure:
    """The density of q(z|x) of one image over a 2-d latent space, and a draw from it."""
    x = images.take(at(images, index)).as_float()
    densities = {}
    for name, model in models_of(runs, images).items():
        two_dimensional(name, model, images)
        densities[name] = _density(name, model, x, seed)
    return plots.density_panels(densities, title=f"{images.name}: q(z|x) of image {index}")


def _density(name: str, model: Model, x: Tensor, seed: int, size: int = 201) -> plots.Density:
    """The density of q(z|x) on a square around 2000 draws from it."""
    if isinstance(model, Autoencoder):
        raise checks.fail("runs", name, "models with a posterior; a deterministic autoencoder has none")
    device = device_of(model)
    with seeded_rng(device, seed), evaluating(model), pyro.validation_enabled(False):
        q = model.encode(x.to(device))
        draws = q.sample((2000,))[:, 0].cpu()
        low, high = draws.min(0).values, draws.max(0).values
        centre, half = (low + high) / 2, 0.6 * (high - low).max()
        first, second = (torch.linspace(c - half, c + half, size) for c in centre.tolist())
        grid = torch.stack(torch.meshgrid(first, second, indexing="xy"), -1)
        try:
            values = q.log_prob(grid.reshape(-1, 1, 2).to(device)).exp().cpu().reshape(size, size)
        except (KeyError, NotImplementedError) as error:
            raise checks.fail(
                "runs", name, "posteriors with a density at every point; a planar flow scores only its own draws"
            ) from error
        return plots.Density(first, second, values, location(q)[0].cpu(), draws[0])


FIVE_POINTS = {"A": (-0.5, -0.4), "B": (-0.4, -0.1), "C": (0.1, 0.0), "D": (0.3, 0.3), "E": (0.5, 0.2)}


def pca_example(runs: Runs | None = None, images: Images | None = None) -> Figure:
    """PCA of five points, each encoded as a single number and decoded; runs and images are not used."""
    points = torch.tensor(list(FIVE_POINTS.values()))
    pca = latent.principal_components(points, 1)
    codes = pca.transform(points.double().numpy())
    decoded = torch.from_numpy(pca.inverse_transform(codes))
    names = [f"{name}: {code:.2f}" for name, code in zip(FIVE_POINTS, codes[:, 0], strict=True)]
    share = pca.explained_variance_ratio_[0]
    return plots.projections(points, decoded, names, f"PCA: five points and their codes ({share:.0%} of variance)")


def linear_autoencoders(runs: Runs, images: Images, *, train: Images | None = None) -> Figure:
    """Linear autoencoders beside the principal components of `train`, or of `images` without it.

    Above: the components, and their projections on the column space of each decoder. Below: the principal angles
    between the two spaces, and the squared error of reconstructions; on `train`, no linear map has less than PCA.
    """
    models = models_of(runs, images)
    source = train or images
    decoders = {name: latent.linear_columns(model, source) for name, model in models.items()}
    widths = [decoder.shape[1] for decoder in decoders.values()]
    pca = latent.principal_components(source.as_float().flatten(1), max(widths))
    components = torch.from_numpy(pca.components_)
    num_components = min(8, *widths)
    rows = {"PCA": components[:num_components]}
    angles, errors = [], []
    x = images.as_float()
    for name, model in models.items():
        q = torch.linalg.qr(decoders[name]).Q
        rows[name] = components[:num_components] @ q @ q.T
        degrees = latent.subspace_angles(decoders[name], components[: q.shape[1]].T).flip(0).tolist()
        angles.append(plots.Curve(name, range(1, len(degrees) + 1), degrees))
        errors.append(plots.Curve(name, [q.shape[1]], [(reconstruct(model, images) - x).square().mean().item()]))
    dimensions = sorted(set(widths))
    centred = x.flatten(1).double() - torch.from_numpy(pca.mean_)
    pca_errors = [(centred - centred @ components[:d].T @ components[:d]).square().mean().item() for d in dimensions]
    panels = [
        plots.Panel("angles to the components", "angle, from the smallest on", "degrees", angles),
        plots.Panel(
            "error",
            "latent dimensions",
            "squared error per pixel",
            [plots.Curve("PCA", dimensions, pca_errors), *errors],
        ),
    ]
    title = f"{images.name}: linear decoders, and principal components of {len(source):,} images"
    pictures = {name: _signed(row.reshape(num_components, *images.shape).float()) for name, row in rows.items()}
    return plots.image_rows_and_curves(pictures, panels, [str(k + 1) for k in range(num_components)], title)


def _signed(pixels: Tensor) -> Tensor:
    """Positive and negative values as lighter and darker than middle grey, each picture on its own scale."""
    return 0.5 + 0.5 * pixels / pixels.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
