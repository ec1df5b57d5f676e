"""CelebA's attribute file, and how its lines are matched to the pictures of a folder."""

import numpy as np
import pytest
from PIL import Image

from pyro_vae import load_data
from pyro_vae._utils.checks import InputError
from pyro_vae.data.formats.attribute_file import attributes_of_folder, read_attributes

GOOD = "3\nSmiling Young \n000001.jpg  1 -1\n000002.jpg -1 -1\n000003.jpg  1  1\n"


def written(tmp_path, text, name="attributes.txt"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def pictures(folder, names):
    """Pictures whose grey level is the number in their name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 6), int(path.stem)).save(path)
    return folder


def test_a_file_is_read(tmp_path):
    names, values = read_attributes(written(tmp_path, GOOD))
    assert names == ["000001.jpg", "000002.jpg", "000003.jpg"]
    assert {name: each.tolist() for name, each in values.items()} == {
        "Smiling": [True, False, True],
        "Young": [False, False, True],
    }


@pytest.mark.parametrize(
    "layout",
    [[f"{i:06}.png" for i in range(100, 140)], [f"{'test' if i % 4 else 'train'}/{i:06}.png" for i in range(100, 140)]],
)
def test_lines_are_matched_by_file_name(tmp_path, layout):
    """In another order, of converted pictures, beside lines of others."""
    folder = pictures(tmp_path / "faces", layout)
    numbers = np.random.default_rng(0).permutation(np.arange(90, 150))
    lines = "".join(f"{i:06}.jpg {1 if i % 2 else -1} {1 if i > 120 else -1}\n" for i in numbers)
    path = written(tmp_path, f"{len(numbers)}\nOdd Late\n{lines}")
    for images, values in zip(load_data(folder, progress=False), attributes_of_folder(path, folder), strict=True):
        level = images.pixels[:, 0, 0, 0]
        assert (values["Odd"] == (level % 2 == 1)).all()
        assert (values["Late"] == (level > 120)).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "CelebA's format"),
        ("Smiling\n1.jpg 1\n2.jpg 1\n", "CelebA's format"),
        ("3\nSmiling Young\n", "CelebA's format"),
        (b"\xff\xfe\x00\n", "a text file that can be read"),
        (GOOD.replace("3\n", "4\n", 1), r"with 3 pictures', expected 4"),
        (GOOD.replace("Young", "Smiling"), "two attributes 'Smiling'"),
        (
            GOOD.replace("000002.jpg -1", "000002.jpg"),
            "line '000002.jpg -1'.*, expected a file name and 1 or -1 for each of 2",
        ),
        (GOOD.replace("000002.jpg -1", "000002.jpg 0"), "line '000002.jpg 0 -1'"),
        (GOOD.replace("000002", "000001"), "two pictures '000001'"),
        (GOOD.replace("000002", "000009"), "without the picture '000002'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, text, message):
    folder = pictures(tmp_path / "faces", ["000001.png", "000002.png", "000003.png"])
    with pytest.raises(InputError, match=message):
        attributes_of_folder(written(tmp_path, text), folder)


def test_a_data_set_without_file_names_is_refused(tmp_path):
    with pytest.raises(InputError, match="dataset: given 'digits', expected a folder of pictures"):
        attributes_of_folder(written(tmp_path, GOOD), "digits")
    with pytest.raises(InputError, match="attribute file: given .*missing.txt', expected a text file"):
        read_attributes(tmp_path / "missing.txt")
    folder = pictures(tmp_path / "faces", ["a/000001.png", "b/000001.png", "b/000002.png"])
    with pytest.raises(InputError, match="faces with two pictures '000001'"):
        attributes_of_folder(written(tmp_path, GOOD), folder)
