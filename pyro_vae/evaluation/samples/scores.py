"""The scores of samples: what `evaluate` computes from the features of samples and of real images."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import Any

import torch

from pyro_vae import __version__
from pyro_vae._utils import checks, files
from pyro_vae.data import Images
from pyro_vae.evaluation.samples.features import Extractor, Features, extract_cached, keep
from pyro_vae.evaluation.samples.frechet import (
    IMAGES_PER_FEATURE,
    frechet_at_infinity,
    frechet_from_features,
    frechet_se,
)
from pyro_vae.evaluation.samples.inception_score import confidence, confidence_se, inception_score
from pyro_vae.evaluation.samples.kernel_distance import kernel_distance_from_features
from pyro_vae.evaluation.samples.precision_recall import precision_recall_from_features, precision_recall_se

_DEFINITION = 3  # of the scores; cached ones of another version are not used


def real_features(extractor: Extractor, images: Images, device: torch.device) -> Features:
    """Features of real images, which must differ: if all were the same, any sample would have perfect scores."""
    features = extract_cached(extractor, images, device=device)
    spread = (features.pool - features.pool[:1]).abs().amax()
    if len(features.pool) > 1 and not bool(
        spread > 1e-6 * features.pool.abs().amax()
    ):  # no more than float32's rounding
        raise checks.fail("extractor", extractor.name, f"features that differ between the images of {images.name}")
    if features.logits is not None and features.logits.shape[1] < 2:
        raise checks.fail("extractor", extractor.name, "logits of at least 2 classes, or none")
    return features


def unseen_images(extractor: Extractor, train: Images, count: int) -> Images | None:
    """`count` of the training images, or as many as the extractor was not trained on; it has the method `unseen`."""
    unseen = train if not hasattr(extractor, "unseen") else extractor.unseen(train)
    return None if unseen is None else unseen.draw(count)


def score_real_images(
    extractor: Extractor, others: Images, images: Images, splits: int, seed: int, device: torch.device
) -> dict[str, Any]:
    """The scores of real images against others: the same for all models of a data set, and therefore cached."""
    about = {
        "pyro_vae": __version__,
        "definition": _DEFINITION,
        "extractor": extractor.name,
        "images": images.fingerprint,
        "others": others.fingerprint,
        "splits": splits,
        "seed": seed,
    }
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    path = files.cache_folder() / "scores" / f"{name}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["about"] == about:
            return dict(stored["scores"])
    real, generated = (real_features(extractor, each, device) for each in (images, others))
    scores = score_samples(generated, real, splits, seed)
    with suppress(ValueError):  # of numbers that are not finite
        keep(path, json.dumps({"about": about, "scores": scores}, allow_nan=False).encode())
    return scores


def score_samples(generated: Features, real: Features, splits: int, seed: int) -> dict[str, Any]:
    """The fields of :class:`~pyro_vae.evaluation.Metrics` that features of samples and of real images give."""
    kernel = kernel_distance_from_features(real.pool, generated.pool, seed=seed)
    near = precision_recall_from_features(real.pool, generated.pool)
    scores: dict[str, Any] = {
        "frechet": frechet_from_features(real.pool, generated.pool),
        "kernel_distance": kernel.mean,
        "kernel_distance_se": kernel.se,
        "kernel_distance_std": kernel.std,
        "precision": near.precision,
        "recall": near.recall,
        "density": near.density,
        "coverage": near.coverage,
    }
    if min(near.n, near.m) >= 2 * (near.k + 1):
        errors = precision_recall_se(real.pool, generated.pool, seed=seed)
        scores |= {f"{name}_se": error for name, error in errors.items()}
    line = None
    if min(len(real.pool), len(generated.pool)) >= 2 * IMAGES_PER_FEATURE * generated.pool.shape[1]:
        line = frechet_at_infinity(real.pool, generated.pool, seed=seed)
    scores["frechet_se"] = frechet_se(real.pool, generated.pool, seed=seed) if line is None else line.sampling_se
    if line is not None and line.informative:
        scores |= {"frechet_infinity": line.value, "frechet_infinity_se": line.value_se}
        scores["frechet_infinity_fit"] = {
            "slope": line.slope,
            "fit_se": line.fit_se,
            "r_squared": line.r_squared,
            "sizes": list(line.sizes),
            "real_sizes": list(line.real_sizes or ()),
        }
    if generated.logits is not None and real.logits is not None:
        score = inception_score(generated.logits, splits, seed)
        scores |= {"inception_score_mean": score.mean, "inception_score_se": score.se}
        scores |= {"inception_score_std": score.std, "inception_score_overall": score.overall}
        scores["confidence"] = confidence(generated.logits, real.logits)
        scores["confidence_se"] = confidence_se(generated.logits, real.logits)
    return scores
