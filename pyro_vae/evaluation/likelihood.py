"""The evidence by importance sampling: log p(x) of each image, and Pareto k, which says whether to believe it."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyro
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from pyro_vae import checks, files
from pyro_vae.data import Images, binarize, fixed_binarization
from pyro_vae.device import batches, resident
from pyro_vae.evaluation.features import fingerprint
from pyro_vae.evaluation.programs import check_programs
from pyro_vae.generators import own_generators
from pyro_vae.models import VAE, Model, with_prior
from pyro_vae.models.images import check_fits, check_set, dtype_of, evaluating, first_of, move, warn_of_grey
from pyro_vae.progress import Progress

BANDS = ("good", "ok", "bad", "very bad")


def log_mean_weight(log_weights: Tensor) -> Tensor:
    r"""The importance-weighted bound of each image, in nats.

    .. math:: \log \frac1K \sum_k w_k, \qquad \log w_k = \log p(x, z_k) - \log q(z_k|x)

    Args:
        log_weights: `(K, N)`, K samples of each of N images.

    Source: Burda et al., "Importance weighted autoencoders", 2016, https://arxiv.org/abs/1509.00519

    >>> log_mean_weight(torch.tensor([[0.0], [math.log(3.0)]])).item()  # log of the mean of 1 and 3
    0.69314...
    """
    log_weights = _check_weights(log_weights)
    return log_weights.logsumexp(0) - math.log(len(log_weights))  # (eq. 11.1)


@dataclass(frozen=True, eq=False)
class ParetoSmoothed:
    """Pareto-smoothed importance sampling of N images, each field `(N,)`.

    - `pareto_k`: shape of the tail of the weights; -inf where the weights are all equal (the guide is the exact
      posterior) and nothing is to be smoothed.
    - `log_likelihood`: log of the mean smoothed weight, nats.
    - `effective_samples`: 1 / sum of squared normalized smoothed weights.
    - `exact`: whether the weights are all equal.
    - `threshold`: min(1 - 1 / log10 K, 0.7): above it the estimate is not to be believed at this K.
    """

    pareto_k: Tensor
    log_likelihood: Tensor
    effective_samples: Tensor
    exact: Tensor
    threshold: float

    def shares(self) -> dict[str, float]:
        """The share of images in each band of k: good (to 0.5), ok (to the threshold), bad (to 1), very bad."""
        edges = torch.tensor([min(0.5, self.threshold), self.threshold, 1.0], dtype=torch.float64)
        band = torch.bucketize(self.pareto_k, edges)
        return {name: (band == index).double().mean().item() for index, name in enumerate(BANDS)}


def pareto_smooth(log_weights: Tensor) -> ParetoSmoothed:
    """Pareto-smoothed importance sampling by ArviZ, image by image.

    Args:
        log_weights: `(K, N)`; K of at least 25, finite.

    Source: Vehtari et al., "Pareto smoothed importance sampling", 2024, https://arxiv.org/abs/1507.02646; Yao et al.,
    "Yes, but did it work?", 2018, https://arxiv.org/abs/1802.02538

    >>> tail = 0.9 * torch.distributions.Exponential(1.0).sample((4000, 20))
    >>> 0.8 < pareto_smooth(tail).pareto_k.mean().item() < 1.0
    True
    """
    smoothed, pareto_k, exact = smooth_log_weights(log_weights)
    k = len(smoothed)
    normalized = smoothed - smoothed.logsumexp(0)
    return ParetoSmoothed(
        pareto_k=pareto_k,
        log_likelihood=smoothed.logsumexp(0) - math.log(k),
        effective_samples=(-(2 * normalized).logsumexp(0)).exp(),
        exact=exact,
        threshold=_threshold(k),
    )


def smooth_log_weights(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Smoothed log-weights `(K, N)`, Pareto k `(N,)`, and whether the weights are all equal `(N,)`."""
    log_weights = _check_weights(log_weights)
    k, n = log_weights.shape
    if k < 25:
        raise checks.fail("log_weights", f"{k} samples", "at least 25, for a tail to be seen")
    # Equal up to the rounding of float32 sums over hundreds of pixels, whose terms are larger than the weight itself.
    spread = log_weights.max(0).values - log_weights.min(0).values
    exact = spread <= 1e-5 * log_weights.abs().max(0).values.clamp(min=1)
    pareto_k = torch.full((n,), -math.inf, dtype=torch.float64)
    smoothed = log_weights.clone()
    if not bool(exact.all()):
        found, tail = _psislw(np.ascontiguousarray(log_weights[:, ~exact].T.numpy()))
        smoothed[:, ~exact] = torch.from_numpy(found).T
        pareto_k[~exact] = torch.from_numpy(tail)
    return smoothed, pareto_k, exact


