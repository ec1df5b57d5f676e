"""Running a study: each model into its run folder, then one table, the figures and `study.json`."""

from __future__ import annotations

import itertools
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pyro_vae._utils import checks, files
from pyro_vae._utils.environment import environment
from pyro_vae._utils.progress import Progress
from pyro_vae.data import Splits, load_data
from pyro_vae.evaluation import Extractor, Metrics, evaluate
from pyro_vae.evaluation.samples import classifier
from pyro_vae.experiments import run, tables
from pyro_vae.experiments.figures.of_study import draw_figures
from pyro_vae.experiments.study import Study
from pyro_vae.experiments.workers import Processes, RayTasks, Workers
from pyro_vae.spec import WEIGHTS, Spec, read_spec
from pyro_vae.training.checkpoint import read_checkpoint, read_epoch
from pyro_vae.training.history import Epoch, History, epoch_line


@dataclass(frozen=True)
class Run:
    """One model of a study with one seed, and the groups of metrics that it is judged by."""

    model: str
    spec: Spec
    folder: Path
    groups: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of all runs of a study."""
        return f"{self.model}, seed {self.spec.seed}"

    @property
    def done(self) -> bool:
        """Whether the folder holds this very run, trained and judged."""
        return self.trained and not self.missing

    @property
    def trained(self) -> bool:
        """Whether the folder holds the weights of this very run, and not of a shorter one."""
        return read_spec(self.folder) == self.spec and (self.folder / WEIGHTS).is_file()

    @property
    def missing(self) -> list[str]:
        """Groups of metrics that it has not been judged by."""
        if not self.trained:
            return list(self.groups)
        sources = run.read_metrics(self.folder).get("provenance", {})
        stored = {source.get("group") for source in sources.values()}
        return [group for group in self.groups if group not in stored]


@dataclass
class _Progress:
    """What is known of a study while it runs."""

    study: Study
    out: Path
    command: str
    device: str
    runs: dict[str, list[Run]]
    skipped: dict[str, str]
    errors: dict[str, str] = field(default_factory=dict)


def run_study(
    study: Study,
    out: str | os.PathLike[str],
    *,
    seeds: int = 1,
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
    """Trains and judges the models of a study that are not done yet, and writes its tables and figures.

    A run whose folder is finished is skipped; one that was stopped goes on from its checkpoint; one that fails does
    not stop the others. Scores of samples that the data don't allow, and figures that can't be drawn, are left out with
    a warning.

    Args:
        study: the grid, for instance `studies.named("ablation")`.
        out: folder of the study; that of an earlier call is gone on with.
        seeds: train each of the models so many times, with its spec's seed and those after it. The table has these,
            and what an earlier call has trained.
        only: names of the models to train now; by default all.
        data_root: folder of the data sets.
        device: of training and evaluation.
        jobs: processes that train at the same time.
        threads: of each; by default the cores divided among the jobs, and 1 on a Ray cluster. The same number gives
            the same results to the last bit, in processes and on Ray; another one rounds otherwise.
        ray: address of a Ray cluster to run on, or `local` to start one; `out` is then on storage that it shares.
        ray_gpus: GPUs, or the fraction of one, for each model on Ray.
        ray_retries: how often Ray starts a model again whose worker was lost; it goes on from its checkpoint.
        command: how the study was started, for its report.
        progress: one bar over all epochs where standard error is a terminal; else, in a log, a line per epoch of each
            model.

    Returns:
        What `study.json` holds.

    Raises:
        InputError: a wrong argument, data that are not here, or a folder that holds something else, such as models
            that were trained before the data changed.
    """
    for name, value in (("seeds", seeds), ("jobs", jobs), ("threads", 1 if threads is None else threads)):
        checks.positive_integer(name, value)
    checks.non_negative("ray_gpus", ray_gpus)
    checks.non_negative_integer("ray_retries", ray_retries)
    for name in only:
        checks.one_of("only", name, (entry.name for entry in study.entries))
    out = checks.path("out", out).absolute()
    _check_folder(out, study)
    images, skipped = _load(study, data_root, progress)
    runs = _runs(study, out, {entry.name: seeds for entry in study.entries if not only or entry.name in only}, images)
    state = _Progress(study, out, _commands(out, command), device, runs, skipped)
    for one in (one for several in runs.values() for one in several):
        run.check_data(one.folder, images[one.spec.dataset])
    chosen = [one for model, several in state.runs.items() if not only or model in only for one in several]
    with _alone(out):
        waiting = [one for one in chosen if not one.done]
        write_results(state)
        if waiting:
            judges = {
                name: classifier.in_domain_classifier(images[name], device=device, progress=progress).cpu()
                for name in dict.fromkeys(one.spec.dataset for one in waiting if "samples" in one.missing)
            }
            if ray is not None:
                workers: Workers = RayTasks(ray, jobs, threads or 1, ray_gpus, ray_retries)
            else:
                jobs = min(jobs, len(waiting))
                workers = Processes(jobs, threads or (max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None))
            tasks = {
                one.name: partial(
                    train_and_judge,
                    one,
                    study.snapshots,
                    judges.get(one.spec.dataset),
                    data_root=data_root,
                    device=device,
                )
                for one in waiting
            }
            _work(state, workers, tasks, chosen, progress)
        draw_figures(study.pictures, out / "figures", runs, images)
        return write_results(state)


def train_and_judge(
    one: Run,
    snapshots: Sequence[int],
    judge: Extractor | None,
    *,
    data_root: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> None:
    """Trains one model into its folder, or goes on with it, and judges it by each group of metrics that it lacks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "grey pixels under a Bernoulli")  # for the notes of a study to say
        warnings.filterwarnings("ignore", re.escape(f"{one.spec.dataset}: "))  # said when the study loaded it
        warnings.filterwarnings("ignore", "nothing is kept in the cache")  # as was said when the judge was trained
        if one.trained:  # perhaps without a checkpoint, which judging does not need
            model, _, images = run.open_run(one.folder, data_root, progress=False)
        else:
            model, _, images = run.run(
                one.spec,
                one.folder,
                data_root=data_root,
                device=device,
                resume=True,
                snapshots=snapshots,
                progress=False,
            )
        errors: list[Exception] = []
        for group in one.missing:
            try:
                found = evaluate(
                    model,
                    images.test,
                    metrics=[group],
                    binarization=one.spec.binarization,
                    dequantize=one.spec.dequantize,
                    extractor=judge,
                    train=images.train,
                    device=device,
                )
                run.add_metrics(one.folder, found)
            except (checks.InputError, FloatingPointError) as error:  # the other groups don't ask for this one
                errors.append(type(error)(f"{group}: {error}"))
        if errors:
            raise errors[0]


