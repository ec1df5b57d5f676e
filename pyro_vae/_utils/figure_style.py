"""A style for figures that does not depend on the user's matplotlibrc. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl

# All but the backend: figures are drawn and saved without one.
_DEFAULTS: Any = {name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"}


@contextmanager
def default_style() -> Iterator[None]:
    """Inside, matplotlib's own defaults apply; afterwards the user's settings do. Also a decorator."""
    with mpl.rc_context(_DEFAULTS):
        yield
