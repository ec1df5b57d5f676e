"""The settings of a training: the checked arguments of `fit`, and what a checkpoint must agree with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pyro.infer import ELBO
from torch import nn

from pyro_vae._utils import checks
from pyro_vae.data import Images
from pyro_vae.models.base import check_dequantize
from pyro_vae.objectives import JITTED, TRACED, resolved
from pyro_vae.objectives import objective as objective_by_name
from pyro_vae.parts import AnyPart, Part
from pyro_vae.spec import BINARIZATIONS, FIELDS_FREE_ON_RESUME, PRECISIONS, Spec
from pyro_vae.svi.backends import BACKENDS
from pyro_vae.training.optimizers import Optimizer, described
from pyro_vae.training.sampling import Sampler
from pyro_vae.training.schedules import Scheduler


@dataclass(frozen=True)
class Settings:
    """The arguments of :func:`~pyro_vae.fit` that define a training, passed or taken from the model's spec; checked.

    >>> from pyro_vae.models.binding import bound
    >>> Settings(**bound(torch.nn.Linear(1, 1), "fit", **{name: None for name in SETTINGS})).batch_size
    128
    """

    epochs: int
    batch_size: int
    lr: float
    beta: float
    beta_warmup: int
    objective: AnyPart | ELBO
    particles: int
    binarization: str
    dequantize: bool
    compile: str
    precision: str
    seed: int
    optimizer: Optimizer
    schedule: Scheduler
    sampler: Sampler
    clip_norm: float
    ema: float

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            self._set(name, checks.positive_integer(name, getattr(self, name)))
        self._set("lr", checks.positive("lr", self.lr))
        self._set("beta", checks.non_negative("beta", self.beta))
        self._set("beta_warmup", checks.non_negative_integer("beta_warmup", self.beta_warmup))
        if self.beta_warmup and not self.beta:
            raise checks.fail("beta_warmup", self.beta_warmup, "0 where beta is 0")
        for name in ("clip_norm", "ema"):
            self._set(name, checks.non_negative(name, getattr(self, name)))
        if self.ema >= 1:
            raise checks.fail("ema", self.ema, "a decay from 0 to below 1")
        self._set("seed", checks.seed("seed", self.seed))
        self._set("dequantize", checks.boolean("dequantize", self.dequantize))
        allowed = {"compile": ("auto", *BACKENDS), "precision": PRECISIONS, "binarization": BINARIZATIONS}
        for name, names in allowed.items():
            self._set(name, checks.one_of(name, getattr(self, name), names))
        if self.precision == "bf16" and self.compile == "off":
            expected = "fp32 where compile is off: only a captured step has bfloat16 products"
            raise checks.fail("precision", self.precision, expected)

    def _set(self, name: str, value: Any) -> None:
        """As a plain value of Python's."""
        object.__setattr__(self, name, value)

    def check_model(self, model: nn.Module) -> None:
        """Checks that the model has parameters, and a density if grey levels are dequantized."""
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise checks.fail("model", f"{type(model).__name__} without parameters to train", "a model with some")
        check_dequantize(model, self.dequantize, self.binarization)

    def resolved_objective(self, model: nn.Module, images: Images) -> Part | ELBO:
        """The objective, with `auto` resolved."""
        objective = self.objective
        if isinstance(objective, str | Mapping | Part):
            objective = resolved(objective, model, images)
        self.elbo(objective)  # which may refuse it
        return objective

    def elbo(self, objective: Part | ELBO) -> ELBO:
        """The objective of this name, or the object as it is."""
        elbo = objective_by_name(objective, self.particles) if isinstance(objective, Part) else objective
        if not isinstance(elbo, TRACED) or isinstance(elbo, JITTED):
            names = ", ".join(kind.__name__ for kind in TRACED)
            raise checks.fail("objective", type(elbo).__name__, f"a name, or one of Pyro's {names}")
        return elbo

    def to_dict(
        self, model: nn.Module, objective: Part | ELBO, train: Images, held_out: Images | None
    ) -> dict[str, Any]:
        """The settings that a checkpoint must share with the training that resumes from it, as plain values."""
        return {name: getattr(self, name) for name in SETTINGS if name not in FIELDS_FREE_ON_RESUME} | {
            "model": _description(model),
            "objective": _attributes(objective) if isinstance(objective, ELBO) else objective.plain(),
            "particles": self.elbo(objective).num_particles,
            "optimizer": described(self.optimizer),
            "schedule": described(self.schedule),
            "sampler": described(self.sampler),
            "images": train.fingerprint,
            "validation": None if held_out is None else held_out.fingerprint,
        }


SETTINGS = tuple(field.name for field in fields(Settings))


def settings_as_now(stored: dict[str, Any]) -> dict[str, Any]:
    """The settings of a checkpoint, with defaults for those that are newer than the version that wrote it."""
    description = stored["model"]
    if isinstance(description, dict):
        known = {name: value for name, value in description.items() if name not in SETTINGS}
        stored = stored | {"model": _of_model(Spec.from_dict(known))}
    newer = {"dequantize": False, "optimizer": "adam", "schedule": "constant", "sampler": "shuffle"}
    return {**newer, "clip_norm": 0.0, "ema": 0.0, **stored}


def _description(model: nn.Module) -> dict[str, Any] | str:
    """The description of a model that a checkpoint must share, besides the shapes of its weights."""
    spec = getattr(model, "spec", None)
    return repr(model) if spec is None else _of_model(spec)


def _of_model(spec: Spec) -> dict[str, Any]:
    """The fields of the spec that define the model; those of the training are in `Settings`."""
    left_out = {*FIELDS_FREE_ON_RESUME, *SETTINGS}
    return {name: value for name, value in spec.to_dict().items() if name not in left_out}


def _attributes(elbo: ELBO) -> str:
    plain = {name: value for name, value in vars(elbo).items() if isinstance(value, int | float | str | None)}
    return f"{type(elbo).__name__} {sorted(plain.items())}"
