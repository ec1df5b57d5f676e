"""The evidence by importance sampling: log p(x) of each image, and Pareto k, which says whether to believe it."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyro
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from pyro_vae import checks, files
from pyro_vae.data import Images, binarize, fixed_binarization
from pyro_vae.data.dequantization import dequantized_once
from pyro_vae.device import batches, resident, to_unit
from pyro_vae.evaluation.bits import bits_per_dimension, why_not_a_probability
from pyro_vae.evaluation.features import fingerprint
from pyro_vae.evaluation.importance import LEAST, ParetoSmoothed, log_mean_weight, pareto_smooth, threshold_at
from pyro_vae.evaluation.programs import check_programs
from pyro_vae.generators import own_generators
from pyro_vae.models import VAE, Model, with_prior
from pyro_vae.models.images import (
    check_dequantize,
    check_fits,
    check_set,
    data_range_of,
    dtype_of,
    evaluating,
    first_of,
    move,
    warn_if_not_binary,
    warn_if_unbounded,
)
from pyro_vae.progress import Progress


@dataclass(frozen=True, eq=False)
class Evidence:
    """Importance-sampled log p(x) of n images, always at beta = 1.

    - `nll_nats`, `nll_se`: minus the mean of `log_likelihood`, and its standard error over images; `nll_smoothed_nats`
      is the same from the Pareto-smoothed weights.
    - `bits_per_dimension`: `nll_nats` / (C H W log 2), where p(x) is a probability: of binary pixels, or of 256 levels
      under a discretized likelihood; of dequantized pixels + 8, an upper bound. Else None, and `not_a_probability` says
      why.
    - `log_likelihood`: of each image, `(n,)`, a lower bound on log p(x) in expectation, tight as k grows.
    - `pareto`: per image, where k is at least 25.
    """

    n: int
    k: int
    likelihood: str
    binarization: str
    nll_nats: float
    nll_se: float | None
    bits_per_dimension: float | None
    not_a_probability: str | None
    log_likelihood: Tensor
    pareto: ParetoSmoothed | None
    nll_smoothed_nats: float | None


def evidence(
    model: Model,
    images: Images,
    *,
    k: int = 5000,
    binarization: str = "none",
    dequantize: bool = False,
    decoded_at_once: int = 2000,
    device: str | torch.device = "auto",
    seed: int = 0,
    partial: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Evidence:
    """Importance-sampled log-likelihood of `images` under `model`, with q(z|x) as the proposal.

    Args:
        model: a `VAE`.
        images: the images to judge on.
        k: samples an image.
        binarization: as in training; `dynamic` is `static` here: each image is drawn once, the same for all models.
        dequantize: as in training; the noise of each image is drawn once, the same for all models
            (:func:`pyro_vae.data.dequantize`).
        decoded_at_once: codes in one pass of the decoder; it bounds the memory, and changes the result only through the
            noise.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        seed: of the samples. The global generators are as before afterwards.
        partial: a file in which what is done is kept as it comes, every 50 images. The same call after an interruption
            goes on from there, to the same result. It stays until you remove it.
        progress: a progress bar where standard error is a terminal; else a line every half minute.

    Raises:
        InputError: an autoencoder, which has no evidence; or weights that are not finite.

    >>> from pyro_vae import Spec, build, load_data
    >>> result = evidence(build(Spec(latent_dim=2)), load_data("digits").test, k=50, binarization="threshold")
    >>> result.n, result.k
    (359, 50)
    """
    k = checks.positive_integer("k", k)
    decoded_at_once = checks.positive_integer("decoded_at_once", decoded_at_once)
    seed = checks.seed("seed", seed)
    vae = with_prior(model)
    check_set("images", images)
    target = move(model, device)
    dequantize = check_dequantize(model, dequantize, binarization)
    fixed = binarize(images, fixed_binarization(binarization))
    as_floats = dequantized_once if dequantize else to_unit
    check_fits(model, fixed)
    check_programs(model, first_of(model, fixed))
    warn_if_not_binary(model, fixed, "none")
    warn_if_unbounded(model, fixed, dequantize)
    block = min(len(fixed), 50, decoded_at_once)
    # 2: which columns there are.
    settings = f"2 {fingerprint(model)} {fixed.fingerprint} {k} {seed} {decoded_at_once} {dequantize}"
    done = {} if partial is None else _read_partial(partial, settings)
    parts = [done] if done else []
    start = len(done["raw"]) if done else 0
    # Noise of its own for each block of images, wherever an interruption fell.
    seeds = torch.randint(2**62, (-(-len(fixed) // block),), generator=torch.Generator().manual_seed(seed)).tolist()
    bar = Progress(len(fixed), "image", f"log p(x), K = {k}", initial=start, shown=progress)
    with evaluating(model), bar:
        rest: Iterable[Tensor] = ()
        if start < len(fixed):
            rest = batches(
                resident(fixed.pixels[start:], target), block, target, as_floats=as_floats, dtype=dtype_of(model)
            )
        for x, block_seed in zip(rest, seeds[start // block :], strict=True):
            # Validation is off: numbers that are lost show in the weights.
            with own_generators(target, block_seed), pyro.validation_enabled(False):
                drawn = weighted_draws(vae, x, k, decoded_at_once)
            parts.append(_estimates(drawn))
            if partial is not None:
                parts = [_together(parts)]
                files.write(partial, to_safetensors(parts[0], {"settings": _digest(settings)}))
            bar.update(len(x))
    columns = _together(parts)
    log_likelihood = columns.pop("raw")
    pareto = ParetoSmoothed(**columns, threshold=threshold_at(k)) if columns else None
    n, reason = len(fixed), why_not_a_probability(data_range_of(model), fixed, dequantize)
    nll = -log_likelihood.mean().item()
    return Evidence(
        n=n,
        k=k,
        likelihood=type(model.likelihood).__name__,
        binarization=fixed_binarization(binarization),
        nll_nats=nll,
        nll_se=log_likelihood.std().item() / n**0.5 if n > 1 else None,
        bits_per_dimension=None
        if reason
        else bits_per_dimension(nll, math.prod(fixed.shape), 256 if dequantize else 1),
        not_a_probability=reason,
        log_likelihood=log_likelihood,
        pareto=pareto,
        nll_smoothed_nats=None if pareto is None else -pareto.log_likelihood.mean().item(),
    )


class WeightedDraws(NamedTuple):
    """z `(K, N, d)`, its log-weights `(K, N)`, and how finely these are known, nats, `(N,)`; float64 but for z."""

    z: Tensor
    log_weights: Tensor
    resolution_nats: Tensor


def weighted_draws(model: VAE, x: Tensor, k: int, decoded_at_once: int) -> WeightedDraws:
    """k draws from q(z|x) of each image, and log p(x|z) + log p(z) - log q(z|x), on the CPU.

    At most `decoded_at_once` codes are decoded together.
    """
    q, p = model.encode(x), model.prior()
    chunk = max(1, decoded_at_once // len(x))
    codes, rows, largest = [], [], torch.zeros(len(x), dtype=torch.float64)
    for start in range(0, k, chunk):
        z = q.rsample((min(chunk, k - start),))
        codes.append(z)
        # Rounded to float32 term by term: their sum is small beside each.
        terms = torch.stack([model.decode(z).log_prob(x), p.log_prob(z), -q.log_prob(z)]).cpu().double()
        rows.append(terms.sum(0))
        largest = torch.maximum(largest, terms.abs().sum(0).amax(0))
    # Each term is itself a rounded sum over pixels or dimensions. With exact posteriors, whose weights are all equal,
    # log-weights of 4 to 4,096 pixels spread over 1 to 3 units of this.
    return WeightedDraws(torch.cat(codes), torch.cat(rows), 8 * torch.finfo(x.dtype).eps * largest)


def _estimates(drawn: WeightedDraws) -> dict[str, Tensor]:
    """The raw estimate of each image, and the fields of `ParetoSmoothed` where there are samples enough."""
    found = {"raw": log_mean_weight(drawn.log_weights)}
    if len(drawn.log_weights) >= LEAST:
        smoothed = pareto_smooth(drawn.log_weights, drawn.resolution_nats)
        found |= {name: value for name, value in vars(smoothed).items() if isinstance(value, Tensor)}
    return found


def _together(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Those of several blocks of images as one."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _read_partial(path: str | os.PathLike[str], settings: str) -> dict[str, Tensor]:
    """What an interrupted call under the same settings left; else nothing, as of a damaged file."""
    if not Path(path).is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("settings") != _digest(settings):
                return {}
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError):
        return {}


def _digest(settings: str) -> str:
    return hashlib.sha256(settings.encode()).hexdigest()
