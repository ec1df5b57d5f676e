"""What commands share that change test images: the images as a model was trained, tables by image, and their means."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_vae._utils import files
from pyro_vae._utils.console import show_table
from pyro_vae.cli.provenance import opened_run

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vae.data import Images
    from pyro_vae.models import Model


def drawn_test_images(
    run: Path, n: int, seed: int, data_root: Path | None, dataset: str | None, *, progress: bool, trust: bool
) -> tuple[Model, Images]:
    """The model of a run, and n of its test images, drawn at random and binarized as in its training."""
    from pyro_vae.data import binarize, fixed_binarization
    from pyro_vae.models.base import warn_if_not_binary

    model, spec, images = opened_run(run, data_root, dataset, progress=progress, trust=trust)
    chosen = binarize(images.test.draw(n, seed), fixed_binarization(spec.binarization))
    warn_if_not_binary(model, chosen, "none")
    return model, chosen


def write_table(path: Path, columns: Mapping[str, Tensor]) -> None:
    """A CSV file with a row for each image, `(N,)` numbers in each column."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["image", *columns])
    for index, row in enumerate(zip(*(values.tolist() for values in columns.values()), strict=True)):
        writer.writerow([index, *(f"{value:.6g}" for value in row)])
    files.write(path, buffer.getvalue())


def means_of(columns: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """The mean of each column, and its standard error if there are two images."""
    means = {}
    for column, values in columns.items():
        error = {} if len(values) < 2 else {"se": values.std().item() / len(values) ** 0.5}
        means[column] = {"value": values.mean().item()} | error
    return means


def show_means(means: Mapping[str, Mapping[str, float]], meanings: Mapping[str, tuple[str, str]], title: str) -> None:
    """Prints the means with what they are, `meanings[column]`: a label and a sentence."""
    rows = []
    for column, mean in means.items():
        label, meaning = meanings[column]
        value = f"{mean['value']:.3f}" + (f" ± {mean['se']:.3f}" if "se" in mean else "")
        rows.append((label, value, meaning))
    show_table(rows, title, "± standard error", ("mean over images", "value", "what it is"))
