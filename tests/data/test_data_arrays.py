"""A user's own arrays: which keys, numbers and labels are understood, and what is said of those that are not."""

import gzip
import hashlib
import re
import tracemalloc

import numpy as np
import pytest
import torch

from pyro_vae import Images, load_data
from pyro_vae._utils.checks import InputError
from pyro_vae.data import binarize

GREY = np.random.default_rng(0).integers(0, 256, (20, 5, 7), dtype=np.uint8)
BITS = np.random.default_rng(1).integers(0, 2, (20, 5, 7), dtype=np.uint8)


def load(path, **arrays):
    np.savez(path / "mine.npz", **arrays)
    return load_data(path / "mine.npz")


def whole(splits):
    """All pixels in the order of the tenth that is held out, which is that of `Images.split`."""
    train, test = Images(torch.arange(20, dtype=torch.uint8).reshape(20, 1, 1, 1)).split(0.1)
    indices = torch.cat([train.pixels, test.pixels]).flatten().long()
    return torch.cat([part.pixels for part in splits])[indices.argsort()]


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (GREY, GREY),
        (np.asfortranarray(GREY), GREY),
        (GREY[..., None], GREY),
        (BITS.astype(bool), BITS * 255),
        (GREY / 255, GREY),
        ((GREY / 255).astype(np.float16), GREY),
        (np.asfortranarray((GREY / 255).astype(np.float32)), GREY),
        (np.where(GREY > 127, 1 + 5e-7, -5e-7), (GREY > 127) * 255),
        (np.where(GREY > 127, np.float16(1.001), 0).astype(np.float16), (GREY > 127) * 255),
        (GREY.astype(np.uint16) << 8, GREY),
        (GREY.astype(">u2") << 8, GREY),
    ],
)
def test_pixels_are_taken_as_they_are_stored(tmp_path, stored, expected):
    pixels = whole(load(tmp_path, images=stored))
    assert torch.equal(pixels[:, 0], torch.from_numpy(expected.astype(np.uint8)))


@pytest.mark.parametrize(
    ("stored", "expected", "note"),
    [
        (BITS, BITS * 255, "the pixels hold only 0 and 1, which are taken as black and white"),
        (BITS.astype(np.uint16), BITS * 255, "only 0 and 1"),
        (GREY.astype(np.uint16), GREY, "reach 255 and are taken as 8-bit values, up to 255"),
        (GREY.astype(np.uint16) << 2, GREY, "reach 1,020 and are taken as 10-bit values, up to 1,023"),
        (GREY.astype(np.uint16) << 4, GREY, "reach 4,080 and are taken as 12-bit values, up to 4,095"),
        (GREY.astype(np.uint16) << 6, GREY, "taken as 14-bit values"),
        (GREY // 16, GREY // 16, "the images are dark: their brightest pixel is 15 of 255"),
        (GREY / 255 / 255, np.rint(GREY / 255), "the images are dark: their brightest pixel is 1 of 255"),
    ],
)
def test_a_scale_that_is_not_the_types_is_said(tmp_path, stored, expected, note):
    with pytest.warns(UserWarning, match=note):
        pixels = whole(load(tmp_path, images=stored))
    assert torch.equal(pixels[:, 0], torch.from_numpy(expected.astype(np.uint8)))


def test_training_and_test_images_have_one_scale(tmp_path):
    """The brightest training image has 12 bits, so the test images, of which none does, have 12 as well."""
    with pytest.warns(UserWarning, match="12-bit"):
        train, test = load(tmp_path, x_train=GREY.astype(np.uint16) << 4, x_test=GREY.astype(np.uint16))
    assert (int(train.pixels.max()), int(test.pixels.max())) == (255, 15)
    dark = np.zeros_like(BITS)
    dark[0, 0, 0] = 1
    with pytest.warns(UserWarning, match="only 0 and 1"):
        train, test = load(tmp_path, x_train=BITS, x_test=dark)
    assert (int(train.pixels.max()), int(test.pixels.max()), int(test.pixels.sum())) == (255, 255, 255)
    train, test = load(tmp_path, x_train=GREY, x_test=BITS)
    assert int(test.pixels.max()) == 1


@pytest.mark.parametrize("how", ["threshold", "static", "dynamic"])
def test_binarizing_what_is_nearly_black_is_said(how):
    bits = Images(BITS[:, None], name="bits")
    with pytest.warns(UserWarning, match="bits: the pixels hold only 0 and 1.*multiply them by 255"):
        binarize(bits, how)


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        ([0, 10**9], [0, 1], ("0", "1000000000")),
        ([3, 1], [1, 0], ("1", "3")),
        ([-1, 1], [0, 1], ("-1", "1")),
        (np.array([2**63, 0], np.uint64), [1, 0], ("0", "9223372036854775808")),
        ([5.0, 2.0], [1, 0], ("2", "5")),
        ([True, False], [1, 0], ("0", "1")),
        ([[7], [4]], [1, 0], ("4", "7")),
        ([[0, 0, 1], [1, 0, 0]], [1, 0], ("0", "2")),
        ([[0.0, 1.0], [1.0, 0.0]], [1, 0], ("0", "1")),
        (["dog", "cat"], [1, 0], ("cat", "dog")),
        ([b"dog", b"cat"], [1, 0], ("cat", "dog")),
    ],
)
def test_classes_are_the_labels_that_occur(tmp_path, labels, expected, names):
    train, test = load(tmp_path, x_train=GREY, y_train=np.repeat(labels, 10, axis=0), x_test=GREY[:2], y_test=labels)
    assert test.labels.tolist() == expected
    assert train.labels.tolist() == np.repeat(expected, 10).tolist()
    assert train.class_names == test.class_names == names


