"""Captures a Python function on tensors as a graph, with checks: what would go silently wrong is refused.

:func:`capture` runs the function under `make_fx`, at PyTorch's dispatcher, and returns the graph of what it computed.
A replay of the graph runs no Python, so that no decision of the Python code is made anew. Therefore the function is
captured twice, on different values, and both graphs must be the same; and reading a number back from a tensor, the only
way in which Python code can depend on values, is an error. :func:`verify` then runs the graph and the function on
further values, and compares their results.
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

_ENGINE = "pyro_vae.svi."
_PROGRAM = "pyro_vae.svi.program"
_LIBRARIES = ("torch", "pyro", "numpy", "contextlib", "functools")
_READ_UNSEEN = (torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__)
_OF_ENUMERATION = "pyro.infer.traceenum_elbo"
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)
LARGEST_PERTURBED = 1_000_000  # elements; a larger tensor keeps its values in comparisons


class NotCapturable(Exception):  # noqa: N818 (a reason to run eagerly, not an error)
    """Why a function can't be captured, in a single line."""


@dataclass(frozen=True)
class Captured:
    """A graph that computes `function(*inputs)` from `inputs` and `live`.

    `live` are the tensors that the function uses without taking them as arguments, such as a module's buffers: they are
    read, and written in place, at each call.
    """

    graph: fx.GraphModule
    live: tuple[Tensor, ...]


def capture(function: Callable[..., Any], inputs: Sequence[Tensor], others: Sequence[Tensor]) -> Captured:
    """The graph of `function`, a tuple of tensors from a tuple of tensors.

    Args:
        function: what to capture. It may use tensors that are not arguments, and draw from torch's generators.
        inputs: example inputs.
        others: inputs of the same shapes with other values, which must give the same graph.

    The states of the generators, and the values of tensors that the function writes to, are restored.

    Raises:
        NotCapturable: it reads numbers back, or its operations depend on values.

    >>> offset = torch.ones(2)
    >>> captured = capture(lambda x: (x.exp() + offset,), [torch.zeros(2)], [torch.ones(2)])
    >>> captured.graph(torch.zeros(2), *captured.live)
    (tensor([2., 2.]),)
    """
    count = len(inputs)
    host = _HostReads()
    live = _live_tensors(function, inputs, host)
    first = _trace(lambda *tensors: function(*tensors[:count]), [*inputs, *live], host)
    second = _trace(lambda *tensors: function(*tensors[:count]), [*others, *live], host, other_noise=True)
    _require_same(first, second, host.read_at)
    return Captured(_clean_up(first), live)


def verify(
    captured: Captured,
    function: Callable[..., Any],
    params: Sequence[Tensor],
    inputs: Sequence[Tensor],
    within_reach: Sequence[Tensor],
) -> None:
    """Compares the graph with its function, on the same draws, after perturbing all tensors.

    This detects numbers that were read from a tensor outside the dispatcher, by `.numpy()` say, and are frozen in the
    graph. If the function raises on the perturbed values, or a result is not finite, only the parameters are perturbed,
    and then nothing. All values are restored.

    Args:
        captured: of `function(*params, *inputs)`, whose first output is a loss and whose others are gradients.
        inputs: values that it was not captured with; they are overwritten.
        within_reach: tensors that the function may use without taking them as arguments.

    Raises:
        NotCapturable: the results differ.
    """
    device = next((tensor.device for tensor in (*params, *inputs)), torch.device("cpu"))
    for perturbed in ([*params, *inputs, *captured.live, *within_reach], params, ()):
        with Restoring(), _HostReads() as host, pyro.validation_enabled(False):
            _perturb(perturbed)
            expected: Sequence[Tensor | None] = ()
            with suppress(Exception), seeded_rng(device, seed=1), Restoring():
                expected = _copies(function(*params, *inputs))  # copies, because the function may overwrite its results
            if expected and _comparable(*expected):
                with seeded_rng(device, seed=1), Restoring(), torch.no_grad():
                    actual = _copies(captured.graph(*params, *inputs, *captured.live))
                _compare(expected, actual, host.read_at)
                break


