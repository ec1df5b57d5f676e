"""`load_data`: named data sets and a user's own images -> `Splits`."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch

from pyro_vae._utils import checks, files
from pyro_vae.data.formats.arrays import load_arrays
from pyro_vae.data.formats.folders import load_folder
from pyro_vae.data.formats.idx import IDX_SETS, load_idx
from pyro_vae.data.images import Images, Splits
from pyro_vae.spec import check_dataset

DATA_FORMAT = 2  # recorded by runs; raised when the same files come to give other pixels, labels or splits


def load_data(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    *,
    progress: bool = True,
) -> Splits:
    """Loads a data set by name, or a user's own images by path.

    One warning lists what was left out or rescaled of a user's own images.

    An `.npz` file has arrays `images` and perhaps `labels`; or these for each split, as `x_train`, `y_train`,
    `x_test`, `y_test` or as `train_images`, `train_labels`, ...; an `.npy` file is images alone. Arrays of images are
    `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`: uint8, bool, uint16 (of 10, 12, 14 or 16 bits, by the largest value),
    or floats in [0, 1], which are rounded to 256 grey levels. uint8 that holds only 0 and 1 is black and white. Labels
    are whole numbers or strings, one for each image, or one-hot; the distinct values are the classes. Pickled objects
    are never read.

    A folder holds pictures of one size, in folders of the splits or not, in class folders below or not. Names of
    splits are `train`, `val`, `test`, in any case and common spelling, all with the same beginning and end or none. A
    picture is rotated by its orientation tag; of several frames the first is taken. The decoded pixels are stored in
    this user's cache folder.

    If there is no test set, the validation set is used as one; without either, a fixed tenth of the images. If there is
    a test set, the validation set is left out, because training holds out its own validation images.

    Args:
        name: `digits` (scikit-learn's 8x8 digits, part of the installation), `mnist`, `fashion-mnist`, `cifar10`; or
            the path of an `.npz` or `.npy` file or of a folder of images.
        root: the folder that holds torchvision's folders (`MNIST/raw`, ...); else `$PYRO_VAE_DATA`, else
            `data` in this user's cache folder.
        download: fetch a missing named set through torchvision; by default nothing is downloaded.
        progress: show a progress bar while pictures are decoded, if standard error is a terminal.

    Raises:
        InputError: an unknown name; a missing, truncated or altered file; arrays that are not images; folders whose
            layout is ambiguous.

    >>> train, test = load_data("digits")
    >>> train.pixels.shape, test.pixels.shape
    (torch.Size([1438, 1, 8, 8]), torch.Size([359, 1, 8, 8]))
    """
    if not isinstance(name, str | os.PathLike) or not os.fspath(name):
        raise checks.fail("dataset", name, "a name or a path")
    name = os.fspath(name)
    if name == "digits":
        return _digits()
    folder = checks.path("root", root or os.environ.get("PYRO_VAE_DATA") or files.cache_folder() / "data")
    if name in IDX_SETS:
        if download:
            _download(IDX_SETS[name][0], folder)
        return load_idx(name, folder)
    if name == "cifar10":
        return _cifar10(folder, download)
    check_dataset(name)
    path, notes = checks.path("dataset", name), list[str]()
    splits = load_folder(path, notes, progress) if path.is_dir() else load_arrays(path, notes)
    if notes:
        warnings.warn(f"{name}: {'; '.join(notes)}", stacklevel=2)
    return splits


def _digits() -> Splits:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]  # grey levels 0 to 16
    labels = torch.from_numpy(bunch.target).long()
    images = Images(pixels, labels, "digits", tuple(map(str, range(10))))
    return Splits(*images.split(0.2))


def _cifar10(root: Path, download: bool) -> Splits:
    import torchvision

    source = torchvision.datasets.CIFAR10
    if download:
        _download("CIFAR10", root)
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


def _download(name: str, root: Path) -> None:
    """Fetches one of torchvision's data sets."""
    import torchvision

    try:
        for train in (True, False):
            getattr(torchvision.datasets, name)(root, train=train, download=True)
    except (RuntimeError, OSError) as error:
        raise checks.fail("download", name, f"a data set that can be fetched to {root} ({error})") from error
