"""`Metrics`: all metrics of a trained model, in one frozen result."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyro_vae.evaluation.comparison import PerImage
from pyro_vae.metric_table import ERRORS, METRICS, OF_DRAWN_PIXELS, Metric, binarization_note, condition_note

EXACT_NLL = "-log p(x), exact, as no latent site is drawn, nats per image, ± SE over images"


@dataclass(frozen=True)
class Metrics:
    """The result of :func:`evaluate`; a metric that was not computed is None here, and absent in `to_dict()`.

    All are at beta = 1. Label, unit, direction and meaning of each are in :mod:`pyro_vae.metric_table`; for the
    definitions see :class:`~pyro_vae.evaluation.Bounds`, :class:`~pyro_vae.evaluation.Evidence`, and
    :mod:`pyro_vae.evaluation.samples`. `..._se` are standard errors over images, which `rows()` puts after ±; `..._std`
    are standard deviations over splits or subsets. `real_scores` are what real images score in the samples' place.
    """

    mse_per_pixel: float | None = None
    mse_per_pixel_sampled: float | None = None
    reconstruction_nats: float | None = None
    reconstruction_se: float | None = None
    kl_per_sample: float | None = None
    kl_se: float | None = None
    kl_prior_at_start: float | None = None
    kl_by_site: dict[str, float] | None = None
    elbo_nats: float | None = None
    elbo_se: float | None = None
    active_units: int | None = None
    active_units_se: float | None = None
    active_units_by_site: dict[str, int] | None = None
    label_accuracy: float | None = None
    label_accuracy_se: float | None = None
    cluster_accuracy: float | None = None
    cluster_accuracy_se: float | None = None
    cluster_nmi: float | None = None
    clusters_used: int | None = None
    two_sample_accuracy: float | None = None
    two_sample_accuracy_se: float | None = None
    two_sample_p_value: float | None = None
    marginal_kl_lower_nats: float | None = None
    marginal_kl_lower_se: float | None = None
    codes_used: float | None = None
    code_perplexity: float | None = None
    nll_nats: float | None = None
    nll_se: float | None = None
    nll_mcse: float | None = None
    nll_effective_samples: float | None = None
    nll_trusted_nats: float | None = None
    nll_trusted_se: float | None = None
    nll_trusted_share: float | None = None
    nll_annealed_nats: float | None = None
    nll_annealed_mcse: float | None = None
    nll_annealed_importance_nats: float | None = None
    elbo_of_evidence_images_nats: float | None = None
    elbo_of_evidence_images_se: float | None = None
    nll_by_k: list[dict[str, Any]] | None = None
    nll_annealing: dict[str, Any] | None = None
    nll_diagnostics: dict[str, Any] | None = None
    nll_warnings: list[str] | None = None
    bits_per_dimension: float | None = None
    bits_per_dimension_se: float | None = None
    pareto_k: dict[str, float] | None = None
    frechet: float | None = None
    frechet_se: float | None = None
    frechet_infinity: float | None = None
    frechet_infinity_se: float | None = None
    frechet_infinity_fit: dict[str, Any] | None = None
    kernel_distance: float | None = None
    kernel_distance_se: float | None = None
    kernel_distance_std: float | None = None
    inception_score_mean: float | None = None
    inception_score_se: float | None = None
    inception_score_std: float | None = None
    inception_score_overall: float | None = None
    confidence: float | None = None
    confidence_se: float | None = None
    precision: float | None = None
    precision_se: float | None = None
    recall: float | None = None
    recall_se: float | None = None
    density: float | None = None
    density_se: float | None = None
    coverage: float | None = None
    coverage_se: float | None = None
    real_scores: dict[str, Any] | None = None
    extractor: str | None = None
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    per_image: Mapping[str, PerImage] = field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The metrics that were computed, ready for JSON; without per-image values."""
        return copy.deepcopy(
            {name: value for name, value in vars(self).items() if value is not None and name != "per_image"}
        )

    def rows(self) -> list[tuple[str, str, str]]:
        """Label, value with its error, and meaning of each metric, for a table.

        At the end, the reasons to doubt the NLL.
        """
        present = [
            (name, metric)
            for name, metric in METRICS.items()
            if name not in ERRORS and getattr(self, name, None) is not None
        ]
        numbers = [self._row(name, metric) for name, metric in present]
        return [*numbers, *(("NLL, caution", "", reason) for reason in self.nll_warnings or ())]

    def _row(self, name: str, metric: Metric) -> tuple[str, str, str]:
        value, label, meaning, digits = getattr(self, name), metric.label, metric.meaning, metric.digits
        error = getattr(self, metric.error) if metric.error else None
        source = self.provenance.get(name, {})
        if isinstance(value, dict) and name != "pareto_k":
            meaning += condition_note(source) if "condition" in metric.alike else ""
            return label, ", ".join(f"{site} {number:.{digits}f}" for site, number in value.items()), meaning
        if isinstance(value, dict):
            return label, ", ".join(f"{band} {share:.1%}" for band, share in value.items()), meaning
        text = f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{max(digits, 1)}f}")
        if self.real_scores is not None and name in self.real_scores:
            fewer = "num_real" in source and source["num_real"] != source["num_generated"]
            number = f" of {source['num_real']:,} images" if fewer else ""
            text += f" (real{number} {self.real_scores[name]:.{digits}f})"
        if name == "nll_nats" and source.get("exact"):
            meaning = EXACT_NLL
        if "condition" in metric.alike:
            meaning += condition_note(source)
        if name in OF_DRAWN_PIXELS:
            meaning += binarization_note(source)
        if name == "nll_nats" and "k" in source:
            draws = "" if source.get("exact") else f"K = {source['k']:,}, "
            meaning += f" ({draws}{source['n']:,} images)"
        if name == "nll_trusted_nats" and self.nll_trusted_share is not None and "n" in source:
            meaning += f" ({round(self.nll_trusted_share * source['n']):,} of {source['n']:,})"
        if name == "nll_annealed_nats" and self.nll_annealing is not None:
            meaning += (
                " ({images} images, {effective_chains:.1f} effective chains of {chains}, {chain_sd_nats:.1f} nats "
            )
            meaning = (meaning + "between chains)").format(**self.nll_annealing)
        if name == "nll_nats" and "bits_per_dimension_absent" in source:
            meaning += f"; no bits per dimension: {source['bits_per_dimension_absent']}"
        if name in ("frechet", "inception_score_mean") and "extractor" in source:
            meaning += f" ({source['extractor']}, {source['num_generated']:,} samples)"
        if source.get("extractor", "").startswith("inception-2015-12-05@"):  # no other scores may have these names
            label = label.replace("Frechet", "FID").replace("classifier score", "Inception Score")
        return label, text, meaning
