"""Arrays -> matplotlib `Figure`. Only the functions called `save_...` write files; nothing here shows one."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from pyro_vae import checks, files, latent
from pyro_vae.data import Images
from pyro_vae.models import Autoencoder, Model
from pyro_vae.models.images import evaluating

if TYPE_CHECKING:
    from pyro_vae.training import History

# Okabe and Ito's palette, safe for colour-blind readers (its yellow darkened, to be seen on white), and three more.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D00", "#000000", "#999999", "#882255")
LineStyle = Literal["-", "--", "-.", ":"]
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tile(images: Tensor, columns: int, gap: int = 1) -> Tensor:
    """Images `(N, C, H, W)` in rows of `columns`, white between them: `(height, width, C)`."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    sheet = torch.ones(rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    for index, image in enumerate(images.cpu()):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image.permute(1, 2, 0)
    return sheet


def _show(axes: Axes, sheet: Tensor) -> None:
    axes.imshow(sheet.clamp(0, 1).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def image_grid(images: Tensor, title: str = "", columns: int | None = None) -> Figure:
    """Images `(N, C, H, W)` in [0, 1], as square as it goes."""
    columns = columns or max(1, round(len(images) ** 0.5))
    rows = -(-len(images) // columns)
    height, width = images.shape[2:]
    side = min(7.0, 0.9 * columns)
    figure = _figure(side, side * rows * height / (columns * width) + 0.4)
    axes = figure.add_subplot()
    _show(axes, tile(images, columns))
    axes.set_title(title, fontsize=11)
    return figure


def reconstructions(originals: Tensor, reconstructed: Tensor, title: str = "", columns: int = 10) -> Figure:
    """Originals over their reconstructions, both `(N, C, H, W)` in [0, 1], in pairs of rows."""
    if originals.shape != reconstructed.shape:
        raise checks.fail(
            "reconstructed", tuple(reconstructed.shape), f"the shape of the originals, {tuple(originals.shape)}"
        )
    columns = min(columns, len(originals))
    pairs = [
        tile(torch.cat(pair), len(pair[0]))
        for pair in zip(originals.split(columns), reconstructed.split(columns), strict=True)
    ]
    height, width = originals.shape[2:]
    figure = _figure(0.75 * columns + 1.1, len(pairs) * (1.5 * height / width + 0.15) + 0.4)
    for axes, sheet in zip(figure.subplots(len(pairs), 1, squeeze=False)[:, 0], pairs, strict=True):
        _show(axes, sheet)
        axes.set_yticks([height / 2, 1.5 * height + 1], ["original", "reconstruction"], fontsize=9)
        axes.tick_params(length=0)
    figure.suptitle(title, fontsize=11)
    return figure


def image_rows(rows: Mapping[str, Tensor], column_names: Sequence[str] = (), title: str = "") -> Figure:
    """Named rows of images, each `(N, C, H, W)` in [0, 1] with the same N, under each other."""
    figure = _figure(*_size_of_rows(rows, bool(column_names)))
    _rows(figure.add_subplot(), rows, column_names)
    figure.suptitle(title, fontsize=11)
    return figure


def image_rows_and_curves(
    rows: Mapping[str, Tensor],
    panels: Sequence[Panel],
    column_names: Sequence[str] = (),
    title: str = "",
    log: bool = False,
) -> Figure:
    """:func:`image_rows` over :func:`curve_panels`, these in one row."""
    height = _size_of_rows(rows, bool(column_names))[1]
    figure = _figure(9.0, height + 3.2)
    above, below = figure.subfigures(2, 1, height_ratios=[height, 3.2], squeeze=False)[:, 0]
    _rows(above.add_subplot(), rows, column_names)
    _curves(below, [below.add_subplot(1, len(panels), index + 1) for index in range(len(panels))], panels, log)
    figure.suptitle(title, fontsize=11)
    return figure


def _size_of_rows(rows: Mapping[str, Tensor], column_names: bool) -> tuple[float, float]:
    """Width and height in inches."""
    n, _, height, width = next(iter(rows.values())).shape
    side = min(0.75, 7.5 / n)
    return side * n + 0.2 + 0.08 * max(map(len, rows)), side * len(rows) * height / width + 0.35 + 0.25 * column_names


def _rows(axes: Axes, rows: Mapping[str, Tensor], column_names: Sequence[str]) -> None:
    n, _, height, width = next(iter(rows.values())).shape
    for name, images in rows.items():
        if len(images) != n:
            raise checks.fail(f"row {name!r}", f"{len(images)} images", f"{n}, as in the first row")
    _show(axes, tile(torch.cat(list(rows.values())), n))
    axes.set_yticks([(height - 1) / 2 + row * (height + 1) for row in range(len(rows))], list(rows), fontsize=9)
    if column_names:
        axes.xaxis.tick_top()
        axes.set_xticks([(width - 1) / 2 + column * (width + 1) for column in range(n)], column_names, fontsize=9)
    axes.tick_params(length=0)


def image_panels(panels: Mapping[str, Tensor], columns: int, tiles: int, title: str = "") -> Figure:
    """Named sheets of images, each `(N, C, H, W)` in [0, 1], in rows of `columns` sheets of `tiles` images a row."""
    n, _, height, width = next(iter(panels.values())).shape
    ratio = -(-n // tiles) * height / (tiles * width)
    figure, grid = _panels(len(panels), columns, ratio, around=0.05)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.06)
    for axes, (name, images) in zip(grid, panels.items(), strict=True):
        _show(axes, tile(images, tiles))
        axes.set_title(name, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _panels(
    n: int, columns: int, ratio: float, *, width: float = 10.0, around: float = 0.55, legend: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """n axes in rows of `columns`, each `ratio` times as high as wide, with `around` inches for their labels."""
    columns = min(n, columns)
    rows = -(-n // columns)
    side = min(5.0, (width - legend) / columns)
    figure = _figure(side * columns + legend, rows * ((side - around) * ratio + 0.25 + 0.8 * around) + 0.25)
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(n)]


def latent_scatter(
    plane: latent.Plane, labels: Tensor | None = None, class_names: Sequence[str] = (), title: str = ""
) -> Figure:
    """Codes in the plane, by class where labels are given; each class has its own colour and marker."""
    figure = _figure(7.0, 5.6)
    _scatter(figure.add_subplot(), plane, labels, max(4.0, min(24.0, 12000 / len(plane.codes))))
    _class_legend(figure, labels, class_names)
    figure.axes[0].set_title(title, fontsize=11)
    return figure


def latent_panels(
    planes: Mapping[str, latent.Plane],
    labels: Tensor | None = None,
    class_names: Sequence[str] = (),
    columns: int = 3,
    title: str = "",
) -> Figure:
    """Codes of the same images in several planes, side by side, as in :func:`latent_scatter`."""
    figure, grid = _panels(len(planes), columns, 1.0, legend=0.0 if labels is None else 1.2)
    n = len(next(iter(planes.values())).codes)
    size = max(2.5, min(16.0, 12000 / n / min(len(planes), columns)))
    for axes, (name, plane) in zip(grid, planes.items(), strict=True):
        _scatter(axes, plane, labels, size)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=8)
    _class_legend(figure, labels, class_names)
    figure.suptitle(title, fontsize=11)
    return figure


def _styles(labels: Tensor) -> dict[int, tuple[str, str]]:
    """Colour and marker of each class that is there."""
    present = labels.unique().tolist()
    return {label: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, label in enumerate(present)}


def _groups(labels: Tensor | None, size: float) -> list[tuple[Tensor | slice, str | list[str], str]]:
    """Which points to draw together, their colours and their marker."""
    if labels is None:
        return [(slice(None), COLOURS[0], "o")]
    styles = _styles(labels)
    if size < 8:  # too small to tell shapes; as they come, so that no class covers the others
        return [(slice(None), [styles[label][0] for label in labels.tolist()], "o")]
    return [(labels == label, *style) for label, style in styles.items()]


def _scatter(axes: Axes, plane: latent.Plane, labels: Tensor | None, size: float) -> None:
    for chosen, colours, marker in _groups(labels, size):
        first, second = plane.codes[chosen].T.numpy()
        axes.scatter(first, second, s=size, c=colours, marker=marker, alpha=0.6, linewidths=0, rasterized=True)
    axes.set_xlabel(plane.axes[0], fontsize=9)
    axes.set_ylabel(plane.axes[1], fontsize=9)
    axes.set_aspect("equal", adjustable="datalim")


def _class_legend(figure: Figure, labels: Tensor | None, class_names: Sequence[str]) -> None:
    if labels is None:
        return
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=colour, label=class_names[label] if class_names else label)
        for label, (colour, marker) in _styles(labels).items()
    ]
    figure.legend(handles=handles, loc="outside right center", title="class", fontsize=9)


def manifold(images: Tensor, spacing: str = "even", limit: float = 3.0, title: str = "") -> Figure:
    """The grid `(size, size, C, H, W)` that :func:`pyro_vae.latent.manifold` decodes; arguments as there."""
    figure = _figure(7.0, 7.0 * images.shape[3] / images.shape[4])
    _manifold(figure.add_subplot(), images, spacing, limit)
    figure.axes[0].set_title(title, fontsize=11)
    return figure


def manifold_panels(
    grids: Mapping[str, Tensor], spacing: str = "even", limit: float = 3.0, columns: int = 2, title: str = ""
) -> Figure:
    """Several of what :func:`manifold` shows, side by side."""
    height, width = next(iter(grids.values())).shape[3:]
    figure, axes = _panels(len(grids), columns, height / width)
    for one, (name, images) in zip(axes, grids.items(), strict=True):
        _manifold(one, images, spacing, limit)
        one.set_title(name, fontsize=10)
    figure.suptitle(title, fontsize=11)
    return figure


def _manifold(axes: Axes, images: Tensor, spacing: str, limit: float) -> None:
    size, _, _, height, width = images.shape
    _show(axes, tile(images.flatten(0, 1), size, gap=0))
    places = [0.5 * width, size * width / 2, (size - 0.5) * width]
    if spacing == "even":
        ticks, label = [f"{-limit:g}", "0", f"{limit:g}"], "$z_{}$"
    else:
        ticks, label = [f"{0.5 / size:.3g}", "0.5", f"{1 - 0.5 / size:.3g}"], r"quantile of $z_{}$ under the prior"
    axes.set_xticks([place - 0.5 for place in places], ticks)
    axes.set_yticks([place * height / width - 0.5 for place in places], ticks[::-1])
    axes.set_xlabel(label.replace("{}", "1"))
    axes.set_ylabel(label.replace("{}", "2"))


class Curve(NamedTuple):
    """One line of a panel: curves of the same name have the same colour."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False


class Panel(NamedTuple):
    """The curves of one pair of axes, and what the axes are; `level` names a line across, at 1."""

    title: str
    xlabel: str
    ylabel: str
    curves: Sequence[Curve]
    level: str = ""


def curve_panels(panels: Sequence[Panel], columns: int = 2, title: str = "", log: bool = False) -> Figure:
    """Curves by name, with one legend; over whole numbers, or on a logarithmic axis."""
    figure, grid = _panels(len(panels), columns, 0.68, width=9.5, legend=1.0)
    _curves(figure, grid, panels, log)
    figure.suptitle(title, fontsize=11)
    return figure


def _curves(figure: FigureBase, grid: Sequence[Axes], panels: Sequence[Panel], log: bool) -> None:
    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    for axes, panel in zip(grid, panels, strict=True):
        for curve in panel.curves:
            colour, style = _line_style(names.index(curve.name))
            marker = "o" if len(curve.x) < 12 else None
            style = "--" if curve.dashed else style
            axes.plot(curve.x, curve.y, linestyle=style, color=colour, marker=marker, markersize=3.5, linewidth=1.5)
        if panel.level:
            axes.axhline(1, color="#555555", linewidth=1, linestyle=":")
            axes.text(0.99, 1, panel.level, transform=axes.get_yaxis_transform(), fontsize=8, ha="right", va="bottom")
        axes.set_xlabel(panel.xlabel, fontsize=9)
        axes.set_ylabel(panel.ylabel, fontsize=9)
        axes.set_title(panel.title, fontsize=10)
        if log:
            axes.set_xscale("log")
            places = sorted({x for curve in panel.curves for x in curve.x})
            axes.set_xticks(places, [f"{place:.3g}" for place in places])
            axes.set_xticks([], minor=True)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
    handles = [_handle(name, *_line_style(index)) for index, name in enumerate(names)] if names != [""] else []
    if any(curve.dashed for panel in panels for curve in panel.curves):
        colour = "#555555" if handles else COLOURS[0]
        handles += [_handle("training", colour, "-"), _handle("validation", colour, "--")]
    if len(handles) > 1:
        figure.legend(handles=handles, loc="outside right center", fontsize=9, frameon=False)


def _line_style(index: int) -> tuple[str, LineStyle]:
    styles: tuple[LineStyle, ...] = ("-", "-.", ":")
    return COLOURS[index % len(COLOURS)], styles[index // len(COLOURS) % 3]


def _handle(name: str, colour: str, style: LineStyle) -> Line2D:
    return Line2D([], [], color=colour, linestyle=style, label=name)


def learning_curves(histories: History | Mapping[str, History], title: str = "", weighted: bool = True) -> Figure:
    r"""Loss, reconstruction and KL, in nats an image, and the share of the KL, over the epochs.

    The share is :math:`\beta\, \mathrm{KL} / (\text{reconstruction} + \beta\, \mathrm{KL})`, or the same with
    :math:`\beta = 1`. It says little where the reconstruction has a constant in it, as a Gaussian likelihood's has.

    Args:
        histories: of one training, or of several by name. Training is solid, validation dashed.
        title: of the figure.
        weighted: the KL with its weight beta, in the share.
    """
    named = histories if isinstance(histories, Mapping) else {"": histories}
    parts = {"loss": [], "reconstruction": [], "kl": [], "share": []}  # type: dict[str, list[Curve]]
    for name, history in named.items():
        epochs, betas = history.column("epoch"), history.column("beta")
        for split in ("train", "validation"):
            columns = {part: history.column(f"{split}_{part}_nats") for part in ("loss", "reconstruction", "kl")}
            if None in columns["loss"]:
                continue
            columns["share"] = [
                _share(r, kl, beta if weighted else 1.0)
                for r, kl, beta in zip(columns["reconstruction"], columns["kl"], betas, strict=True)
            ]
            for part, values in columns.items():
                parts[part].append(Curve(name, epochs, values, split == "validation"))
    share = r"$\beta$ KL / (reconstruction + $\beta$ KL)" if weighted else "KL / (reconstruction + KL)"
    return curve_panels(
        [
            Panel("loss", "epoch", "nats per image", parts["loss"]),
            Panel("reconstruction", "epoch", "nats per image", parts["reconstruction"]),
            Panel("KL", "epoch", "nats per image", parts["kl"]),
            Panel("share of the KL", "epoch", share, parts["share"]),
        ],
        title=title,
    )


def _share(reconstruction: float, kl: float, beta: float) -> float:
    total = reconstruction + beta * kl
    return beta * kl / total if total else float("nan")


def projections(points: Tensor, projected: Tensor, names: Sequence[str], title: str = "") -> Figure:
    """Points in the plane `(N, 2)`, named, and where on a line they are projected to, `(N, 2)`."""
    slope = ((projected[-1] - projected[0])[1] / (projected[-1] - projected[0])[0]).item()
    figure = _figure(6.5, 5.2)
    axes = figure.add_subplot()
    for point, image, name in zip(points.tolist(), projected.tolist(), names, strict=True):
        axes.plot(*zip(point, image, strict=True), color="#999999", linestyle=":", linewidth=1.2)
        axes.annotate(name, point, xytext=(6, 6), textcoords="offset points", fontsize=10)
    axes.axline(tuple(projected[0].tolist()), slope=slope, color=COLOURS[1], label="first principal component")
    axes.plot(*points.T, marker="o", linestyle="", color=COLOURS[0], label="points")
    axes.plot(*projected.T, marker="s", linestyle="", color=COLOURS[5], label="decoded")
    axes.set_xlabel("$x_1$")
    axes.set_ylabel("$x_2$")
    axes.set_aspect("equal", adjustable="box")
    axes.margins(0.15)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    axes.set_title(title, fontsize=11)
    return figure


class Density(NamedTuple):
    """A density `values` `(len(second), len(first))` over a grid, its mean, and one draw from it."""

    first: Tensor
    second: Tensor
    values: Tensor
    mean: Tensor
    draw: Tensor


def density_panels(densities: Mapping[str, Density], columns: int = 3, title: str = "") -> Figure:
    """Densities in the plane, each with its mean and a draw from it."""
    figure, panels = _panels(len(densities), columns, 0.8)
    for axes, (name, one) in zip(panels, densities.items(), strict=True):
        grid = (one.first.numpy(), one.second.numpy(), one.values.numpy())
        filled = axes.pcolormesh(*grid, cmap="cividis", shading="nearest", rasterized=True)
        figure.colorbar(filled, ax=axes, label="q(z|x)", fraction=0.05, pad=0.03)
        peak = one.values.max().item()
        if one.values.unique().numel() > 2:
            levels = [peak * share for share in (0.05, 0.2, 0.5, 0.8)]
            axes.contour(*grid, levels=levels, colors="white", linewidths=0.7)
        axes.plot(*one.mean, marker="+", color="white", markersize=11, markeredgewidth=2, linestyle="", label="mean")
        axes.plot(*one.draw, marker="o", color=COLOURS[5], markeredgecolor="white", linestyle="", label="a draw")
        axes.set_xlabel("$z_1$")
        axes.set_ylabel("$z_2$")
        axes.set_title(name, fontsize=10)
        axes.set_aspect("equal", adjustable="box")
        axes.legend(fontsize=8, loc="upper right", facecolor="#888888", labelcolor="white")
    figure.suptitle(title, fontsize=11)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes a figure to a picture file, atomically; the suffix chooses the format."""
    formats = figure.canvas.get_supported_filetypes()
    suffix = Path(path).suffix.removeprefix(".").lower()
    checks.one_of("picture format", suffix, formats)
    content = io.BytesIO()
    figure.savefig(content, dpi=150, format=suffix)
    return files.write(path, _with_palette(content.getvalue()) if suffix == "png" else content.getvalue())


def _with_palette(png: bytes) -> bytes:
    """The same picture with 256 colours, in about a third of the bytes, where no pixel is seen to change."""
    whole = Image.open(io.BytesIO(png)).convert("RGB")
    small = whole.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    if np.abs(np.asarray(whole, int) - np.asarray(small.convert("RGB"), int)).max() > 24:  # of 256 levels
        return png
    content = io.BytesIO()
    small.save(content, "png", optimize=True)
    return content.getvalue()


def save_run_figures(
    model: Model, images: Images, history: History | None, folder: str | os.PathLike[str]
) -> list[Path]:
    """The pictures of a run: reconstructions, codes, interpolation, curves; of a VAE also samples and 2-d manifold."""
    shown = images.take(slice(0, 20)).as_float()
    with evaluating(model):
        reconstructed = model.reconstruct(shown.to(next(model.parameters()).device)).cpu()
    codes = latent.codes(model, images)
    figures = {
        "reconstructions": reconstructions(shown, reconstructed, f"{images.name}: originals and reconstructions")
    }
    if len(images) > 1:
        title = f"{images.name}: codes of {len(images):,} images"
        figures["latent"] = latent_scatter(latent.to_plane(codes), images.labels, images.class_names, title)
        line = latent.interpolate(model, shown[0], shown[1])
        figures["interpolation"] = image_grid(line, "Between the codes of two test images", columns=len(line))
    if history is not None and history.epochs:
        figures["curves"] = learning_curves(history, images.name)
    if not isinstance(model, Autoencoder):
        figures["samples"] = image_grid(latent.prior_samples(model, 64), "Samples from the prior, decoded")
        if codes.shape[1] == 2:
            for spacing, name in (("even", "an even grid"), ("quantiles", "quantiles of the prior")):
                figures[f"manifold-{spacing}"] = manifold(
                    latent.manifold(model, spacing=spacing), spacing, title=f"The latent space on {name}"
                )
    return [save_figure(figure, Path(folder) / f"{name}.png") for name, figure in figures.items()]
