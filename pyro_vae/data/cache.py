"""Decoded pixels, kept as `.npy` files in this user's cache and mapped into memory; it may be deleted at any time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pyro_vae import files


class Kept(NamedTuple):
    """The pixels of a data set, what is to be said of them, and the fingerprints of its splits."""

    pixels: np.ndarray
    notes: list[str]
    fingerprints: list[str]


def folder() -> Path:
    """Where decoded images are kept."""
    return files.cache_folder() / "images"


def read(key: str, n: int) -> Kept | None:
    """The n images kept under a key; None where there are none, or where they were changed or damaged since.

    The pixels are mapped copy-on-write: whoever writes to them changes neither the file nor what others see.
    """
    path = folder() / f"{key}.npy"
    try:
        stored = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if stored["file"] != _stamp(path):
            return None
        kept = Kept(np.load(path, mmap_mode="c", allow_pickle=False), stored["notes"], stored["fingerprints"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    whole = kept.pixels.dtype == np.uint8 and kept.pixels.ndim == 4 and len(kept.pixels) == n
    return kept if whole else None


def write(key: str, kept: Kept) -> None:
    """Keeps pixels under a key.

    Raises:
        OSError: the folder can't be written.
    """
    path = files.write(folder() / f"{key}.npy", lambda name: np.save(name, kept.pixels, allow_pickle=False))
    facts = {"notes": kept.notes, "fingerprints": kept.fingerprints, "file": _stamp(path)}
    files.write_json(path.with_suffix(".json"), facts)


def _stamp(path: Path) -> list[int]:
    """Size and time of change, which tell whether a file is still the one that was written."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
