"""The table of a study's models, and the settings in which they differ."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_vae._utils import files
from pyro_vae.experiments.report.read import finite_numbers, read_csv
from pyro_vae.experiments.report.texts import is_number, number, text_of
from pyro_vae.metric_table import METRICS, metric_named


def study_table(folder: Path, entries: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> dict[str, Any]:
    """Columns and rows of cells: mean, standard deviation, published number, difference, and whether it is best."""
    stored = _results(folder / "results.csv")
    values = {entry["name"]: stored.get(entry["name"]) or _row(entry, columns) for entry in entries}
    present = [
        name
        for name in map(str, columns)
        if any(name in values[entry["name"]] or name in entry["published"] for entry in entries)
    ]
    best = {name: _best(name, entries, values) for name in present}
    rows = [
        {
            "name": entry["name"],
            "status": entry["status"],
            "cells": [_cell(entry, values[entry["name"]], name, entry["name"] in best[name]) for name in present],
        }
        for entry in entries
    ]
    heads = [metric_named(name) for name in present]
    return {
        "columns": [
            dataclasses.asdict(head) | {"name": name, "heading": head.heading}
            for name, head in zip(present, heads, strict=True)
        ],
        "rows": rows,
        "has_published": any(cell["published"] for row in rows for cell in row["cells"]),
        "has_sd": any(cell["sd"] for row in rows for cell in row["cells"]),
        "has_best": any(best.values()),
    }


def _results(path: Path) -> dict[str, dict[str, float]]:
    """`results.csv` by model; the columns of a metric are its mean, `..._sd`, `..._published` and `..._difference`."""
    rows = read_csv(path, text_columns=("model",))
    return {row.pop("model", ""): finite_numbers(row) for row in rows}


def _row(entry: Mapping[str, Any], columns: Iterable[str]) -> dict[str, float]:
    """The same from `metrics.json` of each seed, if a study has no `results.csv`."""
    scores = [files.read_json_if_any(run / "metrics.json", "metrics") for run in entry["runs"]]
    row: dict[str, float] = {}
    for name in columns:
        numbers = [of_seed[name] for of_seed in scores if is_number(of_seed.get(name))]
        if not numbers:
            continue
        row[name] = statistics.fmean(numbers)
        if len(numbers) > 1:
            row[f"{name}_sd"] = statistics.stdev(numbers)
        if name in entry["published"] and metric_named(name).comparable:
            row[f"{name}_difference"] = row[name] - entry["published"][name]
    return row


def _best(name: str, entries: Sequence[Mapping[str, Any]], values: Mapping[str, Mapping[str, float]]) -> set[str]:
    """The models with the best mean, of at least two that can be compared."""
    metric = metric_named(name)
    if metric.direction == "neither":
        return set()
    groups: dict[str, list[str]] = {}
    for entry in entries:
        if name in values[entry["name"]]:
            groups.setdefault(metric.group(entry["spec"]), []).append(entry["name"])
    best: set[str] = set()
    for names in groups.values():
        rounded = {model: round(values[model][name], metric.digits) for model in names}
        extreme = min(rounded.values()) if metric.direction == "lower" else max(rounded.values())
        if len(names) > 1 and len(set(rounded.values())) > 1:
            best |= {model for model, value in rounded.items() if value == extreme}
    return best


def _cell(entry: Mapping[str, Any], row: Mapping[str, float], name: str, best: bool) -> dict[str, Any]:
    digits = METRICS[name].digits if name in METRICS else None
    published = row.get(f"{name}_published", entry["published"].get(name))
    difference = row.get(f"{name}_difference")
    return {
        "value": number(row.get(name), digits),
        "sort": row.get(name),
        "sd": number(row.get(f"{name}_sd"), digits),
        "published": number(published, digits),
        "difference": number(difference, digits, sign=True),
        "best": best,
    }


def setting_differences(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields in which the models differ, one row per model, and those that all share."""
    names = dict.fromkeys(name for entry in entries for name in entry["spec"])
    texts = {name: [text_of(entry["spec"].get(name)) for entry in entries] for name in names}
    if any(len(entry["seeds"]) > 1 for entry in entries):
        texts.pop("seed", None)  # that of the first run only; all seeds have a column of their own
    fields = [name for name in texts if len(set(texts[name])) > 1]
    return {
        "fields": fields,
        "rows": [[texts[name][index] for name in fields] for index in range(len(entries))],
        "shared": [(name, several[0]) for name, several in texts.items() if name not in fields],
    }
