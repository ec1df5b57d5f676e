"""What a captured step depends on in its arguments: their structure, the metadata of tensors, and plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pyro_vae.svi.places import PLAIN

FLOATS_BEFORE_LIVE = 3
_NOT_GUARDED = (numpy.ndarray, numpy.generic, Iterator, torch.Generator)
try:
    hash(pytree.tree_structure(((), {})))
    _TREES_HAVE_A_HASH = True
except TypeError:  # torch 2.6
    _TREES_HAVE_A_HASH = False


class Arguments:
    """The arguments of a call as leaves of a pytree, of which tensors become inputs of a captured step.

    >>> Arguments((torch.zeros(3), 2), {}).metadata()[1:3] == (metadata_of(torch.ones(3)), metadata_of(2))
    True
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.leaves, self.tree = pytree.tree_flatten((args, kwargs))

    def not_capturable(self) -> str:
        """Why no step can be captured with these arguments; empty if it can."""
        for leaf in self.leaves:
            if isinstance(leaf, _NOT_GUARDED):
                return f"an argument is a {type(leaf).__name__}, whose content is not guarded"
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in self.leaves):
            return "an argument requires gradients"
        return ""

    def tensors(self) -> list[Tensor]:
        """The inputs of a captured step."""
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]

    def with_tensors(self, tensors: Iterable[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with these tensors in the place of their own."""
        others = iter(tensors)
        leaves = [next(others) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        return pytree.tree_unflatten(leaves, self.tree)

    def metadata(self) -> tuple[Any, ...]:
        """The structure, and what a captured step depends on in each leaf."""
        return self.tree if _TREES_HAVE_A_HASH else str(self.tree), *map(metadata_of, self.leaves)


class ChangingFloats:
    """The float arguments of which several values were seen: they become tensors, so that none is part of a signature.

    >>> floats = ChangingFloats()
    >>> for value in (0.1, 0.2, 0.3, 0.4):
    ...     arguments = Arguments((value,), {})
    ...     floats.to_tensors(arguments)
    >>> arguments.leaves
    [tensor(0.4000)]
    """

    def __init__(self) -> None:
        self._values: dict[int, set[float]] = {}  # by the index of the leaf

    @property
    def some_keep_changing(self) -> bool:
        """Whether there is such an argument."""
        return any(len(values) > FLOATS_BEFORE_LIVE for values in self._values.values())

    def to_tensors(self, arguments: Arguments) -> None:
        """Notes the floats among the leaves, and replaces those that keep changing."""
        like = number_like(arguments.leaves)
        for index, leaf in enumerate(arguments.leaves):
            if isinstance(leaf, float):
                values = self._values.setdefault(index, set())
                if len(values) <= FLOATS_BEFORE_LIVE:
                    values.add(leaf)
                if len(values) > FLOATS_BEFORE_LIVE:
                    arguments.leaves[index] = torch.tensor(leaf, **like)


def metadata_of(leaf: Any) -> Any:
    """What a captured step depends on in an argument: a tensor's shape, strides and types; any other value itself."""
    if isinstance(leaf, Tensor):
        views = leaf.is_conj(), leaf.is_neg()
        return type(leaf), leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad, *views
    return (type(leaf), leaf) if isinstance(leaf, PLAIN) else _Same(leaf)


class _Same:
    """Equal only for the same object, which it holds, so that no other object gets its address.

    What the programs read of an argument is guarded like all other Python state.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def number_like(leaves: Sequence[Any]) -> dict[str, Any]:
    """Dtype and device for a number beside these arguments: float64 only beside float64, which some devices lack."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    types = {torch.get_default_dtype(), *(tensor.dtype for tensor in tensors)}
    dtype = torch.float64 if torch.float64 in types else torch.float32
    return {"dtype": dtype, "device": tensors[0].device if tensors else None}
