"""What all figures share: colours, sizes, titles, legends, and saving."""

from __future__ import annotations

import io
import os
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from PIL import Image

from pyro_vae._utils import checks, files
from pyro_vae._utils.figure_style import default_style

LONGEST_NAME, LONGEST_IN_LEGEND = 45, 30  # characters of a name beside or above a picture
LONGEST_LEGEND = 24  # entries


def by_name(argument: str, value: object, kind: str) -> Mapping[str, Any]:
    """`value` as a dictionary by name with at least one entry."""
    if not isinstance(value, Mapping) or not value or not all(isinstance(name, str) for name in value):
        raise checks.fail(argument, value, f"a dictionary of {kind} by name, with at least one")
    return value


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def set_title(figure: Figure, title: str) -> None:
    """A title over the whole figure, wrapped to its width."""
    figure.suptitle(_wrapped(title, figure.get_figwidth()), fontsize=11, parse_math=False)


def set_only_title(axes: Axes, title: str) -> None:
    """A title over the only axes of a figure, wrapped to their width."""
    width = 0.75 * axes.figure.bbox.width / axes.figure.dpi  # leaves room for a legend
    axes.set_title(_wrapped(title, width), fontsize=11, parse_math=False)


def _wrapped(title: str, inches: float) -> str:
    """The title in at most three lines, so that it leaves room for the picture."""
    return "\n".join(textwrap.wrap(title, max(8, int(11 * inches)), max_lines=3, placeholder=" ..."))


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """The name, cut to at most `longest` characters."""
    return name if len(name) <= longest else f"{name[: longest - 3]}..."


def add_legend(figure: FigureBase, handles: Sequence[Line2D], names: Sequence[str], **options: Any) -> None:
    """A legend to the right of a figure; names are printed literally, including `$` and leading underscores."""
    if len(handles) > LONGEST_LEGEND:
        more = f"and {len(handles) - LONGEST_LEGEND + 1} more"
        handles = [*handles[: LONGEST_LEGEND - 1], Line2D([], [], linestyle="")]
        names = [*names[: LONGEST_LEGEND - 1], more]
    legend = figure.legend(list(handles), ["-"] * len(handles), loc="outside right center", fontsize=9, **options)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(shortened(name, LONGEST_IN_LEGEND))


def new_panels(
    n: int, columns: int, ratio: float, *, width: float = 10.0, around: float = 0.55, legend: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """n axes in even rows of at most `columns`, `ratio` times as high as wide, with `around` inches for labels."""
    rows = -(-n // checks.positive_integer("columns", columns))
    columns = -(-n // rows)
    side = min(5.0, (width - legend) / columns)
    figure = new_figure(side * columns + legend, rows * ((side - around) * ratio + 0.25 + 0.8 * around) + 0.25)
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(n)]


@default_style()
def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes a figure to a picture file, atomically; the suffix gives the format."""
    if not isinstance(figure, Figure):
        raise checks.fail("figure", figure, "a Figure of matplotlib")
    path = checks.path("path", path)
    formats = figure.canvas.get_supported_filetypes()
    suffix = path.suffix.removeprefix(".").lower()
    checks.one_of("picture format", suffix, formats)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # in a name; the figure has a box in its place
        figure.savefig(content, dpi=150, format=suffix)
    return files.write(path, with_palette(content.getvalue()) if suffix == "png" else content.getvalue())


def with_palette(png: bytes) -> bytes:
    """The picture with 256 colours, in about a third of the bytes, unless some pixel would change visibly."""
    whole = Image.open(io.BytesIO(png)).convert("RGB")
    small = whole.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    if np.abs(np.asarray(whole, int) - np.asarray(small.convert("RGB"), int)).max() > 24:  # of 256 levels
        return png
    content = io.BytesIO()
    small.save(content, "png", optimize=True)
    return content.getvalue()
