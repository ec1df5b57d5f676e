"""Images along directions of code space over what was measured of them, and the matrix of effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.figure_style import default_style
from pyro_vae.plots.frame import by_name, new_figure, set_title, shortened

if TYPE_CHECKING:
    from pyro_vae.uses.attributes import Effect


@default_style()
def traversal(images: Tensor, amounts_sd: Sequence[float], values: Mapping[str, Tensor], title: str = "") -> Figure:
    """A row for each image, a column for each amount by which it was moved, and numbers under each.

    Args:
        images: `(N, A, C, H, W)` in [0, 1].
        amounts_sd: A numbers, which stand over the columns, in standard deviations.
        values: numbers by name, `(N, A)` each, such as a measured attribute; a line of them under each image.
        title: of the figure.
    """
    x = checks.tensor("images", images).cpu()
    if x.dim() != 5 or x.shape[2] not in (1, 3) or 0 in x.shape:
        raise checks.fail("images", images, "images of shape (N, A, C, H, W), with 1 or 3 channels")
    n, steps, _, height, width = x.shape
    if len(amounts_sd) != steps:
        raise checks.fail("amounts_sd", amounts_sd, f"{steps} numbers, one for each column")
    numbers = {name: checks.tensor(f"values {name!r}", each).cpu() for name, each in values.items()}
    for name, each in numbers.items():
        if each.shape != (n, steps):
            raise checks.fail(f"values {name!r}", each, f"numbers of shape ({n}, {steps})")
    side, line = min(1.0, 9.0 / steps), 0.16  # inches
    height_of_row = side * height / width + line * len(numbers) + 0.1
    figure = new_figure(side * steps, n * height_of_row + 1.0)
    figure.set_layout_engine("none")  # the constrained one takes seconds for that many axes
    inches = float(figure.get_figheight())
    share = side * height / width / height_of_row  # of a row, its image
    bottom = (1 - share) * height_of_row / inches
    grid = {"left": 0.01, "right": 0.99, "top": 1 - 1.0 / inches, "bottom": bottom, "hspace": (1 - share) / share}
    for index, axes in enumerate(figure.subplots(n, steps, squeeze=False, gridspec_kw=grid | {"wspace": 0.06}).flat):
        row, column = divmod(index, steps)
        axes.imshow(x[row, column].permute(1, 2, 0).clamp(0, 1).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        if row == 0:
            axes.set_title(f"{amounts_sd[column]:+.3g} sd" if abs(amounts_sd[column]) > 1e-6 else "0", fontsize=9)
        lines = [f"{each[row, column].item():.3g}" for each in numbers.values()]
        axes.set_xlabel("\n".join(lines), fontsize=8, labelpad=2)
    below = f"under each image: {', '.join(map(shortened, numbers))}" if numbers else ""
    set_title(figure, "; ".join(filter(None, (title, below))))
    return figure


@default_style()
def effect_matrix(effects: Mapping[str, Mapping[str, Effect]], title: str = "") -> Figure:
    """What moving along each direction (rows) does to each attribute (columns): how steadily, and how much.

    Args:
        effects: rows by the name of the direction, of :func:`pyro_vae.uses.attributes.effects`, all of the same
            attributes.
        title: of the figure.
    """
    rows = by_name("effects", effects, "effects")
    columns = list(next(iter(rows.values())))
    for name, row in rows.items():
        if list(row) != columns:
            raise checks.fail(f"effects {name!r}", list(row), f"{', '.join(columns)}, as in the first row")
    rho = np.array([[row[column].spearman for column in columns] for row in rows.values()])
    change = np.array([[row[column].change_sd for column in columns] for row in rows.values()])
    figure = new_figure(2.0 + 1.5 * len(columns), 1.6 + 0.5 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True)
    _heat_map(left, rho, 1.0, "rank correlation with the amount", list(rows), columns)
    largest = max(1.0, float(np.abs(change).max()))
    _heat_map(right, change, largest, "change, sd of the attribute", list(rows), columns)
    set_title(figure, title)
    return figure


def _heat_map(
    axes: Axes, values: np.ndarray, limit: float, title: str, rows: Sequence[str], columns: Sequence[str]
) -> None:
    """Numbers from -limit to limit, in colours that differ in lightness as well, and as text."""
    axes.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    for row, column in np.ndindex(values.shape):
        dark = abs(values[row, column]) > 0.6 * limit
        text = f"{values[row, column] + 0.0:+.2f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
    names = ["\n".join(map(shortened, name.splitlines())) for name in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=9, parse_math=False)
    axes.set_xticks(range(len(columns)), [shortened(name) for name in columns], fontsize=9, rotation=30, ha="right")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("attribute of the decoded image", fontsize=9)
    axes.tick_params(length=0)
