"""Simulation-based calibration: rank histograms and coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pyro_vae._utils import checks
from pyro_vae._utils.figure_style import COLOURS, default_style
from pyro_vae.plots.frame import new_panels, set_title

if TYPE_CHECKING:
    from pyro_vae.evaluation import Calibration


@default_style()
def calibration_panels(calibration: Calibration, columns: int = 4, title: str = "", most: int = 7) -> Figure:
    """Rank histograms with the 99 % band of each bin, and a panel of the coverage of central intervals.

    Args:
        calibration: of :func:`~pyro_vae.evaluation.criticism.calibration.simulation_based_calibration`.
        columns: of panels.
        title: of the figure.
        most: the largest number of histograms: log p(x, z), and the quantities with the smallest p-values.
    """
    from pyro_vae.evaluation import Calibration

    if not isinstance(calibration, Calibration):
        raise checks.fail("calibration", calibration, "what simulation_based_calibration returns")
    most = checks.positive_integer("most", most)
    *latent, joint = calibration.names
    worst = sorted(latent, key=lambda name: calibration.p_values[name])[: most - 1]
    names = [*(name for name in latent if name in worst), joint]
    figure, grid = new_panels(len(names) + 1, columns, 0.95, width=11.0)
    for axes, name in zip(grid, names, strict=False):
        _histogram(axes, calibration, name)
    _coverage(grid[-1], calibration, names)
    handles = [
        Patch(color=COLOURS[0], alpha=0.6, label="simulated"),
        Patch(color="#999999", alpha=0.4, label="99 % band, calibrated"),
        Line2D([], [], color="black", linestyle="--", linewidth=1, label="expected"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    if title:
        set_title(figure, title)
    return figure


def _histogram(axes: Axes, calibration: Calibration, name: str) -> None:
    counts = calibration.counts[:, calibration.names.index(name)].numpy()
    edges = np.linspace(0, calibration.draws + 1, len(counts) + 1)
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=COLOURS[0], alpha=0.6, edgecolor="white")
    axes.axhspan(*calibration.band(), color="#999999", alpha=0.4, linewidth=0, zorder=0)  # behind the bars
    axes.axhline(calibration.n / len(counts), color="black", linestyle="--", linewidth=1)
    axes.set_title(f"{name}: p = {calibration.p_values[name]:.2g}", fontsize=10, parse_math=False)
    axes.set_xlabel(f"rank among {calibration.draws} draws", fontsize=9)
    axes.set_ylabel("simulations", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _coverage(axes: Axes, calibration: Calibration, names: list[str]) -> None:
    levels = [coverage.level for coverage in calibration.coverage]
    low, high = ([coverage.level + sign * 2.58 * coverage.se for coverage in calibration.coverage] for sign in (-1, 1))
    axes.fill_between(levels, low, high, color="#999999", alpha=0.4, linewidth=0)
    axes.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1)
    for name in names:
        marker = "s" if name == names[-1] else "o"
        observed = [coverage.observed[name] for coverage in calibration.coverage]
        axes.plot(levels, observed, marker, color=COLOURS[5 if name == names[-1] else 0], markersize=4, alpha=0.8)
    axes.plot([], [], "o", color=COLOURS[0], markersize=4, label="coordinates of z")
    axes.plot([], [], "s", color=COLOURS[5], markersize=4, label=names[-1])
    axes.legend(fontsize=8, frameon=False)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_title("central intervals", fontsize=10)
    axes.set_xlabel("level", fontsize=9)
    axes.set_ylabel("share holding the truth", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=8)
