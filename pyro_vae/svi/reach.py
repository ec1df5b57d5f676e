"""Python state that a model or guide can read; changing it invalidates the capture."""

from __future__ import annotations

import argparse
import functools
import itertools
import operator
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, str, type(None))
MAX_ITEMS = 64  # that are watched of a list, a dictionary, a set or an array
MAX_LOCATIONS = 1000
VALUES = (*PLAIN, complex, bytes, torch.dtype, torch.device, torch.Size)
LEAVES = (*VALUES, Tensor)
_CHANGING = (dict, list, deque, set)
_ITEMS = (list, deque, set, tuple, frozenset)
_RANDOM = (torch.Generator, numpy.random.Generator, numpy.random.RandomState, random.Random)
_NAMESPACES = (types.SimpleNamespace, argparse.Namespace)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_OF_MODULES = set(vars(nn.Module())) - {"training"}
_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, partial)


@dataclass(frozen=True)
class Location:
    """A holder of values that is watched: a namespace and some of its names, or a container."""

    label: str
    held: Any  # a dictionary, a list, a set, an array, a class, or an object with slots
    names: tuple[str, ...] | None  # the watched names of a dictionary or an object; None: all items

    def values(self) -> list[Any]:
        """The current values."""
        if self.names is not None:
            read = self.held.get if isinstance(self.held, dict) else partial(getattr, self.held)
            return [read(name, None) for name in self.names]
        if isinstance(self.held, numpy.ndarray):
            return [digest(self.held)]
        return list(itertools.islice(flat(self.held), MAX_ITEMS))

    def keep(self) -> Callable[[], None]:
        """Copies the current values, and returns a function that puts them back."""
        if self.names is not None:
            read = self.held.get if isinstance(self.held, dict) else partial(getattr, self.held)
            before = {name: read(name, _MISSING) for name in self.names}
            return partial(_put_back_names, self.held, before)
        return partial(_put_back_items, self.held, self.held.copy())


_MISSING = object()


def _put_back_names(held: Any, before: dict[str, Any]) -> None:
    for name, value in before.items():
        now = held.get(name, _MISSING) if isinstance(held, dict) else getattr(held, name, _MISSING)
        if now is value:
            continue
        if isinstance(held, dict):
            held.pop(name, None) if value is _MISSING else held.update({name: value})
        else:
            delattr(held, name) if value is _MISSING else setattr(held, name, value)


def _put_back_items(held: Any, before: Any) -> None:
    if isinstance(held, numpy.ndarray):
        numpy.copyto(held, before)
    elif len(held) != len(before) or not all(map(operator.is_, flat(held), flat(before))):
        held.clear()
        (held.update if isinstance(held, (dict, set)) else held.extend)(before)


def flat(held: Any) -> Iterable[Any]:
    return held.values() if isinstance(held, dict) else held


