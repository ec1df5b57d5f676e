"""The operations that a function calls, as PyTorch's dispatcher sees them, and whether two runs call the same."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.weak import WeakTensorKeyDictionary

from pyro_vae.svi.isolation import memory_of, unrecorded, written_by
from pyro_vae.svi.scalar_reads import NotCapturable

_aten = torch.ops.aten
Call = list[Any]  # the name of an operation, the structure of its arguments, and the arguments


class _Made(NamedTuple):
    """Where a tensor is from: the number of the call that it is a result of, -1 for an input, and its number there."""

    call: int
    number: int
    varies: bool

    def __str__(self) -> str:
        return "a tensor"


class TensorsUsed(TorchDispatchMode):
    """Collects the operations, and the tensors that they use, except the inputs and the results of other operations."""

    def __init__(self, inputs: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.tensors: dict[int, Tensor] = {}
        self.calls: list[Call] = []
        self._made = WeakTensorKeyDictionary()  # the inputs and results
        for number, tensor in enumerate(inputs):
            self._made[tensor] = _Made(-1, number, varies=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call, varies = self._before(func, args, kwargs or {})
        results = func(*args, **(kwargs or {}))
        self._after(func, args, kwargs or {}, varies, results)
        self.calls.append(call)
        return results

    @unrecorded
    def _before(self, func: Any, args: Any, kwargs: Any) -> tuple[Call, bool]:
        """The call, and whether its results may vary."""
        leaves, structure = pytree.tree_flatten((args, kwargs))
        used = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self.tensors.update({id(tensor): tensor for tensor in used if tensor not in self._made})
        arguments = [self._origin(leaf) for leaf in leaves]
        if func is _aten.lift_fresh.default:  # a constant, which may be written to later
            with _disable_current_modes():
                arguments = [used[0].detach().clone()]
        random = torch.Tag.nondeterministic_seeded in func.tags
        varies = func is not _aten.lift_fresh.default and (random or any(map(self.varies, used)))
        return [str(func), structure, *arguments], varies

    @unrecorded
    def _after(self, func: Any, args: Any, kwargs: Any, varies: bool, results: Any) -> None:
        for number, leaf in enumerate(pytree.tree_leaves(results)):
            if isinstance(leaf, Tensor):
                self._made[leaf] = _Made(len(self.calls), number, varies or self.varies(leaf, False))
        for tensor in written_by(func, args, kwargs) if varies else ():
            self._vary(memory_of(tensor))

    def returned(self, results: Any) -> None:
        """Adds what the function returns."""
        self.calls.append(["return", None, *map(self._origin, pytree.tree_leaves(results))])

    def _origin(self, leaf: Any) -> Any:
        return self._made.get(leaf, leaf) if isinstance(leaf, Tensor) else leaf

    def _vary(self, memory: Any) -> None:
        """All views of a memory that was written to vary."""
        for tensor, made in list(self._made.items()) if memory is not None else ():
            if not made.varies and memory_of(tensor) == memory:
                self._made[tensor] = made._replace(varies=True)

    def varies(self, tensor: Tensor, from_outside: bool = True) -> bool:
        """Whether the values of a tensor may differ in a later run: it is not made of constants."""
        made = self._made.get(tensor)
        return from_outside if made is None else made.varies


def require_same(first: Sequence[Call], second: Sequence[Call]) -> None:
    """Raises unless both runs called the same operations, on the same results, constants and other arguments."""
    for before, after in itertools.zip_longest(first, second, fillvalue=["no operation", None]):
        if len(before) != len(after) or not all(map(_same, before, after)):
            raise NotCapturable(f"it does not do the same on other values: {_text(before)}, then {_text(after)}")


def _same(before: Any, after: Any) -> bool:
    if before is after or type(before) is not type(after):
        return before is after
    if isinstance(before, Tensor):
        alike = before.dtype == after.dtype and before.shape == after.shape
        return alike and (torch.equal(before, after) or torch.allclose(before, after, rtol=0, atol=0, equal_nan=True))
    return repr(before) == repr(after)


def _text(call: Call) -> str:
    operation, _, *arguments = call
    values = [_short(each) if isinstance(each, Tensor) else f"{each}" for each in arguments]
    return f"{operation} of {', '.join(values)}"[:120] if values else operation


def _short(tensor: Tensor) -> str:
    return " ".join(str(tensor.flatten()[:4].tolist()).split())[:80]