def _comparable(loss: Tensor | None, *gradients: Tensor | None) -> bool:
    """Whether all are finite; a loss beside gradients may be infinite, as those of some objectives are by design."""
    finite = all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients)
    return finite and (loss is None or bool((loss.isfinite() | (bool(gradients) & loss.isposinf())).all()))


def _copies(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if tensor is None else tensor.detach().clone() for tensor in tensors]


def _perturb(tensors: Iterable[Tensor]) -> None:
    """Changes the values slightly, in place; positive values stay positive."""
    with torch.no_grad():
        for tensor in {id(tensor): tensor for tensor in tensors}.values():
            if tensor.is_floating_point() and tensor.numel() <= LARGEST_PERTURBED:
                with suppress(RuntimeError):  # expanded tensors, whose elements share memory
                    tensor.mul_(1 + 2**-6).add_(2**-6)


def _compare(expected: Sequence[Tensor | None], actual: Sequence[Tensor | None], read_at: str) -> None:
    for number, (wanted, got) in enumerate(zip(expected, actual, strict=True)):
        if wanted is None and got is None:
            continue
        size = 0.0 if wanted is None or not wanted.numel() else float(wanted.detach().abs().nan_to_num(posinf=0).max())
        tolerance = 1e-5 + (1e-3 if number else 3e-5) * size
        if wanted is None or got is None or not _close(wanted.detach().cpu(), got.detach().cpu(), tolerance):
            what = "a gradient" if number else "its loss"
            now, frozen = ("none" if value is None else _short(value.detach()) for value in (wanted, got))
            raise NotCapturable(
                f"on other values {what} is {now}, that of the captured step {frozen}: it reads values undetected, "
                f"by .numpy() say, or seeds its random numbers{read_at}"
            )


def _close(first: Tensor, second: Tensor, tolerance: float) -> bool:
    return first.shape == second.shape and torch.allclose(
        first.double(), second.double(), rtol=0, atol=tolerance, equal_nan=True
    )


def _live_tensors(function: Callable[..., Any], inputs: Sequence[Tensor], host: _HostReads) -> tuple[Tensor, ...]:
    """The tensors that the function uses in both of two runs, and that are neither inputs nor its own results."""
    runs: list[dict[int, Tensor]] = []
    for _ in range(2):
        with _isolated(inputs), _TensorsUsed(inputs) as used, host:
            function(*inputs)
        runs.append(used.tensors)
    return tuple(tensor for address, tensor in runs[0].items() if address in runs[1])


def _trace(
    function: Callable[..., Any], inputs: Sequence[Tensor], host: _HostReads, other_noise: bool = False
) -> fx.GraphModule:
    def without_host(*tensors: Tensor) -> Any:
        with host:  # inside, because it inspects its caller, and make_fx adds a mode of its own
            return function(*tensors)

    # A single fake mode for the shapes of all operations; make_fx would create one for each, with a stack summary.
    with _isolated(inputs) as devices, tracing(TracingContext(FakeTensorMode())):
        if other_noise:
            for device in devices:
                torch.rand(1, device=device)
        return make_fx(without_host)(*inputs)


@contextmanager
def _isolated(inputs: Sequence[Tensor]) -> Iterator[set[torch.device]]:
    """Inside, a function runs without side effects; if it raises, that is a reason not to capture it."""
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
    """The innermost frame's line of the user's program, as the end of a message; empty if there is none."""
    for frame, number in frames:
        module, file = frame.f_globals.get("__name__", ""), frame.f_code.co_filename
        if module.startswith(_ENGINE) or module.split(".")[0] in _LIBRARIES or file == "<string>":  # as of a dataclass
            continue
        return f", at {file}:{number}: {linecache.getline(file, number).strip()[:120]}".rstrip(": ")
    return ""


