"""The folder of a study: its runs, their results, and the tables and `study.json` that are made from them."""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyro_vae._utils import checks, files
from pyro_vae._utils.environment import environment
from pyro_vae.data import Splits
from pyro_vae.evaluation import Metrics
from pyro_vae.evaluation.samples import classifier
from pyro_vae.experiments import claims, tables
from pyro_vae.experiments.run import check_data, read_metrics, read_per_image, with_objective
from pyro_vae.experiments.study import Entry, Study
from pyro_vae.models import build
from pyro_vae.part_classes import importable
from pyro_vae.programs.densities import groups_lacking
from pyro_vae.spec import WEIGHTS, Spec, read_spec
from pyro_vae.training.checkpoint import read_epoch
from pyro_vae.training.history import History

OF_THE_EVIDENCE = ("nll_nats", "bits_per_dimension")


@dataclass(frozen=True)
class StudyRun:
    """One model of a study with one seed, its folder, and the groups of metrics that it is evaluated by."""

    model: str
    spec: Spec
    folder: Path
    groups: tuple[str, ...]
    evaluable: bool = True  #: whether the model has the methods that metrics and figures need

    @property
    def name(self) -> str:
        """The name of the run, unique in the study."""
        return f"{self.model}, seed {self.spec.seed}"

    @property
    def done(self) -> bool:
        """Whether the folder holds this run, trained and evaluated."""
        return self.trained and not self.missing_groups

    @property
    def trained(self) -> bool:
        """Whether the folder holds the weights of this run, and not of a shorter one."""
        return read_spec(self.folder) == self.spec and (self.folder / WEIGHTS).is_file()

    @property
    def missing_groups(self) -> list[str]:
        """Groups of metrics that `metrics.json` does not have yet."""
        if not self.trained:
            return list(self.groups)
        sources = read_metrics(self.folder).get("provenance", {})
        stored = {source.get("group") for source in sources.values()}
        return [group for group in self.groups if group not in stored]

    @property
    def epochs_done(self) -> int:
        """The number of epochs in the checkpoint."""
        return min(read_epoch(self.folder / "checkpoint"), self.spec.epochs)

    @property
    def seconds(self) -> float:
        """Seconds of training; 0 before its end."""
        path = self.folder / "history.csv"
        return sum(History.from_csv(path).column("seconds")) if path.is_file() else 0.0


@dataclass
class StudyState:
    """A study while it runs: its runs by model; the models that are left out or failed, with the reasons."""

    study: Study
    out: Path
    command: str
    device: str
    runs: dict[str, list[StudyRun]]
    skipped: dict[str, str]
    errors: dict[str, str] = field(default_factory=dict)


