"""Claims of a document and differences between models, for the page of a study. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyro_vae.experiments.report.texts import is_number, number
from pyro_vae.metric_table import METRICS, metric_named


def claim_row(claim: Mapping[str, Any]) -> dict[str, str]:
    """The row of a claim: `claim, verdict, evidence`; the evidence is stored, or made of the means and errors."""
    text = str(claim.get("claim") or claim.get("text") or "")
    if "evidence" in claim:
        return {"claim": text, "verdict": str(claim.get("verdict") or ""), "evidence": str(claim["evidence"] or "")}
    known = metric_named(str(claim.get("metric", "")))
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


def difference_table(differences: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The differences between models, a row for each pair and a column for each metric."""
    metrics = list(dict.fromkeys(row["metric"] for row in differences))
    cells = {(row["second"], row["first"], row["metric"]): row for row in differences}
    rows = [
        {"name": second, "minus": first, "cells": [_cell(cells.get((second, first, name))) for name in metrics]}
        for second, first in dict.fromkeys((row["second"], row["first"]) for row in differences)
    ]
    return {"columns": [metric_named(name).heading for name in metrics], "rows": rows}


def _cell(row: Mapping[str, Any] | None) -> dict[str, Any]:
    if row is None or not is_number(row.get("difference")) or not is_number(row.get("se")):
        return {"value": "", "within": False}
    digits = METRICS[row["metric"]].digits if row["metric"] in METRICS else None
    value = f"{number(row['difference'], digits, sign=True)} ± {number(row['se'], digits)}"
    return {"value": value, "within": not row.get("beyond_noise")}
