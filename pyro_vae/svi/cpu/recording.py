"""The kernels of a compiled step on the CPU, recorded once and replayed from C++, like a CUDA graph on a GPU.

Inductor compiles a step to a Python function that allocates memory and calls some twenty kernels. Where a kernel takes
a few microseconds, most of the time is spent in that Python. So the function is run once while its kernel calls and
their addresses are recorded; the memory stays allocated, and :func:`record` returns a function that makes all calls in
a single loop.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.svi.cpu import kernels

MAX_COPIED = 1 << 20  # bytes of the result of a torch operation, which is copied into the memory of the first result
LOSSES = 256  # allocated at a time
MAX_ARGUMENTS = 96  # as in calls.cpp
Used = Sequence[tuple[Any, Sequence[Any]]]  # kernels and operations in order, with their arguments
_aten = torch.ops.aten
# Draws written in place into the memory of the first draws, where the operation would allocate a new tensor.
_DRAWS: dict[Any, Callable[..., Any]] = {
    _aten.normal_functional.default: lambda out, _, mean=0.0, std=1.0, generator=None: out.normal_(mean, std),
    _aten.randn_like.default: lambda out, *_, **__: out.normal_(),
    _aten.rand_like.default: lambda out, *_, **__: out.uniform_(),
}


class NotRecordable(Exception):  # noqa: N818 (a reason to run without a recording, not an error)
    """Why the kernels can't be recorded, in a single line."""


def record(
    run: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    written: Sequence[Tensor],
    improve: Callable[[Used], None] = lambda used: None,
) -> Callable[..., Sequence[Tensor]]:
    """A function that computes what `run` does, without the Python between its kernels.

    Args:
        run: calls code compiled by Inductor, and kernels through :func:`pyro_vae.svi.cpu.kernels.call`. All tensors
            that it uses beside its arguments must stay at their present addresses. Each call overwrites the results of
            the last, except the first result.
        inputs: its arguments. Later arguments must have the same shapes, strides and types; their addresses may differ.
        written: tensors that it may write to; their values are restored after the recording.
        improve: is called with what was recorded, and may change the content of kernels' arguments.

    Raises:
        NotRecordable: the recorded calls would not do what `run` does.
    """
    if any(tensor.device.type != "cpu" for tensor in (*inputs, *written)):
        raise NotRecordable("it is not on a CPU")
    spans = list(map(span, inputs))
    pairs = itertools.chain(itertools.combinations(spans, 2), itertools.product(spans, map(span, written)))
    if any(first[0] < second[1] and second[0] < first[1] for first, second in pairs):
        raise NotRecordable("an argument shares memory with another one, or with what is written to")
    recording = _Recording(inputs)
    with torch.no_grad(), _restored(written):
        with _restored(written), recording.listening(), recording:
            outputs = run(*inputs)
        improve(recording.used)
        replay = recording.replay(outputs)
        # Run on changed values, so that an unrecorded operation shows: its results would still be the recording's.
        for tensor in written:
            if tensor.is_floating_point():
                tensor.mul_(1.01)
        results = []
        for step in (run, replay):
            with _restored(written):
                results.append([tensor.clone() for tensor in (*step(*inputs), *written)])
    if not all(map(_same, *results)):
        raise NotRecordable("the recorded kernels give something else")
    return replay


def _same(first: Tensor, second: Tensor) -> bool:
    if not first.is_floating_point():
        return torch.equal(first, second)
    return torch.allclose(first, second, rtol=1e-5, atol=1e-7, equal_nan=True)


@contextmanager
def _restored(tensors: Sequence[Tensor]) -> Iterator[None]:
    """On exit, the values of the tensors, and the state of torch's generator, are restored."""
    before, state = [tensor.detach().clone() for tensor in tensors], torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.detach().copy_(value)


