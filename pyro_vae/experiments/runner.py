"""Running a study: each model into its run folder, then one table, the figures and `study.json`."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pyro_vae._utils import checks
from pyro_vae._utils.progress import Progress
from pyro_vae.data import Splits, load_data
from pyro_vae.evaluation import Extractor, evaluate
from pyro_vae.evaluation.samples import classifier
from pyro_vae.experiments import run as run_folder
from pyro_vae.experiments.figures.of_study import draw_figures
from pyro_vae.experiments.study import Study
from pyro_vae.experiments.study_folder import (
    StudyRun,
    StudyState,
    check_study_folder,
    commands_of,
    locked,
    study_runs,
    write_results,
)
from pyro_vae.experiments.workers import Processes, RayTasks, Workers
from pyro_vae.part_classes import importable
from pyro_vae.spec import GROUPS
from pyro_vae.training.checkpoint import read_checkpoint
from pyro_vae.training.history import Epoch, epoch_line


def run_study(
    study: Study,
    out: str | os.PathLike[str],
    *,
    seeds: int = 1,
    metrics: Sequence[str] = ("bounds", "codes", "samples"),
    k: int = 5000,
    evidence_images: int | None = None,
    only: Sequence[str] = (),
    data_root: str | os.PathLike[str] | None = None,
    device: str = "auto",
    jobs: int = 1,
    threads: int | None = None,
    ray: str | None = None,
    ray_gpus: float = 0.0,
    ray_retries: int = 3,
    command: str = "",
    progress: bool = True,
) -> dict[str, Any]:
    """Trains and evaluates the models of a study that are not done yet, and writes its tables and figures.

    A finished run is skipped; an interrupted one resumes from its last checkpoint; one that fails does not stop the
    others. Scores of samples that the data don't allow, and figures that can't be drawn, are left out
    with a warning.

    Args:
        study: the grid, for instance `named("ablation")` of :mod:`pyro_vae.experiments.study`.
        out: folder of the study; an earlier call in it is resumed.
        seeds: train each of the models so many times, with its spec's seed and those after it. The table has these,
            and what an earlier call has trained.
        metrics: groups as of :func:`~pyro_vae.evaluate`; those that a model or its data don't allow are left out. What
            an earlier call has evaluated stays.
        k: importance samples per image, for the group `evidence`.
        evidence_images: estimate the evidence on this many test images, drawn at random; by default on all.
        only: names of the models to train now; by default all.
        data_root: folder of the data sets.
        device: of training and evaluation.
        jobs: processes that train at the same time.
        threads: of each; by default the cores divided among the jobs, and 1 on a Ray cluster. The same number gives
            the same results to the last bit, in processes and on Ray; another one rounds otherwise.
        ray: address of a Ray cluster to run on, or `local` to start one; `out` is then on storage that it shares.
        ray_gpus: GPUs, or the fraction of one, for each model on Ray.
        ray_retries: how often Ray starts a model again whose worker was lost; it resumes from its last checkpoint.
        command: how the study was started, for its report.
        progress: one bar over all epochs where standard error is a terminal; else, in a log, a line per epoch of each
            model.

    Returns:
        What `study.json` holds.

    Raises:
        InputError: a wrong argument, data that are not here, or a folder that holds something else, such as models
            that were trained before the data changed.
    """
    for name in only:
        checks.one_of("only", name, (entry.name for entry in study.entries))
    _check_numbers(seeds, jobs, threads, ray_gpus, ray_retries)
    _check_metrics(metrics, k, evidence_images)
    out = checks.path("out", out).absolute()
    check_study_folder(out, study)
    images, skipped = _load(study, data_root, progress)
    chosen = [entry.name for entry in study.entries if not only or entry.name in only]
    runs = study_runs(study, out, dict.fromkeys(chosen, seeds), images, metrics)
    state = StudyState(study, out, commands_of(out, command), device, runs, skipped)
    with locked(out):
        chosen_runs = _all({model: runs[model] for model in chosen if model in runs})
        waiting = [run for run in chosen_runs if not run.done]
        write_results(state)
        if waiting:
            workers = _workers(min(jobs, len(waiting)) if ray is None else jobs, threads, ray, ray_gpus, ray_retries)
            options = {"data_root": data_root, "device": device, "k": k, "evidence_images": evidence_images}
            options["modules"] = study.folder
            tasks = _tasks(waiting, study.snapshots, images, options, progress)
            _work(state, workers, tasks, chosen_runs, progress)
        with importable(study.folder):
            draw_figures(study.pictures, out / "figures", runs, images)
        return write_results(state)


def train_and_evaluate(
    run: StudyRun,
    snapshots: Sequence[int],
    extractor: Extractor | None,
    *,
    data_root: str | os.PathLike[str] | None = None,
    device: str = "auto",
    k: int = 5000,
    evidence_images: int | None = None,
    modules: str | None = None,
) -> None:
    """Trains one model into its folder, or resumes it, and evaluates it by each group of metrics that it lacks.

    `modules` is a folder of modules that the parts of the model may name.
    """
    with warnings.catch_warnings(), importable(modules):
        warnings.filterwarnings("ignore", "grey pixels under a Bernoulli")  # the notes of a study say so
        warnings.filterwarnings("ignore", re.escape(f"{run.spec.dataset}: "))  # said when the study loaded it
        warnings.filterwarnings("ignore", ".*has no effect")  # said when the study began
        warnings.filterwarnings("ignore", "nothing is kept in the cache")  # said when the classifier was trained
        if run.trained:  # perhaps without a checkpoint, which evaluation does not need
            model, _, images = run_folder.open_run(run.folder, data_root, progress=False, trust=run.spec)
        else:
            model, _, images = run_folder.run(
                run.spec,
                run.folder,
                data_root=data_root,
                device=device,
                resume=True,
                snapshots=snapshots,
                progress=False,
            )
        partial_evidence = run.folder / "evidence.partial.safetensors"
        errors: list[Exception] = []
        for group in run.missing_groups:
            try:
                metrics = evaluate(
                    model,
                    images.test,
                    metrics=[group],
                    binarization=run.spec.binarization,
                    dequantize=run.spec.dequantize,
                    k=k,
                    evidence_images=evidence_images,
                    partial=partial_evidence,
                    extractor=extractor,
                    train=images.train,
                    device=device,
                )
                run_folder.add_metrics(run.folder, metrics)
            except (checks.InputError, FloatingPointError) as error:  # the other groups don't depend on this one
                errors.append(type(error)(f"{group}: {error}"))
        if "evidence" not in run.missing_groups:
            partial_evidence.unlink(missing_ok=True)
        if errors:
            raise errors[0]


def _check_numbers(seeds: int, jobs: int, threads: int | None, ray_gpus: float, ray_retries: int) -> None:
    for name, value in (("seeds", seeds), ("jobs", jobs), ("threads", 1 if threads is None else threads)):
        checks.positive_integer(name, value)
    checks.non_negative("ray_gpus", ray_gpus)
    checks.non_negative_integer("ray_retries", ray_retries)


def _check_metrics(metrics: Sequence[str], k: int, evidence_images: int | None) -> None:
    for group in metrics:
        checks.one_of("metrics", group, GROUPS)
    checks.positive_integer("k", k)
    if evidence_images is not None:
        checks.positive_integer("evidence_images", evidence_images)
        if "evidence" not in metrics:
            raise checks.fail(
                "metrics", ",".join(metrics), "evidence among them, of which evidence_images is an option"
            )


def _all(runs: Mapping[str, Sequence[StudyRun]]) -> list[StudyRun]:
    return [run for of_model in runs.values() for run in of_model]


def _load(
    study: Study, data_root: str | os.PathLike[str] | None, progress: bool
) -> tuple[dict[str, Splits], dict[str, str]]:
    """The data sets by name, and the models that are left out because theirs can't be loaded, with the reasons."""
    images: dict[str, Splits] = {}
    skipped: dict[str, str] = {}
    for entry in study.entries:
        name = entry.spec.dataset
        try:
            images[name] = images[name] if name in images else load_data(name, data_root, progress=progress)
        except checks.InputError as error:
            if not entry.optional:
                raise
            skipped[entry.name] = str(error)
    return images, skipped


