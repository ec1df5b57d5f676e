"""Claims of a document and differences between models, as the page of a study shows them. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pyro_vae.metric_table import METRICS, Metric


def claim_row(claim: Mapping[str, Any]) -> dict[str, str]:
    """A claim of the document: `claim, verdict, evidence`, or the order of means and the errors that decide it."""
    text = str(claim.get("claim") or claim.get("text") or "")
    if "evidence" in claim:
        return {"claim": text, "verdict": str(claim.get("verdict") or ""), "evidence": str(claim["evidence"] or "")}
    known = METRICS.get(claim.get("metric", ""), Metric(str(claim.get("metric", "")), ""))
    sds = claim.get("sds") or [None] * len(claim.get("means") or [])
    parts = [
        f"{name} {number(mean, known.digits)}" + (f" (sd {number(sd, known.digits)})" if is_number(sd) else "")
        for name, mean, sd in zip(claim.get("rising") or [], claim.get("means") or [], sds, strict=False)
    ]
    evidence = f"{known.label}: {', '.join(parts)}"
    if is_number(claim.get("seeds")) and claim["seeds"] > 1:
        evidence += f"; so in {claim.get('seeds_holding')} of {claim['seeds']} seeds"
    reason = claim.get("reason") or "no errors of the differences are stored: `pyro-vae study` again adds them"
    return {"claim": text, "verdict": str(claim.get("verdict") or "not decided"), "evidence": f"{evidence}; {reason}"}


def difference_table(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The differences of two models each, a row for each pair and a column for each metric."""
    metrics = list(dict.fromkeys(one["metric"] for one in found))
    cells = {(one["second"], one["first"], one["metric"]): one for one in found}
    rows = [
        {"name": second, "minus": first, "cells": [_cell(cells.get((second, first, name))) for name in metrics]}
        for second, first in dict.fromkeys((one["second"], one["first"]) for one in found)
    ]
    return {"columns": [METRICS[name].label if name in METRICS else name for name in metrics], "rows": rows}


def _cell(one: Mapping[str, Any] | None) -> dict[str, Any]:
    if one is None or not is_number(one.get("difference")) or not is_number(one.get("se")):
        return {"value": "", "within": False}
    digits = METRICS[one["metric"]].digits if one["metric"] in METRICS else None
    value = f"{number(one['difference'], digits, sign=True)} ± {number(one['se'], digits)}"
    return {"value": value, "within": not one.get("beyond_noise")}


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int | None, *, sign: bool = False) -> str:
    """With a true minus sign; empty for what is no number."""
    if not is_number(value):
        return ""
    text = f"{value:{'+' if sign else ''}{',.4g' if digits is None else f',.{digits}f'}}"
    return text.replace("-", "\N{MINUS SIGN}")
