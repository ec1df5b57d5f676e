"""Feature extractors, and the features of images, computed or read from the cache.

An extractor is any callable with `name`, `num_features` and `__call__(images) -> Features`, where images are floats in
[0, 1] of shape `(N, C, H, W)`. Its name carries the fingerprint of its weights: scores of two extractors are not
comparable.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import NamedTuple, Protocol

import pyro
import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from pyro_vae._utils import checks, files
from pyro_vae._utils.device import choose_device
from pyro_vae.data import Images
from pyro_vae.models.base import check_set, evaluating


class Features(NamedTuple):
    """The features of N images: `pool` `(N, d)`, and `logits` `(N, classes)` where it has them."""

    pool: Tensor
    logits: Tensor | None


class Extractor(Protocol):
    """What :func:`~pyro_vae.evaluation.evaluate` needs of a feature extractor."""

    num_features: int

    @property
    def name(self) -> str:
        """The extractor's name, with the fingerprint of its weights."""

    def __call__(self, images: Tensor, /) -> Features:
        """Features of floats in [0, 1], `(N, C, H, W)`."""


def extract(
    extractor: Extractor, images: Tensor, *, batch_size: int = 100, device: str | torch.device = "auto"
) -> Features:
    """The features of uint8 or float images `(N, C, H, W)`, on the CPU.

    Computed in small batches: on a CPU the memory of larger ones is allocated anew each time, which takes longer.
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
    """Features of a real data set, from this user's cache (or from `cache`), where they are saved the first time.

    The file is named after the extractor, whose name holds the fingerprint of its weights, and after that of the
    images: other weights or other images are other files. A damaged file is computed anew.
    """
    check_set("images", images)
    folder = Path(cache) if cache is not None else files.cache_folder() / "features"
    path = folder / f"{file_name(extractor.name)}-{images.fingerprint[:16]}.safetensors"
    try:
        stored = from_safetensors(path.read_bytes())
        return Features(stored["pool"], stored.get("logits"))
    except (OSError, SafetensorError, KeyError):
        features = extract(extractor, images.pixels, batch_size=batch_size, device=device)
    tensors = {"pool": features.pool} if features.logits is None else {"pool": features.pool, "logits": features.logits}
    keep(path, to_safetensors({name: tensor.contiguous() for name, tensor in tensors.items()}))
    return features


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
        output = self.module(images)
        pool, logits = output if isinstance(output, tuple) else (output, None)
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


def store_fingerprint() -> str:
    """SHA-256 over Pyro's param store, from which programs of a user's own may take parameters."""
    digest = hashlib.sha256()
    for name, value in sorted(pyro.get_param_store().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def keep(path: Path, content: bytes) -> None:
    """Writes to the cache; where that fails, a warning says so and nothing else changes."""
    try:
        files.write(path, content)
    except OSError as error:
        reason, cache = error.strerror or error, files.cache_folder()
        folder = cache if path.is_relative_to(cache) else path.parent
        warnings.warn(
            f"nothing is kept in the cache {folder} ({reason}); $PYRO_VAE_CACHE names another folder", stacklevel=3
        )


def file_name(name: str) -> str:
    """`name` as part of the name of a file in the cache."""
    return "".join(character if character.isalnum() or character in "-_" else "_" for character in name)[:60]


def check_features(name: str, features: Tensor, least: int) -> Tensor:
    """Float64 on the CPU, `(n, d)`, finite."""
    x = checks.tensor(name, features)
    if x.dim() != 2 or len(x) < least:
        raise checks.fail(name, f"shape {tuple(x.shape)}", f"shape (n, d) with n of at least {least}")
    x = x.cpu().double()
    if not bool(x.isfinite().all()):
        raise checks.fail(name, "NaN or infinity", "finite numbers")
    return x
