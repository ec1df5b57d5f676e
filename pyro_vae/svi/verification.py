"""Compares the results of a program with those of its captured step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def copies(results: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The results, which a next run may overwrite, as they are now."""
    return [None if result is None else result.detach().clone() for result in results]


def difference(
    expected: Sequence[Tensor | None], actual: Sequence[Tensor | None], tolerance: float = 1e-4, slack: float = 1
) -> str | None:
    """What differs between a program's loss and gradients and those of its captured step; None if nothing does.

    Results that are not finite are the same only where both are infinite, with the same sign, or both are NaN.

    Args:
        expected, actual: of the program, and of its captured step: the loss first, None for no gradient. Without
            a loss, which is None, they are draws.
        tolerance: of the loss, absolute and relative to its size. A gradient's is relative to its own largest element,
            and 100 times less to the largest of all, from which it may be left by cancellation.
        slack: a factor of all tolerances, for sums in another order.

    >>> difference([torch.tensor(2.0)], [torch.tensor(2.1)])
    "the program's loss is 2, that of its captured step 2.1"
    """
    largest = max((_size(value) for value in expected[1:] if value is not None), default=0.0)
    for number, (value, other) in enumerate(zip(expected, actual, strict=True)):
        if value is None or other is None:
            if value is not other:
                return "a parameter has a gradient in only one of the program and its captured step"
            continue
        within = 1e-3 * _size(value) + 1e-5 * largest + 1e-5 if number else tolerance * (1 + _size(value))
        dense, like = value.to_dense(), other.to_dense().to(value)
        if dense.shape != like.shape or not torch.allclose(like, dense, rtol=0, atol=slack * within, equal_nan=True):
            if number:
                what = "gradients" if expected[0] is not None else "draws"
                return f"the program's {what} differ from those of its captured step"
            return f"the program's loss is {_short(value)}, that of its captured step {_short(other)}"
    return None


def _size(value: Tensor) -> float:
    """The largest finite size of its elements; of truth values 1, if one is true."""
    return float((1 * value.to_dense()).abs().nan_to_num(0, 0).max()) if value.numel() else 0.0


def _short(loss: Tensor) -> str:
    return ", ".join(f"{number:.6g}" for number in loss.flatten().tolist())
