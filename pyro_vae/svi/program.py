"""A Pyro program as SVI takes it, that is a model and a guide with their objective, and its capture."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_vae._utils.rng import preserved_rng
from pyro_vae.svi.capture import Captured, capture, verify
from pyro_vae.svi.guards import Reads
from pyro_vae.svi.isolation import Isolated, gradients_set_aside, param_store_restored
from pyro_vae.svi.operations import TensorsUsed
from pyro_vae.svi.recorder import recorded
from pyro_vae.svi.scalar_reads import NotCapturable
from pyro_vae.svi.signature import Arguments
from pyro_vae.svi.verification import copies, difference


class ProgramError(Exception):
    """The program itself raised an exception, the cause of this one, before it was captured."""


class ChangesItself(NotCapturable):
    """A program whose runs change Python state that it reads."""


class Program:
    """A model and a guide, their objective, and the function that prepares their arguments from those of a step.

    >>> import pyro.distributions as dist
    >>> model = lambda x: pyro.sample("z", dist.Normal(x, 1.0))
    >>> guide = lambda x: pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
    >>> abs(Program(model, guide, pyro.infer.Trace_ELBO(), None).estimate(torch.tensor(0.0)))  # log p(z) - log q(z)
    0.0
    """

    def __init__(self, model: Any, guide: Any, loss: Any, prepare: Callable[..., tuple[Any, ...]] | None) -> None:
        self.parts = (model, guide, loss, prepare)

    def estimate(self, *args: Any, **kwargs: Any) -> Any:
        """The loss, or the losses of an objective that has several, as a tuple."""
        return self._run(self.parts[2].loss, args, kwargs)

    def estimate_with_gradients(self, *args: Any, **kwargs: Any) -> Any:
        """The loss; its gradients are added to those of the parameters."""
        return self._run(self.parts[2].loss_and_grads, args, kwargs)

    def _differentiated(self, kind: str, args: Any, kwargs: Any) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The parameters by name, and the other tensors from outside that require gradients."""
        devices = [param.device for param in pyro.get_param_store()._params.values()]
        with torch.enable_grad():
            start = torch.ones((), requires_grad=True).exp().grad_fn._sequence_nr()  # type: ignore[union-attr]
        with _no_trace(devices), TensorsUsed() as used, poutine.trace(param_only=True) as traced:
            self._loss(kind, args, kwargs)
        params = params_of(traced.trace)
        of_params = {*map(id, params.values())}
        others = [tensor for tensor in used.tensors.values() if tensor.requires_grad and id(tensor) not in of_params]
        # A view that was made inside is another object than the operation's result; autograd counts its nodes.
        return params, [other for other in others if other.grad_fn is None or other.grad_fn._sequence_nr() < start]

    def capture(self, kind: str, arguments: Arguments, reads: Reads) -> Captured | None:
        """The graph of a `step` (the loss and its gradients) or of an `evaluate` (the loss).

        Args:
            kind: `step` or `evaluate`.
            arguments: examples, of which tensors become inputs of the graph.
            reads: to which what the program reads is added.

        Returns None if the program creates parameters in this run. Has no side effects.

        Raises:
            NotCapturable: a replay would not do what the program does.
            ProgramError: the program itself raises.
        """
        inputs, runs = arguments.tensors(), itertools.count()

        def estimate(*tensors: Tensor) -> tuple[Tensor | None, ...]:
            args, kwargs = arguments.with_tensors(tensors[len(params) :])
            with recorded(reads, *self.parts) if next(runs) == 0 else nullcontext():
                results = self._results(kind, [*params.values(), *other_leaves], args, kwargs)
            reads.mark()
            return results

        with reads.restored(), param_store_restored() as store:
            try:
                with recorded(reads, *self.parts):
                    params, other_leaves = self._differentiated(kind, *arguments.with_tensors(inputs))
            except NotCapturable:
                raise
            except Exception as error:
                raise ProgramError from error
            if pyro.get_param_store()._params.keys() != store.keys():
                return None
            if any(not tensor.is_leaf for tensor in other_leaves):
                raise NotCapturable("it differentiates through operations that happened before it ran")
            for name, param in params.items():
                reads.add_tensor(f"the parameter {name}", param)
            reads.mark()
            tensors = list(params.values())
            try:
                # Copies, so that tensors passed twice, or held by the program as well, stay distinct inputs.
                first, second = ([tensor.clone() for tensor in inputs], [_other_values(tensor, 1) for tensor in inputs])
                captured = capture(estimate, [*tensors, *first], [*tensors, *second])
                if any(position >= len(params) for position in captured.written):
                    raise NotCapturable("it writes to an argument in place")
                verify(captured, estimate, tensors, [_other_values(tensor, 0) for tensor in inputs], reads.tensors())
            except NotCapturable:
                _refuse_changes(reads, store)  # a change of state is the clearer reason
                raise
            _refuse_changes(reads, store)
        return replace(captured, params=params, others=tuple(other_leaves) if kind == "step" else ())

    def difference(self, kind: str, captured: Captured, inputs: Sequence[Tensor], args: Any, kwargs: Any) -> str | None:
        """What differs between the program's results and those of its captured step; None if nothing does.

        Both are from the same draws, and without side effects.
        """
        params = captured.params.values()
        devices = [tensor.device for tensor in (*params, *inputs)]
        with _no_trace(devices), poutine.trace(param_only=True) as used:
            expected = copies(self._results(kind, [*params, *captured.others], args, kwargs))
        if {*map(id, params_of(used.trace).values())} != {*map(id, params)}:
            return "the program uses other parameters than its captured step"
        with _no_trace(devices):
            actual = copies(captured.graph.forward(*params, *inputs, *captured.live))
        return difference(expected, actual)

    def _results(
        self, kind: str, differentiated: Sequence[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, ...]:
        if kind == "evaluate":
            return (self._loss(kind, args, kwargs),)
        with torch.enable_grad(), gradients_set_aside(differentiated):
            loss = as_tensor(self.estimate_with_gradients(*args, **kwargs))
            return (loss, *(leaf.grad for leaf in differentiated))

    def _loss(self, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The loss alone. That of a step is the one that comes with gradients: some objectives have no other."""
        if kind == "evaluate":
            with torch.no_grad():
                return as_tensor(self.estimate(*args, **kwargs))
        with torch.enable_grad(), _NoBackward():
            return as_tensor(self.estimate_with_gradients(*args, **kwargs))

    def _run(self, objective: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        model, guide, _, prepare = self.parts
        if prepare is not None:
            args, kwargs = prepare(*args, **kwargs), {}
        loss = objective(model, guide, *args, **kwargs)
        return as_tensor(loss) if isinstance(loss, Tensor) else loss


def _refuse_changes(reads: Reads, store: dict[str, Tensor]) -> None:
    """Raises if a run changed state: under Pyro each run would change what the next reads; a replay would not."""
    changed = reads.changes()
    if changed is not None:
        raise ChangesItself(f"each run of it changes {changed}")
    replaced = [name for name, value in pyro.get_param_store()._params.items() if store.get(name) is not value]
    if replaced:
        raise NotCapturable(f"each step puts new tensors into the param store: {', '.join(replaced)}")


def as_tensor(loss: Any) -> Tensor:
    """Pyro's number or tensor of a single element as a scalar, and several, as of wake-sleep, as a vector."""
    if isinstance(loss, tuple):
        return torch.stack([as_tensor(part) for part in loss])
    return torch.as_tensor(loss).detach().reshape(())


def params_of(trace: Any) -> dict[str, Tensor]:
    """The distinct unconstrained parameters of a traced estimate, by name."""
    by_id = {}
    for name, site in trace.nodes.items():
        # The parameters of a module, where Pyro keeps them out of its store, are unconstrained themselves.
        param = getattr(site["value"], "unconstrained", lambda site=site: site["value"])()
        by_id[id(param)] = (name, param)
    return {name: param for name, param in by_id.values() if param.requires_grad}


@contextmanager
def _no_trace(devices: Sequence[torch.device]) -> Iterator[None]:
    """On exit, generators and tensors that an estimate wrote to are restored; inside, there are no gradients."""
    with preserved_rng(devices), Isolated(), torch.no_grad():
        yield


class _NoBackward(TorchFunctionMode):
    """Inside, objectives call `backward` without effect, so that no gradient is added to any."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return None if func is torch.Tensor.backward else func(*args, **(kwargs or {}))


def _other_values(tensor: Tensor, first: int) -> Tensor:
    """Every second row twice, from row `first` on: different values, but from the same data."""
    if tensor.dim() == 0 or len(tensor) < 2:
        return tensor.clone()
    rows = torch.arange(len(tensor), device=tensor.device) // 2 * 2 + first
    return tensor[rows.clamp(max=len(tensor) - 1)]
