"""Feature extractors by name: the in-domain classifier, and Inception networks from a weights file."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from pyro_vae._utils import checks
from pyro_vae.data import Splits
from pyro_vae.evaluation.samples.classifier import in_domain_classifier
from pyro_vae.evaluation.samples.features import Extractor, Features, fingerprint

EXTRACTORS = ("classifier", "inception-2015-12-05", "inception-torchvision")
_INCEPTION_FILES = {
    "inception-2015-12-05": ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
    "inception-torchvision": ("inception_v3_google-0cc3c7bd.pth",),
}
_INCEPTION_HOMES = {
    "inception-2015-12-05": "https://github.com/toshas/torch-fidelity/releases",
    "inception-torchvision": "https://download.pytorch.org/models",
}


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
