"""Originals, reconstructions, samples, interpolations."""

from __future__ import annotations

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
    classes_of,
    device_of,
    latent_dim,
    models_of,
    reconstruct,
    sample,
    two_of,
)
from pyro_vae.likelihoods import Gaussian
from pyro_vae.models.base import evaluating
from pyro_vae.programs.densities import groups_lacking


def reconstructions(runs: Runs, images: Images, *, n: int = 10, per_class: int | None = None, seed: int = 0) -> Figure:
    """Originals over the reconstructions of each run: n at random, or `per_class` of each class."""
    models = models_of(runs, images)
    originals = choose(images, n, per_class, seed)
    rows = {"original": originals.as_float()}
    rows |= {name: reconstruct(model, originals) for name, model in models.items()}
    names = classes_of(originals) if per_class else ()
    return plots.image_rows(rows, names, f"{images.name}: originals and reconstructions")


def samples(runs: Runs, images: Images, *, n: int = 10, seed: int = 0) -> Figure:
    """Originals over samples from the prior of each run; autoencoders, which have no prior, are left out.

    A model that is conditional on labels draws given those of the originals.
    """
    models = {name: model for name, model in models_of(runs, images).items() if "samples" not in groups_lacking(model)}
    if not models:
        raise checks.fail("runs", list(runs), "at least one model with a prior")
    originals = choose(images, n, None, seed)
    rows = {"original": originals.as_float()}
    rows |= {name: sample(model, len(originals), seed, originals) for name, model in models.items()}
    return plots.image_rows(rows, (), f"{images.name}: originals, and decoded samples from the prior")


def random_codes(runs: Runs, images: Images, *, n: int = 10, seed: int = 0) -> Figure:
    """Decoded random codes, of two kinds.

    Codes from a standard normal are what the decoder of a VAE is trained for, and that of an autoencoder is not. Codes
    from a normal with the mean and covariance of the test codes lie where the test codes do, which is fair to both.
    """
    if len(images) < 2:
        raise checks.fail("images", len(images), "at least 2 images, whose codes have a covariance")
    rows = {}
    for name, model in models_of(runs, images).items():
        z = latent.codes(model, images, device=device_of(model))
        noise = torch.randn(n, z.shape[1], generator=torch.Generator().manual_seed(seed))
        rows[f"{name}: N(0, I)"] = latent.decode_codes(model, noise)
        variances, directions = torch.linalg.eigh(z.T.double().cov().reshape(z.shape[1], -1))
        spread = (directions * variances.clamp_min(0).sqrt()).float()
        rows[f"{name}: like its codes"] = latent.decode_codes(model, z.mean(0) + noise @ spread.T)
    return plots.image_rows(rows, (), f"{images.name}: random codes, decoded")


def samples_around(
    runs: Runs, images: Images, *, mean: float = 1.0, sd: float = 0.5, n: int = 20, seed: int = 0
) -> Figure:
    """Decoded codes from a normal distribution with the same `mean` and standard deviation `sd` in each dimension."""
    checks.positive("sd", sd)
    panels = {}
    for name, model in models_of(runs, images).items():
        noise = torch.randn(n, latent_dim(model, images), generator=torch.Generator().manual_seed(seed))
        panels[name] = latent.decode_codes(model, mean + sd * noise)
    return plots.image_panels(panels, 3, 5, f"Codes from a normal with mean {mean:g} and sd {sd:g}, decoded")


def decoded_many_times(runs: Runs, images: Images, *, index: int = 0, n: int = 25, seed: int = 0) -> Figure:
    """An image (top left) and its reconstructions from n - 1 draws from q(z|x)."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 2:
        raise checks.fail("n", n, "a whole number of at least 2: the original and one reconstruction")
    original = images.take(at(images, index))
    panels = {}
    for name, model in models_of(runs, images).items():
        device = device_of(model)
        with seeded_rng(device, seed), evaluating(model):
            z = model.encode(original.as_float().to(device)).sample((n - 1,))[:, 0].cpu()
        panels[name] = torch.cat([original.as_float(), latent.decode_codes(model, z)])
    title = f"{images.name}: an image (top left), encoded once and decoded from {n - 1} draws"
    return plots.image_panels(panels, 3, max(1, round(n**0.5)), title)


def interpolations(
    runs: Runs, images: Images, *, pair: tuple[int, int] | None = None, steps: int = 10, seed: int = 0
) -> Figure:
    """Decoded points on the line between the codes of two images; by default two at random, of different classes."""
    if pair is None:
        pair = two_of(images, seed)
    start, end = (images.take(at(images, index)).as_float()[0] for index in pair)
    rows = {}
    for name, model in models_of(runs, images).items():
        rows[name] = torch.cat([start[None], latent.interpolate(model, start, end, steps), end[None]])
    weights = [f"{step / max(1, steps - 1):.2g}" for step in range(steps)]
    title = f"{images.name}: on the line between the codes of two images, by the weight of the second"
    return plots.image_rows(rows, ["original", *weights, "original"], title)


def likelihood_variances(runs: Runs, images: Images, *, n: int = 10, seed: int = 0) -> Figure:
    """Reconstructions under Gaussian likelihoods of several variances c, with their error and their sharpness.

    Sharpness is the mean absolute difference of neighbouring pixels, relative to the originals: below 1 is blurred.
    """
    models = models_of(runs, images)
    originals = choose(images, n, None, seed)
    x = images.as_float()
    rows, points = {"original": originals.as_float()}, []
    for name, model in models.items():
        likelihood = getattr(model, "likelihood", None)
        if not isinstance(likelihood, Gaussian):
            raise checks.fail("runs", name, "models with a Gaussian likelihood")
        c = likelihood.log_variance.exp().item()
        rows[f"{name}\n(c = {c:.3g})"] = reconstruct(model, originals)
        reconstructed = reconstruct(model, images)
        points.append((c, (reconstructed - x).square().mean().item(), sharpness(reconstructed) / sharpness(x)))
    c_values, errors, ratios = zip(*sorted(points), strict=True)
    panels = [
        plots.Panel("error", "variance c", "squared error per pixel", [plots.Curve("", c_values, errors)]),
        plots.Panel(
            "sharpness", "variance c", "over that of the originals", [plots.Curve("", c_values, ratios)], "originals"
        ),
    ]
    title = f"{images.name}: reconstructions under a normal likelihood of variance c"
    return plots.image_rows_and_curves(rows, panels, title=title, log=True)


def sharpness(pixels: Tensor) -> float:
    """The mean absolute difference of neighbouring pixels of images `(N, C, H, W)`."""
    differences = [pixels.diff(dim=dim).abs().double() for dim in (2, 3)]
    return sum(difference.sum().item() for difference in differences) / sum(
        difference.numel() for difference in differences
    )
