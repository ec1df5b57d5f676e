import hashlib
import pickle

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from pyro_vae import Images, load_data
from pyro_vae._utils.checks import InputError
from pyro_vae._utils.device import choose_device, resident
from pyro_vae.data import binarize
from pyro_vae.data.batches import batches, binarized

CPU = torch.device("cpu")


def save_image(path, size=(8, 6), mode="L", value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(path)


def test_digits_are_all_there(digits):
    from sklearn.datasets import load_digits

    assert len(digits.train) + len(digits.test) == 1797
    assert digits.train.shape == (1, 8, 8)
    together = torch.cat([digits.train.pixels, digits.test.pixels]).double().sum().item()
    assert together == pytest.approx(np.rint(load_digits().images * 255 / 16).sum())
    assert load_data("digits").train.fingerprint == digits.train.fingerprint


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "mean"), [("mnist", 0.1307), ("fashion-mnist", 0.2860)])
def test_real_sets_have_their_published_mean(real_data, name, mean):
    train, test = load_data(name, real_data)
    assert train.pixels.shape == (60_000, 1, 28, 28)
    assert test.pixels.shape == (10_000, 1, 28, 28)
    assert train.pixels.double().mean().item() / 255 == pytest.approx(mean, abs=1e-4)
    assert test.labels.bincount().min() > 800
    assert len(train.class_names) == 10


@pytest.mark.real_data
def test_the_root_can_come_from_the_environment(real_data, monkeypatch):
    monkeypatch.setenv("PYRO_VAE_DATA", str(real_data))
    assert load_data("mnist").train.name == "mnist"


def test_idx_files_are_checked_before_use(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte.*`pyro-vae data fetch mnist`"):
        load_data("mnist", tmp_path)
    raw.mkdir(parents=True)
    header = bytes((0, 0, 8, 3)) + b"".join(size.to_bytes(4, "big") for size in (2, 28, 28))
    for content, message in [
        (b"\x1f\x8b\x08\x00" + bytes(100), "begins with 00000803, not 1f8b0800"),
        (b"", "begins with 00000803"),
        (header + bytes(100), "1584 bytes, not 116: it is truncated"),
        (header + bytes(2 * 784), "md5 6bbc9ace898e44ae57da46a324031adb, not"),
    ]:
        (raw / "train-images-idx3-ubyte").write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_data("mnist", tmp_path)


@pytest.mark.real_data
def test_what_is_checked_is_what_is_loaded(real_data, tmp_path):
    """torchvision would take files of an older layout, unchecked, before the ones whose sums were right."""
    (tmp_path / "MNIST" / "processed").mkdir(parents=True)
    (tmp_path / "MNIST" / "raw").symlink_to(real_data / "MNIST" / "raw")
    for name in ("training", "test"):
        torch.save(
            (torch.zeros(7, 28, 28, dtype=torch.uint8), torch.zeros(7).long()),
            tmp_path / "MNIST" / "processed" / f"{name}.pt",
        )
    assert len(load_data("mnist", tmp_path).train) == 60_000


def test_cifar10_comes_through_torchvision(tmp_path, monkeypatch):
    source = torchvision.datasets.CIFAR10
    with pytest.raises(InputError, match="CIFAR-10's files, whole"):
        load_data("cifar10", tmp_path)

    def write(name, content):
        path = tmp_path / source.base_folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(content))
        return name, hashlib.md5(path.read_bytes()).hexdigest()

    pixels = np.arange(2 * 3072, dtype=np.uint64).astype(np.uint8).reshape(2, 3072)
    made = write("data_batch_1", {"data": pixels, "labels": [3, 1]})
    names = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(source, "train_list", [made])
    monkeypatch.setattr(source, "test_list", [made])
    monkeypatch.setattr(source, "meta", {"filename": names[0], "key": "label_names", "md5": names[1]})
    train, _ = load_data("cifar10", tmp_path)
    assert train.pixels.shape == (2, 3, 32, 32)
    assert torch.equal(train.pixels.flatten(), torch.from_numpy(pixels).flatten())
    assert train.labels.tolist() == [3, 1]
    monkeypatch.setattr(source, "train_list", [(made[0], "0" * 32)])
    with pytest.raises(InputError, match="CIFAR-10's files, whole"):
        load_data("cifar10", tmp_path)


