"""A user's own folders: layouts, pictures of all kinds, and the cache of decoded pixels."""

import json
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae import load_data
from pyro_vae._utils import files
from pyro_vae._utils.checks import InputError
from pyro_vae.data.formats import decoding, folders

LEVELS = {"a": 100, "b": 200}
TAGGED = 274  # EXIF's number for orientation


def save(path, level=100, mode="L", size=(8, 6), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, level).save(path, **options)


def make(root, *specs):
    """Pictures: "train/a 3" are three in that folder, of the grey level of a folder named a or b."""
    for spec in specs:
        folder, count = spec.rsplit(" ", 1)
        level = next((LEVELS[name] for name in folder.split("/") if name in LEVELS), 200)
        for number in range(int(count)):
            save(root / folder / f"{number}.png", level)


def described(splits):
    """Sizes and class names, once it is seen that labels are those of the folders."""
    for part in splits:
        if part.labels is not None:
            levels = [LEVELS.get(part.class_names[label], 200) for label in part.labels]
            assert part.pixels[:, 0, 0, 0].tolist() == levels
    return len(splits.train), len(splits.test), splits.train.class_names, splits.test.class_names


AB = ("a", "b")
AT = ("a", "train")
ABT = ("a", "b", "train")


@pytest.mark.parametrize(
    ("specs", "expected", "note"),
    [
        ("train/a 3, train/b 3, test/a 2, test/b 1", (6, 3, AB, AB), None),
        ("Train/a 3, Train/b 3, TEST/a 2, TEST/b 1", (6, 3, AB, AB), None),
        ("training_set/a 3, training_set/b 3, test-images/a 2, test-images/b 1", (6, 3, AB, AB), None),
        ("tr/a 3, tr/b 3, te/a 2, te/b 1", (6, 3, AB, AB), None),
        ("imagesTr 3, imagesTs 2", (3, 2, (), ()), None),
        ("train2017 3, val2017 2", (3, 2, (), ()), "the validation images are the test set, as there is no other"),
        ("train/a 3, train/b 3, val/a 2, val/b 1", (6, 3, AB, AB), "the validation images are the test set"),
        ("train/a 3, train/b 3, Valid/a 2, test/a 1, test/b 1", (6, 2, AB, AB), "validation images left out: 2"),
        ("train/a 10, train/b 10", (18, 2, AB, AB), None),
        ("train 20", (18, 2, (), ()), None),
        ("a 10, b 10", (18, 2, AB, AB), None),
        ("pets/a 10, pets/b 10", (18, 2, AB, AB), None),
        ("x/y/a/2020 10, x/y/b 10", (18, 2, AB, AB), None),
        ("x/y/train/z/a 2, x/y/train/z/b 2, x/y/test/z/a 1, x/y/test/z/b 1", (4, 2, AB, AB), None),
        ("train/images 3, test/images 2", (3, 2, (), ()), None),
        ("train/images 3, test/images 2, val 1", (3, 2, (), ()), "validation images left out: 1"),
        ("train/images 3, test 2", (3, 2, (), ()), None),
        ("pets 20", (18, 2, (), ()), None),
        ("a 10, dev/b 10", (18, 2, ("a", "dev"), ("a", "dev")), None),
        ("train/a 3, train/b 3, test/b 2", (6, 2, AB, AB), r"classes without test images: 1 of 2 \(a\)"),
        ("train/b 3, test/b 2, test/a 2", (3, 4, AB, AB), r"classes without training images: 1 of 2 \(a\)"),
        ("train/a 3, train/b 3, test 2", (6, 2, AB, ()), "no test labels: its images lie in no class folders"),
        ("a 5, b 5, . 10", (18, 2, (), ()), "no training labels: of 20 images, 10 lie in no class folder"),
        ("train/a 3, test/a 2, . 4", (3, 2, (), ()), "images left out beside the folder train: 4"),
        ("mnist_train/a 3, mnist_train/b 3, MNIST_test/a 2, MNIST_test/b 1", (6, 3, AB, AB), None),
        (
            "train_hr/a 3, train_hr/b 3, valid_hr/a 2, valid_hr/b 1",
            (6, 3, AB, AB),
            "the validation images are the test",
        ),
        ("training_a 3, testing_a 2", (3, 2, (), ()), None),
        ("trainA 3, testA 2", (3, 2, (), ()), None),
        ("my.pets-train-set 3, my.pets-test 2", (3, 2, (), ()), None),
        ("DIV2K_train_HR 3, DIV2K_valid_HR 1, DIV2K_test_HR 2", (3, 2, (), ()), "validation images left out: 1"),
        ("coco_train2017 3, coco_test2017 2", (3, 2, (), ()), None),
        ("pets_train/a 10, pets_train/b 10", (18, 2, AB, AB), None),
        ("a 10, b 5, train 5", (18, 2, ABT, ABT), "taken as classes, not as splits: train$"),
        ("a 10, b 5, bullet_train 5", (18, 2, *[("a", "b", "bullet_train")] * 2), "not as splits: bullet_train"),
        ("train/a 3, train/train 3, test/a 2, test/train 1", (6, 3, AT, AT), None),
        ("train/a 10, train/train 10", (18, 2, AT, AT), None),
        ("train/a 10, train/Train 10", (18, 2, *[("Train", "a")] * 2), None),
        ("train/a 3, train/test 3, test/a 2, test/test 1", (6, 3, ("a", "test"), ("a", "test")), None),
        ("train/a 3, train/crash_test 3, test/a 2", (6, 2, *[("a", "crash_test")] * 2), "classes without test images"),
    ],
)
def test_layouts(tmp_path, specs, expected, note, recwarn):
    make(tmp_path, *specs.split(", "))
    splits = load_data(tmp_path)
    assert described(splits) == expected
    assert len(recwarn) == (note is not None)
    assert note is None or re.search(note, str(recwarn[0].message))


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ("train/a 1, test/a 1, cat 1", "with folders test, train, cat, expected train and test folders"),
        ("val/a 1, test/a 1", "with test, val, expected a set named train as well"),
        ("Train/a 1, training/a 1, test/a 1", "with Train and training, expected one train set"),
        ("a/train 1, a/test 1, b/train 1, b/test 1", "a with folders test, train, expected train and test"),
        ("train/a 1, train/val 1, test/a 1", "with a folder val among classes"),
        ("trainA 1, trainB 1, testA 1, testB 1", "with folders testA, testB, trainA, trainB, expected train and test"),
        ("train_a 1, train_b 1", "with folders train_a, train_b, expected train and test folders"),
        ("cats_train 1, dogs_test 1", "with folders cats_train, dogs_test, expected train and test folders"),
        ("mnist 1, mnist_test 1", "with folders mnist_test, mnist, expected train and test folders"),
        ("my test 1, a 1, b 1", "with folders my test, a, b, expected train and test folders"),
        ("myTestset 1, a 1, b 1", "with folders myTestset, a, b, expected train and test folders"),
        ("a 1, b 1, test 1", "with folders test, a, b, expected train and test folders"),
        ("a 1, train 1", "with folders train, a, expected train and test folders"),
        ("a 1, b 1, train_set 1", "with folders train_set, a, b, expected train and test folders"),
        ("a 1, b 1, train/x 1", "with folders train, a, b, expected train and test folders"),
        ("train_x 1, . 1", "with folders train_x, expected train and test folders"),
        ("mnist_val/a 1, mnist_test/a 1", "with mnist_test, mnist_val, expected a set named train as well"),
        ("a/x_train 1, a/x_test 1, b/c 1", "a with folders x_test, x_train, expected train and test"),
        ("test 1, " + ", ".join(f"{n} 1" for n in range(9)), "with folders test, 0, 1, 2, 3, 4, ..., expected"),
    ],
)
def test_layouts_of_two_meanings_are_refused(tmp_path, specs, message):
    make(tmp_path, *specs.split(", "))
    with pytest.raises(InputError) as caught:
        load_data(tmp_path)
    assert message in re.sub(r"[\\'\"]", "", str(caught.value))


