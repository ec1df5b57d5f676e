"""Atomic writes: a file is written under a temporary name and then renamed, so that it is either whole or absent."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from pyro_vae._utils import checks


def cache_folder() -> Path:
    """The folder of data sets and trained classifiers: `$PYRO_VAE_CACHE`, else this user's cache folder."""
    return Path(os.environ.get("PYRO_VAE_CACHE") or platformdirs.user_cache_dir("pyro_vae", appauthor=False))


def write(path: str | os.PathLike[str], content: bytes | str | Callable[[Path], object]) -> Path:
    """Writes `content` to `path` atomically.

    `content` is bytes, text, or a function that is called with a temporary path and writes there (for writers that need
    a path, such as `numpy.save`). The temporary file is in the same folder, has the same suffix, and is removed on
    failure.
    """
    path = Path(path)
    if path.is_dir():
        raise checks.fail("file", str(path), "the name of a file to write; this is a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        if callable(content):
            content(temporary)
        elif isinstance(content, str):
            # Names of folders that are not UTF-8 get question marks.
            temporary.write_text(content, encoding="utf-8", errors="replace", newline="\n")
        else:
            temporary.write_bytes(content)
        with temporary.open("r+b") as written:
            os.fsync(written.fileno())  # on the disk before it replaces the earlier file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Writes `value` as indented JSON, atomically."""
    return write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, argument: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: the file holds something else; the message names it `argument`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise checks.fail(argument, str(path), f"a JSON object ({error})") from error
    if not isinstance(content, dict):
        raise checks.fail(argument, str(path), "a JSON object")
    return content


def read_json_if_any(path: Path, argument: str) -> dict[str, Any]:
    """The JSON object in a file, or an empty one if there is no file."""
    return read_json(path, argument) if path.is_file() else {}