def test_npz_with_one_set_is_split_and_grey_levels_survive(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 5, 7), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.arange(20) % 4)
    train, test = load_data(str(tmp_path / "mine.npz"))
    assert (len(train), len(test), train.shape, train.name) == (18, 2, (1, 5, 7), "mine")
    seen = torch.cat([train.pixels, test.pixels]).flatten(1).sort(0).values
    assert torch.equal(seen, torch.from_numpy(images).flatten(1).sort(0).values)


def test_npz_with_train_and_test_and_colours_last(tmp_path):
    colours = np.random.default_rng(0).random((4, 5, 7, 3), dtype=np.float32)
    np.savez(tmp_path / "mine.npz", x_train=colours, x_test=colours[:2])
    train, test = load_data(str(tmp_path / "mine.npz"))
    assert (train.shape, len(test), train.labels) == ((3, 5, 7), 2, None)
    expected = torch.from_numpy(colours).permute(0, 3, 1, 2)
    assert (train.as_float() - expected).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros((2, 4, 4), np.uint8)}, "arrays `images`"),
        ({"images": np.full((2, 4, 4), np.nan)}, "NaN or infinity among the pixels, expected floats|NaN or infinity"),
        ({"images": np.full((2, 4, 4), 2.0)}, "pixels from 2 to 2"),
        ({"images": np.full((2, 4, 4), -0.1)}, "pixels from -0.1"),
        ({"images": np.zeros((2, 4, 4), np.int64)}, "int64.*expected uint8, or floats"),
        ({"images": np.zeros((2, 4, 4), np.uint32)}, "uint32.*expected uint8, or floats"),
        ({"images": np.full((2, 4, 4), 1.00001, np.float32)}, "pixels from 1.00001 to 1.00001"),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, "at least one image"),
        ({"images": np.zeros((2, 4), np.uint8)}, r"shape \(N, H, W\)"),
        ({"images": np.zeros((2, 4, 4, 5), np.uint8)}, r"with C = 1 or 3"),
        ({"images": np.zeros((3, 4, 4), np.uint8), "labels": np.zeros(2, np.int64)}, "one label per image"),
        ({"images": np.zeros((3, 4, 4), np.uint8), "y": np.array([1j, 2, 3])}, "y: given 'complex128', expected whole"),
        ({"images": np.array([{}])}, "without pickled objects"),
        (
            {"images": np.zeros((3, 4, 4), np.uint8), "labels": np.array([0, 0.5, 1])},
            "labels: given 'float64', expected whole",
        ),
        ({"images": np.zeros((3, 4, 4), np.uint8), "labels": np.array([0, np.inf, 1])}, "labels: given 'float64'"),
        ({"images": np.zeros((3, 4, 4), np.uint8), "labels": np.array(1)}, "labels: given 'a single value'"),
        ({"images": np.zeros((1, 4, 4), np.uint8)}, "with 1 image', expected at least 2"),
        (
            {"x_test": np.zeros((3, 4, 4), np.uint8)},
            "with 'test'', expected a set named train as well|a set named train",
        ),
        (
            {"x_train": np.zeros((3, 4, 4), np.uint8), "train_images": np.zeros((3, 4, 4), np.uint8)},
            "with x_train and train_images', expected one array of images of the train set",
        ),
        (
            {"x_train": np.zeros((3, 4, 4), np.uint8), "images": np.zeros((3, 4, 4), np.uint8)},
            "expected arrays `images`",
        ),
        (
            {"x_train": np.zeros((3, 4, 4), np.uint8), "x_test": np.zeros((3, 5, 4), np.uint8)},
            r"test images of shape \(1, 5, 4\)', expected \(1, 4, 4\), as in training",
        ),
    ],
)
def test_bad_arrays_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load_data(str(tmp_path / "bad.npz"))


