"""Named data sets and a user's own images -> `Images`: uint8 pixels and labels."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae import checks, files
from pyro_vae.device import to_unit
from pyro_vae.spec import BINARIZATIONS, check_dataset

# Folder below the root, as torchvision lays it out, and the md5 of train images, train labels, test images, test
# labels.
_IDX_SETS = {
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
_IDX_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
_TEST_SHARE = 0.1  # of a user's own images that come without a test set


@dataclass(frozen=True, eq=False)
class Images:
    """A set of images of one size.

    Args:
        pixels: uint8, shape `(N, C, H, W)`, grey levels 0 to 255, N >= 1.
        labels: int64, shape `(N,)`, indices into `class_names`; or None.
        name: what the set is called in tables and file names.
        class_names: the classes in the order of the labels.

    Raises:
        InputError: where a dtype or shape is another.

    >>> images = Images(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), name="black")
    >>> len(images), images.shape
    (3, (1, 8, 8))
    """

    pixels: Tensor
    labels: Tensor | None = None
    name: str = "images"
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.dim() != 4:
            given = f"{self.pixels.dtype} of shape {tuple(self.pixels.shape)}"
            raise checks.fail("pixels", given, "torch.uint8 of shape (N, C, H, W)")
        if 0 in self.pixels.shape:
            raise checks.fail("pixels", tuple(self.pixels.shape), "at least one image of at least one pixel")
        if self.labels is not None and self.labels.numel() and int(self.labels.min()) < 0:
            raise checks.fail("labels", int(self.labels.min()), "labels of at least 0")
        if self.labels is not None and (self.labels.dtype != torch.int64 or self.labels.shape != (len(self),)):
            given = f"{self.labels.dtype} of shape {tuple(self.labels.shape)}"
            raise checks.fail("labels", given, f"torch.int64 of shape ({len(self)},), one label an image")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of each image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over shape, pixels and labels, which caches and provenance refer to."""
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        digest.update(self.pixels.cpu().numpy().tobytes())
        if self.labels is not None:
            digest.update(self.labels.cpu().numpy().tobytes())
        return digest.hexdigest()

    def take(self, index: Tensor | slice) -> Images:
        """The images at these positions, as `Images` of the same name."""
        return replace(self, pixels=self.pixels[index], labels=None if self.labels is None else self.labels[index])

    def split(self, fraction: float, seed: int = 0) -> tuple[Images, Images]:
        """Two disjoint parts, `1 - fraction` and `fraction` of the images, the same ones for the same seed.

        Each part has at least one image.
        """
        if not 0 < fraction < 1 or len(self) < 2:
            raise checks.fail(
                "fraction", fraction, f"a number above 0 and below 1, of at least 2 images ({len(self)} here)"
            )
        count = min(max(round(len(self) * fraction), 1), len(self) - 1)
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.take(order[count:].sort().values), self.take(order[:count].sort().values)

    def draw(self, n: int, seed: int = 0) -> Images:
        """n of the images at random (all where there are fewer), the same ones for the same seed.

        Sets from folders are sorted by class, so the first n would be of one class.
        """
        checks.positive_integer("n", n)
        if n >= len(self):
            return self
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.take(order[:n].sort().values)

    def as_float(self) -> Tensor:
        """All pixels as float32 in [0, 1], shape `(N, C, H, W)`."""
        return to_unit(self.pixels)


class Splits(NamedTuple):
    """The training and the test images of one data set."""

    train: Images
    test: Images


def load_data(name: str, root: str | os.PathLike[str] | None = None, download: bool = False) -> Splits:
    """Loads a data set by name, or a user's own images by path.

    Args:
        name: `digits` (scikit-learn's 8x8 digits, part of the installation), `mnist`, `fashion-mnist`, `cifar10`;
            or the path of an `.npz` file (arrays `images` and perhaps `labels`; or `x_train`, `x_test` and perhaps
            `y_train`, `y_test`) or of a folder of images (in `train/` and `test/` or not, in class folders or not).
            Arrays are `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`, uint8 or floats in [0, 1], which are rounded to
            256 grey levels. Without a test set, a fixed tenth of the images becomes one.
        root: the folder that holds torchvision's folders (`MNIST/raw`, ...); else `$PYRO_VAE_DATA`, else
            `data` in this user's cache folder.
        download: fetch a missing named set through torchvision. Never done unasked.

    Raises:
        InputError: an unknown name, a missing, truncated or altered file, pixels that are not pixels.

    >>> train, test = load_data("digits")
    >>> train.pixels.shape, test.pixels.shape
    (torch.Size([1438, 1, 8, 8]), torch.Size([359, 1, 8, 8]))
    """
    if name == "digits":
        return _digits()
    folder = Path(root or os.environ.get("PYRO_VAE_DATA") or files.cache_folder() / "data")
    if name in _IDX_SETS:
        return _idx(name, folder, download)
    if name == "cifar10":
        return _cifar10(folder, download)
    check_dataset(name)
    return _folder(Path(name)) if Path(name).is_dir() else _npz(Path(name))


