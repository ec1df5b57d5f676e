"""Uses of the models of a study: where their results are, and one table of them. Imports no torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_vae._utils import files
from pyro_vae.experiments.study import Use
from pyro_vae.spec import WEIGHTS

COLUMNS = ("model", "command", "options", "quantity", "value", "se")


def is_done(use: Use, run: Path, out: Path) -> bool:
    """Whether the results of a use are there and newer than the weights of its run; a command writes JSON last."""
    trained = (run / WEIGHTS).stat().st_mtime
    return any(trained <= path.stat().st_mtime for path in (out / "uses" / use.folder).glob("*.json"))


def write_uses(uses: Sequence[Use], out: Path, errors: Mapping[str, str]) -> list[dict[str, Any]]:
    """Writes `uses.csv` and `uses.md`, a row for each number of each use that is done; returns the rows.

    `uses.json` has all uses, whether each is done, and the message of one that failed: `errors`, by folder.
    """
    states = [
        {
            "model": use.model,
            "command": use.command,
            "options": _options(use),
            "folder": use.folder,
            "state": "failed" if use.folder in errors else "done" if _results(use, out) else "not done",
            "error": errors.get(use.folder, ""),
        }
        for use in uses
    ]
    table = [
        {
            "model": use.model,
            "command": use.command,
            "options": _options(use),
            **number,
        }
        for use in uses
        for path in _results(use, out)
        for number in numbers(files.read_json(path, use.command))
    ]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    files.write(out / "uses.csv", buffer.getvalue())
    undone = [state for state in states if state["state"] != "done"]
    files.write(out / "uses.md", to_markdown(table) + "".join(map(_undone, undone)))
    files.write_json(out / "uses.json", {"uses": states})
    return table


def _options(use: Use) -> str:
    return " ".join(f"{flag} {value}" for flag, value in use.flags)


def _results(use: Use, out: Path) -> list[Path]:
    return sorted((out / "uses" / use.folder).glob("*.json"))


def _undone(state: Mapping[str, str]) -> str:
    """A paragraph of a use that has no numbers, or those of an earlier call."""
    error = f": {state['error']}" if state["error"] else ""
    return f"\n{state['model']}: {state['command']} {state['options']}: {state['state']}{error}\n"


def numbers(stored: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Quantity, value and standard error of each number in the JSON file of a use.

    >>> list(numbers({"means": {"rmse_of_mean": {"value": 0.25, "se": 0.01}}}))
    [{'quantity': 'rmse_of_mean', 'value': 0.25, 'se': 0.01}]
    """
    for column, mean in stored.get("means", {}).items():
        yield {"quantity": column, "value": mean["value"], "se": mean.get("se")}
    for score, detected in stored.get("scores", {}).items():
        for name in ("auroc", "auprc", "fpr_at_95"):
            yield {"quantity": f"{name} of {score}", "value": detected[name], "se": None}
    for space, retrieved in stored.get("retrieval", {}).items():
        value, se = retrieved["precision"], retrieved["precision_se"]
        yield {"quantity": f"precision by {space}", "value": value, "se": se}
    for direction, of_direction in stored.get("directions", {}).items():
        for attribute, effect in of_direction["effects"].items():
            yield {"quantity": f"{direction}: change of {attribute}, sd", "value": effect["change_sd"], "se": None}
        if "class_kept" in of_direction:
            kept = of_direction["class_kept"]
            yield {"quantity": f"{direction}: class kept, unmoved", "value": kept[len(kept) // 2], "se": None}
            yield {"quantity": f"{direction}: class kept at the ends", "value": min(kept[0], kept[-1]), "se": None}
    if "effective_images" in stored:
        yield {"quantity": "effective images", "value": stored["effective_images"], "se": None}


def to_markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table, values with their standard errors."""
    lines = [["model", "command", "quantity", "value"], ["---", "---", "---", "---:"]]
    for row in table:
        error = "" if row["se"] is None else f" ± {row['se']:.2g}"
        command = f"{row['command']} {row['options']}".strip()
        lines.append([row["model"], command, row["quantity"], f"{row['value']:.4g}{error}"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
