"""Looking into the latent space: codes, samples, interpolations, grids. Tensors in, tensors out, on the CPU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.data import Images
from pyro_vae.device import batches, choose_device, resident
from pyro_vae.generators import own_generators
from pyro_vae.models import Model, with_prior
from pyro_vae.models.images import check_fits, evaluating
from pyro_vae.posteriors import location


class Plane(NamedTuple):
    """Codes in two dimensions, `(N, 2)`, and what the axes are."""

    codes: Tensor
    axes: tuple[str, str]


def codes(model: Model, images: Images, *, batch_size: int = 500, device: str | torch.device = "auto") -> Tensor:
    """One code for each image, `(N, d)`: the :func:`~pyro_vae.posteriors.location` of q(z|x)."""
    target = choose_device(device)
    model.to(target)
    check_fits(model, images)
    pixels = resident(images.pixels, target)
    with evaluating(model):
        return torch.cat([location(model.encode(x)).cpu() for x in batches(pixels, batch_size, target)])


def posterior_means(
    model: Model,
    images: Images,
    *,
    draws: int = 32,
    batch_size: int = 500,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> Tensor:
    """The mean of `draws` codes from q(z|x) for each image, `(N, d)`: what to take where q's mean is not known.

    A deterministic autoencoder has one code for each image, and that is it.
    """
    checks.positive_integer("draws", draws)
    checks.seed("seed", seed)
    target = choose_device(device)
    model.to(target)
    check_fits(model, images)
    with own_generators(target, seed), evaluating(model):
        chunks = batches(resident(images.pixels, target), batch_size, target)
        return torch.cat([model.encode(x).sample((draws,)).mean(0).cpu() for x in chunks])


def prior_samples(
    model: Model, n: int, *, batch_size: int = 500, device: str | torch.device = "auto", seed: int = 0
) -> Tensor:
    """n samples, as the means of p(x|z) for z from the prior, `(n, C, H, W)`.

    Raises:
        InputError: the model has no prior.
    """
    checks.positive_integer("n", n)
    checks.seed("seed", seed)
    vae = with_prior(model)
    target = choose_device(device)
    model.to(target)
    sizes = [min(batch_size, n - start) for start in range(0, n, batch_size)]
    with own_generators(target, seed), evaluating(model):
        return torch.cat([vae.sample(size).cpu() for size in sizes])


def decode_codes(model: Model, z: Tensor) -> Tensor:
    """The means of p(x|z), `(N, C, H, W)`, for codes `(N, d)`."""
    with evaluating(model):
        return model.decode(z.to(next(model.parameters()).device)).mean.cpu()


def interpolate(model: Model, start: Tensor, end: Tensor, steps: int = 10) -> Tensor:
    """Decoded points on the line between the codes of two images `(C, H, W)`, ends included: `(steps, C, H, W)`."""
    checks.positive_integer("steps", steps)
    with evaluating(model):
        ends = location(model.encode(torch.stack([start, end]).to(next(model.parameters()).device))).cpu()
    weight = torch.linspace(0, 1, steps)[:, None]
    return decode_codes(model, (1 - weight) * ends[0] + weight * ends[1])


def manifold(model: Model, size: int = 20, *, spacing: str = "even", limit: float = 3.0) -> Tensor:
    """A 2-d latent space decoded on a `size x size` grid: `(size, size, C, H, W)`, first axis z_2 from high to low.

    Args:
        model: a model with a 2-d latent space.
        size: points along each axis.
        spacing: `even` from -`limit` to `limit`; `quantiles` through the inverse normal CDF, so that each picture
            stands for an equal share of a standard normal prior.
        limit: half the width of the even grid.
    """
    checks.positive_integer("size", size)
    checks.one_of("spacing", spacing, ("even", "quantiles"))
    if spacing == "even":
        axis = torch.linspace(-limit, limit, size)
    else:
        axis = torch.special.ndtri((torch.arange(size) + 0.5) / size)
    second, first = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    try:
        images = decode_codes(model, torch.stack([first, second], dim=-1).reshape(-1, 2))
    except RuntimeError as error:
        raise checks.fail("model", type(model).__name__, f"a model with a 2-d latent space ({error})") from error
    return images.reshape(size, size, *images.shape[1:])


def to_plane(z: Tensor) -> Plane:
    """Codes `(N, d)` in the plane: as they are for d = 2, with a zero beside them for d = 1, else by PCA."""
    dimensions = z.shape[1]
    if dimensions == 1:
        return Plane(torch.cat([z, torch.zeros_like(z)], dim=1), ("$z_1$", ""))
    if dimensions == 2:
        return Plane(z, ("$z_1$", "$z_2$"))
    from sklearn.decomposition import PCA

    pca = PCA(2).fit(z.numpy())
    first, second = pca.explained_variance_ratio_
    labels = (f"first principal component ({first:.0%} of variance)", f"second ({second:.0%})")
    return Plane(torch.from_numpy(pca.transform(z.numpy())), labels)
