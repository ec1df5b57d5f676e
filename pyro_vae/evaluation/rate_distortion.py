"""The rate-distortion curve of models trained with several betas: rate = KL, distortion = -E log p(x|z), in nats."""

from __future__ import annotations

import itertools
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_vae._utils import checks, files
from pyro_vae.spec import FIELDS_FREE_ON_RESUME, Spec, read_spec

Folder = str | os.PathLike[str]


@dataclass(frozen=True)
class RatePoint:
    r"""Rate and distortion of a model trained with `beta`: means over images, nats per image.

    - `rate_nats`: :math:`R = \mathbb E\, \mathrm{KL}(q(z|x) \| p(z))`, an upper bound on the information that z has
      about x; `distortion_nats`: :math:`D = -\mathbb E \log p(x|z)`. :math:`R + D = -\mathrm{ELBO}`.
    - `rate_se`, `distortion_se`: standard errors, over images where there is one seed, over `seeds` where there are
      several. None where it is not known.
    """

    beta: float
    rate_nats: float
    distortion_nats: float
    rate_se: float | None = None
    distortion_se: float | None = None
    seeds: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", checks.non_negative("beta", self.beta))
        for name in ("rate_nats", "distortion_nats", "rate_se", "distortion_se"):
            value = getattr(self, name)
            is_optional = name.endswith("_se") and value is None
            if not is_optional and (isinstance(value, str | bool) or not math.isfinite(value)):
                raise checks.fail(name, value, "a finite number of nats")

    @property
    def elbo_nats(self) -> float:
        """-(R + D)."""
        return -(self.rate_nats + self.distortion_nats)


@dataclass(frozen=True)
class Secant:
    """The line through the points of two neighbouring betas: its slope, and the SE of that, as of independent points.

    On a convex curve of slope -beta it lies between -`beta_high` and -`beta_low`.
    """

    beta_low: float
    beta_high: float
    slope: float
    slope_se: float | None

    @property
    def fits(self) -> bool:
        """Whether the slope lies between -`beta_high` and -`beta_low`, up to two standard errors."""
        margin = 2 * (self.slope_se or 0.0)
        return -self.beta_high - margin <= self.slope <= -self.beta_low + margin


@dataclass(frozen=True)
class RateDistortion:
    r"""A curve: `points` of at least two betas, in the order of beta.

    Where each training reached the optimum of its objective :math:`D + \beta R`, no model of these networks lies below
    the line of slope :math:`-\beta` through its point, and the points lie on a convex curve of that slope. A point
    above the line of another was not trained to its optimum, or is scored on other images than it was trained on.
    """

    points: tuple[RatePoint, ...]
    name: str = ""

    def __post_init__(self) -> None:
        if not all(isinstance(point, RatePoint) for point in self.points):
            raise checks.fail("points", self.points, "RatePoints")
        ordered = tuple(sorted(self.points, key=lambda point: point.beta))
        if len({point.beta for point in ordered}) < max(2, len(ordered)):
            raise checks.fail("points", [point.beta for point in ordered], "at least two betas, one point of each")
        object.__setattr__(self, "points", ordered)

    @property
    def secants(self) -> tuple[Secant, ...]:
        """Between neighbours; none where their rates are equal up to two standard errors, as of collapsed models."""
        return tuple(_secant(low, high) for low, high in itertools.pairwise(self.points) if _rates_differ(low, high))

    @property
    def is_convex(self) -> bool:
        """Whether each slope is above the one at smaller rates, up to two standard errors of their difference."""
        for steep, flat in itertools.pairwise(sorted(self.secants, key=lambda secant: -secant.beta_low)):
            if flat.slope < steep.slope - 2 * math.hypot(steep.slope_se or 0.0, flat.slope_se or 0.0):
                return False
        return True

    def least_rate_nats(self, distortion_nats: float) -> float:
        r"""The rate that a model of this distortion needs at least, if each training reached its optimum.

        .. math:: R \ge \max\Bigl(0, \max_{\beta > 0} \bigl[ R_\beta + (D_\beta - D) / \beta \bigr]\Bigr)

        >>> curve = RateDistortion((RatePoint(1.0, 4.0, 10.0), RatePoint(2.0, 2.0, 13.0)))
        >>> curve.least_rate_nats(12.0)  # on the line of beta = 2 through (2, 13)
        2.5
        """
        lines = [
            point.rate_nats + (point.distortion_nats - distortion_nats) / point.beta
            for point in self.points
            if point.beta
        ]
        return max(0.0, *lines)