def test_what_is_hidden_or_of_tools_is_passed_by(tmp_path):
    make(tmp_path, "a 10", "b 10", ".git 1", "__MACOSX/a 2", "a/.ipynb_checkpoints 1", "@eaDir/a 1", "b/__pycache__ 1")
    (tmp_path / "a" / "._0.png").write_bytes(b"of a Mac")
    (tmp_path / "Thumbs.db").write_bytes(b"of Windows")
    (tmp_path / ".DS_Store").write_bytes(b"of a Mac")
    assert described(load_data(tmp_path)) == (18, 2, AB, AB)


def test_other_files_are_counted(tmp_path):
    make(tmp_path, "a 10", "b 10")
    (tmp_path / "labels.csv").write_text("0.png,a\n")
    (tmp_path / "a" / "x.npy").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"files left out that are not images: 2 \(labels.csv, x.npy\)"):
        assert described(load_data(tmp_path)) == (18, 2, AB, AB)


@pytest.mark.skipif(os.name == "nt", reason="links and pipes need rights that Windows seldom gives")
def test_links_are_followed_and_loops_are_not(tmp_path):
    make(tmp_path / "elsewhere", "a 10", "b 9")
    root = tmp_path / "mine"
    root.mkdir()
    (root / "a").symlink_to(tmp_path / "elsewhere" / "a")
    (root / "b").symlink_to(tmp_path / "elsewhere" / "b")
    save(tmp_path / "one.png", LEVELS["b"])
    (tmp_path / "elsewhere" / "b" / "linked.png").symlink_to(tmp_path / "one.png")
    (tmp_path / "elsewhere" / "b" / "up").symlink_to(root)
    (tmp_path / "elsewhere" / "b" / "itself").symlink_to(tmp_path / "elsewhere" / "b" / "itself")
    os.mkfifo(root / "a" / "pipe.png")  # opening it would wait for ever
    with pytest.warns(UserWarning, match="that are not images: 2 "):
        assert described(load_data(root)) == (18, 2, AB, AB)
    (root / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match=r"gone.png', expected a readable image \(No such file"):
        load_data(root)