def _workers(jobs: int, threads: int | None, ray: str | None, ray_gpus: float, ray_retries: int) -> Workers:
    if ray is not None:
        return RayTasks(ray, jobs, threads or 1, ray_gpus, ray_retries)
    return Processes(jobs, threads or (max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None))


def _tasks(
    runs: Sequence[StudyRun],
    snapshots: Sequence[int],
    images: Mapping[str, Splits],
    options: Mapping[str, Any],
    progress: bool,
) -> dict[str, partial[None]]:
    """A call of :func:`train_and_evaluate` for each run; the classifiers are trained here, once for all workers."""
    scored = dict.fromkeys(run.spec.dataset for run in runs if "samples" in run.missing_groups)
    extractors = {
        name: classifier.in_domain_classifier(images[name], device=options["device"], progress=progress).cpu()
        for name in scored
    }
    return {
        run.name: partial(train_and_evaluate, run, snapshots, extractors.get(run.spec.dataset), **options)
        for run in runs
    }


def _work(
    state: StudyState,
    workers: Workers,
    tasks: Mapping[str, partial[None]],
    chosen: Sequence[StudyRun],
    progress: bool,
) -> None:
    """Runs all tasks, with one progress bar over epochs; in a log, a line for each epoch and each run."""
    total = sum(run.spec.epochs for run in chosen)
    bar = Progress(total, "epoch", initial=_epochs_done(chosen), visible=progress, timed=False)
    runs = {run.name: run for run in chosen}
    reported = {run.name: run.epochs_done for run in chosen}
    done = 0
    with workers, bar:
        for name, task in tasks.items():
            workers.submit(name, task)
        while done < len(tasks):
            ended = workers.wait(0.5)
            bar.update(max(0, _epochs_done(chosen) - bar.done))
            if bar.lines:
                _report_epochs(runs, reported, bar)
            for name, error in ended:
                done += 1
                if error is not None:
                    state.errors[runs[name].model] = f"{name}: {error}"
                write_results(state)
                bar.line(f"{name}: {'done' if error is None else error}; {done} of {len(tasks)} runs, {bar.left()}")
            failed = f", {len(state.errors)} failed" if state.errors else ""
            bar.describe(f"{done} of {len(tasks)} runs{failed}")


def _epochs_done(runs: Sequence[StudyRun]) -> int:
    return sum(run.epochs_done for run in runs)


def _report_epochs(runs: Mapping[str, StudyRun], reported: dict[str, int], bar: Progress) -> None:
    """Prints a line for each epoch that ended since the last call, from the checkpoints, wherever the runs are."""
    for name, run in runs.items():
        if run.epochs_done <= reported[name]:
            continue
        try:
            stored = read_checkpoint(run.folder / "checkpoint")
        except checks.InputError:  # has just been replaced by the next
            continue
        epochs = [] if stored is None else [Epoch(**epoch) for epoch in stored["epochs"]]
        for epoch in epochs[reported[name] :]:
            bar.line(f"{name}: {epoch_line(epoch, run.spec.epochs, bar.left())}")
        reported[name] = len(epochs)
