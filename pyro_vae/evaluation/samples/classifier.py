"""The in-domain classifier: a small network, trained once on a labelled data set, whose features score samples."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.nn import functional

from pyro_vae._utils import checks, files
from pyro_vae._utils.device import choose_device, resident
from pyro_vae._utils.progress import Progress, say
from pyro_vae._utils.rng import generator_states, seeded_rng, set_generator_states
from pyro_vae.data import Images, Splits
from pyro_vae.data.batches import batches
from pyro_vae.data.noise import image_keys
from pyro_vae.evaluation.samples.features import Features, extract, file_name, fingerprint, keep
from pyro_vae.models.base import check_set
from pyro_vae.training.checkpoint import read_checkpoint, read_epoch, write_checkpoint

_KEEP_SECONDS = 2.0  # of training that an interruption may lose; else the state is saved after each epoch


def _is_large(image_shape: tuple[int, int, int]) -> bool:
    """Whether images have more pixels than MNIST's, for which the smaller network is made."""
    _, height, width = image_shape
    return height * width > 28 * 28 and min(height, width) >= 8


def _block(channels: int, out: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, kernel, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]


class Classifier(nn.Module):
    """A small convolutional classifier of images of at least 4x4 pixels.

    Its penultimate layer (128 units after a ReLU) gives the features, its last one the logits. `accuracy` is that on
    the test images, `held_out` the number of training images that it was not trained on.
    """

    num_features = 128

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, dataset: str) -> None:
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < 4:
            raise checks.fail("images", image_shape, "at least 4x4 pixels, for two poolings")
        if _is_large(image_shape):  # a stride in place of the first pooling, and one layer more
            layers = [*_block(channels, 32, kernel=4, stride=2), *_block(32, 64), nn.MaxPool2d(2)]
            layers += [*_block(64, 64), nn.MaxPool2d(2)]
            units = 64 * (height // 8) * (width // 8)
        else:
            layers = [*_block(channels, 32), nn.MaxPool2d(2), *_block(32, 64), nn.MaxPool2d(2)]
            units = 64 * (height // 4) * (width // 4)
        layers += [nn.Flatten(), nn.Dropout(0.25), nn.Linear(units, self.num_features), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(self.num_features, num_classes))
        # max(relu(x)) = relu(max(x)), in value and gradient to the last bit: so each ReLU is taken after the pooling
        # that follows it, of a quarter of the pixels.
        self._order = list(range(len(self.body)))
        for index, (layer, following) in enumerate(itertools.pairwise(self.body)):
            if isinstance(layer, nn.ReLU) and isinstance(following, nn.MaxPool2d):
                self._order[index : index + 2] = [index + 1, index]
        self.dataset = dataset
        self.accuracy = float("nan")
        self.held_out = 0
        self.last_key: int | None = None  # of the held-out images, in the order of `image_keys`

    @property
    def name(self) -> str:
        """Data set, kind, size of the features, and the first 8 digits of the fingerprint."""
        return f"{self.dataset}-convnet-{self.num_features}@{fingerprint(self)[:8]}"

    def forward(self, images: Tensor) -> Features:
        """Features of floats in [0, 1]."""
        pool = (images - 0.5).contiguous(memory_format=torch.channels_last)  # several times faster on a CPU
        for index in self._order:
            pool = self.body[index](pool)
        return Features(pool, self.head(pool))

    def unseen(self, images: Images) -> Images | None:
        """The training images of the data set that this classifier was not trained on; None where there are none.

        Images are recognized by their pixels, wherever they are in the set, and in any part of it.
        """
        if self.last_key is None:
            return images
        places = (image_keys(images.pixels) <= self.last_key).nonzero()[:, 0]
        return images.take(places) if len(places) else None


def in_domain_classifier(
    splits: Splits,
    *,
    cache: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Classifier:
    r"""The classifier of a labelled data set: trained once, then read from the cache.

    It is trained on three quarters of the training images or more: as many as there are test images, and at most a
    quarter, are held out, chosen by a hash of their pixels. Only these (:meth:`Classifier.unseen`) say what real images
    score: features of images that it was trained on are further from those of the test images than their distribution
    is.

    The cache file is named after the fingerprint of the images. Training is deterministic on one machine: Adam with a
    one-cycle learning rate, from seed 0. An interrupted training resumes from the last saved epoch, to the same
    weights. Where the cache can't be written, a warning says so. There is also one where the classifier is not clearly
    better than chance: where its accuracy exceeds the share of the largest class of the test images by less than three
    standard errors of that, :math:`\sqrt{p (1 - p) / n}`.

    Args:
        splits: training and test images, with labels.
        cache: folder of trained classifiers; by default in this user's cache folder.
        device: where to train.
        progress: a progress bar where standard error is a terminal; else a line every half minute.
    """
    if not isinstance(splits, tuple) or len(splits) != 2:
        raise checks.fail("splits", splits, "Splits, the training and the test images of a data set")
    train, test = splits
    for part in splits:
        check_set("splits", part)
    check_classifiable(splits)
    folder = Path(cache) if cache is not None else files.cache_folder() / "classifiers"
    held_out = min(len(test), len(train) // 4)
    path = folder / f"{file_name(train.name)}-{train.fingerprint[:16]}-without-{held_out}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        classifier = Classifier(train.shape, int(train.labels.max()) + 1, train.name).float()  # type: ignore[union-attr]
    if not _read_cached(classifier, path):
        checkpoint = path.with_suffix(".training")
        seen = _hold_out(classifier, train, held_out)
        _train_classifier(classifier, seen, choose_device(device), progress, checkpoint)
        classifier.eval().cpu().to(memory_format=torch.contiguous_format)
        logits = extract(classifier, test.pixels, device="cpu").logits
        classifier.accuracy = (logits.argmax(1) == test.labels.cpu()).double().mean().item()  # type: ignore[union-attr]
        facts = {name: getattr(classifier, name) for name in ("accuracy", "held_out", "last_key")}
        keep(path, to_safetensors(classifier.state_dict(), {"facts": json.dumps(facts)}))
        shutil.rmtree(checkpoint, ignore_errors=True)
    _warn_if_at_chance(classifier, test)
    return classifier.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def check_classifiable(splits: Splits) -> None:
    """The images have what a classifier of them needs: labels of at least two classes, and 4x4 pixels."""
    if lacking := lacking_for_classifier(splits):
        raise checks.fail("extractor", "classifier", f"{lacking}; or another extractor, or none")


def lacking_for_classifier(splits: Splits) -> str:
    """What a classifier of these images would need, and they lack; an empty text if there is nothing."""
    train, test = splits
    if train.labels is None or test.labels is None:
        return f"a data set with labels, which {train.name} lacks"
    for part, which in ((train, "training"), (test, "test")):
        if bool((part.labels < 0).any()):  # type: ignore[operator,union-attr]
            return f"{which} images whose labels are all known; some of {part.name} are not"
        if len(part.labels.unique()) < 2:  # type: ignore[union-attr]
            return f"{which} images of at least 2 classes, and those of {part.name} have 1"
    if min(train.shape[1:]) < 4:
        return f"images of at least 4x4 pixels, for two poolings, and {train.name}'s are {train.shape}"
    return ""


def _hold_out(classifier: Classifier, train: Images, count: int) -> Images:
    """The images to train on; the classifier notes which are held out: those with the smallest keys, copies alike."""
    if count == 0:
        return train
    keys = image_keys(train.pixels)
    classifier.last_key = int(keys.kthvalue(count).values)
    included = (keys > classifier.last_key).nonzero()[:, 0]
    classifier.held_out = len(train) - len(included)
    if len(train.labels[included].unique()) < 2:  # type: ignore[index]
        wanted = f"at least 2 classes of images beside the {classifier.held_out} that are held out; or none"
        raise checks.fail("extractor", "classifier", wanted)
    return train.take(included)


def _warn_if_at_chance(classifier: Classifier, test: Images) -> None:
    labels = test.labels.cpu()  # type: ignore[union-attr]
    largest = int(labels.bincount().max()) / len(labels)
    if classifier.accuracy < largest + 3 * (largest * (1 - largest) / len(labels)) ** 0.5:
        warnings.warn(
            f"the classifier of {test.name} is right for {classifier.accuracy:.1%} of {len(labels):,} test images, of "
            f"which {largest:.1%} are of one class: not clearly better than chance, so its features say little",
            stacklevel=3,
        )


def _read_cached(classifier: Classifier, path: Path) -> bool:
    """Loads the classifier; False where there is no file, or a damaged one, and it must be trained."""
    try:
        with safe_open(path, framework="pt") as file:
            classifier.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a dict)
            facts = json.loads(file.metadata()["facts"])
            classifier.accuracy, classifier.held_out = float(facts["accuracy"]), int(facts["held_out"])
            classifier.last_key = None if facts["last_key"] is None else int(facts["last_key"])
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError):
        return False
    return True


def _train_classifier(
    classifier: Classifier, train: Images, device: torch.device, progress: bool, checkpoint: Path
) -> None:
    epochs = _epochs_of(train)
    batch_size = 128 if len(train) > 10_000 else 32
    steps = epochs * -(-len(train) // batch_size)
    classifier.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(classifier.parameters(), weight_decay=1e-5, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    pixels, labels = resident(train.pixels, device), train.labels.to(device)  # type: ignore[union-attr]
    parts: dict[str, Any] = {"model": classifier, "optimizer": optimizer, "schedule": schedule}
    settings = f"{classifier}, {steps} steps of {batch_size} images on {device.type}"
    with seeded_rng(device, seed=0):
        done = _resume_classifier(parts, settings, checkpoint, device)
        name = f"classifier of {train.name}"
        saved_at = time.monotonic()
        with Progress(steps, "step", name, initial=done * (steps // epochs), visible=progress) as bar:
            for epoch in range(done + 1, epochs + 1):
                order = torch.randperm(len(train), device=pixels.device)
                # The order is drawn here, for the labels; `batches` then takes the pixels as they come.
                targets = labels[order.to(labels.device)].split(batch_size)
                for x, y in zip(batches(pixels[order], batch_size, device), targets, strict=True):
                    optimizer.zero_grad()
                    functional.cross_entropy(classifier(x).logits, y).backward()
                    optimizer.step()
                    schedule.step()
                    bar.update()
                    if progress and bar.done - bar.initial == _TIMED_STEPS:
                        say(_what_takes_long(name, bar))
                if time.monotonic() - saved_at < _KEEP_SECONDS:
                    continue
                state = {part: module.state_dict() for part, module in parts.items()}
                state |= {"settings": settings, "generators": generator_states(device)}
                with suppress(OSError):  # of a cache that can't be written
                    write_checkpoint(checkpoint, epoch, state)
                saved_at = time.monotonic()


def _epochs_of(train: Images) -> int:
    """About 420,000 images in all (of large ones 250,000), and for small sets at most 60 passes."""
    images = 250_000 if _is_large(train.shape) else 420_000
    return min(60, max(1, round(images / len(train))))


_TIMED_STEPS = 20  # a second or two, from which the whole time is known


def _what_takes_long(name: str, bar: Progress) -> str:
    return (
        f"{name}: being trained for the scores of samples, once, about {bar.left()}; it is then in the cache. "
        "`pyro-vae evaluate --extractor none` does without"
    )


def _resume_classifier(parts: dict[str, Any], settings: str, checkpoint: Path, device: torch.device) -> int:
    """Loads the state of an interrupted training with the same settings; returns how many epochs it has, or 0."""
    try:
        stored = read_checkpoint(checkpoint)
    except checks.InputError:  # damaged
        return 0
    if stored is None or stored.get("settings") != settings:
        return 0
    for name, part in parts.items():
        part.load_state_dict(stored[name])
    set_generator_states(device, stored["generators"])
    return read_epoch(checkpoint)
