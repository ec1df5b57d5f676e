"""Backends that run a captured graph: as it is, compiled by Inductor, or recorded as a CUDA graph."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae._utils.rng import preserved_rng, seed_generators
from pyro_vae.svi.capture import lstm_layer
from pyro_vae.svi.cpu import kernels
from pyro_vae.svi.cpu.kernels import NotCompilable
from pyro_vae.svi.cpu.products import with_products
from pyro_vae.svi.cpu.recording import NotRecordable
from pyro_vae.svi.cpu.rows import with_rows
from pyro_vae.svi.isolation import Isolated

BACKENDS = ("off", "capture", "inductor", "cudagraph")
NO_BFLOAT16 = "precision='bf16': this processor has no instructions for bfloat16, so that products stay in float32"

Run = Callable[..., Sequence[Tensor]]

_PRODUCTS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten.convolution.default,
    torch.ops.aten.convolution_backward.default,
}
_CAST = torch.ops.aten._to_copy.default
_TO_HALF: dict[str, Any] = {"dtype": torch.bfloat16}
_TRANSPOSES = {torch.ops.aten.t.default, torch.ops.aten.transpose.int, torch.ops.aten.permute.default}


def inductor(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Run:
    """The graph compiled to machine code. Random draws are still torch's own, so they do not change.

    Raises:
        NotCompilable: there is no compiler on this machine, or it fails.
    """
    if any(node.target is lstm_layer for node in graph.graph.nodes):
        raise NotCompilable("it has an LSTM of oneDNN")
    try:
        # The compiler's warnings, of TF32 and of its own deprecations, do not concern the program, and must not fail
        # where warnings are errors.
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kernels.without_probes(lambda: _compiled(with_rows(copy.deepcopy(graph)), inputs))
    except Exception as error:
        raise NotCompilable(" ".join(str(error).split())[:300]) from error


def _compiled(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Run:
    import torch._inductor as compiler

    graph = with_products(graph, inputs)
    # The number of threads is part of the code, and only of newer versions' key of Inductor's cache.
    options = {"fallback_random": True, "cpp.threads": torch.get_num_threads()}
    if not _have_own_memory(inputs):  # on which the code depends, but not the key of Inductor's cache
        return compiler.compile(graph, list(inputs), options=options)
    fake = FakeTensorMode(shape_env=ShapeEnv())  # without a ShapeEnv Inductor caches no graph
    with tracing(TracingContext(fake)):
        of_shapes: list[Any] = [fake.from_tensor(tensor, static_shapes=True) for tensor in inputs]
        return compiler.compile(graph, of_shapes, options=options)


def _have_own_memory(tensors: Sequence[Tensor]) -> bool:
    if any(tensor.layout is not torch.strided for tensor in tensors):
        return False
    return len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)


def on_same_draws(
    graph: fx.GraphModule, compiled: Run, arguments: Sequence[Tensor]
) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]] | None:
    """The results of a graph, and of the code compiled from it; None where that draws by other operations.

    A draw depends on the operation and its shape alone here, so that the same draws in another order, or in another
    memory format, have the same values. No argument is written to.
    """
    with preserved_rng(tensor.device for tensor in arguments), torch.no_grad():
        with Isolated() as isolated, _Draws() as of_graph:
            expected = graph.forward(*arguments)
        copies = Isolated(copied=[tensor for tensor in arguments if isolated.has_copy(tensor)])
        with _Draws() as of_compiled:
            results = compiled(*map(copies.substitute, arguments))
    return (expected, results) if sorted(of_graph.made) == sorted(of_compiled.made) else None


class _Draws(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        ordered = pytree.tree_map_only(Tensor, lambda tensor: tensor.clone(memory_format=torch.contiguous_format), args)
        outputs = func(*args, **kwargs)
        tensors = [output for output in pytree.tree_leaves(outputs) if isinstance(output, Tensor)]
        seed_generators(tensors[0].device, seed=0)
        drawn = [output for output in pytree.tree_leaves(func(*ordered, **kwargs)) if isinstance(output, Tensor)]
        for tensor, value in zip(tensors, drawn, strict=True):
            tensor.copy_(value)
        name = func._schema.name.removesuffix("_").removesuffix("_functional")  # in place, and as Inductor calls it
        self.made.append(f"{name} {[tensor.shape for tensor in tensors]}")
        return outputs


def cuda_graph(run: Run, inputs: Sequence[Tensor], written: Sequence[Tensor]) -> Run:
    """The kernels of `run`, recorded once as a CUDA graph and launched together.

    Args:
        run: what to record. All tensors that it uses beside its arguments must stay at their present addresses.
        inputs: its arguments, which are copied into static buffers at each call.
        written: tensors that it may write to; their values are restored after the recording.

    Raises:
        NotRecordable: it waits for the device, or does something else that CUDA can't record. All values are restored.
    """
    static = [tensor.clone() for tensor in inputs]
    device = next((tensor.device for tensor in (*static, *written) if tensor.is_cuda), torch.device("cuda"))
    before = [tensor.detach().clone() for tensor in written]
    generator = torch.cuda.get_rng_state(device)
    try:
        with torch.cuda.device(device), torch.no_grad():
            graph, outputs = _record(run, static)
    except RuntimeError as error:
        raise NotRecordable(" ".join(str(error).split())[:300]) from error
    finally:
        torch.cuda.set_rng_state(generator, device)
        with torch.no_grad():
            for tensor, value in zip(written, before, strict=True):
                tensor.detach().copy_(value)

    def replay(*arguments: Tensor) -> Sequence[Tensor]:
        for buffer, value in zip(static, arguments, strict=True):
            buffer.copy_(value)
        graph.replay()
        return outputs[0].clone(), *outputs[1:]  # the loss outlives the next replay

    return replay


def _record(run: Run, static: Sequence[Tensor]) -> tuple[torch.cuda.CUDAGraph, Sequence[Tensor]]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # warm-up, in which libraries initialize
            run(*static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run(*static)
    return graph, outputs


def processor_multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for it; else products in bfloat16 take ten times as long as in float32."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def lacks_bfloat16(graph: fx.GraphModule) -> bool:
    """Whether the graph has products in float32 on a processor that does not multiply bfloat16."""
    products = (node for node in graph.graph.nodes if node.target in _PRODUCTS)
    factors = (factor.meta["val"] for product in products for factor in product.all_input_nodes)
    on_cpu = any(factor.dtype == torch.float32 and factor.device.type == "cpu" for factor in factors)
    return on_cpu and not processor_multiplies_bfloat16()


def in_bfloat16(graph: fx.GraphModule) -> fx.GraphModule:
    """A copy whose matrix products and convolutions take bfloat16 and return float32; all else is unchanged.

    The graph itself where the processor does not multiply bfloat16.
    """
    if lacks_bfloat16(graph):
        return graph
    copied = copy.deepcopy(graph)
    halves: dict[fx.Node, fx.Node] = {}

    def half(value: Any) -> Any:
        if not isinstance(value, fx.Node) or value.meta["val"].dtype != torch.float32:
            return value
        if value not in halves:
            target, of, options = _CAST, (value,), _TO_HALF
            if value.target in _TRANSPOSES:  # round before transposing, so that other uses share the rounding
                target, of, options = value.target, (half(value.args[0]), *value.args[1:]), {}
            with copied.graph.inserting_after(value):
                halves[value] = copied.graph.create_node("call_function", target, of, options)
                halves[value].meta["val"] = value.meta["val"].bfloat16()
        return halves[value]

    for node in list(copied.graph.nodes):
        if node.target not in _PRODUCTS:
            continue
        users, halved = list(node.users), tuple(half(argument) for argument in node.args)
        if halved == node.args:  # in float64
            continue
        node.args = halved
        if node.target is torch.ops.aten.convolution_backward.default:
            for user in users:  # each selects an output
                _single(copied, user)
        else:
            _single(copied, node)
    copied.recompile()
    return copied


def lift_bfloat16_copies(graph: fx.GraphModule, num_params: int) -> tuple[fx.GraphModule, list[int]]:
    """A copy that also takes bfloat16 copies of parameters, as its last arguments; and the indices of these parameters.

    Args:
        graph: takes the parameters first.
    """
    copied = copy.deepcopy(graph)
    arguments = [node for node in copied.graph.nodes if node.op == "placeholder"]
    positions, last = [], arguments[-1]
    for position, param in enumerate(arguments[:num_params]):
        halves = [user for user in param.users if user.target is _CAST and user.kwargs == _TO_HALF]
        if halves and param.meta["val"].dim() > 1:  # vectors are no factors of products
            with copied.graph.inserting_after(last):
                last = copied.graph.placeholder(f"half_{position}")
            last.meta["val"] = halves[0].meta["val"]
            for half in halves:
                half.replace_all_uses_with(last)
                copied.graph.erase_node(half)
            positions.append(position)
    copied.recompile()
    return copied, positions


def _single(graph: fx.GraphModule, node: fx.Node) -> None:
    users = list(node.users)
    with graph.graph.inserting_after(node):
        single = graph.graph.call_function(_CAST, (node,), {"dtype": torch.float32})
        single.meta = dict(node.meta)
    for user in users:
        user.replace_input_with(node, single)
