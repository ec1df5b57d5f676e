"""Whether the claims of a document hold: decided by differences that exceed their errors."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from pyro_vae.evaluation.comparison import Difference
from pyro_vae.experiments.study import Claim
from pyro_vae.experiments.tables import Scores


def verdicts(claims: Sequence[Claim], scores: Scores) -> list[dict[str, Any]]:
    """The verdicts on the claims whose models are done."""
    return [decided for claim in claims if (decided := verdict(claim, scores)) is not None]


def verdict(claim: Claim, scores: Scores) -> dict[str, Any] | None:
    """Whether the metric rises from model to model beyond noise; None before all are done.

    It `holds` where each step up is beyond noise, and `does not hold` where a step goes down beyond noise. Else it is
    `not decided`: some step is within noise, or of single runs whose error is not known.
    """
    metrics = [claim.metric] * len(claim.rising) if isinstance(claim.metric, str) else claim.metric
    models = list(zip(claim.rising, metrics, strict=True))
    columns = [
        [numbers[metric] for numbers in scores.numbers.get(name, []) if metric in numbers] for name, metric in models
    ]
    if not all(columns):
        return None
    steps = [scores.difference(before, after) for before, after in itertools.pairwise(models)]
    seeds = list(zip(*columns, strict=False))
    return {
        "text": claim.text,
        "metric": claim.metric if isinstance(claim.metric, str) else " < ".join(claim.metric),
        "rising": list(claim.rising),
        "means": [statistics.fmean(column) for column in columns],
        "sds": [statistics.stdev(column) if len(column) > 1 else None for column in columns],
        "verdict": _verdict(steps),
        "reason": _reason(steps, min(map(len, columns))),
        "steps": [None if step is None else step.to_dict() for step in steps],
        "seeds": len(seeds),
        "seeds_holding": sum(map(_rises, seeds)),
    }


def _verdict(steps: Sequence[Difference | None]) -> str:
    known = [step for step in steps if step is not None]
    if any(step.beyond_noise and step.difference < 0 for step in known):
        return "does not hold"
    return "holds" if len(known) == len(steps) and all(step.beyond_noise for step in known) else "not decided"


def _reason(steps: Sequence[Difference | None], fewest: int) -> str:
    """The reason of the verdict, as text; `fewest` is the smallest number of seeds."""
    if all(step is None for step in steps):
        if fewest > 1:
            return "not decided: the seeds of each model agree, and no other error is known"
        return "not decided by one seed of a model: no error of a single run is known"
    texts = []
    for step in steps:
        if step is None:
            texts.append("no error known")
        else:
            noise = "beyond noise" if step.beyond_noise else "within noise"
            texts.append(f"{step.difference:+.3g} \N{PLUS-MINUS SIGN} {step.se:.2g} ({noise}; {step.error_of})")
    seeds = min(min(step.seeds) for step in steps if step is not None)
    return "differences " + ", ".join(texts) + ("; one seed each: of these trainings only" if seeds == 1 else "")


def _rises(values: Sequence[float]) -> bool:
    return all(before < after for before, after in itertools.pairwise(values))
