"""Loads C++ kernels of this folder, compiled with Inductor's compiler and cached in its cache."""

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
    """The kernel can't be compiled on this machine."""


@functools.cache
def load(name: str, *arguments: str) -> Kernel:
    """The function `kernel` of `<name>.cpp`, with arguments of these C++ types: tensors for pointers, and integers.

    Raises:
        NoKernelError: there is no compiler, for example.
    """
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        raise NoKernelError("the processor has no vector instructions that torch supports")
    source = f"#include <torch/csrc/inductor/cpp_prefix.h>\n{_text(f'{name}.cpp')}"
    try:
        return CppPythonBindingsCodeCache.load_pybinding(list(arguments), source)
    except Exception as error:
        raise NoKernelError(" ".join(str(error).split())[:300]) from error


def _text(name: str) -> str:
    """The text of a file of this folder, with its includes inlined, because it is compiled in another folder."""
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return re.sub(r'#include "(.+)"', lambda match: _text(match[1]), text)


def call(kernel: Kernel, *arguments: Any) -> None:
    """Calls the kernel, and reports the call to the listeners."""
    kernel(*arguments)
    for listener in _listeners:
        listener(kernel, arguments)


@contextmanager
def with_listener(listener: Callable[[Kernel, tuple[Any, ...]], None]) -> Iterator[None]:
    """Inside, `listener` is told of each kernel call."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
