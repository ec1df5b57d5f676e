"""The evidence by importance sampling: log p(x) of each image, and diagnostics that tell whether to trust it."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyro
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from pyro_vae._utils import checks, files
from pyro_vae._utils.progress import Progress
from pyro_vae._utils.rng import seeded_rng, stream_seed
from pyro_vae.data import Images
from pyro_vae.evaluation.likelihood.annealing import Annealed, anneal_images
from pyro_vae.evaluation.likelihood.bits_per_dimension import bits_per_dimension, why_not_a_probability
from pyro_vae.evaluation.likelihood.importance_weights import (
    LEAST,
    ParetoSmoothed,
    effective_sample_size,
    log_mean_weight_by_k,
    log_mean_weight_mcse,
    pareto_smooth,
    threshold_at,
)
from pyro_vae.evaluation.likelihood.nll import (
    AnnealedCheck,
    NLLAtK,
    NLLOfSome,
    annealed_check,
    nll_curve,
    nll_of,
    reasons_for_doubt,
)
from pyro_vae.evaluation.likelihood.weighted_draws import WeightedDraws, check_density, is_exact, weighted_draws
from pyro_vae.evaluation.loop import Evaluation, evaluation_of
from pyro_vae.evaluation.samples.features import fingerprint, store_fingerprint
from pyro_vae.models import Model, check_evaluable
from pyro_vae.models.base import data_range_of, likelihood_of
from pyro_vae.programs.densities import has_parts


@dataclass(frozen=True, eq=False)
class Evidence:
    r"""Importance-sampled log p(x) of n images, always at beta = 1.

    - `nll_nats`, `nll_se`: minus the mean of `log_likelihood`, and its standard error over images.
    - `nll_mcse`: the Monte Carlo standard error of that mean for these images,
      :math:`\sqrt{\sum_n \mathrm{MCSE}_n^2} / n`. The spread over images includes this noise: `nll_se` is the error
      for other images, `nll_mcse` that of estimating the same ones again. Neither covers the bias: see `nll_by_k`.
    - `bits_per_dimension`: `nll_nats` / (C H W log 2), or of the values that are not seen alone where a
      model is given a part of x, where p(x) is a probability: of binary pixels, or of 256 levels
      under a discretized likelihood; of dequantized pixels + 8, an upper bound. Else None, as of images with holes,
      and `not_a_probability` says why. `bits_per_dimension_se` is its standard error over images, `bits` that of each
      image, `(n,)`.
    - `log_likelihood`, `log_likelihood_mcse`, `effective_samples`: of each image, `(n,)`: a lower bound on log p(x) in
      expectation, tight as k grows; its Monte Carlo standard error; the effective sample size of its weights.
    - `nll_by_k`: the NLL at k, k/2, k/4, ... from the same draws. Where it still falls, it is above its limit.
    - `pareto`: per image, where k is at least 25. Its smoothed log-likelihood is a diagnostic, not a second estimate:
      it is biased further than the raw one where the tail is heavy.
    - `trusted`: the same of the images whose Pareto k is at most the threshold; None where there are none. k is
      estimated from the same draws, and is low where the largest weights were missed by chance: where most images are
      near or above the threshold, the trusted ones are no less biased than the rest.
    - `annealed`: on request, some of the distrusted images by annealed importance sampling.
    - `exact`: whether the guide draws no latent site, so that there is nothing to sample: all are enumerated, or there
      are none. `log_likelihood` is then log p(x), whatever k is.
    - `warnings`: one line for each reason to doubt that the NLL lies within its errors.
    """

    n: int
    k: int
    likelihood: str | None
    binarization: str
    nll_nats: float
    nll_se: float | None
    nll_mcse: float | None
    bits_per_dimension: float | None
    bits_per_dimension_se: float | None
    not_a_probability: str | None
    log_likelihood: Tensor
    bits: Tensor | None
    log_likelihood_mcse: Tensor | None
    effective_samples: Tensor
    nll_by_k: tuple[NLLAtK, ...]
    pareto: ParetoSmoothed | None
    trusted: NLLOfSome | None
    annealed: AnnealedCheck | None
    exact: bool
    warnings: tuple[str, ...]


def evidence(
    model: Model,
    images: Images,
    *,
    k: int = 5000,
    binarization: str | None = None,
    dequantize: bool | None = None,
    decoded_at_once: int = 2000,
    device: str | torch.device = "auto",
    seed: int = 0,
    partial: str | os.PathLike[str] | None = None,
    anneal: int = 0,
    anneal_temperatures: int = 1000,
    progress: bool = False,
) -> Evidence:
    """Importance-sampled log-likelihood of `images` under `model`, with its guide as the proposal.

    Latent sites that are enumerated are summed out exactly. A model that is conditional, on labels say, gives
    log p(x|labels).

    Args:
        model: a `VAE`, or another pair of programs (see :class:`~pyro_vae.programs.traces.Traces`).
        images: the images to evaluate on.
        k: samples per image.
        binarization: as in training, by default what the model's spec says; `dynamic` is `static` here: each image is
            drawn once, the same for all models.
        dequantize: as in training, by default what the model's spec says; the noise of each image is drawn once, the
            same for all models (:func:`pyro_vae.data.dequantize`).
        decoded_at_once: codes in one pass of the decoder; it bounds the memory, and changes the result only through the
            noise.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        seed: of the samples. The global generators are as before afterwards.
        partial: a file in which results are saved every 50 images. The same call after an interruption resumes
            from it, to the same result. It stays until you remove it.
        anneal: estimate this many of the distrusted images (Pareto k above the threshold; all, where k < 25), drawn at
            random, by annealed importance sampling, too, as by :func:`~pyro_vae.evaluation.annealed_log_likelihood`
            with its defaults: 16 chains, each of 11 passes of the decoder and their gradients per temperature.
        anneal_temperatures: steps of the annealing.
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
    anneal = checks.non_negative_integer("anneal", anneal)
    checks.positive_integer("anneal_temperatures", anneal_temperatures)
    check_evaluable(model, "evidence")
    with evaluation_of(
        model, images, "evidence", binarization=binarization, dequantize=dequantize, device=device
    ) as evaluation:
        return evidence_of(
            evaluation,
            k=k,
            decoded_at_once=decoded_at_once,
            seed=seed,
            partial=partial,
            anneal=anneal,
            anneal_temperatures=anneal_temperatures,
            progress=progress,
        )


