"""A run: one `Spec` trained into one folder that holds everything about it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from pyro_vae import objectives
from pyro_vae._utils import checks, files
from pyro_vae._utils.environment import environment
from pyro_vae.data import Images, Splits, load_data
from pyro_vae.data.images import train_validation_split
from pyro_vae.data.sources import DATA_FORMAT
from pyro_vae.evaluation import Metrics, PerImage
from pyro_vae.models import Model, build
from pyro_vae.models.weights import load, save
from pyro_vae.part_classes import check_trusted
from pyro_vae.spec import WEIGHTS, Spec, check_still_there, check_weights, read_spec
from pyro_vae.training.checkpoint import read_epoch
from pyro_vae.training.distributed import joined
from pyro_vae.training.fit import fit
from pyro_vae.training.history import History

PER_IMAGE = "per_image.safetensors"


def run(
    spec: Spec,
    folder: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: bool = False,
    snapshots: Sequence[int] = (),
    progress: bool = True,
    trust: bool = False,
) -> tuple[Model, History, Splits]:
    """Trains the model of a `Spec` into a run folder.

    An objective `auto` is resolved, to that of an earlier run in the folder if there is one, and recorded so; user code
    that only the folder names is imported only if `trust` is true. The
    folder gets `spec.json` and `environment.json` at the start, a `checkpoint/` after each epoch, and `history.csv`
    and `weights.safetensors` at the end; a run that is refused leaves it as it was. An existing run of the same spec is
    resumed with `resume`, which may also raise the number of epochs, or give another path of the same images. The
    weights after the epochs in `snapshots` are saved as `snapshots/epoch-00005.safetensors`.
    Of several processes (see :func:`~pyro_vae.fit`) only the first uses the folder.

    Raises:
        InputError: the folder holds something else, or :func:`~pyro_vae.load_data` or :func:`~pyro_vae.fit` refuses an
            argument.
    """
    folder = checks.path("out", folder)
    images = load_data(spec.dataset, data_root, progress=progress)
    spec = with_objective(_with_shape(spec, images), folder, images.train, trust=trust)
    with joined(device) as here:
        if here.rank == 0:
            _check_folder(folder, spec, resume)
            check_data(folder, images)
        model = build(spec)
        train, validation = train_validation_split(images.train, spec.validation_fraction, spec.seed)
        of_data = _description(images) | {"data_format": DATA_FORMAT}
        surroundings = environment(device) | of_data | {"processes": here.size}
        history = fit(
            model,
            train,
            validation=validation,
            device=device,
            checkpoint=folder / "checkpoint",
            snapshots={epoch: snapshot_file(folder, epoch) for epoch in snapshots},
            resume=resume,
            on_start=partial(_begin, folder, spec, surroundings),
            progress=progress,
        )
        if here.rank == 0:
            history.to_csv(folder / "history.csv")
            save(model, folder / WEIGHTS)
    return model, history, images


def _begin(folder: Path, spec: Spec, surroundings: dict[str, Any]) -> None:
    """Writes the first files of a training that was checked: one that is refused leaves the folder as it was."""
    stored = read_spec(folder)
    # The same weights, wherever their images are now, and however a step would run.
    same = stored is not None and replace(stored, dataset=spec.dataset, compile=spec.compile) == spec
    if not same or not (folder / WEIGHTS).is_file():
        for name in (WEIGHTS, "metrics.json", PER_IMAGE, "history.csv"):  # of a shorter training
            (folder / name).unlink(missing_ok=True)
    files.write(folder / "spec.json", spec.to_json() + "\n")
    files.write_json(folder / "environment.json", surroundings)


def with_objective(spec: Spec, folder: str | os.PathLike[str], train: Images, *, trust: bool = False) -> Spec:
    """`spec`, its objective `auto` replaced by that of the run in the folder, or else by the one that fits the model.

    Raises:
        InputError: the parts of `spec` do not go together, or the objective in the folder is code that is not trusted.
    """
    stored = read_spec(folder) if spec.objective == "auto" else None
    if stored is not None:
        check_trusted({"objective": stored.objective}, folder, trust)
        spec = replace(spec, objective=stored.objective)
    return objectives.with_objective(spec, train)


def snapshot_file(folder: str | os.PathLike[str], epoch: int) -> Path:
    """The file of a run folder for the weights after an epoch."""
    return checks.path("folder", folder) / "snapshots" / f"epoch-{epoch:05d}.safetensors"


def open_model(folder: str | os.PathLike[str], *, trust: bool = False) -> Model:
    """The trained model of a run folder; user code that its spec names is imported only if `trust` is true."""
    _finished(folder)
    return load(folder, trust=trust).eval()


def open_run(
    folder: str | os.PathLike[str],
    data_root: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    *,
    progress: bool = True,
    trust: bool | Spec = False,
) -> tuple[Model, Spec, Splits]:
    """The trained model of a run folder, its spec, and its data set.

    Args:
        folder: of the run.
        data_root: folder of the named data sets.
        dataset: path of the same images, if they were moved.
        progress: a bar or lines while image files are decoded.
        trust: whether to import user code that the spec names, `module:Class` in the place of a kind; or a `Spec`,
            whose code alone is imported.

    Raises:
        InputError: the run is not finished, or the images are not those that it was trained on.
    """
    spec = _finished(folder)
    check_trusted(spec.to_dict(), folder, trust.to_dict() if isinstance(trust, Spec) else trust)
    if dataset is None:
        check_still_there(spec)
    images = load_data(spec.dataset if dataset is None else dataset, data_root, progress=progress)
    check_data(folder, images)
    return load(folder, trust=trust).eval(), spec, images


def check_data(folder: str | os.PathLike[str], images: Splits) -> str:
    """Checks that the images, the test images included, are those that the run in a folder, if any, was trained on.

    If the data changed since, by a few more images for instance, they are split anew: some of the test images would
    then have been trained on.

    Returns:
        What can't be checked, because the run does not record it; else an empty string.

    Raises:
        InputError: they are others.
    """
    if read_spec(folder) is None:
        return ""
    recorded = files.read_json_if_any(checks.path("folder", folder) / "environment.json", "environment")
    here = _description(images)
    if "images" not in recorded:
        return f"whether these are the images that {folder} was trained on can't be checked: it does not say"
    if "seeds" in recorded and recorded["images"] != here["images"]:  # by `fit_many`, which is given any images
        return (
            f"{folder} was trained on other images than {images.train.name}'s: see that none of these test images are"
        )
    if any(recorded.get(name, value) != value for name, value in here.items()):
        raise checks.fail(
            "dataset",
            f"{images.train.name} with {_counts(here)}",
            f"the {_counts(recorded)} of {folder}: {_why_others(recorded)}",
        )
    if "test_images" not in recorded:
        return f"whether the test images are those of {folder} can't be checked: it records its training images only"
    return ""


def _why_others(recorded: dict[str, Any]) -> str:
    """Why the images are not those of a run, and what to do."""
    written_with = recorded.get("data_format", 1)
    if written_with != DATA_FORMAT:
        version = "an earlier" if written_with == 1 else "another"
        return (
            f"the run was written by {version} version of pyro_vae, which may have read these files otherwise, unless "
            "they have changed; train a new run, or evaluate this one with that version"
        )
    return (
        "the data have changed. --dataset PATH names another place of the same images; to use others, train a new run"
    )


def _description(images: Splits) -> dict[str, Any]:
    """What `environment.json` records of a data set."""
    return {
        "num_images": len(images.train),
        "num_test_images": len(images.test),
        "images": images.train.fingerprint,
        "test_images": images.test.fingerprint,
    }


def _counts(description: dict[str, Any]) -> str:
    """How many images, and the beginnings of their fingerprints."""
    parts = [
        f"{description.get(f'num_{name}', '?')} {what} images ({str(description[name])[:8]})"
        for name, what in (("images", "training"), ("test_images", "test"))
        if name in description
    ]
    return " and ".join(parts)


def read_metrics(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a run folder's `metrics.json`; empty if there is none."""
    path = checks.path("folder", folder) / "metrics.json"
    stored = files.read_json_if_any(path, "metrics")
    sources = stored.get("provenance", {})
    if not isinstance(sources, dict) or not all(isinstance(source, dict) for source in sources.values()):
        raise checks.fail("metrics", str(path), "`provenance` as an object of objects, one for each number")
    return stored


