"""What a captured program might decide by, though it is not given it: plain values within reach, and which tensors."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

PLAIN = (bool, int, float, str, type(None))
_LEAVES = (*PLAIN, Tensor)
_FOREIGN = ("builtins", "pyro", "torch", "numpy")


def watch(*programs: Any) -> Callable[[], tuple[Any, ...]]:
    """A reader of all that `programs` reach: its answer changes when a value does, or a tensor is replaced.

    It sees attributes of objects and modules (`training` among them), closed-over and global variables of functions,
    and what these hold in turn. It does not look into lists, dictionaries and libraries.

    >>> class Program:
    ...     scale = 1.0
    ...     def __init__(self):
    ...         self.offset = 2.0
    ...     def __call__(self):
    ...         return self.offset
    >>> program = Program()
    >>> read = watch(program)
    >>> before = read()
    >>> program.offset = 3.0
    >>> read() == before
    False
    """
    readers: list[Callable[[], Any]] = []
    seen: set[int] = set()
    waiting = list(programs)
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            waiting += value.children()
        for read in _variables(value):
            held = read()
            if isinstance(held, _LEAVES):
                readers.append(read)
            elif not isinstance(held, type | types.ModuleType):
                waiting.append(held)
    return lambda: tuple([_mark(read()) for read in readers])


def _variables(value: Any) -> list[Callable[[], Any]]:
    """Readers of the variables that a function, a method or an object has."""
    if isinstance(value, types.MethodType):
        return [partial(getattr, value, name) for name in ("__self__", "__func__")]
    if isinstance(value, types.FunctionType):
        cells = [partial(getattr, cell, "cell_contents", None) for cell in value.__closure__ or ()]
        scope = value.__globals__
        return cells + [partial(scope.get, name) for name in value.__code__.co_names if name in scope]
    if isinstance(value, nn.Module):
        own = {name: held for name, held in vars(value).items() if not name.startswith("_")}
        buffers = [partial(value._buffers.get, name) for name in value._buffers]
        return buffers + [partial(vars(value).get, name) for name in own]
    if isinstance(value, partial):
        return [partial(getattr, value, "func")]
    if type(value).__module__.split(".")[0] in _FOREIGN and not type(value).__module__.startswith("pyro.infer"):
        return []
    return [partial(vars(value).get, name) for name in getattr(value, "__dict__", {})]


def _mark(value: Any) -> Any:
    return value if isinstance(value, PLAIN) else id(value)
