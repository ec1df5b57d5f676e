"""Curves over epochs or other numbers; learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pyro_vae._utils import checks
from pyro_vae._utils.figure_style import COLOURS, default_style
from pyro_vae.plots.frame import add_legend, by_name, new_panels, set_title, shortened

if TYPE_CHECKING:
    from pyro_vae.training.history import History

LineStyle = Literal["-", "--", "-.", ":"]


class Curve(NamedTuple):
    """A line of a panel; curves of the same name have the same colour."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False


class Panel(NamedTuple):
    """The curves of a pair of axes, and the labels of the axes; `level` names a horizontal line at 1."""

    title: str
    xlabel: str
    ylabel: str
    curves: Sequence[Curve]
    level: str = ""


@default_style()
def curve_panels(panels: Sequence[Panel], columns: int = 2, title: str = "", log: bool = False) -> Figure:
    """Panels of curves with a common legend; the horizontal axis has whole numbers, or is logarithmic (`log`)."""
    if isinstance(panels, Panel) or not panels or not all(isinstance(panel, Panel) for panel in panels):
        raise checks.fail("panels", panels, "a list of at least one Panel")
    figure, grid = new_panels(len(panels), columns, 0.68, width=9.5, legend=1.0)
    draw_curves(figure, grid, panels, log)
    set_title(figure, title)
    return figure


def draw_curves(figure: FigureBase, grid: Sequence[Axes], panels: Sequence[Panel], log: bool) -> None:
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
        axes.set_title(shortened(panel.title), fontsize=10, parse_math=False)
        if log:
            axes.set_xscale("log")
            positions = sorted({x for curve in panel.curves for x in curve.x})
            axes.set_xticks(positions, [f"{position:.3g}" for position in positions])
            axes.set_xticks([], minor=True)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
    names = names if names != [""] else []
    handles = [_handle(*_line_style(index)) for index in range(len(names))]
    if any(curve.dashed for panel in panels for curve in panel.curves):
        colour = "#555555" if handles else COLOURS[0]
        handles += [_handle(colour, "-"), _handle(colour, "--")]
        names += ["training", "validation"]
    if len(handles) > 1:
        add_legend(figure, handles, names, frameon=False)


def _line_style(index: int) -> tuple[str, LineStyle]:
    styles: tuple[LineStyle, ...] = ("-", "-.", ":")
    return COLOURS[index % len(COLOURS)], styles[index % 3]  # styles differ, so that coinciding curves both show


def _handle(colour: str, style: LineStyle) -> Line2D:
    return Line2D([], [], color=colour, linestyle=style)


@default_style()
def learning_curves(histories: History | Mapping[str, History], title: str = "", weighted: bool = True) -> Figure:
    r"""Loss, reconstruction and KL in nats per image, and the KL's share of the loss, over the epochs.

    The share is :math:`\beta\, \mathrm{KL} / (\text{reconstruction} + \beta\, \mathrm{KL})`, or the same with
    :math:`\beta = 1`. It is left out for a history in which the reconstruction term is negative after some epoch, which
    densities above 1 allow: the KL is then no share of a whole. A history whose KL is 0 after each epoch, as of an
    autoencoder, has no curve of the KL and none of its share. A panel without a curve is left out.

    Args:
        histories: a history, or several by name. Training is solid, validation dashed.
        title: of the figure.
        weighted: weigh the KL by beta in the share.
    """
    several = isinstance(histories, Mapping) or not hasattr(histories, "epochs")
    named: Mapping[str, Any] = by_name("histories", histories, "Histories") if several else {"": histories}
    for history in named.values():
        if not hasattr(history, "epochs"):
            raise checks.fail("histories", history, "a History, or several by name")
    parts: dict[str, list[Curve]] = {"loss": [], "reconstruction": [], "kl": [], "share": []}
    for name, history in named.items():
        epochs, betas = history.column("epoch"), history.column("beta")
        negative = any(
            value is not None and value < 0
            for split in ("train", "validation")
            for value in history.column(f"{split}_reconstruction_nats")
        )
        without_kl = not any(history.column("train_kl_nats"))
        for split in ("train", "validation"):
            columns = {part: history.column(f"{split}_{part}_nats") for part in ("loss", "reconstruction", "kl")}
            if None in columns["loss"]:
                continue
            if without_kl:
                del columns["kl"]
            elif not negative:
                columns["share"] = [
                    _share(r, kl, beta if weighted else 1.0)
                    for r, kl, beta in zip(columns["reconstruction"], columns["kl"], betas, strict=True)
                ]
            for part, values in columns.items():
                parts[part].append(Curve(name, epochs, values, split == "validation"))
    share = r"$\beta$ KL / (reconstruction + $\beta$ KL)" if weighted else "KL / (reconstruction + KL)"
    panels = [
        Panel("loss", "epoch", "nats per image", parts["loss"]),
        Panel("reconstruction", "epoch", "nats per image", parts["reconstruction"]),
    ]
    if parts["kl"]:
        panels.append(Panel("KL", "epoch", "nats per image", parts["kl"]))
    if parts["share"]:
        panels.append(Panel("share of the KL", "epoch", share, parts["share"]))
    return curve_panels(panels, columns=3 if len(panels) == 3 else 2, title=title)


def _share(reconstruction: float, kl: float, beta: float) -> float:
    total = reconstruction + beta * kl
    return beta * kl / total if total else float("nan")
