"""Progress of long work on standard error: a bar on a terminal, plain lines in a file or a notebook."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

LINE_SECONDS = 30.0  # between two lines about the same part of the work

T = TypeVar("T")


def say(text: str) -> None:
    """Prints a line on standard error; without one, or if it is closed, nothing is printed."""
    if sys.stderr is None:  # as under pythonw
        return
    try:
        print(" ".join(text.split()), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return


def on_terminal() -> bool:
    """Whether standard error is a terminal."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # closed
        return False


def duration(seconds: float) -> str:
    """A duration as text.

    >>> duration(4.24), duration(90), duration(7500)
    ('4.2 s', '1 min 30 s', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


class Progress:
    """A count towards `total`, as a context manager: a bar on a terminal, else lines.

    Args:
        total: the count at the end.
        unit: what is counted, such as `step`.
        name: of the work.
        initial: the count at the start, done earlier.
        visible: whether anything is printed.
        timed: without a terminal, print the count and the time left every half minute.
    """

    def __init__(
        self, total: int, unit: str, name: str = "", *, initial: int = 0, visible: bool = True, timed: bool = True
    ) -> None:
        self.total, self.unit, self.name = total, unit, name
        self.initial = self.done = initial
        self.started = self.last_line = time.monotonic()
        self.bar: Any = None
        if visible and on_terminal():
            self.bar = tqdm(total=total, initial=initial, desc=name or None, unit=unit, leave=not name)
        self.lines = visible and self.bar is None
        self.timed = timed

    def update(self, n: int = 1) -> None:
        """Adds n to the count."""
        self.done += n
        if self.bar is not None:
            self.bar.update(n)
        elif self.lines and self.timed and time.monotonic() - self.last_line >= LINE_SECONDS:
            self.last_line = time.monotonic()
            units = self.unit + ("es" if self.unit.endswith("ch") else "s")
            say(f"{self.name}: {self.done:,} of {self.total:,} {units}, {self.left()}")

    def describe(self, text: str) -> None:
        """Puts a text beside the bar, if there is a bar."""
        if self.bar is not None:
            self.bar.set_postfix_str(text)

    def line(self, text: str) -> None:
        """Prints a line, if there is no bar."""
        if self.lines:
            say(text)

    def left(self) -> str:
        """The time left at the average speed so far."""
        done = self.done - self.initial
        if not done:
            return "time left unknown"
        return f"{duration((time.monotonic() - self.started) * (self.total - self.done) / done)} left"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


def track(parts: Iterable[T], total: int, unit: str, name: str, *, visible: bool) -> Iterator[T]:
    """The parts in order, each counted when the caller asks for the next."""
    with Progress(total, unit, name, visible=visible) as progress:
        for part in parts:
            yield part
            progress.update()
