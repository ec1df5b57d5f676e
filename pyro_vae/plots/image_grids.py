"""Images in rows, sheets and grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.figure_style import default_style
from pyro_vae.data.batches import to_unit
from pyro_vae.plots.curves import Panel, draw_curves
from pyro_vae.plots.frame import by_name, new_figure, new_panels, set_only_title, set_title, shortened


def tile(images: Tensor, columns: int, gap: int = 1) -> Tensor:
    """Images `(N, C, H, W)` in rows of `columns`, with white gaps, as a single image `(height, width, C)`."""
    images, columns = _images("images", images), checks.positive_integer("columns", columns)
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    sheet = torch.ones(rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    for index, image in enumerate(images):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image.permute(1, 2, 0)
    return sheet


def _images(argument: str, value: Any) -> Tensor:
    """Images `(N, C, H, W)` as floats on the CPU; uint8 values are grey levels.

    Floats outside [0, 1], such as samples of a normal likelihood, are shown as black or white. Grey levels stored as
    floats (whole numbers above 1) would all be white, so they are errors.
    """
    images = checks.tensor(argument, value).cpu()
    if images.dim() != 4 or images.shape[1] not in (1, 3) or 0 in images.shape or images.is_complex():
        raise checks.fail(argument, value, "images of shape (N, C, H, W), with 1 or 3 channels and at least one image")
    if images.dtype == torch.uint8:
        return to_unit(images)
    images = images.float()
    if not images.isfinite().all():
        raise checks.fail(argument, f"{int((~images.isfinite()).sum())} values that are not finite", "finite numbers")
    if images.max() > 1 and bool((images == images.round()).all()):
        raise checks.fail(
            argument, f"whole numbers up to {images.max():g}", "numbers in [0, 1], or grey levels as uint8"
        )
    return images


def rows_of_images(argument: str, value: Any) -> dict[str, Tensor]:
    """Images by name, with the same number and shape in each row."""
    rows = {name: _images(f"row {name!r}", images) for name, images in by_name(argument, value, "images").items()}
    first = next(iter(rows.values()))
    for name, images in rows.items():
        if len(images) != len(first):
            raise checks.fail(f"row {name!r}", f"{len(images)} images", f"{len(first)}, as in the first row")
        if images.shape != first.shape:
            raise checks.fail(f"row {name!r}", images, f"images of shape {tuple(first.shape[1:])}, as in the first row")
    return rows


def _grid(argument: str, value: Any) -> Tensor:
    """A square grid of images, `(size, size, C, H, W)`."""
    grid = checks.tensor(argument, value)
    if grid.dim() != 5 or len(grid) != grid.shape[1]:
        raise checks.fail(argument, value, "a grid of images of shape (size, size, C, H, W)")
    return _images(argument, grid.flatten(0, 1)).unflatten(0, grid.shape[:2])


def _show(axes: Axes, sheet: Tensor) -> None:
    axes.imshow(sheet.clamp(0, 1).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


@default_style()
def image_grid(images: Tensor, title: str = "", columns: int | None = None, column_names: Sequence[str] = ()) -> Figure:
    """Images `(N, C, H, W)` in [0, 1], in a sheet that is nearly square unless `columns` is given.

    `column_names` stand over the columns, a name for each.
    """
    images = _images("images", images)
    columns = round(len(images) ** 0.5) if columns is None else checks.positive_integer("columns", columns)
    rows = -(-len(images) // columns)
    height, width = images.shape[2:]
    side = min(7.0, 0.9 * columns)
    figure = new_figure(side, side * rows * height / (columns * width) + 0.4 + 0.25 * bool(column_names))
    axes = figure.add_subplot()
    _show(axes, tile(images, columns))
    _name_columns(axes, column_names, columns, width)
    set_only_title(axes, title)
    return figure


@default_style()
def reconstructions(originals: Tensor, reconstructed: Tensor, title: str = "", columns: int = 10) -> Figure:
    """Originals over their reconstructions, both `(N, C, H, W)` in [0, 1], in pairs of rows."""
    originals, reconstructed = _images("originals", originals), _images("reconstructed", reconstructed)
    if originals.shape != reconstructed.shape:
        raise checks.fail(
            "reconstructed", tuple(reconstructed.shape), f"the shape of the originals, {tuple(originals.shape)}"
        )
    columns = min(checks.positive_integer("columns", columns), len(originals))
    pairs = [
        tile(torch.cat(pair), len(pair[0]))
        for pair in zip(originals.split(columns), reconstructed.split(columns), strict=True)
    ]
    height, width = originals.shape[2:]
    figure = new_figure(0.75 * columns + 1.1, len(pairs) * (1.5 * height / width + 0.15) + 0.4)
    for axes, sheet in zip(figure.subplots(len(pairs), 1, squeeze=False)[:, 0], pairs, strict=True):
        _show(axes, sheet)
        axes.set_yticks([height / 2, 1.5 * height + 1], ["original", "reconstruction"], fontsize=9)
        axes.tick_params(length=0)
    set_title(figure, title)
    return figure


@default_style()
def image_rows(rows: Mapping[str, Tensor], column_names: Sequence[str] = (), title: str = "") -> Figure:
    """Named rows of images, each `(N, C, H, W)` in [0, 1] with the same N, under each other."""
    rows = rows_of_images("rows", rows)
    figure = new_figure(*size_of_rows(rows, bool(column_names)))
    draw_rows(figure.add_subplot(), rows, column_names)
    set_title(figure, title)
    return figure


@default_style()
def image_rows_and_curves(
    rows: Mapping[str, Tensor],
    panels: Sequence[Panel],
    column_names: Sequence[str] = (),
    title: str = "",
    log: bool = False,
) -> Figure:
    """:func:`image_rows` over :func:`curve_panels`, these in one row."""
    rows = rows_of_images("rows", rows)
    height = size_of_rows(rows, bool(column_names))[1]
    figure = new_figure(9.0, height + 3.2)
    above, below = figure.subfigures(2, 1, height_ratios=[height, 3.2], squeeze=False)[:, 0]
    draw_rows(above.add_subplot(), rows, column_names)
    draw_curves(below, [below.add_subplot(1, len(panels), index + 1) for index in range(len(panels))], panels, log)
    set_title(figure, title)
    return figure


def size_of_rows(rows: Mapping[str, Tensor], column_names: bool) -> tuple[float, float]:
    """Width and height in inches."""
    n, _, height, width = next(iter(rows.values())).shape
    side = min(0.75, 7.5 / n)
    longest = max(len(shortened(line)) for name in rows for line in name.splitlines())
    return side * n + 0.2 + 0.1 * longest, side * len(rows) * height / width + 0.35 + 0.25 * column_names


def draw_rows(axes: Axes, rows: Mapping[str, Tensor], column_names: Sequence[str]) -> None:
    n, _, height, width = next(iter(rows.values())).shape
    _show(axes, tile(torch.cat(list(rows.values())), n))
    names = ["\n".join(map(shortened, name.splitlines())) for name in rows]
    axes.set_yticks(
        [(height - 1) / 2 + row * (height + 1) for row in range(len(rows))], names, fontsize=9, parse_math=False
    )
    _name_columns(axes, column_names, n, width)


def _name_columns(axes: Axes, column_names: Sequence[str], n: int, width: int) -> None:
    """A name over each of n columns of images that are `width` pixels wide, if there are names."""
    if column_names and len(column_names) != n:
        raise checks.fail("column_names", column_names, f"{n} names, one for each column")
    if column_names:
        axes.xaxis.tick_top()
        names = [shortened(name) for name in column_names]
        axes.set_xticks(
            [(width - 1) / 2 + column * (width + 1) for column in range(n)], names, fontsize=9, parse_math=False
        )
    axes.tick_params(length=0)


@default_style()
def captioned_images(images: Tensor, captions: Sequence[str], title: str = "", columns: int = 8) -> Figure:
    """Images `(N, C, H, W)` in [0, 1], `columns` in a row, each under a caption of one or several lines."""
    images = _images("images", images)
    columns = min(checks.positive_integer("columns", columns), len(images))
    are_texts = isinstance(captions, list | tuple) and all(isinstance(caption, str) for caption in captions)
    if not are_texts or len(captions) != len(images):
        raise checks.fail("captions", captions, f"{len(images)} texts, one for each image")
    lines = max(caption.count("\n") + 1 for caption in captions)
    height, width = images.shape[2:]
    figure, panels = new_panels(len(images), columns, height / width, width=9.0, around=0.16 * lines)
    for axes, image, caption in zip(panels, images, captions, strict=True):
        _show(axes, image.permute(1, 2, 0))
        axes.set_title("\n".join(map(shortened, caption.splitlines())), fontsize=7, parse_math=False, pad=2)
    set_title(figure, title)
    return figure


@default_style()
def image_panels(panels: Mapping[str, Tensor], columns: int, tiles: int, title: str = "") -> Figure:
    """Named sheets of images, each `(N, C, H, W)` in [0, 1]: `columns` sheets per row, `tiles` images per sheet row."""
    panels = {name: _images(f"panel {name!r}", images) for name, images in by_name("panels", panels, "images").items()}
    tiles = checks.positive_integer("tiles", tiles)
    n, _, height, width = next(iter(panels.values())).shape
    ratio = -(-n // tiles) * height / (tiles * width)
    figure, grid = new_panels(len(panels), columns, ratio, around=0.05)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.06)
    for axes, (name, images) in zip(grid, panels.items(), strict=True):
        _show(axes, tile(images, tiles))
        axes.set_title(shortened(name), fontsize=9, parse_math=False)
    set_title(figure, title)
    return figure


@default_style()
def manifold(images: Tensor, spacing: str = "even", limit: float = 3.0, title: str = "") -> Figure:
    """The grid `(size, size, C, H, W)` that :func:`pyro_vae.latent.manifold` decodes; arguments as there."""
    images = _grid("images", images)
    figure = new_figure(7.0, 7.0 * images.shape[3] / images.shape[4])
    _manifold(figure.add_subplot(), images, spacing, limit)
    set_only_title(figure.axes[0], title)
    return figure


@default_style()
def manifold_panels(
    grids: Mapping[str, Tensor], spacing: str = "even", limit: float = 3.0, columns: int = 2, title: str = ""
) -> Figure:
    """Several manifolds as in :func:`manifold`, side by side."""
    grids = {name: _grid(f"grid {name!r}", images) for name, images in by_name("grids", grids, "grids").items()}
    height, width = next(iter(grids.values())).shape[3:]
    figure, axes = new_panels(len(grids), columns, height / width)
    for panel, (name, images) in zip(axes, grids.items(), strict=True):
        _manifold(panel, images, spacing, limit)
        panel.set_title(shortened(name), fontsize=10, parse_math=False)
    set_title(figure, title)
    return figure


def _manifold(axes: Axes, images: Tensor, spacing: str, limit: float) -> None:
    checks.one_of("spacing", spacing, ("even", "quantiles"))
    size, _, _, height, width = images.shape
    _show(axes, tile(images.flatten(0, 1), size, gap=0))
    positions = [0.5 * width, size * width / 2, (size - 0.5) * width]
    if spacing == "even":
        ticks, label = [f"{-limit:g}", "0", f"{limit:g}"], "$z_{}$"
    else:
        ticks, label = [f"{0.5 / size:.3g}", "0.5", f"{1 - 0.5 / size:.3g}"], r"quantile of $z_{}$ under the prior"
    axes.set_xticks([position - 0.5 for position in positions], ticks)
    axes.set_yticks([position * height / width - 0.5 for position in positions], ticks[::-1])
    axes.set_xlabel(label.replace("{}", "1"))
    axes.set_ylabel(label.replace("{}", "2"))