def evidence_of(
    evaluation: Evaluation,
    *,
    k: int,
    seed: int,
    decoded_at_once: int = 2000,
    partial: str | os.PathLike[str] | None = None,
    anneal: int = 0,
    anneal_temperatures: int = 1000,
    progress: bool = False,
) -> Evidence:
    """:func:`evidence` of input that was checked."""
    if anneal and not has_parts(evaluation.model):
        expected = (
            f"0 for {type(evaluation.model).__name__}: only a model with `encode`, `decode` and `prior` is annealed"
        )
        raise checks.fail("anneal", anneal, expected)
    check_density(evaluation)
    exact = is_exact(evaluation)
    columns = _weights_of(evaluation, k, decoded_at_once, seed, partial, progress)
    by_k = columns.pop("by_k")
    log_likelihood, mcse = by_k[:, 0].contiguous(), columns.pop("mcse", None)
    effective_samples = columns.pop("effective_sample_size")
    pareto = ParetoSmoothed(**columns, threshold=threshold_at(k)) if columns else None
    distrusted = ~pareto.trusted if pareto is not None else torch.ones(len(by_k), dtype=torch.bool)
    index = _some_of(distrusted, anneal, seed)
    check = None
    if len(index):
        annealed = _anneal(evaluation.take(index), decoded_at_once, anneal_temperatures, seed, progress)
        check = annealed_check(index, log_likelihood, mcse, annealed)
    whole, curve = nll_of(log_likelihood, mcse), nll_curve(k, by_k)
    reason = _why_no_bits(evaluation)
    levels = 256 if evaluation.dequantize else 1
    # fewer than the image has, of a model that is given a part of it
    dimensions = getattr(evaluation.model, "dimensions_scored", math.prod(evaluation.images.shape))
    bits = None if reason else bits_per_dimension(-log_likelihood, dimensions, levels)
    bits_se = None if bits is None or whole.nll_se is None else whole.nll_se / (dimensions * math.log(2))
    return Evidence(
        n=whole.n,
        k=k,
        likelihood=likelihood_of(evaluation.model),
        binarization=evaluation.binarization,
        nll_nats=whole.nll_nats,
        nll_se=whole.nll_se,
        nll_mcse=whole.nll_mcse,
        bits_per_dimension=None if bits is None else bits.mean().item(),
        bits_per_dimension_se=bits_se,
        not_a_probability=reason,
        log_likelihood=log_likelihood,
        bits=bits,
        log_likelihood_mcse=mcse,
        effective_samples=effective_samples,
        nll_by_k=curve,
        pareto=pareto,
        trusted=None if bool(distrusted.all()) else nll_of(log_likelihood, mcse, ~distrusted),
        annealed=check,
        exact=exact,
        warnings=() if exact else tuple(reasons_for_doubt(whole, curve, pareto, check)),
    )


