"""A study folder or a run folder -> one self-contained HTML page. Imports no torch."""

from __future__ import annotations

import base64
import csv
import dataclasses
import datetime
import hashlib
import json
import math
import os
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_vae import __version__
from pyro_vae._utils import checks, files
from pyro_vae.experiments.report.claims import claim_row, difference_table, is_number, number
from pyro_vae.experiments.report.figures import curves, figures, inside
from pyro_vae.metric_table import METRICS, OF_DRAWN_PIXELS, Metric, binarization_note
from pyro_vae.spec import SPEC_FIELDS, WEIGHTS, check_weights

MAX_BYTES = 10_000_000  # of the page

_RUN_FIGURES = {
    "reconstructions": ("Reconstructions", "Rows of test images, each above its reconstruction."),
    "samples": ("Samples from the prior, decoded", "A grid of images that the model generated."),
    "latent": ("Codes of the test images", "Scatter plot of the codes in a plane, coloured by class."),
    "interpolation": ("Between the codes of two test images", "A row of images, the first changing into the last."),
    "manifold-even": ("The latent space on an even grid", "A grid of decoded points of the latent plane."),
    "manifold-quantiles": ("The latent space on quantiles of the prior", "A grid of decoded points."),
}


def report(folder: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Writes one HTML page about a study or a run, which needs no network and no other file.

    Args:
        folder: of `pyro-vae study` or of `pyro-vae train`.
        out: the file to write; by default `report.html` in the folder.

    Returns:
        The file.

    Raises:
        InputError: the folder is neither, or a file in it is damaged.
    """
    folder = checks.path("folder", folder)
    if (folder / "study.json").is_file():
        page = _study_page(folder)
    elif (folder / "spec.json").is_file():
        page = _run_page(folder)
    else:
        raise checks.fail("folder", str(folder), "a study folder with a study.json, or a run folder with a spec.json")
    text = _render(page)
    if len(text.encode(errors="replace")) > MAX_BYTES:  # the name of a folder need not be UTF-8
        raise checks.fail("folder", str(folder), f"texts and curves that fit in {MAX_BYTES:,} bytes")
    return files.write(checks.path("out", out) if out is not None else folder / "report.html", text)


def _render(page: Mapping[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("pyro_vae.experiments", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["sha256"] = lambda text: base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return templates.get_template("report.html").render(page, version=__version__, written=today)


# --- a study ---------------------------------------------------------------------------------------------------------


def _study_page(folder: Path) -> dict[str, Any]:
    study = files.read_json(folder / "study.json", "study")
    if study.get("format") != 1:
        raise checks.fail("study format", study.get("format"), "1, which this version of pyro_vae reads")
    _check(study, "study", {"entries": list})
    for name, kind in (("columns", list), ("figures", list), ("claims", list), ("differences", list), ("notes", list)):
        _check(study, "study", {name: kind}, optional=True)
    for name in ("environment", "seconds"):
        _check(study, "study", {name: dict}, optional=True)
    entries = [_entry(folder, entry, study) for entry in study["entries"]]
    first_run = next((run for entry in entries for run in entry["runs"]), None)
    environment = study.get("environment") or (
        files.read_json_if_any(first_run / "environment.json", "environment") if first_run else {}
    )
    table = _table(folder, entries, study.get("columns") or [])
    lines = [(entry["name"], "train", _history(run / "history.csv")) for entry in entries for run in entry["runs"][:1]]
    wanted = [
        (one["file"], one.get("title") or Path(one["file"]).stem, one.get("caption") or "", one.get("alt") or "")
        for one in study.get("figures") or []
        if _check(one, "figure", {"file": str})
    ]
    name = str(study.get("name") or folder.resolve().name)
    commands = [("The whole study; it goes on where it was stopped:", study["command"])] if study.get("command") else []
    commands.append(("This page:", f"pyro-vae report {_quoted(folder.resolve().name)}"))
    return {
        "kind": "study",
        "title": str(study.get("title") or name),
        "name": name,
        "document": study.get("document") or "",
        "notes": study.get("notes") or [],
        "table": table,
        "metrics": [],
        "extractor": "",
        "files": [one for one in ("results.csv", "results.md") if (folder / one).is_file()],
        "failed": [one for one in entries if one["error"] or one["status"] == "failed"],
        "waiting": [one["name"] for one in entries if one["status"] == "pending" and not one["error"]],
        "claims": [claim_row(one) for one in study.get("claims") or [] if _check(one, "claim", {})],
        "noise": difference_table(
            [one for one in study.get("differences") or [] if _check(one, "difference", _OF_A_DIFFERENCE)]
        ),
        "curves": curves(lines),
        "several_seeds": any(len(one["runs"]) > 1 for one in entries),
        **figures(folder, wanted),
        "differences": _differences(entries),
        "entries": entries,
        "environment": environment,
        "total_seconds": _duration(sum(one["seconds"] or 0 for one in entries) or None),
        "commands": commands,
    }


def _entry(folder: Path, entry: Any, study: Mapping[str, Any]) -> dict[str, Any]:
    """A model of the study, as the template takes it."""
    _check(entry, "entry", {"name": str})
    _check(entry, f"entry {entry['name']}", {"spec": dict, "published": dict, "runs": list}, optional=True)
    spec = entry.get("spec") or {}
    runs = [run for run in (inside(folder, one, "run") for one in entry.get("runs") or []) if run.is_dir()]
    seconds = sum(_seconds(_history(run / "history.csv")) for run in runs)
    if not seconds:
        training = (study.get("seconds") or {}).get("training")
        of_models = training if isinstance(training, dict) else study.get("seconds") or {}
        found = of_models.get(entry["name"])
        seconds = float(found) if isinstance(found, int | float) else 0.0
    return {
        "name": entry["name"],
        "spec": spec,
        "published": {name: value for name, value in (entry.get("published") or {}).items() if is_number(value)},
        "runs": runs,
        "seeds": entry.get("seeds") or [],
        "status": str(entry.get("status") or "pending"),
        "error": str(entry.get("error") or ""),
        "seconds": seconds or None,
        "duration": _duration(seconds or None),
        "command": _train_command(spec),
        "json": json.dumps(spec, indent=2, ensure_ascii=False),
    }


# --- the table of a study --------------------------------------------------------------------------------------------


def _table(folder: Path, entries: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> dict[str, Any]:
    """Columns and rows of cells: the mean, its deviation, the published number, the difference, whether it is best."""
    found = _results(folder / "results.csv")
    values = {entry["name"]: found.get(entry["name"]) or _row(entry, columns) for entry in entries}
    present = [
        name
        for name in map(str, columns)
        if any(name in values[one["name"]] or name in one["published"] for one in entries)
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
    heads = [METRICS.get(name, Metric(name, "")) for name in present]
    return {
        "columns": [dataclasses.asdict(head) | {"name": name} for name, head in zip(present, heads, strict=True)],
        "rows": rows,
        "has_published": any(cell["published"] for row in rows for cell in row["cells"]),
        "has_sd": any(cell["sd"] for row in rows for cell in row["cells"]),
        "has_best": any(best.values()),
    }


def _results(path: Path) -> dict[str, dict[str, float]]:
    """`results.csv` by model; the columns of a metric are its mean, `..._sd`, `..._published` and `..._difference`."""
    rows = _read_csv(path, text_columns=("model",))
    return {row.pop("model", ""): _numbers(row) for row in rows}


def _row(entry: Mapping[str, Any], columns: Iterable[str]) -> dict[str, float]:
    """The same from `metrics.json` of each seed, where a study has no `results.csv`."""
    scores = [files.read_json_if_any(run / "metrics.json", "metrics") for run in entry["runs"]]
    row: dict[str, float] = {}
    for name in columns:
        numbers = [one[name] for one in scores if is_number(one.get(name))]
        if not numbers:
            continue
        row[name] = statistics.fmean(numbers)
        if len(numbers) > 1:
            row[f"{name}_sd"] = statistics.stdev(numbers)
        if name in entry["published"] and METRICS.get(name, Metric(name, "")).comparable:
            row[f"{name}_difference"] = row[name] - entry["published"][name]
    return row


def _best(name: str, entries: Sequence[Mapping[str, Any]], values: Mapping[str, Mapping[str, float]]) -> set[str]:
    """The models with the best mean, out of at least two whose numbers mean the same."""
    metric = METRICS.get(name)
    if metric is None or not metric.better:
        return set()
    groups: dict[str, list[str]] = {}
    for entry in entries:
        if name in values[entry["name"]]:
            groups.setdefault(metric.group(entry["spec"]), []).append(entry["name"])
    best: set[str] = set()
    for names in groups.values():
        shown = {one: round(values[one][name], metric.digits) for one in names}
        extreme = min(shown.values()) if metric.better == "low" else max(shown.values())
        if len(names) > 1 and len(set(shown.values())) > 1:
            best |= {one for one, value in shown.items() if value == extreme}
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


def _differences(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields in which the models differ, a row a model, and those that all share."""
    names = dict.fromkeys(name for entry in entries for name in entry["spec"])
    texts = {name: [_text(entry["spec"].get(name)) for entry in entries] for name in names}
    if any(len(entry["seeds"]) > 1 for entry in entries):
        texts.pop("seed", None)  # only the first of several, which have a column of their own
    fields = [name for name in texts if len(set(texts[name])) > 1]
    return {
        "fields": fields,
        "rows": [[texts[name][index] for name in fields] for index in range(len(entries))],
        "shared": [(name, several[0]) for name, several in texts.items() if name not in fields],
    }


# --- a run -----------------------------------------------------------------------------------------------------------


def _run_page(folder: Path) -> dict[str, Any]:
    spec = files.read_json(folder / "spec.json", "spec")
    check_weights(folder)
    scores = files.read_json_if_any(folder / "metrics.json", "metrics")
    history = _history(folder / "history.csv")
    name = folder.resolve().name
    drawn = [path for path in sorted((folder / "figures").glob("*.png")) if path.stem != "curves" or not history]
    wanted = [(f"figures/{path.name}", *_run_figure(path.stem)) for path in drawn]
    command, quoted = _train_command(spec, name), _quoted(name)
    status = "done" if (folder / WEIGHTS).is_file() else "not finished"
    entry = {
        "name": name,
        "spec": spec,
        "seeds": [spec.get("seed")],
        "status": status,
        "error": "" if status == "done" else f"pyro-vae train --resume --out {quoted} goes on with it",
        "duration": _duration(_seconds(history) or None),
        "command": command,
        "json": json.dumps(spec, indent=2, ensure_ascii=False),
    }
    return {
        "kind": "run",
        "title": f"Run {name}",
        "name": name,
        "document": "",
        "notes": [],
        "table": None,
        "metrics": _metric_rows(scores),
        "extractor": _extractor(scores),
        "files": [],
        "failed": [] if status == "done" else [entry],
        "waiting": [],
        "claims": [],
        "noise": {"columns": [], "rows": []},
        "curves": curves([("training", "train", history), ("validation", "validation", history)]),
        "several_seeds": False,
        **figures(folder, wanted),
        "differences": _differences([entry]),
        "entries": [entry],
        "environment": files.read_json_if_any(folder / "environment.json", "environment"),
        "total_seconds": entry["duration"],
        "commands": [
            ("Train:", command),
            ("Judge:", f"pyro-vae evaluate {quoted}"),
            ("This page:", f"pyro-vae report {quoted}"),
        ],
    }


def _run_figure(stem: str) -> tuple[str, str, str]:
    """Title, caption and alternative text of a figure of a run."""
    title, alt = _RUN_FIGURES.get(stem, (stem, f"Figure {stem}"))
    return title, "", alt


def _extractor(scores: Mapping[str, Any]) -> str:
    """What samples are scored with, and how many images: a score depends on it, and a sample may be the larger one."""
    provenance = scores.get("provenance")
    source = provenance.get("frechet") if isinstance(provenance, dict) else None
    source = source if isinstance(source, dict) else {}
    sizes = {"samples": source.get("num_generated"), "real images in their place": source.get("num_real")}
    shown = ", ".join(f"{size:,} {name}" for name, size in sizes.items() if is_number(size))
    return str(scores.get("extractor") or "") + (f" ({shown})" if shown else "")


def _metric_rows(scores: Mapping[str, Any]) -> list[dict[str, str]]:
    """Label, value with its error, what real images score, and meaning; errors have no row of their own.

    At the end, the reasons to doubt the NLL.
    """
    errors = {one.error for one in METRICS.values()}
    sources = scores.get("provenance") or {}
    rows = []
    for name, known in METRICS.items():
        value = scores.get(name)
        if isinstance(value, dict):
            shares = ", ".join(f"{band} {share:.1%}" for band, share in value.items() if is_number(share))
            rows.append({"label": known.label, "value": shares, "real": "", "meaning": known.meaning})
        elif is_number(value) and name not in errors:
            text = number(value, known.digits)
            if is_number(scores.get(known.error)):
                text += f" ± {number(scores[known.error], max(known.digits, 1))}"
            reals = scores.get("real_scores")
            real = number(reals.get(name), known.digits) if isinstance(reals, dict) else ""
            source = sources.get(name) if isinstance(sources, dict) else None
            note = binarization_note(source) if name in OF_DRAWN_PIXELS and isinstance(source, dict) else ""
            rows.append({"label": known.label, "value": text, "real": real, "meaning": known.meaning + note})
    doubts = scores.get("nll_warnings")
    for reason in doubts if isinstance(doubts, list) else ():
        rows.append({"label": "NLL, caution", "value": "", "real": "", "meaning": str(reason)})
    return rows


def _quoted(name: str) -> str:
    """A folder as an argument of a command, which a leading dash would make an option."""
    return shlex.quote(f"./{name}" if name.startswith("-") else name)


def _train_command(spec: Mapping[str, Any], out: str = "RUN") -> str:
    """The command that trains this spec; fields that have their default are left out."""
    options = []
    for name, value in spec.items():
        default = SPEC_FIELDS[name].default if name in SPEC_FIELDS else None
        default = list(default) if isinstance(default, tuple) else default
        if name != "image_shape" and value is not None and value != default:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            options.append(f"--{name.replace('_', '-')}={text}")
    return shlex.join(["pyro-vae", "train", *options, "--out", out])


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_csv(path: Path, text_columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a table of numbers; none where there is no file."""
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{name: text or "" for name, text in row.items() if name} for row in csv.DictReader(file)]
        for row in rows:
            for name, text in row.items():
                if text and name not in text_columns:
                    float(text)
    except (ValueError, TypeError, csv.Error) as error:
        raise checks.fail(path.stem, str(path), f"a table of numbers ({error})") from error
    return rows


def _history(path: Path) -> list[dict[str, float]]:
    return [_numbers(row) for row in _read_csv(path)]


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    """The finite numbers of a row; empty cells, and what is no number, are absent."""
    numbers = {name: float(text) for name, text in row.items() if text}
    return {name: number for name, number in numbers.items() if math.isfinite(number)}


_OF_A_DIFFERENCE = {"metric": str, "first": str, "second": str}
_KINDS: dict[type, str] = {list: "a list", dict: "an object", str: "a text"}


def _check(value: Any, argument: str, kinds: Mapping[str, type], *, optional: bool = False) -> bool:
    """A JSON object whose fields are of these kinds; `optional` ones may be absent."""
    if not isinstance(value, dict):
        raise checks.fail(argument, value, "an object")
    for name, kind in kinds.items():
        if optional and value.get(name) is None:
            continue
        if not isinstance(value.get(name), kind):
            raise checks.fail(f"{argument}: {name}", value.get(name), _KINDS[kind])
    return True


# --- texts -----------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if value is None:
        return "default"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _seconds(history: Iterable[Mapping[str, float]]) -> float:
    return sum(row.get("seconds", 0.0) for row in history)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    exact = f"{seconds:,.0f} s"
    return f"{exact} ({minutes // 60} h {minutes % 60} min)" if minutes >= 60 else f"{exact} ({minutes} min)"
