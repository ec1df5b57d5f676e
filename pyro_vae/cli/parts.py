"""`pyro-vae parts`: the kinds of each part, and the options of a kind, from their classes. Imports no torch."""

from __future__ import annotations

import re
import textwrap
from typing import Annotated

import typer

from pyro_vae._utils import checks
from pyro_vae._utils.console import show
from pyro_vae.parts import SHELVES, Kind, checked, kinds

WIDTH = 79
_SECTION = re.compile(r"\n\n(?=Args:\n|Raises:\n|Source: |>>> )")
_ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?([^`]+)`")


def parts(
    part: Annotated[str | None, typer.Argument(help=", ".join(SHELVES), show_default=False)] = None,
    kind: Annotated[str | None, typer.Argument(help="one of its kinds", show_default=False)] = None,
) -> None:
    """List the parts that a run is made of; of one kind, its options, equation and source."""
    if part is not None:
        checks.one_of("part", part, SHELVES)
    if part is None or kind is None:
        show("\n\n".join(_listed(name) for name in SHELVES if part in (None, name) and kinds(name)))
        return
    name = checked(part, kind).kind
    if name not in kinds(part):
        raise checks.fail(part, name, f"one of {', '.join(kinds(part))}: your own classes are not listed")
    show(_described(part, name, kinds(part)[name]))


def _listed(part: str) -> str:
    lines = [f"{part}:"]
    for name, kind in kinds(part).items():
        first = _plain(kind.doc.split("\n\n")[0])
        lines += textwrap.wrap(f"{name:20} {first}", WIDTH, initial_indent="  ", subsequent_indent=" " * 23)
    return "\n".join(lines)


def _described(part: str, name: str, kind: Kind) -> str:
    """The docstring of a kind without its example, its arguments as options."""
    text, *sections = _SECTION.split(kind.doc)
    helps, blocks = dict[str, str](), [f"--{part} {name}", *map(_filled, _plain(text).split("\n\n"))]
    for section in sections:
        if section.startswith("Args:"):
            helps = dict(re.findall(r"^    (\w+): (.*(?:\n      .*)*)", section, re.MULTILINE))
    options = []
    for option, (kind_of, default) in kind.options.items():
        head = f"  --{part}.{option}  {kind_of}" + (f", default {default}" if default else "")
        meaning = " ".join(_plain(helps.get(option, "")).split())
        options += [head, *textwrap.wrap(meaning, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)]
    blocks.append("\n".join(["options:", *options]) if options else "options: none")
    blocks += [_filled(_plain(section)) for section in sections if section.startswith("Source: ")]
    return "\n\n".join(blocks)


def _filled(paragraph: str) -> str:
    """The paragraph, wrapped to the width of a terminal; an equation stays as it is."""
    return paragraph if paragraph.startswith("    ") else textwrap.fill(" ".join(paragraph.split()), WIDTH)


def _plain(text: str) -> str:
    """The text without the markup of reStructuredText."""
    text = re.sub(r"^\.\. math:: *", "    ", text, flags=re.MULTILINE)
    return _ROLE.sub(r"\1", text).replace("``", "`")
