"""Training and test images of a data set: by the names of its parts, or by holding out a fixed tenth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from itertools import takewhile
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.data.images import Images, Splits, split_indices

TEST_SHARE = 0.1  # of a user's own images, where they have no test set

_NAMES = {
    "train": ("train", "training", "trn", "tr"),
    "validation": ("validation", "valid", "val", "development", "dev"),
    "test": ("test", "testing", "tst", "te", "ts", "evaluation", "eval", "holdout"),
}
_SPLITS = {name: split for split, names in _NAMES.items() for name in names}
_CLEAR = ("train", "training", "validation", "valid", "val", "test", "testing")  # the others may be classes
_FORM = re.compile(r"(?:images?|imgs?|data)?[ _.-]*([a-z]+?)[ _.-]*(?:set|split|data|images?|imgs?)?[ _.-]*\d*")
_BETWEEN_WORDS = re.compile(r"[\W_]+|(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

Part = TypeVar("Part", bound=Sized)


def split_of(name: str) -> str | None:
    """`train`, `validation` or `test`, in any case and common spelling; None for any other name.

    >>> split_of("Training_set"), split_of("val2017"), split_of("imagesTs"), split_of("cat")
    ('train', 'validation', 'test', None)
    """
    return _SPLITS.get(_core(name))


def is_clear(name: str) -> bool:
    """Whether a name is clearly that of a split; `tr` and `dev`, say, may be names of classes."""
    return _core(name) in _CLEAR


def clear_words(name: str) -> set[str]:
    """Those of the words of a name, and the name itself, that are clearly names of splits.

    >>> sorted(clear_words("trainA")), sorted(clear_words("Test-set")), clear_words("trainer")
    (['train'], ['test', 'test-set'], set())
    """
    return {word.casefold() for word in (name, *_BETWEEN_WORDS.split(name)) if is_clear(word)}


def splits_of(names: Sequence[str]) -> list[str] | None:
    """The split of each name, after any common beginning and end; None unless every name is that of a split.

    >>> splits_of(["mnist_test", "mnist_train"]), splits_of(["trainHR", "validHR"]), splits_of(["train", "cat"])
    (['test', 'train'], ['train', 'validation'], None)
    """
    cores = list(names)
    if not all(map(split_of, cores)) and len(names) > 1:
        words = [[word.casefold() for word in _BETWEEN_WORDS.split(name)] for name in names]
        cores = [" ".join(own) for own in _without_common(_without_common(words))]
    splits = [split for name in cores if (split := split_of(name))]
    clear = "train" in splits or any(map(is_clear, cores))
    return splits if clear and len(splits) == len(cores) else None


def by_split(names: Iterable[str], splits: Iterable[str], where: str) -> dict[str, str]:
    """The name of each split.

    Raises:
        InputError: two names are of the same split, or there is no training set.
    """
    of_split: dict[str, str] = {}
    for name, split in zip(names, splits, strict=True):
        if split in of_split:
            raise checks.fail("dataset", f"{where} with {of_split[split]!r} and {name!r}", f"one {split} set")
        of_split[split] = name
    if of_split and "train" not in of_split:
        names = ", ".join(map(repr, of_split.values()))
        raise checks.fail("dataset", f"{where} with {names}", "a set named train as well")
    return of_split


def train_and_test(parts: Mapping[str, Part], notes: list[str]) -> tuple[Part, Part | None]:
    """The training set, and the test set if there is one.

    A validation set is used as the test set if there is no other; else it is left out, because training holds out its
    own validation images, and results stay those of the published training set.
    """
    if "test" in parts and "validation" in parts:
        notes.append(
            f"validation images left out: {len(parts['validation']):,} (training holds out some of the training images)"
        )
    if "test" not in parts and "validation" in parts:
        notes.append("the validation images are the test set, as there is no other")
    return parts["train"], parts.get("test", parts.get("validation"))


class Order(NamedTuple):
    """The row of each stored image among all pixels; training images have the first rows."""

    rows: np.ndarray
    num_train: int


def order(sizes: Sequence[int]) -> Order:
    """The order of training and then test images; of training images alone, a fixed tenth becomes the test set."""
    if len(sizes) > 1:
        return Order(np.arange(sum(sizes)), sizes[0])
    train, test = split_indices(sizes[0], TEST_SHARE)
    return Order(torch.cat([train, test]).argsort().numpy(), len(train))


def to_splits(
    pixels: np.ndarray, order: Order, labels: Sequence[Tensor | None], name: str, class_names: tuple[str, ...]
) -> Splits:
    """The two sets; `pixels` are in the rows of `order`, `labels` those of each stored part in stored order."""
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


def _without_common(rows: Sequence[list[str]]) -> list[list[str]]:
    """Rows of words without the words that all rows begin with, each row reversed."""
    shared = len([*takewhile(lambda words: len({*words}) == 1, zip(*rows, strict=False))])
    return [row[shared:][::-1] for row in rows]


def _core(name: str) -> str:
    form = _FORM.fullmatch(name.casefold())
    return form[1] if form else ""
