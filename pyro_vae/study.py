"""Running a study: each model into its run folder, then one table, the figures and `study.json`."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pyro_vae import checks, files, run_folder
from pyro_vae.checkpoints import WEIGHTS
from pyro_vae.data import Splits, load_data
from pyro_vae.evaluation import Extractor, evaluate, features
from pyro_vae.spec import Spec, read_spec
from pyro_vae.studies import Claim, Entry, Study
from pyro_vae.workers import Processes

# Published scores are by another network's features: they stand beside ours, and their difference says nothing.
BY_ANOTHER_NETWORK = ("frechet", "inception_score_mean", "inception_score_std")


@dataclass(frozen=True)
class Run:
    """One model of a study with one seed."""

    name: str
    spec: Spec
    folder: Path

    @property
    def key(self) -> str:
        """Its name in messages."""
        return f"{self.name}, seed {self.spec.seed}"


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
    command: str = "",
    progress: bool = True,
) -> dict[str, Any]:
    """Trains and judges the models of a study that are not done yet, and writes its tables.

    A run whose folder is finished is skipped; one that was stopped goes on from its checkpoint; one that fails does
    not stop the others.

    Args:
        study: the grid, for instance `studies.named("ablation")`.
        out: folder of the study; that of an earlier call goes on.
        seeds: train each model so many times, with its spec's seed and those after it.
        only: names of the models to train now; by default all.
        data_root: folder of the data sets.
        device: of training and evaluation.
        jobs: processes that train at the same time.
        threads: of each process; by default the cores divided among the jobs. The same number gives the same bits.
        command: how the study was started, for its report.
        progress: one bar over all epochs, where standard error is a terminal.

    Returns:
        What `study.json` holds.

    Raises:
        InputError: a wrong argument, data that are not here, or a folder that holds something else.
    """
    out = Path(out)
    checks.positive_integer("seeds", seeds)
    checks.positive_integer("jobs", jobs)
    if threads is not None:
        checks.positive_integer("threads", threads)
    for name in only:
        checks.one_of("only", name, (entry.name for entry in study.entries))
    if out.exists() and not out.is_dir():
        raise checks.fail("out", str(out), "a folder, or a name that is free")
    stored = read_study(out)
    if stored is None and out.is_dir() and any(not one.name.startswith(".") for one in out.iterdir()):
        raise checks.fail("out", str(out), "a new or empty folder, or one of a study")
    if stored is not None and stored.get("name") != study.name:
        raise checks.fail("out", str(out), f"a new folder: this one holds the study {stored.get('name')}")

    images, skipped = _load(study, data_root)
    runs = {
        entry.name: [
            Run(entry.name, replace(spec, seed=seed), out / "runs" / entry.name / f"seed-{seed}")
            for spec in [replace(entry.spec, image_shape=images[entry.spec.dataset].train.shape)]
            for seed in range(spec.seed, spec.seed + seeds)
        ]
        for entry in study.entries
        if entry.name not in skipped
    }
    errors: dict[str, str] = {}
    chosen = [one for name, several in runs.items() if not only or name in only for one in several]
    waiting = [one for one in chosen if not is_done(one)]
    write_results(study, out, runs, errors, skipped, command, device)
    judges = {
        name: _classifier(images[name], device, progress)
        for name in {one.spec.dataset for one in waiting if one.spec.model != "autoencoder"}
    }
    jobs = min(jobs, max(len(waiting), 1))
    if threads is None and jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // jobs)
    by_key = {one.key: one for one in waiting}
    with Processes(jobs, threads) as workers, _bar(chosen, progress) as bar:
        for one in waiting:
            task = partial(
                train_and_judge, one, study.snapshots, judges.get(one.spec.dataset), data_root=data_root, device=device
            )
            workers.submit(one.key, task)
        left = len(waiting)
        while left:
            for name, error in workers.wait(0.5):
                left -= 1
                if error is not None:
                    errors[by_key[name].name] = f"seed {by_key[name].spec.seed}: {error}"
                write_results(study, out, runs, errors, skipped, command, device)
            bar.n = sum(epochs_done(one) for one in chosen)
            bar.set_postfix_str(f"{len(waiting) - left} of {len(waiting)} models" + (", some failed" if errors else ""))
    draw(study, out, runs, images)
    return write_results(study, out, runs, errors, skipped, command, device)


def train_and_judge(
    one: Run,
    snapshots: Sequence[int],
    judge: Extractor | None,
    *,
    data_root: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> None:
    """Trains one model into its folder, or goes on with it, and judges it by each group of metrics that it lacks."""
    warnings.filterwarnings("ignore", "grey pixels under a Bernoulli")  # the notes of the studies say so
    epochs = [epoch for epoch in snapshots if epoch < one.spec.epochs]
    model, _, images = run_folder.run(
        one.spec, one.folder, data_root=data_root, device=device, resume=True, snapshots=epochs, progress=False
    )
    stored = _groups(one.folder)
    for group in _wanted(one.spec, judge):
        if group not in stored:
            found = evaluate(
                model,
                images.test,
                metrics=[group],
                binarization=one.spec.binarization,
                extractor=judge,
                train=images.train,
                device=device,
            )
            run_folder.add_metrics(one.folder, found)
    files.write(one.folder / "judged", "")


def is_done(one: Run) -> bool:
    """Whether a run folder holds this very run, trained and judged."""
    return read_spec(one.folder) == one.spec and (one.folder / WEIGHTS).is_file() and (one.folder / "judged").is_file()


def epochs_done(one: Run) -> int:
    """How many epochs a run folder has a checkpoint of."""
    numbers = [int(path.name.split("-")[1]) for path in (one.folder / "checkpoint").glob("epoch-*.pt")]
    return min(max(numbers, default=0), one.spec.epochs)


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


# --- what is written -------------------------------------------------------------------------------------------------


def write_results(
    study: Study,
    out: Path,
    runs: Mapping[str, Sequence[Run]],
    errors: Mapping[str, str],
    skipped: Mapping[str, str],
    command: str,
    device: str,
) -> dict[str, Any]:
    """`results.csv`, `results.md` and `study.json`, from what the run folders hold."""
    found = {name: [_metrics(one) for one in several if is_done(one)] for name, several in runs.items()}
    table = [_row(entry, study.columns, found.get(entry.name, [])) for entry in study.entries]
    files.write(out / "results.csv", _csv(study.columns, table))
    files.write(out / "results.md", _markdown(study.columns, table))
    entries = []
    for entry in study.entries:
        several = runs.get(entry.name, [])
        complete = bool(several) and all(is_done(one) for one in several)
        status = "failed" if entry.name in errors else "done" if complete else "pending"
        entries.append(
            {
                "name": entry.name,
                "spec": (several[0].spec if several else entry.spec).to_dict(),
                "published": dict(entry.published),
                "seeds": [one.spec.seed for one in several],
                "runs": [one.folder.relative_to(out).as_posix() for one in several],
                "status": "skipped" if entry.name in skipped else status,
                "error": errors.get(entry.name) or skipped.get(entry.name),
            }
        )
    figures = [
        {"file": f"figures/{one.file}", "title": one.title, "caption": one.caption, "alt": one.alt}
        for one in study.pictures
        if (out / "figures" / one.file).is_file()
    ]
    seconds = {name: sum(map(_seconds, several)) for name, several in runs.items()}
    stored = {
        "format": 1,
        "name": study.name,
        "title": study.title,
        "document": study.document,
        "command": command,
        "columns": list(study.columns),
        "notes": list(study.notes),
        "entries": entries,
        "figures": figures,
        "environment": run_folder.environment(device),
        "seconds": {"training": seconds, "total": sum(seconds.values())},
        "claims": [verdict for claim in study.claims if (verdict := _verdict(claim, found)) is not None],
    }
    files.write_json(out / "study.json", stored)
    return stored


def draw(study: Study, out: Path, runs: Mapping[str, Sequence[Run]], images: Mapping[str, Splits]) -> None:
    """The figures whose models are done."""


def _load(study: Study, data_root: str | os.PathLike[str] | None) -> tuple[dict[str, Splits], dict[str, str]]:
    """The data sets by name, and the models that must be left out because theirs is not here."""
    images: dict[str, Splits] = {}
    skipped: dict[str, str] = {}
    for entry in study.entries:
        name = entry.spec.dataset
        try:
            images[name] = images[name] if name in images else load_data(name, data_root)
        except checks.InputError as error:
            if not entry.optional:
                raise
            skipped[entry.name] = str(error)
    return images, skipped


def _classifier(images: Splits, device: str, progress: bool) -> Extractor | None:
    """The classifier that judges samples of these images; None where they have no labels."""
    if images.train.labels is None or images.test.labels is None:
        return None
    return features.in_domain_classifier(images, device=device, progress=progress).cpu()


def _wanted(spec: Spec, judge: Extractor | None) -> list[str]:
    return ["bounds", "codes", *(["samples"] if judge is not None and spec.model != "autoencoder" else [])]


def _groups(folder: Path) -> set[str]:
    sources = run_folder.read_metrics(folder).get("provenance", {})
    return {source.get("group") for source in sources.values()}


def _bar(runs: Sequence[Run], progress: bool) -> tqdm:
    total = sum(one.spec.epochs for one in runs)
    return tqdm(total=total, initial=sum(map(epochs_done, runs)), unit="epoch", disable=None if progress else True)


def _seconds(one: Run) -> float:
    path = one.folder / "history.csv"
    if not path.is_file():
        return 0.0
    with path.open(encoding="utf-8", newline="") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


# --- the table -------------------------------------------------------------------------------------------------------


def _metrics(one: Run) -> dict[str, float]:
    """The numbers of `metrics.json`, and the losses that are made of them."""
    stored = run_folder.read_metrics(one.folder)
    numbers = {name: value for name, value in stored.items() if isinstance(value, int | float)}
    return numbers | _losses(numbers, one.spec)


def _losses(found: Mapping[str, float], spec: Spec) -> dict[str, float]:
    """`loss_nats`: reconstruction + beta KL. `squared_error_loss`: the summed squared error + beta KL."""
    shape = spec.image_shape or (1, 28, 28)
    kl = 0.0 if spec.model == "autoencoder" else found.get("kl_per_sample")
    losses = {}
    if kl is not None and "reconstruction_nats" in found:
        losses["loss_nats"] = found["reconstruction_nats"] + spec.beta * kl
    if kl is not None and "mse_per_pixel" in found:
        losses["squared_error_loss"] = shape[0] * shape[1] * shape[2] * found["mse_per_pixel"] + spec.beta * kl
    return losses


def _row(entry: Entry, columns: Sequence[str], found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean over seeds, standard deviation where there are several, the published number and the difference."""
    published = _losses(entry.published, entry.spec) | dict(entry.published)
    row: dict[str, Any] = {"model": entry.name, "seeds": len(found)}
    for name in columns:
        values = [one[name] for one in found if name in one]
        if values:
            row[name] = statistics.fmean(values)
        if len(values) > 1:
            row[f"{name}_sd"] = statistics.stdev(values)
        if name in published:
            row[f"{name}_published"] = published[name]
            if values and name not in BY_ANOTHER_NETWORK:
                row[f"{name}_difference"] = row[name] - published[name]
    return row


