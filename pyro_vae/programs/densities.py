"""p(z), p(x|z) and q(z|x) of the images of a batch, with the labels and covariates that a model conditions on."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.posteriors import location
from pyro_vae.programs.traces import Traces


@dataclass(frozen=True)
class Densities:
    """The `prior`, `encode` and `decode` of a model, given the arguments of one batch.

    Args:
        model: a `VAE`, an `Autoencoder`, or another module with these methods.
        arguments: labels and covariates of the batch, `(N, ...)`, by name; each method gets those that it names. The
            densities broadcast over leading dimensions of z, `(..., N, d)`.
    """

    model: Any
    arguments: Mapping[str, Tensor] = field(default_factory=dict)

    def prior(self) -> dist.TorchDistribution:
        """p(z): batch shape `()`, or `(N,)` where it depends on the image's arguments; event shape `(d,)`."""
        return self._call(self.model.prior)

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """q(z|x): batch shape `(N,)`, event shape `(d,)`."""
        return self._call(self.model.encode, x)

    def decode(self, z: Tensor) -> dist.TorchDistribution:
        """p(x|z) for codes `(..., N, d)`: batch shape `(..., N)`, event shape `(C, H, W)`."""
        return self._call(self.model.decode, z)

    @property
    def has_parts(self) -> bool:
        """Whether the model has these methods; else its programs tell, by their :attr:`traces`."""
        return has_parts(self.model)

    @property
    def traces(self) -> Traces:
        """The model's programs, given these arguments."""
        return Traces(self.model, self.arguments)

    @property
    def scored(self) -> Tensor | None:
        """Which values of each image log p(x|z) is of; None for all.

        Of a model's `scored`: the name of the argument that says so, `(N, 1 or C, H, W)`, or the mask of all images,
        `(H, W)`.
        """
        scored = getattr(self.model, "scored", None)
        return self.arguments.get(scored) if isinstance(scored, str) else scored

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x|z) at the location of q(z|x), `(N, C, H, W)`."""
        if not self.has_parts:
            return self.traces.reconstruct(x)
        if self.arguments or not hasattr(self.model, "reconstruct"):
            return self.decode(location(self.encode(x))).mean
        reconstructed: Tensor = self.model.reconstruct(x)
        return reconstructed

    def prior_sample(self, draws: int, n: int) -> Tensor:
        """z from the prior, `(draws, n, d)`, for a batch of n images."""
        p = self.prior()
        return p.sample((draws,) if p.batch_shape else (draws, n))

    def rows(self, index: slice) -> Densities:
        """The densities for some of the images of the batch."""
        return Densities(self.model, {name: values[index] for name, values in self.arguments.items()})

    def _call(self, method: Any, *positional: Tensor) -> Any:
        if not self.arguments:
            return method(*positional)
        return method(*positional, **{name: self.arguments[name] for name in named(method, self.arguments)})


def groups_lacking(model: object) -> tuple[str, ...]:
    """The groups of metrics that a model does not have: the `lacks` of its class, and samples without a way to draw."""
    lacks = tuple(getattr(model, "lacks", ()))
    program = getattr(model, "model", None)
    is_drawn = has_parts(model) or (callable(program) and "size" in inspect.signature(program).parameters)
    return lacks if is_drawn or "samples" in lacks else (*lacks, "samples")


def has_parts(model: object) -> bool:
    """Whether a model has the one latent site z, of which its `encode`, `decode` and `prior` tell.

    One that can't be sampled needs no prior.
    """
    needed = ("encode", "decode") if "samples" in getattr(model, "lacks", ()) else ("encode", "decode", "prior")
    return all(callable(getattr(model, name, None)) for name in needed)


def named(method: Any, arguments: Mapping[str, Tensor]) -> list[str]:
    """The `arguments` that a method takes; of a module, those that its `forward` takes."""
    parameters = inspect.signature(method.forward if isinstance(method, nn.Module) else method).parameters
    return [name for name in arguments if name in parameters]
