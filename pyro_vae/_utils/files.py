"""Files that are either whole or absent: everything is written under a temporary name and then renamed."""

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
    """Where data sets and trained classifiers are kept: `$PYRO_VAE_CACHE`, else the platform's cache of this user."""
    return Path(os.environ.get("PYRO_VAE_CACHE") or platformdirs.user_cache_dir("pyro_vae", appauthor=False))


def write(path: str | os.PathLike[str], content: bytes | str | Callable[[Path], object]) -> Path:
    """Writes `content` to `path` atomically.

    `content` is bytes, text, or a function that is called with a temporary path and writes there
    (for writers that insist on a path, such as matplotlib's). The temporary file stands in the same folder,
    keeps the suffix, and is removed when anything fails.
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
            # Of the name of a folder that is not UTF-8, question marks.
            temporary.write_text(content, encoding="utf-8", errors="replace", newline="\n")
        else:
            temporary.write_bytes(content)
        with temporary.open("r+b") as written:
            os.fsync(written.fileno())  # on the disk before it takes the name of what was there
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
        InputError: it is something else; the message calls it `argument`.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise checks.fail(argument, str(path), f"a JSON object ({error})") from error
    if not isinstance(found, dict):
        raise checks.fail(argument, str(path), "a JSON object")
    return found


def read_json_if_any(path: Path, argument: str) -> dict[str, Any]:
    """The same; of a file that is not there, an empty one."""
    return read_json(path, argument) if path.is_file() else {}
