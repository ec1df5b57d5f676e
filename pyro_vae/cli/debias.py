"""`pyro-vae debias`: weights of the training images that are high where codes are rare."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyro_vae._utils import files
from pyro_vae._utils.checks import non_negative, one_of, positive_integer
from pyro_vae._utils.console import show, show_table
from pyro_vae._utils.progress import say
from pyro_vae.cli.options import DataRoot, Dataset, Device, Out, Quiet, Run, Trust, whole_number
from pyro_vae.cli.provenance import opened_run, provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from pyro_vae.data import Images

PICTURED = 16  # images of the largest weights, and of the smallest


@dataclass(frozen=True)
class ClassShare:
    """Of a class: its images, their share, their share of the draws, and their mean weight times N."""

    images: int
    share: float
    share_of_draws: float
    relative_weight: float


def debias(
    run: Run,
    bins: Annotated[
        int, typer.Option(help="of the histogram of each dimension", parser=whole_number, metavar="INTEGER")
    ] = 10,
    smoothing: Annotated[float, typer.Option(help="added to the share of each bin; large: all weights alike")] = 1e-3,
    combine: Annotated[str, typer.Option(help="max or product, over the dimensions of the code")] = "max",
    out: Out = None,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Weigh training images by how rare their codes are, for any loader: CSV, picture, what becomes of classes.

    `train --sampler latent-density` trains with such weights.
    """
    positive_integer("--bins", bins)
    non_negative("--smoothing", smoothing)
    one_of("--combine", combine, ("max", "product"))

    from pyro_vae.data import binarize
    from pyro_vae.latent import codes
    from pyro_vae.plots import save_figure
    from pyro_vae.uses.debias import density_weights

    model, spec, images = opened_run(run, data_root, dataset, progress=not quiet, trust=trust)
    # Grey levels are the means of drawn pixels; a threshold is none.
    train = binarize(images.train, "threshold" if spec.binarization == "threshold" else "none")
    means = codes(model, train, device=device)
    active = active_dimensions(means, run, "all weights are equal")
    weights = density_weights(means, bins, smoothing, combine)
    effective = 1 / weights.square().sum().item()  # Kish's number of images, as the weights add up to 1
    shares = {} if train.labels is None else _shares(weights, train)
    folder, stem = out or run / "debias", f"{combine}-bins-{bins}-smoothing-{smoothing}"
    settings = {"run": str(run), "bins": bins, "smoothing": smoothing, "combine": combine}
    files.write(folder / f"{stem}.csv", _csv(weights, train))
    save_figure(_figure(weights, train, shares), folder / f"{stem}.png")
    files.write_json(
        folder / f"{stem}.json",
        {
            "images": len(train),
            "effective_images": effective,
            "dimensions": means.shape[1],
            "active_dimensions": active,
            "by_class": {name: asdict(share) for name, share in shares.items()},
            "provenance": provenance(model, {"train": images.train}, settings, device),
        },
    )
    if quiet:
        return
    text = f"{effective:,.0f} effective of {len(train):,} training images, by {active} of {means.shape[1]} dimensions"
    if shares:
        caption = f"{text}; weight is the mean of the class over that of all images"
        rows = [_row(name, share) for name, share in shares.items()]
        show_table(rows, f"Weights by {run}", caption, ("class", "images", "share", "share of draws", "weight"))
    else:
        show(text)
    show(f"Files: {folder / stem}.csv, .json and .png")


def active_dimensions(codes: Tensor, run: Path, consequence: str) -> int:
    """How many dimensions of the codes vary over images; a note says what follows where none does."""
    from pyro_vae.uses.debias import ACTIVE_VARIANCE

    active = int((codes.double().var(0, correction=0) > ACTIVE_VARIANCE).sum())
    if active == 0:
        variance = f"no dimension of the code of {run} has a variance above {ACTIVE_VARIANCE:g}"
        say(f"pyro-vae: note: {variance}: {consequence}")
    return active


def _shares(weights: Tensor, train: Images) -> dict[str, ClassShare]:
    """What becomes of each class, by its name."""
    from pyro_vae.data.images import class_name
    from pyro_vae.uses.debias import group_means

    n, shares = len(train), {}
    for label, mean in group_means(weights, train.labels).items():  # type: ignore[arg-type]
        name = class_name(label, train.class_names)
        shares[name] = ClassShare(mean.n, mean.n / n, mean.n * mean.mean, n * mean.mean)
    return shares


def _row(name: str, share: ClassShare) -> tuple[str, ...]:
    cells = (f"{share.share:.3f}", f"{share.share_of_draws:.3f}", f"{share.relative_weight:.2f}")
    return name, f"{share.images:,}", *cells


def _csv(weights: Tensor, train: Images) -> str:
    """A line for each training image, in the order of the data set."""
    from pyro_vae.data.images import class_name

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["index", "class", "weight"])
    labels = [-1] * len(train) if train.labels is None else train.labels.tolist()
    for index, (label, weight) in enumerate(zip(labels, weights.tolist(), strict=True)):
        writer.writerow([index, "" if train.labels is None else class_name(label, train.class_names), weight])
    return buffer.getvalue()


def _figure(weights: Tensor, train: Images, shares: Mapping[str, ClassShare]) -> Figure:
    """The images of the largest and of the smallest weights, over the histogram and the shares of classes."""
    from pyro_vae import plots

    order, count = weights.argsort(descending=True, stable=True), min(PICTURED, len(train))
    rows = {
        "largest weights": train.pixels[order[:count]],
        "smallest weights": train.pixels[order[-count:].flip(0)],
    }
    pairs = {name: (share.share, share.share_of_draws) for name, share in shares.items()}
    return plots.sampling_weights(
        weights, rows, pairs or None, f"{train.name}: training images by rarity of their code"
    )
