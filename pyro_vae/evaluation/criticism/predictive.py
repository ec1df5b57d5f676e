"""Prior and posterior predictive checks: whether statistics of the data are like those of data that the model makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.progress import Progress
from pyro_vae._utils.rng import NOISE_BLOCK, seeded_rng, stream_seed
from pyro_vae.data import Images
from pyro_vae.evaluation.loop import Evaluation, evaluation_of
from pyro_vae.models import VAE, require_prior
from pyro_vae.models.base import check_set, warn_if_not_binary

Statistic = Callable[[Tensor], Tensor]
KINDS = ("posterior", "prior")


def mean_intensity(x: Tensor) -> Tensor:
    """Mean over the pixels and channels of each image, `(N,)`.

    >>> mean_intensity(torch.eye(4).reshape(1, 1, 4, 4)).item()
    0.25
    """
    return x.flatten(1).mean(1)


def pixels_on(x: Tensor) -> Tensor:
    """How many pixels of each image, over all channels, are above 1/2, `(N,)`.

    >>> pixels_on(torch.eye(4).reshape(1, 1, 4, 4)).item()
    4.0
    """
    return (x > 0.5).flatten(1).sum(1).to(x.dtype)


def total_variation(x: Tensor) -> Tensor:
    r"""Sum of the absolute differences of neighbouring pixels, across and down, `(N,)`.

    Source: Rudin, Osher and Fatemi, "Nonlinear total variation based noise removal algorithms", 1992 (its anisotropic
    form).

    >>> total_variation(torch.eye(2).reshape(1, 1, 2, 2)).item()
    4.0
    """
    return x.diff(dim=-1).abs().flatten(1).sum(1) + x.diff(dim=-2).abs().flatten(1).sum(1)


STATISTICS: Mapping[str, Statistic] = {
    "mean intensity": mean_intensity,
    "pixels on": pixels_on,
    "total variation": total_variation,
}


@dataclass(frozen=True, eq=False)
class StatisticCheck:
    r"""One statistic T of N images beside that of R replicated data sets of as many images.

    - `observed_mean`, `observed_sd`: of T over the images; `replicated_means`, `replicated_sds`: those of each
      replicated data set, float64, `(R,)`.
    - `p_mean`, `p_sd`: the share of replicated data sets whose mean (sd) is above the observed one, ties halved:
      :math:`(\frac12 + \#\{>\} + \frac12 \#\{=\}) / (R + 1)`. Near 0 or 1 the data are unlike the model's.
    - `p_mean_mcse`, `p_sd_mcse`: their Monte Carlo standard errors.
    - `p_per_image`: the same for each image among its own replicates, `(N,)`; None of a prior predictive check, whose
      replicates belong to no image.

    The sd and all that belongs to it is None of a single image.
    """

    observed_mean: float
    replicated_means: Tensor = field(repr=False)
    p_mean: float
    p_mean_mcse: float
    observed_sd: float | None
    replicated_sds: Tensor | None = field(repr=False)
    p_sd: float | None
    p_sd_mcse: float | None
    p_per_image: Tensor | None = field(repr=False)


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """A predictive check of n images by R `replicates`; `kind` is prior or posterior, `statistics` has each by name."""

    kind: str
    n: int
    replicates: int
    statistics: Mapping[str, StatisticCheck]


def predictive_check(
    model: VAE,
    images: Images,
    statistics: Mapping[str, Statistic] | None = None,
    *,
    kind: str = "posterior",
    replicates: int = 200,
    binarization: str | None = None,
    dequantize: bool | None = None,
    decoded_at_once: int = 2000,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = False,
) -> PredictiveCheck:
    r"""Statistics of `images` beside those of replicated data.

    .. math:: \text{posterior:}\; z \sim q(z|x_i),\; x_i^{\text{rep}} \sim p(x|z), \qquad
              \text{prior:}\; z \sim p(z),\; x^{\text{rep}} \sim p(x|z), \qquad
              p = P\bigl(T(x^{\text{rep}}) \ge T(x)\bigr)

    Prior predictive p-values of data that come from the model are uniform. Posterior predictive ones are not: the
    images are used twice, so that theirs gather around 1/2 (Meng), and only extreme ones are evidence against it. The
    guide stands in for the posterior: an extreme value may be due to the guide.

    Args:
        model: a `VAE`.
        images: the observed ones.
        statistics: by name, functions of images `(N, C, H, W)` to one number each, `(N,)`; by default
            :func:`mean_intensity`, :func:`pixels_on` and :func:`total_variation`.
        kind: `posterior` or `prior`.
        replicates: R, replicated data sets.
        binarization: as in training, by default what the model's spec says; `dynamic` is `static` here: each image is
            drawn once, the same for all models.
        dequantize: as in training, by default what the model's spec says; one draw of the noise for each image.
        decoded_at_once: codes in one pass of the decoder; it bounds the memory, and changes the result only through the
            noise.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        seed: of the replicates. The global generators are as before afterwards.
        progress: a progress bar where standard error is a terminal; else a line every half minute.

    Raises:
        InputError: an autoencoder, which has no z to draw; weights that are not finite; or a
            statistic that gives no finite number for each image.

    Source: Box, "Sampling and Bayes' inference in scientific modelling and robustness", 1980 (prior); Gelman, Meng and
    Stern, "Posterior predictive assessment of model fitness via realized discrepancies", 1996; Meng, "Posterior
    predictive p-values", 1994.

    >>> from pyro_vae import Spec, build, load_data
    >>> some = load_data("digits").test.take(slice(0, 20))
    >>> result = predictive_check(build(Spec(latent_dim=2)), some, binarization="threshold")
    >>> result.statistics["total variation"].p_mean > 0.99  # an untrained decoder makes noise
    True
    """
    vae = require_prior(model, density=False)
    check_set("images", images)
    checks.one_of("kind", kind, KINDS)
    replicates = checks.positive_integer("replicates", replicates)
    at_once = checks.positive_integer("decoded_at_once", decoded_at_once)
    seed = checks.seed("seed", seed)
    functions = _check_statistics(STATISTICS if statistics is None else statistics)
    with evaluation_of(
        vae,
        images,
        "predictive_check",
        binarization=binarization,
        dequantize=dequantize,
        device=device,
        finite_weights=True,
        likelihood=False,
    ) as evaluation:
        warn_if_not_binary(vae, evaluation.images, "none")
        replicated = _replicated(evaluation, functions, kind, replicates, at_once, seed, progress)
    checked = {name: values.check(kind == "posterior") for name, values in replicated.items()}
    return PredictiveCheck(kind, len(images), replicates, checked)


def _replicated(
    evaluation: Evaluation,
    functions: Mapping[str, Statistic],
    kind: str,
    replicates: int,
    at_once: int,
    seed: int,
    progress: bool,
) -> dict[str, _Replicated]:
    """Each statistic of the images and of their replicates, by name."""
    with Progress(len(evaluation.images), "image", f"{kind} predictive check", visible=progress) as bar:
        parts = [_values(functions, x) for x, _ in evaluation.batches(NOISE_BLOCK)]
        observed = {name: torch.cat([part[name] for part in parts]) for name in functions}
        replicated = {name: _Replicated(values, replicates) for name, values in observed.items()}
        for index, (x, densities) in enumerate(evaluation.batches(NOISE_BLOCK)):
            with seeded_rng(evaluation.device, stream_seed(seed, f"predictive {kind} {index}")):
                if kind == "posterior":
                    z = densities.encode(x).sample((replicates,))
                else:
                    z = densities.prior_sample(replicates, len(x))
                for chunk in z.split(max(1, at_once // len(x))):
                    drawn = densities.decode(chunk).sample()
                    for name, values in _values(functions, drawn.flatten(0, 1)).items():
                        replicated[name].add(values.unflatten(0, chunk.shape[:2]))
            for statistic in replicated.values():
                statistic.next_block(len(x))
            bar.update(len(x))
    return replicated


class _Replicated:
    """Sums of one statistic over the images of each replicated data set, and how it ranks the observed images."""

    def __init__(self, observed: Tensor, replicates: int) -> None:
        self.observed, self.centre = observed, observed.mean()
        self.sums, self.squares = (torch.zeros(replicates, dtype=torch.float64) for _ in range(2))
        self.above = torch.zeros_like(observed)  # replicates of each image that are above it, ties halved
        self.row = self.column = 0

    def add(self, values: Tensor) -> None:
        """The statistics of the next replicates, `(r, B)`, for the images of this block."""
        rows, columns = slice(self.row, self.row + len(values)), slice(self.column, self.column + values.shape[1])
        difference = values - self.centre
        self.sums[rows] += difference.sum(1)
        self.squares[rows] += difference.square().sum(1)
        self.above[columns] += _above(values, self.observed[columns])
        self.row += len(values)

    def next_block(self, images: int) -> None:
        self.row, self.column = 0, self.column + images

    def check(self, per_image: bool) -> StatisticCheck:
        n, replicates = len(self.observed), len(self.sums)
        offset = self.sums / n
        means, observed_mean = self.centre + offset, self.observed.mean()
        p_mean = _p_value(_above(means, observed_mean), replicates)
        sds = observed_sd = p_sd = None
        if n > 1:
            sds = ((self.squares - n * offset.square()) / (n - 1)).clamp(min=0).sqrt()
            observed_sd = self.observed.std()
            p_sd = _p_value(_above(sds, observed_sd), replicates).item()
        return StatisticCheck(
            observed_mean=observed_mean.item(),
            replicated_means=means,
            p_mean=p_mean.item(),
            p_mean_mcse=_mcse(p_mean.item(), replicates),
            observed_sd=None if observed_sd is None else observed_sd.item(),
            replicated_sds=sds,
            p_sd=p_sd,
            p_sd_mcse=None if p_sd is None else _mcse(p_sd, replicates),
            p_per_image=_p_value(self.above, replicates) if per_image else None,
        )


def _above(replicated: Tensor, observed: Tensor) -> Tensor:
    """How many are above, ties halved, along the first dimension."""
    return ((replicated > observed).double() + 0.5 * (replicated == observed).double()).sum(0)


def _p_value(above: Tensor, replicates: int) -> Tensor:
    return (0.5 + above) / (replicates + 1)


def _mcse(p: float, replicates: int) -> float:
    return math.sqrt(p * (1 - p) / replicates)


def _check_statistics(statistics: Mapping[str, Statistic]) -> Mapping[str, Statistic]:
    functions = statistics.items() if isinstance(statistics, Mapping) else ()
    if not functions or not all(isinstance(name, str) and callable(function) for name, function in functions):
        raise checks.fail("statistics", statistics, "functions of images (N, C, H, W) to (N,) by name, at least one")
    return statistics


def _values(statistics: Mapping[str, Statistic], x: Tensor) -> dict[str, Tensor]:
    """The statistics of images `(N, C, H, W)`, float64 on the CPU, `(N,)` each."""
    columns = {}
    for name, function in statistics.items():
        value = function(x)
        if not isinstance(value, Tensor) or value.shape != (len(x),):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise checks.fail("statistics", f"{name} with {shape} of {len(x)} images", f"one number each, ({len(x)},)")
        columns[name] = value.detach().cpu().double()
        if not bool(columns[name].isfinite().all()):
            raise checks.fail("statistics", f"{name} with NaN or infinity", "a finite number for each image")
    return columns
