"""The results of a study as tables: one row per model, and the differences between models."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pyro_vae._utils import checks
from pyro_vae.evaluation import Difference, Metrics, compare
from pyro_vae.evaluation.comparison import seeds_difference
from pyro_vae.experiments.study import Entry
from pyro_vae.metric_table import condition_option, metric_named
from pyro_vae.spec import Spec

# Published scores use another network's features: they are printed beside ours, without a difference.
BY_ANOTHER_NETWORK = ("frechet", "inception_score_mean", "inception_score_std")

Numbers = Mapping[str, float]


def losses(numbers: Numbers, spec: Spec) -> dict[str, float]:
    """Two losses that documents report, where their terms are known.

    - `loss_nats`: reconstruction + beta KL, both at the values of `metrics.json`.
    - `squared_error_loss`: the summed squared error of the decoded posterior mean + beta KL; of a model that is given a
      part of the image, whose `mse_per_pixel` is of the others, it is absent.

    >>> losses({"mse_per_pixel": 0.25, "kl_per_sample": 2.0}, Spec(image_shape=(1, 8, 8), beta=0.5))
    {'squared_error_loss': 17.0}
    """
    kl = numbers.get("kl_per_sample")
    weighted = 0.0 if spec.model == "autoencoder" or spec.beta == 0 else None if kl is None else spec.beta * kl
    sums = {}
    if weighted is not None and "reconstruction_nats" in numbers:
        sums["loss_nats"] = numbers["reconstruction_nats"] + weighted
    is_of_part = str(condition_option(spec.model)).startswith("quadrants-")
    if weighted is not None and "mse_per_pixel" in numbers and spec.image_shape is not None and not is_of_part:
        sums["squared_error_loss"] = math.prod(spec.image_shape) * numbers["mse_per_pixel"] + weighted
    return sums


def row(entry: Entry, spec: Spec, columns: Sequence[str], seeds: Sequence[Numbers]) -> dict[str, Any]:
    """A row of the table: of each metric the mean over seeds, standard deviation, published number, and difference.

    The standard deviation is that of single runs (divided by K - 1); absent for a single run.
    """
    published = losses(entry.published, spec) | dict(entry.published)
    values: dict[str, Any] = {"model": entry.name, "seeds": len(seeds)}
    for name in columns:
        measured = [numbers[name] for numbers in seeds if name in numbers]
        if measured:
            values[name] = statistics.fmean(measured)
        if len(measured) > 1:
            values[f"{name}_sd"] = statistics.stdev(measured)
        if name in published:
            values[f"{name}_published"] = published[name]
            if measured and name not in BY_ANOTHER_NETWORK:
                values[f"{name}_difference"] = values[name] - published[name]
    return values


def to_csv(columns: Sequence[str], table: Sequence[Mapping[str, Any]]) -> str:
    """The table as CSV, a line per model; each metric with its sd, published number and difference, if any."""
    wanted = [f"{name}{suffix}" for name in columns for suffix in ("", "_sd", "_published", "_difference")]
    fields = ["model", "seeds", *(name for name in wanted if any(name in values for values in table))]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return buffer.getvalue()


def to_markdown(columns: Sequence[str], table: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown, one line per model: mean (sd over seeds) (published)."""
    present = [name for name in columns if any(name in row or f"{name}_published" in row for row in table)]
    lines = [["model", *(metric_named(name).heading for name in present)], ["---", *["---:"] * len(present)]]
    lines += [[row["model"], *(_cell(row, name) for name in present)] for row in table]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(values: Mapping[str, Any], name: str) -> str:
    if name not in values and f"{name}_published" not in values:
        return ""
    text = f"{values[name]:.4g}" if name in values else "-"
    if f"{name}_sd" in values:
        text += f" (sd {values[f'{name}_sd']:.2g})"
    return text + (f" ({values[f'{name}_published']:.4g})" if f"{name}_published" in values else "")


@dataclass(frozen=True)
class Scores:
    """The metrics of a study's runs, by model and in the order of the seeds."""

    numbers: Mapping[str, Sequence[Numbers]]
    per_image: Mapping[str, Sequence[Metrics]] = field(default_factory=dict)

    def difference(self, first: tuple[str, str], second: tuple[str, str]) -> Difference | None:
        """Model and metric `second` minus `first`, with the best standard error available; None if there is none.

        That is the error over paired images, and seeds if there are several; else over seeds alone; else, for single
        runs, that of two means over independent images, which is too large if they are the same images.
        """
        (a, metric), (b, other) = first, second
        if metric == other and a != b and self.per_image.get(a) and self.per_image.get(b):
            with suppress(checks.InputError):  # without per-image values, or not comparable
                return compare({a: self.per_image[a], b: self.per_image[b]}, metric)[0]
        columns = [
            [numbers[name] for numbers in self.numbers.get(model, ()) if name in numbers]
            for model, name in (first, second)
        ]
        if not all(columns):
            return None
        if by_seeds := seeds_difference(metric, (a, columns[0]), (b, columns[1])):
            return by_seeds
        error = metric_named(metric).error
        errors = [[numbers[error] for numbers in self.numbers[model] if error in numbers] for model in (a, b)]
        if metric != other or not error.endswith("_se") or not all(errors):
            return None
        difference = statistics.fmean(columns[1]) - statistics.fmean(columns[0])
        se = math.hypot(*map(statistics.fmean, errors))
        if se == 0:  # e.g. a share of 1, or a count that no resample changes: the error is unknown
            return None
        return Difference(metric, a, b, difference, se, 0, (len(columns[0]), len(columns[1])), "images, unpaired")


def differences(models: Mapping[str, Spec], columns: Sequence[str], scores: Scores) -> list[Difference]:
    """For each metric with a better direction: each model against the first that it can be compared with."""
    results = []
    for metric in columns:
        known = metric_named(metric)
        if known.direction == "neither":
            continue
        references: dict[str, str] = {}
        for name, spec in models.items():
            if not any(metric in numbers for numbers in scores.numbers.get(name, ())):
                continue
            reference = references.setdefault(known.group(vars(spec)), name)
            if reference != name and (difference := scores.difference((reference, metric), (name, metric))):
                results.append(difference)
    return results


def differences_to_markdown(results: Sequence[Difference]) -> str:
    """The differences as Markdown, a line for each pair of models; empty if there are none."""
    if not results:
        return ""
    metrics = list(dict.fromkeys(result.metric for result in results))
    cells = {(result.second, result.first, result.metric): result for result in results}
    headings = [metric_named(name).heading for name in metrics]
    lines = [["model", "minus", *headings], ["---", "---", *["---:"] * len(metrics)]]
    for second, first in dict.fromkeys((result.second, result.first) for result in results):
        lines.append([second, first, *(_difference(cells.get((second, first, name))) for name in metrics)])
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"\nDifferences ± standard error; in brackets those within noise (2 errors, more of few seeds).\n\n{table}"


def _difference(result: Difference | None) -> str:
    if result is None:
        return ""
    text = f"{result.difference:+.3g} ± {result.se:.2g}"
    return text if result.beyond_noise else f"({text})"