def read_per_image(folder: str | os.PathLike[str]) -> dict[str, PerImage]:
    """The per-image values in `per_image.safetensors` of a run folder, by group of metrics.

    Empty if there is no such file, as in runs that an earlier version evaluated.
    """
    path = checks.path("folder", folder) / PER_IMAGE
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            about = {group: json.loads(text) for group, text in (file.metadata() or {}).items()}
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise checks.fail("per-image values", str(path), f"a file as `evaluate` writes it ({error})") from error
    per_image = {}
    for group, settings in about.items():
        values = {
            name.split("/")[-1]: column for name, column in columns.items() if name.startswith(f"{group}/values/")
        }
        per_image[group] = PerImage(columns[f"{group}/images"], values, settings)
    return per_image


def _write_per_image(folder: Path, per_image: Mapping[str, PerImage]) -> None:
    tensors = {}
    for group, table in per_image.items():
        tensors[f"{group}/images"] = table.images
        tensors |= {f"{group}/values/{name}": column for name, column in table.values.items()}
    about = {group: json.dumps(table.settings) for group, table in per_image.items()}
    files.write(folder / PER_IMAGE, to_safetensors(tensors, about))


def add_metrics(folder: str | os.PathLike[str], metrics: Metrics) -> Path:
    """Adds groups of results to `metrics.json`, replacing those of the same groups, atomically.

    Per-image values go into `per_image.safetensors` beside it.
    """
    stored, new = read_metrics(folder), metrics.to_dict()
    sources = stored.pop("provenance", {})
    groups = {source.get("group") for source in new["provenance"].values()}
    for name in [name for name, source in sources.items() if source.get("group") in groups]:
        stored.pop(name, None)  # of an earlier evaluation, with other settings
        del sources[name]
    if metrics.per_image:
        _write_per_image(checks.path("folder", folder), read_per_image(folder) | dict(metrics.per_image))
    return files.write_json(
        checks.path("folder", folder) / "metrics.json", stored | new | {"provenance": sources | new["provenance"]}
    )


