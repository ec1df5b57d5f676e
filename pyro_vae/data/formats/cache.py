"""Decoded pixels, kept as `.npy` files in this user's cache and mapped into memory; it may be deleted at any time.

A file is named after the folder that its pictures were in, and after a key of these.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pyro_vae._utils import files


class Kept(NamedTuple):
    """The pixels of a data set, what is to be said of them, and the fingerprints of its splits."""

    pixels: np.ndarray
    notes: list[str]
    fingerprints: list[str]


def folder() -> Path:
    """Where decoded images are kept."""
    return files.cache_folder() / "images"


def read(key: str, source: str, n: int) -> Kept | None:
    """The n images of a folder, kept under a key; None where there are none, or they were changed or damaged since.

    The pixels are mapped copy-on-write: whoever writes to them changes neither the file nor what others see.
    """
    path = folder() / f"{_of(source)}-{key}.npy"
    try:
        stored = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if stored["file"] != _stamp(path):
            return None
        kept = Kept(np.load(path, mmap_mode="c", allow_pickle=False), stored["notes"], stored["fingerprints"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    whole = kept.pixels.dtype == np.uint8 and kept.pixels.ndim == 4 and len(kept.pixels) == n
    return kept if whole else None


def write(key: str, kept: Kept, source: str) -> None:
    """Keeps the pixels of the pictures in a folder under a key, in place of those of an earlier state of it.

    Raises:
        OSError: the folder can't be written.
    """
    path = files.write(
        folder() / f"{_of(source)}-{key}.npy", lambda name: np.save(name, kept.pixels, allow_pickle=False)
    )
    facts = {"notes": kept.notes, "fingerprints": kept.fingerprints, "file": _stamp(path)}
    files.write_json(path.with_suffix(".json"), facts)
    for earlier in folder().glob(f"{_of(source)}-*"):
        if earlier.stem != path.stem:
            with contextlib.suppress(OSError):  # Windows deletes no file that is in use
                earlier.unlink()


def _of(source: str) -> str:
    """What the names of all files of a source folder begin with."""
    return hashlib.sha256(os.fsencode(os.path.abspath(source))).hexdigest()[:16]


def _stamp(path: Path) -> list[int]:
    """Size and time of change, which tell whether a file is still the one that was written."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
