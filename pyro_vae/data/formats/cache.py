"""A cache of decoded pixels: `.npy` files in this user's cache folder, mapped into memory; may be deleted at any time.

A file's name begins with a hash of the folder of its pictures, and ends in a key of the pictures themselves.
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


class CachedImages(NamedTuple):
    """The decoded pixels of a data set, the notes for the user about them, and the fingerprints of its splits."""

    pixels: np.ndarray
    notes: list[str]
    fingerprints: list[str]


def folder() -> Path:
    """The cache folder of decoded images."""
    return files.cache_folder() / "images"


def read(key: str, source: str, n: int) -> CachedImages | None:
    """The n images of a folder, cached under `key`; None where they are missing, or were changed or damaged since.

    The pixels are mapped copy-on-write: writing to them changes neither the file nor what other readers see.
    """
    path = folder() / f"{_of(source)}-{key}.npy"
    try:
        stored = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if stored["file"] != _stamp(path):
            return None
        cached = CachedImages(np.load(path, mmap_mode="c", allow_pickle=False), stored["notes"], stored["fingerprints"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    whole = cached.pixels.dtype == np.uint8 and cached.pixels.ndim == 4 and len(cached.pixels) == n
    return cached if whole else None


def write(key: str, images: CachedImages, source: str) -> None:
    """Caches the images of a folder under `key`, in place of those of an earlier state of the folder.

    Raises:
        OSError: the folder can't be written.
    """
    path = files.write(
        folder() / f"{_of(source)}-{key}.npy", lambda name: np.save(name, images.pixels, allow_pickle=False)
    )
    facts = {"notes": images.notes, "fingerprints": images.fingerprints, "file": _stamp(path)}
    files.write_json(path.with_suffix(".json"), facts)
    for earlier in folder().glob(f"{_of(source)}-*"):
        if earlier.stem != path.stem:
            with contextlib.suppress(OSError):  # Windows deletes no file that is in use
                earlier.unlink()


def _of(source: str) -> str:
    """The beginning of the names of all cache files of a source folder."""
    return hashlib.sha256(os.fsencode(os.path.abspath(source))).hexdigest()[:16]


def _stamp(path: Path) -> list[int]:
    """Size and time of last change: a file that differs in either is not the one that was written."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