def _require_same(first: fx.GraphModule, second: fx.GraphModule, read_at: str) -> None:
    """Raises unless both graphs have the same operations and the same constants."""
    if first.code != second.code:
        lines = zip(first.code.splitlines(), second.code.splitlines(), strict=False)
        differing = next((pair for pair in lines if pair[0] != pair[1]), ("", "further operations"))
        before, after = (line.strip()[:120] for line in differing)
        raise NotCapturable(f"it does not do the same on other values: {before!r}, then {after!r}{read_at}")
    for node in first.graph.nodes:
        if node.op == "get_attr":
            constants = [getattr(graph, str(node.target)) for graph in (first, second)]
            if isinstance(constants[0], Tensor) and not torch.equal(*constants):
                before, after = map(_short, constants)
                raise NotCapturable(f"a constant in it depends on its input values: {before}, then {after}{read_at}")


def _has_a_shape_of_values(func: Any, args: Any) -> bool:
    if torch.Tag.dynamic_output_shape not in func.tags:
        return False
    if func is not torch.ops.aten.index.Tensor:
        return True
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _short(tensor: Tensor) -> str:
    return " ".join(str(tensor.flatten()[:4].tolist()).split())[:80]


def _clean_up(graph: fx.GraphModule) -> fx.GraphModule:
    """Removes `detach` and `alias`, and dead code. Unused draws stay: the generator's later draws depend on them."""
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif node.target is torch.ops.aten.native_batch_norm.default and node.args[3] is not None:
            node.target = (
                torch.ops.aten._native_batch_norm_legit.default
            )  # the same operation, with a schema that declares what it writes
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
    """On exit, tensors that were written to in place get their values back."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        running_statistics = func is torch.ops.aten.native_batch_norm.default  # whose schema doesn't declare its writes
        if func._schema.is_mutable or running_statistics:
            arguments = {
                **dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)),
                **(kwargs or {}),
            }
            for argument in func._schema.arguments:
                written = argument.alias_info is not None and argument.alias_info.is_write
                written |= running_statistics and argument.name.startswith("running")
                value = arguments.get(argument.name) if written else None
                for tensor in value if isinstance(value, list | tuple) else (value,):
                    if isinstance(tensor, Tensor) and id(tensor) not in self.before:
                        with _disable_current_modes():  # so that the copy is not captured
                            self.before[id(tensor)] = (tensor, tensor.clone())
        return func(*args, **(kwargs or {}))

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        with torch.no_grad():
            for value, before in reversed(self.before.values()):  # reversed, as a tensor may be a view of another
                # The function's own tensors may have another shape by now, or be expanded.
                with suppress(RuntimeError):
                    if value.shape == before.shape:
                        value.detach().copy_(before)
        self.before.clear()


class Operations(TorchDispatchMode):
    """Counts tensor operations; the time of a capture is proportional to their number.

    >>> with Operations() as operations:
    ...     _ = torch.ones(2) + 1
    >>> operations.count
    2
    """

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class _TensorsUsed(TorchDispatchMode):
    """Collects the tensors that operations use, except the inputs and the results of other operations.

    Refuses operations whose output shapes depend on values, which a graph can't represent.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.tensors: dict[int, Tensor] = {}
        self._known = WeakTensorKeyDictionary(dict.fromkeys(inputs))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _has_a_shape_of_values(func, args):
            raise NotCapturable(f"the shape of a tensor depends on values: {str(func).removesuffix('.default')}")
        for leaf in pytree.arg_tree_leaves(*args, **(kwargs or {})):
            if isinstance(leaf, Tensor) and leaf not in self._known:
                self.tensors[id(leaf)] = leaf
        results = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(results):
            if isinstance(leaf, Tensor):
                self._known[leaf] = None
        return results


