"""Feature extractors: an in-domain classifier that the package trains, and Inception networks from a weights file.

An extractor is any callable with `name`, `num_features` and `__call__(images) -> Features`, where images are floats in
[0, 1] of shape `(N, C, H, W)`. Its name carries the fingerprint of its weights: scores of two extractors are not
comparable.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import pickle
import shutil
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.nn import functional

from pyro_vae import checkpoints, checks, files
from pyro_vae.data import Images, Splits
from pyro_vae.device import batches, choose_device, resident
from pyro_vae.generators import generator_states, own_generators, set_generator_states
from pyro_vae.models.images import check_set, evaluating
from pyro_vae.progress import Progress, say

_KEEP_SECONDS = 2.0  # of training that an interruption may lose; else the state is kept after each epoch
EXTRACTORS = ("classifier", "inception-2015-12-05", "inception-torchvision")
_INCEPTION_FILES = {
    "inception-2015-12-05": ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
    "inception-torchvision": ("inception_v3_google-0cc3c7bd.pth",),
}
_INCEPTION_HOMES = {
    "inception-2015-12-05": "https://github.com/toshas/torch-fidelity/releases",
    "inception-torchvision": "https://download.pytorch.org/models",
}


class Features(NamedTuple):
    """What an extractor sees in N images: `pool` `(N, d)`, and `logits` `(N, classes)` where it has them."""

    pool: Tensor
    logits: Tensor | None


class Extractor(Protocol):
    """What :func:`~pyro_vae.evaluation.evaluate` needs of a feature extractor."""

    num_features: int

    @property
    def name(self) -> str:
        """What it is, with the fingerprint of its weights."""

    def __call__(self, images: Tensor, /) -> Features:
        """Features of floats in [0, 1], `(N, C, H, W)`."""


def by_name(
    name: str,
    splits: Splits,
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Extractor:
    """One of :data:`EXTRACTORS`: the classifier of this data set, or an Inception network."""
    checks.one_of("extractor", name, EXTRACTORS)
    if name == "classifier":
        return in_domain_classifier(splits, device=device, progress=progress)
    path = find_weights(name, weights)
    return Inception2015(path) if name == "inception-2015-12-05" else InceptionTorchvision(path)


def extract(
    extractor: Extractor, images: Tensor, *, batch_size: int = 100, device: str | torch.device = "auto"
) -> Features:
    """The features of uint8 or float images `(N, C, H, W)`, on the CPU.

    They are made in small batches: what a larger one needs in a CPU's memory is asked of the system anew each time.
    """
    images = checks.tensor("images", images)
    if images.dim() != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise checks.fail("images", images, "uint8 pixels, or floats in [0, 1], of shape (N, C, H, W)")
    batch_size, target = checks.positive_integer("batch_size", batch_size), choose_device(device)
    if isinstance(extractor, nn.Module):
        extractor.to(target)
    with evaluating(extractor) if isinstance(extractor, nn.Module) else torch.inference_mode():
        parts = [extractor(_unit(part).to(target)) for part in images.split(batch_size)]
    logits = [part.logits.cpu() for part in parts if part.logits is not None]
    return Features(torch.cat([part.pool.cpu() for part in parts]), torch.cat(logits) if logits else None)


def extract_cached(
    extractor: Extractor,
    images: Images,
    *,
    cache: str | os.PathLike[str] | None = None,
    batch_size: int = 100,
    device: str | torch.device = "auto",
) -> Features:
    """Features of a real data set, kept in this user's cache (or in `cache`) for the next time.

    The file is named after the extractor, whose name holds the fingerprint of its weights, and after that of the
    images: other weights or other images are other files. A damaged file is made anew.
    """
    check_set("images", images)
    folder = Path(cache) if cache is not None else files.cache_folder() / "features"
    path = folder / f"{_file_name(extractor.name)}-{images.fingerprint[:16]}.safetensors"
    try:
        stored = from_safetensors(path.read_bytes())
        return Features(stored["pool"], stored.get("logits"))
    except (OSError, SafetensorError, KeyError):
        found = extract(extractor, images.pixels, batch_size=batch_size, device=device)
    tensors = {"pool": found.pool} if found.logits is None else {"pool": found.pool, "logits": found.logits}
    keep(path, to_safetensors({name: tensor.contiguous() for name, tensor in tensors.items()}))
    return found


class ModuleExtractor(nn.Module):
    """Any module as an extractor: it maps floats in [0, 1] to features `(N, d)`, or to a pair of features and logits.

    >>> extractor = ModuleExtractor(nn.Sequential(nn.Flatten(), nn.Linear(64, 16)), "random", num_features=16)
    >>> extract(extractor, torch.rand(3, 1, 8, 8)).pool.shape
    torch.Size([3, 16])
    """

    def __init__(self, module: nn.Module, name: str, num_features: int) -> None:
        super().__init__()
        checks.positive_integer("num_features", num_features)
        self.module = module
        self.num_features = num_features
        self.label = name

    @property
    def name(self) -> str:
        """The name given, the size of the features, and the first 8 digits of the fingerprint."""
        return f"{self.label}-{self.num_features}@{fingerprint(self.module)[:8]}"

    def forward(self, images: Tensor) -> Features:
        """Features of floats in [0, 1]."""
        found = self.module(images)
        pool, logits = found if isinstance(found, tuple) else (found, None)
        if pool.shape != (len(images), self.num_features):
            raise checks.fail(
                "module", f"features of shape {tuple(pool.shape)}", f"({len(images)}, {self.num_features})"
            )
        return Features(pool, logits)


def _unit(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over what a module prints, and over the names, types, shapes and values of all that it holds."""
    digest = hashlib.sha256(repr(module).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# --- in-domain classifier -------------------------------------------------------------------------------------------


def _is_large(image_shape: tuple[int, int, int]) -> bool:
    """Whether images have more pixels than MNIST's; what the documents' scores are of has no more."""
    _, height, width = image_shape
    return height * width > 28 * 28 and min(height, width) >= 8


def _block(channels: int, out: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, kernel, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]


class Classifier(nn.Module):
    """A small convolutional classifier of images of at least 4x4 pixels; `accuracy` is that on the test images.

    Its penultimate layer (128 units after a ReLU) gives the features, its last one the logits.
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


def in_domain_classifier(
    splits: Splits,
    *,
    cache: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Classifier:
    """The classifier of a labelled data set: trained once, then read from the cache.

    The cache file is named after the fingerprint of the images. Training is deterministic on one machine: Adam with a
    one-cycle learning rate, from seed 0. An interrupted training resumes from the last epoch that was kept, to the same
    weights. A cache that can't be written is done without, with a warning.

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
    path = folder / f"{_file_name(train.name)}-{train.fingerprint[:16]}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        classifier = Classifier(train.shape, int(train.labels.max()) + 1, train.name).float()  # type: ignore[union-attr]
    if not _read_cached(classifier, path):
        checkpoint = path.with_suffix(".training")
        _train_classifier(classifier, train, choose_device(device), progress, checkpoint)
        classifier.eval().cpu().to(memory_format=torch.contiguous_format)
        logits = extract(classifier, test.pixels, device="cpu").logits
        classifier.accuracy = (logits.argmax(1) == test.labels.cpu()).double().mean().item()  # type: ignore[union-attr]
        keep(path, to_safetensors(classifier.state_dict(), {"accuracy": repr(classifier.accuracy)}))
        shutil.rmtree(checkpoint, ignore_errors=True)
    return classifier.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def check_classifiable(splits: Splits) -> None:
    """The images have what a classifier of them needs: labels of at least two classes, and 4x4 pixels."""
    train, test = splits
    expected = "{}; or another extractor, or none"
    if train.labels is None or test.labels is None:
        wanted = expected.format(f"a data set with labels, which {train.name} lacks")
        raise checks.fail("extractor", "classifier", wanted)
    if len(train.labels.unique()) < 2:
        wanted = expected.format(f"a data set of at least 2 classes, and {train.name} has 1")
        raise checks.fail("extractor", "classifier", wanted)
    if min(train.shape[1:]) < 4:
        wanted = expected.format(
            f"images of at least 4x4 pixels, for two poolings, and {train.name}'s are {train.shape}"
        )
        raise checks.fail("extractor", "classifier", wanted)


def keep(path: Path, content: bytes) -> None:
    """Writes to the cache, without which all works, only longer."""
    try:
        files.write(path, content)
    except OSError as error:
        reason, cache = error.strerror or error, files.cache_folder()
        folder = cache if path.is_relative_to(cache) else path.parent
        warnings.warn(
            f"nothing is kept in the cache {folder} ({reason}); $PYRO_VAE_CACHE names another folder", stacklevel=3
        )


def _read_cached(classifier: Classifier, path: Path) -> bool:
    """Whether a whole file was there; a damaged one is trained anew."""
    try:
        with safe_open(path, framework="pt") as file:
            classifier.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a dict)
            classifier.accuracy = float(file.metadata()["accuracy"])
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError):
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
    with own_generators(device, seed=0):
        done = _resume_classifier(parts, settings, checkpoint, device)
        name = f"classifier of {train.name}"
        kept = time.monotonic()
        with Progress(steps, "step", name, initial=done * (steps // epochs), shown=progress) as bar:
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
                if time.monotonic() - kept < _KEEP_SECONDS:
                    continue
                state = {part: module.state_dict() for part, module in parts.items()}
                state |= {"settings": settings, "generators": generator_states(device)}
                with suppress(OSError):  # of a cache that can't be written
                    checkpoints.write_checkpoint(checkpoint, epoch, state)
                kept = time.monotonic()


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
    """Takes the state of an interrupted training with the same settings; returns after how many epochs it is, or 0."""
    try:
        stored = checkpoints.read_checkpoint(checkpoint)
    except checks.InputError:  # damaged
        return 0
    if stored is None or stored.get("settings") != settings:
        return 0
    for name, part in parts.items():
        part.load_state_dict(stored[name])
    set_generator_states(device, stored["generators"])
    return checkpoints.read_epoch(checkpoint)


def _file_name(name: str) -> str:
    return "".join(character if character.isalnum() or character in "-_" else "_" for character in name)[:60]


# --- Inception ------------------------------------------------------------------------------------------------------


def find_weights(name: str, weights: str | os.PathLike[str] | None = None) -> Path:
    """The weights file of an Inception network: the one given, else `$PYRO_VAE_INCEPTION`, else in torch's hub cache.

    Nothing is downloaded; the error says where the file comes from and where to put it.
    """
    named = weights or os.environ.get("PYRO_VAE_INCEPTION")
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    candidates = [Path(named)] if named else [hub / file for file in _INCEPTION_FILES[name]]
    for path in candidates:
        if path.is_file():
            return path
    wanted = " or ".join(_INCEPTION_FILES[name])
    raise checks.fail(
        "weights", str(named or hub), f"{wanted}, from {_INCEPTION_HOMES[name]}, put there or named by --weights"
    )


# The published file names end in these digits: weights with others are other weights.
_INCEPTION_DIGESTS = {"inception-2015-12-05": "6726825d", "inception-torchvision": "0cc3c7bd"}


def _safe_state(weights: str | os.PathLike[str], name: str) -> dict[str, Tensor]:
    try:
        content = Path(weights).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if not digest.startswith(_INCEPTION_DIGESTS[name]):
            raise ValueError(f"its SHA-256 begins with {digest[:8]}, not {_INCEPTION_DIGESTS[name]}")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise _wrong_weights(weights, name, error) from error
    if not isinstance(state, dict):
        raise _wrong_weights(weights, name, ValueError(f"it holds a {type(state).__name__}"))
    return state


def _wrong_weights(weights: str | os.PathLike[str], name: str, error: Exception) -> checks.InputError:
    return checks.fail(
        "weights", str(weights), f"the published weights of {name} ({' '.join(str(error).split())[:200]})"
    )


class Inception2015(nn.Module):
    """The Inception-v3 of 2015-12-05, by which alone FID and IS are defined, in torch-fidelity's port (extra `fid`)."""

    num_features = 2048

    def __init__(self, weights: str | os.PathLike[str]) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise checks.fail(
                "extractor", "inception-2015-12-05", "the extra that has it: pip install 'pyro_vae[fid]'"
            ) from error
        state = _safe_state(weights, "inception-2015-12-05")
        # torch-fidelity unpickles whatever file it is given, so it gets one that holds these tensors and nothing else.
        with tempfile.TemporaryDirectory() as folder:
            clean = Path(folder) / "weights.pth"
            torch.save(state, clean)
            try:
                self.network = FeatureExtractorInceptionV3(
                    "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(clean)
                )
            except RuntimeError as error:
                raise _wrong_weights(weights, "inception-2015-12-05", error) from error
        self.name = f"inception-2015-12-05@{fingerprint(self.network)[:8]}"
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Features:
        """Features of floats in [0, 1], rounded to 256 levels, grey ones in three equal channels."""
        pool, logits = self.network((_rgb(images) * 255).round().clamp(0, 255).to(torch.uint8))
        return Features(pool, logits)


class InceptionTorchvision(nn.Module):
    """torchvision's Inception-v3: other weights, pooling and input than that of 2015-12-05, so not FID and not IS."""

    num_features = 2048
    mean: Tensor
    deviation: Tensor

    def __init__(self, weights: str | os.PathLike[str]) -> None:
        super().__init__()
        from torchvision.models import inception_v3

        self.network = inception_v3(weights=None, init_weights=False, transform_input=False)
        try:
            self.network.load_state_dict(_safe_state(weights, "inception-torchvision"))
        except RuntimeError as error:
            raise _wrong_weights(weights, "inception-torchvision", error) from error
        self.name = f"inception-torchvision@{fingerprint(self.network)[:8]}"
        self.head, self.network.fc = self.network.fc, nn.Identity()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225])[:, None, None])
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Features:
        """Features of floats in [0, 1], resized to 299x299."""
        x = functional.interpolate(_rgb(images), size=(299, 299), mode="bilinear", antialias=True, align_corners=False)
        pool = self.network((x - self.mean) / self.deviation)
        return Features(pool, self.head(pool))


def _rgb(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
