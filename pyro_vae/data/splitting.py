"""Which images of a data set are for training and which for testing: by the names of its parts, or a fixed tenth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.data.images import Images, Splits, split_places

TEST_SHARE = 0.1  # of a user's own images that come without a test set

_NAMES = {
    "train": ("train", "training", "trn", "tr"),
    "validation": ("validation", "valid", "val", "development", "dev"),
    "test": ("test", "testing", "tst", "te", "ts", "evaluation", "eval", "holdout"),
}
_SPLITS = {name: split for split, names in _NAMES.items() for name in names}
_CLEAR = ("train", "training", "validation", "valid", "val", "test", "testing")  # the others may be classes
_FORM = re.compile(r"(?:images?|imgs?|data)?[ _.-]*([a-z]+?)[ _.-]*(?:set|split|data|images?|imgs?)?[ _.-]*\d*")

Part = TypeVar("Part", bound=Sized)


def split_of(name: str) -> str | None:
    """`train`, `validation` or `test`, in any case and common spelling; None for any other name.

    >>> split_of("Training_set"), split_of("val2017"), split_of("imagesTs"), split_of("cat")
    ('train', 'validation', 'test', None)
    """
    return _SPLITS.get(_core(name))


def is_clear(name: str) -> bool:
    """Whether a name can hardly be one of a class, as `tr` and `dev` may be."""
    return _core(name) in _CLEAR


def by_split(names: Iterable[str], where: str) -> dict[str, str]:
    """The name of each split.

    Raises:
        InputError: two names are of one split, or there is none to train on.
    """
    found: dict[str, str] = {}
    for name in names:
        split = str(split_of(name))
        if split in found:
            raise checks.fail("dataset", f"{where} with {found[split]!r} and {name!r}", f"one {split} set")
        found[split] = name
    if found and "train" not in found:
        given = ", ".join(map(repr, found.values()))
        raise checks.fail("dataset", f"{where} with {given}", "a set named train as well")
    return found


def train_and_test(parts: Mapping[str, Part], notes: list[str]) -> tuple[Part, Part | None]:
    """The part to train on, and the one to test with where there is one.

    A validation set is the test set where there is no other; else it is left out, because training holds out images of
    its own, and results stay those of the published training set.
    """
    if "test" in parts and "validation" in parts:
        notes.append(
            f"validation images left out: {len(parts['validation']):,} (training holds out some of the training images)"
        )
    if "test" not in parts and "validation" in parts:
        notes.append("the validation images are the test set, as there is no other")
    return parts["train"], parts.get("test", parts.get("validation"))


class Order(NamedTuple):
    """The row of each image, as they are stored, among all pixels; those to train on are the first rows."""

    rows: np.ndarray
    num_train: int


def order(sizes: Sequence[int]) -> Order:
    """Of training and test images, one after the other; of training images alone, a fixed tenth is to test with."""
    if len(sizes) > 1:
        return Order(np.arange(sum(sizes)), sizes[0])
    kept, held_out = split_places(sizes[0], TEST_SHARE)
    return Order(torch.cat([kept, held_out]).argsort().numpy(), len(kept))


def to_splits(
    pixels: np.ndarray, order: Order, labels: Sequence[Tensor | None], name: str, class_names: tuple[str, ...]
) -> Splits:
    """The two sets; `pixels` lie in the order's rows, `labels` are of each stored part and in its order."""
    if order.num_train == len(pixels):
        raise checks.fail("dataset", f"{name} with 1 image", "at least 2, one of them to test with")
    if len(labels) == 1 and labels[0] is not None:
        ordered = torch.empty_like(labels[0])
        ordered[torch.from_numpy(order.rows)] = labels[0]
        labels = [ordered[: order.num_train], ordered[order.num_train :]]
    halves = pixels[: order.num_train], pixels[order.num_train :]
    train, test = (
        Images(torch.from_numpy(half), label, name, () if label is None else class_names)
        for half, label in zip(halves, (labels[0], labels[-1]), strict=True)
    )
    return Splits(train, test)


def _core(name: str) -> str:
    form = _FORM.fullmatch(name.casefold())
    return form[1] if form else ""
