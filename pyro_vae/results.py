"""What a study found: one row a model, and whether the document's claims hold. Numbers in, text out."""

from __future__ import annotations

import csv
import io
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pyro_vae.spec import Spec
from pyro_vae.studies import Claim, Entry

# Published scores are by another network's features: they stand beside ours, and their difference says nothing.
BY_ANOTHER_NETWORK = ("frechet", "inception_score_mean", "inception_score_std")

Numbers = Mapping[str, float]


def losses(found: Numbers, spec: Spec) -> dict[str, float]:
    """Two sums that documents print, from the parts that are known.

    - `loss_nats`: reconstruction + beta KL, both at the values of `metrics.json`.
    - `squared_error_loss`: the summed squared error of the decoded posterior mean + beta KL.

    >>> losses({"mse_per_pixel": 0.25, "kl_per_sample": 2.0}, Spec(image_shape=(1, 8, 8), beta=0.5))
    {'squared_error_loss': 17.0}
    """
    kl = found.get("kl_per_sample")
    weighted = 0.0 if spec.model == "autoencoder" or spec.beta == 0 else None if kl is None else spec.beta * kl
    sums = {}
    if weighted is not None and "reconstruction_nats" in found:
        sums["loss_nats"] = found["reconstruction_nats"] + weighted
    if weighted is not None and "mse_per_pixel" in found and spec.image_shape is not None:
        sums["squared_error_loss"] = math.prod(spec.image_shape) * found["mse_per_pixel"] + weighted
    return sums


def row(entry: Entry, spec: Spec, columns: Sequence[str], found: Sequence[Numbers]) -> dict[str, Any]:
    """Of each metric the mean over seeds, its standard deviation, what is published, and the difference.

    The standard deviation is that of single runs (divided by K - 1), and there is none of one run.
    """
    published = losses(entry.published, spec) | dict(entry.published)
    values: dict[str, Any] = {"model": entry.name, "seeds": len(found)}
    for name in columns:
        measured = [one[name] for one in found if name in one]
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
    """One line a model; beside each metric what belongs to it, where any model has it."""
    wanted = [f"{name}{suffix}" for name in columns for suffix in ("", "_sd", "_published", "_difference")]
    fields = ["model", "seeds", *(name for name in wanted if any(name in one for one in table))]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return buffer.getvalue()


def to_markdown(columns: Sequence[str], table: Sequence[Mapping[str, Any]]) -> str:
    """One line per model: mean (sd over seeds) (published)."""
    shown = [name for name in columns if any(name in one or f"{name}_published" in one for one in table)]
    lines = [["model", *shown], ["---", *["---:"] * len(shown)]]
    lines += [[one["model"], *(_cell(one, name) for name in shown)] for one in table]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(values: Mapping[str, Any], name: str) -> str:
    if name not in values and f"{name}_published" not in values:
        return ""
    text = f"{values[name]:.4g}" if name in values else "-"
    if f"{name}_sd" in values:
        text += f" (sd {values[f'{name}_sd']:.2g})"
    return text + (f" ({values[f'{name}_published']:.4g})" if f"{name}_published" in values else "")


def verdict(claim: Claim, found: Mapping[str, Sequence[Numbers]]) -> dict[str, Any] | None:
    """Whether the metric rises from model to model, in the mean and in how many seeds; None before all are done."""
    metrics = [claim.metric] * len(claim.rising) if isinstance(claim.metric, str) else claim.metric
    pairs = zip(metrics, claim.rising, strict=True)
    columns = [[one[metric] for one in found.get(name, []) if metric in one] for metric, name in pairs]
    if not all(columns):
        return None
    means = [statistics.fmean(column) for column in columns]
    seeds = list(zip(*columns, strict=False))
    return {
        "text": claim.text,
        "metric": claim.metric if isinstance(claim.metric, str) else " < ".join(claim.metric),
        "rising": list(claim.rising),
        "means": means,
        "sds": [statistics.stdev(column) if len(column) > 1 else None for column in columns],
        "holds": _rises(means),
        "seeds": len(seeds),
        "seeds_holding": sum(map(_rises, seeds)),
    }


def _rises(values: Sequence[float]) -> bool:
    return all(before < after for before, after in itertools.pairwise(values))
