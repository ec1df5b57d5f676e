"""Capturing a Python function on tensors below Python, checked: what would go silently wrong is refused.

:func:`capture` runs the function under `make_fx`, at PyTorch's dispatcher, and returns the graph of what it computed.
Python is then out of the way, and with it all that it might decide anew the next time. So the function is captured
twice, on different values, and both graphs must be the same; and reading a number back from a tensor, which is how a
tensor gets to decide anything in Python, is an error. :func:`verify` then runs both, the graph and the function, on
values that neither has seen, and compares what they give.
"""

from __future__ import annotations

import linecache
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.weak import WeakTensorKeyDictionary

from pyro_vae._utils.rng import preserved_rng, seeded_rng

_ENGINE = ("pyro_vae.svi.capture", "pyro_vae.svi.program")
_LIBRARIES = ("torch", "pyro", "numpy", "contextlib", "functools")
_READ_UNSEEN = (torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__)
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
    host = _WithoutHost()
    live = _live(function, inputs, host)
    first = _trace(lambda *given: function(*given[:count]), [*inputs, *live], host)
    second = _trace(lambda *given: function(*given[:count]), [*others, *live], host, other_noise=True)
    _same(first, second, host.read_at)
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
        with Restoring(), _WithoutHost() as host, pyro.validation_enabled(False):
            _move(moved)
            expected: Sequence[Tensor | None] = ()
            with suppress(Exception), seeded_rng(device, seed=1), Restoring():
                expected = _copies(function(*params, *inputs))  # as the function writes to what it makes, too
            if expected and expected[0].isfinite().all():  # type: ignore[union-attr]
                with seeded_rng(device, seed=1), Restoring(), torch.no_grad():
                    found = _copies(captured.graph(*params, *inputs, *captured.live))
                _compare(expected, found, host.read_at)
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


def _compare(expected: Sequence[Tensor | None], found: Sequence[Tensor | None], read_at: str) -> None:
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
                f"is not seen, by .numpy() say, or seeds its random numbers{read_at}"
            )


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return one.shape == other.shape and torch.allclose(
        one.double(), other.double(), rtol=0, atol=tolerance, equal_nan=True
    )


def _live(function: Callable[..., Any], inputs: Sequence[Tensor], host: _WithoutHost) -> tuple[Tensor, ...]:
    """The tensors that the function uses both times that it is run, and that it neither is given nor makes."""
    runs: list[dict[int, Tensor]] = []
    for _ in range(2):
        with _aside(inputs), _Used(inputs) as used, host:
            function(*inputs)
        runs.append(used.tensors)
    return tuple(tensor for address, tensor in runs[0].items() if address in runs[1])


def _trace(
    function: Callable[..., Any], inputs: Sequence[Tensor], host: _WithoutHost, other_noise: bool = False
) -> fx.GraphModule:
    def without_host(*tensors: Tensor) -> Any:
        with host:  # inside, as it looks at its caller, and make_fx has a mode of its own
            return function(*tensors)

    # One mode for the shapes of all operations; make_fx would make one for each, together with a list of the stack.
    with _aside(inputs) as devices, tracing(TracingContext(FakeTensorMode())):
        if other_noise:
            for device in devices:
                torch.rand(1, device=device)
        return make_fx(without_host)(*inputs)


@contextmanager
def _aside(inputs: Sequence[Tensor]) -> Iterator[set[torch.device]]:
    """Inside, a function can be run without a trace of it; what it raises is a reason not to capture it."""
    devices = {torch.device("cpu"), *(tensor.device for tensor in inputs)}
    with preserved_rng(devices), Restoring(), pyro.validation_enabled(False):
        try:
            yield devices
        except Exception as error:
            text = " ".join(str(error).split())
            if "_local_scalar_dense" in text or "data-dependent" in text.lower():
                text = "it reads a number back from a tensor, by .item(), bool() or the like"
            frames = reversed([*traceback.walk_tb(error.__traceback__)])
            raise NotCapturable(text[:300] + _innermost_line(frames)) from error


