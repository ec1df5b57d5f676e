"""`Images`: uint8 pixels and labels; `Splits`: the training and the test images of a data set."""

from __future__ import annotations

import hashlib
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.data.batches import to_unit

MAX_CLASSES = 2**16
UNKNOWN = -1  # in the place of a label
RESERVED = ("x", "beta", "size", "labels")  # arguments of `model` and `guide` that are no covariates


@dataclass(frozen=True, eq=False)
class Images:
    """A set of images of one size.

    Args:
        pixels: uint8, shape `(N, C, H, W)`, grey levels 0 to 255, N >= 1; a tensor, or a NumPy array (which is copied
            where it is read-only).
        labels: whole numbers, shape `(N,)`, indices into `class_names`, stored as int64, and -1 where unknown; or None.
        name: of the set, in tables and file names.
        class_names: the classes in the order of the labels.
        covariates: what else is known of each image, by name: numbers of shape `(N, ...)`. Like `labels`, they reach
            the models that name them: `model(x, beta, labels)` (:func:`pyro_vae.models.base.batch_arguments`).

    Raises:
        InputError: a dtype or shape is not as above.

    >>> images = Images(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), name="black")
    >>> len(images), images.shape
    (3, (1, 8, 8))
    """

    pixels: Tensor
    labels: Tensor | None = None
    name: str = "images"
    class_names: tuple[str, ...] = ()
    covariates: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pixels = _tensor("pixels", self.pixels, "torch.uint8 of shape (N, C, H, W)")
        if pixels.dtype != torch.uint8 or pixels.dim() != 4:
            raise checks.fail("pixels", _described(pixels), "torch.uint8 of shape (N, C, H, W)")
        if 0 in pixels.shape:
            raise checks.fail("pixels", tuple(pixels.shape), "at least one image of at least one pixel")
        object.__setattr__(self, "pixels", pixels)
        if not isinstance(self.name, str):
            raise checks.fail("name", self.name, "a string")
        object.__setattr__(self, "class_names", tuple(map(str, self.class_names)))
        if self.labels is not None:
            object.__setattr__(self, "labels", self._checked_labels(len(pixels)))
        object.__setattr__(self, "covariates", _checked_covariates(self.covariates, len(pixels)))

    def _checked_labels(self, n: int) -> Tensor:
        expected = f"torch.int64 of shape ({n},), one label per image"
        labels = _tensor("labels", self.labels, expected)
        if labels.is_floating_point() or labels.is_complex() or labels.shape != (n,):
            raise checks.fail("labels", _described(labels), expected)
        labels = labels.long()
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < UNKNOWN:
            raise checks.fail("labels", lowest, f"labels of at least 0, or {UNKNOWN} where unknown")
        if highest >= MAX_CLASSES:
            expected = f"indices of classes, below {MAX_CLASSES:,} (`unique(return_inverse=True)` makes them)"
            raise checks.fail("labels", highest, expected)
        if self.class_names and highest >= len(self.class_names):
            raise checks.fail("class_names", len(self.class_names), f"at least {highest + 1}, one name for each label")
        return labels

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of each image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of shape, pixels, labels and covariates; identifies the data in caches and in provenance."""
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        for part in (self.pixels, self.labels):
            if part is not None:
                digest.update(part.cpu().contiguous().numpy().data)
        for name, values in sorted(self.covariates.items()):
            digest.update(repr((name, values.dtype, tuple(values.shape))).encode())
            digest.update(values.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def take(self, index: Tensor | slice) -> Images:
        """The images at these positions, as `Images` of the same name."""
        labels = None if self.labels is None else self.labels[index]
        covariates = {name: values[index] for name, values in self.covariates.items()}
        return replace(self, pixels=self.pixels[index], labels=labels, covariates=covariates)

    def split(self, fraction: float, seed: int = 0) -> tuple[Images, Images]:
        """Two disjoint parts, `1 - fraction` and `fraction` of the images; the same seed gives the same parts.

        Each part has at least one image.
        """
        real = isinstance(fraction, numbers.Real) and not isinstance(fraction, bool)
        if not real or not 0 < fraction < 1 or len(self) < 2:
            raise checks.fail(
                "fraction", fraction, f"a number above 0 and below 1, of at least 2 images ({len(self)} here)"
            )
        checks.seed("seed", seed)
        train, validation = split_indices(len(self), fraction, seed)
        return self.take(train), self.take(validation)

    def draw(self, n: int, seed: int = 0) -> Images:
        """n images drawn at random without replacement, or all if there are fewer; the same seed draws the same images.

        Sets from folders are sorted by class, so that the first n images would be of one class.
        """
        index = self.draw_index(n, seed)
        return self if len(index) == len(self) else self.take(index)

    def draw_index(self, n: int, seed: int = 0) -> Tensor:
        """The positions of the images that :meth:`draw` takes, sorted."""
        checks.positive_integer("n", n)
        checks.seed("seed", seed)
        if n >= len(self):
            return torch.arange(len(self))
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(int(seed)))
        return order[:n].sort().values

    def with_known_labels(self, n: int, seed: int = 0) -> Images:
        """The same images, of which n labels, drawn at random, are known, and the others are -1.

        The classes have as many each, or one more where n does not divide evenly, as far as they have images; the same
        seed keeps the same labels.

        >>> images = Images(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), [0, 0, 0, 0, 1, 1])
        >>> (images.with_known_labels(4).labels >= 0).sum().item(), images.with_known_labels(0).labels.tolist()
        (4, [-1, -1, -1, -1, -1, -1])
        """
        n, seed = checks.non_negative_integer("n", n), checks.seed("seed", seed)
        labels = torch.full((len(self),), UNKNOWN) if self.labels is None else self.labels.cpu()
        known = (labels >= 0).nonzero()[:, 0]
        if n > len(known):
            raise checks.fail("n", n, f"at most {len(known)}, the known labels of {self.name}")
        drawn = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]
        rank = torch.zeros_like(drawn)  # of each image within its class
        for label in labels[drawn].unique():
            of_class = labels[drawn] == label
            rank[of_class] = torch.arange(int(of_class.sum()))
        left = drawn[rank.argsort(stable=True)[:n]]
        partly_known = torch.full_like(labels, UNKNOWN).index_copy(0, left, labels[left])
        return replace(self, labels=partly_known.to(self.pixels.device))

    def as_float(self) -> Tensor:
        """All pixels as float32 in [0, 1], shape `(N, C, H, W)`."""
        return to_unit(self.pixels)


def class_name(label: int, class_names: Sequence[str]) -> str:
    """The name of a class, its number where there are no names, or `unknown`."""
    if label == UNKNOWN:
        return "unknown"
    return class_names[label] if class_names else str(label)


def is_binary(pixels: Tensor) -> bool:
    """Whether all pixels are black or white: 0 or 255 in uint8, 0 or 1 in floats."""
    white = 255 if pixels.dtype == torch.uint8 else 1
    return not bool(((pixels > 0) & (pixels < white)).any())


class Splits(NamedTuple):
    """The training and the test images of one data set."""

    train: Images
    test: Images


def split_indices(n: int, fraction: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Indices of `1 - fraction` and of `fraction` of n images, sorted; each part has at least one where n > 1."""
    count = min(max(round(n * fraction), 1), n - 1)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(int(seed)))
    return order[count:].sort().values, order[:count].sort().values


