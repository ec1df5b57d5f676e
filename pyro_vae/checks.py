"""Checks of input at the public edge: one line that names the argument, what was given and what is expected."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable
from pathlib import Path


class InputError(ValueError):
    """Bad input from outside; the command line prints its one line and exits with 2."""


def fail(argument: str, given: object, expected: str) -> InputError:
    """The error for `argument`, to be raised by the caller."""
    return InputError(f"{argument}: given {given!r}, expected {expected}")


def unknown_name(argument: str, given: object, expected: Iterable[str]) -> InputError:
    """The error for a name that is not one of `expected`; it suggests the nearest."""
    names = list(expected)
    nearest = difflib.get_close_matches(str(given), names, n=1)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    return fail(argument, given, f"one of {', '.join(names)}{hint}")


def path(argument: str, given: object) -> Path:
    """`given` as a path."""
    if not isinstance(given, str | os.PathLike):
        raise fail(argument, given, "a path")
    return Path(given)


def one_of(argument: str, given: object, expected: Iterable[str]) -> None:
    """`given` is one of the names `expected`."""
    if given not in (names := list(expected)):
        raise unknown_name(argument, given, names)


def positive_integer(argument: str, given: object) -> None:
    """`given` is a whole number of at least 1."""
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise fail(argument, given, "a whole number of at least 1")


def non_negative_integer(argument: str, given: object) -> None:
    """`given` is a whole number of at least 0."""
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise fail(argument, given, "a whole number of at least 0")


def seed(argument: str, given: object) -> None:
    """`given` is a whole number from 0 to below 2^63, which torch's generators take."""
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < 2**63:
        raise fail(argument, given, "a whole number from 0 to below 2^63")


def positive(argument: str, given: object) -> None:
    """`given` is a finite number above 0."""
    if not _is_finite(given) or given <= 0:  # type: ignore[operator]
        raise fail(argument, given, "a finite number above 0")


def non_negative(argument: str, given: object) -> None:
    """`given` is a finite number of at least 0."""
    if not _is_finite(given) or given < 0:  # type: ignore[operator]
        raise fail(argument, given, "a finite number of at least 0")


def _is_finite(given: object) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)
