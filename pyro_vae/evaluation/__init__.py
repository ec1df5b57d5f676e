"""Evaluation of trained models; nothing here trains one (only `classifier` trains its own small classifier)."""

import warnings
from typing import Any

from pyro_vae.evaluation.bounds import Bounds, bounds, kl_per_dimension, kl_per_image, mse_per_pixel
from pyro_vae.evaluation.comparison import Difference, PerImage, compare
from pyro_vae.evaluation.criticism.calibration import Calibration, Coverage, simulation_based_calibration
from pyro_vae.evaluation.criticism.predictive import (
    PredictiveCheck,
    StatisticCheck,
    mean_intensity,
    pixels_on,
    predictive_check,
    total_variation,
)
from pyro_vae.evaluation.divergences import Divergences, divergences
from pyro_vae.evaluation.inference_data import to_inference_data
from pyro_vae.evaluation.latent_codes.active_units import ActiveUnits, active_units
from pyro_vae.evaluation.latent_codes.aggregate_posterior import AggregatePosterior, aggregate_posterior
from pyro_vae.evaluation.latent_codes.codebook import CodebookUse, codebook_use
from pyro_vae.evaluation.latent_codes.disentanglement import (
    DCI,
    Gap,
    dci_from_importance,
    disentanglement_completeness_informativeness,
    mutual_information_gap,
    separated_attribute_predictability,
)
from pyro_vae.evaluation.latent_codes.probes import Probes, probe_accuracy
from pyro_vae.evaluation.latent_codes.two_sample import TwoSampleTest, two_sample_test
from pyro_vae.evaluation.likelihood.annealing import (
    Annealed,
    TwoSided,
    annealed_log_likelihood,
    bidirectional_monte_carlo,
)
from pyro_vae.evaluation.likelihood.bits_per_dimension import bits_per_dimension
from pyro_vae.evaluation.likelihood.evidence import Evidence, evidence
from pyro_vae.evaluation.likelihood.importance_weights import (
    ParetoSmoothed,
    effective_sample_size,
    log_mean_weight,
    log_mean_weight_by_k,
    log_mean_weight_mcse,
    pareto_smooth,
)
from pyro_vae.evaluation.likelihood.inference_gap import InferenceGap, inference_gap
from pyro_vae.evaluation.likelihood.nll import AnnealedCheck, NLLAtK, NLLOfSome
from pyro_vae.evaluation.metric_groups import evaluate
from pyro_vae.evaluation.metrics import Metrics
from pyro_vae.evaluation.rate_distortion import RateDistortion, RatePoint, Secant, rate_distortion
from pyro_vae.evaluation.resampling import jackknife_se
from pyro_vae.evaluation.samples.classifier import Classifier, in_domain_classifier
from pyro_vae.evaluation.samples.features import Extractor, Features, ModuleExtractor, extract, extract_cached
from pyro_vae.evaluation.samples.frechet import (
    FrechetAtInfinity,
    Moments,
    frechet_at_infinity,
    frechet_distance,
    frechet_from_features,
    frechet_from_stats,
    frechet_se,
)
from pyro_vae.evaluation.samples.inception_score import InceptionScore, confidence, confidence_se, inception_score
from pyro_vae.evaluation.samples.kernel_distance import KernelDistance, kernel_distance_from_features
from pyro_vae.evaluation.samples.precision_recall import (
    PrecisionRecall,
    precision_recall_from_features,
    precision_recall_se,
)

__all__ = [
    "DCI",
    "ActiveUnits",
    "AggregatePosterior",
    "Annealed",
    "AnnealedCheck",
    "Bounds",
    "Calibration",
    "Classifier",
    "CodebookUse",
    "Coverage",
    "Difference",
    "Divergences",
    "Evidence",
    "Extractor",
    "Features",
    "FrechetAtInfinity",
    "Gap",
    "InceptionScore",
    "InferenceGap",
    "KernelDistance",
    "Metrics",
    "ModuleExtractor",
    "Moments",
    "NLLAtK",
    "NLLOfSome",
    "ParetoSmoothed",
    "PerImage",
    "PrecisionRecall",
    "PredictiveCheck",
    "Probes",
    "RateDistortion",
    "RatePoint",
    "Secant",
    "StatisticCheck",
    "TwoSampleTest",
    "TwoSided",
    "active_units",
    "aggregate_posterior",
    "annealed_log_likelihood",
    "bidirectional_monte_carlo",
    "bits_per_dimension",
    "bounds",
    "codebook_use",
    "compare",
    "confidence",
    "confidence_se",
    "dci_from_importance",
    "disentanglement_completeness_informativeness",
    "divergences",
    "effective_sample_size",
    "evaluate",
    "evidence",
    "extract",
    "extract_cached",
    "frechet_at_infinity",
    "frechet_distance",
    "frechet_from_features",
    "frechet_from_stats",
    "frechet_se",
    "in_domain_classifier",
    "inception_score",
    "inference_gap",
    "jackknife_se",
    "kernel_distance_from_features",
    "kl_per_dimension",
    "kl_per_image",
    "log_mean_weight",
    "log_mean_weight_by_k",
    "log_mean_weight_mcse",
    "mean_intensity",
    "mse_per_pixel",
    "mutual_information_gap",
    "pareto_smooth",
    "pixels_on",
    "precision_recall_from_features",
    "precision_recall_se",
    "predictive_check",
    "probe_accuracy",
    "rate_distortion",
    "separated_attribute_predictability",
    "simulation_based_calibration",
    "to_inference_data",
    "total_variation",
    "two_sample_test",
]

_RENAMED = {
    "Neighbourhoods": "PrecisionRecall",
    "neighbourhoods_from_features": "precision_recall_from_features",
    "neighbourhoods_se": "precision_recall_se",
    "two_sided_log_likelihood": "bidirectional_monte_carlo",
}


def __getattr__(name: str) -> Any:
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{name} is now {_RENAMED[name]}", DeprecationWarning, stacklevel=2)
    return globals()[_RENAMED[name]]
