"""Studies: grids of specs with their tables and pictures; each document's is a file in `grids/`. Imports no torch.

A study of your own is a Python file with a list or a dictionary of Specs named `SPECS`, or a :class:`Study` named
`STUDY`; or a TOML file. The pictures of a list of Specs are training curves, reconstructions and samples::

    title = "How many dimensions?"
    [common]
    dataset = "digits"
    binarization = "threshold"
    [models.two]
    latent_dim = 2
    [models.ten]
    latent_dim = 10
    published = {elbo_nats = -20.0}
    [models.flow]
    posterior = {kind = "planar", layers = 8}
"""

from __future__ import annotations

import importlib
import itertools
import re
import runpy
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyro_vae._utils import checks
from pyro_vae.metric_table import METRICS
from pyro_vae.parts import lacks
from pyro_vae.spec import PARTS, Spec

NAMES = (
    "fashion-14",
    "elbo-beta",
    "latent-dims",
    "lecture",
    "ablation",
    "families",
    "uses",
)  # each in a file of that name
COMMANDS = ("denoise", "inpaint", "outliers", "neighbours", "traverse", "debias")  # that a study may run on its models
COLUMNS = ("loss_nats", "reconstruction_nats", "kl_per_sample", "elbo_nats", "mse_per_pixel", "mse_per_pixel_sampled")
LARGEST_FLOAT = sys.float_info.max
LONGEST_NAME = 200  # bytes of the name of a model; file systems take 255, and suffixes are added
SCORES = ("active_units", "frechet", "inception_score_mean", "inception_score_std")


@dataclass(frozen=True)
class Entry:
    """One model of a study.

    Args:
        name: of the model; its runs are in `runs/NAME/seed-S`.
        spec: what is trained; its seed is the first of the study's seeds.
        published: the document's numbers, by metric.
        optional: left out, with a note, if its data set is not on this machine.
        factory: `module:function`, which returns a model of your own, with `model` and `guide`; it may take the `spec`,
            and what else :data:`pyro_vae.parts.SUPPLIED` has for a model. It is the same as this name in `spec.model`.
    """

    name: str
    spec: Spec
    published: Mapping[str, float] = field(default_factory=dict)
    optional: bool = False
    factory: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.spec, Spec):
            raise checks.fail("spec", self.spec, f"a Spec for the model {self.name}")
        if self.factory:
            if not isinstance(self.factory, str) or ":" not in self.factory:
                raise checks.fail("factory", self.factory, f"module:function, for the model {self.name}")
            object.__setattr__(self, "spec", replace(self.spec, model=self.factory))
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w.=+-]+", self.name) or self.name.startswith("."):
            raise checks.fail("model", self.name, "a name of letters, digits and . _ - + =, as it names a folder")
        if len(self.name.encode()) > LONGEST_NAME:
            raise checks.fail("model", self.name, f"a name of at most {LONGEST_NAME} bytes, as it names a folder")
        for metric, value in self.published.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST_FLOAT:
                raise checks.fail(f"published {metric}", value, f"a finite number, for the model {self.name}")


@dataclass(frozen=True)
class Picture:
    """One figure of a study.

    Args:
        file: its name in `figures/`, such as `samples.png`; no path.
        function: a function of :mod:`pyro_vae.experiments.figures`, by name.
        runs: the models it shows, by name; the run of the first seed of each.
        options: further arguments of the function.
        title: above it, in the report.
        caption: below it.
        alt: alternative text, for those who can't see it.
    """

    file: str
    function: str
    runs: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    caption: str = ""
    alt: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.file, str) or not re.fullmatch(r"[^/\\\x00]+\.\w+", self.file):
            raise checks.fail("picture", self.file, "the name of a file, such as samples.png, and no path")


@dataclass(frozen=True)
class Claim:
    """A sentence of a document that holds if `metric` rises strictly along the models `rising`.

    `metric` is one name, or a name for each of `rising`. In addition to the metrics of the table there are
    `kl_share_first_epoch` and `kl_share_last_epoch`, beta KL over the training loss.
    """

    text: str
    metric: str | tuple[str, ...]
    rising: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) and len(self.metric) != len(self.rising):
            raise checks.fail("metric", self.metric, f"one, or {len(self.rising)}, for the claim {self.text!r}")


