"""Labels as a user stores them -> indices of classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.data.images import MAX_CLASSES


def one_per_image(labels: np.ndarray, n: int, what: str, notes: list[str]) -> np.ndarray | None:
    """Integers or strings of shape `(N,)`; None, with a note, where there is not one class per image.

    Accepts integers, booleans, strings, floats that are whole numbers, a column `(N, 1)`, and one-hot rows `(N, K)`.

    Raises:
        InputError: the number of labels is not n, or they are numbers that are not whole.
    """
    if labels.ndim == 2 and labels.shape[0] == n and labels.shape[1] > 1 and labels.dtype.kind in "biuf":
        one_hot = np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all()
        if not one_hot:
            notes.append(f"{what} of shape {labels.shape} are left out: they are not one class for each image")
            return None
        labels = labels.argmax(1)
    if labels.size != n:
        raise checks.fail(what, f"shape {labels.shape}", f"shape ({n},), one label per image")
    labels = labels.reshape(n)
    if labels.dtype.kind == "f":
        if missing := int(np.isnan(labels).sum()):
            notes.append(f"{what} are left out: {missing:,} of {n:,} are missing")
            return None
        if not (labels == np.rint(labels)).all() or np.abs(labels).max() > 2**53:
            raise checks.fail(what, labels.dtype.name, "whole numbers, one for each class")
        return labels.astype(np.int64)
    if labels.dtype.kind in "biu" and (labels.dtype != np.uint64 or labels.max() < 2**63):
        return labels.astype(np.int64)
    if labels.dtype.kind == "S":
        return np.char.decode(labels, "utf-8", "replace")
    if labels.dtype.kind not in "uU":
        raise checks.fail(what, labels.dtype.name, "whole numbers or strings, one for each class")
    return labels


def as_classes(parts: Sequence[np.ndarray | None], notes: list[str]) -> tuple[list[Tensor | None], tuple[str, ...]]:
    """The labels of each part as indices of the sorted distinct labels of all parts, and the names of these classes.

    >>> as_classes([np.array([10**9, 0]), np.array([-1, 0])], notes=[])
    ([tensor([2, 1]), tensor([0, 1])], ('-1', '0', '1000000000'))
    """
    known = [part for part in parts if part is not None]
    if not known:
        return [None for _ in parts], ()
    classes = np.unique(np.concatenate(known))
    if len(classes) > MAX_CLASSES:
        notes.append(f"labels are left out: {len(classes):,} distinct ones are more than {MAX_CLASSES:,} classes")
        return [None for _ in parts], ()
    indices = [None if part is None else torch.from_numpy(np.searchsorted(classes, part)) for part in parts]
    return indices, tuple(map(str, classes))
