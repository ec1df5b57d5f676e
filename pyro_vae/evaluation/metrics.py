"""`evaluate`: everything that is known of a trained model, with its provenance, in one frozen result."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyro_vae.evaluation.comparison import PerImage
from pyro_vae.metric_table import OF_DRAWN_PIXELS, binarization_note


def _metric(label: str, meaning: str, digits: int = 2, error: str | None = None) -> Any:
    return field(default=None, metadata={"label": label, "meaning": meaning, "digits": digits, "error": error})


@dataclass(frozen=True)
class Metrics:
    """What :func:`evaluate` found; a metric that was not computed is None here, and absent in `to_dict()`.

    All are at beta = 1. For the definitions see :class:`~pyro_vae.evaluation.Bounds`,
    :class:`~pyro_vae.evaluation.Evidence`, and :mod:`pyro_vae.evaluation.samples`. `..._se` are standard errors
    over images, which `rows()` puts after ±; `..._std` are standard deviations over splits or subsets.
    `real_scores` are what real images score in the samples' place.
    """

    mse_per_pixel: float | None = _metric("MSE per pixel", "pixels in [0, 1], decoding the posterior's mean", 5)
    mse_per_pixel_sampled: float | None = _metric("MSE per pixel, sampled", "the same, decoding a posterior sample", 5)
    reconstruction_nats: float | None = _metric(
        "reconstruction", "-E log p(x|z), nats per image; of a density it may be below 0", error="reconstruction_se"
    )
    reconstruction_se: float | None = None
    kl_per_sample: float | None = _metric("KL", "KL(q(z|x) || p(z)), nats per image", error="kl_se")
    kl_se: float | None = None
    kl_prior_at_start: float | None = _metric(
        "KL, prior at z_0", "not a KL, and may be below 0: the prior stays at the start of the flow, as in some reports"
    )
    elbo_nats: float | None = _metric("ELBO", "-(reconstruction + KL), nats per image", error="elbo_se")
    elbo_se: float | None = None
    active_units: int | None = _metric("active units", "latent dimensions that tell images apart", 0, "active_units_se")
    active_units_se: float | None = None
    nll_nats: float | None = _metric(
        "NLL", "-log p(x) by importance sampling, nats per image, ± SE over images", error="nll_se"
    )
    nll_se: float | None = None
    nll_mcse: float | None = _metric("NLL, Monte Carlo SE", "of the NLL of these images, from the spread of weights", 3)
    nll_effective_samples: float | None = _metric("effective samples", "of the K per image, median over images", 1)
    nll_trusted_nats: float | None = _metric(
        "NLL, trusted images", "of those with a Pareto k up to the threshold", error="nll_trusted_se"
    )
    nll_trusted_se: float | None = None
    nll_trusted_share: float | None = _metric("trusted images", "share with a Pareto k up to the threshold", 3)
    nll_annealed_nats: float | None = _metric(
        "NLL, annealed",
        "of some distrusted images, by annealed importance sampling, ± Monte Carlo SE",
        error="nll_annealed_mcse",
    )
    nll_annealed_mcse: float | None = None
    nll_annealed_importance_nats: float | None = _metric("NLL of the same", "those images by importance sampling")
    elbo_of_evidence_images_nats: float | None = _metric(
        "ELBO of these images", "of the images of the NLL, nats per image", error="elbo_of_evidence_images_se"
    )
    elbo_of_evidence_images_se: float | None = None
    nll_by_k: list[dict[str, Any]] | None = None
    nll_annealing: dict[str, Any] | None = None
    nll_diagnostics: dict[str, Any] | None = None
    nll_warnings: list[str] | None = None
    bits_per_dimension: float | None = _metric(
        "bits per dimension", "-log2 P(x) over C H W, of a probability P", 4, "bits_per_dimension_se"
    )
    bits_per_dimension_se: float | None = None
    pareto_k: dict[str, float] | None = _metric("Pareto k", "share of images in each band; above ok, distrust the NLL")
    frechet: float | None = _metric(
        "Frechet distance", "of samples to real images; lower is better", error="frechet_se"
    )
    frechet_se: float | None = None
    frechet_infinity: float | None = _metric(
        "Frechet at infinity", "extrapolated to infinitely many samples and real images", error="frechet_infinity_se"
    )
    frechet_infinity_se: float | None = None
    frechet_infinity_fit: dict[str, Any] | None = None
    kernel_distance: float | None = _metric(
        "kernel distance", "of samples to real images; lower is better", 4, "kernel_distance_se"
    )
    kernel_distance_se: float | None = None
    kernel_distance_std: float | None = None
    inception_score_mean: float | None = _metric(
        "classifier score", "of samples; higher is better", 3, "inception_score_se"
    )
    inception_score_se: float | None = None
    inception_score_std: float | None = None
    inception_score_overall: float | None = None
    confidence: float | None = _metric(
        "confidence", "mean top-class probability over that of real images", 3, "confidence_se"
    )
    confidence_se: float | None = None
    precision: float | None = _metric("precision", "share of samples among real images", 3, "precision_se")
    precision_se: float | None = None
    recall: float | None = _metric("recall", "share of real images among samples", 3, "recall_se")
    recall_se: float | None = None
    density: float | None = _metric("density", "real neighbourhoods a sample lies in", 3, "density_se")
    density_se: float | None = None
    coverage: float | None = _metric("coverage", "share of real images with a sample near them", 3, "coverage_se")
    coverage_se: float | None = None
    real_scores: dict[str, Any] | None = None
    extractor: str | None = None
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    per_image: Mapping[str, PerImage] = field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """What was computed, ready for JSON; without the values of single images."""
        found = {name: value for name, value in vars(self).items() if value is not None and name != "per_image"}
        return copy.deepcopy(found)

    def rows(self) -> list[tuple[str, str, str]]:
        """Label, value with its error, and meaning of each metric, for a table.

        At the end, the reasons to doubt the NLL.
        """
        numbers = [
            self._row(one)
            for one in dataclasses.fields(self)
            if "label" in one.metadata and getattr(self, one.name) is not None
        ]
        return [*numbers, *(("NLL, caution", "", reason) for reason in self.nll_warnings or ())]

    def _row(self, one: dataclasses.Field[Any]) -> tuple[str, str, str]:
        value, label, meaning = getattr(self, one.name), one.metadata["label"], one.metadata["meaning"]
        error = None if one.metadata["error"] is None else getattr(self, one.metadata["error"])
        digits = one.metadata["digits"]
        source = self.provenance.get(one.name, {})
        if isinstance(value, dict):
            return label, ", ".join(f"{name} {share:.1%}" for name, share in value.items()), meaning
        text = f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{max(digits, 1)}f}")
        if self.real_scores is not None and one.name in self.real_scores:
            fewer = "num_real" in source and source["num_real"] != source["num_generated"]
            number = f" of {source['num_real']:,} images" if fewer else ""
            text += f" (real{number} {self.real_scores[one.name]:.{digits}f})"
        if one.name in OF_DRAWN_PIXELS:
            meaning += binarization_note(source)
        if one.name == "nll_nats" and "k" in source:
            meaning += f" (K = {source['k']:,}, {source['n']:,} images)"
        if one.name == "nll_trusted_nats" and self.nll_trusted_share is not None and "n" in source:
            meaning += f" ({round(self.nll_trusted_share * source['n']):,} of {source['n']:,})"
        if one.name == "nll_annealed_nats" and self.nll_annealing is not None:
            meaning += (
                " ({images} images, {effective_chains:.1f} effective chains of {chains}, {chain_sd_nats:.1f} nats "
            )
            meaning = (meaning + "between chains)").format(**self.nll_annealing)
        if one.name == "nll_nats" and "bits_per_dimension_absent" in source:
            meaning += f"; no bits per dimension: {source['bits_per_dimension_absent']}"
        if one.name in ("frechet", "inception_score_mean") and "extractor" in source:
            meaning += f" ({source['extractor']}, {source['num_generated']:,} samples)"
        if source.get("extractor", "").startswith("inception-2015-12-05@"):  # no other scores may have these names
            label = label.replace("Frechet", "FID").replace("classifier score", "Inception Score")
        return label, text, meaning
