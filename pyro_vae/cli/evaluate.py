"""`pyro-vae evaluate`: the metrics of a trained model, group by group."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyro_vae._utils.checks import InputError, fail, one_of
from pyro_vae._utils.console import show_table
from pyro_vae._utils.progress import say
from pyro_vae.cli.options import (
    DataRoot,
    Dataset,
    Device,
    EvidenceImages,
    ImportanceSamples,
    MetricGroups,
    Quiet,
    Run,
    Seed,
    Trust,
    metric_groups,
    path,
    whole_number,
)
from pyro_vae.cli.provenance import opened_run

if TYPE_CHECKING:
    from pyro_vae.data import Splits
    from pyro_vae.evaluation import Extractor, Metrics
    from pyro_vae.models import Model

EXTRACTORS = ("classifier", "inception-2015-12-05", "inception-torchvision", "none")

AnnealedImages = Annotated[
    int,
    typer.Option(
        help="estimate this many of the images whose Pareto k is too high, drawn at random, by annealed importance "
        "sampling as well",
        parser=whole_number,
        metavar="INTEGER",
    ),
]
GeneratedImages = Annotated[
    int | None,
    typer.Option(
        help="images to generate for the scores of samples; as many as test images by default",
        parser=whole_number,
        metavar="INTEGER",
        show_default=False,
    ),
]
ExtractorName = Annotated[
    str,
    typer.Option(
        help="feature extractor for the scores of samples: classifier (of this data set: trained once, in a minute or "
        "more, then cached), inception-2015-12-05, inception-torchvision, or none, for no scores"
    ),
]
InceptionWeights = Annotated[
    Path | None,
    typer.Option(
        help="file of Inception weights; by default that in torch's hub cache",
        show_default=False,
        parser=path,
        metavar="PATH",
    ),
]


def evaluate(
    run: Run,
    metrics: MetricGroups = "bounds,codes,samples",
    k: ImportanceSamples = 5000,
    evidence_images: EvidenceImages = None,
    anneal: AnnealedImages = 0,
    n: GeneratedImages = None,
    extractor: ExtractorName = "classifier",
    weights: InceptionWeights = None,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    seed: Seed = 0,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a trained model on the test images; each group of metrics is added to metrics.json when it is done."""
    groups = _checked_groups(metrics, extractor, k, evidence_images, anneal, n)

    from pyro_vae.evaluation import evaluate as evaluate_model
    from pyro_vae.evaluation.samples import extractors
    from pyro_vae.experiments.run import add_metrics, read_metrics

    model, spec, images = opened_run(run, data_root, dataset, progress=not quiet, trust=trust)
    read_metrics(run)  # so that a damaged file is an error before the work, not after it

    @functools.cache
    def feature_extractor() -> Extractor:
        return extractors.by_name(extractor, images, weights=weights, device=device, progress=not quiet)

    if weights is not None and extractor.startswith("inception"):  # at once: a wrong file is bad input
        feature_extractor()
    partial = run / "evidence.partial.safetensors"

    def add(group: str) -> None:
        _check_group(group, model, images, n)
        results = evaluate_model(
            model,
            images.test,
            metrics=[group],
            binarization=spec.binarization,
            dequantize=spec.dequantize,
            k=k,
            evidence_images=evidence_images,
            anneal=anneal,
            partial=partial,
            extractor=feature_extractor() if group == "samples" else None,
            num_generated=n,
            train=images.train,
            device=device,
            seed=seed,
            progress=not quiet,
        )
        add_metrics(run, results)
        if group == "evidence":
            partial.unlink(missing_ok=True)
        if not results.rows():
            say(f"pyro-vae: note: {type(model).__name__} has no metrics of the group {group}")
        elif not quiet:
            show_metrics([results], f"{run}, {group} of {len(images.test):,} test images")

    try_each(groups, add)


def _checked_groups(
    metrics: str, extractor: str, k: int, evidence_images: int | None, anneal: int, n: int | None
) -> list[str]:
    """The groups of `--metrics` to compute; checks them with the options that belong to them."""
    groups = metric_groups(metrics)
    one_of("--extractor", extractor, EXTRACTORS)
    if k < 1:
        raise fail("--k", k, "a whole number of at least 1")
    if evidence_images is not None and evidence_images < 1:
        raise fail("--evidence-images", evidence_images, "a whole number of at least 1")
    if anneal < 0:
        raise fail("--anneal", anneal, "a whole number of at least 0")
    if n is not None and n < 10:
        raise fail("--n", n, "a whole number of at least 10, one image for each split of the score")
    if extractor == "none":
        groups = [name for name in groups if name != "samples"]
    if "evidence" not in groups and (anneal or evidence_images is not None):
        option = "--anneal" if anneal else "--evidence-images"
        raise fail("--metrics", metrics, f"evidence among them, of which {option} is an option")
    if not groups:
        raise fail("--metrics", metrics, "a group beside samples, which need an extractor")
    return groups


def _check_group(group: str, model: Model, images: Splits, num_generated: int | None) -> None:
    """Checks what a group of metrics requires of a run, before anything is trained or computed for it."""
    from pyro_vae.models import check_evaluable

    check_evaluable(model, group)
    if group == "codes" and len(images.test) < 2:
        raise fail("test images", len(images.test), "at least 2, for a variance of their codes")
    if group == "samples" and (num_generated or len(images.test)) < 10:
        raise fail("test images", len(images.test), "at least 10, or --n for the number of samples")


def show_metrics(results: Sequence[Metrics], title: str) -> None:
    """Prints all results as one table."""
    rows = [row for metrics in results for row in metrics.rows()]
    extractors = [metrics.extractor for metrics in results if metrics.extractor is not None]
    show_table(rows, title, f"samples are scored with {extractors[0]}" if extractors else "")


def try_each(names: Sequence[str], action: Callable[[str], None]) -> None:
    """Calls `action` with each name; then reports those that failed, one line each with the reason.

    It is an error only if all failed. A bug in one of them is raised after all the others ran.
    """
    left_out: list[Exception] = []
    bugs: list[Exception] = []
    for name in names:
        try:
            action(name)
        except (InputError, FloatingPointError) as error:
            left_out.append(type(error)(f"{name}: {error}"))
        except OSError:
            raise
        except Exception as error:
            bugs.append(error)
    if len(left_out) == len(names):
        raise type(left_out[0])("; ".join(map(str, left_out)))
    for reason in left_out:
        say(f"pyro-vae: left out: {reason}")
    if bugs:
        raise bugs[0]
