"""Sampling weights of images: their distribution, what they do to classes, and the images with extreme weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.figure_style import COLOURS, default_style
from pyro_vae.plots.frame import by_name, new_figure, set_title, shortened
from pyro_vae.plots.image_grids import draw_rows, rows_of_images, size_of_rows

Shares = Mapping[str, tuple[float, float]]
MOST_CLASSES = 20  # with a bar


@default_style()
def sampling_weights(
    weights: Tensor, rows: Mapping[str, Tensor], shares: Shares | None = None, title: str = ""
) -> Figure:
    """Rows of images over a histogram of the weights, and the share of each class before and after resampling.

    Args:
        weights: of all images, `(N,)`; shown as multiples of their mean, those below 1e-12 as if they were that.
        rows: images `(n, C, H, W)` in [0, 1] by name, such as those with the largest weights.
        shares: of each class in the set and in its draws, by the name of the class; without any there is no such panel.
        title: of the figure.
    """
    values = checks.tensor("weights", weights).cpu().double()
    if values.dim() != 1 or not bool((values >= 0).all() and values.isfinite().all() and (values > 0).any()):
        raise checks.fail("weights", weights, "finite numbers of at least 0, some above, of shape (N,)")
    pictures = rows_of_images("rows", rows)
    classes = None if shares is None else by_name("shares", shares, "pairs of shares")
    height = size_of_rows(pictures, False)[1]
    figure = new_figure(9.5, height + 3.4)
    above, below = figure.subfigures(2, 1, height_ratios=[height, 3.2], squeeze=False)[:, 0]
    draw_rows(above.add_subplot(), pictures, ())
    panels = below.subplots(1, 1 if classes is None else 2, squeeze=False)[0]
    _histogram(panels[0], (values / values.mean()).clamp(min=1e-12).numpy())
    if classes is not None:
        _bars(panels[1], dict(list(classes.items())[:MOST_CLASSES]))
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    set_title(figure, title)
    return figure


def _histogram(axes: Axes, relative: np.ndarray) -> None:
    least, largest = min(relative.min(), 0.5), max(relative.max(), 2.0)
    axes.hist(relative, bins=np.geomspace(0.99 * least, 1.01 * largest, 40).tolist(), color=COLOURS[0])
    axes.axvline(1, color="#555555", linewidth=1, linestyle=":")
    axes.set(xscale="log", yscale="log")
    decades = np.log10(largest / least)
    digits, powers = (1, 2, 5) if decades < 4 else (1,), range(-12, 13, 1 + int(decades / 8))
    ticks = [digit * 10.0**power for power in powers for digit in digits]
    ticks = [tick for tick in ticks if least <= tick <= largest]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("weight of an image, as a multiple of the mean", fontsize=9)
    axes.set_ylabel("images", fontsize=9)


def _bars(axes: Axes, classes: Shares) -> None:
    position = np.arange(len(classes))
    for index, (name, colour) in enumerate((("of the images", COLOURS[0]), ("of the draws", COLOURS[1]))):
        heights = [pair[index] for pair in classes.values()]
        axes.bar(position + 0.4 * (index - 0.5), heights, 0.4, color=colour, label=name)
    axes.set_xticks(position, [shortened(name, 12) for name in classes], parse_math=False)
    longest = max(map(len, classes))
    axes.tick_params(axis="x", rotation=90 if longest * len(classes) > 45 else 0)
    axes.set_xlabel("class", fontsize=9)
    axes.set_ylabel("share", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
