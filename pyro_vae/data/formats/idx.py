"""MNIST and Fashion-MNIST from their published files, compressed or not, verified by checksum."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.data.images import Images, Splits

# Folder below the root, in torchvision's layout, and the md5 of the decompressed files: train images, train labels,
# test images, test labels.
IDX_SETS = {
    "mnist": (
        "MNIST",
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion-mnist": (
        "FashionMNIST",
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}
_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def load_idx(name: str, root: Path) -> Splits:
    """The data set of this name in torchvision's folder below a root."""
    directory, *sums = IDX_SETS[name]
    raw = root / directory / "raw"
    # MNIST's classes are "0 - zero"; the digit is enough.
    names = tuple(label.split(" - ")[0] for label in getattr(torchvision.datasets, directory).classes)
    arrays = [_read(raw / f"{file}-ubyte", md5, name) for file, md5 in zip(_FILES, sums, strict=True)]
    pairs = zip(arrays[::2], arrays[1::2], strict=True)
    return Splits(*(Images(pixels[:, None], labels.long(), name, names) for pixels, labels in pairs))


def _read(path: Path, md5: str, name: str) -> Tensor:
    """The array in a file, or in its compressed copy, whose checksum must be the published one."""
    path, content = _content(path, name)
    dimensions = 3 if "idx3" in path.name else 1
    if content[:4] != bytes((0, 0, 8, dimensions)):
        raise checks.fail(
            "data file",
            str(path),
            f"an IDX file of uint8 that begins with 0000080{dimensions}, not {content[:4].hex()}",
        )
    header = 4 + 4 * dimensions
    sizes = [int.from_bytes(content[start : start + 4], "big") for start in range(4, header, 4)]
    if len(content) != header + math.prod(sizes):
        raise checks.fail(
            "data file",
            str(path),
            f"{header + math.prod(sizes)} bytes, not {len(content)}: it is truncated or damaged",
        )
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise checks.fail("data file", str(path), f"the published file with md5 {md5}, not {actual}")
    return torch.frombuffer(content, dtype=torch.uint8, offset=header).reshape(sizes)


def _content(path: Path, name: str) -> tuple[Path, bytearray]:
    """The file, or its compressed copy, whichever exists, and its decompressed content."""
    if path.is_file():
        return path, bytearray(path.read_bytes())
    compressed = path.with_name(f"{path.name}.gz")
    if not compressed.is_file():
        hint = f"`pyro-vae data fetch {name}` downloads it; --data-root or $PYRO_VAE_DATA names another folder"
        raise checks.fail("data file", str(path), f"a file that exists, or the same with .gz ({hint})")
    try:
        with gzip.open(compressed) as file:
            return compressed, bytearray(file.read())
    except (OSError, EOFError, zlib.error) as error:
        raise checks.fail("data file", str(compressed), f"a whole .gz file ({error})") from error