def test_classes_are_those_of_both_sets(tmp_path):
    train, test = load(tmp_path, x_train=GREY[:2], y_train=[4, 9], x_test=GREY[:2], y_test=[9, 5])
    assert train.class_names == test.class_names == ("4", "5", "9")
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 2], [2, 1])


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (np.eye(20, 3), r"mine.npz: labels of shape \(20, 3\) are left out: they are not one class for each image"),
        (np.where(np.arange(20) < 5, np.nan, 1), "labels are left out: 5 of 20 are missing"),
        (np.arange(20), "labels are left out: 20 distinct ones are more than 10 classes"),
        (np.array([None] * 20), r"entries left out: 1, labels \(pickled\)"),
    ],
)
def test_labels_that_are_no_classes_are_left_out_and_said(tmp_path, monkeypatch, labels, note):
    monkeypatch.setattr("pyro_vae.data.formats.labels.MAX_CLASSES", 10)
    with pytest.warns(UserWarning, match=note):
        train, test = load(tmp_path, images=GREY, labels=labels)
    assert (train.labels, test.labels, len(train)) == (None, None, 18)


@pytest.mark.parametrize(
    ("keys", "sizes", "note"),
    [
        ("train_images train_labels test_images test_labels", (20, 10), None),
        ("train_images train_labels val_images val_labels test_images test_labels", (20, 10), r"left out: 10 \(train"),
        ("train_images train_labels val_images val_labels", (20, 10), "the validation images are the test set"),
        ("X_train y_train X_test y_test", (20, 10), None),
        ("training_x training_y testing_x testing_y", (20, 10), None),
        ("x_train y_train", (18, 2), None),
        ("data target", (18, 2), None),
        ("X y", (18, 2), None),
    ],
)
def test_keys_in_use_elsewhere(tmp_path, keys, sizes, note, recwarn):
    arrays = {}
    for key in keys.split():
        words = set(key.casefold().split("_"))
        array = np.arange(20)[:, None] % 4 if words & {"y", "labels", "target"} else GREY
        arrays[key] = array[:10] if words & {"val", "test", "testing"} else array
    train, test = load(tmp_path, **arrays)
    assert (len(train), len(test)) == sizes
    assert train.class_names == test.class_names == ("0", "1", "2", "3")
    assert len(recwarn) == (note is not None)
    assert note is None or re.search(note, str(recwarn[0].message))


def test_what_is_pickled_beside_good_images_is_left_out(tmp_path):
    with pytest.warns(UserWarning, match=r"entries left out: 2, meta \(pickled\), scale \(unknown\)"):
        train, _ = load(tmp_path, images=GREY, labels=np.arange(20) % 2, meta=np.array([{"by": "me"}]), scale=1.0)
    assert train.class_names == ("0", "1")


def test_npy_files_and_suffixes_in_any_case(tmp_path, monkeypatch):
    np.save(tmp_path / "mine.npy", GREY)
    assert torch.equal(whole(load_data(tmp_path / "mine.npy"))[:, 0], torch.from_numpy(GREY))
    np.savez(tmp_path / "mine.npz", images=GREY)
    (tmp_path / "mine.npz").rename(tmp_path / "MINE.NPZ")
    assert len(load_data(str(tmp_path / "MINE.NPZ")).train) == 18
    np.save(tmp_path / "bad.npy", np.array([{}]))
    with pytest.raises(InputError, match=r"bad.npy', expected a readable .npy file without pickled objects"):
        load_data(tmp_path / "bad.npy")
    (tmp_path / "bad.npy").write_bytes((tmp_path / "mine.npy").read_bytes()[:-1])
    with pytest.raises(InputError, match=r"bad.npy', expected a readable .npy file.*not those of an array of shape"):
        load_data(tmp_path / "bad.npy")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert len(load_data("~/mine.npy").train) == 18