@dataclass(frozen=True)
class Use:
    """What `pyro-vae study` does with a model once it is trained: `pyro-vae COMMAND RUN --OPTION VALUE ...`.

    Args:
        model: by name; the run of the first seed.
        command: one of :data:`COMMANDS`.
        options: of the command, such as `{"noise": "gaussian:0.3"}`.
    """

    model: str
    command: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.one_of("command", self.command, COMMANDS)

    @property
    def flags(self) -> list[tuple[str, Any]]:
        """The options as the command line has them: one that has a list is repeated."""
        several = {name: value if isinstance(value, list | tuple) else [value] for name, value in self.options.items()}
        return [(f"--{name.replace('_', '-')}", each) for name, values in several.items() for each in values]

    @property
    def folder(self) -> str:
        """Its folder in `uses/` of the study."""
        words = "-".join([self.model, self.command, *(f"{flag.lstrip('-')}-{value}" for flag, value in self.flags)])
        return re.sub(r"[^\w.=+-]+", "-", words)[:150]


@dataclass(frozen=True)
class Study:
    """A grid of models, with its table, pictures and claims.

    Args:
        name: of the study, on the command line.
        title: of its report.
        document: where the published numbers are from.
        entries: the models.
        columns: the metrics of the table, as in `metrics.json`; and `loss_nats`, reconstruction + beta KL, and
            `squared_error_loss`, the summed squared error of the decoded posterior mean + beta KL.
        pictures: the figures.
        claims: of the document, decided by the numbers.
        uses: what the command `pyro-vae study` does with the trained models, in `uses/`; :func:`run_study
            <pyro_vae.experiments.runner.run_study>` does not.
        snapshots: epochs after which weights are saved, for pictures over epochs.
        cost: the time that it takes, and on which machine.
        notes: what a reader of the table must know.
        folder: searched for the modules that parts name, in addition to `sys.path` and the current folder.
    """

    name: str
    title: str
    entries: tuple[Entry, ...]
    document: str = ""
    columns: tuple[str, ...] = COLUMNS + SCORES
    pictures: tuple[Picture, ...] = ()
    claims: tuple[Claim, ...] = ()
    uses: tuple[Use, ...] = ()
    snapshots: tuple[int, ...] = ()
    cost: str = "not yet measured"
    notes: tuple[str, ...] = ()
    folder: str | None = None

    def __post_init__(self) -> None:
        for field_name in ("name", "title", "document", "cost"):
            if not isinstance(getattr(self, field_name), str):
                raise checks.fail(field_name, getattr(self, field_name), "a string")
        if not self.entries:
            raise checks.fail("study", self.name, "at least one model")
        names = [entry.name for entry in self.entries]
        for name in names:
            if names.count(name) > 1:
                raise checks.fail("model", name, "a name that no other model of the study has")
        folders = [use.folder for use in self.uses]
        for use in self.uses:
            if folders.count(use.folder) > 1:
                expected = "uses that differ in letters and digits of their first options, as these name their folders"
                raise checks.fail(f"use {use.command} of {use.model}", dict(use.options), expected)
        for argument, models in [
            *((f"picture {picture.file}", picture.runs) for picture in self.pictures),
            *((f"claim {claim.text!r}", claim.rising) for claim in self.claims),
            *((f"use {use.command}", (use.model,)) for use in self.uses),
        ]:
            for name in models:
                checks.one_of(argument, name, names)

    def adapted(self, *, epochs: int | None = None, dataset: str | None = None) -> Study:
        """The same grid with another number of epochs, or on another data set, without the published numbers."""
        changes = {name: value for name, value in (("epochs", epochs), ("dataset", dataset)) if value is not None}
        entries = tuple(
            replace(
                entry,
                spec=replace(entry.spec, **changes),  # type: ignore[arg-type]
                published=entry.published if dataset in (None, entry.spec.dataset) else {},
            )
            for entry in self.entries
        )
        pictures = _pictures(entries) if self.pictures == _pictures(self.entries) else self.pictures
        return replace(self, entries=entries, pictures=pictures)


def named(name: str) -> Study:
    """A study of this package, or one in a user's file.

    >>> named("ablation").entries[0].spec.dataset
    'mnist'
    """
    path = Path(name)
    if name in NAMES:
        return importlib.import_module(f"pyro_vae.experiments.grids.{name.replace('-', '_')}").STUDY
    if path.suffix not in (".py", ".toml"):
        raise checks.unknown_name("study", name, (*NAMES, "FILE.py", "FILE.toml"))
    if not path.is_file():
        raise checks.fail("study", name, "an existing .py or .toml file")
    study = _from_python(path) if path.suffix == ".py" else _from_toml(path)
    return study if study.folder else replace(study, folder=str(path.resolve().parent))


def _from_python(path: Path) -> Study:
    try:
        with _folder_on_path(path):
            module = runpy.run_path(str(path))
    except checks.InputError:
        raise
    except (Exception, SystemExit) as error:
        raise checks.fail("study", str(path), f"a Python file that runs ({type(error).__name__}: {error})") from error
    if isinstance(module.get("STUDY"), Study):
        return module["STUDY"]
    specs = module.get("SPECS")
    if isinstance(specs, list | tuple) and all(isinstance(spec, Spec) for spec in specs):
        specs = _by_difference(specs)
    if not isinstance(specs, dict) or not specs:
        raise checks.fail("study", str(path), "a list or dictionary of Specs named SPECS, or a Study named STUDY")
    entries = tuple(Entry(name, spec) for name, spec in specs.items())
    return Study(
        name=path.stem, title=str(module.get("TITLE", path.stem)), entries=entries, pictures=_pictures(entries)
    )


