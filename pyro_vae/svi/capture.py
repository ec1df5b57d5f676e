"""Captures a Python function on tensors as a graph, with checks: what would go silently wrong is refused.

:func:`capture` runs the function under `make_fx`, at PyTorch's dispatcher, and returns the graph of what it computed.
A replay of the graph runs no Python, so that no decision of the Python code is made anew. Therefore the function is
also run twice on different values, and must call the same operations on the same tensors; and reading a number back
from a tensor, the only way in which Python code can depend on values, is an error. :func:`verify` then runs the graph
and the function on further values, and compares their results.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae._utils.rng import preserved_rng, seeded_rng
from pyro_vae.svi.isolation import Isolated, refusal_of
from pyro_vae.svi.operations import TensorsUsed, require_same
from pyro_vae.svi.scalar_reads import LossesStayTensors, NotCapturable, innermost_line
from pyro_vae.svi.verification import copies, difference

_aten = torch.ops.aten
_SHAPED_BY_VALUES = (_aten._pack_padded_sequence.default,)  # beside those that torch tags


@dataclass(frozen=True)
class Captured:
    """A graph that computes `function(*inputs)` from `inputs` and `live`.

    `live` are the tensors that the function uses without taking them as arguments, such as a module's buffers: they are
    read, and written in place, at each call. `written` are the positions of the inputs that it writes to. Of a program,
    `params` are its first inputs, by name, and `others` the live tensors whose gradients are the last outputs.
    """

    graph: fx.GraphModule
    live: tuple[Tensor, ...]
    written: tuple[int, ...] = ()
    params: dict[str, Tensor] = field(default_factory=dict)
    others: tuple[Tensor, ...] = ()


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
    count, runs = len(inputs), [_run(function, inputs), _run(function, others, other_noise=True)]
    first, second = (used for used, _ in runs)
    live = tuple(tensor for address, tensor in first.tensors.items() if address in second.tensors)
    refused = next(filter(None, map(refusal_of, (*inputs, *live))), "")
    if refused:
        raise NotCapturable(refused)
    isolated = runs[0][1]
    written = [position for position, tensor in enumerate((*inputs, *live)) if isolated.has_copy(tensor)]
    graph = _trace(lambda *tensors: function(*tensors[:count]), [*inputs, *live], written)
    require_same(first.calls, second.calls)
    return Captured(_clean_up(graph), live, written=tuple(position for position in written if position < count))


def verify(
    captured: Captured,
    function: Callable[..., Any],
    params: Sequence[Tensor],
    inputs: Sequence[Tensor],
    within_reach: Sequence[Tensor],
) -> None:
    """Compares the graph with its function, on the same draws, with other values of all tensors.

    This detects numbers that were read from a tensor unseen and are frozen in the graph. If the function raises on the
    other values, or a result is not finite, only the parameters are perturbed, and then nothing; what is finite then is
    compared. No tensor is written.

    Args:
        captured: of `function(*params, *inputs)`, whose first output is a loss and whose others are gradients.
        inputs: values that it was not captured with.
        within_reach: tensors that the function may use without taking them as arguments.

    Raises:
        NotCapturable: the results differ, or there are none to compare.
    """
    device = next((tensor.device for tensor in (*params, *inputs)), torch.device("cpu"))

    def results(perturbed: Sequence[Tensor], run: Callable[..., Any], *more: Tensor) -> list[Tensor | None]:
        with seeded_rng(device, seed=1), Isolated(perturbed), LossesStayTensors(), pyro.validation_enabled(False):
            return copies(run(*params, *inputs, *more))

    reason = "no result of it is finite"
    for perturbed in ([*params, *inputs, *captured.live, *within_reach], params, ()):
        try:
            expected = results(perturbed, function)
        except Exception as error:
            reason = f"it raises {type(error).__name__}"
            continue
        some = any(value is not None and value.isfinite().any() for value in expected)
        if _comparable(*expected) or (some and not perturbed):
            with torch.no_grad():
                actual = results(perturbed, captured.graph.forward, *captured.live)
            what = difference(expected, actual, tolerance=3e-5)
            if what is not None:
                raise NotCapturable(f"on other values {what}: it reads values undetected, or seeds its random numbers")
            return
    raise NotCapturable(f"its captured step can't be compared with it: on other values {reason}")


def _comparable(loss: Tensor | None, *gradients: Tensor | None) -> bool:
    """Whether all are finite; a loss beside gradients may be infinite, as those of some objectives are by design."""
    finite = all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients)
    return finite and (loss is None or bool((loss.isfinite() | (bool(gradients) & loss.isposinf())).all()))


def _run(
    function: Callable[..., Any], inputs: Sequence[Tensor], other_noise: bool = False
) -> tuple[TensorsUsed, Isolated]:
    """What the function uses, and which tensors it writes to."""
    isolated = Isolated()
    with _isolated(inputs, isolated) as devices:
        if other_noise:
            for device in devices:
                torch.rand(1, device=device)
        with TensorsUsed(inputs) as used, _FixedShapes(), LossesStayTensors(used.varies):
            used.returned(function(*inputs))
    return used, isolated


def _trace(function: Callable[..., Any], inputs: Sequence[Tensor], written: Sequence[int]) -> fx.GraphModule:
    def without_reads(*tensors: Tensor) -> Any:
        with LossesStayTensors():  # inside, because it inspects its caller, and make_fx adds a mode of its own
            return function(*tensors)

    isolated = Isolated(copied=[inputs[position] for position in written])
    # A single fake mode for the shapes of all operations; make_fx would create one for each, with a stack summary.
    with _isolated(inputs, isolated), tracing(TracingContext(FakeTensorMode())):
        return make_fx(without_reads)(*map(isolated.substitute, inputs))


@contextmanager
def _isolated(inputs: Sequence[Tensor], isolated: Isolated) -> Iterator[set[torch.device]]:
    """Inside, a function runs without side effects; if it raises, that is a reason not to capture it."""
    devices = {torch.device("cpu"), *(tensor.device for tensor in inputs)}
    with preserved_rng(devices), isolated, pyro.validation_enabled(False):
        try:
            yield devices
        except Exception as error:
            text = " ".join(str(error).split())
            if "_local_scalar_dense" in text or "data-dependent" in text.lower():
                text = "it reads a number back from a tensor, by .item(), bool() or the like"
            frames = reversed([*traceback.walk_tb(error.__traceback__)])
            raise NotCapturable(text[:300] + innermost_line(frames)) from error


def _clean_up(graph: fx.GraphModule) -> fx.GraphModule:
    """Removes `detach` and `alias`, and dead code. Unused draws stay: the generator's later draws depend on them."""
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target in (_aten.detach.default, _aten.alias.default):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif node.target is _aten.native_batch_norm.default and node.args[3] is not None:
            node.target = _aten._native_batch_norm_legit.default  # the same, with a schema that declares its writes
        elif node.target is _aten.mkldnn_rnn_layer.default:
            node.target = lstm_layer
    graph.graph.eliminate_dead_code(is_impure_node=_has_effects)
    graph.recompile()
    return graph


def lstm_layer(*arguments: Any) -> tuple[Tensor, ...]:
    """oneDNN's LSTM, which returns what its backward pass needs only while gradients are enabled, as in no replay."""
    detached = (argument.detach() if isinstance(argument, Tensor) else argument for argument in arguments)
    with torch.enable_grad():
        return _aten.mkldnn_rnn_layer.default(*detached)


def _has_effects(node: fx.Node) -> bool:
    if node.op in ("placeholder", "output"):
        return True
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    return node.target._schema.is_mutable or torch.Tag.nondeterministic_seeded in node.target.tags


class _FixedShapes(TorchDispatchMode):
    """Refuses operations whose output shapes depend on values, which a graph can't represent."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _aten.index.Tensor:
            by_values = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        else:
            by_values = torch.Tag.dynamic_output_shape in func.tags or func in _SHAPED_BY_VALUES
        if by_values:
            raise NotCapturable(f"the shape of a tensor depends on values: {str(func).removesuffix('.default')}")
        return func(*args, **(kwargs or {}))
