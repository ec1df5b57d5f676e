"""Data sets in `.npz` and `.npy` files, read in blocks, so that only a few MiB are held besides the pixels."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from pyro_vae._utils import checks
from pyro_vae.data.formats import labels as class_labels
from pyro_vae.data.formats import pixels as grey
from pyro_vae.data.formats import splitting
from pyro_vae.data.images import Splits

_IMAGES = ("images", "image", "imgs", "x", "data", "arr_0")
_LABELS = ("labels", "label", "y", "targets", "target")
_BLOCK = 2**20  # bytes
_EXPECTED = "arrays `images` [and `labels`], or `x_train` and `x_test`, or `train_images` and `test_images`"


@dataclass(frozen=True)
class StoredArray:
    """An array in a file, known from its header: its name in messages, and how to open its content."""

    what: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    start: int  # of the content, in bytes
    shape: tuple[int, ...]
    columns_first: bool  # Fortran order
    dtype: np.dtype

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Each block with its slice of the slowest-varying axis, which is the first, or the last in Fortran order."""
        shape = self.shape[::-1] if self.columns_first else self.shape
        row = math.prod(shape[1:]) * self.dtype.itemsize
        rows = max(1, _BLOCK // max(1, row))
        with self.open() as file:
            file.seek(self.start)
            for start in range(0, shape[0], rows):
                stop = min(start + rows, shape[0])
                content = file.read((stop - start) * row)
                block = np.frombuffer(content, self.dtype).reshape(stop - start, *shape[1:])
                yield slice(start, stop), block.T if self.columns_first else block
            file.read(1)  # reading to the end makes zipfile compare the member's checksum

    def read(self) -> np.ndarray:
        """The whole array."""
        if not self.shape:
            raise checks.fail(self.what, "a single value", "an array with one entry for each image")
        parts = [block for _, block in self.blocks()]
        axis = len(self.shape) - 1 if self.columns_first else 0
        return np.concatenate(parts, axis) if parts else np.empty(self.shape, self.dtype)


@dataclass(frozen=True)
class _Set:
    """The arrays of one split."""

    images: StoredArray
    labels: StoredArray | None

    def __len__(self) -> int:
        return len(self.images)


def load_arrays(path: Path, notes: list[str]) -> Splits:
    """The data set in an `.npz` or `.npy` file."""
    with _readable(path):
        stored, left_out = _members(path)
        sets = _sets(stored, left_out, path)
        for key, array in stored.items():
            if not any(array in (arrays.images, arrays.labels) for arrays in sets.values()):
                left_out[key] = "unknown"
        if left_out:
            listed = ", ".join(f"{key} ({reason})" for key, reason in list(left_out.items())[:5])
            notes.append(f"entries left out: {len(left_out)}, {listed}{', ...' if len(left_out) > 5 else ''}")
        train, test = splitting.train_and_test(sets, notes)
        return _read(train, test, path, notes)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns whatever a damaged file raises into an `InputError` of one line."""
    kind = path.suffix.lower()
    try:
        yield
    except checks.InputError:
        raise
    except (OSError, ValueError, EOFError) as error:
        expected = f"a readable {kind} file without pickled objects ({error})"
        raise checks.fail("dataset", str(path), expected) from error
    except Exception as error:  # zipfile.BadZipFile, zlib.error: a damaged archive
        raise checks.fail("dataset", str(path), f"an undamaged {kind} file ({error})") from error


def _members(path: Path) -> tuple[dict[str, StoredArray], dict[str, str]]:
    """The arrays of a file by key, and the entries left out, each with its reason: pickled objects are never read."""
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            header = _read_header(file, path.stat().st_size)
        if header is None:
            raise ValueError("it holds pickled objects")
        return {"images": StoredArray(str(path), lambda: path.open("rb"), *header)}, {}
    stored, left_out = {}, {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            key = info.filename.removesuffix(".npy")
            if key == info.filename:
                left_out[key] = "no array"
                continue
            try:
                with archive.open(info) as file:
                    header = _read_header(file, info.file_size)
            except ValueError:
                if _role(key):
                    raise
                left_out[key] = "unreadable"
                continue
            if header is None:
                left_out[key] = "pickled"
            else:
                stored[key] = StoredArray(f"{path}: {key}", partial(_open_member, path, info.filename), *header)
    return stored, left_out


@contextmanager
def _open_member(path: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        yield file


def _read_header(file: IO[bytes], size: int) -> tuple[int, tuple[int, ...], bool, np.dtype] | None:
    """Start of the content in bytes, shape, whether in Fortran order, and dtype; None for pickled objects."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the .npy format")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, columns_first, dtype = read(file)
    if dtype.hasobject:
        return None
    start = file.tell()
    if start + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{size:,} bytes are not those of an array of shape {shape}")
    return start, shape, columns_first, dtype


