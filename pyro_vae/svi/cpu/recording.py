"""The kernels of a compiled step on the CPU, recorded once and called again from C++, as a CUDA graph does on a GPU.

What Inductor makes of a step is a Python function that allocates memory and calls a kernel, some twenty times. Between
kernels of a few microseconds that Python takes most of the time. So it is run once, while it is noted which kernels are
called with which addresses; the memory is kept, and :func:`record` gives a function that calls them all in one loop.
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

MOST_COPIED = 1 << 20  # bytes that an operation of torch's may give, which are copied to where the first result lies
LOSSES = 256  # that are given memory at once
MOST_ARGUMENTS = 96  # as in calls.cpp
Used = Sequence[tuple[Any, Sequence[Any]]]  # kernels and operations in their order, with what they are given
_aten = torch.ops.aten
# Drawn in the place of the first draws, where the operation would make a new tensor of them.
_DRAWS: dict[Any, Callable[..., Any]] = {
    _aten.normal_functional.default: lambda out, _, mean=0.0, std=1.0, generator=None: out.normal_(mean, std),
    _aten.randn_like.default: lambda out, *_, **__: out.normal_(),
    _aten.rand_like.default: lambda out, *_, **__: out.uniform_(),
}


class NotRecordable(Exception):  # noqa: N818 (a reason to go on without, not an error)
    """Why the kernels can't be recorded, in one line."""


def record(
    run: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    written: Sequence[Tensor],
    improve: Callable[[Used], None] = lambda used: None,
) -> Callable[..., Sequence[Tensor]]:
    """A function that does what `run` does, without the Python between its kernels.

    Args:
        run: calls what Inductor has compiled, and kernels by :func:`pyro_vae.svi.cpu.kernels.call`. All tensors that
            it uses beside its arguments are used where they lie now. The next call overwrites its results but the
            first.
        inputs: its arguments. Later ones are to be of the same kinds; they may lie elsewhere.
        written: what it may write to, and what is to be as before after the recording.
        improve: is given what was recorded, and may change what kernels find in their arguments.

    Raises:
        NotRecordable: it does something else.
    """
    if any(one.device.type != "cpu" for one in (*inputs, *written)):
        raise NotRecordable("it is not on a CPU")
    spans = list(map(span, inputs))
    pairs = itertools.chain(itertools.combinations(spans, 2), itertools.product(spans, map(span, written)))
    if any(one[0] < other[1] and other[0] < one[1] for one, other in pairs):
        raise NotRecordable("an argument shares memory with another one, or with what is written to")
    recording = _Recording(inputs)
    with torch.no_grad(), _put_back(written):
        with _put_back(written), recording.listening(), recording:
            outputs = run(*inputs)
        improve(recording.used)
        replay = recording.replay(outputs)
        # From other values, so that what was not recorded shows: in its place are still the results of the recording.
        for one in written:
            if one.is_floating_point():
                one.mul_(1.01)
        found = []
        for step in (run, replay):
            with _put_back(written):
                found.append([one.clone() for one in (*step(*inputs), *written)])
    if not all(map(_same, *found)):
        raise NotRecordable("the recorded kernels give something else")
    return replay


