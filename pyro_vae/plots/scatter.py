"""Points and densities in a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from pyro_vae import latent
from pyro_vae._utils import checks
from pyro_vae._utils.figure_style import COLOURS, MARKERS, default_style
from pyro_vae.data.images import UNKNOWN, class_name
from pyro_vae.plots.frame import add_legend, by_name, new_figure, new_panels, set_only_title, set_title, shortened

SMALLEST_SPAN = 1.0  # of an axis; the standard deviation of the prior is 1
_UNKNOWN_COLOUR = "#CCCCCC"
SHAPES_FROM = 8.0  # marker area in points squared; smaller markers are all dots


@default_style()
def latent_scatter(
    plane: latent.Plane, labels: Tensor | None = None, class_names: Sequence[str] = (), title: str = ""
) -> Figure:
    """Codes in a plane; with labels, each class has its own colour and marker."""
    plane = _plane("plane", plane)
    labels = _labels(labels, class_names, len(plane.codes))
    figure = new_figure(7.0, 5.6)
    size = max(4.0, min(24.0, 12000 / len(plane.codes)))
    _scatter(figure.add_subplot(), plane, labels, size)
    _class_legend(figure, labels, class_names, size)
    set_only_title(figure.axes[0], title)
    return figure


@default_style()
def latent_panels(
    planes: Mapping[str, latent.Plane],
    labels: Tensor | None = None,
    class_names: Sequence[str] = (),
    columns: int = 3,
    title: str = "",
) -> Figure:
    """Codes of the same images under several models, side by side, as in :func:`latent_scatter`."""
    planes = {name: _plane(f"plane {name!r}", plane) for name, plane in by_name("planes", planes, "Planes").items()}
    n = len(next(iter(planes.values())).codes)
    for name, plane in planes.items():
        if len(plane.codes) != n:
            raise checks.fail(f"plane {name!r}", f"{len(plane.codes)} codes", f"{n}, as in the first plane")
    labels = _labels(labels, class_names, n)
    figure, grid = new_panels(len(planes), columns, 1.0, legend=0.0 if labels is None else 1.2)
    size = max(2.5, min(16.0, 12000 / n / min(len(planes), columns)))
    for axes, (name, plane) in zip(grid, planes.items(), strict=True):
        _scatter(axes, plane, labels, size)
        axes.set_title(shortened(name), fontsize=9, parse_math=False)
        axes.tick_params(labelsize=8)
        axes.locator_params(nbins=5 if columns < 4 else 4)
    _class_legend(figure, labels, class_names, size)
    set_title(figure, title)
    return figure


def _plane(argument: str, value: object) -> latent.Plane:
    if not isinstance(value, latent.Plane):
        raise checks.fail(argument, value, "a Plane, which `latent.to_plane` makes of codes")
    codes = checks.matrix(f"codes of the {argument}", value.codes)
    if codes.shape[1] != 2 or not codes.isfinite().all():
        raise checks.fail(f"codes of the {argument}", value.codes, "finite numbers of shape (N, 2)")
    return latent.Plane(codes, value.axes)


def _labels(value: Any, class_names: Sequence[str], n: int) -> Tensor | None:
    """The class of each of n codes, as a tensor on the CPU."""
    if value is None:
        return None
    labels = checks.tensor("labels", value).cpu()
    if labels.shape != (n,) or labels.is_floating_point() or labels.is_complex():
        raise checks.fail("labels", value, f"{n} whole numbers, one for each code")
    least, largest = int(labels.min()), int(labels.max())
    if class_names and not UNKNOWN <= least <= largest < len(class_names):
        raise checks.fail(
            "class_names", class_names, f"a name for each of the labels, which go from {least} to {largest}"
        )
    return labels


def _styles(labels: Tensor) -> dict[int, tuple[str, str]]:
    """Colour and marker of each class that occurs, grey dots for unknown labels."""
    present = [label for label in labels.unique().tolist() if label != UNKNOWN]
    unknown = {UNKNOWN: (_UNKNOWN_COLOUR, ".")} if bool((labels == UNKNOWN).any()) else {}
    return unknown | {label: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, label in enumerate(present)}


def _groups(labels: Tensor | None, size: float) -> list[tuple[Tensor | slice, str | list[str], str]]:
    """Sets of points that are drawn together, with their colours and marker."""
    if labels is None:
        return [(slice(None), COLOURS[0], "o")]
    styles = _styles(labels)
    if size < SHAPES_FROM:  # in the order of the images, so that no class covers the others
        return [(slice(None), [styles[label][0] for label in labels.tolist()], "o")]
    return [(labels == label, *style) for label, style in styles.items()]


def _scatter(axes: Axes, plane: latent.Plane, labels: Tensor | None, size: float) -> None:
    for chosen, colours, marker in _groups(labels, size):
        first, second = plane.codes[chosen].T.numpy()
        axes.scatter(first, second, s=size, c=colours, marker=marker, alpha=0.6, linewidths=0, rasterized=True)
    axes.set_xlabel(plane.axes[0], fontsize=9)
    axes.set_ylabel(plane.axes[1], fontsize=9)
    # A collapsed code, whose scatter is only rounding, appears as a point. The data limits are widened, because axis
    # limits would be ignored with an equal aspect.
    centre = (plane.codes.amin(0) + plane.codes.amax(0)) / 2
    axes.update_datalim([(centre - SMALLEST_SPAN / 2).tolist(), (centre + SMALLEST_SPAN / 2).tolist()])
    axes.autoscale_view()
    axes.set_aspect("equal", adjustable="datalim")


def _class_legend(figure: Figure, labels: Tensor | None, class_names: Sequence[str], size: float) -> None:
    if labels is None:
        return
    styles = _styles(labels)
    handles = [
        Line2D([], [], linestyle="", marker=marker if size >= SHAPES_FROM else "o", color=colour)
        for colour, marker in styles.values()
    ]
    names = [class_name(label, class_names) for label in styles]
    add_legend(figure, handles, names, title="class")


class Density(NamedTuple):
    """A density over a grid, `values` `(len(second), len(first))`, its mean, and a draw from it."""

    first: Tensor
    second: Tensor
    values: Tensor
    mean: Tensor
    draw: Tensor


@default_style()
def density_panels(densities: Mapping[str, Density], columns: int = 3, title: str = "") -> Figure:
    """Densities over a plane, each with its mean and a draw from it."""
    for name, density in by_name("densities", densities, "Densities").items():
        if not isinstance(density, Density):
            raise checks.fail(f"density {name!r}", density, "a Density")
    figure, panels = new_panels(len(densities), columns, 0.8)
    for axes, (name, density) in zip(panels, densities.items(), strict=True):
        grid = (density.first.numpy(), density.second.numpy(), density.values.numpy())
        filled = axes.pcolormesh(*grid, cmap="cividis", shading="nearest", rasterized=True)
        figure.colorbar(filled, ax=axes, label="q(z|x)", fraction=0.05, pad=0.03)
        peak = density.values.max().item()
        if density.values.unique().numel() > 2:
            levels = [peak * share for share in (0.05, 0.2, 0.5, 0.8)]
            axes.contour(*grid, levels=levels, colors="white", linewidths=0.7)
        axes.plot(
            *density.mean, marker="+", color="white", markersize=11, markeredgewidth=2, linestyle="", label="mean"
        )
        axes.plot(*density.draw, marker="o", color=COLOURS[5], markeredgecolor="white", linestyle="", label="a draw")
        axes.set_xlabel("$z_1$")
        axes.set_ylabel("$z_2$")
        axes.set_title(shortened(name), fontsize=10, parse_math=False)
        axes.set_aspect("equal", adjustable="box")
        axes.legend(fontsize=8, loc="upper right", facecolor="#888888", labelcolor="white")
    set_title(figure, title)
    return figure


@default_style()
def projections(points: Tensor, projected: Tensor, names: Sequence[str], title: str = "") -> Figure:
    """Named points in the plane, `(N, 2)`, and their projections on a line, `(N, 2)`."""
    points, projected = checks.matrix("points", points), checks.matrix("projected", projected)
    for argument, coordinates in (("points", points), ("projected", projected)):
        if coordinates.shape != (len(names), 2) or len(coordinates) < 2:
            raise checks.fail(
                argument, coordinates, f"at least 2 points in the plane, one for each of the {len(names)} names"
            )
    slope = ((projected[-1] - projected[0])[1] / (projected[-1] - projected[0])[0]).item()
    figure = new_figure(6.5, 5.2)
    axes = figure.add_subplot()
    for point, image, name in zip(points.tolist(), projected.tolist(), names, strict=True):
        axes.plot(*zip(point, image, strict=True), color="#999999", linestyle=":", linewidth=1.2)
        axes.annotate(name, point, xytext=(6, 6), textcoords="offset points", fontsize=10, parse_math=False)
    axes.axline(tuple(projected[0].tolist()), slope=slope, color=COLOURS[1], label="first principal component")
    axes.plot(*points.T, marker="o", linestyle="", color=COLOURS[0], label="points")
    axes.plot(*projected.T, marker="s", linestyle="", color=COLOURS[5], label="decoded")
    axes.set_xlabel("$x_1$")
    axes.set_ylabel("$x_2$")
    axes.set_aspect("equal", adjustable="box")
    axes.margins(0.15)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    set_only_title(axes, title)
    return figure
