"""Guards: a captured step is replayed only while the Python values that its programs read are the same."""

from __future__ import annotations

import itertools
import operator
import pickle
import random
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from pyro_vae.svi.places import MAX_ITEMS, MISSING, Place, current, digest, items, random_state, same

_OF_TENSORS = ("requires_grad", "_backward_hooks", "_post_accumulate_grad_hooks")


class Reads:
    """What programs read in the runs that were recorded, and the values that it had."""

    def __init__(self) -> None:
        self.changed = "a value"  # the label of what made `hold` false
        self._places: dict[tuple[int, Any], Place] = {}
        self._read: dict[tuple[int, Any], Place] = {}  # the other places are only written
        self._first: dict[tuple[int, Any], Any] = {}  # values, when they were first seen
        self._before: dict[tuple[int, Any], Any] = {}  # values, when `mark` was called
        self._tensors: dict[int, tuple[Tensor, Tensor]] = {}  # with an alias of the memory that each had at first
        self._generators: dict[int, tuple[Any, Any]] = {}  # with the state that each had at first
        for generator in (random, numpy.random):
            self.add_generator(generator)

    def add(self, place: Place, read: bool) -> None:
        """Adds a place, with its present value."""
        key = id(place.holder), place.name
        if key not in self._places:
            self._places[key], self._first[key] = place, place.copied()
        if read:
            self._read[key] = self._places[key]

    def add_tensor(self, label: str, tensor: Tensor) -> None:
        """Adds a tensor: its content may change, but not its memory in a run, `requires_grad` or its hooks."""
        if id(tensor) not in self._tensors and tensor.is_leaf:  # others hold graphs of operations
            with _disable_current_modes():
                self._tensors[id(tensor)] = tensor, tensor.detach()
            for name in _OF_TENSORS if tensor.requires_grad or isinstance(tensor, nn.Parameter) else ():
                self.add(Place(f"{name} of {label}", tensor, name), read=True)
                hooks = current(tensor, name)
                if isinstance(hooks, dict):
                    self.add(Place(f"{name} of {label}", hooks, None), read=True)

    def add_generator(self, generator: Any) -> None:
        """Adds a generator of random numbers, with its present state."""
        self._generators.setdefault(id(generator), (generator, random_state(generator)))

    def tensors(self) -> list[Tensor]:
        """The tensors that were there to be read."""
        return [tensor for tensor, _ in self._tensors.values()]

    def mark(self) -> None:
        """From now on, `changes` compares with the present values of what is new since the last call."""
        for key in self._places.keys() - self._before.keys():
            self._before[key] = self._places[key].value()

    def changes(self) -> str | None:
        """What the runs have changed although they read it, since `mark`; None if nothing."""
        if self._changed_place():
            return self._changed_place()
        if any(_address(tensor) != _address(before) for tensor, before in self._tensors.values()):
            return "the memory of a tensor"
        for generator, state in self._generators.values():
            if pickle.dumps(random_state(generator)) != pickle.dumps(state):
                return f"the state of random numbers, {getattr(generator, '__name__', type(generator).__name__)}"
        return None

    def _changed_place(self) -> str | None:
        marked = ((place, self._before[key]) for key, place in self._read.items() if key in self._before)
        return next((place.label for place, before in marked if not same(place.value(), before)), None)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """On exit, all that was recorded has the values that it had, except for the content of tensors."""
        self._first = {key: place.copied() for key, place in self._places.items()}
        self._generators = {key: (each, random_state(each)) for key, (each, _) in self._generators.items()}
        self._tensors = {key: (tensor, tensor.detach()) for key, (tensor, _) in self._tensors.items()}
        try:
            yield
        finally:
            for key, place in self._places.items():
                place.put_back(self._first[key])
            for generator, state in self._generators.values():
                random_state(generator, state)
            for tensor, before in self._tensors.values():
                if _address(tensor) != _address(before):
                    tensor.data = before
            self._first = {}

    def settle(self) -> None:
        """From now on, `hold` compares with the present values."""
        self._before.clear()
        self.mark()
        places = self._read.values()
        whole = [place.holder for place in places if place.name is None]
        self._arrays = [holder for holder in whole if isinstance(holder, numpy.ndarray)]
        self._sized = [holder for holder in whole if not isinstance(holder, numpy.ndarray)]
        self._small = [holder for holder in self._sized if isinstance(holder, dict) and len(holder) <= MAX_ITEMS]
        named = [place[1:] for place in places if place.name is not None]
        self._sampled = [holder for holder in self._sized if not isinstance(holder, dict) or len(holder) > MAX_ITEMS]
        self._columns: list[Any] = [
            (dict.get, *_columns([pair for pair in named if isinstance(pair[0], dict)])),
            (types.MappingProxyType.get, *_columns([(vars(kind), n) for kind, n in named if isinstance(kind, type)])),
            (getattr, *_columns([pair for pair in named if not isinstance(pair[0], (dict, type))])),
        ]
        self._held = self._present()

    def _present(self) -> tuple[list[Any], list[int], list[bytes]]:
        """All that was read, as it is now. Runs at each step, so its loops are not in Python."""
        values: list[Any] = []
        for get, holders, names in self._columns:
            values += map(get, holders, names, itertools.repeat(MISSING))
        values += itertools.chain(*self._small, *map(dict.values, self._small))
        values += itertools.chain.from_iterable(map(items, self._sampled))
        return values, list(map(len, self._sized)), list(map(digest, self._arrays))

    def hold(self) -> bool:
        """Whether all that was read has the values that it had at `settle`."""
        try:
            now = self._present()
        except ValueError:  # a closed-over variable that was deleted
            return False
        if now[1:] == self._held[1:] and all(map(operator.is_, now[0], self._held[0])):
            return True
        changed = self._changed_place()
        if changed is None:
            self._held = now  # other objects of the same value
        else:
            self.changed = changed
        return changed is None


def _columns(pairs: list[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return tuple(holder for holder, _ in pairs), tuple(name for _, name in pairs)


def _address(tensor: Tensor) -> int:
    return tensor.data_ptr() if tensor.layout is torch.strided else 0
