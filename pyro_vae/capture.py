"""Capturing a Python function on tensors below Python, checked: what would go silently wrong is refused.

:func:`capture` runs the function under `make_fx`, at PyTorch's dispatcher, and returns the graph of what it computed.
Python is then out of the way, and with it all that it might decide anew the next time. So the function is captured
twice, on different values, and both graphs must be the same; and reading a number back from a tensor, which is how a
tensor gets to decide anything in Python, is an error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes


class NotCapturable(Exception):  # noqa: N818 (a reason to go on eagerly, not an error)
    """Why a function can't be captured, in one line."""


@dataclass(frozen=True)
class Captured:
    """A graph that computes `function(*inputs, *live)` from `inputs` alone.

    `live` are the tensors that the function uses without being given them, such as a module's buffers: they are read,
    and written in place, at each call.
    """

    graph: fx.GraphModule
    live: tuple[Tensor, ...]


def capture(function: Callable[..., Any], inputs: Sequence[Tensor], others: Sequence[Tensor]) -> Captured:
    """The graph of `function`, a tuple of tensors from a tuple of tensors.

    Args:
        function: what to capture. It may use tensors that it is not given, and draw from torch's generators.
        inputs: example inputs.
        others: inputs of the same shapes with other values, on which it must do the same.

    Random draws are left as they were, and tensors that the function writes to have their values back.

    Raises:
        NotCapturable: it reads numbers back, or does not do the same on other values.

    >>> offset = torch.ones(2)
    >>> captured = capture(lambda x: (x.exp() + offset,), [torch.zeros(2)], [torch.ones(2)])
    >>> captured.graph(torch.zeros(2), *captured.live)
    (tensor([2., 2.]),)
    """
    count = len(inputs)
    first = _trace(function, inputs)
    live = _closed_over(first)
    # Tensors that are there again the second time are the caller's, and stay live; others are made anew by each call.
    second = _trace(function, others)
    again = {id(tensor) for tensor in _closed_over(second)}
    live = tuple(tensor for tensor in live if id(tensor) in again)
    if live:
        first, second = (
            _trace(lambda *all_inputs: function(*all_inputs[:count]), [*given, *live]) for given in (inputs, others)
        )
    _same(first, second)
    return Captured(_tidy(first), live)


def _trace(function: Callable[..., Any], inputs: Sequence[Tensor]) -> fx.GraphModule:
    def without_host(*tensors: Tensor) -> Any:
        with _PyroReadsNothing():
            return function(*tensors)

    devices = {tensor.device for tensor in inputs if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), Restoring(), pyro.validation_enabled(False):
        try:
            return make_fx(without_host)(*inputs)
        except Exception as error:
            text = " ".join(str(error).split())
            if "_local_scalar_dense" in text or "data-dependent" in text.lower():
                text = "it reads a number back from a tensor, by .item(), bool() or the like"
            raise NotCapturable(text[:300]) from error


def _closed_over(graph: fx.GraphModule) -> tuple[Tensor, ...]:
    found = (getattr(graph, str(node.target)) for node in graph.graph.nodes if node.op == "get_attr")
    return tuple({id(value): value for value in found if isinstance(value, Tensor)}.values())


def _same(first: fx.GraphModule, second: fx.GraphModule) -> None:
    """Both graphs do the same, with the same constants."""
    if first.code != second.code:
        lines = zip(first.code.splitlines(), second.code.splitlines(), strict=False)
        one, other = next(((a, b) for a, b in lines if a != b), ("", "further operations"))
        raise NotCapturable(
            f"it does not do the same on other values: {one.strip()[:120]!r}, then {other.strip()[:120]!r}"
        )
    for node in first.graph.nodes:
        if node.op == "get_attr":
            one, other = (getattr(graph, str(node.target)) for graph in (first, second))
            if isinstance(one, Tensor) and not torch.equal(one, other):
                raise NotCapturable(
                    f"a constant in it changes with the values it is given: {_short(one)}, then {_short(other)}"
                )


def _short(tensor: Tensor) -> str:
    return " ".join(str(tensor.flatten()[:4].tolist()).split())[:80]


def _tidy(graph: fx.GraphModule) -> fx.GraphModule:
    """Without what autograd alone needed, and without what nothing needs. Draws stay: later ones come after them."""
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif node.target is torch.ops.aten.native_batch_norm.default and node.args[3] is not None:
            node.target = (
                torch.ops.aten._native_batch_norm_legit.default
            )  # the same, in a schema that tells what it writes
    graph.graph.eliminate_dead_code(is_impure_node=_has_effects)
    graph.recompile()
    return graph


def _has_effects(node: fx.Node) -> bool:
    if node.op in ("placeholder", "output"):
        return True
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    return node.target._schema.is_mutable or torch.Tag.nondeterministic_seeded in node.target.tags


class Restoring(TorchDispatchMode):
    """Tensors that are written to in place get their values back at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        running_statistics = func is torch.ops.aten.native_batch_norm.default  # its schema does not say that it writes
        if func._schema.is_mutable or running_statistics:
            for argument, value in zip(func._schema.arguments, args, strict=False):
                written = argument.alias_info is not None and argument.alias_info.is_write
                written |= running_statistics and argument.name.startswith("running")
                if written and isinstance(value, Tensor) and id(value) not in self.before:
                    with _disable_current_modes():  # not to be captured
                        self.before[id(value)] = (value, value.clone())
        return func(*args, **(kwargs or {}))

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        with torch.no_grad():
            for value, before in self.before.values():
                value.detach().copy_(before)
        self.before.clear()


class _PyroReadsNothing(TorchFunctionMode):
    """Pyro's objectives read each loss back, and look for NaNs. Here their `.item()` gives the tensor itself.

    It holds in this thread alone, and for calls from Pyro's own modules alone.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.item, torch.Tensor.__bool__):
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if func is torch.Tensor.item and caller.startswith("pyro.infer."):
                return args[0].detach()
            if func is torch.Tensor.__bool__ and caller == "pyro.util":  # warn_if_nan
                return False
        return func(*args, **(kwargs or {}))


@contextmanager
def gradients_set_aside(params: Sequence[Tensor]) -> Iterator[None]:
    """Inside, no parameter has a gradient; afterwards each has its own again."""
    before = [param.grad for param in params]
    for param in params:
        param.grad = None
    try:
        yield
    finally:
        for param, grad in zip(params, before, strict=True):
            param.grad = grad
