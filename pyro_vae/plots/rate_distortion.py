"""Rate-distortion curves in the rate-distortion plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pyro_vae._utils import checks
from pyro_vae._utils.figure_style import COLOURS, MARKERS, default_style
from pyro_vae.plots.frame import add_legend, new_figure, set_only_title

if TYPE_CHECKING:
    from pyro_vae.evaluation import RateDistortion


@default_style()
def rate_distortion_plane(
    curves: RateDistortion | Sequence[RateDistortion], title: str = "", entropy_nats: float | None = None
) -> Figure:
    r"""Distortion against rate: each point with its beta, two standard errors, and the line of slope -beta through it.

    Along each dotted line the ELBO, -(R + D), is constant.

    Args:
        curves: of :func:`~pyro_vae.evaluation.rate_distortion.rate_distortion`.
        title: of the figure.
        entropy_nats: the entropy H of the images, if it is known: no model lies below the line :math:`R = H - D`.
    """
    from pyro_vae.evaluation import RateDistortion

    several = [curves] if isinstance(curves, RateDistortion) else list(curves) if isinstance(curves, Sequence) else []
    if not several or not all(isinstance(curve, RateDistortion) for curve in several):
        raise checks.fail("curves", curves, "one or more RateDistortion, as rate_distortion returns them")
    figure = new_figure(7.5, 5.0)
    axes = figure.add_subplot()
    styles = [(COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]) for index in range(len(several))]
    for index, (curve, style) in enumerate(zip(several, styles, strict=True)):
        _curve(axes, curve, *style, below=index % 2 == 1)
    axes.margins(x=0.15, y=0.15)
    axes.autoscale_view()
    axes.set_xlim(left=max(0.0, axes.get_xlim()[0]))
    if entropy_nats is not None:
        axes.axline((0, entropy_nats), slope=-1, color="black", linestyle="-.", linewidth=1)
    _lines_of_equal_elbo(axes)
    axes.set_xlabel("rate R: KL, nats per image")
    axes.set_ylabel(r"distortion D: $-$E log p(x|z), nats per image")
    axes.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], color=colour, marker=marker, linestyle="") for colour, marker in styles]
    names = [curve.name or "models" for curve in several]
    handles += [Line2D([], [], color="#555555"), Line2D([], [], color="#999999", linestyle=":")]
    names += ["slope -beta", "equal ELBO"]
    if any(point.distortion_se or point.rate_se for curve in several for point in curve.points):
        handles.append(Line2D([], [], color="#555555", marker="|", markersize=12, linestyle=""))
        names.append("± 2 SE")
    if entropy_nats is not None:
        handles.append(Line2D([], [], color="black", linestyle="-."))
        names.append("R = H - D")
    add_legend(figure, handles, names, frameon=False)
    if title:
        set_only_title(axes, title)
    return figure


def _curve(axes: Axes, curve: RateDistortion, colour: str, marker: str, below: bool) -> None:
    rates, distortions = ([getattr(point, name) for point in curve.points] for name in ("rate_nats", "distortion_nats"))
    width = (max(rates) - min(rates) or 1.0) / 8
    height = (max(distortions) - min(distortions) or 1.0) / 8
    for point in curve.points:
        axes.errorbar(
            point.rate_nats,
            point.distortion_nats,
            2 * (point.distortion_se or 0.0),
            2 * (point.rate_se or 0.0),
            color=colour,
            marker=marker,
            markersize=5,
        )
        reach = (
            min(width, height / point.beta) if point.beta else width
        )  # half the width of the line, less if it is steep
        step = np.array([-reach, reach])
        axes.plot(
            point.rate_nats + step, point.distortion_nats - point.beta * step, color=colour, linewidth=1.2, alpha=0.7
        )
        position = point.rate_nats, point.distortion_nats
        offset, side = ((-7, -12), "right") if below else ((7, 5), "left")
        text = rf"$\beta$ = {point.beta:g}"
        axes.annotate(text, position, offset, textcoords="offset points", fontsize=8, color=colour, ha=side)


def _lines_of_equal_elbo(axes: Axes) -> None:
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    lowest, highest = left + bottom, right + top
    for total in MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(lowest, highest):  # round numbers
        if not lowest < total < highest:
            continue
        axes.axline((left, total - left), slope=-1, color="#999999", linestyle=":", linewidth=1, zorder=0)
        # The label stands where the line leaves the axes, at the bottom or on the right.
        x = min(total - bottom, right)
        at = x, total - x
        text = axes.annotate(f"{-total + 0.0:g}", at, (0, 3), textcoords="offset points", fontsize=7, ha="right")
        text.set(color="#666666", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
