"""Whether what a captured program reaches is as it was."""

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

from pyro_vae.svi.reach import LEAVES, MOST_ITEMS, VALUES, Place, Walk, digest, flat

MOST_STATES = 16
_states = itertools.count()


class Watched:
    """All that programs reach; called, it gives a number that is another when a value is, or a tensor is replaced.

    It starts at the programs, and follows what their functions mention: global and closed-over variables, default
    arguments, attributes of objects, classes and modules, and what those hold in turn. Of lists, dictionaries, sets and
    NumPy arrays it sees the first 64 items (of arrays 64, evenly spaced). It does not look into the code of libraries,
    except that it sees the public settings of torch's modules and of Pyro's handlers, guides and objectives.

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
        self.changed = "a value"  # what was another than before, the last time that something was
        self._numbers: dict[Any, int] = {}  # of the states seen
        self._held: list[Any] = []
        self._sizes: list[int] = []
        self._digests: list[bytes] = []
        self._labelled: dict[str, Any] = {}
        self.look()

    def __reduce__(self) -> Any:
        return Watched, self.programs  # a copy looks at its own programs

    def __call__(self) -> int:
        held, sizes, digests = self._read()
        same_sizes = sizes == self._sizes and len(held) == len(self._held)
        if same_sizes and all(map(operator.is_, held, self._held)) and digests == self._digests:
            return self._number
        leaves = same_sizes and all(
            one is other or (isinstance(one, LEAVES) and isinstance(other, LEAVES))
            for one, other in zip(held, self._held, strict=True)
        )
        if leaves:
            self._held, self._digests = held, digests
            self._mark()
        else:
            self.look()
        return self._number

    def _read(self) -> tuple[list[Any], list[int], list[bytes]]:
        """All values, and the lengths of what holds them; at each step, so there is no Python in its loops."""
        held = list(map(dict.get, *self._of_dictionaries))
        held += map(getattr, *self._of_objects, itertools.repeat(None))
        for container in self._containers:
            held += itertools.islice(flat(container), MOST_ITEMS)
        return held, list(map(len, self._sized)), list(map(digest, self._arrays))

    def tensors(self) -> list[Tensor]:
        """All within reach."""
        return [value for value in self._held if isinstance(value, Tensor)]

    @contextmanager
    def kept(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """At the end all but what is in tensors is as it was; inside, the tensors, and views of all of each."""
        self.look()
        put_back = [place.keep() for place in self._places]
        states = [(generator, _random_state(generator)) for generator in self._generators]
        memory = [(value, value.detach()) for value in self.tensors()]
        try:
            yield memory
        finally:
            for one in put_back:
                one()
            for generator, state in states:
                _set_random_state(generator, state)
            for value, before in memory:
                if _address(value) != _address(before):
                    value.data = before
            self.look()

    def labelled(self) -> dict[str, Any]:
        """What is within reach now, each value with its name, in a form that can be compared."""
        self.look()
        generators = {
            f"the state of random numbers, {_name(one)}": pickle.dumps(_random_state(one)) for one in self._generators
        }
        return {**self._labelled, **generators}

    def iterator(self) -> str | None:
        """One within reach, which a run would use up."""
        return next((type(value).__name__ for value in self._held if isinstance(value, Iterator)), None)

    def look(self) -> None:
        """Finds the places, over again until no function mentions a further name."""
        names = {"forward"}
        known = 0
        while len(names) != known:
            known = len(names)
            walk = Walk(names)
            walk.along(self.programs)
        self._places, self._generators = walk.places, walk.generators
        named = [(place.held, name) for place in walk.places for name in place.names or ()]
        self._of_dictionaries = _columns([one for one in named if isinstance(one[0], dict)])
        self._of_objects = _columns([one for one in named if not isinstance(one[0], dict)])
        whole = [place.held for place in walk.places if place.names is None]
        self._arrays = [one for one in whole if isinstance(one, numpy.ndarray)]
        self._containers = [one for one in whole if not isinstance(one, numpy.ndarray)]
        self._sized = walk.sized
        self._held, self._sizes, self._digests = self._read()
        self._mark()

    def _mark(self) -> None:
        labelled = {label: _marked(value) for label, value in _named(self._places)}
        before = self._labelled
        self.changed = next(
            (label for label in (*labelled, *before) if labelled.get(label) != before.get(label)), self.changed
        )
        self._labelled = labelled
        if len(self._numbers) >= MOST_STATES:
            self._numbers.clear()
        self._number = self._numbers.setdefault(tuple(labelled.items()), -1)
        if self._number < 0:
            self._number = self._numbers[tuple(labelled.items())] = next(_states)


def _columns(pairs: list[tuple[Any, str]]) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    return tuple(one for one, _ in pairs), tuple(name for _, name in pairs)


def _named(places: Iterable[Place]) -> Iterator[tuple[str, Any]]:
    """All values of places, each with its name."""
    for number, place in enumerate(places):
        names = itertools.count() if place.names is None else place.names
        for name, value in zip(names, place.values(), strict=False):
            yield f"{place.label}.{name}#{number}", value


def _marked(value: Any) -> Any:
    if isinstance(value, VALUES):
        return type(value), value
    if isinstance(value, (list, dict, deque, set, numpy.ndarray)):
        return type(value)  # what it holds is at a place of its own
    if isinstance(value, tuple):
        return tuple(map(_marked, value))
    return _Same(value)


class _Same:
    """Equal to the same object alone, which it holds, so that no other gets its address."""

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
