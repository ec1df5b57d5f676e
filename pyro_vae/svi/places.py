"""Places of Python values: how one is looked up, compared, copied and put back."""

from __future__ import annotations

import functools
import itertools
import random
import types
from collections import deque
from typing import Any, NamedTuple

import numpy
import torch

PLAIN = (bool, int, float, str, type(None))
VALUES = (*PLAIN, complex, bytes, torch.dtype, torch.device, torch.Size)
MAX_ITEMS = 64  # of a larger container, the first ones are compared; of a list or an array, evenly spaced ones
CONTAINERS = (list, dict, set, deque, numpy.ndarray)
RANDOM = (torch.Generator, numpy.random.Generator, numpy.random.RandomState, random.Random)
MISSING: Any = object()
_WRAPPERS = (types.MethodType, property, staticmethod, classmethod, functools.cached_property, functools.partial)


class Place(NamedTuple):
    """Where a value is read: a name of a dictionary, a class or an object; without a name, the items of a container."""

    label: str
    holder: Any
    name: Any

    def value(self) -> Any:
        """The current value."""
        return items(self.holder) if self.name is None else current(self.holder, self.name)

    def copied(self) -> Any:
        """The current value, for :meth:`put_back`."""
        return self.holder.copy() if self.name is None else self.value()

    def put_back(self, before: Any) -> None:
        """Makes an earlier value the current one."""
        holder, name = self.holder, self.name
        if same(self.value(), items(before) if name is None else before):
            return
        if isinstance(holder, numpy.ndarray) and name is None:
            numpy.copyto(holder, before)
        elif name is None:
            holder.clear()
            (holder.update if isinstance(holder, (dict, set)) else holder.extend)(before)
        elif isinstance(holder, dict):
            holder.pop(name) if before is MISSING else holder.__setitem__(name, before)
        else:
            delattr(holder, name) if before is MISSING else setattr(holder, name, before)


def current(holder: Any, name: Any) -> Any:
    if isinstance(holder, (dict, type)):
        return (holder if isinstance(holder, dict) else vars(holder)).get(name, MISSING)
    try:
        return getattr(holder, name, MISSING)
    except ValueError:  # an empty cell
        return MISSING


def parts_of(value: Any) -> list[Any]:
    """What is reached through a function or a container."""
    if isinstance(value, types.FunctionType):
        return [current(cell, "cell_contents") for cell in value.__closure__ or ()]
    if isinstance(value, _WRAPPERS):
        names = ("__self__", "__func__", "fget", "func", "args", "keywords")
        return [getattr(value, name) for name in names if hasattr(value, name)]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, set, deque, tuple, frozenset)):
        return []
    return list(itertools.islice(value, MAX_ITEMS))


def items(container: Any) -> list[Any]:
    """The compared items of a container."""
    if isinstance(container, numpy.ndarray):
        return [digest(container)]
    if isinstance(container, list):
        return [*container[:: max(1, len(container) // MAX_ITEMS)], *container[-1:], len(container)]
    keys = itertools.islice(container, MAX_ITEMS)
    return [*keys, *(parts_of(container) if isinstance(container, dict) else ()), len(container)]


def digest(array: numpy.ndarray) -> bytes:
    return array.flat[:: max(1, array.size // MAX_ITEMS)].tobytes()


def same(now: Any, before: Any) -> bool:
    """Whether it is the same object, or plain values that are equal."""
    if now is before or type(now) is not type(before):
        return now is before
    if isinstance(now, (list, tuple)):
        return len(now) == len(before) and all(map(same, now, before))
    return isinstance(now, VALUES) and now == before


def random_state(generator: Any, *state: Any) -> Any:
    """The state of a generator of random numbers; if another is passed, that is set."""
    if isinstance(generator, numpy.random.Generator):
        return setattr(generator.bit_generator, "state", *state) if state else generator.bit_generator.state
    name = ("set" if state else "get") + ("state" if hasattr(generator, "getstate") else "_state")
    return getattr(generator, name)(*state)
