"""CelebA's attribute file: which of some attributes each picture of a folder has."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.data.formats.folders import file_names

_FORMAT = "CelebA's format: the number of pictures, a line of names, and a line of a file name and 1 or -1 for each"


def read_attributes(path: str | os.PathLike[str]) -> tuple[list[str], dict[str, Tensor]]:
    """File names, and whether each picture has an attribute, boolean `(N,)` by the attribute's name.

    The format is that of CelebA's `list_attr_celeba.txt`: the number of pictures; a line with the names of the
    attributes; and for each picture a line with its file name and 1 or -1 for each attribute, separated by spaces.

    Raises:
        InputError: a file that can't be read, or which is not of this format; the message names the line.

    Source: Liu et al., "Deep learning face attributes in the wild", 2015, https://arxiv.org/abs/1411.7766

    >>> path = getfixture("tmp_path") / "attributes.txt"
    >>> _ = path.write_text("2\\nSmiling Young\\n000001.jpg  1 -1\\n000002.jpg -1 -1\\n")
    >>> read_attributes(path)
    (['000001.jpg', '000002.jpg'], {'Smiling': tensor([ True, False]), 'Young': tensor([False, False])})
    """
    path = checks.path("attribute file", path)
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise checks.fail("attribute file", str(path), f"a text file that can be read ({reason})") from error
    if len(lines) < 3 or len(lines[0]) != 1 or not lines[0][0].isdecimal():
        raise checks.fail("attribute file", str(path), _FORMAT)
    count, names, rows = int(lines[0][0]), lines[1], lines[2:]
    if count != len(rows):
        raise checks.fail("attribute file", f"{path} with {len(rows):,} pictures", f"{count:,}, as its first line says")
    if repeated := _repeated(names):
        raise checks.fail("attribute file", f"{path} with two attributes {repeated!r}", "each name once")
    for row in rows:
        if len(row) != len(names) + 1 or not {*row[1:]} <= {"1", "-1"}:
            expected = f"a file name and 1 or -1 for each of {len(names)} attributes"
            raise checks.fail("attribute file", f"{path} with the line {' '.join(row)!r}", expected)
    values = torch.tensor([[value == "1" for value in row[1:]] for row in rows])
    return [row[0] for row in rows], dict(zip(names, values.unbind(1), strict=True))


def attributes_of_folder(
    path: str | os.PathLike[str], dataset: str | os.PathLike[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Whether each training and each test image of a folder of pictures has an attribute, in the folder's order.

    Rows are matched to pictures by file name, without its suffix, as pictures may have been converted; rows of other
    pictures are left out.

    Args:
        path: of the attribute file (:func:`read_attributes`).
        dataset: the folder that :func:`~pyro_vae.data.load_data` was given.

    Raises:
        InputError: a data set that is no folder, a picture without a row, or two rows or pictures of one name.
    """
    folder = checks.path("dataset", dataset)
    if not folder.is_dir():
        expected = "a folder of pictures, whose file names the lines of an attribute file are matched by"
        raise checks.fail("dataset", str(dataset), expected)
    names, values = read_attributes(path)
    rows = [os.path.splitext(name)[0] for name in names]
    parts = [[os.path.splitext(name)[0] for name in part] for part in file_names(folder)]
    for stems, where in ((rows, f"attribute file {path}"), ([stem for part in parts for stem in part], str(folder))):
        if repeated := _repeated(stems):
            raise checks.fail("attribute file", f"{where} with two pictures {repeated!r}", "each name once")
    row_of = {stem: row for row, stem in enumerate(rows)}
    for stem in (stem for part in parts for stem in part):
        if stem not in row_of:
            raise checks.fail("attribute file", f"{path} without the picture {stem!r}", f"a line for each of {folder}")
    train, test = (torch.tensor([row_of[stem] for stem in part]) for part in parts)
    return _taken(values, train), _taken(values, test)


def _taken(values: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: each[rows] for name, each in values.items()}


def _repeated(names: list[str]) -> str | None:
    """A name that is there twice."""
    name, count = Counter(names).most_common(1)[0]
    return name if count > 1 else None
