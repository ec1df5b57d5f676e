"""Predictive checks: histograms of replicated statistics with the observed value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.figure_style import COLOURS, default_style
from pyro_vae.plots.frame import new_panels, set_title, shortened

if TYPE_CHECKING:
    from pyro_vae.evaluation import PredictiveCheck


@default_style()
def predictive_panels(check: PredictiveCheck, title: str = "") -> Figure:
    """A row per statistic: its mean and sd in replicated data sets with the observed values, and p-values per image.

    With a single image there is no sd, and a prior predictive check has no p-values per image.
    """
    from pyro_vae.evaluation import PredictiveCheck

    if not isinstance(check, PredictiveCheck):
        raise checks.fail("check", check, "what predictive_check returns")
    per_row = 1 + (check.n > 1) + (check.kind == "posterior")
    figure, grid = new_panels(per_row * len(check.statistics), per_row, 0.7)
    panels = iter(grid)
    for name, statistic in check.statistics.items():
        label = shortened(name)
        _replicates(
            next(panels),
            statistic.replicated_means,
            statistic.observed_mean,
            statistic.p_mean,
            f"{label}: mean over images",
        )
        if statistic.replicated_sds is not None and statistic.observed_sd is not None and statistic.p_sd is not None:
            _replicates(
                next(panels),
                statistic.replicated_sds,
                statistic.observed_sd,
                statistic.p_sd,
                f"{label}: sd over images",
            )
        if statistic.p_per_image is not None:
            axes = next(panels)
            axes.hist(
                statistic.p_per_image.numpy(), bins=20, range=(0, 1), color=COLOURS[2], alpha=0.6, edgecolor="white"
            )
            _label(axes, f"{label}: image by image", "p of the image", "images")
    if title:
        set_title(figure, title)
    return figure


def _replicates(axes: Axes, replicated: Tensor, observed: float, p: float, xlabel: str) -> None:
    axes.hist(replicated.numpy(), bins=20, color=COLOURS[0], alpha=0.6, edgecolor="white", label="replicated")
    axes.axvline(observed, color=COLOURS[5], linewidth=2, label="observed")
    axes.legend(fontsize=8, frameon=False)
    _label(axes, f"p = {p:.3f}", xlabel, "replicated data sets")


def _label(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set_xlabel(xlabel, fontsize=9, parse_math=False)
    axes.set_ylabel(ylabel, fontsize=9)
    axes.margins(y=0.3)
    axes.locator_params(axis="x", nbins=5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
