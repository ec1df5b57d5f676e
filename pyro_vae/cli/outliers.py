"""`pyro-vae outliers`: how well scores of a trained model tell images of another data set from its own."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyro_vae._utils import files
from pyro_vae._utils.checks import InputError, fail, one_of
from pyro_vae._utils.console import show, show_table
from pyro_vae._utils.progress import say
from pyro_vae.cli.options import DataRoot, Dataset, Device, Out, Quiet, Run, Seed, Trust, path, whole_number
from pyro_vae.cli.per_image import naming
from pyro_vae.cli.provenance import opened_run, provenance
from pyro_vae.spec import check_dataset

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from pyro_vae.data import Images
    from pyro_vae.models import Model
    from pyro_vae.uses.outlier_table import OutlierTable

HELD_OUT, INLIERS, OUTLIERS = "held out", "inliers", "outliers"
COLUMNS = ("score", "AUROC", "95 % interval", "AUPRC", "FPR at 95 % TPR", "FPR", "TPR")
PICTURED = 9  # most outlying images, by each score

Scores = Annotated[
    str | None,
    typer.Option(
        help="separated by commas: elbo, nll, reconstruction, complexity, typicality, codes, regret, ratio, waic; "
        "by default all that the model has, but regret, which takes long",
        show_default=False,
    ),
]
Background = Annotated[
    Path | None,
    typer.Option(
        help="run of the background model, trained on perturbed pixels; for ratio",
        show_default=False,
        parser=path,
        metavar="RUN",
    ),
]
Ensemble = Annotated[
    list[Path] | None,
    typer.Option(
        help="a run of the same spec with another seed, for waic; may be repeated",
        show_default=False,
        parser=path,
        metavar="RUN",
    ),
]


def outliers(
    run: Run,
    against: Annotated[str, typer.Option(help="data set of the outliers: a name, or the path of a file or folder")],
    scores: Scores = None,
    background: Background = None,
    ensemble: Ensemble = None,
    n: Annotated[
        int, typer.Option(help="images of each set, drawn at random", parser=whole_number, metavar="INTEGER")
    ] = 1000,
    k: Annotated[int, typer.Option(help="importance samples per image", parser=whole_number, metavar="INTEGER")] = 500,
    rate: Annotated[float, typer.Option(help="false-positive rate of the thresholds", metavar="NUMBER")] = 0.05,
    out: Out = None,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    seed: Seed = 0,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Score test images and those of another data set: CSV, ROC curves, thresholds, and the most outlying images."""
    names = None if scores is None else [name.strip() for name in scores.split(",") if name.strip()]
    _check_options(names, scores, background, ensemble or [], n, k, rate)
    _check_other_runs(run, background, ensemble or [])
    with naming("--against", "dataset"):
        check_dataset(against)

    from pyro_vae.data import load_data
    from pyro_vae.evaluation.samples.features import file_name
    from pyro_vae.experiments.run import open_model
    from pyro_vae.uses.outlier_table import outlier_table, usual_scores

    model, _, images = opened_run(run, data_root, dataset, progress=not quiet, trust=trust)
    with naming("--against", "dataset"):
        others = load_data(against, data_root, progress=not quiet).test
    if others.fingerprint == images.test.fingerprint:
        say(f"pyro-vae: note: --against {against} has the test images of {run}: these outliers are inliers")
    if others.shape != images.test.shape:
        expected = f"images of shape {images.test.shape}, as those of {run}"
        raise fail("--against", f"{against} of shape {others.shape}", expected)
    of_background = None if background is None else open_model(background, trust=trust)
    of_ensemble = [open_model(folder, trust=trust) for folder in ensemble or []]
    chosen = list(names or usual_scores(model, of_background, of_ensemble))
    positions = _positions(images.test, others, n, seed)
    if len(positions[HELD_OUT]) < (least := math.ceil(1 / rate - 1e-9) - 1):
        held_out = len(positions[HELD_OUT])
        raise fail("--rate", rate, f"a rate that {held_out} held-out test images can tell; it takes {least}")
    sets = {of_set: (others if of_set == OUTLIERS else images.test).take(index) for of_set, index in positions.items()}
    table = outlier_table(
        model,
        sets,
        chosen,
        held_out=HELD_OUT,
        train=images.train,
        background=of_background,
        ensemble=of_ensemble,
        k=k,
        device=device,
        seed=seed,
        progress=not quiet,
    )
    folder, stem = out or run / "outliers", file_name(others.name)
    results = _results(table, rate, seed)
    settings = {
        "run": str(run),
        "against": against,
        "scores": ",".join(chosen),
        "background": None if background is None else str(background),
        "ensemble": [str(member) for member in ensemble or []],
        "n": n,
        "k": k,
        "rate": rate,
        "seed": seed,
    }
    files.write(folder / f"{stem}.csv", _csv(table, positions, sets))
    _draw(folder, stem, model, table, results, f"{images.test.name} against {others.name}", seed, device)
    files.write_json(
        folder / f"{stem}.json", {"scores": results, "provenance": provenance(model, sets, settings, device)}
    )
    if not quiet:
        caption = f"{len(sets[INLIERS]):,} test images against {len(sets[OUTLIERS]):,} of {others.name}; "
        caption += f"FPR and TPR at thresholds for an FPR of {rate:g}, from {len(sets[HELD_OUT]):,} other test images"
        show_table([_row(name, result) for name, result in results.items()], f"Outliers by {run}", caption, COLUMNS)
        show(f"Files: {folder / stem}.csv, .json, and pictures")