def _why_no_bits(evaluation: Evaluation) -> str | None:
    """Why there are no bits per dimension; None where there are."""
    if evaluation.seen is not None:
        return "log p(x) is of the seen pixels alone, and each image may have its own number of them"
    return why_not_a_probability(data_range_of(evaluation.model), evaluation.images, evaluation.dequantize)


def _weights_of(
    evaluation: Evaluation,
    k: int,
    decoded_at_once: int,
    seed: int,
    partial: str | os.PathLike[str] | None,
    progress: bool,
) -> dict[str, Tensor]:
    """Statistics of each image's weights, `(n, ...)` by name; resumes from `partial` after an interruption."""
    n = len(evaluation.images)
    block = min(n, 50, decoded_at_once)
    # 3: which columns there are.
    about = (
        fingerprint(evaluation.model),
        "" if has_parts(evaluation.model) else store_fingerprint(),
        evaluation.images.fingerprint,
        k,
        seed,
        decoded_at_once,
        evaluation.dequantize,
    )
    settings = " ".join(map(str, (3, *about)))
    done = {} if partial is None else _read_partial(partial, settings)
    parts = [done] if done else []
    start = len(done["by_k"]) if done else 0
    # Each block of images has its own noise, so that an interruption changes no number.
    seeds = torch.randint(2**62, (-(-n // block),), generator=torch.Generator().manual_seed(seed)).tolist()
    rest = evaluation.batches(block, start) if start < n else ()
    with Progress(n, "image", f"log p(x), K = {k}", initial=start, visible=progress) as bar:
        for (x, densities), block_seed in zip(rest, seeds[start // block :], strict=True):
            # Validation is off: non-finite values show in the weights.
            with seeded_rng(evaluation.device, block_seed), pyro.validation_enabled(False):
                drawn = weighted_draws(densities, x, k, decoded_at_once)
            parts.append(_estimates(drawn))
            if partial is not None:
                parts = [_together(parts)]
                files.write(partial, to_safetensors(parts[0], {"settings": _digest(settings)}))
            bar.update(len(x))
    return _together(parts)


def evidence_metrics(result: Evidence) -> dict[str, Any]:
    """The fields of :class:`~pyro_vae.evaluation.Metrics` that it fills, by name."""
    values: dict[str, Any] = {
        "nll_nats": result.nll_nats,
        "nll_se": result.nll_se,
        "nll_mcse": result.nll_mcse,
        "nll_effective_samples": result.effective_samples.median().item(),
        "bits_per_dimension": result.bits_per_dimension,
        "bits_per_dimension_se": result.bits_per_dimension_se,
        "nll_by_k": [
            {name: value for name, value in asdict(point).items() if value is not None} for point in result.nll_by_k
        ],
        "nll_warnings": list(result.warnings) or None,
    }
    if result.pareto is not None:
        values["pareto_k"] = result.pareto.shares()
        values["nll_trusted_share"] = result.pareto.trusted.double().mean().item()
        values["nll_diagnostics"] = {"pareto_smoothed_nats": -result.pareto.log_likelihood.mean().item()}
    if result.trusted is not None:
        values |= {"nll_trusted_nats": result.trusted.nll_nats, "nll_trusted_se": result.trusted.nll_se}
    if result.annealed is not None:
        values |= _annealing_metrics(result.annealed)
    return values


def _annealing_metrics(check: AnnealedCheck) -> dict[str, Any]:
    chains = check.annealed
    details = {
        "images": check.importance.n,
        "chains": chains.chains,
        "temperatures": chains.temperatures,
        "acceptance": chains.acceptance,
        "effective_chains": chains.effective_samples.median().item(),
        "chain_sd_nats": None if chains.chain_sd_nats is None else chains.chain_sd_nats.median().item(),
        "drop_nats": check.drop_nats,
        "drop_se": check.drop_se,
    }
    return {
        "nll_annealed_nats": check.annealed_nll.nll_nats,
        "nll_annealed_mcse": check.annealed_nll.nll_mcse,
        "nll_annealed_importance_nats": check.importance.nll_nats,
        "nll_annealing": {name: value for name, value in details.items() if value is not None},
    }


def _some_of(mask: Tensor, count: int, seed: int) -> Tensor:
    """At most `count` of the indices where `mask` holds, at random, in order."""
    index = mask.nonzero()[:, 0]
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))
    return index[order[:count]].sort().values


def _anneal(evaluation: Evaluation, decoded_at_once: int, temperatures: int, seed: int, progress: bool) -> Annealed:
    """Anneals a few images at a time, each block with its own seed."""
    parts = []
    with torch.inference_mode(False):  # gradients are taken of log p(x|z)
        for number, (x, densities) in enumerate(evaluation.batches(max(1, decoded_at_once // 16))):
            part_seed = stream_seed(seed, f"annealing {number}")
            parts.append(
                anneal_images(
                    densities,
                    x,
                    temperatures=temperatures,
                    target=evaluation.device,
                    seed=part_seed,
                    progress=progress,
                )
            )
    columns = {column.name: [getattr(part, column.name) for part in parts] for column in fields(Annealed)}
    joined: dict[str, Any] = {
        name: torch.cat(column) for name, column in columns.items() if isinstance(column[0], Tensor)
    }
    weighted = sum(part.acceptance * len(part.log_likelihood) for part in parts)
    return replace(parts[0], **joined, acceptance=weighted / len(evaluation.images))


def _estimates(drawn: WeightedDraws) -> dict[str, Tensor]:
    """The per-image results of `evidence`, and the fields of `ParetoSmoothed` where there are enough samples."""
    log_weights, resolution = drawn.log_weights, drawn.resolution_nats
    columns = {
        "by_k": torch.stack(list(log_mean_weight_by_k(log_weights).values()), dim=1),
        "effective_sample_size": effective_sample_size(log_weights),
    }
    if len(log_weights) > 1:
        columns["mcse"] = log_mean_weight_mcse(log_weights)
    if len(log_weights) >= LEAST:
        smoothed = pareto_smooth(log_weights, resolution)
        columns |= {name: value for name, value in vars(smoothed).items() if isinstance(value, Tensor)}
    return columns


def _together(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The columns of several blocks of images, joined."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _read_partial(path: str | os.PathLike[str], settings: str) -> dict[str, Tensor]:
    """The results that an interrupted call under the same settings saved; empty if none, or if the file is damaged."""
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