def _psislw(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed log-weights and k of each row of log-weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ announces its 1.0 on import
        from arviz import psislw
    # psislw takes log-weights as they are here; later majors' `array_stats.psislw` takes their negative.
    with np.errstate(over="ignore"):  # in its fit of heavy tails, where 1 / inf is the 0 that is meant
        smoothed, k = psislw(rows, normalize=False)
    return np.asarray(smoothed), np.atleast_1d(np.asarray(k, dtype=np.float64))


def _check_weights(log_weights: Tensor) -> Tensor:
    log_weights = checks.tensor("log_weights", log_weights)
    if log_weights.dim() != 2 or 0 in log_weights.shape:
        raise checks.fail(
            "log_weights", f"shape {tuple(log_weights.shape)}", "shape (K, N), K samples of each of N images"
        )
    values = log_weights.detach().cpu().double()
    if not bool(values.isfinite().all()):
        raise checks.fail("log_weights", "NaN or infinity", "finite numbers")
    return values


@dataclass(frozen=True, eq=False)
class Evidence:
    """Importance-sampled log p(x) of n images, always at beta = 1.

    - `nll_nats`, `nll_se`: minus the mean of `log_likelihood`, and its standard error over images; `nll_smoothed_nats`
      is the same from the Pareto-smoothed weights.
    - `bits_per_dimension`: `nll_nats` / (C H W log 2).
    - `log_likelihood`: of each image, `(n,)`, a lower bound on log p(x) in expectation, tight as k grows.
    - `pareto`: per image, where k is at least 25.
    """

    n: int
    k: int
    likelihood: str
    binarization: str
    nll_nats: float
    nll_se: float | None
    bits_per_dimension: float
    log_likelihood: Tensor
    pareto: ParetoSmoothed | None
    nll_smoothed_nats: float | None


def evidence(
    model: Model,
    images: Images,
    *,
    k: int = 5000,
    binarization: str = "none",
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
    fixed = binarize(images, fixed_binarization(binarization))
    check_fits(model, fixed)
    check_programs(model, first_of(model, fixed))
    warn_of_grey(model, fixed, "none")
    block = min(len(fixed), 50, decoded_at_once)
    settings = f"{fingerprint(model)} {fixed.fingerprint} {k} {seed} {decoded_at_once}"
    done = {} if partial is None else _read_partial(partial, settings)
    parts = [done] if done else []
    start = len(done["raw"]) if done else 0
    # Noise of its own for each block of images, wherever an interruption fell.
    seeds = torch.randint(2**62, (-(-len(fixed) // block),), generator=torch.Generator().manual_seed(seed)).tolist()
    bar = Progress(len(fixed), "image", f"log p(x), K = {k}", initial=start, shown=progress)
    with evaluating(model), bar:
        rest: Iterable[Tensor] = ()
        if start < len(fixed):
            rest = batches(resident(fixed.pixels[start:], target), block, target, dtype=dtype_of(model))
        for x, block_seed in zip(rest, seeds[start // block :], strict=True):
            # Validation is off: numbers that are lost show in the weights.
            with own_generators(target, block_seed), pyro.validation_enabled(False):
                _, log_weights = weighted_draws(vae, x, k, decoded_at_once)
            parts.append(_estimates(log_weights))
            if partial is not None:
                parts = [_together(parts)]
                files.write(partial, to_safetensors(parts[0], {"settings": _digest(settings)}))
            bar.update(len(x))
    columns = _together(parts)
    log_likelihood = columns.pop("raw")
    pareto = ParetoSmoothed(**columns, threshold=_threshold(k)) if columns else None
    n, dimensions = len(fixed), fixed.pixels[0].numel()
    nll = -log_likelihood.mean().item()
    return Evidence(
        n=n,
        k=k,
        likelihood=type(model.likelihood).__name__,
        binarization=fixed_binarization(binarization),
        nll_nats=nll,
        nll_se=log_likelihood.std().item() / n**0.5 if n > 1 else None,
        bits_per_dimension=nll / (dimensions * math.log(2)),
        log_likelihood=log_likelihood,
        pareto=pareto,
        nll_smoothed_nats=None if pareto is None else -pareto.log_likelihood.mean().item(),
    )


def weighted_draws(model: VAE, x: Tensor, k: int, decoded_at_once: int) -> tuple[Tensor, Tensor]:
    """z `(k, N, d)` from q(z|x), and log p(x|z) + log p(z) - log q(z|x), `(k, N)`, float64, on the CPU.

    At most `decoded_at_once` codes are decoded together.
    """
    q, p = model.encode(x), model.prior()
    chunk = max(1, decoded_at_once // len(x))
    codes, rows = [], []
    for start in range(0, k, chunk):
        z = q.rsample((min(chunk, k - start),))
        codes.append(z)
        # Rounded to float32 term by term: their sum is small beside each.
        terms = torch.stack([model.decode(z).log_prob(x), p.log_prob(z), -q.log_prob(z)])
        rows.append(terms.cpu().double().sum(0))
    return torch.cat(codes), torch.cat(rows)


def _estimates(log_weights: Tensor) -> dict[str, Tensor]:
    """The raw estimate of each image, and the fields of `ParetoSmoothed` where there are samples enough."""
    found = {"raw": log_mean_weight(log_weights)}
    if len(log_weights) >= 25:
        smoothed = pareto_smooth(log_weights)
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


def _threshold(k: int) -> float:
    return min(1 - 1 / math.log10(k), 0.7)  # (eq. 11.4)
