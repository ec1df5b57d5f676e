"""Places of Python values: how one is looked up, compared, copied and put back."""

from __future__ import annotations

import array
import functools
import gc
import itertools
import random
import types
import weakref
from collections import ChainMap, UserDict, UserList, deque
from typing import Any, NamedTuple

import numpy
import torch

PLAIN = (bool, int, float, str, type(None))
VALUES = (*PLAIN, complex, bytes, torch.dtype, torch.device, torch.Size)
MAX_ITEMS = 64  # of a larger container, the first ones are compared; of a list or an array, evenly spaced ones
_SLICED = (list, array.array, bytearray)
CONTAINERS = (*_SLICED, dict, set, deque, numpy.ndarray)
ADDING = {"append", "appendleft", "extend", "add", "update", "insert"}  # methods of containers that read nothing
RANDOM = (torch.Generator, numpy.random.Generator, numpy.random.RandomState, random.Random)
MISSING: Any = object()
_WRAPPERS = (
    *(types.MethodType, property, staticmethod, classmethod, memoryview, ChainMap, UserDict, UserList),
    *(functools.cached_property, functools.partial, functools.singledispatchmethod),
    *(weakref.WeakKeyDictionary, weakref.WeakValueDictionary),
)
_VIEWS: tuple[type, ...] = (types.MappingProxyType, type({}.keys()), type({}.values()), type({}.items()))


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
        if self.name is None:
            return self.holder[:] if isinstance(self.holder, _SLICED) else self.holder.copy()
        return self.value()

    def put_back(self, before: Any) -> None:
        """Makes an earlier value the current one."""
        holder, name = self.holder, self.name
        if same(self.value(), items(before) if name is None else before):
            return
        if isinstance(holder, numpy.ndarray) and name is None:
            numpy.copyto(holder, before)
        elif name is None and isinstance(holder, _SLICED):
            holder[:] = before
        elif name is None:
            holder.clear()
            (holder.update if isinstance(holder, (dict, set)) else holder.extend)(before)
        elif isinstance(holder, dict):
            holder.pop(name) if before is MISSING else holder.__setitem__(name, before)
        else:
            delattr(holder, name) if before is MISSING else setattr(holder, name, before)


def label_of(value: Any) -> str:
    named = isinstance(value, (type, types.FunctionType, types.ModuleType))
    return value.__name__ if named else type(value).__name__


def own_attributes(value: Any) -> Any:
    """The attributes of an object itself; None where it has slots only."""
    try:
        return object.__getattribute__(value, "__dict__")  # not by a `__getattr__` of its class
    except AttributeError:
        return None


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
        names = ("__self__", "__func__", "fget", "func", "args", "keywords", "maps", "data", "obj", "dispatcher")
        return [getattr(value, name) for name in names if hasattr(value, name)]
    if isinstance(value, _VIEWS):
        return [part for part in gc.get_referents(value) if "__module__" not in part]  # which classes have
    if isinstance(value, weakref.ref):
        return [value()]
    if isinstance(value, types.BuiltinMethodType):  # `table.get`, not `records.append`
        return [value.__self__] if isinstance(value.__self__, CONTAINERS) and value.__name__ not in ADDING else []
    if isinstance(value, numpy.ndarray):
        return list(value.flat[:MAX_ITEMS]) if value.dtype == object else []
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, set, deque, tuple, frozenset)):
        return []
    return list(itertools.islice(value, MAX_ITEMS))


def items(container: Any) -> list[Any]:
    """The compared items of a container."""
    if isinstance(container, numpy.ndarray):
        return [digest(container)]
    if isinstance(container, _SLICED):
        return [*container[:: max(1, len(container) // MAX_ITEMS)], *container[-1:], len(container)]
    keys = itertools.islice(container, MAX_ITEMS)
    return [*keys, *(parts_of(container) if isinstance(container, dict) else ()), len(container)]


def digest(array: numpy.ndarray) -> bytes:
    return array.flat[:: max(1, array.size // MAX_ITEMS)].tobytes()


def same(now: Any, before: Any) -> bool:
    """Whether it is the same object, or plain values that are equal; -0.0 is not 0.0."""
    if now is before or type(now) is not type(before):
        return now is before
    if isinstance(now, (list, tuple)):
        return len(now) == len(before) and all(map(same, now, before))
    return isinstance(now, VALUES) and now == before and (now != 0 or repr(now) == repr(before))


def random_state(generator: Any, *state: Any) -> Any:
    """The state of a generator of random numbers; if another is passed, that is set."""
    if isinstance(generator, numpy.random.Generator):
        return setattr(generator.bit_generator, "state", *state) if state else generator.bit_generator.state
    name = ("set" if state else "get") + ("state" if hasattr(generator, "getstate") else "_state")
    return getattr(generator, name)(*state)
