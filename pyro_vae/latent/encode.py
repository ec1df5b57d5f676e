"""Images to codes, and codes to images: posterior means, and samples from the prior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.rng import NOISE_BLOCK, seeded_rng, stream_seed
from pyro_vae.data import Images
from pyro_vae.models import Model, check_evaluable
from pyro_vae.models.base import (
    check_classes,
    check_fits,
    check_model,
    check_set,
    check_unconditional,
    condition_of,
    conditioned_batches,
    device_of,
    dtype_of,
    evaluating,
    evaluating_on,
)
from pyro_vae.posteriors import location
from pyro_vae.programs.densities import Densities, has_parts, named
from pyro_vae.programs.traces import Traces


def codes(
    model: Model,
    images: Images,
    *,
    site: str | None = None,
    batch_size: int = 500,
    device: str | torch.device = "auto",
) -> Tensor:
    """One code for each image, `(N, d)`: the :func:`~pyro_vae.posteriors.location` of q(z|x).

    Of a model with several latent sites it is that of `site`, by default the one next to the image, given the locations
    of the sites that the guide draws before it.
    """
    check_encodes(model, images, batch_size)
    with evaluating_on(model, device) as target:
        check_fits(model, images)
        batches = conditioned_batches(model, images, batch_size, target)
        return torch.cat([location_of(densities, x, site).cpu() for x, densities in batches])


def location_of(densities: Densities, x: Tensor, site: str | None = None) -> Tensor:
    """The location of q(z|x) of some images, `(N, d)`, of a latent site."""
    if densities.has_parts:
        if site not in (None, "z"):
            raise checks.fail("site", site, f"z, the only latent site of {type(densities.model).__name__}")
        return location(densities.encode(x))
    by_site = densities.traces.locations(x)
    if not by_site:
        expected = "a model with a continuous latent site, which has codes"
        raise checks.fail("model", type(densities.model).__name__, expected)
    return by_site[next(iter(by_site)) if site is None else checks.one_of("site", site, tuple(by_site))].reshape(
        len(x), -1
    )


def posterior_means(
    model: Model,
    images: Images,
    *,
    draws: int = 32,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> Tensor:
    """The mean of `draws` codes from q(z|x) for each image, `(N, d)`: what to take where q's mean is not known.

    A deterministic autoencoder has one code for each image, which is returned. Of a model with several latent sites see
    :func:`site_means`.
    """
    check_encodes(model, images, NOISE_BLOCK)
    if not has_parts(model):
        expected = "a model with `encode`, `decode` and `prior`; site_means gives the means of each latent site"
        raise checks.fail("model", type(model).__name__, expected)
    draws = checks.positive_integer("draws", draws)
    seed = checks.seed("seed", seed)
    means = []
    with evaluating_on(model, device) as target:
        check_fits(model, images)
        for block, (x, densities) in enumerate(conditioned_batches(model, images, NOISE_BLOCK, target)):
            with seeded_rng(target, stream_seed(seed, f"codes {block}")):
                means.append(densities.encode(x).sample((draws,)).mean(0).cpu())
    return torch.cat(means)


def site_means(
    model: Model,
    images: Images,
    *,
    draws: int = 32,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> dict[str, Tensor]:
    """As :func:`posterior_means`, of each continuous latent site of a pair, `(N, d)` by name."""
    check_encodes(model, images, NOISE_BLOCK)
    draws, seed = checks.positive_integer("draws", draws), checks.seed("seed", seed)
    means: dict[str, list[Tensor]] = {}
    sites: tuple[str, ...] = ()
    with evaluating_on(model, device) as target:
        check_fits(model, images)
        for block, (x, densities) in enumerate(conditioned_batches(model, images, NOISE_BLOCK, target)):
            if block == 0:  # one image tells: its model decodes, which the means don't need
                with seeded_rng(target, seed):
                    sites = densities.rows(slice(1)).traces.draws(x[:1], 1).continuous
                if not sites:
                    return {}
            with seeded_rng(target, stream_seed(seed, f"codes {block}")):
                of_block = densities.traces.means(x, draws, sites)
            for name, mean in of_block.items():
                means.setdefault(name, []).append(mean.reshape(len(x), -1).cpu())
    return {name: torch.cat(parts) for name, parts in means.items()}


def prior_samples(
    model: Model,
    n: int,
    *,
    labels: Tensor | None = None,
    batch_size: int = 500,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> Tensor:
    """n samples, as the means of p(x|z) for z from the prior, `(n, C, H, W)`.

    Of a model that is conditional on labels, `labels` has that of each sample, `(n,)`.

    The codes are drawn 100 at a time, each block from a seed of its own: `batch_size`, of the decoder, changes the
    result by rounding only, and the first samples are the same whatever `n` is.

    Raises:
        InputError: the model has no prior, or is conditional on something else than these labels.
    """
    n, batch_size = checks.positive_integer("n", n), checks.positive_integer("batch_size", batch_size)
    seed = checks.seed("seed", seed)
    check_evaluable(model, "samples")
    arguments = _arguments_of_samples(model, n, labels)
    if not has_parts(model):
        return _traced_samples(model, arguments, n, device, seed)
    blocks = []
    with evaluating_on(model, device) as target:
        densities = Densities(model, {name: values.to(target) for name, values in arguments.items()})
        for start in range(0, n, NOISE_BLOCK):
            with seeded_rng(target, stream_seed(seed, f"samples {start // NOISE_BLOCK}")):
                p = densities.rows(slice(start, start + NOISE_BLOCK)).prior()
                blocks.append(p.sample(() if p.batch_shape else (NOISE_BLOCK,)))
        z = torch.cat(blocks)[:n]
        batches = [slice(start, start + batch_size) for start in range(0, n, batch_size)]
        try:
            return torch.cat([densities.rows(batch).decode(z[batch]).mean.cpu() for batch in batches])
        except (IndexError, RuntimeError) as error:
            if not arguments:
                raise
            numbers = arguments["labels"].unique().tolist()
            raise checks.fail("labels", numbers, f"labels that `decode` takes ({error})") from error


def _traced_samples(
    model: Model, arguments: dict[str, Tensor], n: int, device: str | torch.device, seed: int
) -> Tensor:
    images = []
    with evaluating_on(model, device) as target:
        traces = Traces(model, {name: values.to(target) for name, values in arguments.items()})
        for start in range(0, n, NOISE_BLOCK):
            block = traces.rows(slice(start, start + NOISE_BLOCK))
            size = NOISE_BLOCK if not arguments else min(NOISE_BLOCK, n - start)
            with seeded_rng(target, stream_seed(seed, f"samples {start // NOISE_BLOCK}")):
                images.append(block.sample(size).cpu())
    return torch.cat(images)[:n]


def labels_of_samples(model: Model, images: Images, n: int) -> Tensor | None:
    """Labels for n samples: those of the images, in order, repeated as needed; None for a model that needs none."""
    if "labels" not in condition_of(model):
        return None
    if images.labels is None:
        raise checks.fail("images", images.name, f"images with labels, on which {type(model).__name__} is conditional")
    return images.labels.cpu().repeat(-(-n // len(images)))[:n]


def _arguments_of_samples(model: Model, n: int, labels: Tensor | None) -> dict[str, Tensor]:
    """The labels of n samples, by name, checked; nothing for a model of pixels alone."""
    needed = condition_of(model)
    if labels is None:
        if "labels" in needed:
            raise checks.fail(
                "labels", None, f"a label for each sample, on which {type(model).__name__} is conditional"
            )
        check_unconditional(model, "prior_samples")
        return {}
    values = checks.tensor("labels", labels)
    if values.shape != (n,) or values.is_floating_point():
        raise checks.fail("labels", labels, f"{n} whole numbers, a label for each sample")
    check_classes("labels", model, values)
    takers = (model.prior, model.decode) if has_parts(model) else (model.model,)
    if not any(named(method, {"labels": values}) for method in takers):
        names = "neither `prior` nor `decode`" if has_parts(model) else "`model`"
        verb = "takes" if has_parts(model) else "takes no"
        raise checks.fail("labels", labels, f"None: {names} of {type(model).__name__} {verb} labels")
    if others := [name for name in needed if name != "labels"]:
        raise checks.fail("model", f"{type(model).__name__}, which takes {', '.join(others)}", "one of labels alone")
    return {"labels": values.long()}


def decode_codes(model: Model, z: Tensor, *, site: str | None = None) -> Tensor:
    """The means of p(x|z), `(N, C, H, W)`, for codes `(N, d)`.

    Of a model with several latent sites, `site` has these codes, by default the one next to the image; the others are
    at their location under the model.

    Raises:
        InputError: codes of another shape, or a model whose images depend on a discrete site as well, such as the class
            of a `SemiSupervised`, which no code tells.
    """
    codes = checks.tensor("z", z)
    if codes.dim() != 2:
        raise checks.fail("z", z, "codes of shape (N, d)")
    if not has_parts(model):
        return _traced_images(model, codes, site)
    check_model(model, "decode")
    with evaluating(model):
        try:
            return model.decode(codes.to(device_of(model), dtype_of(model))).mean.cpu()
        except RuntimeError as error:
            raise checks.fail("z", codes, f"codes that the model's decoder takes ({error})") from error


def _traced_images(model: Model, codes: Tensor, site: str | None) -> Tensor:
    check_model(model, "model")
    z = codes.to(device_of(model), dtype_of(model))
    with evaluating(model):
        traces = Traces(model)
        shapes = traces.code_shapes()
        name = next(reversed(shapes)) if site is None else checks.one_of("site", site, tuple(shapes))
        try:
            values = {name: z.unflatten(1, shapes[name])}
            besides = traces.discrete_besides({name: values[name][:1]})
            images = traces.decode(values, len(z)).cpu()
        except RuntimeError as error:
            raise checks.fail("z", codes, f"codes of shape (N, {math.prod(shapes[name])}) for {name}") from error
    if besides:
        described = f"{type(model).__name__}, whose images depend on the discrete {', '.join(besides)} besides {name}"
        raise checks.fail("model", described, f"a model whose images depend on {name} alone")
    return images


def check_encodes(model: Model, images: Images, batch_size: int) -> None:
    check_evaluable(model)
    check_set("images", images)
    checks.positive_integer("batch_size", batch_size)
