"""C++ kernels of our own, compiled by the compiler that Inductor has found, and kept in its cache."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

Kernel = Callable[..., None]

_listeners: list[Callable[[Kernel, tuple[Any, ...]], None]] = []


class NoKernelError(Exception):
    """It can't be compiled here."""


@functools.cache
def load(name: str, *arguments: str) -> Kernel:
    """The function `kernel` of `<name>.cpp`, of arguments of these C++ types: tensors for pointers, and integers.

    Raises:
        NoKernelError: there is no compiler, say.
    """
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        raise NoKernelError("a processor without vectors that torch knows")
    source = f"#include <torch/csrc/inductor/cpp_prefix.h>\n{_text(f'{name}.cpp')}"
    try:
        return CppPythonBindingsCodeCache.load_pybinding(list(arguments), source)
    except Exception as error:
        raise NoKernelError(" ".join(str(error).split())[:300]) from error


def _text(name: str) -> str:
    """Of a file of this folder, with those that it includes: it is compiled elsewhere."""
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return re.sub(r'#include "(.+)"', lambda found: _text(found[1]), text)


def call(kernel: Kernel, *arguments: Any) -> None:
    """Calls it, and tells those who listen."""
    kernel(*arguments)
    for listener in _listeners:
        listener(kernel, arguments)


@contextmanager
def heard_by(listener: Callable[[Kernel, tuple[Any, ...]], None]) -> Iterator[None]:
    """Inside, it hears of all calls."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