def rate_distortion(runs: Folder | Sequence[Folder]) -> list[RateDistortion]:
    r"""The curves of evaluated runs, from their `spec.json` and `metrics.json`.

    .. math:: R = \mathbb E\, \mathrm{KL}(q(z|x) \| p(z)), \qquad D = -\mathbb E_{q(z|x)} \log p(x|z), \qquad
              \frac{\mathrm dD}{\mathrm dR} = -\beta

    Runs that differ in beta and seed alone, and were evaluated on the same images, make one curve; the seeds of a beta
    are averaged. Runs without a KL (autoencoders, posteriors that shrink to a point) are left out, and so are those
    whose beta no other run varies. A curve is named by the fields in which the curves differ.

    Args:
        runs: run folders, or folders that contain them, such as that of a study.

    Raises:
        InputError: no two runs make a curve.

    Source: Alemi et al., "Fixing a broken ELBO", 2018, https://arxiv.org/abs/1711.00464
    """
    folders = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    curves: dict[str, dict[float, list[Mapping[str, Any]]]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for folder in dict.fromkeys(itertools.chain.from_iterable(map(_runs_in, folders))):
        spec, metrics = read_spec(folder), files.read_json_if_any(folder / "metrics.json", "metrics")
        if spec is None or metrics.get("kl_per_sample") is None or metrics.get("reconstruction_nats") is None:
            continue
        shared = _settings(spec)
        key = repr((shared, _images(metrics)))
        settings[key] = shared
        curves.setdefault(key, {}).setdefault(spec.beta, []).append(metrics)
    curves = {key: by_beta for key, by_beta in curves.items() if len(by_beta) > 1}
    if not curves:
        raise checks.fail(
            "runs", [str(folder) for folder in folders], "evaluated runs that differ in beta (and seed) alone"
        )
    names = _names([settings[key] for key in curves])
    return [
        RateDistortion(tuple(_point(beta, seeds) for beta, seeds in by_beta.items()), name)
        for name, by_beta in zip(names, curves.values(), strict=True)
    ]


def _runs_in(folder: Folder) -> list[Path]:
    path = checks.path("runs", folder)
    if not path.is_dir():
        raise checks.fail("runs", str(path), "a folder of runs")
    return sorted(file.parent for file in path.rglob("metrics.json"))


def _settings(spec: Spec) -> dict[str, Any]:
    """The settings that all runs of a curve share."""
    left_out = (*FIELDS_FREE_ON_RESUME, "beta", "seed", "beta_warmup")
    return {"epochs": spec.epochs} | {name: value for name, value in spec.to_dict().items() if name not in left_out}


def _images(metrics: Mapping[str, Any]) -> Any:
    source = metrics.get("provenance", {})
    source = source.get("kl_per_sample", {}) if isinstance(source, dict) else {}
    return (source.get("images_sha256"), source.get("n")) if isinstance(source, dict) else None


def _names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each curve, of the fields in which the curves differ."""
    differing = [name for name in settings[0] if len({repr(fields[name]) for fields in settings}) > 1]
    return [", ".join(f"{name} {fields[name]}" for name in differing) for fields in settings]


def _point(beta: float, seeds: Sequence[Mapping[str, Any]]) -> RatePoint:
    """The mean over seeds; the error over images where there is only one."""
    values: dict[str, Any] = {}
    for name, key, error in (
        ("rate", "kl_per_sample", "kl_se"),
        ("distortion", "reconstruction_nats", "reconstruction_se"),
    ):
        column = [_number(metrics, key) for metrics in seeds]
        values[f"{name}_nats"] = statistics.fmean(column)
        if len(column) > 1:
            values[f"{name}_se"] = statistics.stdev(column) / len(column) ** 0.5
        elif seeds[0].get(error) is not None:
            values[f"{name}_se"] = _number(seeds[0], error)
    return RatePoint(beta, seeds=len(seeds), **values)


def _number(metrics: Mapping[str, Any], name: str) -> float:
    value = metrics[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise checks.fail(name, value, "a number, in metrics.json")
    return float(value)


def _rates_differ(low: RatePoint, high: RatePoint) -> bool:
    return abs(low.rate_nats - high.rate_nats) > 2 * math.hypot(low.rate_se or 0.0, high.rate_se or 0.0)


def _secant(low: RatePoint, high: RatePoint) -> Secant:
    rate = low.rate_nats - high.rate_nats
    slope = (low.distortion_nats - high.distortion_nats) / rate
    errors = [low.distortion_se, high.distortion_se, low.rate_se, high.rate_se]
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        return Secant(low.beta, high.beta, slope, None)
    of_distortion, of_rate = math.hypot(*known[:2]), math.hypot(*known[2:])
    return Secant(low.beta, high.beta, slope, math.hypot(of_distortion, slope * of_rate) / abs(rate))
