"""`pyro-vae neighbours`: training images nearest to test images, in code space and in pixel space."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyro_vae._utils import files
from pyro_vae._utils.checks import fail, positive_integer
from pyro_vae._utils.console import show, show_table
from pyro_vae._utils.progress import say
from pyro_vae.cli.options import DataRoot, Dataset, Device, Out, Quiet, Run, Seed, Trust, whole_number
from pyro_vae.cli.provenance import opened_run, provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyro_vae.data import Images
    from pyro_vae.uses.neighbours import Neighbours, Retrieval

PICTURED, COLUMNS = 8, 6  # queries in the figure, and neighbours of each space


def neighbours(
    run: Run,
    k: Annotated[int, typer.Option(help="nearest training images", parser=whole_number, metavar="INTEGER")] = 10,
    n: Annotated[int, typer.Option(help="test images, drawn at random", parser=whole_number, metavar="INTEGER")] = 1000,
    out: Out = None,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    seed: Seed = 0,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Find the nearest training images of test images by codes, by pixels and by PCA; precision at k, CSV, picture."""
    for option, value in {"--k": k, "--n": n}.items():
        positive_integer(option, value)

    import torch

    from pyro_vae.data import binarize
    from pyro_vae.plots import save_figure
    from pyro_vae.uses.neighbours import nearest, retrieval, spaces

    model, spec, images = opened_run(run, data_root, dataset, progress=not quiet, trust=trust)
    if k > len(images.train):
        raise fail("--k", k, f"at most {len(images.train)}, the training images")
    # Grey levels are the means of drawn pixels; a threshold is none.
    how = "threshold" if spec.binarization == "threshold" else "none"
    train, test = (binarize(part, how) for part in images)
    position = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))[:n]
    queries = test.take(position)
    rows = spaces(model, queries, train, device=device)
    near = {name: nearest(*pair, k, progress=not quiet) for name, pair in rows.items()}
    labels = train.labels, queries.labels
    results: dict[str, Retrieval] = {}
    if labels[0] is not None and labels[1] is not None and bool((labels[1] >= 0).any()):
        results = {name: retrieval(each, labels[0], labels[1]) for name, each in near.items()}
    else:
        say(f"pyro-vae: note: {queries.name} has no labels, and so no precision")
    folder, stem = out or run / "neighbours", f"k-{k}"
    settings = {"run": str(run), "k": k, "n": n, "seed": seed}
    files.write(folder / f"{stem}.csv", _csv(near, position.tolist(), queries, train))
    save_figure(_figure(near, position.tolist(), queries, train), folder / f"{stem}.png")
    files.write_json(
        folder / f"{stem}.json",
        _json(results, queries)
        | {"provenance": provenance(model, {"train": images.train, "queries": queries}, settings, device)},
    )
    if not quiet and results:
        caption = f"share of the {k} nearest of {len(train):,} training images that have the class of the test image"
        table = [_row(name, result, queries) for name, result in results.items()]
        show_table(table, f"Neighbours by {run}", caption, ("space", "precision", "by class"))
    if not quiet:
        show(f"Files: {folder / stem}.csv, .json and .png")


def _row(name: str, result: Retrieval, queries: Images) -> tuple[str, ...]:
    error = "" if result.precision_se is None else f" ± {result.precision_se:.3f}"
    by_class = ", ".join(f"{_name(label, queries)} {share:.2f}" for label, share in result.by_class.items())
    return name, f"{result.precision:.3f}{error}", by_class


def _name(label: int, images: Images) -> str:
    from pyro_vae.data.images import class_name

    return class_name(label, images.class_names)


def _json(results: Mapping[str, Retrieval], queries: Images) -> dict[str, Any]:
    stored = {}
    for name, result in results.items():
        by_class = {_name(label, queries): share for label, share in result.by_class.items()}
        stored[name] = asdict(result) | {"by_class": by_class}
    return {"retrieval": stored}


def _csv(near: Mapping[str, Neighbours], position: list[int], queries: Images, train: Images) -> str:
    """A line for each query, space and rank: which training image, of which class, how far."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["test_index", "class", "space", "rank", "train_index", "train_class", "distance"])
    of_queries, of_train = (
        [""] * len(images) if images.labels is None else [_name(label, images) for label in images.labels.tolist()]
        for images in (queries, train)
    )
    for space, each in near.items():
        for query, (indices, distances) in enumerate(zip(each.index.tolist(), each.distance.tolist(), strict=True)):
            for rank, (index, distance) in enumerate(zip(indices, distances, strict=True), 1):
                writer.writerow([position[query], of_queries[query], space, rank, index, of_train[index], distance])
    return buffer.getvalue()


def _figure(near: Mapping[str, Neighbours], position: list[int], queries: Images, train: Images) -> Figure:
    """A row for each of some queries, named by its position: the image, its nearest by codes, and by pixels."""
    import torch

    from pyro_vae import plots

    pixels, originals = queries.as_float(), train.pixels
    gap = torch.ones_like(pixels[:1])
    count = min(COLUMNS, near["codes"].index.shape[1])
    rows = {}
    for query in range(min(PICTURED, len(queries))):
        parts = [pixels[query : query + 1]]
        for space in ("codes", "pixels"):
            parts += [gap, originals[near[space].index[query, :count]] / 255]
        name = "" if queries.labels is None else f" ({_name(int(queries.labels[query]), queries)})"
        rows[f"test image {position[query]}{name}"] = torch.cat(parts)
    names = ["image", "", *(f"codes {rank}" if rank == 1 else str(rank) for rank in range(1, count + 1)), ""]
    names += [f"pixels {rank}" if rank == 1 else str(rank) for rank in range(1, count + 1)]
    return plots.image_rows(rows, names, f"{queries.name}: nearest training images by codes and by pixels")
