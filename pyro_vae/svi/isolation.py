"""Runs of a program that leave the tensors of its user as they were: values, memory and version counters."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

import pyro
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

Function = TypeVar("Function", bound=Callable[..., Any])
LARGEST_PERTURBED = 1_000_000  # elements; a larger tensor keeps its values in comparisons


def unrecorded(function: Function) -> Function:
    """The function, during which a recorder is paused: what a mode does itself is none of the program's."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        recorder = getattr(sys.getprofile(), "__self__", None)
        if not hasattr(recorder, "paused"):
            return function(*args, **kwargs)
        recorder.paused = True  # type: ignore[union-attr]
        try:
            return function(*args, **kwargs)
        finally:
            recorder.paused = False  # type: ignore[union-attr]

    return cast(Function, run)


class Isolated(TorchDispatchMode):
    """Inside, no operation writes to a tensor from outside: it writes to a copy, which all operations read thereafter.

    Copies are of a tensor's whole storage, so that views of it, and other tensors that share its memory, see what was
    written. Nothing is put back on exit, because nothing of the user's was changed: memory may be read-only, shared
    with other processes, or saved by autograd for a later backward.

    Args:
        perturbed: tensors from outside whose copies differ slightly from them; positive values stay positive.
        copied: tensors from outside that are copied at once. With these, no others may be written to: that is an error.

    >>> x = torch.ones(2)
    >>> with Isolated([x]):
    ...     _ = x.sub_(1)
    ...     y = x[:1] + 0
    >>> x, y
    (tensor([1., 1.]), tensor([0.0312]))
    """

    def __init__(self, perturbed: Iterable[Tensor] = (), copied: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self._copies: dict[Any, tuple[Any, Any]] = {}  # by key, the storage, or the sparse tensor, and its copy
        self._substitutes: dict[int, tuple[Tensor, Tensor]] = {}  # by id, a tensor, and the same view of the copy
        self._made_inside: set[Any] = set()  # keys of storages
        self._versions: dict[int, tuple[Tensor, Any]] = {}
        self._complete = False
        with torch.no_grad():
            for tensor in {id(tensor): tensor for tensor in perturbed}.values():
                if (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel() <= LARGEST_PERTURBED:
                    self._perturb(tensor)
            for tensor in copied or ():
                self._copy(tensor)
                self.substitute(tensor)
        self._complete = copied is not None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs, originals = self._before(func, args, kwargs or {})
        return self._after(func, args, kwargs, originals, func(*args, **kwargs))

    @unrecorded
    def _before(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, dict[int, tuple[Tensor, Any]]]:
        """The arguments that an operation gets; and those that they take the place of, with their layout."""
        for tensor in written_by(func, args, kwargs):
            self._copy(tensor)
        originals: dict[int, tuple[Tensor, Any]] = {}

        def substituted(tensor: Tensor) -> Tensor:
            substitute = self.substitute(tensor)
            if substitute is not tensor:
                originals[id(substitute)] = tensor, _layout(substitute)
            return substitute

        if self._copies:
            args, kwargs = pytree.tree_map_only(Tensor, substituted, (args, kwargs))
        return args, kwargs, originals

    @unrecorded
    def _after(self, func: Any, args: Any, kwargs: Any, originals: dict[int, tuple[Tensor, Any]], results: Any) -> Any:
        """The results, with the user's own tensors in the place of their substitutes."""
        arguments = _tensors((args, kwargs))
        if any(id(tensor) in originals and _layout(tensor) != originals[id(tensor)][1] for tensor in arguments):
            raise RuntimeError(f"it changes the shape or the memory of a tensor in place: {func}")
        keys = {*map(memory_of, arguments)}
        if func is torch.ops.aten.lift_fresh.default and args[0].untyped_storage().resizable():
            keys = set()  # made from numbers, rather than on the memory of a NumPy array
        if None not in keys:  # else a result may share the memory of an argument
            self._made_inside |= {key for key in map(memory_of, _tensors(results)) if key and key not in keys}
        if not originals:
            return results  # an operation in place returns its argument, which may have a substitute
        return pytree.tree_map_only(Tensor, lambda tensor: originals.get(id(tensor), (tensor,))[0], results)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for _, preserved in self._versions.values():  # autograd counts a write to the tensor itself
            preserved.__exit__(None, None, None)

    def has_copy(self, tensor: Tensor) -> bool:
        """Whether this tensor from outside was written to, or shares its memory with one that was."""
        return memory_of(tensor) in self._copies or id(tensor) in self._copies

    def substitute(self, tensor: Tensor) -> Tensor:
        """What operations see instead of a tensor: the same view of the copy of its storage, if there is a copy."""
        if id(tensor) not in self._substitutes:
            if not self.has_copy(tensor):
                return tensor
            key, substitute = memory_of(tensor), self._copies.get(id(tensor), (None, tensor))[1]
            if key is not None:
                self._require(not self._complete)
                layout = tensor.storage_offset(), tensor.size(), tensor.stride()
                substitute = tensor.data.set_(self._copies[key][1], *layout)
            self._substitutes[id(tensor)] = tensor, substitute
        return self._substitutes[id(tensor)][1]

    def _copy(self, tensor: Tensor) -> None:
        """Makes a copy of the storage of a tensor from outside, unless there is one."""
        key = memory_of(tensor)
        if key in self._made_inside:
            return
        if id(tensor) not in self._versions and not tensor.is_inference():
            self._versions[id(tensor)] = tensor, torch.autograd._unsafe_preserve_version_counter(tensor)
        if self.has_copy(tensor) or (key is None and tensor.layout is not torch.sparse_coo):
            return
        self._require(not self._complete)
        if key is not None:
            storage = tensor.untyped_storage()
            copy = storage.clone()
            self._copies[key] = storage, copy
            self._made_inside.add((copy.data_ptr(), copy.nbytes()))
        else:
            self._copies[id(tensor)] = tensor, tensor.detach().clone()

    def _require(self, known: bool) -> None:
        if not known:
            raise RuntimeError("it writes to memory that it takes into new tensors, of a NumPy array say")

    def _perturb(self, tensor: Tensor) -> None:
        self._copy(tensor)
        copy = self.substitute(tensor)
        if copy is tensor:
            return
        if copy.layout is torch.strided:  # the elements of an expanded tensor share memory
            copy = copy[tuple(slice(None if stride else 1) for stride in copy.stride())]
        with suppress(RuntimeError, NotImplementedError):  # adding to a sparse tensor, or to overlapping windows
            copy.mul_(1 + 2**-6).add_(2**-6)


def refusal_of(tensor: Tensor) -> str:
    """Why a program that uses this tensor is not captured; empty if it may be."""
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"it uses a tensor of the class {type(tensor).__name__}"
    for kind in ("nested", "quantized", "meta"):
        if getattr(tensor, f"is_{kind}"):
            return f"it uses a {kind} tensor"
    if tensor.layout not in (torch.strided, torch.sparse_coo):
        return f"it uses a {tensor.layout} tensor"
    if tensor.is_conj() or tensor.is_neg():
        return "it uses a tensor whose conjugate or sign has not been resolved"
    return ""


def written_by(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors among the arguments that an operation writes to."""
    of_batch_norm = "batch_norm" in func.__name__  # whose schema does not always declare the writes
    if not func._schema.is_mutable and not of_batch_norm:
        return []
    names = (argument.name for argument in func._schema.arguments)
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    written = [
        arguments.get(argument.name)
        for argument in func._schema.arguments
        if (argument.alias_info is not None and argument.alias_info.is_write)
        or (of_batch_norm and argument.name.startswith("running"))
    ]
    return _tensors(written)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def memory_of(tensor: Tensor) -> tuple[int, int] | None:
    """The address and the size of a tensor's storage; None for tensors without elements or an ordinary storage."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided or tensor.is_nested:
        return None
    storage = tensor.untyped_storage()
    return (storage.data_ptr(), storage.nbytes()) if storage.data_ptr() else None


def _layout(tensor: Tensor) -> Any:
    ordinary = tensor.layout is torch.strided
    return ordinary and (tensor.size(), tensor.stride(), tensor.storage_offset(), memory_of(tensor))


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
