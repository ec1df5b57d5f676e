"""A study folder or a run folder -> one self-contained HTML page. Imports no torch."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vae import __version__
from pyro_vae._utils import checks, files
from pyro_vae.experiments.report.claims import claim_row, difference_table
from pyro_vae.experiments.report.figures import curves, figures, inside
from pyro_vae.experiments.report.read import (
    FIELDS_OF_A_DIFFERENCE,
    check_object,
    read_history,
    training_seconds,
)
from pyro_vae.experiments.report.study_table import setting_differences, study_table
from pyro_vae.experiments.report.texts import by_backticks, duration, is_number, number
from pyro_vae.experiments.report.uses import uses_of_run, uses_of_study
from pyro_vae.metric_table import METRICS, OF_DRAWN_PIXELS, binarization_note
from pyro_vae.spec import WEIGHTS, check_weights, to_options

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
    """Writes one HTML page about a study or a run, which needs neither network nor other files.

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
    templates.filters["by_backticks"] = by_backticks
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return templates.get_template("report.html").render(page, version=__version__, written=today)


# --- a study ---------------------------------------------------------------------------------------------------------


def _study_page(folder: Path) -> dict[str, Any]:
    study = files.read_json(folder / "study.json", "study")
    if study.get("format") != 1:
        raise checks.fail("study format", study.get("format"), "1, which this version of pyro_vae reads")
    check_object(study, "study", {"entries": list})
    for name, kind in (("columns", list), ("figures", list), ("claims", list), ("differences", list), ("notes", list)):
        check_object(study, "study", {name: kind}, optional=True)
    for name in ("environment", "seconds"):
        check_object(study, "study", {name: dict}, optional=True)
    entries = [_entry(folder, entry, study) for entry in study["entries"]]
    first_runs = [(entry["name"], run) for entry in entries for run in entry["runs"][:1]]
    environment = study.get("environment") or (
        files.read_json_if_any(first_runs[0][1] / "environment.json", "environment") if first_runs else {}
    )
    table = study_table(folder, entries, study.get("columns") or [])
    lines = [
        (entry["name"], "train", read_history(run / "history.csv")) for entry in entries for run in entry["runs"][:1]
    ]
    wanted = [
        (
            figure["file"],
            figure.get("title") or Path(figure["file"]).stem,
            figure.get("caption") or "",
            figure.get("alt") or "",
        )
        for figure in study.get("figures") or []
        if check_object(figure, "figure", {"file": str})
    ]
    uses = uses_of_study(folder)
    wanted += uses["pictures"]
    name = str(study.get("name") or folder.resolve().name)
    commands = [("The whole study; the same command resumes it:", study["command"])] if study.get("command") else []
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
        "files": [file for file in ("results.csv", "results.md") if (folder / file).is_file()],
        "uses": uses["uses"],
        "undone": uses["undone"],
        "failed": [entry for entry in entries if entry["error"] or entry["status"] == "failed"],
        "waiting": [entry["name"] for entry in entries if entry["status"] == "pending" and not entry["error"]],
        "claims": [claim_row(claim) for claim in study.get("claims") or [] if check_object(claim, "claim", {})],
        "noise": difference_table(
            [row for row in study.get("differences") or [] if check_object(row, "difference", FIELDS_OF_A_DIFFERENCE)]
        ),
        "curves": curves(lines),
        "several_seeds": any(len(entry["runs"]) > 1 for entry in entries),
        **figures(folder, wanted),
        "differences": setting_differences(entries),
        "entries": entries,
        "environment": environment,
        "total_seconds": duration(sum(entry["seconds"] or 0 for entry in entries) or None),
        "commands": commands,
    }