def _checked_covariates(covariates: object, n: int) -> dict[str, Tensor]:
    if not isinstance(covariates, Mapping):
        raise checks.fail("covariates", covariates, "numbers of each image by name, a dictionary")
    checked = {}
    for name, values in covariates.items():
        if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:
            raise checks.fail("covariates", name, f"the name of a model's argument, other than {', '.join(RESERVED)}")
        expected = f"finite numbers of shape ({n}, ...), a row for each image"
        tensor = _tensor("covariates", values, expected)
        if tensor.dim() == 0 or len(tensor) != n or tensor.is_complex():
            raise checks.fail("covariates", f"{name} with {_described(tensor)}", expected)
        if not bool(tensor.isfinite().all()):
            raise checks.fail("covariates", f"{name} with NaN or infinity", expected)
        checked[name] = tensor
    return checked


def _tensor(argument: str, values: Any, expected: str) -> Tensor:
    """A tensor unchanged; a NumPy array or a list as a writable tensor."""
    if isinstance(values, Tensor):
        return values
    try:
        array = np.ascontiguousarray(values) if isinstance(values, list | tuple | np.ndarray) else None
        if array is not None:
            return torch.from_numpy(array if array.flags.writeable else array.copy())
    except (TypeError, ValueError, OverflowError):  # a dtype that torch lacks, a ragged list
        pass
    raise checks.fail(argument, type(values).__name__, expected)


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def train_validation_split(images: Images, fraction: float, seed: int) -> tuple[Images, Images | None]:
    """The training images, and a `fraction` of them held out for validation; None where the fraction is 0."""
    return images.split(fraction, seed) if fraction else (images, None)
