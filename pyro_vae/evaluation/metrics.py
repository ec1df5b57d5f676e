"""`evaluate`: everything that is known of a trained model, with its provenance, in one frozen result."""

from __future__ import annotations

import dataclasses
import platform
from dataclasses import dataclass, field
from typing import Any

import torch

from pyro_vae import __version__, checks
from pyro_vae.data import Images
from pyro_vae.device import choose_device
from pyro_vae.evaluation.bounds import bounds
from pyro_vae.evaluation.features import Extractor, extract
from pyro_vae.evaluation.generation import frechet_from_features, inception_score
from pyro_vae.latent import prior_samples
from pyro_vae.models import Autoencoder, Model


def _metric(label: str, meaning: str, digits: int = 2) -> Any:
    return field(default=None, metadata={"label": label, "meaning": meaning, "digits": digits})


@dataclass(frozen=True)
class Metrics:
    """What :func:`evaluate` found; a metric that was not computed is None here, and absent in `to_dict()`.

    All are at beta = 1. See :class:`~pyro_vae.evaluation.Bounds` for the definitions of the first group and
    :func:`~pyro_vae.evaluation.frechet_distance`, :func:`~pyro_vae.evaluation.inception_score` for the second.
    """

    mse_per_pixel: float | None = _metric("MSE per pixel", "pixels in [0, 1], decoding the posterior's mean", 5)
    mse_per_pixel_sampled: float | None = _metric("MSE per pixel, sampled", "the same, decoding a posterior sample", 5)
    reconstruction_nats: float | None = _metric(
        "reconstruction", "-E log p(x|z), nats an image; of a density it may be below 0"
    )
    reconstruction_se: float | None = None
    kl_per_sample: float | None = _metric("KL", "KL(q(z|x) || p(z)), nats an image")
    kl_se: float | None = None
    elbo_nats: float | None = _metric("ELBO", "-(reconstruction + KL), nats an image")
    elbo_se: float | None = None
    frechet: float | None = _metric(
        "Frechet distance", "features of samples against those of real images; lower is better"
    )
    inception_score_mean: float | None = _metric(
        "classifier score", "of samples, mean over splits; higher is better", 3
    )
    inception_score_std: float | None = None
    extractor: str | None = None
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What was computed, ready for JSON."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def rows(self) -> list[tuple[str, str, str]]:
        """Label, value with its error, and meaning of each metric, for a table."""
        errors = {"inception_score_mean": self.inception_score_std, "reconstruction_nats": self.reconstruction_se}
        errors |= {"kl_per_sample": self.kl_se, "elbo_nats": self.elbo_se}
        found = []
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if value is None or "label" not in one.metadata:
                continue
            digits, error = one.metadata["digits"], errors.get(one.name)
            text = f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")
            scored = one.name in ("frechet", "inception_score_mean")
            label, meaning = one.metadata["label"], one.metadata["meaning"]
            if scored and self.extractor is not None:
                drawn = self.provenance.get(one.name, {}).get("num_generated")
                meaning += f" ({self.extractor}, {drawn} samples)"
                if self.extractor.startswith("inception-2015-12-05@"):  # no other network's scores may have these names
                    label = {"frechet": "FID", "inception_score_mean": "Inception Score"}[one.name]
            found.append((label, text, meaning))
        return found


def evaluate(
    model: Model,
    images: Images,
    *,
    binarization: str = "none",
    extractor: Extractor | None = None,
    num_generated: int | None = None,
    splits: int = 10,
    samples: int = 1,
    batch_size: int = 500,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Metrics:
    """Judges a model on images it was not trained on; nothing is trained.

    Args:
        model: a `VAE` or `Autoencoder`.
        images: test images; also the reference of the Frechet distance, as they are, before any binarization.
        binarization: as in training; `dynamic` is `static` here: each image is drawn once, the same for all models.
        extractor: see :mod:`pyro_vae.evaluation.features`; without one, samples are not scored. An autoencoder has no
            samples to score.
        num_generated: images to draw for the scores; by default as many as `images`.
        splits: of the inception score.
        samples: posterior samples an image, for the Monte Carlo parts.
        batch_size: images at a time.
        device: `auto` is CUDA where there is one, else the CPU.
        seed: of all noise. The global generators are as before afterwards.
        progress: progress bars, where standard error is a terminal.

    >>> from pyro_vae import Spec, build, load_data
    >>> metrics = evaluate(build(Spec(latent_dim=2)), load_data("digits").test, binarization="threshold")
    >>> sorted(metrics.to_dict())[:4]
    ['elbo_nats', 'elbo_se', 'kl_per_sample', 'kl_se']
    """
    if num_generated is not None:
        checks.positive_integer("num_generated", num_generated)
    if extractor is not None and (num_generated or len(images)) < max(splits, 2):
        raise checks.fail(
            "num_generated", num_generated or len(images), f"at least {max(splits, 2)}, one image a split"
        )
    measured = bounds(
        model,
        images,
        binarization=binarization,
        samples=samples,
        batch_size=batch_size,
        device=device,
        seed=seed,
        progress=progress,
    )
    values = {name: value for name, value in dataclasses.asdict(measured).items() if name in _NAMES}
    source: dict[str, Any] = {
        "images": images.name,
        "images_sha256": images.fingerprint,
        "n": len(images),
        "seed": seed,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "device": choose_device(device).type,
        "pyro_vae": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    of_bounds = {
        "binarization": binarization,
        "likelihood": type(model.likelihood).__name__,
        "samples": samples,
    } | source
    if measured.kl_is_exact is not None:
        of_bounds["kl_is_exact"] = measured.kl_is_exact
    provenance = {name: of_bounds for name, value in values.items() if value is not None}
    if extractor is not None and not isinstance(model, Autoencoder):
        drawn = prior_samples(model, num_generated or len(images), batch_size=batch_size, device=device, seed=seed)
        # 256 grey levels, as the real images have.
        generated = extract(
            extractor, (drawn * 255).round().clamp(0, 255).to(torch.uint8), batch_size=batch_size, device=device
        )
        real = extract(extractor, images.pixels, batch_size=batch_size, device=device)
        scores = {"frechet": frechet_from_features(real.pool, generated.pool)}
        if generated.logits is not None:
            score = inception_score(generated.logits, splits, seed)
            scores |= {"inception_score_mean": score.mean, "inception_score_std": score.std}
        provenance |= {
            name: {"extractor": extractor.name, "num_generated": len(drawn), "splits": splits} | source
            for name in scores
        }
        values |= scores | {"extractor": extractor.name}
    return Metrics(**values, provenance=provenance)


_NAMES = {one.name for one in dataclasses.fields(Metrics)}
