"""Arrays -> matplotlib `Figure`. Only the functions called `save_...` write files; nothing here shows one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from pyro_vae import checks, files, latent
from pyro_vae.data import Images
from pyro_vae.models import Autoencoder, Model
from pyro_vae.models.images import evaluating

if TYPE_CHECKING:
    from pyro_vae.training import History

# Okabe and Ito's palette, safe for colour-blind readers (its yellow darkened, to be seen on white), and three more.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D00", "#000000", "#999999", "#882255")
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


def _show(axes: object, sheet: Tensor) -> None:
    axes.imshow(sheet.clamp(0, 1).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")  # type: ignore[attr-defined]
    axes.set_xticks([])  # type: ignore[attr-defined]
    axes.set_yticks([])  # type: ignore[attr-defined]
    axes.spines[:].set_visible(False)  # type: ignore[attr-defined]


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


def latent_scatter(
    plane: latent.Plane, labels: Tensor | None = None, class_names: Sequence[str] = (), title: str = ""
) -> Figure:
    """Codes in the plane, by class where labels are given; each class has its own colour and marker."""
    figure = _figure(7.0, 5.6)
    axes = figure.add_subplot()
    points = plane.codes.numpy()
    size = max(4.0, min(24.0, 12000 / len(points)))
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], s=size, c=COLOURS[0], alpha=0.5, linewidths=0)
    else:
        present = labels.unique().tolist()
        styles = {label: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, label in enumerate(present)}
        for label, (colour, marker) in styles.items():
            chosen = points[(labels == label).numpy()]
            axes.scatter(chosen[:, 0], chosen[:, 1], s=size, c=colour, marker=marker, alpha=0.6, linewidths=0)
        handles = [
            Line2D(
                [],
                [],
                linestyle="",
                marker=marker,
                color=colour,
                label=class_names[label] if class_names else str(label),
            )
            for label, (colour, marker) in styles.items()
        ]
        figure.legend(handles=handles, loc="outside right center", title="class", fontsize=9)
    axes.set_xlabel(plane.axes[0])
    axes.set_ylabel(plane.axes[1])
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title(title, fontsize=11)
    return figure


def manifold(images: Tensor, spacing: str = "even", limit: float = 3.0, title: str = "") -> Figure:
    """The grid `(size, size, C, H, W)` that :func:`pyro_vae.latent.manifold` decodes; arguments as there."""
    size, _, _, height, width = images.shape
    figure = _figure(7.0, 7.0 * height / width)
    axes = figure.add_subplot()
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
    axes.set_title(title, fontsize=11)
    return figure


def learning_curves(history: History, title: str = "") -> Figure:
    """Loss, reconstruction and KL, in nats an image, over the epochs: training solid, validation dashed."""
    figure = _figure(9.0, 3.2)
    epochs = history.column("epoch")
    for axes, (part, label) in zip(
        figure.subplots(1, 3), (("loss", "loss"), ("reconstruction", "reconstruction"), ("kl", "KL")), strict=True
    ):
        for split, style, colour in (("train", "-", COLOURS[0]), ("validation", "--", COLOURS[5])):
            values = history.column(f"{split}_{part}_nats")
            if None not in values:
                marker = "o" if len(epochs) < 3 else None
                axes.plot(
                    epochs, values, style, color=colour, marker=marker, label="training" if split == "train" else split
                )
        axes.set_xlabel("epoch")
        axes.set_title(label, fontsize=10)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("nats per image")
    figure.axes[0].legend(fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes a figure to a picture file, atomically; the suffix chooses the format."""
    formats = figure.canvas.get_supported_filetypes()
    suffix = Path(path).suffix.removeprefix(".").lower()
    checks.one_of("picture format", suffix, formats)
    return files.write(path, lambda temporary: figure.savefig(temporary, dpi=150, format=suffix))


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
