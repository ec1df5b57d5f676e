"""Images to codes, and codes to images: posterior means, and samples from the prior."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.rng import NOISE_BLOCK, seeded_rng, stream_seed
from pyro_vae.data import Images
from pyro_vae.models import Model, require_prior
from pyro_vae.models.base import (
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
from pyro_vae.models.densities import Densities, named
from pyro_vae.posteriors import location


def codes(model: Model, images: Images, *, batch_size: int = 500, device: str | torch.device = "auto") -> Tensor:
    """One code for each image, `(N, d)`: the :func:`~pyro_vae.posteriors.location` of q(z|x)."""
    check_encodes(model, images, batch_size)
    with evaluating_on(model, device) as target:
        check_fits(model, images)
        batches = conditioned_batches(model, images, batch_size, target)
        return torch.cat([location(densities.encode(x)).cpu() for x, densities in batches])


def posterior_means(
    model: Model,
    images: Images,
    *,
    draws: int = 32,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> Tensor:
    """The mean of `draws` codes from q(z|x) for each image, `(N, d)`: what to take where q's mean is not known.

    A deterministic autoencoder has one code for each image, which is returned.
    """
    check_encodes(model, images, NOISE_BLOCK)
    draws = checks.positive_integer("draws", draws)
    seed = checks.seed("seed", seed)
    means = []
    with evaluating_on(model, device) as target:
        check_fits(model, images)
        for block, (x, densities) in enumerate(conditioned_batches(model, images, NOISE_BLOCK, target)):
            with seeded_rng(target, stream_seed(seed, f"codes {block}")):
                means.append(densities.encode(x).sample((draws,)).mean(0).cpu())
    return torch.cat(means)


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
    vae = require_prior(model)
    arguments = _arguments_of_samples(vae, n, labels)
    blocks = []
    with evaluating_on(model, device) as target:
        densities = Densities(vae, {name: values.to(target) for name, values in arguments.items()})
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
            raise checks.fail("labels", labels, f"labels that `decode` takes ({error})") from error


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
    if not any(named(method, {"labels": values}) for method in (model.prior, model.decode)):
        raise checks.fail(
            "labels", labels, f"None: neither `prior` nor `decode` of {type(model).__name__} takes labels"
        )
    if others := [name for name in needed if name != "labels"]:
        raise checks.fail("model", f"{type(model).__name__}, which takes {', '.join(others)}", "one of labels alone")
    return {"labels": values.long()}


def decode_codes(model: Model, z: Tensor) -> Tensor:
    """The means of p(x|z), `(N, C, H, W)`, for codes `(N, d)`."""
    check_model(model, "decode")
    codes = checks.tensor("z", z)
    if codes.dim() != 2:
        raise checks.fail("z", z, "codes of shape (N, d)")
    with evaluating(model):
        try:
            return model.decode(codes.to(device_of(model), dtype_of(model))).mean.cpu()
        except RuntimeError as error:
            raise checks.fail("z", codes, f"codes that the model's decoder takes ({error})") from error


def check_encodes(model: Model, images: Images, batch_size: int) -> None:
    check_model(model, "encode", "decode")
    check_set("images", images)
    checks.positive_integer("batch_size", batch_size)
