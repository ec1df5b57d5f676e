"""`evaluate`: everything that is known of a trained model, with its provenance, in one frozen result."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from pyro_vae import __version__
from pyro_vae._utils import checks
from pyro_vae._utils.device import choose_device
from pyro_vae._utils.rng import stream_seed
from pyro_vae.data import Images, binarize, fixed_binarization
from pyro_vae.data.noise import image_keys
from pyro_vae.evaluation.bounds import Bounds, bounds
from pyro_vae.evaluation.comparison import PerImage
from pyro_vae.evaluation.latent_codes.active_units import ActiveUnits, active_units
from pyro_vae.evaluation.likelihood.evidence import evidence, evidence_metrics
from pyro_vae.evaluation.programs import check_programs
from pyro_vae.evaluation.samples.features import Extractor, extract
from pyro_vae.evaluation.samples.scores import real_features, score_real_images, score_samples, unseen_images
from pyro_vae.latent import codes, posterior_means, prior_samples
from pyro_vae.metric_table import OF_DRAWN_PIXELS, binarization_note
from pyro_vae.models import Autoencoder, Model
from pyro_vae.models.base import (
    check_dequantize,
    check_fits,
    check_model,
    check_set,
    data_range_of,
    dtype_of,
    evaluating,
    first_of,
    move,
)
from pyro_vae.spec import GROUPS


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


def evaluate(
    model: Model,
    images: Images,
    *,
    metrics: Sequence[str] | None = None,
    binarization: str = "none",
    dequantize: bool = False,
    samples: int = 1,
    k: int = 5000,
    evidence_images: int | None = None,
    anneal: int = 0,
    partial: str | os.PathLike[str] | None = None,
    extractor: Extractor | None = None,
    num_generated: int | None = None,
    splits: int = 10,
    train: Images | None = None,
    batch_size: int = 500,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Metrics:
    """Judges a model on images it was not trained on; nothing is trained.

    Args:
        model: a `VAE` or `Autoencoder`.
        images: test images; also the reference of the scores of samples, as they are, before any binarization.
        metrics: groups out of `bounds` (MSE, KL, ELBO), `codes` (active units), `evidence` (NLL, Pareto k) and
            `samples` (Frechet and kernel distance, score, confidence, precision, recall, density, coverage). By default
            bounds and codes, and samples where there is an extractor. An autoencoder has neither evidence nor samples:
            they are left out.
        binarization: as in training; `dynamic` is `static` here: each image is drawn once, the same for all models.
        dequantize: as in training; the noise of each image is drawn once, the same for all models
            (:func:`pyro_vae.data.dequantize`).
        samples: posterior samples per image, for the Monte Carlo parts of the bounds.
        k: importance samples per image, for the evidence.
        evidence_images: take so many of the images, at random, for the evidence, which is the most expensive.
        anneal: so many of the images whose Pareto k is above the threshold, drawn at random, are estimated by annealed
            importance sampling as well.
        partial: a file in which the evidence keeps what is done, to go on after an interruption.
        extractor: whose features the samples are judged by; see :mod:`pyro_vae.evaluation.samples.features`.
        num_generated: images to draw for the scores; by default as many as `images`.
        splits: of the inception score.
        train: real training images, of which as many as are generated are scored in the samples' place; only those
            that the extractor was not trained on, which may be fewer (`num_real` in the provenance).
        batch_size: images at a time.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        seed: of all noise. The global generators are as before afterwards.
        progress: progress bars where standard error is a terminal; else a line every half minute.

    Raises:
        InputError: a wrong argument; or a model whose programs do not say what its `encode`, `prior` and `decode` say,
            of which all metrics are (a second latent variable, say, or a factor); an extractor that sees no difference
            between the images.

    >>> from pyro_vae import Spec, build, load_data
    >>> found = evaluate(build(Spec(latent_dim=2)), load_data("digits").test, binarization="threshold")
    >>> sorted(found.to_dict())[:4]
    ['active_units', 'active_units_se', 'elbo_nats', 'elbo_se']
    """
    check_model(model, "encode", "decode", "reconstruct")
    check_set("images", images)
    if train is not None:
        check_set("train", train)
    if isinstance(metrics, str) or not isinstance(metrics, Iterable | None):
        raise checks.fail("metrics", metrics, f"a list of {', '.join(GROUPS)}")
    if extractor is not None and not callable(extractor):
        raise checks.fail("extractor", extractor, "a feature extractor, as in pyro_vae.evaluation.samples.features")
    chosen = (
        list(metrics) if metrics is not None else ["bounds", "codes", *(["samples"] if extractor is not None else [])]
    )
    for group in chosen:
        checks.one_of("metrics", group, GROUPS)
    k, samples = checks.positive_integer("k", k), checks.positive_integer("samples", samples)
    splits, batch_size = checks.positive_integer("splits", splits), checks.positive_integer("batch_size", batch_size)
    seed = checks.seed("seed", seed)
    anneal = checks.non_negative_integer("anneal", anneal)
    if evidence_images is not None:
        evidence_images = checks.positive_integer("evidence_images", evidence_images)
    if "samples" in chosen:
        if extractor is None:
            raise checks.fail("extractor", None, "a feature extractor, by which samples are judged")
        if num_generated is not None:
            num_generated = checks.positive_integer("num_generated", num_generated)
        if (num_generated or len(images)) < max(splits, 10):
            raise checks.fail("num_generated", num_generated or len(images), f"at least {max(splits, 10)}")
    if isinstance(model, Autoencoder):
        if not {"bounds", "codes"} & set(chosen):
            raise checks.fail(
                "metrics", ",".join(chosen), "bounds or codes: an autoencoder has neither evidence nor samples"
            )
        chosen = [group for group in chosen if group not in ("evidence", "samples")]
    if "samples" in chosen and not hasattr(extractor, "name"):
        raise checks.fail("extractor", extractor, "a feature extractor, which has a name")
    dequantize = check_dequantize(model, dequantize, binarization)
    target = choose_device(device)
    move(model, target)
    check_fits(model, images)
    check_programs(model, first_of(model, binarize(images.take(slice(0, 2)), fixed_binarization(binarization))))
    source: dict[str, Any] = {
        "images": images.name,
        "images_sha256": images.fingerprint,
        "n": len(images),
        "seed": seed,
        "dtype": str(dtype_of(model)).removeprefix("torch."),
        "device": target.type,
        "versions": {"pyro_vae": __version__}
        | {name: version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
    }
    # The binarization that the numbers are of, which is not always that of training.
    likelihood = {
        "likelihood": type(getattr(model, "likelihood", None)).__name__,
        "binarization": fixed_binarization(binarization),
    }
    noised = {"dequantized": "x = (level + u) / 256, one draw of u for each image"} if dequantize else {}
    comparable = likelihood | noised | _quantity(model)  # what two models must share
    likelihood["trained_with"] = binarization
    values: dict[str, Any] = {}
    per_image: dict[str, PerImage] = {}
    provenance: dict[str, dict[str, Any]] = {}

    def add(group: str, found: dict[str, Any], more: dict[str, Any]) -> None:
        lost = [name for name, one in found.items() if isinstance(one, float) and not math.isfinite(one)]
        found = {name: value for name, value in found.items() if value is not None and name not in lost}
        if lost:  # of a posterior without width, for instance, as beta = 0 gives: its KL is infinite
            more = more | {"not_finite": lost}
        values.update(found)
        provenance.update(dict.fromkeys(found, source | {"group": group} | more))

    def bounds_of(some: Images) -> Bounds:
        return bounds(
            model,
            some,
            binarization=binarization,
            dequantize=dequantize,
            samples=samples,
            batch_size=batch_size,
            device=target,
            seed=seed,
            progress=progress,
        )

    if "bounds" in chosen:
        measured = bounds_of(images)
        found = {name: value for name, value in vars(measured).items() if name in _NAMES}
        add("bounds", found, likelihood | noised | {"samples": samples, "kl_is_exact": measured.kl_is_exact})
        per_image["bounds"] = _per_image(images, measured.per_image, comparable)
    if "codes" in chosen and len(images) > 1:
        seen = binarize(images, fixed_binarization(binarization))
        units = _active_units(model, seen, batch_size, target, seed)
        add(
            "codes",
            {"active_units": units.count, "active_units_se": units.count_se},
            likelihood | {"threshold": units.threshold},
        )
    if "evidence" in chosen:
        few = images if evidence_images is None else images.draw(evidence_images)
        estimate = evidence(
            model,
            few,
            k=k,
            binarization=binarization,
            dequantize=dequantize,
            device=target,
            seed=seed,
            partial=partial,
            anneal=anneal,
            progress=progress,
        )
        of_these = bounds_of(few)
        found = evidence_metrics(estimate) | {
            "elbo_of_evidence_images_nats": of_these.elbo_nats,
            "elbo_of_evidence_images_se": of_these.elbo_se,
        }
        per_image["evidence"] = _per_image(few, {"nll_nats": -estimate.log_likelihood}, comparable | {"k": k})
        if estimate.bits is not None:  # which compare whatever the likelihoods are
            alike = {"binarization": fixed_binarization(binarization), "k": k}
            per_image["bits"] = _per_image(few, {"bits_per_dimension": estimate.bits}, alike)
        more = {"k": k, "n": len(few), "images_sha256": few.fingerprint, "anneal": anneal}
        if estimate.not_a_probability is not None:
            more["bits_per_dimension_absent"] = estimate.not_a_probability
        if dequantize:
            more["bits_per_dimension_offset"] = "+ log2 256 = 8, as x is in units of 256 levels: an upper bound"
        add("evidence", found, likelihood | noised | more)
    if "samples" in chosen and extractor is not None:
        count = num_generated or len(images)
        drawn = prior_samples(model, count, batch_size=batch_size, device=target, seed=seed)
        # 256 grey levels, as the real images have.
        pixels = (drawn * 255).round().clamp(0, 255).to(torch.uint8)
        real = real_features(extractor, images, target)
        found = score_samples(extract(extractor, pixels, device=target), real, splits, seed)
        more = {"extractor": extractor.name, "num_generated": count, "splits": splits, "neighbours": 5}
        if train is not None:
            others = unseen_images(extractor, train, count)
            more["num_real"] = 0 if others is None else len(others)
            if others is not None and len(others) >= max(splits, 10):
                found["real_scores"] = score_real_images(extractor, others, images, splits, seed, target)
                more["real_sha256"] = others.fingerprint
        more |= {"kernel_subsets": 100, "extractor_accuracy": getattr(extractor, "accuracy", None)}
        add("samples", found | {"extractor": extractor.name}, more)
    return Metrics(**values, provenance=provenance, per_image=per_image)


def _per_image(images: Images, values: Mapping[str, Tensor], settings: dict[str, Any]) -> PerImage:
    """The columns that are finite, beside the keys of the images."""
    finite = {name: column for name, column in values.items() if column.isfinite().all()}
    return PerImage(image_keys(images.pixels), finite, settings)


def _quantity(model: Model) -> dict[str, Any]:
    """What log p(x|z) is the log of: a probability of 256 levels, or else that of a likelihood and its constants."""
    if data_range_of(model) == "256 levels":
        return {"likelihood": "a probability of 256 levels"}
    likelihood = getattr(model, "likelihood", None)  # constants are what is not trained, such as a fixed variance
    constants = {} if likelihood is None else {name: value.tolist() for name, value in likelihood.named_buffers()}
    return {"likelihood_constants": constants}


def _active_units(model: Model, images: Images, batch_size: int, device: torch.device, seed: int) -> ActiveUnits:
    try_out = images.take(slice(0, 1)).as_float().to(device, dtype_of(model))
    with evaluating(model):
        mean_is_known = not isinstance(model.encode(try_out), torch.distributions.TransformedDistribution)
    if mean_is_known:
        return active_units(codes(model, images, batch_size=batch_size, device=device))
    seeds = seed, stream_seed(seed, "other codes")
    one, other = (posterior_means(model, images, device=device, seed=one) for one in seeds)
    return active_units(one, others=other)


_PACKAGES = ("torch", "pyro-ppl", "arviz", "numpy", "scipy", "scikit-learn")
_NAMES = {one.name for one in dataclasses.fields(Metrics)} - {"provenance", "per_image"}
