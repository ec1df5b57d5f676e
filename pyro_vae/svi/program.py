"""A Pyro program as SVI takes it, a model and a guide with their objective, and its capture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.utils import _pytree as pytree

from pyro_vae._utils.rng import preserved_rng
from pyro_vae.svi.capture import (
    Captured,
    NotCapturable,
    Restoring,
    capture,
    gradients_set_aside,
    param_store_kept,
    verify,
)
from pyro_vae.svi.watching import Watched


class ProgramError(Exception):
    """The program itself raised the cause, before it was captured."""


class ChangesItself(NotCapturable):
    """A program that leaves other values behind, within its own reach."""


class Program:
    """A model and a guide, their objective, and what makes their arguments of those of a step.

    >>> import pyro.distributions as dist
    >>> model = lambda x: pyro.sample("z", dist.Normal(x, 1.0))
    >>> guide = lambda x: pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
    >>> list(Program(model, guide, pyro.infer.Trace_ELBO(), None).params(torch.tensor(0.0)))
    ['loc']
    """

    def __init__(self, model: Any, guide: Any, loss: Any, prepare: Callable[..., tuple[Any, ...]] | None) -> None:
        self.parts = (model, guide, loss, prepare)
        self.watched = Watched(*self.parts)

    def estimate(self, *args: Any, **kwargs: Any) -> Any:
        """The loss."""
        return self._run(self.parts[2].loss, args, kwargs)

    def estimate_with_gradients(self, *args: Any, **kwargs: Any) -> Any:
        """The loss, whose gradients it adds to those of the parameters."""
        return self._run(self.parts[2].loss_and_grads, args, kwargs)

    def params(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The parameters, from one estimate with Pyro's own checks that leaves no other trace."""
        devices = [param.device for param in pyro.get_param_store()._params.values()]
        with _no_trace(devices), poutine.trace(param_only=True) as found:
            self.estimate(*args, **kwargs)
        return params_of(found.trace)

    def capture(self, kind: str, leaves: Sequence[Any], tree: Any) -> tuple[Captured, dict[str, Tensor]] | None:
        """What a `step` computes, the loss and its gradients, or an `evaluate`; and of which parameters.

        Args:
            kind: `step` or `evaluate`.
            leaves, tree: example arguments, as a pytree. The tensors among them stay inputs.

        None where the program makes parameters by its first run. Leaves no trace.

        Raises:
            NotCapturable: a replay would not do what the program does.
            ProgramError: the program raises.
        """
        places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        inputs = [leaves[place] for place in places]

        def estimate(*tensors: Tensor) -> tuple[Tensor | None, ...]:
            given = list(leaves)
            for index, tensor in zip(places, tensors[len(params) :], strict=True):
                given[index] = tensor
            args, kwargs = pytree.tree_unflatten(given, tree)
            if kind == "evaluate":
                with torch.no_grad():
                    return (torch.as_tensor(self.estimate(*args, **kwargs)),)
            with gradients_set_aside(list(params.values())):
                loss = self.estimate_with_gradients(*args, **kwargs)
                return (torch.as_tensor(loss), *(param.grad for param in params.values()))

        iterator = self.watched.iterator()
        if iterator is not None:
            raise NotCapturable(f"it may take the next of an iterator, a {iterator}")
        with self.watched.kept() as memory, param_store_kept() as store:
            args, kwargs = pytree.tree_unflatten(list(leaves), tree)
            try:
                params = self.params(*args, **kwargs)
            except Exception as error:
                raise ProgramError from error
            if pyro.get_param_store()._params.keys() != store.keys():
                return None
            before = self.watched.labelled()
            tensors = list(params.values())
            try:
                # Copies, so that an argument given twice, or one that the program also holds, is not taken for one.
                given = [one.clone() for one in inputs]
                captured = capture(estimate, [*tensors, *given], [*tensors, *(_other_values(one, 1) for one in inputs)])
                others = [_other_values(one, 0) for one in inputs]
                verify(captured, estimate, tensors, others, self.watched.tensors())
            except NotCapturable:
                self._refuse_changes(before, memory, store)  # which are the better reason
                raise
            self._refuse_changes(before, memory, store)
        return captured, params

    def losses(
        self, captured: Captured, params: Sequence[Tensor], inputs: Sequence[Tensor], args: Any, kwargs: Any
    ) -> tuple[float, float]:
        """That of the program and that of its captured step, from the same draws; leaves no trace.

        The second is NaN where the program uses other parameters than the captured step.
        """
        devices = [one.device for one in (*params, *inputs)]
        with self.watched.kept():
            with _no_trace(devices), poutine.trace(param_only=True) as used:
                loss = float(self.estimate(*args, **kwargs))
            if {*map(id, params_of(used.trace).values())} != {*map(id, params)}:
                return loss, math.nan
            with _no_trace(devices):
                return loss, float(captured.graph(*params, *inputs, *captured.live)[0])

    def _run(self, objective: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        model, guide, _, prepare = self.parts
        if prepare is not None:
            args, kwargs = prepare(*args, **kwargs), {}
        return objective(model, guide, *args, **kwargs)

    def _refuse_changes(self, before: Any, memory: list[tuple[Tensor, Tensor]], store: dict[str, Tensor]) -> None:
        """Each run under Pyro would change what the next one sees, or what the user reads; a replay would not."""
        after = self.watched.labelled()
        changed = [label for label in (*after, *before) if after.get(label) != before.get(label)]
        if changed:
            raise ChangesItself(f"each run of it changes {shown(changed[0])}")
        if any(one.data_ptr() != kept.data_ptr() for one, kept in memory if one.layout is torch.strided):
            raise ChangesItself("each run of it replaces the data of a tensor")
        now = pyro.get_param_store()._params
        changed = [name for name, value in now.items() if store.get(name) is not value]
        if changed:
            raise NotCapturable(f"each step puts new tensors into the param store: {', '.join(changed)}")


def params_of(trace: Any) -> dict[str, Tensor]:
    """The unconstrained parameters that a traced estimate used, each once."""
    found = {
        id(site["value"].unconstrained()): (name, site["value"].unconstrained()) for name, site in trace.nodes.items()
    }
    return {name: param for name, param in found.values() if param.requires_grad}


def shown(label: str) -> str:
    """The name of what is watched, as people read it."""
    return label.split("#")[0]


@contextmanager
def _no_trace(devices: Sequence[torch.device]) -> Iterator[None]:
    """Random numbers, and all else that an estimate moves, are as before; there are no gradients."""
    with preserved_rng(devices), Restoring(), torch.no_grad():
        yield


def _other_values(tensor: Tensor, first: int) -> Tensor:
    """Each second row twice, from row `first` on: values that the program may see as well, but other ones."""
    if tensor.dim() == 0 or len(tensor) < 2:
        return tensor.clone()
    rows = torch.arange(len(tensor), device=tensor.device) // 2 * 2 + first
    return tensor[rows.clamp(max=len(tensor) - 1)]
