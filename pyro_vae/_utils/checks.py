"""Checks of arguments of public functions; an error is a line: the argument, its value, and what is expected."""

from __future__ import annotations

import difflib
import math
import numbers
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


LONGEST = 500  # characters of a value in a message
LARGEST = 2**63 - 1  # the largest whole number that a tensor holds, as an element or as a size
_PRINTED = (str, numbers.Number, os.PathLike, type(None))


class InputError(ValueError):
    r"""Bad input; the command line prints its message, a single line, and exits with 2.

    Where a program is traced, Pyro raises its errors anew with the shapes of all sites below; those are left out.

    >>> InputError("labels: given 12\n Trace Shapes:\n  Param Sites:")
    InputError('labels: given 12')
    """

    def __init__(self, message: str) -> None:
        super().__init__(re.split(r"\n *Trace Shapes:", message, maxsplit=1)[0])


def fail(argument: str, value: object, expected: str) -> InputError:
    """The error for `argument`, which the caller raises."""
    return InputError(f"{argument}: given {_described(value)}, expected {' '.join(expected.split())}")


def unknown_name(argument: str, value: object, expected: Iterable[str]) -> InputError:
    """The error for a name that is not among `expected`; it suggests the nearest."""
    names = list(expected)
    nearest = difflib.get_close_matches(str(value), names, n=1)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    return fail(argument, value, f"one of {', '.join(names)}{hint}")


def tensor(argument: str, value: Any) -> Tensor:
    """`value` as a tensor; accepts NumPy arrays and lists of numbers."""
    import torch  # here, because the command line checks its options without torch

    if isinstance(value, torch.Tensor):
        return value.detach()
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise fail(argument, value, "a tensor of numbers") from error


def matrix(argument: str, value: Any) -> Tensor:
    """`value` as a tensor on the CPU with two dimensions."""
    matrix = tensor(argument, value).cpu()
    if matrix.dim() != 2 or 0 in matrix.shape:
        raise fail(argument, value, "a matrix of numbers with at least one row and column")
    return matrix


def path(argument: str, value: object) -> Path:
    """`value` as a path, with `~` expanded if there is such a user."""
    if not isinstance(value, str | os.PathLike):
        raise fail(argument, value, "a path")
    return Path(os.path.expanduser(value))


def one_of(argument: str, value: object, expected: Iterable[str]) -> str:
    """`value`, if it is one of the names `expected`."""
    names = list(expected)
    if not isinstance(value, str) or value not in names:
        raise unknown_name(argument, value, names)
    return str(value)


def boolean(argument: str, value: object) -> bool:
    """`value`, Python's or NumPy's, as True or False."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise fail(argument, value, "True or False")
    return bool(value)


def positive_integer(argument: str, value: object) -> int:
    """`value`, Python's or NumPy's, as a whole number of at least 1."""
    return _integer(argument, value, 1, "a whole number of at least 1")


def sizes(argument: str, value: Any, length: int | None = None) -> tuple[int, ...]:
    """`value`, a list, tuple or array, as `length` whole numbers of at least 1, or as any number of them."""
    numbers = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(numbers, tuple | list) or (length is not None and len(numbers) != length):
        raise fail(argument, value, f"{length or 'a list of'} whole numbers")
    return tuple(positive_integer(argument, number) for number in numbers)


def non_negative_integer(argument: str, value: object) -> int:
    """`value` as a whole number of at least 0."""
    return _integer(argument, value, 0, "a whole number of at least 0")


def seed(argument: str, value: object) -> int:
    """`value` as a whole number from 0 to below 2^63, the seeds that torch's generators accept."""
    return _integer(argument, value, 0, "a whole number from 0 to below 2^63")


def positive(argument: str, value: object) -> float:
    """`value`, Python's or NumPy's, as a finite number above 0."""
    number = _finite(value)
    if number is None or number <= 0:
        raise fail(argument, value, "a finite number above 0")
    return number


def non_negative(argument: str, value: object) -> float:
    """`value` as a finite number of at least 0."""
    number = _finite(value)
    if number is None or number < 0:
        raise fail(argument, value, "a finite number of at least 0")
    return number


def _integer(argument: str, value: object, least: int, expected: str) -> int:
    number = int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else None
    if number is None or number < least:
        raise fail(argument, value, expected)
    if number > LARGEST:
        raise fail(argument, value, f"a whole number from {least} to below 2^63")
    return number


def _finite(value: object) -> float | None:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of over 300 digits
        return None
    return number if math.isfinite(number) else None


def _described(value: object) -> str:
    """`value` in a single line; an array by its dtype and shape, other large objects by their type."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "plain"):  # a part, as JSON has it
        value = value.plain()
    shape = getattr(value, "shape", None)
    if hasattr(value, "dtype") and isinstance(shape, tuple) and shape:
        return f"{type(value).__name__} of {str(value.dtype).removeprefix('torch.')} and shape {tuple(shape)}"
    if type(value) in (list, tuple, dict) or shape == () or isinstance(value, _PRINTED):
        text = " ".join(repr(value).split())
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return f"{type(value).__name__}"