def _sets(stored: dict[str, StoredArray], left_out: dict[str, str], path: Path) -> dict[str, _Set]:
    """The arrays by split, `train` alone where the file has no splits."""
    keys: dict[tuple[str, str], str] = {}  # kind and split -> key
    for key in stored:
        if role := _role(key):
            if role in keys:
                kind, split = role
                of_split = f" of the {split} set" if split else ""
                raise checks.fail("dataset", f"{path} with {keys[role]} and {key}", f"one array of {kind}{of_split}")
            keys[role] = key
    splits = [split for kind, split in keys if kind == "images"]
    if not splits and (pickled := [key for key, why in left_out.items() if why == "pickled" and _role(key)]):
        raise ValueError(f"{pickled[0]} is pickled")
    if not splits or ("" in splits and len(splits) > 1):
        raise checks.fail("dataset", f"{path} with {sorted([*stored, *left_out])}", _EXPECTED)
    if splits != [""]:
        splitting.by_split(splits, splits, str(path))
    return {
        split or "train": _Set(stored[keys["images", split]], stored.get(keys.get(("labels", split), "")))
        for split in splits
    }


def _role(key: str) -> tuple[str, str] | None:
    """`images` or `labels`, and the split or "", of `x_train`, `train_images`, `images`, ...; None for any other."""
    name = key.casefold()
    for kind, names in (("images", _IMAGES), ("labels", _LABELS)):
        if name in names:
            return kind, ""
        before, _, after = name.rpartition("_")
        for first, second in ((before, after), (after, before)):
            if first in names and (split := splitting.split_of(second)):
                return kind, split
    return None


def _read(train: _Set, test: _Set | None, path: Path, notes: list[str]) -> Splits:
    parts = [train] if test is None else [train, test]
    name = path.stem
    shapes = [grey.channels_first(part.images.shape, part.images.what) for part in parts]
    if shapes[0][0][1:] != shapes[-1][0][1:]:
        test_shape = f"{name} with test images of shape {shapes[-1][0][1:]}"
        raise checks.fail("dataset", test_shape, f"{shapes[0][0][1:]}, as in training")
    for part in parts:
        grey.check_dtype(part.images.dtype, part.images.what)
    order = splitting.order([shape[0] for shape, _ in shapes])
    labels, class_names = class_labels.as_classes([_labels_of(part, notes) for part in parts], notes)
    pixels = np.empty((len(order.rows), *shapes[0][0][1:]), np.uint8)
    rows = np.split(order.rows, [len(parts[0].images)])
    _fill(pixels, [part.images for part in parts], [axes for _, axes in shapes], rows, notes)
    return splitting.to_splits(pixels, order, labels, name, class_names)


def _labels_of(part: _Set, notes: list[str]) -> np.ndarray | None:
    if part.labels is None:
        return None
    return class_labels.one_per_image(part.labels.read(), len(part.images), part.labels.what, notes)


def _fill(
    pixels: np.ndarray,
    arrays: Sequence[StoredArray],
    axes: Sequence[tuple[int, ...]],
    rows: Sequence[np.ndarray],
    notes: list[str],
) -> None:
    """Writes each array, as grey levels, to its rows of `pixels`."""
    deep = [array for array in arrays if array.dtype.kind == "u" and array.dtype.itemsize == 2]
    bits = 8
    if deep:
        bits = grey.evident_bits(max(int(block.max()) for array in deep for _, block in array.blocks()), notes)
    for array, order, part_rows in zip(arrays, axes, rows, strict=False):
        view = pixels.transpose(*order, *(axis for axis in range(4) if axis not in order))
        view = view[..., 0] if len(order) == 3 else view  # (N, H, W)
        for where, block in array.blocks():
            levels = grey.to_levels(block, bits, array.what)
            if array.columns_first:
                view[part_rows, ..., where] = levels
            else:
                view[part_rows[where]] = levels
    grey.stretch_binary(pixels, all(array.dtype.kind == "u" for array in arrays), notes)
