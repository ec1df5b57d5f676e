"""`Spec`: everything that defines one run, as a frozen, checked, JSON-friendly value. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyro_vae._utils import checks
from pyro_vae.parts import SHELVES, AnyPart, Part, checked, to_texts, with_option

DATASETS = ("digits", "mnist", "fashion-mnist", "cifar10")
BINARIZATIONS = ("none", "static", "dynamic", "threshold")
COMPILERS = ("auto", "off", "capture", "inductor", "cudagraph")
PRECISIONS = ("fp32", "bf16")
_NAMES = {"binarization": BINARIZATIONS, "compile": COMPILERS, "precision": PRECISIONS}
FIELDS_FREE_ON_RESUME = ("epochs", "dataset", "compile", "precision")  # may differ when a run is resumed
WEIGHTS = "weights.safetensors"  # of a run folder
GROUPS = ("bounds", "codes", "evidence", "samples")  # of metrics


def _field(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Spec:
    """The definition of one training run.

    Every field is checked on construction (:class:`~pyro_vae._utils.checks.InputError` names the field, what was given
    and what is expected), and kept as a plain value: NumPy's numbers and arrays, lists and paths are taken as well.
    `Spec.from_json(spec.to_json()) == spec`. On the command line each field is an option of the same name with dashes.

    A part (`model`, `network`, `likelihood`, `prior`, `posterior`, `objective`, `optimizer`, `schedule`, `sampler`) is
    named by its kind, or by an object of its kind and options, and kept as a :class:`~pyro_vae.parts.Part`;
    `module:Class` names a class of your own. An option's value is checked by the part's own class, when
    :func:`~pyro_vae.build` makes the model, or when its training begins.

    >>> spec = Spec(dataset="mnist", latent_dim=2)
    >>> Spec.from_json(spec.to_json()) == spec
    True
    """

    dataset: str = _field("digits", f"{', '.join(DATASETS)}, or the path of an .npz or .npy file or a folder of images")
    image_shape: tuple[int, ...] | None = _field(
        None, "channels,height,width; found out from the data where it is not given"
    )
    binarization: str = _field("none", f"how grey pixels become 0 or 1: {', '.join(BINARIZATIONS)}")
    dequantize: bool = _field(
        False, "add uniform noise to grey pixels, so that a density of them bounds the probability of their levels"
    )
    validation_fraction: float = _field(0.1, "share of the training images held out, from 0 to below 1")
    model: AnyPart = _field("vae", "graphical model")
    network: AnyPart = _field("mlp", "encoder and decoder")
    hidden: tuple[int, ...] = _field((400,), "units of the dense hidden layers, e.g. 400,200")
    latent_dim: int = _field(20, "dimension of z")
    likelihood: AnyPart = _field("bernoulli", "p(x|z)")
    prior: AnyPart = _field("standard-normal", "p(z)")
    posterior: AnyPart = _field("normal", "q(z|x)")
    beta: float = _field(1.0, "weight of the KL term; 0 drops it")
    beta_warmup: int = _field(0, "epochs over which beta rises linearly from 0")
    objective: AnyPart = _field("auto", "what is maximised; auto is path-gradient where the posterior takes it")
    particles: int = _field(1, "posterior samples per image and step (the k of iwae and iwae-dreg)")
    epochs: int = _field(25, "passes over the training images")
    batch_size: int = _field(128, "images per step")
    lr: float = _field(1e-3, "learning rate of the optimizer, which the schedule starts from")
    optimizer: AnyPart = _field("adam", "what steps the weights by their gradients")
    schedule: AnyPart = _field("constant", "how the learning rate moves")
    sampler: AnyPart = _field("shuffle", "which images an epoch has: each once, or more of those whose codes are rare")
    clip_norm: float = _field(0.0, "largest norm of the gradient of a step; 0 clips nothing")
    ema: float = _field(0.0, "decay of an exponential moving average of the weights, e.g. 0.999; 0 averages nothing")
    seed: int = _field(0, "seed of the split, the initial weights, the order of images and the noise")
    compile: str = _field("auto", f"how a step runs: {', '.join(COMPILERS)}")
    precision: str = _field("fp32", f"of the matrix products of training: {', '.join(PRECISIONS)}")

    def __post_init__(self) -> None:
        for name in ("image_shape", "hidden"):
            if getattr(self, name) is not None:
                length = 3 if name == "image_shape" else None
                self._keep(name, checks.sizes(name, getattr(self, name), length))
        if not isinstance(self.dataset, str | os.PathLike) or not os.fspath(self.dataset):
            raise checks.fail("dataset", self.dataset, "a name or a path")
        self._keep("dataset", str(self.dataset))
        for name, names in _NAMES.items():
            self._keep(name, checks.one_of(name, getattr(self, name), names))
        for name in PARTS:
            self._keep(name, checked(name, getattr(self, name)))
        for name in ("latent_dim", "particles", "epochs", "batch_size"):
            self._keep(name, checks.positive_integer(name, getattr(self, name)))
        self._keep("lr", checks.positive("lr", self.lr))
        for name in ("validation_fraction", "beta", "clip_norm", "ema"):
            self._keep(name, checks.non_negative(name, getattr(self, name)))
        self._keep("beta_warmup", checks.non_negative_integer("beta_warmup", self.beta_warmup))
        if self.beta_warmup and not self.beta:
            raise checks.fail("beta_warmup", self.beta_warmup, "0 where beta is 0")
        self._keep("seed", checks.seed("seed", self.seed))
        if self.validation_fraction >= 1:
            raise checks.fail("validation_fraction", self.validation_fraction, "a number from 0 to below 1")
        if self.ema >= 1:
            raise checks.fail("ema", self.ema, "a decay from 0 to below 1")
        self._keep("dequantize", checks.boolean("dequantize", self.dequantize))
        if self.dequantize and self.binarization != "none":
            raise checks.fail(
                "dequantize", True, f"False with binarization {self.binarization}: levels are noised, or drawn"
            )
        if self.precision == "bf16" and self.compile == "off":
            raise checks.fail("precision", self.precision, "fp32 where compile is off")

    def _keep(self, name: str, value: Any) -> None:
        """As a plain value of Python's: NumPy's numbers and arrays, lists and paths are taken as well."""
        object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, tuples as lists and parts as JSON has them."""
        values = {name: getattr(self, name) for name in SPEC_FIELDS}
        return {name: _to_plain(value) for name, value in values.items()}

    def to_json(self) -> str:
        """The fields as a JSON object."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Spec:
        """The Spec with these fields; an unknown name is an error with the nearest one."""
        if not isinstance(values, dict):
            raise checks.fail("spec", values, "an object with the fields of Spec")
        for name in values:
            checks.one_of("spec", name, SPEC_FIELDS)
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Reads what :meth:`to_json` wrote."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise checks.fail("spec", text[:40], f"a JSON object ({error})") from error
        return cls.from_dict(values)

    @staticmethod
    def parse(texts: dict[str, str], base: Spec | None = None) -> dict[str, Any]:
        """Fields given as text, as on a command line, converted to their types: `{"hidden": "400,200"}`.

        A dot leads to an option of a part, `{"posterior.layers": "8"}`: of the part in `texts`, or else in `base`.

        >>> Spec.parse({"latent_dim": "2", "posterior": "planar", "posterior.layers": "8"})
        {'latent_dim': 2, 'posterior': {'kind': 'planar', 'layers': 8}}
        """
        values = {name: _from_text(name, text) for name, text in texts.items() if "." not in name}
        for name, text in texts.items():
            part, dot, option = name.partition(".")
            if dot:
                checks.one_of(f"--{name}", part, PARTS)
                if not option:
                    expected = f"a name after the dot, that of an option: `pyro-vae parts {part}` lists them"
                    raise checks.fail(f"--{name}", text, expected)
                default = SPEC_FIELDS[part].default if base is None else getattr(base, part)
                values[part] = with_option(part, values.get(part, default), option.replace("-", "_"), text)
        return values


def _to_plain(value: Any) -> Any:
    if isinstance(value, Part):
        return value.plain()
    return list(value) if isinstance(value, tuple) else value


def to_options(values: Mapping[str, Any]) -> list[str]:
    """The command line of a spec, here by field as in JSON; what has its default is left out.

    >>> to_options({"hidden": [64, 32], "posterior": {"kind": "planar", "layers": 8}, "beta": 1.0})
    ['--hidden=64,32', '--posterior=planar', '--posterior.layers=8']
    """
    options = []
    for name, value in values.items():
        default = SPEC_FIELDS[name].default if name in SPEC_FIELDS else None
        if value is None or value == (list(default) if isinstance(default, tuple) else default):
            continue
        flag = f"--{name.replace('_', '-')}"
        if name in PARTS:
            options += [f"--{option}={text}" for option, text in to_texts(name, value).items()]
        elif isinstance(value, bool):
            options.append(flag if value else f"--no-{name.replace('_', '-')}")
        else:
            options.append(f"{flag}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return options


def read_spec(folder: str | os.PathLike[str]) -> Spec | None:
    """The spec of a run folder; None where there is no run. Code that it names is not imported."""
    path = checks.path("folder", folder) / "spec.json"
    if not path.is_file():
        return None
    try:
        return Spec.from_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise checks.fail("spec", str(path), f"a text file in UTF-8 ({error})") from error
    except checks.InputError as error:
        raise checks.InputError(f"{path}: {error}") from error


def check_weights(folder: str | os.PathLike[str]) -> None:
    """The weights of a run folder were trained under the spec in it, where they tell; else one of the two was changed.

    Raises:
        InputError: they were trained under another.
    """
    from safetensors import SafetensorError, safe_open

    path = checks.path("folder", folder) / WEIGHTS
    if not path.is_file():
        return
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("spec")
    except (SafetensorError, OSError):
        return  # `load` tells of the damage
    spec = read_spec(folder)
    if spec is None or text is None:
        return
    told, trained = spec.to_dict(), Spec.from_json(text).to_dict()
    for name in told:
        if name not in FIELDS_FREE_ON_RESUME and told[name] != trained[name]:
            expected = f"{trained[name]!r}, with which the weights beside it were trained"
            raise checks.fail(name, told[name], f"{expected}: {path.with_name('spec.json')} was changed")


def check_dataset(name: str) -> None:
    """`name` is a known data set, or the path of an .npz or .npy file or a folder."""
    path = checks.path("dataset", name)
    if name in DATASETS or path.is_dir() or (path.is_file() and path.suffix.lower() in (".npz", ".npy")):
        return
    if path.exists() or len(path.parts) > 1 or path.suffix:
        raise checks.fail("dataset", name, f"{', '.join(DATASETS)}, or an existing .npz file or folder of images")
    raise checks.unknown_name("dataset", name, DATASETS)


def check_still_there(spec: Spec) -> None:
    """The images that a run was trained on are where they were."""
    try:
        check_dataset(spec.dataset)
    except checks.InputError as error:
        expected = "the images that this run was trained on; if they were moved, --dataset PATH says where they are"
        raise checks.fail("dataset", spec.dataset, expected) from error


SPEC_FIELDS = {field.name: field for field in dataclasses.fields(Spec)}
PARTS = tuple(name for name in SHELVES if name in SPEC_FIELDS)


def _from_text(name: str, text: str) -> Any:
    kind = str(SPEC_FIELDS[name].type)
    if name == "dataset":
        return os.path.expanduser(text)  # which shells leave alone in `--dataset=~/images`
    if kind == "bool":
        return checks.one_of(name, text, ("true", "false")) == "true"
    try:
        if kind.startswith("tuple"):
            return tuple(int(part) for part in text.split(",") if part.strip())
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
    except ValueError as error:
        wanted = {"int": "a whole number", "float": "a number"}.get(kind, "whole numbers with commas between them")
        raise checks.fail(name, text, wanted) from error
    return text
