"""How figures look, whatever a user's matplotlibrc says. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl

# All but the backend: figures are made and saved without one.
_DEFAULTS: Any = {name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"}


@contextmanager
def default_style() -> Iterator[None]:
    """matplotlib's own defaults, inside; also a decorator. A user's settings are as before afterwards."""
    with mpl.rc_context(_DEFAULTS):
        yield
