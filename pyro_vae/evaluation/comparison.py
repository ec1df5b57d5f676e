"""Comparing models: differences of per-image values on the same images, with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae._utils import checks

if TYPE_CHECKING:
    from pyro_vae.evaluation.metrics import Metrics


@dataclass(frozen=True, eq=False)
class PerImage:
    """Per-image values, whose means are metrics.

    Args:
        images: the key of each image, int64 `(n,)`; see :func:`~pyro_vae.data.noise.image_keys`.
        values: float64 `(n,)`, by the name of the metric.
        settings: what two results must share for their values to be comparable (binarization, likelihood, importance
            samples); JSON values.
    """

    images: Tensor
    values: Mapping[str, Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    r"""The mean of `metric` of the model `second` minus that of `first`, with its standard error.

    - `n`: images that both were evaluated on; 0 where there are no per-image values.
    - `seeds`: how many trainings of each.
    - `error_of`: what the standard error accounts for, such as `images, paired`.
    - `df`: degrees of freedom of the standard error (Welch and Satterthwaite).
    """

    metric: str
    first: str
    second: str
    difference: float
    se: float
    n: int
    seeds: tuple[int, int]
    error_of: str
    df: float = math.inf

    @property
    def critical(self) -> float:
        """Standard errors that noise alone rarely exceeds: 2, and more (95 % of Student's t) where `df` is small."""
        from scipy.stats import t

        return max(2.0, float(t.ppf(0.975, self.df)))

    @property
    def z(self) -> float:
        """The difference in standard errors."""
        if self.se == 0:
            return math.copysign(math.inf, self.difference) if self.difference else 0.0
        return self.difference / self.se

    @property
    def beyond_noise(self) -> bool:
        """Whether the difference exceeds `critical` standard errors."""
        return abs(self.z) > self.critical

    @property
    def interval(self) -> tuple[float, float]:
        """The difference and `critical` standard errors around it."""
        return self.difference - self.critical * self.se, self.difference + self.critical * self.se

    def to_dict(self) -> dict[str, Any]:
        """The result, ready for JSON."""
        return {
            "metric": self.metric,
            "first": self.first,
            "second": self.second,
            "difference": self.difference,
            "se": self.se,
            "interval": list(self.interval),
            "beyond_noise": self.beyond_noise,
            "images": self.n,
            "seeds": list(self.seeds),
            "error_of": self.error_of,
        }


def compare(results: Mapping[str, Metrics | Sequence[Metrics]], metric: str = "elbo_nats") -> tuple[Difference, ...]:
    r"""Compares each model with the first, image by image.

    Images differ far more from each other than two models do on one image, and both models see the same ones. So the
    standard error is that of the mean of the differences :math:`d_i = b_i - a_i`, not that of two separate means:

    .. math:: \bar d = \frac1n \sum_i d_i,
              \qquad \mathrm{SE}^2 = \frac{s_d^2}{n} + \frac{s_A^2}{S_A} + \frac{s_B^2}{S_B}

    With one training of each model only the first term remains: the error then covers other images, but not other
    seeds. With several, :math:`a_i` is the mean over :math:`S_A` seeds, and :math:`s_A` the standard deviation over
    seeds of the mean over images. The variation of an image from seed to seed enters both parts, so this SE is
    conservative.

    Args:
        results: what :func:`~pyro_vae.evaluation.evaluate` returned, by the name of the model; a list where a model was
            trained several times. Images are matched by their pixels; only those common to all results are compared.
        metric: `elbo_nats`, `nll_nats`, `mse_per_pixel`, or another metric that has a value for each image.

    Returns:
        A difference for each model after the first.

    Raises:
        InputError: fewer than two models, no common images, or values of different quantities.

    >>> images = torch.arange(4)
    >>> a = PerImage(images, {"elbo_nats": torch.tensor([-90.0, -100.0, -110.0, -80.0])})
    >>> b = PerImage(images, {"elbo_nats": torch.tensor([-89.0, -98.0, -109.0, -78.0])})
    >>> from pyro_vae.evaluation import Metrics
    >>> differences = compare({"a": Metrics(per_image={"bounds": a}), "b": Metrics(per_image={"bounds": b})})
    >>> differences[0].difference, round(differences[0].se, 3), differences[0].beyond_noise
    (1.5, 0.289, True)
    """
    if not isinstance(results, Mapping) or len(results) < 2:
        raise checks.fail("results", results, "the results of at least two models, by name")
    models = {
        str(name): [
            _table(result, metric, str(name)) for result in (several if isinstance(several, Sequence) else [several])
        ]
        for name, several in results.items()
    }
    first, *others = models
    if not models[first]:
        raise checks.fail(first, [], "at least one result")
    return tuple(_difference(metric, (first, models[first]), (other, models[other])) for other in others)


def seeds_difference(
    metric: str, first: tuple[str, Sequence[float]], second: tuple[str, Sequence[float]]
) -> Difference | None:
    """The difference of means over seeds, from one number per seed; None with a single seed of either model.

    None as well where all seeds of each model agree, as counts and shares may: the error is then unknown, not 0.

    >>> seeds_difference("frechet", ("a", [10.0, 12.0]), ("b", [11.0, 12.0])).beyond_noise
    False
    """
    (a_name, a), (b_name, b) = first, second
    if min(len(a), len(b)) < 2 or all(min(column) == max(column) for column in (a, b)):
        return None
    parts = [_spread(a), _spread(b)]
    difference = sum(b) / len(b) - sum(a) / len(a)
    return _summed(metric, (a_name, b_name), difference, parts, 0, (len(a), len(b)), "seeds")


def _table(result: Metrics, metric: str, name: str) -> PerImage:
    """The per-image values of the group that has the metric."""
    groups = getattr(result, "per_image", None)
    if not isinstance(groups, Mapping):
        raise checks.fail(name, result, "Metrics, as `evaluate` returns them")
    table = next((group for group in groups.values() if metric in group.values), None)
    if table is None:
        known = sorted({key for group in groups.values() for key in group.values})
        expected = f"one of {', '.join(known)}" if known else "a result with per-image values: evaluate it again"
        raise checks.fail(f"metric of {name}", metric, expected)
    return table


def _difference(metric: str, first: tuple[str, list[PerImage]], second: tuple[str, list[PerImage]]) -> Difference:
    (a_name, a), (b_name, b) = first, second
    if not b:
        raise checks.fail(b_name, [], "at least one result")
    _check_same_quantity(metric, first, second)
    columns = _aligned([*a, *b], metric)
    n = len(columns[0])
    if n < 2:
        raise checks.fail("images", f"{n} in common of {a_name} and {b_name}", "the same test images, at least 2")
    of_a, of_b = torch.stack(columns[: len(a)]), torch.stack(columns[len(a) :])
    d = of_b.mean(0) - of_a.mean(0)
    parts = [(d.var().item() / n, n - 1)]
    seeds = len(a), len(b)
    if min(seeds) > 1:
        parts += [_spread(of_a.mean(1).tolist()), _spread(of_b.mean(1).tolist())]
    error_of = "images, paired" + (", and seeds" if min(seeds) > 1 else "")
    return _summed(metric, (a_name, b_name), d.mean().item(), parts, n, seeds, error_of)


def _check_same_quantity(metric: str, first: tuple[str, list[PerImage]], second: tuple[str, list[PerImage]]) -> None:
    (a_name, a), (b_name, b) = first, second
    for table in (*a, *b):
        for name in dict.fromkeys((*a[0].settings, *table.settings)):
            if name.startswith("likelihood") and not metric.endswith("_nats"):
                continue  # a squared error is the same under each
            expected, actual = a[0].settings.get(name), table.settings.get(name)
            if expected != actual:
                owner = b_name if any(table is of_b for of_b in b) else a_name
                advice = "; across likelihoods compare bits_per_dimension" if name.startswith("likelihood") else ""
                raise checks.fail(f"{name} of {owner}", actual, f"{expected!r}, as {a_name} has{advice}")


def _aligned(tables: Sequence[PerImage], metric: str) -> list[Tensor]:
    """The values of the images common to all, in one order; copies of an image are matched in their order."""
    indices = [_indices(table.images) for table in tables]
    common = [key for key in indices[0] if all(key in other for other in indices[1:])]
    return [
        table.values[metric].double()[torch.tensor([index[key] for key in common], dtype=torch.long)]
        for table, index in zip(tables, indices, strict=True)
    ]


def _indices(images: Tensor) -> dict[tuple[int, int], int]:
    """The index of each image, by its key and the number of its copies before it."""
    indices: dict[tuple[int, int], int] = {}
    copies: dict[int, int] = {}
    for index, key in enumerate(images.tolist()):
        copies[key] = copies.get(key, -1) + 1
        indices[key, copies[key]] = index
    return indices


def _spread(values: Sequence[float]) -> tuple[float, int]:
    """The variance of the mean over seeds, and its degrees of freedom."""
    return torch.tensor(values, dtype=torch.float64).var().item() / len(values), len(values) - 1


def _summed(
    metric: str,
    names: tuple[str, str],
    difference: float,
    parts: Sequence[tuple[float, int]],
    n: int,
    seeds: tuple[int, int],
    error_of: str,
) -> Difference:
    """The difference, its variance a sum of independent ones, with Satterthwaite's degrees of freedom."""
    variance = sum(part for part, _ in parts)
    terms = sum(part**2 / df for part, df in parts)
    df = variance**2 / terms if terms > 0 else math.inf
    return Difference(metric, *names, difference, math.sqrt(variance), n, seeds, error_of, df)
