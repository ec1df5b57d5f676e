"""The one table of metrics: name, label, unit, direction and meaning of each number in `metrics.json`.

It serves :class:`~pyro_vae.evaluation.Metrics`, the command line, studies, the report and the documentation. It
imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyro_vae.parts import Part, kinds


@dataclass(frozen=True)
class Metric:
    """How a number of `metrics.json` is presented.

    Args:
        label: above its column.
        unit: of the number; empty where it has none.
        meaning: one line on what it is.
        direction: which is better, `lower`, `higher` or `neither`.
        alike: the fields of `Spec` that two models must share for this number to tell which is better; `condition` is
            what images are given, an option of the model.
        digits: after the point.
        error: the metric that holds its standard error, which stands after ±.
        comparable: whether a published number is of the same quantity. Scores by another network's features are not.
    """

    label: str
    unit: str = ""
    meaning: str = ""
    direction: str = "neither"
    alike: tuple[str, ...] = ("dataset", "image_shape")
    digits: int = 2
    error: str = ""
    comparable: bool = True

    @property
    def heading(self) -> str:
        """The label with its unit.

        >>> METRICS["elbo_nats"].heading
        'ELBO (nats)'
        """
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def group(self, spec: Mapping[str, Any]) -> str:
        """The same for models of which this number tells the better one; `spec` is by field.

        Discretized likelihoods are all probabilities of the same 256 levels, and so one group.
        """
        fields = {name: spec.get(name) for name in self.alike}
        if "condition" in fields:
            fields["condition"] = condition_option(spec.get("model"))
        if "likelihood" in fields and str(Part.of(fields["likelihood"] or "").kind).startswith("discretized-"):
            fields["likelihood"] = "256 levels"
        return repr(fields)


def condition_option(model: Any) -> Any:
    """What images are given under a model of this kind, its option `condition`; None where it has none."""
    part = Part.of(model or "vae")
    option = kinds("model")[part.kind].options.get("condition") if part.kind in kinds("model") else None
    return None if option is None else part.options.get("condition", option.default.strip("'\""))


_DATA = ("dataset", "image_shape", "binarization")
_PIXELS = (*_DATA, "condition")
_DENSITY = (*_DATA, "dequantize", "likelihood", "condition")
_LOSS = (*_DENSITY, "model", "beta")


def _nats(label: str, meaning: str, direction: str = "neither", error: str = "") -> Metric:
    """A log-likelihood, or a part of one, per image."""
    return Metric(label, "nats", meaning, direction, _DENSITY, error=error)


def _score(
    label: str, meaning: str, direction: str, error: str = "", digits: int = 2, comparable: bool = True
) -> Metric:
    """Of samples, by the features of an extractor."""
    return Metric(label, "", meaning, direction, digits=digits, error=error, comparable=comparable)


METRICS = {
    "loss_nats": Metric("loss", "nats", "reconstruction + beta KL, nats per image", "lower", _LOSS),
    "squared_error_loss": Metric(
        "squared error + KL", "", "summed squared error of the decoded mean + beta KL", "lower", (*_DATA, *_LOSS[-2:])
    ),
    "mse_per_pixel": Metric(
        "MSE per pixel", "", "pixels in [0, 1], decoding the posterior's mean", "lower", _PIXELS, 5
    ),
    "mse_per_pixel_sampled": Metric(
        "MSE per pixel, sampled", "", "the same, decoding a posterior sample", "lower", _PIXELS, 5
    ),
    "reconstruction_nats": _nats(
        "reconstruction", "-E log p(x|z), nats per image; of a density it may be below 0", "lower", "reconstruction_se"
    ),
    "kl_per_sample": _nats("KL", "KL(q(z|x) || p(z)), nats per image", error="kl_se"),
    "kl_prior_at_start": _nats(
        "KL, prior at z_0", "not a KL, and may be below 0: the prior stays at the start of the flow, as in some reports"
    ),
    "kl_by_site": Metric(
        "KL by site", "nats", "the part of each latent site of a model with several", "neither", _DENSITY
    ),
    "elbo_nats": _nats("ELBO", "-(reconstruction + KL), nats per image", "higher", "elbo_se"),
    "active_units": Metric(
        "active units",
        "",
        "latent dimensions that tell images apart; not under a condition",
        digits=0,
        error="active_units_se",
    ),
    "codes_used": Metric("codes used", "", "share of the discrete codes in use", "higher", digits=3),
    "code_perplexity": Metric("code perplexity", "", "exp of the entropy of the frequencies of the codes", digits=1),
    "active_units_by_site": Metric("active units by site", "", "of each latent site", digits=0),
    "label_accuracy": Metric(
        "label accuracy",
        "",
        "share of images whose most probable class is their label",
        "higher",
        digits=4,
        error="label_accuracy_se",
    ),
    "cluster_accuracy": Metric(
        "cluster accuracy",
        "",
        "share of images in the cluster that is matched to their class",
        "higher",
        digits=4,
        error="cluster_accuracy_se",
    ),
    "cluster_nmi": Metric("cluster NMI", "", "normalised mutual information of cluster and class", "higher", digits=3),
    "clusters_used": Metric("clusters used", "", "clusters of at least 1 % of the images", digits=0),
    "two_sample_accuracy": Metric(
        "two-sample accuracy",
        "",
        "of a classifier that tells codes from draws of the prior; 0.5 where they are alike",
        "lower",
        digits=3,
        error="two_sample_accuracy_se",
    ),
    "two_sample_p_value": Metric("two-sample p-value", "", "of that accuracy, by guessing", digits=3),
    "marginal_kl_lower_nats": Metric(
        "marginal KL, at least",
        "nats",
        "lower bound on KL(q(z) || p(z)), in expectation, by the log-odds of that classifier",
        "lower",
        digits=3,
        error="marginal_kl_lower_se",
    ),
    "nll_nats": _nats("NLL", "-log p(x) by importance sampling, nats per image, ± SE over images", "lower", "nll_se"),
    "nll_mcse": Metric(
        "NLL, Monte Carlo SE", "nats", "of the NLL of these images, from the spread of weights", digits=3
    ),
    "nll_effective_samples": Metric("effective samples", "", "of the K per image, median over images", digits=1),
    "nll_trusted_nats": _nats(
        "NLL, trusted images", "of those with a Pareto k up to the threshold", error="nll_trusted_se"
    ),
    "nll_trusted_share": Metric("trusted images", "", "share with a Pareto k up to the threshold", digits=3),
    "nll_annealed_nats": _nats(
        "NLL, annealed",
        "of some distrusted images, by annealed importance sampling, ± Monte Carlo SE",
        error="nll_annealed_mcse",
    ),
    "nll_annealed_importance_nats": _nats("NLL of the same", "those images by importance sampling"),
    "elbo_of_evidence_images_nats": _nats(
        "ELBO of these images", "of the images of the NLL, nats per image", "higher", "elbo_of_evidence_images_se"
    ),
    "bits_per_dimension": Metric(
        "bits per dimension",
        "",
        "-log2 P(x) per value of x, C H W of them less those that are seen, of a probability P",
        "lower",
        _PIXELS,
        4,
        "bits_per_dimension_se",
    ),
    "pareto_k": Metric("Pareto k", "", "share of images in each band; above ok, distrust the NLL"),
    "frechet": _score(
        "Frechet distance", "of samples to real images; lower is better", "lower", "frechet_se", comparable=False
    ),
    "frechet_infinity": _score(
        "Frechet at infinity",
        "extrapolated to infinitely many samples and real images",
        "lower",
        "frechet_infinity_se",
        comparable=False,
    ),
    "kernel_distance": _score(
        "kernel distance",
        "of samples to real images; lower is better",
        "lower",
        "kernel_distance_se",
        digits=4,
        comparable=False,
    ),
    "inception_score_mean": _score(
        "classifier score", "of samples; higher is better", "higher", "inception_score_se", digits=3, comparable=False
    ),
    "inception_score_std": _score(
        "classifier score, sd over splits",
        "standard deviation over the splits of the samples",
        "neither",
        digits=3,
        comparable=False,
    ),
    "confidence": _score(
        "confidence", "mean top-class probability over that of real images", "neither", "confidence_se", digits=3
    ),
    "precision": _score("precision", "share of samples among real images", "higher", "precision_se", digits=3),
    "recall": _score("recall", "share of real images among samples", "higher", "recall_se", digits=3),
    "density": _score("density", "real neighbourhoods a sample lies in", "higher", "density_se", digits=3),
    "coverage": _score("coverage", "share of real images with a sample near them", "higher", "coverage_se", digits=3),
}

SUMS = ("loss_nats", "squared_error_loss")  # which studies add up with the beta of a run; no fields of `Metrics`

ERRORS = {
    metric.error: Metric(
        f"{'Monte Carlo SE' if metric.error.endswith('_mcse') else 'SE'} of {metric.label}",
        metric.unit,
        "standard error of the "
        + ("estimate for these images" if metric.error.endswith("_mcse") else "mean over images"),
        digits=metric.digits,
    )
    for metric in METRICS.values()
    if metric.error
}

# What `metrics.json` has beside: it stands in no table.
DETAILS = {
    "nll_by_k": Metric(
        "NLL by K", "nats", "at K, K/2, K/4, ... samples, from the same draws, with the drop at each doubling"
    ),
    "nll_annealing": Metric("annealing", "", "settings and diagnostics of the annealed importance sampling"),
    "nll_diagnostics": Metric("NLL, diagnostics", "nats", "the Pareto-smoothed NLL, which is no second estimate"),
    "nll_warnings": Metric("NLL, caution", "", "the reasons to doubt that the NLL lies within its errors"),
    "frechet_infinity_fit": Metric("Frechet at infinity, fit", "", "the line through 1 / n that is extrapolated"),
    "kernel_distance_std": Metric("kernel distance, sd", "", "standard deviation over subsets", digits=4),
    "inception_score_overall": Metric("classifier score, all", "", "of all samples as one split", "higher", digits=3),
    "real_scores": Metric("real images", "", "what real images score in the samples' place, by metric"),
    "extractor": Metric("extractor", "", "the features that samples are scored by"),
    "provenance": Metric("provenance", "", "data, seed, versions and settings behind each metric"),
    "per_image": Metric("per image", "", "the per-image values, in per_image.safetensors"),
}

OF_DRAWN_PIXELS = ("elbo_nats", "nll_nats")  # log-likelihoods, which papers print of one binarization or another


def metric_named(name: str) -> Metric:
    """That of the table; of a column of a study's own, its name alone."""
    return METRICS.get(name) or Metric(name)


def binarization_note(source: Mapping[str, Any]) -> str:
    """What must be known to compare a log-likelihood of binarized pixels with a published one; `source` is provenance.

    >>> binarization_note({"binarization": "static", "trained_with": "dynamic"})
    '; trained with dynamic binarization, evaluated on one fixed draw per image'
    """
    if source.get("binarization") != "static":
        return ""
    return f"; trained with {source.get('trained_with', 'unknown')} binarization, evaluated on one fixed draw per image"


def condition_note(source: Mapping[str, Any]) -> str:
    """What the images are given, of a number whose densities are all given it; `source` is provenance.

    >>> condition_note({"conditional_on": ["labels"]}), condition_note({"conditional_on": ["quadrants-2"]})
    ('; given labels', '; of the unseen pixels, given quadrants-2')
    """
    names = source.get("conditional_on", ())
    is_part = any(name.startswith("quadrants-") for name in names)
    return f"; {'of the unseen pixels, ' if is_part else ''}given {' and '.join(names)}" if names else ""