def test_an_unreadable_folder_is_named(tmp_path, monkeypatch):
    make(tmp_path, "a 2", "b 2")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"b', expected a folder that can be read \(Permission denied\)"):
        load_data(tmp_path)


def test_pictures_of_one_name_are_all_taken(tmp_path):
    for name in ("a/1.png", "a/1.JPG", "a/1.jpeg", "a/1.tif", "a/1.webp", "a/1.Bmp", "b/1.png", "b/c/1.png"):
        save(tmp_path / "x" / name)
    assert sum(map(len, load_data(tmp_path))) == 8


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda x: x),
        (2, np.fliplr),
        (3, lambda x: np.rot90(x, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: np.rot90(x, 2).T),
        (8, np.rot90),
    ],
)
def test_pictures_are_turned_by_their_tag(tmp_path, suffix, orientation, turned):
    stored = np.kron(np.array([[10, 90, 170], [50, 130, 250]], np.uint8), np.ones((8, 8), np.uint8))
    exif = Image.Exif()
    exif[TAGGED] = orientation
    for name in "ab":
        options = {"lossless": True} if suffix == "webp" else {"quality": 100} if suffix == "jpg" else {}
        Image.fromarray(stored).save(tmp_path / f"{name}.{suffix}", exif=exif, **options)
    seen = load_data(tmp_path).train.pixels[0, 0].numpy().astype(int)
    assert seen.shape == turned(stored).shape
    assert np.abs(seen - turned(stored)).max() <= 3


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "png"])
def test_further_frames_are_counted(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 6), (level, 0, 0)) for level in (100, 150, 200)]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    save(tmp_path / "b.png", (100, 0, 0), "RGB")
    for _ in range(2):  # decoded, and from the cache
        with pytest.warns(UserWarning, match=r"frames left out: 2, all but the first of 1 files$"):
            splits = load_data(tmp_path)
        assert [part.pixels[0, :, 0, 0].tolist() for part in splits] == [[100, 0, 0]] * 2