def _check_options(
    names: list[str] | None,
    scores: str | None,
    background: Path | None,
    ensemble: list[Path],
    n: int,
    k: int,
    rate: float,
) -> None:
    from pyro_vae.uses.outlier_table import SCORES

    for name in names if names is not None else []:
        one_of("--scores", name, SCORES)
    if names is not None and not names:
        raise fail("--scores", scores, f"at least one of {', '.join(SCORES)}")
    if names and len(set(names)) < len(names):
        raise fail("--scores", scores, "each score once")
    if n < 2:
        raise fail("--n", n, "a whole number of at least 2")
    if k < 1:
        raise fail("--k", k, "a whole number of at least 1")
    if not 0 < rate < 1:
        raise fail("--rate", rate, "a number above 0 and below 1")
    if names and "ratio" in names and background is None:
        raise fail("--background", None, "the run of a background model, which the score ratio needs")
    if names and "waic" in names and not ensemble:
        raise fail("--ensemble", None, "a run of another seed, which the score waic needs")


def _check_other_runs(run: Path, background: Path | None, ensemble: list[Path]) -> None:
    """The run itself is no background and no other member of an ensemble, and no run is two of its members."""
    if background is not None and background.resolve() == run.resolve():
        raise fail("--background", str(background), "another run than the one whose scores are computed")
    folders = [run.resolve(), *(member.resolve() for member in ensemble)]
    for index, folder in enumerate(folders):
        if folder in folders[:index]:
            expected = f"runs of other seeds than {run}, each of them once"
            raise fail("--ensemble", str(ensemble[index - 1]), expected)


def _positions(test: Images, others: Images, n: int, seed: int) -> dict[str, Tensor]:
    """Test images in two halves, one of which sets the thresholds, and the outliers; at most n of each, at random."""
    import torch

    if len(test) < 2:
        raise fail("test images", len(test), "at least 2, of which a half sets the thresholds")
    orders = [torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)) for images in (test, others)]
    held_out, inliers = orders[0].tensor_split(2)
    return {HELD_OUT: held_out[:n], INLIERS: inliers[:n], OUTLIERS: orders[1][:n]}


def _results(table: OutlierTable, rate: float, seed: int) -> dict[str, dict[str, Any]]:
    """What each score detects, and its threshold, by name."""
    from pyro_vae.uses.detection import detection, flagged_share, threshold

    results = {}
    for name, scores in table.scores.items():
        limit = threshold(scores[HELD_OUT], rate)
        flagged = {of_set: flagged_share(limit.flags(scores[of_set])) for of_set in (INLIERS, OUTLIERS)}
        results[name] = asdict(detection(scores[INLIERS], scores[OUTLIERS], seed=seed)) | {
            "threshold": limit.value,
            "false_positive_rate": flagged[INLIERS].share,
            "false_positive_rate_interval": flagged[INLIERS].interval,
            "true_positive_rate": flagged[OUTLIERS].share,
            "true_positive_rate_interval": flagged[OUTLIERS].interval,
        }
    return results