def _same(one: Tensor, other: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.allclose(one, other, rtol=1e-5, atol=1e-7, equal_nan=True)


@contextmanager
def _put_back(tensors: Sequence[Tensor]) -> Iterator[None]:
    """At the end they, and torch's random numbers, are as before."""
    before, state = [one.detach().clone() for one in tensors], torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        with torch.no_grad():
            for one, value in zip(tensors, before, strict=True):
                one.detach().copy_(value)


class _Recording(TorchDispatchMode):
    """Hears of all kernels, and as a dispatch mode sees all operations of torch's."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.thread = threading.get_ident()  # others may run compiled code of their own meanwhile
        self.spans = [span(one) for one in inputs]
        self.operands: list[Tensor] = []  # of torch's operations
        self.used: list[tuple[Any, Sequence[Any]]] = []
        self.kept: list[Any] = [*inputs, self.operands, self.used]  # so that no memory is used twice
        self.words: list[int] = []  # as calls.cpp takes them
        self.addresses: list[int] = []  # the places of those of the words that are tensors' addresses
        self.operations: list[tuple[int, Callable[[], Any]]] = []  # and after how many of the words

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, Inductor's kernels tell when they are called."""
        from torch._inductor.codecache import PyCodeCache

        found = [
            (module, name, value)
            for module in PyCodeCache.modules
            for name, value in vars(module).items()
            if isinstance(value, types.BuiltinFunctionType) and value.__name__ == "kernel"
        ]
        try:
            for module, name, value in found:
                setattr(module, name, lambda *arguments, value=value: kernels.call(value, *arguments))
            with kernels.heard_by(self.kernel):
                yield
        finally:
            for module, name, value in found:
                setattr(module, name, value)

    def kernel(self, kernel: Any, arguments: tuple[Any, ...]) -> None:
        if threading.get_ident() != self.thread:
            return
        if len(arguments) >= MOST_ARGUMENTS:
            raise NotRecordable(f"a kernel has {len(arguments)} arguments")
        address = ctypes.cast(ctypes.CDLL(kernel.__self__.__file__).kernel, ctypes.c_void_p).value
        self.words += [address or 0, len(arguments)]
        self.used.append((kernel, arguments))
        for argument in arguments:
            if isinstance(argument, Tensor):
                self.addresses.append(len(self.words))
            self.words.append(argument.data_ptr() if isinstance(argument, Tensor) else int(argument))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.namespace == "pyro_vae" or func in (_aten.empty.memory_format, _aten.empty_strided.default):
            return out  # whose kernels are heard of
        results = pytree.tree_leaves(out)
        given = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        self.operands += [*given, *results]
        in_place = all(one.alias_info is not None for one in func._schema.returns)
        if in_place and not func._schema.is_mutable:
            return out  # a view, which stays one
        self.used.append((func, [*given, *results]))

        def copied() -> None:
            for one, value in zip(results, pytree.tree_leaves(func(*args, **kwargs)), strict=True):
                one.copy_(value)

        operation: Callable[[], Any]
        if func in _DRAWS:
            draw = _DRAWS[func]
            operation = lambda: draw(out, *args, **kwargs)  # noqa: E731
        elif any(start <= one.data_ptr() < end for one in given for start, end in self.spans):
            raise NotRecordable(f"{func} takes an argument of the step, which may lie elsewhere the next time")
        elif in_place:
            operation = lambda: func(*args, **kwargs)  # noqa: E731
        elif all(isinstance(one, Tensor) and one.nbytes <= MOST_COPIED for one in results):
            operation = copied
        else:
            raise NotRecordable(f"{func} gives what would have to be copied")
        self.operations.append((len(self.words), operation))
        return out

    def replay(self, outputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
        """All that was recorded, as a function."""
        types = ("int64_t*", "int64_t", "int64_t", "const int64_t*", "int64_t", "const int64_t*")
        calls = kernels.load("calls", *types)
        words, kept = torch.tensor(self.words, dtype=torch.int64), self.kept
        loss, *others = outputs
        # Of each argument of a kernel that may lie elsewhere: the word, the input or the loss, and its place in that.
        moves_loss = self.is_of_kernels(loss)
        spans = [*self.spans, span(loss)] if moves_loss else self.spans
        moving = [
            (index, which, self.words[index] - start)
            for index in self.addresses
            for which, (start, end) in enumerate(spans)
            if start <= self.words[index] < end
        ]
        patches = torch.tensor(moving, dtype=torch.int64)
        places = torch.zeros(len(self.spans) + 1, dtype=torch.int64)
        of_places = places.numpy()
        stops = [0, *(stop for stop, _ in self.operations), len(self.words)]
        operations = [*(operation for _, operation in self.operations), None]
        num_patches = [len(moving), *[0] * len(self.operations)]
        parts = list(zip(stops[:-1], stops[1:], num_patches, operations, strict=True))
        free: list[Tensor] = []

        def replay(*given: Tensor) -> Sequence[Tensor]:
            if not free:
                free.extend(torch.empty(LOSSES, *loss.shape, dtype=loss.dtype).unbind())
            out = free.pop()
            for index, one in enumerate((*given, out)):
                of_places[index] = one.data_ptr()
            for start, stop, num, operation in parts:
                calls(words, start, stop, patches, num, places)
                if operation is not None:
                    operation()
            return out if moves_loss else out.copy_(loss), *others

        replay.kept = kept  # type: ignore[attr-defined]
        return replay

    def is_of_kernels(self, loss: Tensor) -> bool:
        """Whether it has memory of its own, and kernels use that, and nothing else."""
        start, end = span(loss)
        alone = loss.untyped_storage().nbytes() == end - start
        by_others = any(span(one)[0] <= start < span(one)[1] for one in self.operands)
        return alone and not by_others and any(self.words[index] == start for index in self.addresses)


def span(tensor: Tensor) -> tuple[int, int]:
    """Where its first number lies, and the end of its last one."""
    start = tensor.data_ptr()
    if tensor.numel() == 0:
        return start, start
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (reach + 1) * tensor.element_size()
