"""Checkpoints, from which training resumes exactly: one file each, named after its epoch and its own SHA-256."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from pyro_vae._utils import checks, files

_NAME = re.compile(r"epoch-(\d+)-([0-9a-f]{16})\.pt")


def write_checkpoint(folder: str | os.PathLike[str], epoch: int, state: dict[str, Any]) -> Path:
    """Writes the state after `epoch` epochs to `folder`, then removes earlier ones."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = Path(folder) / f"epoch-{epoch:05d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    files.write(path, content)
    for other in _checkpoints(folder):
        if other != path:
            other.unlink(missing_ok=True)
    return path


def read_checkpoint(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The newest state in `folder`, or None if there is none.

    Raises:
        InputError: the file is damaged.
    """
    paths = _checkpoints(folder)
    if not paths:
        return None
    path = paths[-1]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise checks.fail("checkpoint", str(path), f"a readable file ({error})") from error
    name = _NAME.fullmatch(path.name)
    digest = hashlib.sha256(content).hexdigest()[:16]
    if name is None or name[2] != digest:
        raise checks.fail("checkpoint", str(path), f"an undamaged file; its content has the SHA-256 {digest}...")
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise checks.fail("checkpoint", str(path), "tensors and plain values, and no code") from error


def read_epoch(folder: str | os.PathLike[str]) -> int:
    """The number of epochs after which the newest state in `folder` was saved; 0 if there is none."""
    return max((int(path.name.split("-")[1]) for path in _checkpoints(folder)), default=0)


def _checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(path for path in Path(folder).glob("epoch-*.pt") if _NAME.fullmatch(path.name))


def same_settings(stored: dict[str, Any], current: dict[str, Any]) -> None:
    """Checks that a training resumes under the settings of its checkpoint; only the number of epochs may change."""
    for name in sorted({*stored, *current} - {"epochs"}):
        if stored.get(name) != current.get(name):
            text = json.dumps(stored.get(name))
            raise checks.fail(name, current.get(name), f"{text}, as in the checkpoint that is to be resumed")
