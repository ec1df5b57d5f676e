"""Folders of pictures: finds the training and the test images, and the class of each."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.progress import track
from pyro_vae.data.formats import cache, decoding, splitting
from pyro_vae.data.formats.pixels import stretch_binary
from pyro_vae.data.images import Splits

_FORMAT = 1  # version of what the cache holds
_OF_TOOLS = {"thumbs.db", "desktop.ini", "@eadir", "__macosx", "__pycache__", "$recycle.bin", "lost+found"}
_EXPECTED = "train and test folders (and perhaps val), or class folders, or images alone"


class File(NamedTuple):
    """A picture file."""

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


@dataclass
class Folder:
    """A folder with pictures in it, or below."""

    path: str
    pictures: dict[str, File] = field(default_factory=dict)
    folders: dict[str, Folder] = field(default_factory=dict)

    def __len__(self) -> int:
        """The number of pictures in it and below."""
        return len(self.pictures) + sum(map(len, self.folders.values()))

    def files(self) -> Iterator[File]:
        """All pictures in it and below, sorted by the parts of their paths."""
        for name in sorted([*self.pictures, *self.folders]):
            if name in self.pictures:
                yield self.pictures[name]
            else:
                yield from self.folders[name].files()


def load_folder(path: Path, notes: list[str], progress: bool) -> Splits:
    """The data set in a folder of pictures."""
    root = _root(path, notes)
    parts = _parts(root, notes)
    labels, class_names = _labels(parts, notes)
    pictures = [list(part.files()) for part in parts.values()]
    order = splitting.order([len(part) for part in pictures])
    name, key = path.absolute().name, _key(root.path, pictures)
    cached = cache.read(key, root.path, len(order.rows))
    pixels, decoded_notes = (cached.pixels, cached.notes) if cached else _decode(pictures, order, name, progress)
    notes += decoded_notes
    splits = splitting.to_splits(pixels, order, labels, name, class_names)
    if cached:
        for images, fingerprint in zip(splits, cached.fingerprints, strict=True):
            images.__dict__["fingerprint"] = fingerprint  # a cached property, which takes long to compute
    else:
        _store(
            cache.CachedImages(pixels, decoded_notes, [images.fingerprint for images in splits]), key, root.path, notes
        )
    return splits


def file_names(path: Path) -> tuple[list[str], list[str]]:
    """The names of the files of training and of test images, in the order in which `load_folder` has these."""
    pictures = [list(part.files()) for part in _parts(_root(path, []), []).values()]
    order = splitting.order([len(part) for part in pictures])
    names = [""] * len(order.rows)
    for row, file in zip(order.rows, (file for part in pictures for file in part), strict=True):
        names[row] = os.path.basename(file.path)
    return names[: order.num_train], names[order.num_train :]


def _root(path: Path, notes: list[str]) -> Folder:
    """The pictures of a folder, of which there are some."""
    others: list[str] = []
    root = _scan(str(path), (), others)
    if root is None:
        suffixes = ", ".join(decoding.SUFFIXES)
        raise checks.fail("dataset", str(path), f"a folder with images ({suffixes})")
    if others:
        listed = ", ".join(sorted(others)[:3]) + (", ..." if len(others) > 3 else "")
        notes.append(f"files left out that are not images: {len(others):,} ({listed})")
    return root


def _store(decoded: cache.CachedImages, key: str, source: str, notes: list[str]) -> None:
    try:
        cache.write(key, decoded, source)
    except OSError as error:
        reason = error.strerror or error
        notes.append(f"the decoded images are not cached for next time: {cache.folder()} can't be written ({reason})")


def _scan(path: str, above: tuple[tuple[int, int], ...], others: list[str]) -> Folder | None:
    """The pictures below a folder, links followed; None where there are none. Other files are added to `others`."""
    try:
        status = os.stat(path)
        with os.scandir(path) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise checks.fail("dataset", path, f"a folder that can be read ({error.strerror or error})") from error
    here = (status.st_dev, status.st_ino)
    if here in above:  # a link to a folder that contains it
        return None
    folder = Folder(path)
    for entry in visible:
        if entry.name.casefold() in _OF_TOOLS:
            continue
        if _is_folder(entry):
            if below := _scan(entry.path, (*above, here), others):
                folder.folders[entry.name] = below
        elif file := _picture(entry):
            folder.pictures[entry.name] = file
        else:
            others.append(entry.name)
    return folder if folder.pictures or folder.folders else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _picture(entry: os.DirEntry[str]) -> File | None:
    if not entry.name.lower().endswith(decoding.SUFFIXES):
        return None
    try:
        status = entry.stat()
    except OSError as error:  # a link to nothing
        raise checks.fail("dataset", entry.path, f"a readable image ({error.strerror or error})") from error
    if not stat.S_ISREG(status.st_mode):
        return None
    return File(entry.path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _parts(root: Folder, notes: list[str]) -> dict[str, Folder]:
    """The folders of the training and perhaps of the test images; a folder that only holds another is skipped."""
    parts = {"training": root}
    divided = False
    while True:
        if not divided and (splits := _splits(parts["training"], notes)):
            parts, divided = splits, True
        names = {name for part in parts.values() for name in part.folders}
        if len(names) != 1 or any(part.pictures and part.folders for part in parts.values()):
            break
        (name,) = names
        parts = {split: part.folders.get(name, part) for split, part in parts.items()}
    if divided:
        _check_below_splits(parts)
    else:
        _check_classes(parts["training"], notes)
        for _, below in sorted(parts["training"].folders.items()):
            _check_classes(below, [])
    return parts


def _check_below_splits(parts: dict[str, Folder]) -> None:
    """No part has a folder named like a split, except one that all parts have, which is then a class."""
    shared = set.intersection(*(set(part.folders) for part in parts.values())) if len(parts) > 1 else set[str]()
    for part in parts.values():
        for name, below in part.folders.items():
            for folder_name in (name, *below.folders):
                if splitting.is_clear(folder_name) and folder_name not in shared and folder_name.casefold() != "train":
                    raise checks.fail("dataset", f"{part.path} with a folder {folder_name!r} among classes", _EXPECTED)


def _check_classes(folder: Folder, notes: list[str]) -> None:
    """No class folder has the name of a split, except that trains may be one class among others."""
    named = {name: split_words for name in sorted(folder.folders) if (split_words := splitting.clear_words(name))}
    if not named:
        return
    others = [name for name in sorted(folder.folders) if name not in named]
    trains = all(split_words == {"train"} and not folder.folders[name].folders for name, split_words in named.items())
    if not trains or len(others) <= len(named):
        listed = [*named, *others]
        folders = f"{folder.path} with folders {', '.join(listed[:6])}{', ...' if len(listed) > 6 else ''}"
        raise checks.fail("dataset", folders, _EXPECTED)
    notes.append(f"taken as classes, not as splits: {', '.join(named)}")


def _splits(folder: Folder, notes: list[str]) -> dict[str, Folder] | None:
    names = sorted(folder.folders)
    splits = splitting.splits_of(names)
    if not splits:
        return None
    by_split = splitting.by_split(names, splits, folder.path)
    if folder.pictures:
        notes.append(f"images left out beside the folder {by_split['train']}: {len(folder.pictures):,}")
    train, test = splitting.train_and_test({split: folder.folders[name] for split, name in by_split.items()}, notes)
    return {"training": train} if test is None else {"training": train, "test": test}


def _labels(parts: dict[str, Folder], notes: list[str]) -> tuple[list[Tensor | None], tuple[str, ...]]:
    """The labels of each part: the class of a picture is the folder that holds it."""
    labelled = {split: part for split, part in parts.items() if part.folders and not part.pictures}
    for split, part in parts.items():
        if part.folders and part.pictures:
            notes.append(f"no {split} labels: of {len(part):,} images, {len(part.pictures):,} lie in no class folder")
        elif labelled and split not in labelled:
            notes.append(f"no {split} labels: its images lie in no class folders")
    classes = tuple(sorted({name for part in labelled.values() for name in part.folders}))
    for split, part in labelled.items():
        if missing := [name for name in classes if name not in part.folders]:
            listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            notes.append(f"classes without {split} images: {len(missing):,} of {len(classes):,} ({listed})")
    index = {name: number for number, name in enumerate(classes)}
    labels: list[Tensor | None] = []
    for split, part in parts.items():
        if split not in labelled:
            labels.append(None)
            continue
        names = sorted(part.folders)
        counts = torch.tensor([len(part.folders[name]) for name in names])
        labels.append(torch.tensor([index[name] for name in names]).repeat_interleave(counts))
    return labels, classes


def _key(root: str, parts: list[list[File]]) -> str:
    """A hash of all that the pixels depend on: the decoder's version, the folder, and each file's size and times.

    Anyone can set a file's time of last writing; its ctime is set by the system alone.
    """
    digest = hashlib.sha256(os.fsencode(f"{_FORMAT} {PIL.__version__} {os.path.abspath(root)}"))
    for part in parts:
        rows = ("\0".join([file.path[len(root) :], *map(str, file[1:])]) for file in part)
        digest.update(os.fsencode("\0\0".join(["", *rows])))
    return digest.hexdigest()[:32]


def _decode(parts: list[list[File]], order: splitting.Order, name: str, progress: bool) -> tuple[np.ndarray, list[str]]:
    """The pixels of all pictures, in the rows of `order`, and notes for the user about them."""
    notes: list[str] = []
    paths = [file.path for part in parts for file in part]
    decoded = decoding.decode_all(paths, sum(file.size for part in parts for file in part))
    counted = track(decoded, len(paths), "image", f"images of {name}", visible=progress)
    pixels = decoding.stack(counted, paths, order.rows, notes)
    stretch_binary(pixels, True, notes)
    return pixels, notes
