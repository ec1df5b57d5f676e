"""Judging trained models; nothing here trains one (only `features` trains its own small classifier)."""

from pyro_vae.evaluation.bounds import Bounds, bounds, kl_per_image, mse_per_pixel
from pyro_vae.evaluation.features import Classifier, Extractor, Features, extract, in_domain_classifier
from pyro_vae.evaluation.generation import (
    InceptionScore,
    Moments,
    frechet_distance,
    frechet_from_features,
    frechet_from_stats,
    inception_score,
)
from pyro_vae.evaluation.metrics import Metrics, evaluate

__all__ = [
    "Bounds",
    "Classifier",
    "Extractor",
    "Features",
    "InceptionScore",
    "Metrics",
    "Moments",
    "bounds",
    "evaluate",
    "extract",
    "frechet_distance",
    "frechet_from_features",
    "frechet_from_stats",
    "in_domain_classifier",
    "inception_score",
    "kl_per_image",
    "mse_per_pixel",
]
