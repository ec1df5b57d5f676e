"""Detects changes of the Python state that a captured program reads."""

from __future__ import annotations

import itertools
import operator
import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor

from pyro_vae.svi.reach import LEAVES, MAX_ITEMS, VALUES, Location, Walk, digest, flat

MAX_STATES = 16
_states = itertools.count()


class Watched:
    """The Python state within reach of programs. A call returns a number, which differs if a value has changed.

    The walk starts at the programs, and follows what their functions mention: global and closed-over variables, default
    arguments, attributes of objects, classes and modules, and what those hold in turn. Tensors count as changed when
    they are replaced, not when they are written to. Of lists, dictionaries, sets and NumPy arrays 64 items are watched
    (the first; of arrays, evenly spaced). The code of libraries is not walked through, but the public settings of
    torch's modules and of Pyro's handlers, guides and objectives are watched.

    >>> class Program:
    ...     def __init__(self):
    ...         self.offsets = [2.0]
    ...     def __call__(self):
    ...         return self.offsets[0]
    >>> program = Program()
    >>> watched = Watched(program)
    >>> before = watched()
    >>> program.offsets[0] = 3.0
    >>> watched() == before
    False
    """

    def __init__(self, *programs: Any) -> None:
        self.programs = programs
        self.changed = "a value"  # label of the value that changed last
        self._numbers: dict[Any, int] = {}  # of the states seen so far
        self._held: list[Any] = []
        self._sizes: list[int] = []
        self._digests: list[bytes] = []
        self._labelled: dict[str, Any] = {}
        self.rescan()

    def __reduce__(self) -> Any:
        return Watched, self.programs  # a copy watches its own programs

    def __call__(self) -> int:
        held, sizes, digests = self._read()
        same_sizes = sizes == self._sizes and len(held) == len(self._held)
        if same_sizes and all(map(operator.is_, held, self._held)) and digests == self._digests:
            return self._number
        leaves = same_sizes and all(
            value is earlier or (isinstance(value, LEAVES) and isinstance(earlier, LEAVES))
            for value, earlier in zip(held, self._held, strict=True)
        )
        if leaves:
            self._held, self._digests = held, digests
            self._mark()
        else:
            self.rescan()
        return self._number

    def _read(self) -> tuple[list[Any], list[int], list[bytes]]:
        """All values, and the lengths of their containers; runs at each step, so its loops are not in Python."""
        held = list(map(dict.get, *self._of_dictionaries))
        held += map(getattr, *self._of_objects, itertools.repeat(None))
        for container in self._containers:
            held += itertools.islice(flat(container), MAX_ITEMS)
        return held, list(map(len, self._sized)), list(map(digest, self._arrays))

    def tensors(self) -> list[Tensor]:
        """All tensors within reach."""
        return [value for value in self._held if isinstance(value, Tensor)]

    @contextmanager
    def restored(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """On exit, all but the content of tensors is restored; yields the tensors, each with an alias of its memory."""
        self.rescan()
        undo = [location.keep() for location in self._locations]
        states = [(generator, _random_state(generator)) for generator in self._generators]
        memory = [(value, value.detach()) for value in self.tensors()]
        try:
            yield memory
        finally:
            for put_back in undo:
                put_back()
            for generator, state in states:
                _set_random_state(generator, state)
            for value, before in memory:
                if _address(value) != _address(before):
                    value.data = before
            self.rescan()

    def labelled(self) -> dict[str, Any]:
        """All values within reach now, by label, in a form that can be compared."""
        self.rescan()
        generators = {
            f"the state of random numbers, {_name(generator)}": pickle.dumps(_random_state(generator))
            for generator in self._generators
        }
        return {**self._labelled, **generators}

    def iterator(self) -> str | None:
        """The type of an iterator within reach, which a run would advance; None without one."""
        return next((type(value).__name__ for value in self._held if isinstance(value, Iterator)), None)

    def rescan(self) -> None:
        """Walks through the programs' reach, repeatedly until no function mentions a new name."""
        names = {"forward"}
        known = 0
        while len(names) != known:
            known = len(names)
            walk = Walk(names)
            walk.along(self.programs)
        self._locations, self._generators = walk.locations, walk.generators
        named = [(location.held, name) for location in walk.locations for name in location.names or ()]
        self._of_dictionaries = _columns([pair for pair in named if isinstance(pair[0], dict)])
        self._of_objects = _columns([pair for pair in named if not isinstance(pair[0], dict)])
        whole = [location.held for location in walk.locations if location.names is None]
        self._arrays = [holder for holder in whole if isinstance(holder, numpy.ndarray)]
        self._containers = [holder for holder in whole if not isinstance(holder, numpy.ndarray)]
        self._sized = walk.sized
        self._held, self._sizes, self._digests = self._read()
        self._mark()

    def _mark(self) -> None:
        labelled = {label: _marked(value) for label, value in _named(self._locations)}
        before = self._labelled
        self.changed = next(
            (label for label in (*labelled, *before) if labelled.get(label) != before.get(label)), self.changed
        )
        self._labelled = labelled
        if len(self._numbers) >= MAX_STATES:
            self._numbers.clear()
        self._number = self._numbers.setdefault(tuple(labelled.items()), -1)
        if self._number < 0:
            self._number = self._numbers[tuple(labelled.items())] = next(_states)


def _columns(pairs: list[tuple[Any, str]]) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    return tuple(holder for holder, _ in pairs), tuple(name for _, name in pairs)


def _named(locations: Iterable[Location]) -> Iterator[tuple[str, Any]]:
    """All values of locations, each with a label."""
    for number, location in enumerate(locations):
        names = itertools.count() if location.names is None else location.names
        for name, value in zip(names, location.values(), strict=False):
            yield f"{location.label}.{name}#{number}", value


def _marked(value: Any) -> Any:
    if isinstance(value, VALUES):
        return type(value), value
    if isinstance(value, (list, dict, deque, set, numpy.ndarray)):
        return type(value)  # its items have a location of their own
    if isinstance(value, tuple):
        return tuple(map(_marked, value))
    return _Same(value)


class _Same:
    """Equal only for the same object, which it holds, so that no other object gets its address."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _address(tensor: Tensor) -> int:
    return tensor.data_ptr() if tensor.layout is torch.strided else 0


def _name(value: Any) -> str:
    return getattr(value, "__name__", type(value).__name__)


def _random_state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, numpy.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if hasattr(generator, "getstate") else generator.get_state()


def _set_random_state(generator: Any, state: Any) -> None:
    if isinstance(generator, numpy.random.Generator):
        generator.bit_generator.state = state
    else:
        (generator.setstate if hasattr(generator, "setstate") else generator.set_state)(state)