class Walk:
    """A walk through all Python state within reach of programs, by the names that their functions mention."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.mentioned = frozenset(names)
        self.locations: list[Location] = []
        self.sized: list[Any] = []  # containers whose change of length calls for a new walk
        self.generators: list[Any] = [random, numpy.random]
        self._seen: set[int] = set()
        self._waiting: list[tuple[str, Any]] = []

    def along(self, programs: Iterable[Any]) -> None:
        self._waiting += [(getattr(program, "__name__", type(program).__name__), program) for program in programs]
        while self._waiting and len(self.locations) < MAX_LOCATIONS:
            label, value = self._waiting.pop()
            if id(value) not in self._seen and not isinstance(value, LEAVES):
                self._seen.add(id(value))
                self._visit(label, value)

    def _visit(self, label: str, value: Any) -> None:
        if isinstance(value, _RANDOM):
            self.generators.append(value)
        elif isinstance(value, types.MethodType):
            self._waiting += [(label, value.__func__), (type(value.__self__).__name__, value.__self__)]
        elif isinstance(value, types.FunctionType):
            self._function(label, value)
        elif isinstance(value, partial):
            self._waiting += [(label, part) for part in (value.func, *value.args, *value.keywords.values())]
        elif isinstance(value, property | staticmethod | classmethod | functools.cached_property):
            accessors = ("fget", "__func__", "func")
            self._waiting += [(label, getattr(value, name)) for name in accessors if hasattr(value, name)]
        elif isinstance(value, numpy.ndarray):
            self.locations.append(Location(label, value, None))
        elif isinstance(value, (dict, *_ITEMS)):
            self._container(label, value)
        elif isinstance(value, nn.Module):
            self._module(type(value).__name__, value)
        elif isinstance(value, types.ModuleType):
            if not _is_library(value.__name__):
                self._names(label, vars(value), self.mentioned)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, _NAMESPACES) or not _is_library(type(value).__module__):
            self._object(label if isinstance(value, _NAMESPACES) else type(value).__name__, value)
        elif type(value).__module__.startswith(("pyro.infer", "pyro.poutine")):
            self._settings(type(value).__name__, value)

    def _names(self, label: str, held: Any, names: Iterable[str]) -> None:
        """Watches the named data of a holder; functions and classes are walked through, but not watched."""
        data_names = []
        for name in sorted(names):
            value = held.get(name, _MISSING) if isinstance(held, dict) else getattr(held, name, _MISSING)
            if value is _MISSING:
                continue
            self._waiting.append((f"{label}.{name}", value))
            if not isinstance(value, (*_FUNCTIONS, type, types.ModuleType)):
                data_names.append(name)
        if data_names:
            self.locations.append(Location(label, held, tuple(data_names)))

    def _function(self, label: str, value: types.FunctionType) -> None:
        if _is_library(value.__module__ or ""):
            self._waiting += [(label, attribute) for attribute in vars(value).values()]
            return
        mentioned = _mentioned(value.__code__)
        self.names |= mentioned
        self._names("the global variable", value.__globals__, mentioned & value.__globals__.keys())
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            self._names(f"the variable {name} of {value.__name__}", cell, ["cell_contents"])
        if value.__defaults__ or value.__kwdefaults__:
            self._names(value.__name__, value, ["__defaults__", "__kwdefaults__"])
        self._waiting += [(label, attribute) for attribute in vars(value).values()]

    def _container(self, label: str, value: Any) -> None:
        items = value.values() if isinstance(value, dict) else value
        self._waiting += [(label, item) for item in itertools.islice(items, MAX_ITEMS)]
        if not isinstance(value, (tuple, frozenset)):
            self.locations.append(Location(label, value, None))
            self.sized.append(value)

    def _module(self, label: str, value: nn.Module) -> None:
        own = set(vars(value)) - _OF_MODULES
        if _is_library(type(value).__module__):
            settings = {name for name in own if name[0] != "_" and isinstance(vars(value)[name], LEAVES)}
            self._names(label, vars(value), settings & _used_by_forward(type(value)))  # type: ignore[arg-type]
            if type(value).__module__.startswith("pyro.infer"):
                attributes = [vars(value)[name] for name in sorted(own)]
                self._waiting += [(label, value) for value in attributes if not isinstance(value, _CHANGING)]
        else:
            self._names(label, vars(value), self._read(own))
            self.sized.append(vars(value))
        for name in ("_parameters", "_buffers", "_modules", "_pyro_samples"):
            held = vars(value).get(name)
            if held:
                self._names(label, held, held)
                self.sized.append(held)
        for name in _HOOKS:
            self._container(f"{label}.{name}", vars(value)[name])
        frozen = [param for param in value._parameters.values() if param is not None and not param.requires_grad]
        self.locations += [Location(f"{label}'s parameter", param, ("requires_grad",)) for param in frozen]
        self._waiting.append((label, type(value)))

    def _class(self, value: type) -> None:
        for base in value.__mro__:
            if not _is_library(base.__module__):
                methods = {name for name, held in vars(base).items() if isinstance(held, _FUNCTIONS)}
                special = {name for name in methods if name.startswith("__")}
                described = {name: vars(base)[name] for name in (self.mentioned | special) & vars(base).keys()}
                self._waiting += [(f"{base.__name__}.{name}", held) for name, held in described.items()]
                self._names(base.__name__, base, {name for name, held in described.items() if _is_data(held)})

    def _object(self, label: str, value: Any) -> None:
        if hasattr(value, "__dict__"):
            self._names(label, vars(value), self._read(set(vars(value))))
            self.sized.append(vars(value))
        slots = {name for base in type(value).__mro__ for name in vars(base).get("__slots__", ())}
        self._names(label, value, self.mentioned & slots)
        self._waiting.append((label, type(value)))

    def _read(self, own: set[str]) -> set[str]:
        """Those of an object's attributes that functions mention; all, if they mention `__dict__` or `vars`."""
        return own if self.mentioned & {"__dict__", "vars"} else own & self.mentioned

    def _settings(self, label: str, value: Any) -> None:
        """Watches the plain attributes of Pyro's own objects; a run changes their other attributes."""
        held = getattr(value, "__dict__", {})
        self._names(label, held, {name for name, attribute in held.items() if isinstance(attribute, LEAVES)})
        of_handler = type(value).__module__.startswith("pyro.poutine")  # such as the data of a condition
        self._waiting += [
            (f"{label}.{name}", attribute)
            for name, attribute in held.items()
            if not isinstance(attribute, _CHANGING) or (of_handler and isinstance(attribute, dict))
        ]


@functools.cache
def _used_by_forward(kind: type) -> set[str]:
    """The names in the methods of a library's module, except its constructor and `extra_repr`."""
    used: set[str] = set()
    for base in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        if base.__module__ != "pyro.nn.module":
            for name, method in vars(base).items():
                if isinstance(method, types.FunctionType) and name not in ("__init__", "extra_repr"):
                    used |= _mentioned(method.__code__)
    return used


def _mentioned(code: types.CodeType) -> set[str]:
    """The names of variables and attributes in a function and its inner functions, and strings, for `getattr`."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _mentioned(constant)
        elif isinstance(constant, str) and constant.isidentifier():
            names.add(constant)
    return names


@functools.cache
def _is_library(module: str) -> bool:
    """Whether a module belongs to a library, not to the user's own code."""
    package = module.split(".")[0]
    if package in ("torch", "pyro", "numpy") or package in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    return package != "pyro_vae" and ("site-packages" in file or "dist-packages" in file)


def _is_data(value: Any) -> bool:
    """Whether reading a class attribute gives this very object; a descriptor may give another each time."""
    return not isinstance(value, (*_FUNCTIONS, type)) and not hasattr(type(value), "__get__")


def digest(array: numpy.ndarray) -> bytes:
    return (array if array.size <= MAX_ITEMS else array.flat[:: array.size // MAX_ITEMS]).tobytes()