def _entry(folder: Path, entry: Any, study: Mapping[str, Any]) -> dict[str, Any]:
    """A model of the study, for the template."""
    check_object(entry, "entry", {"name": str})
    check_object(entry, f"entry {entry['name']}", {"spec": dict, "published": dict, "runs": list}, optional=True)
    spec = entry.get("spec") or {}
    runs = [run for run in (inside(folder, name, "run") for name in entry.get("runs") or []) if run.is_dir()]
    seconds = sum(training_seconds(read_history(run / "history.csv")) for run in runs)
    if not seconds:
        training = (study.get("seconds") or {}).get("training")
        of_models = training if isinstance(training, dict) else study.get("seconds") or {}
        stored = of_models.get(entry["name"])
        seconds = float(stored) if isinstance(stored, int | float) else 0.0
    return {
        "name": entry["name"],
        "spec": spec,
        "published": {name: value for name, value in (entry.get("published") or {}).items() if is_number(value)},
        "runs": runs,
        "seeds": entry.get("seeds") or [],
        "status": str(entry.get("status") or "pending"),
        "error": str(entry.get("error") or ""),
        "seconds": seconds or None,
        "duration": duration(seconds or None),
        "command": _train_command(spec),
        "json": json.dumps(spec, indent=2, ensure_ascii=False),
    }


# --- a run -----------------------------------------------------------------------------------------------------------


def _run_page(folder: Path) -> dict[str, Any]:
    spec = files.read_json(folder / "spec.json", "spec")
    check_weights(folder)
    scores = files.read_json_if_any(folder / "metrics.json", "metrics")
    history = read_history(folder / "history.csv")
    name = folder.resolve().name
    drawn = [path for path in sorted((folder / "figures").glob("*.png")) if path.stem != "curves" or not history]
    wanted = [(f"figures/{path.name}", *_run_figure(path.stem)) for path in drawn]
    uses = uses_of_run(folder, name)
    wanted += uses["pictures"]
    command, quoted = _train_command(spec, name), _quoted(name)
    status = "done" if (folder / WEIGHTS).is_file() else "not finished"
    entry = {
        "name": name,
        "spec": spec,
        "seeds": [spec.get("seed")],
        "status": status,
        "error": "" if status == "done" else f"pyro-vae train --resume --out {quoted} resumes it",
        "duration": duration(training_seconds(history) or None),
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
        "uses": uses["uses"],
        "undone": [],
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
        "differences": setting_differences([entry]),
        "entries": [entry],
        "environment": files.read_json_if_any(folder / "environment.json", "environment"),
        "total_seconds": entry["duration"],
        "commands": [
            ("Train:", command),
            ("Evaluate:", f"pyro-vae evaluate {quoted}"),
            *([("Uses:", "\n".join(uses["commands"]))] if uses["commands"] else []),
            ("This page:", f"pyro-vae report {quoted}"),
        ],
    }


def _run_figure(stem: str) -> tuple[str, str, str]:
    """Title, caption and alternative text of a figure of a run."""
    title, alt = _RUN_FIGURES.get(stem, (stem, f"Figure {stem}"))
    return title, "", alt


def _extractor(scores: Mapping[str, Any]) -> str:
    """The extractor of the scores of samples, and the numbers of images, on which a score depends."""
    provenance = scores.get("provenance")
    source = provenance.get("frechet") if isinstance(provenance, dict) else None
    source = source if isinstance(source, dict) else {}
    sizes = {"samples": source.get("num_generated"), "real images in their place": source.get("num_real")}
    text = ", ".join(f"{size:,} {name}" for name, size in sizes.items() if is_number(size))
    return str(scores.get("extractor") or "") + (f" ({text})" if text else "")


def _metric_rows(scores: Mapping[str, Any]) -> list[dict[str, str]]:
    """Label, value with its error, score of real images, and meaning; errors have no row of their own.

    At the end, the reasons to doubt the NLL.
    """
    errors = {metric.error for metric in METRICS.values()}
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
    """A folder as an argument of a command; a leading dash would make it an option."""
    return shlex.quote(f"./{name}" if name.startswith("-") else name)


def _train_command(spec: Mapping[str, Any], out: str = "RUN") -> str:
    """The command that trains this spec; fields that have their default are left out."""
    options = to_options({name: value for name, value in spec.items() if name != "image_shape"})
    return shlex.join(["pyro-vae", "train", *options, "--out", out])