def _csv(columns: Sequence[str], table: Sequence[Mapping[str, Any]]) -> str:
    """One row a model; beside each metric what belongs to it, where any model has it."""
    wanted = [f"{name}{suffix}" for name in columns for suffix in ("", "_sd", "_published", "_difference")]
    fields = ["model", "seeds", *(name for name in wanted if any(name in row for row in table))]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return buffer.getvalue()


def _markdown(columns: Sequence[str], table: Sequence[Mapping[str, Any]]) -> str:
    """One row a model: mean ± standard deviation (published)."""
    lines = ["| " + " | ".join(["model", *columns]) + " |", "|" + "---|" * (len(columns) + 1)]
    for row in table:
        lines.append("| " + " | ".join([row["model"], *(_cell(row, name) for name in columns)]) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, Any], name: str) -> str:
    if name not in row and f"{name}_published" not in row:
        return ""
    text = f"{row[name]:.4g}" if name in row else "-"
    if f"{name}_sd" in row:
        text += f" ± {row[f'{name}_sd']:.2g}"
    return text + (f" ({row[f'{name}_published']:.4g})" if f"{name}_published" in row else "")


def _verdict(claim: Claim, found: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any] | None:
    """Whether the metric rises from model to model, in the mean and in how many seeds; None before all are done."""
    columns = [[one[claim.metric] for one in found.get(name, []) if claim.metric in one] for name in claim.rising]
    if not all(columns):
        return None
    means = [statistics.fmean(column) for column in columns]
    seeds = list(zip(*columns, strict=False))
    return {
        "text": claim.text,
        "metric": claim.metric,
        "rising": list(claim.rising),
        "means": means,
        "sds": [statistics.stdev(column) if len(column) > 1 else None for column in columns],
        "holds": _rises(means),
        "seeds": len(seeds),
        "seeds_holding": sum(map(_rises, seeds)),
    }


def _rises(values: Sequence[float]) -> bool:
    return all(before < after for before, after in itertools.pairwise(values))