class _Recording(TorchDispatchMode):
    """Records all kernel calls, as a listener, and all torch operations, as a dispatch mode."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.thread = threading.get_ident()  # other threads may call compiled code meanwhile
        self.spans = [span(tensor) for tensor in inputs]
        self.operands: list[Tensor] = []  # of torch's operations
        self.used: list[tuple[Any, Sequence[Any]]] = []
        self.held: list[Any] = [*inputs, self.operands, self.used]  # keeps all memory allocated
        self.launch_args: list[int] = []  # the layout is that of calls.cpp
        self.addresses: list[int] = []  # positions in launch_args of the addresses of tensors
        self.operations: list[
            tuple[int, Callable[[], Any]]
        ] = []  # torch operations, and their positions in launch_args

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, calls of Inductor's kernels are reported to listeners."""
        from torch._inductor.codecache import PyCodeCache

        functions = [
            (module, name, value)
            for module in PyCodeCache.modules
            for name, value in vars(module).items()
            if isinstance(value, types.BuiltinFunctionType) and value.__name__ == "kernel"
        ]
        try:
            for module, name, value in functions:
                setattr(module, name, lambda *arguments, value=value: kernels.call(value, *arguments))
            with kernels.with_listener(self.kernel):
                yield
        finally:
            for module, name, value in functions:
                setattr(module, name, value)

    def kernel(self, kernel: Any, arguments: tuple[Any, ...]) -> None:
        if threading.get_ident() != self.thread:
            return
        if len(arguments) >= MAX_ARGUMENTS:
            raise NotRecordable(f"a kernel has {len(arguments)} arguments")
        address = ctypes.cast(ctypes.CDLL(kernel.__self__.__file__).kernel, ctypes.c_void_p).value
        self.launch_args += [address or 0, len(arguments)]
        self.used.append((kernel, arguments))
        for argument in arguments:
            if isinstance(argument, Tensor):
                self.addresses.append(len(self.launch_args))
            self.launch_args.append(argument.data_ptr() if isinstance(argument, Tensor) else int(argument))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.namespace == "pyro_vae" or func in (_aten.empty.memory_format, _aten.empty_strided.default):
            return out  # its kernels are recorded by the listener
        results = pytree.tree_leaves(out)
        tensors = [tensor for tensor in pytree.tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        self.operands += [*tensors, *results]
        in_place = all(returned.alias_info is not None for returned in func._schema.returns)
        if in_place and not func._schema.is_mutable:
            return out  # a view, which stays a view
        self.used.append((func, [*tensors, *results]))

        def copied() -> None:
            for tensor, value in zip(results, pytree.tree_leaves(func(*args, **kwargs)), strict=True):
                tensor.copy_(value)

        operation: Callable[[], Any]
        if func in _DRAWS:
            draw = _DRAWS[func]
            operation = lambda: draw(out, *args, **kwargs)  # noqa: E731
        elif any(start <= tensor.data_ptr() < end for tensor in tensors for start, end in self.spans):
            raise NotRecordable(f"{func} takes an argument of the step, whose address may differ in the next call")
        elif in_place:
            operation = lambda: func(*args, **kwargs)  # noqa: E731
        elif all(isinstance(tensor, Tensor) and tensor.nbytes <= MAX_COPIED for tensor in results):
            operation = copied
        else:
            raise NotRecordable(f"the results of {func} would have to be copied at each call")
        self.operations.append((len(self.launch_args), operation))
        return out

    def replay(self, outputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
        """A function that replays all that was recorded."""
        types = ("int64_t*", "int64_t", "int64_t", "const int64_t*", "int64_t", "const int64_t*")
        calls = kernels.load("calls", *types)
        launch_args, held = torch.tensor(self.launch_args, dtype=torch.int64), self.held
        loss, *others = outputs
        # For each argument whose address may change: its position in launch_args, the number of the input (or of the
        # loss, after the inputs), and the offset in bytes within it.
        moves_loss = self.is_of_kernels(loss)
        spans = [*self.spans, span(loss)] if moves_loss else self.spans
        moving = [
            (index, which, self.launch_args[index] - start)
            for index in self.addresses
            for which, (start, end) in enumerate(spans)
            if start <= self.launch_args[index] < end
        ]
        relocations = torch.tensor(moving, dtype=torch.int64)
        base_pointers = torch.zeros(len(self.spans) + 1, dtype=torch.int64)
        base_array = base_pointers.numpy()
        stops = [0, *(stop for stop, _ in self.operations), len(self.launch_args)]
        operations = [*(operation for _, operation in self.operations), None]
        num_relocations = [len(moving), *[0] * len(self.operations)]
        parts = list(zip(stops[:-1], stops[1:], num_relocations, operations, strict=True))
        free: list[Tensor] = []

        def replay(*inputs: Tensor) -> Sequence[Tensor]:
            if not free:
                free.extend(torch.empty(LOSSES, *loss.shape, dtype=loss.dtype).unbind())
            out = free.pop()
            for index, tensor in enumerate((*inputs, out)):
                base_array[index] = tensor.data_ptr()
            for start, stop, num, operation in parts:
                calls(launch_args, start, stop, relocations, num, base_pointers)
                if operation is not None:
                    operation()
            return out if moves_loss else out.copy_(loss), *others

        replay.held = held  # type: ignore[attr-defined]
        return replay

    def is_of_kernels(self, loss: Tensor) -> bool:
        """Whether the loss has its own memory, which only kernels use."""
        start, end = span(loss)
        alone = loss.untyped_storage().nbytes() == end - start
        by_others = any(span(operand)[0] <= start < span(operand)[1] for operand in self.operands)
        return alone and not by_others and any(self.launch_args[index] == start for index in self.addresses)


def span(tensor: Tensor) -> tuple[int, int]:
    """The addresses of the first byte of a tensor's elements, and of the end of the last."""
    start = tensor.data_ptr()
    if tensor.numel() == 0:
        return start, start
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (reach + 1) * tensor.element_size()