def _finished(folder: str | os.PathLike[str]) -> Spec:
    """The spec of a run that has its weights."""
    spec = read_spec(folder)
    if spec is None:
        raise checks.fail("run", str(folder), "a folder that `pyro-vae train` made, with a spec.json")
    if not (checks.path("folder", folder) / WEIGHTS).is_file():
        raise checks.fail("run", str(folder), f"a finished run, with {WEIGHTS}; `train --resume` resumes this one")
    check_weights(folder)
    return spec


def _with_shape(spec: Spec, images: Splits) -> Spec:
    if spec.image_shape not in (None, images.train.shape):
        raise checks.fail(
            "image_shape", spec.image_shape, f"{images.train.shape}, as the images of {spec.dataset} have"
        )
    return replace(spec, image_shape=images.train.shape)


def _check_folder(folder: Path, spec: Spec, resume: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise checks.fail("out", str(folder), "a folder, or a name that is free")
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):  # noticed now, not after training
        raise checks.fail("out", str(folder), f"a place that can be read and written, as {nearest} is not")
    stored = read_spec(folder)
    if stored is None:
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise checks.fail("out", str(folder), "a new or empty folder, or one of a run")
        return
    free = {"epochs": 1, "compile": "auto"} | ({"dataset": spec.dataset} if resume else {})  # see `check_data`
    before, now = (replace(either, **free).to_dict() for either in (stored, spec))  # type: ignore[arg-type]
    for name in before:
        if before[name] != now[name] and resume:
            raise checks.fail(
                name, now[name], f"{before[name]!r}, as in the run in {folder}; to change it, train a new run"
            )
        if before[name] != now[name]:
            raise checks.fail(
                "out",
                str(folder),
                f"a new folder: this one holds a run with {name} = {before[name]!r}, not {now[name]!r}",
            )
    if spec.epochs < stored.epochs:
        raise checks.fail("epochs", spec.epochs, f"at least {stored.epochs}, as the run in {folder} has")
    if not resume:
        raise checks.fail(
            "out", str(folder), "a new folder: this one holds a run of the same spec (--resume resumes it)"
        )
    check_weights(folder)
    if (folder / WEIGHTS).is_file() and read_epoch(folder / "checkpoint") == 0:
        raise checks.fail(
            "out", str(folder), f"a run with a checkpoint to resume from: this one has {WEIGHTS} alone, which stay"
        )
