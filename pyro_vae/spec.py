"""`Spec`: everything that defines one run, as a frozen, checked, JSON-friendly value. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from typing import Any

from pyro_vae._utils import checks

DATASETS = ("digits", "mnist", "fashion-mnist", "cifar10")
BINARIZATIONS = ("none", "static", "dynamic", "threshold")
MODELS = ("vae", "autoencoder", "vae-prior-at-start")
NETWORKS = ("mlp", "conv")
ACTIVATIONS = ("tanh", "relu", "elu", "silu", "softplus")
DENSITIES = ("continuous-bernoulli", "gaussian", "gaussian-learned", "gaussian-linear")  # likelihoods that are such
LIKELIHOODS = (
    "bernoulli",
    "continuous-bernoulli",
    "gaussian",
    "gaussian-learned",
    "gaussian-linear",
    "discretized-logistic",
    "discretized-gaussian",
)
PRIORS = ("standard-normal", "laplace", "uniform")
POSTERIORS = ("normal", "planar", "conditional-planar", "laplace", "uniform")
FLOWS = ("planar", "conditional-planar")
CLOSED_FORM_KL = (  # posterior, prior
    ("normal", "standard-normal"),
    ("normal", "laplace"),
    ("laplace", "standard-normal"),
    ("laplace", "laplace"),
    ("uniform", "standard-normal"),
    ("uniform", "uniform"),
)
INITIALIZATIONS = ("torch", "he")
OBJECTIVES = ("auto", "elbo", "mean-field", "path-gradient", "iwae", "iwae-dreg")
WITH_ONE_PARTICLE = {"iwae": "elbo", "iwae-dreg": "path-gradient"}  # what these objectives are then
COMPILERS = ("auto", "off", "capture", "inductor", "cudagraph")
PRECISIONS = ("fp32", "bf16")
_NAMES = {
    "binarization": BINARIZATIONS,
    "model": MODELS,
    "network": NETWORKS,
    "activation": ACTIVATIONS,
    "initialization": INITIALIZATIONS,
    "likelihood": LIKELIHOODS,
    "prior": PRIORS,
    "posterior": POSTERIORS,
    "objective": OBJECTIVES,
    "compile": COMPILERS,
    "precision": PRECISIONS,
}
HOW_LONG_AND_HOW = ("epochs", "dataset", "compile", "precision")  # with others a training may go on
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
    model: str = _field("vae", ", ".join(MODELS))
    network: str = _field("mlp", ", ".join(NETWORKS))
    hidden: tuple[int, ...] = _field((400,), "units of the dense hidden layers, e.g. 400,200")
    channels: tuple[int, ...] = _field((32, 64), "channels of the stride-2 layers of a conv network")
    activation: str | None = _field(None, f"{', '.join(ACTIVATIONS)}; default: tanh for mlp, relu for conv")
    initialization: str = _field(
        "torch",
        f"{', '.join(INITIALIZATIONS)}: how the weights start; with he signals keep their size, which deep nets need",
    )
    latent_dim: int = _field(20, "dimension of z")
    likelihood: str = _field("bernoulli", ", ".join(LIKELIHOODS))
    components: int = _field(1, "components of a discretized-logistic likelihood, a mixture where there are several")
    variance: float = _field(0.5, "variance c of a gaussian likelihood (where it is learned: its start)")
    prior: str = _field("standard-normal", ", ".join(PRIORS))
    posterior: str = _field("normal", ", ".join(POSTERIORS))
    flow_layers: int = _field(4, "planar layers of a flow posterior")
    beta: float = _field(1.0, "weight of the KL term; 0 drops it")
    beta_warmup: int = _field(0, "epochs over which beta rises linearly from 0")
    objective: str = _field("auto", f"{', '.join(OBJECTIVES)}; auto is path-gradient where the posterior takes it")
    particles: int = _field(1, "posterior samples per image and step (the k of iwae and iwae-dreg)")
    epochs: int = _field(25, "passes over the training images")
    batch_size: int = _field(128, "images per step")
    lr: float = _field(1e-3, "learning rate of Adam")
    seed: int = _field(0, "seed of the split, the initial weights, the order of images and the noise")
    compile: str = _field("auto", f"how a step runs: {', '.join(COMPILERS)}")
    precision: str = _field("fp32", f"of the matrix products of training: {', '.join(PRECISIONS)}")

    def __post_init__(self) -> None:
        for name in ("image_shape", "hidden", "channels"):
            if getattr(self, name) is not None:
                self._keep(name, _sizes(name, getattr(self, name), length=3 if name == "image_shape" else None))
        if not isinstance(self.dataset, str | os.PathLike) or not os.fspath(self.dataset):
            raise checks.fail("dataset", self.dataset, "a name or a path")
        self._keep("dataset", str(self.dataset))
        for name, names in _NAMES.items():
            if name != "activation" or self.activation is not None:
                self._keep(name, checks.one_of(name, getattr(self, name), names))
        for name in ("latent_dim", "components", "flow_layers", "particles", "epochs", "batch_size"):
            self._keep(name, checks.positive_integer(name, getattr(self, name)))
        for name in ("variance", "lr"):
            self._keep(name, checks.positive(name, getattr(self, name)))
        for name in ("validation_fraction", "beta"):
            self._keep(name, checks.non_negative(name, getattr(self, name)))
        self._keep("beta_warmup", checks.non_negative_integer("beta_warmup", self.beta_warmup))
        self._keep("seed", checks.seed("seed", self.seed))
        if self.validation_fraction >= 1:
            raise checks.fail("validation_fraction", self.validation_fraction, "a number from 0 to below 1")
        self._keep("dequantize", checks.boolean("dequantize", self.dequantize))
        if self.dequantize and self.likelihood not in DENSITIES:
            raise checks.fail("dequantize", True, f"False for {self.likelihood}; it is for {', '.join(DENSITIES)}")
        if self.dequantize and self.binarization != "none":
            raise checks.fail(
                "dequantize", True, f"False with binarization {self.binarization}: levels are noised, or drawn"
            )
        if self.components > 1 and self.likelihood != "discretized-logistic":
            raise checks.fail("components", self.components, f"1 for the likelihood {self.likelihood}")
        if self.particles == 1 and self.objective in WITH_ONE_PARTICLE:
            instead = WITH_ONE_PARTICLE[self.objective]
            raise checks.fail("particles", 1, f"at least 2 for {self.objective}; with 1 it is the {instead}")
        if self.objective == "iwae-dreg" and self.model != "vae":
            raise checks.fail(
                "objective", self.objective, f"iwae for the model {self.model}, which has not one latent site alone"
            )
        if self.precision == "bf16" and self.compile == "off":
            raise checks.fail("precision", self.precision, "fp32 where compile is off")
        if self.model == "autoencoder":
            return
        if self.model == "vae-prior-at-start" and self.posterior not in FLOWS:
            raise checks.fail("posterior", self.posterior, f"a flow, {' or '.join(FLOWS)}, for this model")
        if self.prior == "uniform" and self.posterior != "uniform":
            raise checks.fail(
                "posterior", self.posterior, "uniform: the KL of any other to a uniform prior is infinite"
            )
        if self.objective in ("path-gradient", "iwae-dreg") and self.posterior == "uniform":
            instead = "iwae" if self.objective == "iwae-dreg" else "mean-field or elbo"
            raise checks.fail("objective", self.objective, f"{instead}: the support of a uniform moves with it")
        if self.objective == "mean-field" and (self.posterior, self.prior) not in CLOSED_FORM_KL:
            raise checks.fail(
                "objective",
                self.objective,
                f"elbo or iwae: a {self.posterior} posterior has no analytic KL to a {self.prior} prior",
            )

    def _keep(self, name: str, value: Any) -> None:
        """As a plain value of Python's: NumPy's numbers and arrays, lists and paths are taken as well."""
        object.__setattr__(self, name, value)

    def with_objective(self) -> Spec:
        """The same, with what `auto` stands for in its place: see :func:`automatic_objective`.

        >>> Spec().with_objective().objective
        'path-gradient'
        """
        if self.objective != "auto":
            return self
        is_vae = self.model == "vae"
        name = automatic_objective(
            takes_path_gradient=is_vae and self.posterior != "uniform",
            has_closed_kl=is_vae and (self.posterior, self.prior) in CLOSED_FORM_KL,
        )
        return dataclasses.replace(self, objective=name)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, tuples as lists, ready for JSON."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

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
    def parse(texts: dict[str, str]) -> dict[str, Any]:
        """Fields given as text, as on a command line, converted to their types: `{"hidden": "400,200"}`."""
        return {name: _from_text(name, text) for name, text in texts.items()}


def automatic_objective(*, takes_path_gradient: bool, has_closed_kl: bool) -> str:
    """What the objective `auto` stands for: the one of least noise in its gradient.

    That is `path-gradient` where the posterior takes it, else `mean-field` where the KL term has a closed form, else
    `elbo`. The measurement behind it is in the documentation, under "Two gradients of an expectation".
    """
    if takes_path_gradient:
        return "path-gradient"
    return "mean-field" if has_closed_kl else "elbo"


def read_spec(folder: str | os.PathLike[str]) -> Spec | None:
    """The spec of a run folder; None where there is no run."""
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
        if name not in HOW_LONG_AND_HOW and told[name] != trained[name]:
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


SPEC_FIELDS = {one.name: one for one in dataclasses.fields(Spec)}


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


def _sizes(name: str, given: Any, length: int | None) -> tuple[int, ...]:
    sizes = given.tolist() if hasattr(given, "tolist") else given  # an array
    if not isinstance(sizes, tuple | list) or (length is not None and len(sizes) != length):
        raise checks.fail(name, given, f"{length or 'a list of'} whole numbers")
    return tuple(checks.positive_integer(name, size) for size in sizes)