@pytest.mark.parametrize(
    ("mode", "level", "suffix", "expected"),
    [
        ("1", 1, "png", [255]),
        ("L", 90, "png", [90]),
        ("P", 90, "png", [90, 90, 90]),
        ("LA", (90, 255), "png", [90]),
        ("RGBA", (90, 80, 70, 255), "png", [90, 80, 70]),
        ("CMYK", (0, 255, 255, 0), "tif", [255, 0, 0]),
        ("RGB", (90, 80, 70), "bmp", [90, 80, 70]),
    ],
)
def test_modes_of_pictures(tmp_path, mode, level, suffix, expected):
    for name in "ab":
        picture = Image.new(mode, (8, 6), level)
        if mode == "P":
            picture.putpalette([value for value in range(256) for _ in range(3)])
        picture.save(tmp_path / f"{name}.{suffix}")
    assert load_data(tmp_path).train.pixels[0, :, 0, 0].tolist() == expected


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("bits", "note"), [(16, None), (12, "12-bit"), (10, "10-bit")])
def test_pictures_of_16_bits(tmp_path, suffix, bits, note, recwarn):
    levels = np.array([[0, 1000], [30000, 65535]], np.uint16) >> (16 - bits)
    for name in "ab":
        Image.fromarray(levels).save(tmp_path / f"{name}.{suffix}")
    for _ in range(2):
        assert load_data(tmp_path).train.pixels[0, 0].tolist() == [[0, 3], [117, 255]]
    assert {note in str(warning.message) for warning in recwarn} == ({True} if note else set())


def test_masks_of_0_and_1_are_black_and_white(tmp_path):
    make(tmp_path, "a 3")
    for path in (tmp_path / "a").iterdir():
        Image.fromarray(np.eye(4, dtype=np.uint8)).save(path)
    with pytest.warns(UserWarning, match="only 0 and 1, which are taken as black and white"):
        assert load_data(tmp_path).train.pixels[0, 0].tolist() == (255 * np.eye(4)).tolist()


def test_a_truncated_picture_among_good_ones_is_named(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{number:02}.jpg")
    path = tmp_path / "07.jpg"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"07\.jpg', expected a readable image \(.*[Tt]runcated"):
        load_data(tmp_path)
    monkeypatch.setattr(decoding, "FEW", 3)
    with pytest.raises(InputError, match=r"07\.jpg', expected a readable image \(.*[Tt]runcated"):
        load_data(tmp_path)
    assert not list(files.cache_folder().glob("images/.*"))