class _HostReads(TorchFunctionMode):
    """Avoids needless reads of numbers from tensors, and notes the line of reads that the dispatcher doesn't see.

    Objectives read each loss back, and test for NaN; called from their code, `.item()` returns the tensor itself here.
    `one_hot` reads its labels to check them, which is skipped where `num_classes` is given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read_at = ""  # the line, as the end of a message

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.item, torch.Tensor.__bool__):
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if func is torch.Tensor.item and (caller.startswith("pyro.infer.") or _in_objective(sys._getframe(1))):
                return args[0].detach()
            if func is torch.Tensor.__bool__ and caller == "pyro.util":  # warn_if_nan
                return False
            if func is torch.Tensor.__bool__ and caller == "torch.distributions.distribution":  # are values in range?
                return True  # asked by distributions that were made while validation was on
            if func is torch.Tensor.__bool__ and caller == "pyro.infer.util":  # Dice: are all probabilities above 0?
                return False  # then it selects the others, and here they are set to 0 instead
            if func is torch.Tensor.__bool__ and caller == "pyro.distributions.stable":  # is a stability near 1?
                return True  # then it interpolates there alone
        elif func in (torch.Tensor.masked_select, torch.Tensor.nonzero):
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if func is torch.Tensor.masked_select and caller == "pyro.infer.util":
                return torch.where(args[1], args[0], 0.0)
            if func is torch.Tensor.nonzero and caller == "pyro.infer.energy_distance":  # all pairs of particles
                return torch.tril_indices(len(args[0]), len(args[0]), -1, device=args[0].device).T
        elif func is torch.Tensor.__getitem__:
            return _item(*args)
        elif func is torch.Tensor.register_hook and sys._getframe(3).f_globals.get("__name__") == "pyro.util":
            return None  # warn_if_nan for a gradient; the frames between are of torch's own Python code
        elif func is torch.nn.functional.one_hot:
            return _one_hot(*args, **kwargs)
        elif func is torch.Tensor.__float__ and sys._getframe(1).f_globals.get("__name__") == _OF_ENUMERATION:
            return 0.0  # the scales of enumerated sites, which the first call has compared
        elif func is torch.Tensor.__repr__:
            raise NotCapturable("it prints a tensor, which a replay would not")
        elif func in _READ_UNSEEN and not self.read_at:
            self.read_at = _innermost_line(traceback.walk_stack(sys._getframe(1)))
        return func(*args, **kwargs)


def _in_objective(frame: types.FrameType | None) -> bool:
    """Whether this is code of an objective, and not of a model or guide, which an objective runs inside handlers."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module == _PROGRAM or module.startswith("pyro.poutine."):
            return module == _PROGRAM
        frame = frame.f_back
    return False


def _item(tensor: Tensor, index: Any) -> Tensor:
    """`tensor[index]`, where torch would read back an integer in a tensor without dimensions."""
    parts = index if isinstance(index, tuple) else (index,)
    integers = [isinstance(part, Tensor) and not part.dim() and part.dtype in _INTEGERS for part in parts]
    others = [part for part, integer in zip(parts, integers, strict=True) if not integer]
    if len(others) == len(parts) or not all(type(part) in (int, slice) for part in others):
        return tensor[index]
    sliced = tensor[tuple(slice(None) if integer else part for part, integer in zip(parts, integers, strict=True))]
    indices = [None if isinstance(part, slice) else part for part in parts if type(part) is not int]
    return torch.ops.aten.index.Tensor(sliced, indices)


def _one_hot(input: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 1:
        return torch.nn.functional.one_hot(input, num_classes)
    return input.new_zeros(*input.shape, num_classes).scatter_(-1, input.unsqueeze(-1), 1)


@contextmanager
def gradients_set_aside(params: Sequence[Tensor]) -> Iterator[None]:
    """Inside, no parameter has a gradient; on exit, each gets back its own."""
    before = [param.grad for param in params]
    for param in params:
        param.grad = None
    try:
        yield
    finally:
        for param, grad in zip(params, before, strict=True):
            param.grad = grad


@contextmanager
def param_store_restored() -> Iterator[dict[str, Tensor]]:
    """Yields the content of Pyro's param store by name, and restores it on exit."""
    store = pyro.get_param_store()
    parts: tuple[dict[Any, Any], ...] = (store._params, store._constraints, store._param_to_name)
    before = [dict(part) for part in parts]
    try:
        yield before[0]
    finally:
        for part, content in zip(parts, before, strict=True):
            part.clear()
            part.update(content)
