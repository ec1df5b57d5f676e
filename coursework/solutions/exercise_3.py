"""Exercise 3, solved."""

from typing import Any

from torch import Tensor


def active_units(means: Tensor) -> int:
    return int((means.var(0, unbiased=False) > 0.01).sum())


def collapsed() -> dict[str, Any]:
    # Each nat of KL costs 10 of reconstruction: no code is worth that.
    return {"beta": 10.0}


def mended() -> dict[str, Any]:
    return {"beta": 0.5}
