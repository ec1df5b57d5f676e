"""Printing on standard output: a terminal, a file, a closed pipe, or none."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

_SPELLED = {"±": "+-", "“": '"', "”": '"', "—": "-", "…": "..."}


def show(text: str) -> None:
    """Prints a text.

    Without a standard output, or if it is closed or its disk is full, nothing is printed: a command's purpose is the
    files that it writes, and it continues to write them.
    """
    if sys.stdout is None:  # as under pythonw
        return
    try:
        print(printable(text), flush=True)
    except (OSError, ValueError):
        silence()


def silence() -> None:
    """Redirects standard output to the null device; else Python reports the broken pipe once more when it exits."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        return


def printable(text: str) -> str:
    r"""The text in characters that standard output can encode; others are transcribed, or written as `\xe9`."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return "".join(character if _fits(character, encoding) else _spelled(character, encoding) for character in text)


def _fits(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _spelled(character: str, encoding: str) -> str:
    return _SPELLED.get(character) or character.encode(encoding, "backslashreplace").decode(encoding)


def show_table(
    rows: Sequence[tuple[str, ...]],
    title: str,
    caption: str = "",
    heads: tuple[str, ...] = ("metric", "value", "what it is"),
) -> None:
    """A table, by default of metrics. Cells are printed literally, not as markup."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=Text(printable(title), "table.title"), title_justify="left")
    # The first column names the row: it is not cut for others to fit, unless it is long.
    longest = max((len(row[0]) for row in rows), default=0)
    table.add_column(heads[0], overflow="fold", min_width=min(longest, 20))
    for head in heads[1:-1]:
        table.add_column(head, justify="right")
    table.add_column(heads[-1], overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    if caption:
        table.caption, table.caption_justify = Text(printable(caption), "table.caption"), "left"
    page = _Page()
    Console(file=page).print(table)
    show(page.getvalue())


class _Page(io.StringIO):
    """Text for standard output, with its encoding and, on a terminal, its colours."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stdout, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        try:
            return sys.stdout is not None and sys.stdout.isatty()
        except ValueError:  # closed
            return False