def _digits() -> Splits:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]  # grey levels 0 to 16
    labels = torch.from_numpy(bunch.target).long()
    images = Images(pixels, labels, "digits", tuple(map(str, range(10))))
    return Splits(*images.split(0.2))


def _idx(name: str, root: Path, download: bool) -> Splits:
    import torchvision

    directory, *sums = _IDX_SETS[name]
    source = getattr(torchvision.datasets, directory)
    if download:
        _download(source, root)
    raw = root / directory / "raw"
    # MNIST's classes are "0 - zero"; the digit is enough.
    names = tuple(label.split(" - ")[0] for label in source.classes)
    arrays = [_read_idx(raw / f"{file}-ubyte", md5, name) for file, md5 in zip(_IDX_FILES, sums, strict=True)]
    pairs = zip(arrays[::2], arrays[1::2], strict=True)
    return Splits(*(Images(pixels[:, None], labels.long(), name, names) for pixels, labels in pairs))


def _read_idx(path: Path, md5: str, name: str) -> Tensor:
    """The array in a file, which is the published one to the last bit."""
    if not path.is_file():
        hint = f"`pyro-vae data fetch {name}` downloads it; --data-root or $PYRO_VAE_DATA names another folder"
        raise checks.fail("data file", str(path), f"a file that exists ({hint})")
    content = path.read_bytes()
    dimensions = 3 if "idx3" in path.name else 1
    if content[:4] != bytes((0, 0, 8, dimensions)):
        raise checks.fail(
            "data file",
            str(path),
            f"an IDX file of uint8 that begins with 0000080{dimensions}, not {content[:4].hex()}",
        )
    header = 4 + 4 * dimensions
    sizes = [int.from_bytes(content[start : start + 4], "big") for start in range(4, header, 4)]
    if len(content) != header + int(np.prod(sizes)):
        raise checks.fail(
            "data file",
            str(path),
            f"{header + int(np.prod(sizes))} bytes, not {len(content)}: it is truncated or damaged",
        )
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise checks.fail("data file", str(path), f"the published file with md5 {md5}, not {found}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(sizes).copy())


def _cifar10(root: Path, download: bool) -> Splits:
    import torchvision

    source = torchvision.datasets.CIFAR10
    if download:
        _download(source, root)
    try:
        train, test = (source(root, train=train) for train in (True, False))  # checks the md5 of its files
    except (RuntimeError, OSError) as error:
        hint = "`pyro-vae data fetch cifar10` downloads it; --data-root or $PYRO_VAE_DATA names another folder"
        raise checks.fail("data folder", str(root / source.base_folder), f"CIFAR-10's files, whole ({hint})") from error
    return Splits(
        *(
            Images(
                torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
                torch.tensor(part.targets),
                "cifar10",
                tuple(part.classes),
            )
            for part in (train, test)
        )
    )


def _download(source: type, root: Path) -> None:
    try:
        for train in (True, False):
            source(root, train=train, download=True)
    except (RuntimeError, OSError) as error:
        raise checks.fail("download", source.__name__, f"a data set that can be fetched to {root} ({error})") from error


def _npz(path: Path) -> Splits:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise checks.fail("dataset", str(path), f"a readable .npz file without pickled objects ({error})") from error
    except Exception as error:  # zipfile.BadZipFile, zlib.error: a damaged archive
        raise checks.fail("dataset", str(path), f"an undamaged .npz file ({error})") from error

    def part(images: str, labels: str) -> Images:
        pixels = _to_pixels(arrays[images], f"{path}: {images}")
        if labels not in arrays:
            return Images(pixels, None, path.stem)
        if not np.issubdtype(arrays[labels].dtype, np.integer):
            raise checks.fail(f"{path}: {labels}", arrays[labels].dtype.name, "whole numbers from 0")
        targets = torch.from_numpy(arrays[labels].astype(np.int64).reshape(-1))
        return Images(pixels, targets, path.stem, tuple(str(label) for label in range(int(targets.max()) + 1)))

    if "x_train" in arrays and "x_test" in arrays:
        return _splits(part("x_train", "y_train"), part("x_test", "y_test"))
    if "images" in arrays:
        return Splits(*part("images", "labels").split(_TEST_SHARE))
    raise checks.fail(
        "dataset", f"{path} with {sorted(arrays)}", "arrays `images` [and `labels`], or `x_train` and `x_test`"
    )


def _to_pixels(array: np.ndarray, what: str) -> Tensor:
    """uint8 (N, C, H, W) from uint8 or floats in [0, 1], (N, H, W), (N, H, W, C) or (N, C, H, W)."""
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise checks.fail(what, array.shape, "shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3")
    if array.size == 0:
        raise checks.fail(what, array.shape, "at least one image")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise checks.fail(what, "NaN or infinity among the pixels", "floats in [0, 1]")
        if array.min() < 0 or array.max() > 1:
            raise checks.fail(what, f"pixels from {array.min():g} to {array.max():g}", "floats in [0, 1], or uint8")
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise checks.fail(what, array.dtype.name, "uint8, or floats in [0, 1]")
    return torch.from_numpy(np.ascontiguousarray(array))


def _folder(path: Path) -> Splits:
    if (path / "train").is_dir() and (path / "test").is_dir():
        train, test = _image_files(path / "train", path.name), _image_files(path / "test", path.name)
        if train.class_names != test.class_names:
            given = f"classes {train.class_names} and {test.class_names}"
            raise checks.fail("dataset", given, "the same class folders in train and test")
        return _splits(train, test)
    return Splits(*_image_files(path, path.name).split(_TEST_SHARE))


def _splits(train: Images, test: Images) -> Splits:
    if train.shape != test.shape:
        given = f"{test.name} with test images of shape {test.shape}"
        raise checks.fail("dataset", given, f"{train.shape}, as in training")
    return Splits(train, test)


def _image_files(folder: Path, name: str) -> Images:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
    if not paths:
        raise checks.fail("dataset", str(folder), f"a folder with images ({', '.join(sorted(_IMAGE_SUFFIXES))})")
    pictures = [_read_image(path) for path in paths]
    for picture, path in zip(pictures, paths, strict=True):
        if picture.shape[:2] != pictures[0].shape[:2]:
            size, first = ("x".join(map(str, shape[1::-1])) for shape in (picture.shape, pictures[0].shape))
            raise checks.fail("dataset", f"{path} of {size} pixels", f"images of one size; {paths[0].name} has {first}")
    # One grey level a pixel only where no picture has colours.
    colours = any(picture.shape[2] == 3 for picture in pictures)
    stacked = np.stack([np.broadcast_to(picture, (*picture.shape[:2], 3 if colours else 1)) for picture in pictures])
    classes = tuple(sorted({path.relative_to(folder).parts[0] for path in paths if path.parent != folder}))
    labelled = classes and all(path.parent != folder for path in paths)
    labels = torch.tensor([classes.index(path.relative_to(folder).parts[0]) for path in paths]) if labelled else None
    pixels = torch.from_numpy(stacked.transpose(0, 3, 1, 2).copy())
    return Images(pixels, labels, name, classes if labelled else ())


def _read_image(path: Path) -> np.ndarray:
    """uint8 (H, W, 1) or (H, W, 3)."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            if picture.mode.startswith("I;16"):  # of 65,536 grey levels, the upper byte
                return np.atleast_3d((np.asarray(picture) >> 8).astype(np.uint8))
            if picture.mode in ("I", "F"):
                raise checks.fail("dataset", f"{path} of mode {picture.mode}", "8 or 16 bits a channel")
            grey = picture.mode in ("1", "L", "LA")
            if "A" in picture.mode or "transparency" in picture.info:  # what is transparent is black
                whole = picture.convert("RGBA")
                shown = Image.alpha_composite(Image.new("RGBA", whole.size, "black"), whole)
            else:
                shown = picture.copy()
            return np.atleast_3d(np.asarray(shown.convert("L" if grey else "RGB")))
    except checks.InputError:
        raise
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise checks.fail("dataset", str(path), f"a readable image ({error})") from error


def fixed_binarization(how: str) -> str:
    """What evaluation makes of `dynamic`: one draw of each image, the same for all models, which is `static`."""
    return "static" if how == "dynamic" else how


def binarize(images: Images, how: str, seed: int = 0) -> Images:
    """Pixels that are 0 or 255, once and for all.

    `static` draws each pixel as Bernoulli(grey level / 255), once, from `seed` (Larochelle and Murray, 2011); training
    and evaluation leave `seed` at 0, so that all runs are of the same data. `threshold` takes 1 from a grey level of
    1/2. `none` and `dynamic` (redrawn in each batch, see :func:`pyro_vae.device.batches`) change nothing here.

    Log-likelihoods under different binarizations are of different data, and not comparable.
    """
    checks.one_of("binarization", how, BINARIZATIONS)
    if how == "threshold":
        return replace(images, pixels=(images.pixels >= 128).to(torch.uint8) * 255)
    if how == "static":
        generator = torch.Generator().manual_seed(seed)
        drawn = [
            to_unit(part).bernoulli(generator=generator).to(torch.uint8) for part in images.pixels.cpu().split(1024)
        ]
        return replace(images, pixels=torch.cat(drawn).to(images.pixels.device) * 255)
    return images
