"""What commands share that change test images: the images as a model was trained, tables by image, and their means."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_vae._utils import files
from pyro_vae._utils.checks import InputError
from pyro_vae._utils.console import show_table
from pyro_vae.cli.provenance import opened_run

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vae.data import Images
    from pyro_vae.models import Model


def drawn_test_images(
    run: Path, use: str, n: int, seed: int, data_root: Path | None, dataset: str | None, *, progress: bool, trust: bool
) -> tuple[Model, Images, Tensor]:
    """The model of a run that `use` can take, n of its test images, drawn at random, and their positions.

    The images are binarized as in its training.
    """
    from pyro_vae.data import binarize, fixed_binarization
    from pyro_vae.models.base import warn_if_not_binary
    from pyro_vae.uses.code_posterior import check_codes

    model, spec, images = opened_run(run, data_root, dataset, progress=progress, trust=trust)
    check_codes(model, use)  # before there is any note of its images
    index = images.test.draw_index(n, seed)
    chosen = binarize(images.test.take(index), fixed_binarization(spec.binarization))
    warn_if_not_binary(model, chosen, "none")
    return model, chosen, index


@contextmanager
def naming(option: str, *arguments: str) -> Iterator[None]:
    """An error inside about one of these arguments of a function names the option, which is what the user typed."""
    try:
        yield
    except InputError as error:
        argument, _, rest = str(error).partition(": ")
        if argument not in arguments:
            raise
        raise InputError(f"{option}: {rest}") from error


def write_table(path: Path, columns: Mapping[str, Tensor], images: Images, index: Tensor) -> None:
    """A CSV file with a row for each image: its position among the test images, its class, and `(N,)` numbers."""
    from pyro_vae.data.images import class_name

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["index", "class", *columns])
    labels = [""] * len(images)
    if images.labels is not None:
        labels = [class_name(label, images.class_names) for label in images.labels.tolist()]
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    for position, label, row in zip(index.tolist(), labels, rows, strict=True):
        writer.writerow([position, label, *(f"{value:.6g}" for value in row)])
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