def _innermost_line(frames: Iterable[tuple[types.FrameType, int]]) -> str:
    """The line of the program, where the frames, innermost first, have one."""
    for frame, number in frames:
        module, file = frame.f_globals.get("__name__", ""), frame.f_code.co_filename
        if module in _ENGINE or module.split(".")[0] in _LIBRARIES:
            continue
        return f", at {file}:{number}: {linecache.getline(file, number).strip()[:120]}".rstrip(": ")
    return ""


def _same(first: fx.GraphModule, second: fx.GraphModule, read_at: str) -> None:
    """Both graphs do the same, with the same constants."""
    if first.code != second.code:
        lines = zip(first.code.splitlines(), second.code.splitlines(), strict=False)
        one, other = next(((a, b) for a, b in lines if a != b), ("", "further operations"))
        raise NotCapturable(
            f"it does not do the same on other values: {one.strip()[:120]!r}, then {other.strip()[:120]!r}{read_at}"
        )
    for node in first.graph.nodes:
        if node.op == "get_attr":
            one, other = (getattr(graph, str(node.target)) for graph in (first, second))
            if isinstance(one, Tensor) and not torch.equal(one, other):
                raise NotCapturable(
                    f"a constant in it changes with the values it is given: {_short(one)}, then {_short(other)}"
                    f"{read_at}"
                )


def _has_a_shape_of_values(func: Any, args: Any) -> bool:
    if torch.Tag.dynamic_output_shape not in func.tags:
        return False
    if func is not torch.ops.aten.index.Tensor:
        return True
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


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


class Operations(TorchDispatchMode):
    """Counts tensor operations; the seconds of a capture are in proportion to them.

    >>> with Operations() as operations:
    ...     _ = torch.ones(2) + 1
    >>> operations.count
    2
    """

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class _Used(TorchDispatchMode):
    """Finds the tensors that operations take, but for those that are given and those that operations made.

    Refuses operations that make shapes of values: what is found is of use for a graph alone.
    """

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()
        self.tensors: dict[int, Tensor] = {}
        self._known = WeakTensorKeyDictionary(dict.fromkeys(given))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _has_a_shape_of_values(func, args):
            raise NotCapturable(f"the shape of a tensor depends on values: {str(func).removesuffix('.default')}")
        for one in pytree.arg_tree_leaves(*args, **(kwargs or {})):
            if isinstance(one, Tensor) and one not in self._known:
                self.tensors[id(one)] = one
        made = func(*args, **(kwargs or {}))
        for one in pytree.tree_leaves(made):
            if isinstance(one, Tensor):
                self._known[one] = None
        return made


class _WithoutHost(TorchFunctionMode):
    """Reads of numbers that a capture can do without, and the line of the others that the dispatcher does not see.

    Pyro's objectives read each loss back, and look for NaNs; for calls from its own modules `.item()` gives the tensor
    itself here. `one_hot` reads its labels to check them, which is left to the operation where the classes are counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read_at = ""  # as the end of a message

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.item, torch.Tensor.__bool__):
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if func is torch.Tensor.item and caller.startswith("pyro.infer."):
                return args[0].detach()
            if func is torch.Tensor.__bool__ and caller == "pyro.util":  # warn_if_nan
                return False
        elif func is torch.nn.functional.one_hot:
            return _one_hot(*args, **kwargs)
        elif func is torch.Tensor.__repr__:
            raise NotCapturable("it prints a tensor, which a replay would not")
        elif func in _READ_UNSEEN and not self.read_at:
            self.read_at = _innermost_line(traceback.walk_stack(sys._getframe(1)))
        return func(*args, **kwargs)


def _one_hot(input: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 1:
        return torch.nn.functional.one_hot(input, num_classes)
    return input.new_zeros(*input.shape, num_classes).scatter_(-1, input.unsqueeze(-1), 1)


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
