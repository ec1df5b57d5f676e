"""ROC curves of scores that detect outliers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.figure_style import COLOURS, default_style
from pyro_vae.plots.curves import LineStyle
from pyro_vae.plots.frame import add_legend, by_name, new_figure, set_only_title

_LINES: tuple[LineStyle, ...] = ("-", "--", ":", "-.")


@default_style()
def roc_curves(curves: Mapping[str, tuple[Tensor, Tensor]], title: str = "") -> Figure:
    """True-positive against false-positive rate of each score.

    Args:
        curves: false-positive and true-positive rates of each, as :func:`pyro_vae.uses.detection.roc` gives them, by
            the name that stands in the legend.
        title: of the figure.
    """
    curves = {
        name: _rates(name, curve) for name, curve in by_name("curves", curves, "false- and true-positive rates").items()
    }
    figure = new_figure(6.6, 4.4)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    handles = []
    for index, (fpr, tpr) in enumerate(curves.values()):
        colour, line = COLOURS[index % len(COLOURS)], _LINES[index % len(_LINES)]
        axes.plot(fpr.numpy(), tpr.numpy(), linewidth=1.5, color=colour, linestyle=line)
        handles.append(Line2D([], [], color=colour, linestyle=line))
    axes.set(xlabel="false-positive rate: inliers flagged", ylabel="true-positive rate: outliers flagged")
    axes.set_aspect("equal")
    axes.spines[["top", "right"]].set_visible(False)
    add_legend(figure, handles, list(curves), frameon=False)
    set_only_title(axes, title)
    return figure


def _rates(name: str, curve: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(curve, tuple) or len(curve) != 2:
        raise checks.fail(f"curve {name!r}", curve, "a pair of false-positive and true-positive rates")
    fpr, tpr = (checks.tensor(f"curve {name!r}", rates).cpu() for rates in curve)
    if fpr.dim() != 1 or fpr.shape != tpr.shape:
        raise checks.fail(f"curve {name!r}", curve, "as many false-positive as true-positive rates")
    return fpr, tpr
