"""What `pyro-vae denoise` and its like left in a run folder or in a study: numbers, pictures, and the commands."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyro_vae._utils import checks, files
from pyro_vae.experiments.report.read import check_object, read_csv
from pyro_vae.experiments.report.texts import is_number, number
from pyro_vae.experiments.study import COMMANDS
from pyro_vae.experiments.uses import numbers

NO_OPTIONS = ("run", "weights", "images", "environment")  # of what a command records of itself

_PICTURES = {  # what is seen, by the end of the file's name
    "denoise": {"": "Noisy test images, the posterior means, their standard deviations, and the clean images."},
    "inpaint": {"": "What is seen of test images, draws of what is hidden, the mean, and the whole images."},
    "outliers": {
        "roc": "The share of outliers that each score flags, over that of inliers; areas are in the legend.",
        "most-outlying": "Of inliers and outliers together, those of the highest scores.",
        "pixels": "Inliers and outliers, each over the terms of -log p(x|z) of its pixels.",
    },
    "neighbours": {"": "Test images beside their nearest training images by codes and by pixels."},
    "traverse": {
        "effects": "What moving codes along each direction does to each attribute: how steadily, and how much.",
        "": "Test images whose codes are moved along the direction, over what is measured of the decoded images.",
    },
    "debias": {"": "Images of the largest and the smallest weights, the weights, and the classes before and after."},
}


def uses_of_study(folder: Path) -> dict[str, Any]:
    """The table, the pictures, and what is not done, of a study."""
    rows = read_csv(folder / "uses.csv", ("model", "command", "options", "quantity"))
    for row in rows:
        row["command"] = f"{row['command']} {row.pop('options')}".strip()
        row["text"] = _with_error(*(float(row[name]) if row.get(name) else None for name in ("value", "se")))
    listed = files.read_json_if_any(folder / "uses.json", "uses").get("uses") or []
    for use in listed:
        check_object(use, "use", dict.fromkeys(("model", "command", "options", "folder", "state", "error"), str))
    of_folder = {use["folder"]: (use["model"], use["command"]) for use in listed}
    pictures = []
    for path in sorted((folder / "uses").glob("*/*.png")):
        model, command = of_folder.get(path.parent.name) or _model_and_command(path.parent.name)
        pictures.append((path.relative_to(folder).as_posix(), *_picture(command, path.stem, f"{model}: {command}")))
    undone = [use for use in listed if use["state"] != "done"]
    return {"uses": _grouped(rows), "undone": undone, "pictures": pictures}


def uses_of_run(folder: Path, name: str) -> dict[str, Any]:
    """The table, the pictures, and the commands, of a run that has this name in them."""
    rows, pictures, commands = [], [], []
    for use in COMMANDS:
        for path in sorted((folder / use).glob("*.json")):
            stored = files.read_json(path, use)
            try:
                measured = list(numbers(stored))
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise checks.fail(use, str(path), f"what pyro-vae {use} writes") from error
            title = _title(use, path.stem)
            rows += [
                {"model": name, "command": title, "quantity": each["quantity"], "text": _with_error(**_parts(each))}
                for each in measured
            ]
            if isinstance(stored.get("provenance"), dict):
                commands.append(_command(use, name, stored["provenance"]))
        for path in sorted((folder / use).glob("*.png")):
            pictures.append((f"{use}/{path.name}", *_picture(use, path.stem, use[:1].upper() + use[1:])))
    return {"uses": _grouped(rows), "undone": [], "pictures": pictures, "commands": commands}


def _parts(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {name: measured[name] for name in ("value", "se")}


def _with_error(value: Any, se: Any = None) -> str:
    """A number with about four digits, and its standard error with as many decimals."""
    if not is_number(value):
        return ""
    digits = max(0, 4 - len(str(int(abs(value))))) if abs(value) >= 1 else 4
    return number(value, digits) + (f" ± {number(se, digits)}" if is_number(se) else "")


def _grouped(rows: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    """The rows by the command that measured them, which the table says once."""
    groups = itertools.groupby(rows, key=lambda row: (row["model"], row["command"]))
    return [{"model": model, "command": command, "rows": list(group)} for (model, command), group in groups]


def _title(use: str, stem: str) -> str:
    return use if stem in use else f"{use}, {stem}"


def _picture(command: str, stem: str, head: str) -> tuple[str, str, str]:
    """Title, caption and alternative text."""
    captions = _PICTURES.get(command, {})
    ending = next((name for name in captions if name and (stem == name or stem.endswith(f"-{name}"))), "")
    title = head if stem in command else f"{head}, {stem}"
    return title, captions.get(ending, ""), f"Figure of pyro-vae {command}: {title}"


def _model_and_command(folder: str) -> tuple[str, str]:
    """Of a folder that no `uses.json` lists; it is named `MODEL-COMMAND-OPTIONS`."""
    command = next((name for name in COMMANDS if f"-{name}" in folder), "")
    return (folder.partition(f"-{command}")[0], command) if command else (folder, "")


def _command(use: str, run: str, provenance: Mapping[str, Any]) -> str:
    """The command that measured this; True is a flag, and a list is an option that is repeated."""
    words = ["pyro-vae", use, f"./{run}" if run.startswith("-") else run]
    for name, value in provenance.items():
        if name in NO_OPTIONS or value is None or value is False:
            continue
        option = f"--{name.removesuffix('_sd').replace('_', '-')}"  # `range_sd` has its unit in its name
        several = value if isinstance(value, list) else [value]
        words += [option if each is True else f"{option}={each}" for each in several]
    return shlex.join(words)
