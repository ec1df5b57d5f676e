"""Warnings at the line of the user's that called the package, however deep inside they arise."""

from __future__ import annotations

import itertools
import sys
import traceback
import types
import warnings


def warn(text: str) -> None:
    """Warns at the innermost line that is none of this package's."""
    frames = itertools.takewhile(_is_inside, traceback.walk_stack(sys._getframe(1)))
    warnings.warn(text, stacklevel=2 + len(list(frames)))


def _is_inside(frame: tuple[types.FrameType, int]) -> bool:
    # Others than the package stand between two of its frames: a module's __call__, and decorators.
    name: str = frame[0].f_globals.get("__name__", "")
    return name.startswith(("pyro_vae.", "torch.nn.modules.module", "torch.utils._contextlib", "contextlib"))