def _row(name: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = result["auroc_interval"]
    cells = [result[key] for key in ("auprc", "fpr_at_95", "false_positive_rate", "true_positive_rate")]
    return name, f"{result['auroc']:.3f}", f"{low:.3f} to {high:.3f}", *(f"{cell:.3f}" for cell in cells)


def _csv(table: OutlierTable, positions: Mapping[str, Tensor], sets: Mapping[str, Images]) -> str:
    """A line for each image: its set, its position among the test images there, its class, and its scores."""
    from pyro_vae.data.images import class_name

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["set", "index", "class", *table.scores])
    for of_set, images in sets.items():
        labels = [""] * len(images)
        if images.labels is not None:
            labels = [class_name(label, images.class_names) for label in images.labels.tolist()]
        columns = [values[of_set].tolist() for values in table.scores.values()]
        for index, label, *row in zip(positions[of_set].tolist(), labels, *columns, strict=True):
            writer.writerow([of_set, index, label, *row])
    return buffer.getvalue()


def _draw(
    folder: Path,
    stem: str,
    model: Model,
    table: OutlierTable,
    results: Mapping[str, Mapping[str, Any]],
    title: str,
    seed: int,
    device: str,
) -> None:
    """ROC curves, the most outlying images by each score, and which pixels make images outlying."""
    from pyro_vae import plots
    from pyro_vae.uses.detection import roc

    curves = {
        f"{name}: {results[name]['auroc']:.3f}": roc(scores[INLIERS], scores[OUTLIERS])
        for name, scores in table.scores.items()
    }
    plots.save_figure(plots.roc_curves(curves, f"{title}: ROC curves, with their areas"), folder / f"{stem}-roc.png")
    plots.save_figure(_most_outlying(table, title), folder / f"{stem}-most-outlying.png")
    try:
        figure = _pixels(model, table, title, seed, device)
    except InputError as error:
        say(f"pyro-vae: note: the picture of pixels is left out: {error}")
        return
    plots.save_figure(figure, folder / f"{stem}-pixels.png")


def _most_outlying(table: OutlierTable, title: str) -> Figure:
    """A row for each score: of inliers and outliers together, those of the highest score."""
    import torch

    from pyro_vae import plots

    pixels = torch.cat([table.binarized[of_set].pixels for of_set in (INLIERS, OUTLIERS)])
    num_inliers = len(table.binarized[INLIERS])
    images, captions = [], []
    for name, scores in table.scores.items():
        values, order = torch.cat([scores[INLIERS], scores[OUTLIERS]]).sort(descending=True)
        for value, index in zip(values[:PICTURED].tolist(), order[:PICTURED].tolist(), strict=True):
            images.append(pixels[index])
            captions.append(f"{name}\n{value:.4g}, {'inlier' if index < num_inliers else 'outlier'}")
    columns = min(PICTURED, len(pixels))
    return plots.captioned_images(torch.stack(images), captions, f"Most outlying: {title}", columns)


def _pixels(model: Model, table: OutlierTable, title: str, seed: int, device: str) -> Figure:
    """The first inliers and the first outliers, over the terms of log p(x|z) of their pixels."""
    from pyro_vae import plots
    from pyro_vae.uses.outliers import pixel_terms

    count = min(PICTURED, *(len(table.binarized[of_set]) for of_set in (INLIERS, OUTLIERS)))
    some = {of_set: table.binarized[of_set].take(slice(0, count)) for of_set in (INLIERS, OUTLIERS)}
    terms = {of_set: pixel_terms(model, images, device=device, seed=seed) for of_set, images in some.items()}
    least = min(each.min() for each in terms.values()) + 0.0  # no -0
    largest = max(each.max() for each in terms.values())
    rows = {}
    for of_set, images in some.items():
        rows[of_set] = images.as_float()
        rows[f"-log p(pixel|z), {of_set}"] = (terms[of_set] - least) / (largest - least).clamp(min=1e-12)
    heading = f"Which pixels: {title}; white is {largest:.3g} nats, black {least:.3g}"
    return plots.image_rows(rows, title=heading)
