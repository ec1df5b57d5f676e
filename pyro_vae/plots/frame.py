"""What all figures share: colours, sizes, titles, and how they are saved."""

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

# Okabe and Ito's palette, safe for colour-blind readers (its yellow darkened, to be seen on white), and three more.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D00", "#000000", "#999999", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")


LONGEST_NAME, LONGEST_IN_LEGEND = 45, 30  # characters of a name beside or above a picture
LONGEST_LEGEND = 24  # entries


def by_name(argument: str, given: object, kind: str) -> Mapping[str, Any]:
    """`given`, one thing at least by its name."""
    if not isinstance(given, Mapping) or not given or not all(isinstance(name, str) for name in given):
        raise checks.fail(argument, given, f"a dictionary of {kind} by name, with at least one")
    return given


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def set_title(figure: Figure, title: str) -> None:
    """Over the whole figure, in as many lines as its width asks for."""
    figure.suptitle(_wrapped(title, figure.get_figwidth()), fontsize=11, parse_math=False)


def set_only_title(axes: Axes, title: str) -> None:
    """Over the only axes of a figure, in as many lines as its width asks for."""
    width = 0.75 * axes.figure.bbox.width / axes.figure.dpi  # beside a legend
    axes.set_title(_wrapped(title, width), fontsize=11, parse_math=False)


def _wrapped(title: str, inches: float) -> str:
    """At most three lines: what is longer would leave no room for the picture."""
    return "\n".join(textwrap.wrap(title, max(8, int(11 * inches)), max_lines=3, placeholder=" ..."))


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """A name that leaves room for the picture."""
    return name if len(name) <= longest else f"{name[: longest - 3]}..."


def add_legend(figure: FigureBase, handles: Sequence[Line2D], names: Sequence[str], **options: Any) -> None:
    """To the right of a figure; names are shown as they are, a `$` or an underscore at the beginning included."""
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
    """n axes in even rows of at most `columns`, each `ratio` times as high as wide, with `around` inches for labels."""
    rows = -(-n // checks.positive_integer("columns", columns))
    columns = -(-n // rows)
    side = min(5.0, (width - legend) / columns)
    figure = new_figure(side * columns + legend, rows * ((side - around) * ratio + 0.25 + 0.8 * around) + 0.25)
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(n)]


@default_style()
def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes a figure to a picture file, atomically; the suffix chooses the format."""
    if not isinstance(figure, Figure):
        raise checks.fail("figure", figure, "a Figure of matplotlib")
    path = checks.path("path", path)
    formats = figure.canvas.get_supported_filetypes()
    suffix = path.suffix.removeprefix(".").lower()
    checks.one_of("picture format", suffix, formats)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # of a name: the figure shows a box in its place
        figure.savefig(content, dpi=150, format=suffix)
    return files.write(path, with_palette(content.getvalue()) if suffix == "png" else content.getvalue())


def with_palette(png: bytes) -> bytes:
    """The same picture with 256 colours, in about a third of the bytes, where no pixel is seen to change."""
    whole = Image.open(io.BytesIO(png)).convert("RGB")
    small = whole.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    if np.abs(np.asarray(whole, int) - np.asarray(small.convert("RGB"), int)).max() > 24:  # of 256 levels
        return png
    content = io.BytesIO()
    small.save(content, "png", optimize=True)
    return content.getvalue()
