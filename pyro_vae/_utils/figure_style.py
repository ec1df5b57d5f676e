"""The colours of figures, and a style that does not depend on the user's matplotlibrc. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl

# Okabe and Ito's palette, safe for colour-blind readers (the yellow darkened to be seen on white), and three more.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D00", "#000000", "#999999", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")

# All but the backend: figures are drawn and saved without one.
_DEFAULTS: Any = {name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"}


@contextmanager
def default_style() -> Iterator[None]:
    """Inside, matplotlib's own defaults apply; afterwards the user's settings do. Also a decorator."""
    with mpl.rc_context(_DEFAULTS):
        yield