def read_study(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The content of a study folder's `study.json`; None if there is none."""
    path = Path(folder) / "study.json"
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise checks.fail("study", str(path), f"a JSON object ({error})") from error
    if not isinstance(stored, dict):
        raise checks.fail("study", str(path), "a JSON object")
    return stored


def check_study_folder(out: Path, study: Study) -> None:
    """Checks that `out` is a new or empty folder, or that of this study.

    Raises:
        InputError: it is another.
    """
    if out.exists() and not out.is_dir():
        raise checks.fail("out", str(out), "a folder, or a name that is free")
    stored = read_study(out)
    if stored is None and out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise checks.fail("out", str(out), "a new or empty folder, or one of a study")
    if stored is not None and stored.get("name") != study.name:
        raise checks.fail("out", str(out), f"a new folder: this one holds the study {stored.get('name')}")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Locks the folder, so that two commands don't train the same models; a lock ends with its process."""
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


def commands_of(out: Path, command: str) -> str:
    """The commands that made the content of a folder, one per line, this one included."""
    earlier = str((read_study(out) or {}).get("command") or "").splitlines()
    return "\n".join(dict.fromkeys(line for line in (*earlier, command) if line))


def study_runs(
    study: Study, out: Path, seeds: Mapping[str, int], images: Mapping[str, Splits], metrics: Sequence[str]
) -> dict[str, list[StudyRun]]:
    """The runs of each model whose images are here, by seed: those asked for, and what the folder has beyond them.

    Raises:
        InputError: one of them was trained on other images.
    """
    runs: dict[str, list[StudyRun]] = {}
    for entry in study.entries:
        if entry.spec.dataset not in images:
            continue
        train = images[entry.spec.dataset].train
        runs[entry.name] = []
        # All seeds have the objective of the runs that are in the folder already.
        first = out / "runs" / entry.name / f"seed-{entry.spec.seed}"
        try:
            with importable(study.folder):
                common = with_objective(replace(entry.spec, image_shape=train.shape), first, train)
                groups = _possible_groups(metrics, images[entry.spec.dataset], common)
        except checks.InputError as error:
            raise checks.InputError(f"model {entry.name}: {error}") from error
        for seed in itertools.count(entry.spec.seed):
            spec = replace(common, seed=seed)
            run = StudyRun(
                entry.name, spec, out / "runs" / entry.name / f"seed-{seed}", groups, bool(groups) or not metrics
            )
            if len(runs[entry.name]) >= seeds.get(entry.name, 1) and not run.done:
                break
            check_data(run.folder, images[entry.spec.dataset])
            runs[entry.name].append(run)
    return runs


def _possible_groups(metrics: Sequence[str], images: Splits, spec: Spec) -> tuple[str, ...]:
    """The groups of metrics that are possible for the model and its data."""
    model = build(spec)
    without = set(groups_lacking(model))
    if len(images.test) < 2:
        without.add("codes")
    groups = tuple(group for group in metrics if group not in without)
    if "samples" not in groups:
        return groups
    try:
        classifier.check_classifiable(images)
        if len(images.test) < 10:
            raise checks.fail("test images", len(images.test), "at least 10 for scores of samples")
    except checks.InputError as error:
        warnings.warn(f"scores of samples are left out for {images.test.name}: {error}", stacklevel=2)
        return tuple(group for group in groups if group != "samples")
    return groups


def write_results(state: StudyState) -> dict[str, Any]:
    """Writes `results.csv`, `results.md` and `study.json` from the run folders; returns the content of `study.json`."""
    study, out = state.study, state.out
    evaluated = {
        model: [run for run in runs if run.done or (model in state.errors and run.trained)]
        for model, runs in state.runs.items()
    }
    scores = scores_of(evaluated)
    columns = _columns(study, scores)
    specs = {model: runs[0].spec for model, runs in state.runs.items() if runs}
    differences = tables.differences(specs, columns, scores)
    table = [
        tables.row(entry, specs.get(entry.name, entry.spec), columns, scores.numbers.get(entry.name, []))
        for entry in study.entries
    ]
    seconds = {model: sum(run.seconds for run in runs) for model, runs in state.runs.items()}
    stored = {
        "format": 1,
        "name": study.name,
        "title": study.title,
        "document": study.document,
        "command": state.command,
        "columns": list(columns),
        "notes": list(study.notes),
        "entries": [_stored_entry(state, entry, len(evaluated.get(entry.name, []))) for entry in study.entries],
        "figures": [
            {"file": f"figures/{picture.file}", "title": picture.title, "caption": picture.caption, "alt": picture.alt}
            for picture in study.pictures
            if (out / "figures" / picture.file).is_file()
        ],
        "environment": environment(state.device),
        "seconds": {"training": seconds, "total": sum(seconds.values())},
        "claims": claims.verdicts(study.claims, scores),
        "differences": [difference.to_dict() for difference in differences],
    }
    files.write(out / "results.csv", tables.to_csv(columns, table))
    text = tables.to_markdown(columns, table) + tables.differences_to_markdown(differences)
    files.write(out / "results.md", text)
    files.write_json(out / "study.json", stored)
    return stored


def _columns(study: Study, scores: tables.Scores) -> tuple[str, ...]:
    """The metrics of the table: those of the study, and those of the evidence where a run has them."""
    stored = {name for of_model in scores.numbers.values() for numbers in of_model for name in numbers}
    more = [name for name in OF_THE_EVIDENCE if name in stored and name not in study.columns]
    return (*study.columns, *more)


def _stored_entry(state: StudyState, entry: Entry, num_evaluated: int) -> dict[str, Any]:
    """The entry of a model in `study.json`."""
    runs = state.runs.get(entry.name, [])
    status = "pending"
    if entry.name in state.skipped:
        status = "skipped"
    elif entry.name in state.errors:
        status = "failed"
    elif runs and num_evaluated == len(runs):
        status = "done"
    return {
        "name": entry.name,
        "spec": (runs[0].spec if runs else entry.spec).to_dict(),
        "published": dict(entry.published),
        "seeds": [run.spec.seed for run in runs],
        "runs": [run.folder.relative_to(state.out).as_posix() for run in runs],
        "status": status,
        "error": state.errors.get(entry.name) or state.skipped.get(entry.name),
    }


def scores_of(runs: Mapping[str, Sequence[StudyRun]]) -> tables.Scores:
    """The results in the folders of evaluated runs, by model."""
    numbers = {model: [_numbers(run) for run in of_model] for model, of_model in runs.items()}
    per_image = {
        model: [Metrics(per_image=read_per_image(run.folder)) for run in of_model] for model, of_model in runs.items()
    }
    return tables.Scores(numbers, per_image)


def _numbers(run: StudyRun) -> dict[str, float]:
    """The numbers of `metrics.json`, and the losses and KL shares that follow from them."""
    stored = read_metrics(run.folder)
    numbers = {name: value for name, value in stored.items() if isinstance(value, int | float)}
    return numbers | tables.losses(numbers, run.spec) | _kl_shares(run)


def _kl_shares(run: StudyRun) -> dict[str, float]:
    """beta KL over the training loss, in the first epoch and in the last."""
    epochs = History.from_csv(run.folder / "history.csv").epochs
    if run.spec.model == "autoencoder":
        return {}
    ends = {"kl_share_first_epoch": epochs[0], "kl_share_last_epoch": epochs[-1]}
    return {
        name: end.beta * end.train_kl_nats / end.train_loss_nats for name, end in ends.items() if end.train_loss_nats
    }
