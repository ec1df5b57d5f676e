"""Capturing a Python function on tensors below Python, checked: what would go silently wrong is refused.

:func:`capture` runs the function under `make_fx`, at PyTorch's dispatcher, and returns the graph of what it computed.
Python is then out of the way, and with it all that it might decide anew the next time. So the function is captured
twice, on different values, and both graphs must be the same; and reading a number back from a tensor, which is how a
tensor gets to decide anything in Python, is an error. :func:`verify` then runs both, the graph and the function, on
values that neither has seen, and compares what they give.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from pyro_vae.generators import own_generators, same_generators

LARGEST_MOVED = 1_000_000  # elements of a tensor that is given other values for a comparison


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
    second = _trace(function, others, other_noise=True)
    again = {id(tensor) for tensor in _closed_over(second)}
    live = tuple(tensor for tensor in live if id(tensor) in again)
    if live:
        first, second = (
            _trace(lambda *all_inputs: function(*all_inputs[:count]), [*given, *live]) for given in (inputs, others)
        )
    _same(first, second)
    return Captured(_tidy(first), live)


def verify(
    captured: Captured,
    function: Callable[..., Any],
    params: Sequence[Tensor],
    inputs: Sequence[Tensor],
    within_reach: Sequence[Tensor],
) -> None:
    """Compares the graph with its function, from the same draws, where `params` and all else have other values.

    So a number that was read from one of them unseen, by `.numpy()` say, is found to be frozen. Where the function does
    not take such values, fewer are moved. All are as before in the end.

    Args:
        captured: of `function(*params, *inputs)`, of which the first output is a loss, the others are gradients.
        inputs: values that it was not captured with. They are written to.
        within_reach: tensors that the function may use without being given them.

    Raises:
        NotCapturable: they differ.
    """
    device = next((one.device for one in (*params, *inputs)), torch.device("cpu"))
    for moved in ([*params, *inputs, *captured.live, *within_reach], params, ()):
        with Restoring(), _PyroReadsNothing(), pyro.validation_enabled(False):
            _move(moved)
            expected: Sequence[Tensor | None] = ()
            with suppress(Exception), own_generators(device, seed=1), Restoring():
                expected = _copies(function(*params, *inputs))  # as the function writes to what it makes, too
            if expected and expected[0].isfinite().all():  # type: ignore[union-attr]
                with own_generators(device, seed=1), Restoring(), torch.no_grad():
                    found = _copies(captured.graph(*params, *inputs, *captured.live))
                _compare(expected, found)
                break


def _copies(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if one is None else one.detach().clone() for one in tensors]


def _move(tensors: Iterable[Tensor]) -> None:
    """Other values, close by: positive ones stay positive."""
    with torch.no_grad():
        for tensor in {id(one): one for one in tensors}.values():
            if tensor.is_floating_point() and tensor.numel() <= LARGEST_MOVED:
                with suppress(RuntimeError):  # elements that share their memory
                    tensor.mul_(1 + 2**-6).add_(2**-6)


def _compare(expected: Sequence[Tensor | None], found: Sequence[Tensor | None]) -> None:
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        if one is None and other is None:
            continue
        size = 0.0 if one is None or not one.numel() else float(one.detach().abs().max())
        tolerance = 1e-5 + (1e-3 if number else 3e-5) * size
        if one is None or other is None or not _close(one.detach().cpu(), other.detach().cpu(), tolerance):
            what = "a gradient" if number else "its loss"
            now, frozen = ("none" if value is None else _short(value.detach()) for value in (one, other))
            raise NotCapturable(
                f"on other values {what} is {now}, that of the captured step {frozen}: it reads values in a way that "
                "is not seen, by .numpy() say, or seeds its random numbers"
            )


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return one.shape == other.shape and torch.allclose(
        one.double(), other.double(), rtol=0, atol=tolerance, equal_nan=True
    )


def _trace(function: Callable[..., Any], inputs: Sequence[Tensor], other_noise: bool = False) -> fx.GraphModule:
    def without_host(*tensors: Tensor) -> Any:
        with _PyroReadsNothing():
            return function(*tensors)

    devices = {torch.device("cpu"), *(tensor.device for tensor in inputs)}
    with same_generators(devices), Restoring(), pyro.validation_enabled(False):
        if other_noise:
            for device in devices:
                torch.rand(1, device=device)
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
        if _has_a_shape_of_values(node):
            raise NotCapturable(f"the shape of a tensor depends on values: {str(node.target).removesuffix('.default')}")
        if node.op == "get_attr":
            one, other = (getattr(graph, str(node.target)) for graph in (first, second))
            if isinstance(one, Tensor) and not torch.equal(one, other):
                raise NotCapturable(
                    f"a constant in it changes with the values it is given: {_short(one)}, then {_short(other)}"
                )


def _has_a_shape_of_values(node: fx.Node) -> bool:
    if torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
        return False
    if node.target is not torch.ops.aten.index.Tensor:
        return True
    indices = [index.meta["val"] for index in node.args[1] if isinstance(index, fx.Node)]  # type: ignore[union-attr]
    return any(index.dtype in (torch.bool, torch.uint8) for index in indices)


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
            given = {**dict(zip((one.name for one in func._schema.arguments), args, strict=False)), **(kwargs or {})}
            for argument in func._schema.arguments:
                written = argument.alias_info is not None and argument.alias_info.is_write
                written |= running_statistics and argument.name.startswith("running")
                value = given.get(argument.name) if written else None
                for one in value if isinstance(value, list | tuple) else (value,):
                    if isinstance(one, Tensor) and id(one) not in self.before:
                        with _disable_current_modes():  # not to be captured
                            self.before[id(one)] = (one, one.clone())
        return func(*args, **(kwargs or {}))

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        with torch.no_grad():
            for value, before in reversed(self.before.values()):  # one may be a part of another
                # The function's own tensors may have another shape by now, or elements that share their memory.
                with suppress(RuntimeError):
                    if value.shape == before.shape:
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


@contextmanager
def param_store_kept() -> Iterator[dict[str, Tensor]]:
    """Inside, what Pyro's param store held before, by its names; afterwards it holds that again."""
    store = pyro.get_param_store()
    parts: tuple[dict[Any, Any], ...] = (store._params, store._constraints, store._param_to_name)
    before = [dict(part) for part in parts]
    try:
        yield before[0]
    finally:
        for part, kept in zip(parts, before, strict=True):
            part.clear()
            part.update(kept)
