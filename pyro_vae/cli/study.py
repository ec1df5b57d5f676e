"""`pyro-vae study`: all models of a grid, with their table, figures and claims."""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyro_vae._utils.checks import InputError, fail
from pyro_vae._utils.console import show
from pyro_vae._utils.progress import say
from pyro_vae.cli.debias import debias
from pyro_vae.cli.denoise import denoise
from pyro_vae.cli.inpaint import inpaint
from pyro_vae.cli.neighbours import neighbours
from pyro_vae.cli.options import (
    DataRoot,
    Device,
    EvidenceImages,
    ImportanceSamples,
    MetricGroups,
    Quiet,
    metric_groups,
    path,
    whole_number,
)
from pyro_vae.cli.outliers import outliers
from pyro_vae.cli.traverse import traverse
from pyro_vae.spec import check_dataset

if TYPE_CHECKING:
    from pyro_vae.experiments.study import Study

_USES: Mapping[str, Callable[..., None]] = {
    "denoise": denoise,
    "inpaint": inpaint,
    "outliers": outliers,
    "neighbours": neighbours,
    "traverse": traverse,
    "debias": debias,
}

StudyName = Annotated[
    str | None, typer.Argument(help="name of a study, or a .py or .toml file of your own", show_default=False)
]
Out = Annotated[
    Path | None,
    typer.Option(help="study folder to make or to resume", show_default=False, parser=path, metavar="PATH"),
]
Epochs = Annotated[
    int | None,
    typer.Option(help="epochs of each model, instead of the study's", parser=whole_number, metavar="INTEGER"),
]
Seeds = Annotated[
    int,
    typer.Option(
        help="train each model with this many seeds; the table has mean and sd", parser=whole_number, metavar="INTEGER"
    ),
]
Jobs = Annotated[int, typer.Option(help="models trained at the same time", parser=whole_number, metavar="INTEGER")]
Threads = Annotated[
    int | None,
    typer.Option(
        help="CPU threads of each model; by default the cores divided among the jobs. The same number gives the same "
        "results to the last bit",
        parser=whole_number,
        metavar="INTEGER",
        show_default=False,
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(help="run on the Ray cluster at this address, or `local`; --out is then on shared storage"),
]
RayRetries = Annotated[
    int, typer.Option(help="restarts of a model whose Ray worker was lost", parser=whole_number, metavar="INTEGER")
]


def study(
    name: StudyName = None,
    out: Out = None,
    list_studies: Annotated[bool, typer.Option("--list", help="list the studies, and how long each takes")] = False,
    epochs: Epochs = None,
    seeds: Seeds = 1,
    metrics: MetricGroups = "bounds,codes,samples",
    k: ImportanceSamples = 5000,
    evidence_images: EvidenceImages = None,
    only: Annotated[list[str] | None, typer.Option(help="train this model only; may be repeated")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="data set of each model, instead of the study's", show_default=False)
    ] = None,
    jobs: Jobs = 1,
    threads: Threads = None,
    ray: Ray = None,
    ray_gpus: Annotated[float, typer.Option(help="GPUs, or the fraction of one, for each model on Ray")] = 0.0,
    ray_retries: RayRetries = 3,
    data_root: DataRoot = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train and evaluate all models of a study, and use them; the same command resumes one that was stopped."""
    from pyro_vae.experiments.study import NAMES, named

    if list_studies:
        _list_studies()
        return
    if name is None:
        raise fail("study", None, f"one of {', '.join(NAMES)}, FILE.py or FILE.toml; --list describes them")
    dataset = dataset and os.path.expanduser(dataset)
    grid = named(name).adapted(epochs=epochs, dataset=dataset)  # checked before torch is imported
    _check_uses(grid)
    groups = metric_groups(metrics)
    if out is None:
        raise fail("--out", None, "a folder for the study")
    for entry in grid.entries:
        check_dataset(entry.spec.dataset)

    _check_outliers(grid, only or (), data_root)

    from pyro_vae.experiments.runner import run_study

    command = _command(
        name,
        out,
        only or (),
        epochs=epochs,
        seeds=seeds if seeds > 1 else None,
        dataset=dataset,
        metrics=metrics if groups != ["bounds", "codes", "samples"] else None,
        k=k if k != 5000 else None,
        evidence_images=evidence_images,
    )
    stored = run_study(
        grid,
        out,
        seeds=seeds,
        metrics=groups,
        k=k,
        evidence_images=evidence_images,
        only=only or (),
        data_root=data_root,
        device=device,
        jobs=jobs,
        threads=threads,
        ray=ray,
        ray_gpus=ray_gpus,
        ray_retries=ray_retries,
        command=command,
        progress=not quiet,
    )
    if not quiet:
        show((out / "results.md").read_text(encoding="utf-8"))
    for entry in stored["entries"]:
        if entry["status"] in ("failed", "skipped"):
            say(f"pyro-vae: {entry['name']} {entry['status']}: {entry['error']}")
    failed = _use(grid, out, stored, data_root, device, quiet)
    if failed or any(entry["status"] == "failed" for entry in stored["entries"]):
        raise typer.Exit(1)


def _check_uses(grid: Study) -> None:
    """Checks the options of all uses before anything is trained."""
    for use in grid.uses:
        try:
            inspect.signature(_USES[use.command]).bind("RUN", **use.options)
        except TypeError as error:
            expected = f"options of pyro-vae {use.command} ({error})"
            raise fail(f"use {use.command} of {use.model}", dict(use.options), expected) from error


def _check_outliers(grid: Study, only: Sequence[str], data_root: Path | None) -> None:
    """Checks that outliers have the shape of the images of their model, before anything is trained."""
    from pyro_vae.data import load_data

    specs = {entry.name: entry.spec for entry in grid.entries if not entry.optional}
    for use in grid.uses:
        if use.command != "outliers" or use.model not in specs or (only and use.model not in only):
            continue
        names = specs[use.model].dataset, use.options["against"]
        ours, others = (load_data(name, data_root, progress=False).test.shape for name in names)
        if ours != others:
            expected = f"images of shape {ours}, as those of {names[0]}"
            raise fail(f"use outliers of {use.model}: --against", f"{names[1]} of shape {others}", expected)


def _use(
    grid: Study, out: Path, stored: Mapping[str, Any], data_root: Path | None, device: str, quiet: bool
) -> dict[str, str]:
    """Runs the commands of the study on its trained models, unless their results are there; the errors, by folder."""
    from pyro_vae.experiments.uses import is_done, write_uses
    from pyro_vae.part_classes import importable

    errors: dict[str, str] = {}
    trained = {entry["name"]: out / entry["runs"][0] for entry in stored["entries"] if entry["status"] == "done"}
    try:
        for use in grid.uses:
            if use.model not in trained or is_done(use, trained[use.model], out):
                continue
            settings = {"out": out / "uses" / use.folder, "data_root": data_root, "device": device, "quiet": quiet}
            try:
                with importable(grid.folder):  # the run is of this study's own parts, which it has trained
                    _USES[use.command](trained[use.model], **use.options, **settings, trust=True)
            except InputError as error:
                errors[use.folder] = str(error)
                say(f"pyro-vae: {use.command} of {use.model} failed: {error}")
    finally:
        if grid.uses:
            write_uses(grid.uses, out, errors)
    return errors


def _command(name: str, out: Path, only: Sequence[str], **changes: str | int | None) -> str:
    """The command of the study, for its report, without defaults and what depends on the machine."""
    options = [f"--{option.replace('_', '-')}={value}" for option, value in changes.items() if value is not None]
    options += [f"--only={model}" for model in only]
    return shlex.join(["pyro-vae", "study", name, "--out", str(out), *options])


def _list_studies() -> None:
    from pyro_vae.experiments.study import NAMES, named

    for name in NAMES:
        grid = named(name)
        show(f"{name:12} {grid.title}: {len(grid.entries)} models; {grid.cost}")