@contextmanager
def _folder_on_path(path: Path) -> Iterator[None]:
    """Modules beside the file can be imported while it runs, as when Python runs a script."""
    before = list(sys.path)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        yield
    finally:
        sys.path[:] = before


def _by_difference(specs: list[Spec] | tuple[Spec, ...]) -> dict[str, Spec]:
    """Names made of the fields in which the specs differ: `latent_dim=2-beta=4.0`."""
    fields = [spec.to_dict() | {name: str(getattr(spec, name)) for name in PARTS} for spec in specs]
    differing = (
        [name for name in fields[0] if any(values[name] != fields[0][name] for values in fields)] if fields else []
    )
    names = [re.sub(r"[^\w.=+-]+", "_", "-".join(f"{name}={values[name]}" for name in differing)) for values in fields]
    if len(set(names)) < len(specs):
        raise checks.fail("SPECS", len(specs), "Specs of which no two are the same")
    return {name or "model": spec for name, spec in zip(names, specs, strict=True)}


def _from_toml(path: Path) -> Study:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # with or without a byte order mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise checks.fail("study", str(path), f"a TOML file ({error})") from error
    for name in table:
        checks.one_of(f"key of {path.name}", name, ("title", "document", "columns", "common", "models"))
    models, common = table.get("models"), table.get("common", {})
    if not isinstance(models, dict) or not all(isinstance(fields, dict) for fields in (common, *models.values())):
        raise checks.fail("study", str(path), "a table [models.NAME] for each model, and [common] for what they share")
    entries = []
    for name, fields in models.items():
        published = fields.pop("published", {})
        if not isinstance(published, dict):
            raise checks.fail(f"published of {name}", published, "a table of numbers")
        factory = fields.pop("factory", "")
        for metric in published:
            checks.one_of(f"published of {name}", metric, METRICS)
        try:
            spec = Spec.from_dict(common | fields)
        except checks.InputError as error:
            raise checks.InputError(f"models.{name}: {error}") from error
        entries.append(Entry(name, spec, published, factory=factory))
    more = {name: table[name] for name in ("document",) if name in table}
    if "columns" in table:
        if not isinstance(table["columns"], list) or not all(isinstance(name, str) for name in table["columns"]):
            raise checks.fail("columns", table["columns"], "a list of names of metrics")
        more["columns"] = tuple(table["columns"])
    return Study(
        name=path.stem,
        title=str(table.get("title", path.stem)),
        entries=tuple(entries),
        pictures=_pictures(entries),
        **more,
    )


def _pictures(entries: Sequence[Entry]) -> tuple[Picture, ...]:
    """The pictures of a list of Specs, for each data set: training curves, reconstructions, and samples."""
    pictures = []
    names_of = _file_names(dict.fromkeys(entry.spec.dataset for entry in entries))
    for dataset, short in names_of.items():
        runs = [entry for entry in entries if entry.spec.dataset == dataset]
        sampled = tuple(entry.name for entry in runs if "samples" not in lacks(entry.spec.model))
        names = tuple(entry.name for entry in runs)
        for function, models, title, caption, alt in (
            ("training_curves", names, "Training", "Means over the training images, by epoch.", "Curves over epochs."),
            (
                "reconstructions",
                names,
                "Reconstructions",
                "Test images, and the decoded code or posterior mean of each model.",
                "Rows of images: originals, then the reconstructions of each model.",
            ),
            (
                "samples",
                sampled,
                "Samples",
                "Test images, and decoded draws from the prior of each model.",
                "Rows of images: originals, then samples of each model.",
            ),
        ):
            if models:
                file = f"{short}-{function.replace('_', '-')}.png"
                pictures.append(Picture(file, function, models, {}, f"{title}, {short}", caption, alt))
    return tuple(pictures)


def _file_names(datasets: Iterable[str]) -> dict[str, str]:
    """A file name for each data set: the last part of a path, numbered where two are the same."""
    names: dict[str, str] = {}
    for dataset in datasets:
        last = re.sub(r"\.np[yz]$", "", Path(dataset).name)  # of a folder a dot is part of the name
        short = re.sub(r"[^\w.=+-]+", "_", last).strip(".")[:60] or "images"
        numbered = (f"{short}-{number}" for number in itertools.count(2))
        names[dataset] = next(name for name in itertools.chain([short], numbered) if name not in names.values())
    return names
