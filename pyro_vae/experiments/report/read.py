"""Reads the files of a report: tables of numbers, histories, and JSON objects whose fields are checked."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_vae._utils import checks


def read_csv(path: Path, text_columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a table of numbers; none if there is no file."""
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


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of `history.csv`, one per epoch."""
    return [finite_numbers(row) for row in read_csv(path)]


def finite_numbers(row: Mapping[str, str]) -> dict[str, float]:
    """The finite numbers of a row; empty cells and non-finite numbers are absent."""
    numbers = {name: float(text) for name, text in row.items() if text}
    return {name: number for name, number in numbers.items() if math.isfinite(number)}


FIELDS_OF_A_DIFFERENCE = {"metric": str, "first": str, "second": str}
_KINDS: dict[type, str] = {list: "a list", dict: "an object", str: "a string"}


def check_object(value: Any, argument: str, kinds: Mapping[str, type], *, optional: bool = False) -> bool:
    """Checks that `value` is a JSON object whose fields are of these types; `optional` ones may be absent."""
    if not isinstance(value, dict):
        raise checks.fail(argument, value, "an object")
    for name, kind in kinds.items():
        if optional and value.get(name) is None:
            continue
        if not isinstance(value.get(name), kind):
            raise checks.fail(f"{argument}: {name}", value.get(name), _KINDS[kind])
    return True


def training_seconds(history: Iterable[Mapping[str, float]]) -> float:
    """The seconds of all epochs together."""
    return sum(row.get("seconds", 0.0) for row in history)