def test_processes_decode_what_one_does(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{number:02}.png")
    alone = [part.fingerprint for part in load_data(tmp_path)]
    monkeypatch.setattr(decoding, "FEW", 3)
    monkeypatch.setattr(decoding, "_AT_ONCE", 5)
    monkeypatch.setenv("PYRO_VAE_CACHE", str(tmp_path / ".cache"))
    assert [part.fingerprint for part in load_data(tmp_path)] == alone


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PYRO_VAE_CACHE", str(tmp_path / ".cache"))
    return tmp_path / ".cache" / "images"


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded."""
    names = []

    def decode(path, original=decoding.decode):
        names.append(os.path.basename(path))
        return original(path)

    monkeypatch.setattr(decoding, "decode", decode)
    return names


def test_pictures_are_decoded_once(tmp_path, own_cache, decoded):
    make(tmp_path / "mine", "a 10", "b 10")
    first = load_data(tmp_path / "mine")
    assert len(decoded) == 20
    second = load_data(tmp_path / "mine")
    assert len(decoded) == 20
    assert described(second) == (18, 2, AB, AB)
    for fresh, cached in zip(first, second, strict=True):
        assert torch.equal(fresh.pixels, cached.pixels)
        assert fresh.fingerprint == cached.fingerprint == cached.take(slice(None)).fingerprint
    save(tmp_path / "mine" / "a" / "3.png", 101)
    changed = load_data(tmp_path / "mine")
    assert len(decoded) == 40
    assert (torch.cat([part.pixels for part in changed]) == 101).any()
    (tmp_path / "mine" / "a" / "3.png").rename(tmp_path / "mine" / "b" / "13.png")
    load_data(tmp_path / "mine")
    assert len(decoded) == 60
    assert len(list(own_cache.iterdir())) == 2  # of a folder, the pixels of its last state alone
    (tmp_path / "mine").rename(tmp_path / "moved")
    assert load_data(tmp_path / "moved").train.name == "moved"


def same_to_see(path, level):
    """A picture whose size and time of change do not depend on its content."""
    save(path, level)
    os.utime(path, (1, 1))


def test_folders_of_equal_names_sizes_and_times_keep_their_own_pixels(tmp_path, own_cache):
    for root, level in (("one", 100), ("other", 200)):
        for number in range(4):
            same_to_see(tmp_path / root / f"{number}.bmp", level)
    for _ in range(2):
        for root, level in (("one", 100), ("other", 200)):
            assert {*torch.cat([part.pixels for part in load_data(tmp_path / root)]).unique().tolist()} == {level}


@pytest.mark.parametrize("how", ["in place", "replaced"])
def test_a_picture_that_is_changed_behind_its_time_is_seen(tmp_path, own_cache, how):
    for number in range(4):
        same_to_see(tmp_path / "mine" / f"{number}.bmp", 100)
    before = [part.fingerprint for part in load_data(tmp_path / "mine")]
    for number in range(4):
        path = tmp_path / "mine" / f"{number}.bmp"
        if how == "replaced":
            path.unlink()
        same_to_see(path, 200)
    after = load_data(tmp_path / "mine")
    assert all((part.pixels == 200).all() for part in after)
    assert not {*before} & {part.fingerprint for part in after}


def test_what_is_kept_is_never_written_to(tmp_path, own_cache, decoded):
    make(tmp_path / "mine", "a 10", "b 10")
    load_data(tmp_path / "mine")
    (path,) = own_cache.glob("*.npy")
    before = path.read_bytes()
    load_data(tmp_path / "mine").train.pixels.zero_()
    assert path.read_bytes() == before
    assert described(load_data(tmp_path / "mine")) == (18, 2, AB, AB)
    assert len(decoded) == 20


@pytest.mark.parametrize("what", ["cut", "changed", "pickled", "text", "json", "count", "gone"])
def test_a_damaged_cache_is_made_anew(tmp_path, own_cache, decoded, what):
    make(tmp_path / "mine", "a 10", "b 10")
    load_data(tmp_path / "mine")
    (path,) = own_cache.glob("*.npy")
    facts = path.with_suffix(".json")
    content = path.read_bytes()
    if what == "cut":
        path.write_bytes(content[:-1])
    elif what == "changed":
        path.write_bytes(content[:-1] + b"x")
    elif what == "pickled":
        np.save(path, np.array([{}]))
    elif what == "text":
        path.write_text("no array")
    elif what == "json":
        facts.write_text("{")
    elif what == "count":
        np.save(path, np.zeros((3, 1, 6, 8), np.uint8))
        status = path.stat()
        stored = json.loads(facts.read_text()) | {"file": [status.st_size, status.st_mtime_ns]}
        facts.write_text(json.dumps(stored))
    else:
        path.unlink()
    for _ in range(2):
        assert described(load_data(tmp_path / "mine")) == (18, 2, AB, AB)
    assert len(decoded) == 40


def test_without_a_cache_folder_images_are_decoded_each_time(tmp_path, monkeypatch, decoded):
    make(tmp_path / "mine", "a 10", "b 10")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PYRO_VAE_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        with pytest.warns(
            UserWarning, match="the decoded images are not cached for next time: .*file.* can't be written"
        ):
            assert described(load_data(tmp_path / "mine")) == (18, 2, AB, AB)
    assert len(decoded) == 40


def test_another_way_to_decode_is_another_entry(tmp_path, own_cache, decoded, monkeypatch):
    make(tmp_path / "mine", "a 2")
    load_data(tmp_path / "mine")
    monkeypatch.setattr(folders, "_FORMAT", folders._FORMAT + 1)
    load_data(tmp_path / "mine")
    monkeypatch.setattr(folders.PIL, "__version__", "1.0")
    load_data(tmp_path / "mine")
    assert len(decoded) == 6