def read_study(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What `study.json` of a study folder holds; None where there is none."""
    path = Path(folder) / "study.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise checks.fail("study", str(path), f"a JSON object ({error})") from error
    if not isinstance(found, dict):
        raise checks.fail("study", str(path), "a JSON object")
    return found


def write_results(state: _Progress) -> dict[str, Any]:
    """`tables.csv`, `tables.md` and `study.json`, from what the run folders hold."""
    study, out, runs = state.study, state.out, state.runs
    evaluated = {
        model: [one for one in several if one.done or (model in state.errors and one.trained)]
        for model, several in runs.items()
    }
    scores = scores_of(evaluated)
    specs = {model: several[0].spec for model, several in runs.items() if several}
    differences = tables.differences(specs, study.columns, scores)
    table, entries = [], []
    for entry in study.entries:
        several = runs.get(entry.name, [])
        spec = several[0].spec if several else entry.spec
        table.append(tables.row(entry, spec, study.columns, scores.numbers.get(entry.name, [])))
        complete = bool(several) and len(evaluated[entry.name]) == len(several)
        status = "failed" if entry.name in state.errors else "done" if complete else "pending"
        entries.append(
            {
                "name": entry.name,
                "spec": spec.to_dict(),
                "published": dict(entry.published),
                "seeds": [one.spec.seed for one in several],
                "runs": [one.folder.relative_to(out).as_posix() for one in several],
                "status": "skipped" if entry.name in state.skipped else status,
                "error": state.errors.get(entry.name) or state.skipped.get(entry.name),
            }
        )
    seconds = {model: sum(map(_seconds, several)) for model, several in runs.items()}
    stored = {
        "format": 1,
        "name": study.name,
        "title": study.title,
        "document": study.document,
        "command": state.command,
        "columns": list(study.columns),
        "notes": list(study.notes),
        "entries": entries,
        "figures": [
            {"file": f"figures/{one.file}", "title": one.title, "caption": one.caption, "alt": one.alt}
            for one in study.pictures
            if (out / "figures" / one.file).is_file()
        ],
        "environment": environment(state.device),
        "seconds": {"training": seconds, "total": sum(seconds.values())},
        "claims": tables.verdicts(study.claims, scores),
        "differences": [one.to_dict() for one in differences],
    }
    files.write(out / "results.csv", tables.to_csv(study.columns, table))
    text = tables.to_markdown(study.columns, table) + tables.differences_to_markdown(differences)
    files.write(out / "results.md", text)
    files.write_json(out / "study.json", stored)
    return stored


def _check_folder(out: Path, study: Study) -> None:
    if out.exists() and not out.is_dir():
        raise checks.fail("out", str(out), "a folder, or a name that is free")
    stored = read_study(out)
    if stored is None and out.is_dir() and any(not one.name.startswith(".") for one in out.iterdir()):
        raise checks.fail("out", str(out), "a new or empty folder, or one of a study")
    if stored is not None and stored.get("name") != study.name:
        raise checks.fail("out", str(out), f"a new folder: this one holds the study {stored.get('name')}")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two commands in one folder would train each other's models; the lock of one that was killed is no lock."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise checks.fail("out", str(out), "a folder in which no other study is at work") from error
        yield


def _load(
    study: Study, data_root: str | os.PathLike[str] | None, progress: bool
) -> tuple[dict[str, Splits], dict[str, str]]:
    """The data sets by name, and the models that must be left out because theirs is not here."""
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


def _commands(out: Path, command: str) -> str:
    """The commands that made what a folder holds, one a line."""
    before = (read_study(out) or {}).get("command") or ""
    return "\n".join(dict.fromkeys(one for one in (*str(before).splitlines(), command) if one))


def _runs(study: Study, out: Path, seeds: Mapping[str, int], images: Mapping[str, Splits]) -> dict[str, list[Run]]:
    """The runs of each model whose images are here, by seed: those asked for, and what the folder has beyond them."""
    runs: dict[str, list[Run]] = {}
    for entry in study.entries:
        if entry.spec.dataset not in images:
            continue
        groups = _groups(images[entry.spec.dataset], entry.spec)
        train = images[entry.spec.dataset].train
        runs[entry.name] = []
        # All seeds are trained as those that are here already.
        common = run.with_objective(entry.spec, out / "runs" / entry.name / f"seed-{entry.spec.seed}")
        for seed in itertools.count(entry.spec.seed):
            spec = replace(common, seed=seed, image_shape=train.shape)
            one = Run(entry.name, spec, out / "runs" / entry.name / f"seed-{seed}", groups)
            if len(runs[entry.name]) >= seeds.get(entry.name, 1) and not one.done:
                break
            runs[entry.name].append(one)
    return runs


def _groups(images: Splits, spec: Spec) -> tuple[str, ...]:
    """The groups of metrics that the model and its data allow."""
    groups = ("bounds", "codes") if len(images.test) > 1 else ("bounds",)
    if spec.model == "autoencoder":
        return groups
    try:
        classifier.check_classifiable(images)
        if len(images.test) < 10:
            raise checks.fail("test images", len(images.test), "at least 10 for scores of samples")
    except checks.InputError as error:
        warnings.warn(f"scores of samples are left out for {images.test.name}: {error}", stacklevel=2)
        return groups
    return (*groups, "samples")


def _work(
    state: _Progress,
    workers: Workers,
    tasks: Mapping[str, partial[None]],
    chosen: Sequence[Run],
    progress: bool,
) -> None:
    """All tasks, under one bar of epochs; in a log, a line for each epoch and each run."""
    total = sum(one.spec.epochs for one in chosen)
    bar = Progress(total, "epoch", initial=sum(map(_epochs, chosen)), visible=progress, timed=False)
    runs = {one.name: one for one in chosen}
    told = {one.name: _epochs(one) for one in chosen}
    done = 0
    with workers, bar:
        for name, task in tasks.items():
            workers.submit(name, task)
        while done < len(tasks):
            ended = workers.wait(0.5)
            bar.update(max(0, sum(map(_epochs, chosen)) - bar.done))
            if bar.lines:
                _tell_epochs(runs, told, bar)
            for name, error in ended:
                done += 1
                if error is not None:
                    state.errors[runs[name].model] = f"{name}: {error}"
                write_results(state)
                bar.line(f"{name}: {'done' if error is None else error}; {done} of {len(tasks)} runs, {bar.left()}")
            failed = f", {len(state.errors)} failed" if state.errors else ""
            bar.describe(f"{done} of {len(tasks)} runs{failed}")


def _tell_epochs(runs: Mapping[str, Run], told: dict[str, int], bar: Progress) -> None:
    """A line for each epoch that ended since, as the checkpoints have it, wherever the runs are at work."""
    for name, one in runs.items():
        if _epochs(one) <= told[name]:
            continue
        try:
            stored = read_checkpoint(one.folder / "checkpoint")
        except checks.InputError:  # replaced by the next one meanwhile
            continue
        epochs = [] if stored is None else [Epoch(**epoch) for epoch in stored["epochs"]]
        for epoch in epochs[told[name] :]:
            bar.line(f"{name}: {epoch_line(epoch, one.spec.epochs, bar.left())}")
        told[name] = len(epochs)


def scores_of(runs: Mapping[str, Sequence[Run]]) -> tables.Scores:
    """What the folders of evaluated runs hold, by model."""
    numbers = {model: [_numbers(one) for one in several] for model, several in runs.items()}
    per_image = {
        model: [Metrics(per_image=run.read_per_image(one.folder)) for one in several] for model, several in runs.items()
    }
    return tables.Scores(numbers, per_image)


def _numbers(one: Run) -> dict[str, float]:
    """The numbers of `metrics.json`, and the sums that are made of them."""
    stored = run.read_metrics(one.folder)
    numbers = {name: value for name, value in stored.items() if isinstance(value, int | float)}
    return numbers | tables.losses(numbers, one.spec) | _shares(one)


def _shares(one: Run) -> dict[str, float]:
    """beta KL over the training loss, in the first epoch and in the last."""
    epochs = History.from_csv(one.folder / "history.csv").epochs
    if one.spec.model == "autoencoder":
        return {}
    ends = {"kl_share_first_epoch": epochs[0], "kl_share_last_epoch": epochs[-1]}
    return {
        name: end.beta * end.train_kl_nats / end.train_loss_nats for name, end in ends.items() if end.train_loss_nats
    }


def _epochs(one: Run) -> int:
    """How many epochs of a run are done."""
    return min(read_epoch(one.folder / "checkpoint"), one.spec.epochs)


def _seconds(one: Run) -> float:
    path = one.folder / "history.csv"
    if not path.is_file():
        return 0.0
    return sum(History.from_csv(path).column("seconds"))