@pytest.mark.parametrize("name", [None, 3, ["digits"]])
def test_what_is_no_name_is_one_line(name):
    with pytest.raises(InputError, match="dataset: given .*, expected a name or a path"):
        load_data(name)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.uint16])
@pytest.mark.parametrize("keys", [("images",), ("x_train", "x_test")])
def test_files_are_streamed(tmp_path, dtype, keys):
    """At most 1.5 times the uint8 pixels are held at any time."""
    n, side = 12_000, 32
    pixels = np.broadcast_to(np.linspace(0, 1, side, dtype=np.float32), (n // len(keys), side, side))
    scale = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    np.savez(tmp_path / "large.npz", **dict.fromkeys(keys, (pixels * scale).astype(dtype)))
    del pixels
    tracemalloc.start()
    try:
        splits = load_data(tmp_path / "large.npz")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(len(part) for part in splits) == n
    assert peak < 1.5 * n * side**2


def write_idx(folder, name, array, compressed):
    header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    content = header + array.tobytes()
    path = folder / (f"{name}.gz" if compressed else name)
    path.write_bytes(gzip.compress(content) if compressed else content)
    return hashlib.md5(content).hexdigest()


@pytest.mark.parametrize("compressed", [(True,) * 4, (False, True, True, False)])
def test_idx_files_as_published(tmp_path, monkeypatch, compressed):
    from pyro_vae.data.formats import idx

    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    arrays = {
        "train-images-idx3-ubyte": GREY,
        "train-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": GREY[:5],
        "t10k-labels-idx1-ubyte": np.arange(5, dtype=np.uint8),
    }
    sums = [write_idx(raw, *item, packed) for item, packed in zip(arrays.items(), compressed, strict=True)]
    monkeypatch.setitem(idx.IDX_SETS, "mnist", ("MNIST", *sums))
    train, test = load_data("mnist", tmp_path)
    assert torch.equal(train.pixels[:, 0], torch.from_numpy(GREY))
    assert test.labels.tolist() == [0, 1, 2, 3, 4]


def test_damaged_compressed_idx_files(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    write_idx(raw, "train-images-idx3-ubyte", GREY, compressed=True)
    with pytest.raises(InputError, match=r"ubyte.gz', expected the published file with md5 6bbc"):
        load_data("mnist", tmp_path)
    path = raw / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"ubyte.gz', expected a whole .gz file"):
        load_data("mnist", tmp_path)


def test_images_take_arrays_and_lists():
    read_only = GREY[:, None].copy()
    read_only.flags.writeable = False
    for pixels in (GREY[:, None], GREY[::-1, None], read_only):
        images = Images(pixels, list(range(20)))
        assert images.pixels.tolist() == pixels.tolist()
        assert images.labels.dtype == torch.int64
    images.pixels.zero_()  # of a copy
    assert read_only.any()
    assert Images(GREY[:, None], np.arange(20, dtype=np.int16)).labels.tolist() == list(range(20))
    assert Images(GREY[:, None], torch.arange(20, dtype=torch.int32), class_names=range(20)).class_names[3] == "3"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Images("digits"), "pixels: given 'str', expected torch.uint8"),
        (lambda: Images([[1], [1, 2]]), "pixels: given 'list', expected torch.uint8"),
        (lambda: Images(np.zeros((2, 1, 4, 4))), "pixels: given 'torch.float64 of shape"),
        (lambda: Images(np.array([None])), "pixels: given 'ndarray', expected torch.uint8"),
        (lambda: Images(GREY[:, None], np.zeros(20)), "labels: given 'torch.float64 of shape"),
        (lambda: Images(GREY[:, None], "abc"), "labels: given 'str', expected torch.int64 of shape"),
        (
            lambda: Images(GREY[:, None], [-2] * 20),
            "labels: given -2, expected labels of at least 0, or -1 where unknown",
        ),
        (lambda: Images(GREY[:, None], [0, 10**9] * 10), "labels: given 1000000000, expected indices .* below 65,536"),
        (lambda: Images(GREY[:, None], [2] * 20, class_names=("a", "b")), "class_names: given 2, expected at least 3"),
        (lambda: Images(GREY[:, None], name=None), "name: given None, expected a string"),
        (lambda: Images(GREY[:, None]).split("0.1"), "fraction: given '0.1'"),
        (lambda: Images(GREY[:, None]).split(0.1, seed=-1), "seed: given -1"),
        (lambda: Images(GREY[:, None]).draw(3, seed="a"), "seed: given 'a'"),
    ],
)
def test_bad_arguments_of_images_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