def test_damaged_npz(tmp_path):
    np.savez(tmp_path / "bad.npz", images=np.zeros((20, 8, 8), np.uint8))
    content = (tmp_path / "bad.npz").read_bytes()
    for damaged in (b"no zip", content[: len(content) // 2], content[:100] + b"\xff" * 50 + content[150:]):
        (tmp_path / "bad.npz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"bad\.npz"):
            load_data(str(tmp_path / "bad.npz"))


def test_folder_with_classes(tmp_path):
    for index in range(10):
        save_image(tmp_path / "cat" / f"{index}.png", value=index)
        save_image(tmp_path / "dog" / f"{index}.PNG", value=100 + index)
    train, test = load_data(str(tmp_path))
    assert train.shape == (1, 6, 8)
    assert train.class_names == ("cat", "dog")
    assert len(train) + len(test) == 20
    assert torch.equal(train.labels, (train.pixels[:, 0, 0, 0] >= 100).long())


def test_folder_with_train_and_test_and_mixed_modes(tmp_path):
    save_image(tmp_path / "train" / "a.png")
    save_image(tmp_path / "train" / "b.png", mode="RGB")
    save_image(tmp_path / "test" / "c.png", mode="RGB")
    train, test = load_data(str(tmp_path))
    assert (train.shape, len(train), len(test), train.labels) == ((3, 6, 8), 2, 1, None)
    assert train.pixels[:, :, 0, 0].tolist() == [[100, 100, 100], [100, 0, 0]]


def test_deep_grey_and_transparent_images(tmp_path):
    levels = np.array([[0, 1000], [30000, 65535]], dtype=np.uint16)
    for name in "ab":
        (tmp_path / "deep").mkdir(exist_ok=True)
        Image.fromarray(levels).save(tmp_path / "deep" / f"{name}.png")
    train, _ = load_data(str(tmp_path / "deep"))
    assert train.pixels[0, 0].tolist() == [[0, 3], [117, 255]]
    for name in "ab":
        (tmp_path / "clear").mkdir(exist_ok=True)
        Image.fromarray(np.array([[[9, 8, 7, 255], [200, 200, 200, 0]]], dtype=np.uint8)).save(
            tmp_path / "clear" / f"{name}.png"
        )
    with pytest.warns(
        UserWarning, match=r"clear: images with transparent parts, taken as black: 2; .* dark: .* 9 of 255"
    ):
        train, _ = load_data(str(tmp_path / "clear"))
    assert train.pixels[0, :, 0].tolist() == [[9, 0], [8, 0], [7, 0]]
    (tmp_path / "float").mkdir()
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "float" / "a.tif")
    with pytest.raises(InputError, match="of mode F', expected 8 or 16 bits"):
        load_data(str(tmp_path / "float"))


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="a folder with images"):
        load_data(str(tmp_path))
    for name in "abc":
        save_image(tmp_path / f"{name}.png")
    save_image(tmp_path / "d.png", size=(9, 6))
    save_image(tmp_path / "e.png", size=(10, 6))
    with pytest.raises(InputError, match=r"d\.png of 9x6 pixels', expected images of one size; a\.png has 8x6"):
        load_data(str(tmp_path))
    (tmp_path / "b.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"b\.png', expected a readable image"):
        load_data(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minst", "one of digits, mnist, .*did you mean 'mnist'"),
        ("no/such/folder", "or an existing .npz file or folder of images"),
        ("missing.npz", "an existing .npz file"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(InputError, match=message):
        load_data(name)


def test_failed_download_is_one_line(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise RuntimeError("Error downloading")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", offline)
    with pytest.raises(InputError, match="Error downloading"):
        load_data("mnist", tmp_path, download=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Images(torch.zeros(2, 1, 4, 4)), "pixels: given 'torch.float32"),
        (lambda: Images(torch.zeros(2, 4, 4, dtype=torch.uint8)), r"of shape \(N, C, H, W\)"),
        (lambda: Images(torch.zeros(0, 1, 4, 4, dtype=torch.uint8)), "at least one image"),
        (lambda: Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3).long()), "one label per image"),
        (lambda: Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)).split(1.0), "fraction: given 1.0"),
        (lambda: binarize(Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)), "statik"), "did you mean 'static'"),
        (lambda: choose_device("gpu0"), "device: given 'gpu0'"),
        (lambda: choose_device("cuda:77"), "device: given 'cuda:77'"),
    ],
)
def test_bad_images_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_split_is_a_partition_fixed_by_the_seed(tiny):
    first, second = tiny.split(0.25, seed=3)
    assert (len(first), len(second)) == (9, 3)
    repeated = tiny.split(0.25, seed=3)
    assert (first.fingerprint, second.fingerprint) == tuple(part.fingerprint for part in repeated)
    assert first.fingerprint != tiny.split(0.25, seed=4)[0].fingerprint
    assert torch.equal(
        torch.cat([first.pixels, second.pixels]).flatten(1).sum(1).sort().values,
        tiny.pixels.flatten(1).sum(1).sort().values,
    )


