"""Records what programs read while they run.

TorchDynamo guards what it reads, too; `jax.jit` and Pyro's `JitTrace_ELBO` freeze it instead. Dynamo interprets each
instruction, from which Pyro's handlers keep it. So here the program runs as it is, under `sys.setprofile`, which tells
every Python function that is executed, whoever calls it: overrides that libraries call by convention, forward passes
and hooks among them. The names that an executed function loads are looked up in all that it can reach: its arguments,
its closure cells, its global variables, and their attributes and items. What was there before the run is guarded; what
it makes is no state. Methods of libraries count only where they read settings: of modules, handlers, distributions.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import os
import sys
import sysconfig
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from operator import attrgetter
from typing import Any

import numpy
import pyro
import torch
from pyro.infer import ELBO
from pyro.infer.reparam.reparam import Reparam
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.distributions.constraints import Constraint

from pyro_vae._utils import rng
from pyro_vae.svi import bytecode
from pyro_vae.svi.bytecode import Names, names_in
from pyro_vae.svi.guards import Reads
from pyro_vae.svi.places import CONTAINERS, MISSING, RANDOM, VALUES, Place, current, label_of, own_attributes, parts_of
from pyro_vae.svi.scalar_reads import NotCapturable

_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, partial)
_HAVE_SETTINGS = (nn.Module, ELBO, Messenger, Distribution, Transform, Constraint, Reparam)
_PARTS = ("_parameters", "_buffers", "_modules", "_pyro_samples", "_pyro_params")  # of modules
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = [getattr(nn.modules.module, f"_global{name}") for name in _HOOKS]
_LIBRARIES = tuple(os.path.dirname(str(library.__file__)) + os.sep for library in (torch, pyro, numpy))
_ENGINE = tuple(os.path.dirname(str(module.__file__)) + os.sep for module in (bytecode, rng))
_STANDARD = sysconfig.get_path("stdlib") + os.sep
_COPY = {id(function.__code__) for function in (copy.copy, copy.deepcopy, dataclasses.replace)}
_NO_NAMES = Names()


@contextmanager
def recorded(reads: Reads, *programs: Any) -> Iterator[None]:
    """Inside, all that functions read is added to `reads`.

    >>> class Program:
    ...     def __init__(self):
    ...         self.offsets, self.calls = [2.0], 0
    ...     def __call__(self):
    ...         self.calls += 1
    ...         return self.offsets[0]
    >>> program, reads = Program(), Reads()
    >>> with recorded(reads, program):
    ...     _ = program()
    >>> reads.settle()
    >>> program.calls = 5
    >>> reads.hold()
    True
    >>> program.offsets[0] = 3.0
    >>> reads.hold(), reads.changed
    (False, 'Program.offsets')
    """
    recorder = _Recorder(reads)
    for program in programs:
        recorder.visit(label_of(program), program, _NO_NAMES, held=True)
    profiler = sys.getprofile()
    of_c = profiler is not None and not callable(profiler)  # that of cProfile
    if of_c:
        profiler.disable()  # type: ignore[union-attr]
    sys.setprofile(recorder.on_event)
    try:
        yield
    finally:
        sys.setprofile(None if of_c else profiler)
        if of_c:
            profiler.enable()  # type: ignore[union-attr]


class _Recorder:
    def __init__(self, reads: Reads) -> None:
        self.paused = False
        self._reads = reads
        self._names: dict[int, tuple[types.CodeType, Names]] = {}  # by id, because hashing code takes long
        self._imports = 0  # that are going on, whose code is not that of the programs
        self._visited: dict[tuple[int, Names, bool], Any] = {}
        self._known: dict[int, Any] = {}  # values that something from before the run holds
        self._made: dict[int, Any] = {}  # values that the run has made
        self._functions: dict[int, dict[int, types.FunctionType]] = {}  # by their code

    def on_event(self, frame: types.FrameType, event: str, result: Any) -> None:
        if self.paused:  # rather than that the profiler is removed and set again around each operation
            return
        code = frame.f_code
        if code.co_name == "_find_and_load" and code.co_filename.startswith("<frozen"):
            self._imports += {"call": 1, "return": -1}.get(event, 0)
        if event not in ("call", "return") or self._imports or code.co_filename.startswith(_ENGINE):
            return
        if event == "return" and frame.f_back is not None:
            self._result(code.co_name, result, frame.f_back.f_code)
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if event == "call" and code.co_name == "__init__" and id(first) not in self._known:
            self._made[id(first)] = first
        if event == "call" and id(code) in _COPY and not _is_library(type(first).__module__):
            self._any_attribute(first, _NO_NAMES)
        in_library = _in_library(code.co_filename)
        if in_library and not (event == "call" and isinstance(first, _HAVE_SETTINGS)):
            return
        names = self._names_in(code)
        if in_library:
            self._library_method(first, names)
            return
        for level, name in names.imported:
            name = importlib.util.resolve_name("." * level + name, frame.f_globals.get("__package__"))
            self.visit(name, sys.modules.get(name), names, held=True)
        if {"environ", "getenv"} & (names.attributes | names.variables):
            self.visit("the environment", vars(os.environ)["_data"], _NO_NAMES, held=True)
        if "globals" in names.any_attribute:
            self._values("the global variable", frame.f_globals, names)
        self._attribute(first, code.co_name, names)  # which may be replaced
        for function in self._functions.get(id(code), {}).values() if event == "call" else ():
            self._function(function, frame.f_locals, names)
        for name in names.variables | names.written | names.added_to:
            if name in frame.f_locals:
                self.visit(name, frame.f_locals[name], names, read=name in names.variables)
            elif name in (*code.co_varnames, *code.co_cellvars):
                continue
            elif name in frame.f_globals or name in frame.f_builtins:  # which a global variable may hide later
                self._name(f"the global variable {name}", frame.f_globals, name, names, names.variables)

    def _names_in(self, code: types.CodeType) -> Names:
        if id(code) not in self._names:
            self._names[id(code)] = code, names_in(code)
        return self._names[id(code)][1]

    def _result(self, label: str, result: Any, caller: types.CodeType) -> None:
        """Adds what a function reads of what it got from another one, which it may not give a name."""
        if not (
            isinstance(result, VALUES) or _in_library(caller.co_filename) or caller.co_filename.startswith(_ENGINE)
        ):
            self.visit(label, result, self._names_in(caller))

    def _function(self, function: types.FunctionType, local: dict[str, Any], names: Names) -> None:
        """Adds the closure cells and the default arguments of a function, if it is the executed one."""
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        if all(current(cell, "cell_contents") is local.get(name, MISSING) for name, cell in cells.items()):
            for name, cell in cells.items():
                self._name(f"the variable {name}", cell, "cell_contents", names, names.variables, name)
            for name in filter(partial(getattr, function), ("__code__", "__defaults__", "__kwdefaults__")):
                self._name(f"{function.__name__}.{name}", function, name, _NO_NAMES)

    def _library_method(self, value: Any, names: Names) -> None:
        """Adds the settings that a method of a library reads."""
        for name in [*names.attributes]:
            self._of_class(type(value), name, names)
        if id(value) in self._made:
            return
        own = vars(value)
        for name in (name for name in names.attributes & own.keys() if name[0] != "_"):  # others may be caches
            of_handler = type(own[name]) is dict and isinstance(value, Messenger)  # such as the data of a condition
            if of_handler or isinstance(own[name], (*VALUES, tuple, Tensor, *_FUNCTIONS, *_HAVE_SETTINGS)):
                self._name(f"{label_of(value)}.{name}", own, name, _NO_NAMES)
        if isinstance(value, nn.Module):
            self._name(f"{label_of(value)}.forward", own, "forward", _NO_NAMES)
            for name in (*_PARTS, *_HOOKS):
                self.visit(f"{label_of(value)}.{name}", own.get(name), _NO_NAMES, held=True)
            for hooks in _GLOBAL_HOOKS:
                self.visit("hooks of all modules", hooks, _NO_NAMES, held=True)

    def visit(self, label: str, value: Any, names: Names, *, held: bool = False, read: bool = True) -> None:
        """Adds what a function with these names reads of a value that the run has not made.

        Args:
            held: something from before the run holds it. Else objects count as from before the run unless their
                `__init__` was seen, and containers and tensors as made by it.
            read: it is read, not only added to.
        """
        if type(value) in VALUES or (id(value), names, read) in self._visited:
            return
        contains = isinstance(value, (*CONTAINERS, tuple, frozenset))
        if held or id(value) in self._known:
            self._known[id(value)] = value
        elif contains or isinstance(value, (Tensor, Iterator, *RANDOM)):
            return
        self._visited[id(value), names, read] = value
        if isinstance(value, Tensor):
            self._reads.add_tensor(label, value)
        elif isinstance(value, Iterator):
            raise NotCapturable(f"it may advance an iterator, a {type(value).__name__}")
        elif isinstance(value, RANDOM):
            self._reads.add_generator(value)
        elif isinstance(value, types.FunctionType):
            self._functions.setdefault(id(value.__code__), {})[id(value)] = value
        elif isinstance(value, CONTAINERS):
            self._reads.add(Place(label, value, None), read)
        elif not (isinstance(value, type) or id(value) in self._made or _is_library(type(value).__module__)):
            self._reads.add(Place(f"the class of {label_of(value)}", value, "__class__"), read=True)
        elif isinstance(value, attrgetter) and names is not _NO_NAMES:  # of what, the next run tells
            names.attributes.update(*(path.split(".") for path in value.__reduce__()[1]))
        if not isinstance(value, types.ModuleType) or not _is_library(value.__name__):
            if "__match_args__" in names.attributes:
                names.attributes.update(getattr(type(value), "__match_args__", ()))
            for name in names.attributes | names.written | names.added_to:
                self._attribute(value, name, names)
            if names.any_attribute and not isinstance(value, (Tensor, *CONTAINERS, *_FUNCTIONS)):
                self._any_attribute(value, names)
        of_function = isinstance(value, (types.FunctionType, types.MethodType))
        for part in parts_of(value) if read else ():
            self.visit(label, part, _NO_NAMES if of_function else names, held=True)

    def _any_attribute(self, value: Any, names: Names) -> None:
        """Adds what an object, its classes, or a module have under any name."""
        if not isinstance(value, (type, types.ModuleType)):
            self.visit(label_of(value), own_attributes(value), names.without_any, held=id(value) not in self._made)
        holders = value.__mro__ if isinstance(value, type) else (value, *type(value).__mro__)
        for holder in holders:
            is_module = isinstance(holder, types.ModuleType)
            if is_module or (isinstance(holder, type) and not _is_library(holder.__module__)):
                self._values(label_of(holder), vars(holder) if is_module else holder, names)
                for slot in [name for name, of in vars(holder).items() if isinstance(of, types.MemberDescriptorType)]:
                    self._attribute(value, slot, names)

    def _values(self, label: str, holder: Any, names: Names) -> None:
        """Adds the plain values of a module or a class."""
        for name, value in list((holder if isinstance(holder, dict) else vars(holder)).items()):
            if isinstance(value, VALUES) and not name.startswith("__"):
                self._name(f"{label} {name}", holder, name, names, {name})

    def _attribute(self, value: Any, name: str, names: Names) -> None:
        """Adds an attribute where it is looked up: on the object, in its slots or its module's parts, on its class."""
        if type(value) in VALUES or name in ("__class__", "__dict__"):
            return
        if isinstance(value, Tensor):
            if name in vars(value):  # given to it by the user
                self._name(f"{label_of(value)}.{name}", vars(value), name, names)
            return
        of_class = self._of_class(type(value), name, names)
        if isinstance(value, type):
            self._of_class(value, name, names)
        if isinstance(value, type) or id(value) in self._made:
            return
        own = own_attributes(value)
        parts = [own[part] for part in _PARTS if part in own] if isinstance(value, nn.Module) else []
        holder = next((part for part in (own or {}, *parts) if name in part), None)
        if holder is None and isinstance(of_class, types.MemberDescriptorType):  # of __slots__
            holder = value
        if holder is None and (of_class is not MISSING or name in names.asked_for):
            holder = own  # where it may be set later
        if holder is not None:
            self._name(f"{label_of(value)}.{name}", holder, name, names)
        if any(holder is part for part in parts):  # which an attribute of the module itself would hide
            self._name(f"{label_of(value)}.{name}", own, name, names)

    def _of_class(self, kind: type, name: str, names: Names) -> Any:
        """Adds an attribute where it is looked up in the user's classes; returns what the class has."""
        users, found = list[type](), MISSING
        for base in kind.__mro__:
            is_library = _is_library(base.__module__)
            users += [] if is_library else [base]
            if name in vars(base) or (base is object and name in names.asked_for):
                for holder in users if name in names.asked_for or not is_library else ():
                    self._name(f"{holder.__name__}.{name}", holder, name, names)
                found = vars(base).get(name, MISSING) if found is MISSING else found
                if "super" not in names.variables:
                    break
        return found

    def _name(
        self, label: str, holder: Any, name: str, names: Names, read: set[str] | None = None, variable: str = ""
    ) -> None:
        """Adds a named value. `read` are the names of its kind that the function reads."""
        value, used = current(holder, name), variable or name
        added_to = used in names.added_to and isinstance(value, CONTAINERS)
        is_read = used in (names.attributes if read is None else read) or not (used in names.written or added_to)
        self._reads.add(Place(label, holder, name), is_read)
        if is_read or added_to:
            self.visit(label, value, names, held=True, read=is_read)


@cache
def _in_library(file: str) -> bool:
    """Whether code belongs to torch, Pyro, NumPy or the standard library; all else counts as the user's."""
    return file.startswith((*_LIBRARIES, "<frozen")) or (file.startswith(_STANDARD) and "-packages" not in file)


def _is_library(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    return module in sys.builtin_module_names if file is None else _in_library(file)
