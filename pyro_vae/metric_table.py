"""What each number of `metrics.json` is called, and when a lower or higher one is better. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyro_vae.parts import Part


@dataclass(frozen=True)
class Metric:
    """How a number of `metrics.json` is shown.

    Args:
        label: above its column.
        meaning: one line on what it is.
        better: `low`, `high`, or empty where neither is.
        alike: the fields of `Spec` that two models must share for this number to tell which is better.
        digits: after the point.
        error: the metric that holds its standard error, which stands after ±.
        comparable: whether a published number is of the same quantity. Scores by another network's features are not.
    """

    label: str
    meaning: str
    better: str = ""
    alike: tuple[str, ...] = ("dataset", "image_shape")
    digits: int = 2
    error: str = ""
    comparable: bool = True

    def group(self, spec: Mapping[str, Any]) -> str:
        """The same for models of which this number tells the better one; `spec` is by field.

        Discretized likelihoods are all probabilities of the same 256 levels, and so one group.
        """
        fields = {name: spec.get(name) for name in self.alike}
        if "likelihood" in fields and str(Part.of(fields["likelihood"] or "").kind).startswith("discretized-"):
            fields["likelihood"] = "256 levels"
        return repr(fields)


_DATA = ("dataset", "image_shape", "binarization")
_DENSITY = (*_DATA, "dequantize", "likelihood")
_LOSS = (*_DENSITY, "model", "beta")

METRICS = {
    "loss_nats": Metric("loss", "reconstruction + beta KL, nats per image", "low", _LOSS),
    "squared_error_loss": Metric(
        "squared error + KL", "summed squared error of the decoded mean + beta KL", "low", (*_DATA, *_LOSS[-2:])
    ),
    "mse_per_pixel": Metric("MSE per pixel", "pixels in [0, 1], decoding the posterior's mean", "low", _DATA, 5),
    "mse_per_pixel_sampled": Metric("MSE per pixel, sampled", "the same, decoding a posterior sample", "low", _DATA, 5),
    "reconstruction_nats": Metric(
        "reconstruction",
        "-E log p(x|z), nats per image; of a density it may be below 0",
        "low",
        _DENSITY,
        error="reconstruction_se",
    ),
    "kl_per_sample": Metric("KL", "KL(q(z|x) || p(z)), nats per image", error="kl_se"),
    "kl_prior_at_start": Metric(
        "KL, prior at z_0", "not a KL, and may be below 0: the prior stays at the start of the flow, as in some reports"
    ),
    "elbo_nats": Metric("ELBO", "-(reconstruction + KL), nats per image", "high", _DENSITY, error="elbo_se"),
    "active_units": Metric(
        "active units", "latent dimensions that tell images apart", digits=0, error="active_units_se"
    ),
    "nll_nats": Metric(
        "NLL", "-log p(x) by importance sampling, nats per image, ± SE over images", "low", _DENSITY, error="nll_se"
    ),
    "nll_mcse": Metric("NLL, Monte Carlo SE", "of the NLL of these images, from the spread of weights", digits=3),
    "nll_effective_samples": Metric("effective samples", "of the K per image, median over images", digits=1),
    "nll_trusted_nats": Metric(
        "NLL, trusted images", "of those with a Pareto k up to the threshold", error="nll_trusted_se"
    ),
    "nll_trusted_share": Metric("trusted images", "share with a Pareto k up to the threshold", digits=3),
    "nll_annealed_nats": Metric(
        "NLL, annealed",
        "of some distrusted images, by annealed importance sampling, ± Monte Carlo SE",
        error="nll_annealed_mcse",
    ),
    "nll_annealed_importance_nats": Metric("NLL of the same", "those images by importance sampling"),
    "elbo_of_evidence_images_nats": Metric(
        "ELBO of these images",
        "of the images of the NLL, nats per image",
        "high",
        _DENSITY,
        error="elbo_of_evidence_images_se",
    ),
    "bits_per_dimension": Metric(
        "bits per dimension", "-log2 P(x) over C H W, of a probability P", "low", _DATA, 4, "bits_per_dimension_se"
    ),
    "pareto_k": Metric("Pareto k", "share of images in each band; above ok, distrust the NLL"),
    "frechet": Metric(
        "Frechet distance",
        "of samples to real images; lower is better",
        "low",
        error="frechet_se",
        comparable=False,
    ),
    "frechet_infinity": Metric(
        "Frechet at infinity",
        "extrapolated to infinitely many samples and real images",
        "low",
        error="frechet_infinity_se",
        comparable=False,
    ),
    "kernel_distance": Metric(
        "kernel distance",
        "of samples to real images; lower is better",
        "low",
        digits=4,
        error="kernel_distance_se",
        comparable=False,
    ),
    "inception_score_mean": Metric(
        "classifier score",
        "of samples; higher is better",
        "high",
        digits=3,
        error="inception_score_se",
        comparable=False,
    ),
    "inception_score_std": Metric(
        "classifier score, sd over splits",
        "standard deviation over the splits of the samples",
        digits=3,
        comparable=False,
    ),
    "confidence": Metric(
        "confidence", "mean top-class probability over that of real images", digits=3, error="confidence_se"
    ),
    "precision": Metric("precision", "share of samples among real images", "high", digits=3, error="precision_se"),
    "recall": Metric("recall", "share of real images among samples", "high", digits=3, error="recall_se"),
    "density": Metric("density", "real neighbourhoods a sample lies in", "high", digits=3, error="density_se"),
    "coverage": Metric(
        "coverage", "share of real images with a sample near them", "high", digits=3, error="coverage_se"
    ),
}

OF_DRAWN_PIXELS = ("elbo_nats", "nll_nats")  # log-likelihoods, which papers print of one binarization or another


def binarization_note(source: Mapping[str, Any]) -> str:
    """What must be known to compare a log-likelihood of binarized pixels with a published one; `source` is provenance.

    >>> binarization_note({"binarization": "static", "trained_with": "dynamic"})
    '; trained with dynamic binarization, evaluated on one fixed draw per image'
    """
    if source.get("binarization") != "static":
        return ""
    return f"; trained with {source.get('trained_with', 'unknown')} binarization, evaluated on one fixed draw per image"