def test_a_draw_is_of_all_classes_and_fixed_by_the_seed(digits):
    by_class = digits.train.take(digits.train.labels.argsort())
    drawn = by_class.draw(200)
    assert len(drawn) == 200
    assert len(drawn.labels.unique()) == 10
    assert drawn.fingerprint == by_class.draw(200).fingerprint != by_class.draw(200, seed=1).fingerprint
    assert by_class.draw(5000) is by_class


def test_binarizations():
    grey = Images(torch.full((1, 1, 160, 160), 64, dtype=torch.uint8))
    static = binarize(grey, "static", seed=1)
    assert set(static.pixels.unique().tolist()) == {0, 255}
    assert static.as_float().mean().item() == pytest.approx(64 / 255, abs=4 * (0.25 * 0.75 / 25600) ** 0.5)
    assert static.fingerprint == binarize(grey, "static", seed=1).fingerprint
    assert static.fingerprint != binarize(grey, "static", seed=2).fingerprint
    levels = Images(torch.tensor([0, 127, 128, 255], dtype=torch.uint8).reshape(1, 1, 2, 2))
    assert binarize(levels, "threshold").pixels.flatten().tolist() == [0, 0, 255, 255]
    for how in ("none", "dynamic"):
        assert binarize(grey, how) is grey


def test_batches_cover_each_image_once(tiny):
    parts = list(batches(tiny.pixels, 5, CPU))
    assert [len(part) for part in parts] == [5, 5, 2]
    assert torch.equal(torch.cat(parts), tiny.as_float())
    shuffled = torch.cat(list(batches(tiny.pixels, 5, CPU, shuffle=True)))
    assert not torch.equal(shuffled, tiny.as_float())
    assert torch.equal(shuffled.flatten(1).sum(1).sort().values, tiny.as_float().flatten(1).sum(1).sort().values)


def test_dynamic_batches_are_redrawn(tiny):
    first, second = (torch.cat(list(batches(tiny.pixels, 5, CPU, as_floats=binarized))) for _ in range(2))
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first, second)


def test_a_set_too_large_for_the_device_streams_from_the_host(tiny):
    device = torch.device("meta")  # stands for an accelerator, of any size
    assert resident(tiny.pixels, device, free_bytes=2 * tiny.pixels.nbytes).device.type == "meta"
    with pytest.warns(UserWarning, match="stay on the host and stream to meta"):
        pixels = resident(tiny.pixels, device, free_bytes=2 * tiny.pixels.nbytes - 2)
    assert pixels.device.type == "cpu"
    assert all(part.device.type == "meta" for part in batches(pixels, 5, device, shuffle=True))
