"""Numbers, settings and durations as a report prints them."""

from __future__ import annotations

import math
import re
from typing import Any

from pyro_vae.parts import Part


def is_number(value: object) -> bool:
    """Whether `value` is a finite number; truth values are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int | None, *, sign: bool = False) -> str:
    """The number as text, with a true minus sign; empty if it is none."""
    if not is_number(value):
        return ""
    text = f"{value:{'+' if sign else ''}{',.4g' if digits is None else f',.{digits}f'}}"
    return text.replace("-", "\N{MINUS SIGN}")


def by_backticks(text: object) -> list[str]:
    """The parts of a text: every second one stands between backticks, and is code."""
    return re.split(r"`([^`]+)`", str(text))


def text_of(value: Any) -> str:
    """A setting of a spec, as text."""
    if value is None:
        return "default"
    if isinstance(value, dict):  # a part with options
        return str(Part.of(value))
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def duration(seconds: float | None) -> str:
    """Seconds, and from 100 on minutes and hours as well; empty if not known."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    exact = f"{seconds:,.0f} s"
    return f"{exact} ({minutes // 60} h {minutes % 60} min)" if minutes >= 60 else f"{exact} ({minutes} min)"
