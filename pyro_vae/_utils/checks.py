"""Checks of input at the public edge: one line that names the argument, what was given and what is expected."""

from __future__ import annotations

import difflib
import math
import numbers
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


LONGEST = 500  # characters of what was given that are shown
LARGEST = 2**63 - 1  # whole number that a tensor holds, as an element or as a size
_SHOWN = (str, numbers.Number, os.PathLike, type(None))


class InputError(ValueError):
    """Bad input from outside; the command line prints its one line and exits with 2."""


def fail(argument: str, given: object, expected: str) -> InputError:
    """The error for `argument`, to be raised by the caller."""
    return InputError(f"{argument}: given {_shown(given)}, expected {' '.join(expected.split())}")


def unknown_name(argument: str, given: object, expected: Iterable[str]) -> InputError:
    """The error for a name that is not one of `expected`; it suggests the nearest."""
    names = list(expected)
    nearest = difflib.get_close_matches(str(given), names, n=1)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    return fail(argument, given, f"one of {', '.join(names)}{hint}")


def tensor(argument: str, given: Any) -> Tensor:
    """`given` as a tensor; NumPy's arrays and lists of numbers are taken as well."""
    import torch  # where it is there already: the command line checks its options without it

    if isinstance(given, torch.Tensor):
        return given.detach()
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise fail(argument, given, "a tensor of numbers") from error


def matrix(argument: str, given: Any) -> Tensor:
    """`given` as a tensor on the CPU with two dimensions."""
    found = tensor(argument, given).cpu()
    if found.dim() != 2 or 0 in found.shape:
        raise fail(argument, given, "a matrix of numbers, one row for each")
    return found


def path(argument: str, given: object) -> Path:
    """`given` as a path, its `~` expanded where there is such a user."""
    if not isinstance(given, str | os.PathLike):
        raise fail(argument, given, "a path")
    return Path(os.path.expanduser(given))


def one_of(argument: str, given: object, expected: Iterable[str]) -> str:
    """`given`, one of the names `expected`."""
    names = list(expected)
    if not isinstance(given, str) or given not in names:
        raise unknown_name(argument, given, names)
    return str(given)


def boolean(argument: str, given: object) -> bool:
    """`given`, Python's or NumPy's, as True or False."""
    if not isinstance(given, bool) and type(given).__name__ not in ("bool", "bool_"):
        raise fail(argument, given, "True or False")
    return bool(given)


def positive_integer(argument: str, given: object) -> int:
    """`given`, Python's or NumPy's, as a whole number of at least 1."""
    return _integer(argument, given, 1, "a whole number of at least 1")


def non_negative_integer(argument: str, given: object) -> int:
    """`given` as a whole number of at least 0."""
    return _integer(argument, given, 0, "a whole number of at least 0")


def seed(argument: str, given: object) -> int:
    """`given` as a whole number from 0 to below 2^63, which torch's generators take."""
    return _integer(argument, given, 0, "a whole number from 0 to below 2^63")


def positive(argument: str, given: object) -> float:
    """`given`, Python's or NumPy's, as a finite number above 0."""
    number = _finite(given)
    if number is None or number <= 0:
        raise fail(argument, given, "a finite number above 0")
    return number


def non_negative(argument: str, given: object) -> float:
    """`given` as a finite number of at least 0."""
    number = _finite(given)
    if number is None or number < 0:
        raise fail(argument, given, "a finite number of at least 0")
    return number


def _integer(argument: str, given: object, least: int, expected: str) -> int:
    number = int(given) if isinstance(given, numbers.Integral) and not isinstance(given, bool) else None
    if number is None or number < least:
        raise fail(argument, given, expected)
    if number > LARGEST:
        raise fail(argument, given, f"a whole number from {least} to below 2^63")
    return number


def _finite(given: object) -> float | None:
    if not isinstance(given, numbers.Real) or isinstance(given, bool):
        return None
    try:
        number = float(given)
    except OverflowError:  # a whole number of over 300 digits
        return None
    return number if math.isfinite(number) else None


def _shown(given: object) -> str:
    """`given` in one line; of what holds many numbers, or is a whole model, only what it is."""
    if isinstance(given, type):
        return f"the class {given.__name__}"
    shape = getattr(given, "shape", None)
    if hasattr(given, "dtype") and isinstance(shape, tuple) and shape:
        return f"{type(given).__name__} of {str(given.dtype).removeprefix('torch.')} and shape {tuple(shape)}"
    if type(given) in (list, tuple, dict) or shape == () or isinstance(given, _SHOWN):
        text = " ".join(repr(given).split())
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return f"{type(given).__name__}"
