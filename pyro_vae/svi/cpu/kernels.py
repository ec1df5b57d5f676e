"""Loads C++ kernels of this folder, compiled with Inductor's compiler and cached in its cache.

A compiled kernel runs with all rights of its user, so it is loaded only from files and folders that nobody else can
write to, and only if it is whole: the SHA-256 of each is written beside it once it is compiled. A file that was cut off
would end the process.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pyro_vae._utils import files

Kernel = Callable[..., None]

_listeners: list[Callable[[Kernel, tuple[Any, ...]], None]] = []


class NotCompilable(Exception):  # noqa: N818 (a reason to do without, not an error)
    """Why a kernel or a graph can't be compiled on this machine, in a single line."""


@functools.cache
def load(name: str, *arguments: str, prefix: str = "") -> Kernel:
    """The function `kernel` of `<name>.cpp`, with arguments of these C++ types: tensors for pointers, and integers.

    Args:
        prefix: put before the text of the file, a macro that it uses for example.

    Raises:
        NotCompilable: there is no compiler, for example.
    """
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        raise NotCompilable("the processor has no vector instructions that torch supports")
    source = f"#include <torch/csrc/inductor/cpp_prefix.h>\n{prefix}{_text(f'{name}.cpp')}"
    try:
        return without_probes(lambda: _compiled(list(arguments), source))
    except Exception as error:
        raise NotCompilable(" ".join(str(error).split())[:300]) from error


def without_probes(compile: Callable[[], Any]) -> Any:
    """What `compile` returns, which calls Inductor's compiler: without its test programs for vector instructions.

    Inductor compiles and runs some for each instruction set of the processor, which takes as long as the kernels of a
    small step. Where the compiler does not know the instructions, `compile` fails, and is called again with the tests.
    """
    from torch._inductor import config, cpu_vec_isa

    if config.cpp.vec_isa_ok is not None:
        return compile()
    trusted = cpu_vec_isa.valid_vec_isa_list
    trusted.cache_clear()
    try:
        with config.patch({"cpp.vec_isa_ok": True}):
            return compile()
    except Exception:
        trusted.cache_clear()
        return compile()
    finally:
        trusted.cache_clear()  # what others compile is tested


def _compiled(arguments: list[str], source: str) -> Kernel:
    from torch._inductor.codecache import CppPythonBindingsCodeCache
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    from torch.utils._filelock import FileLock

    class Checked(CppPythonBindingsCodeCache):
        cache: dict[str, Any] = {}  # noqa: RUF012 (as its base class declares it)

        @classmethod
        def _load_library_inner(cls, path: str, key: str) -> Any:
            require_private(Path(path), folder)
            require_whole(Path(path), started)
            return super()._load_library_inner(path, key)

    folder, started = Path(cache_dir()), time.time()
    require_private(folder, folder)
    with FileLock(folder / "pyro_vae.lock"):  # processes that start together compile each kernel once
        try:
            return Checked.load_pybinding(arguments, source)
        except DamagedError as error:
            Path(str(error)).unlink()
            started = time.time()
            return Checked.load_pybinding(arguments, source)


class DamagedError(Exception):
    """A compiled file, at this path, was cut off or changed, or whoever compiled it was interrupted."""


def require_private(path: Path, folder: Path) -> None:
    """Raises PermissionError if another user can write to `path`, or to a folder that contains it, up to `folder`."""
    if not hasattr(os, "geteuid"):
        return
    for entry in (path, *path.parents):
        status = entry.lstat()
        by_others = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid())
        if status.st_uid not in (0, os.geteuid()) or by_others or entry.is_symlink():
            raise PermissionError(f"another user can write to {entry}, from which compiled code would be loaded")
        if entry == folder:
            return


def require_whole(path: Path, started: float) -> None:
    """Raises :class:`DamagedError` unless a compiled file is as it was when its compilation ended.

    Args:
        started: since when this process alone may have compiled it, in seconds of `time.time`.
    """
    digest, noted = hashlib.sha256(path.read_bytes()).hexdigest(), path.with_suffix(".sha256")
    if path.stat().st_mtime >= started:
        files.write(noted, digest)
    elif not noted.is_file() or noted.read_text(encoding="utf-8") != digest:
        raise DamagedError(str(path))


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
