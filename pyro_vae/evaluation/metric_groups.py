"""`evaluate`: all metrics of a trained model, with their provenance, in one frozen result."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from pyro_vae import __version__
from pyro_vae._utils import checks
from pyro_vae._utils.rng import seeded_rng, stream_seed
from pyro_vae.data import Images
from pyro_vae.data.noise import image_keys
from pyro_vae.evaluation.bounds import bounds_of
from pyro_vae.evaluation.comparison import PerImage
from pyro_vae.evaluation.latent_codes.active_units import ActiveUnits, active_units
from pyro_vae.evaluation.latent_codes.clustering import clustering, label_accuracy
from pyro_vae.evaluation.latent_codes.codebook import codebook_use
from pyro_vae.evaluation.latent_codes.two_sample import two_sample_test
from pyro_vae.evaluation.likelihood.evidence import evidence_metrics, evidence_of
from pyro_vae.evaluation.loop import Evaluation, evaluation_of
from pyro_vae.evaluation.metrics import Metrics
from pyro_vae.evaluation.samples.features import Extractor, extract
from pyro_vae.evaluation.samples.scores import real_features, score_real_images, score_samples, unseen_images
from pyro_vae.latent import codes, posterior_means, prior_samples, site_means
from pyro_vae.latent.encode import labels_of_samples
from pyro_vae.models import Model, check_evaluable
from pyro_vae.models.base import check_set, data_range_of, dtype_of, evaluated_arguments, likelihood_of
from pyro_vae.models.vector_quantized import VectorQuantized
from pyro_vae.programs.densities import Densities, groups_lacking, has_parts
from pyro_vae.spec import GROUPS


def evaluate(
    model: Model,
    images: Images,
    *,
    metrics: Sequence[str] | None = None,
    binarization: str | None = None,
    dequantize: bool | None = None,
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
    """Evaluates a model on images it was not trained on; nothing is trained.

    Args:
        model: a `VAE`, or another pair of programs, with any number of latent sites, continuous or enumerated (see
            :class:`~pyro_vae.programs.traces.Traces`).
        images: test images; also the reference of the scores of samples, as they are, before any binarization.
        metrics: groups out of `bounds` (MSE, KL, ELBO), `codes` (active units; accuracy of labels or clusters; use of a
            codebook; of an adversarial autoencoder a two-sample test of codes against the prior), `evidence` (NLL,
            Pareto k) and `samples` (Frechet and kernel distance, score, confidence, precision, recall, density,
            coverage). By default bounds and codes, and samples where there is an extractor. What a model lacks is left
            out: an autoencoder has neither evidence nor samples, and an adversarial one no evidence.
        binarization: as in training, by default what the model's spec says; `dynamic` is `static` here: each image is
            drawn once, the same for all models.
        dequantize: as in training, by default what the model's spec says; the noise of each image is drawn once, the
            same for all models (:func:`pyro_vae.data.dequantize`).
        samples: posterior samples per image, for the Monte Carlo parts of the bounds.
        k: importance samples per image, for the evidence.
        evidence_images: estimate the evidence, the most expensive group, on this many images, drawn at random.
        anneal: estimate this many of the images whose Pareto k is above the threshold, drawn at random, by annealed
            importance sampling as well.
        partial: a file from which the evidence resumes after an interruption.
        extractor: the feature extractor for the scores of samples; see :mod:`pyro_vae.evaluation.samples.features`.
        num_generated: images to draw for the scores; by default as many as `images`. Of a model that is conditional on
            labels they are drawn given the labels of `images`, in order, repeated as needed.
        splits: of the inception score.
        train: real training images, scored in the samples' place as a reference: as many as samples are generated,
            or as the extractor was not trained on, if these are fewer (`num_real` in the provenance).
        batch_size: images at a time.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        seed: of all noise. The global generators are as before afterwards.
        progress: progress bars where standard error is a terminal; else a line every half minute.

    Raises:
        InputError: a wrong argument; a model whose programs do not agree with its `encode`, `prior` and `decode`, from
            which all metrics are computed (it has a second latent variable, say, or a factor); or an extractor that
            gives all images the same features.

    >>> from pyro_vae import Spec, build, load_data
    >>> metrics = evaluate(build(Spec(latent_dim=2)), load_data("digits").test, binarization="threshold")
    >>> sorted(metrics.to_dict())[:4]
    ['active_units', 'active_units_se', 'elbo_nats', 'elbo_se']
    """
    check_evaluable(model)
    check_set("images", images)
    if train is not None:
        check_set("train", train)
    k, samples = checks.positive_integer("k", k), checks.positive_integer("samples", samples)
    splits, batch_size = checks.positive_integer("splits", splits), checks.positive_integer("batch_size", batch_size)
    seed, anneal = checks.seed("seed", seed), checks.non_negative_integer("anneal", anneal)
    if evidence_images is not None:
        evidence_images = checks.positive_integer("evidence_images", evidence_images)
    chosen = _groups(model, metrics, extractor)
    count = _sample_count(num_generated, len(images), splits, extractor) if "samples" in chosen else 0
    groups: dict[str, _Group] = {}
    with evaluation_of(
        model,
        images,
        "evaluate",
        binarization=binarization,
        dequantize=dequantize,
        device=device,
        likelihood=bool({"bounds", "evidence"} & set(chosen)),
    ) as evaluation:
        noise = {"samples": samples, "batch_size": batch_size, "seed": seed, "progress": progress}
        if "bounds" in chosen:
            groups["bounds"] = _bounds_group(evaluation, images, noise)
        if "codes" in chosen and len(images) > 1:
            groups["codes"] = _codes_group(evaluation, batch_size, seed)
        if "evidence" in chosen:
            few = images if evidence_images is None else images.draw(evidence_images)
            settings = {"k": k, "anneal": anneal, "partial": partial}
            groups["evidence"] = _evidence_group(evaluation.draw(evidence_images), few, settings, noise)
        if "samples" in chosen and extractor is not None:
            groups["samples"] = _samples_group(
                evaluation, images, train, extractor, count=count, splits=splits, batch_size=batch_size, seed=seed
            )
        source = _source(evaluation, images, seed)
    return _joined(groups, source)


@dataclass(frozen=True)
class _Group:
    """Metrics of one group, the provenance that only they have, and their per-image values."""

    values: dict[str, Any]
    about: dict[str, Any]
    per_image: dict[str, PerImage] = field(default_factory=dict)


def _joined(groups: Mapping[str, _Group], source: dict[str, Any]) -> Metrics:
    values: dict[str, Any] = {}
    per_image: dict[str, PerImage] = {}
    provenance: dict[str, dict[str, Any]] = {}
    for name, group in groups.items():
        infinite = [key for key, value in group.values.items() if isinstance(value, float) and not math.isfinite(value)]
        finite = {key: value for key, value in group.values.items() if value is not None and key not in infinite}
        about = source | {"group": name} | group.about
        if infinite:  # e.g. of a posterior that shrank to a point, as with beta = 0: its KL is infinite
            about |= {"not_finite": infinite}
        values |= finite
        # A group without a metric, such as the codes of a model that has none, was computed as well.
        provenance |= dict.fromkeys(finite or (name,), about)
        per_image |= group.per_image
    return Metrics(**values, provenance=provenance, per_image=per_image)


def _groups(model: Model, metrics: Sequence[str] | None, extractor: Extractor | None) -> list[str]:
    """The groups to compute, checked; those that the model lacks are left out, unless no other is asked for."""
    if isinstance(metrics, str) or not isinstance(metrics, Iterable | None):
        raise checks.fail("metrics", metrics, f"a list of {', '.join(GROUPS)}")
    if extractor is not None and not callable(extractor):
        raise checks.fail("extractor", extractor, "a feature extractor, as in pyro_vae.evaluation.samples.features")
    by_default = ["bounds", "codes", *(["samples"] if extractor is not None else [])]
    chosen = [checks.one_of("metrics", group, GROUPS) for group in (by_default if metrics is None else metrics)]
    if "samples" in chosen and extractor is None:
        raise checks.fail("extractor", None, "a feature extractor, by which samples are scored")
    lacking = groups_lacking(model)
    possible = [group for group in chosen if group not in lacking]
    if chosen and not possible:
        expected = f"others: {type(model).__name__} has no {' and no '.join(lacking)}"
        raise checks.fail("metrics", ",".join(chosen), expected)
    return possible


def _sample_count(num_generated: int | None, num_images: int, splits: int, extractor: Extractor | None) -> int:
    """The number of images to generate, checked."""
    count = num_images if num_generated is None else checks.positive_integer("num_generated", num_generated)
    if count < max(splits, 10):
        raise checks.fail("num_generated", count, f"at least {max(splits, 10)}")
    if not hasattr(extractor, "name"):
        raise checks.fail("extractor", extractor, "a feature extractor, which has a name")
    return count


def _source(evaluation: Evaluation, images: Images, seed: int) -> dict[str, Any]:
    """The provenance that all metrics share."""
    versions = {"pyro_vae": __version__} | {name: version(name) for name in _PACKAGES}
    return {
        "images": images.name,
        "images_sha256": images.fingerprint,
        "n": len(images),
        "seed": seed,
        "dtype": str(dtype_of(evaluation.model)).removeprefix("torch."),
        "device": evaluation.device.type,
        "versions": versions | {"python": platform.python_version()},
    }


def _comparable(evaluation: Evaluation) -> dict[str, Any]:
    """The settings that two models must share for their log-likelihoods to be comparable."""
    name = likelihood_of(evaluation.model)
    likelihood = {} if name is None else {"likelihood": name}
    return likelihood | {"binarization": evaluation.binarization} | _noised(evaluation) | _condition(evaluation)


def _condition(evaluation: Evaluation) -> dict[str, Any]:
    """What the images are given, such as labels: then it is log p(x|labels) that is estimated."""
    condition = getattr(evaluation.model, "condition", None)  # a part of the image itself, of a conditional model
    names = [*evaluated_arguments(evaluation.model, evaluation.images), *([condition] if condition else [])]
    return {"conditional_on": sorted(names)} if names else {}


def _noised(evaluation: Evaluation) -> dict[str, Any]:
    return {"dequantized": "x = (level + u) / 256, one draw of u for each image"} if evaluation.dequantize else {}


def _likelihood(evaluation: Evaluation) -> dict[str, Any]:
    """Likelihood and binarization of the evaluation; the latter is not always that of training."""
    return _comparable(evaluation) | {"trained_with": evaluation.trained_with}


def _bounds_group(evaluation: Evaluation, images: Images, noise: dict[str, Any]) -> _Group:
    measured = bounds_of(evaluation, **noise)
    return _Group(
        {name: value for name, value in vars(measured).items() if name in _NAMES},
        _likelihood(evaluation) | {"samples": measured.samples, "kl_is_exact": measured.kl_is_exact},
        {"bounds": _per_image(images, measured.per_image, _comparable(evaluation) | _quantity(evaluation.model))},
    )


def _codes_group(evaluation: Evaluation, batch_size: int, seed: int) -> _Group:
    if not has_parts(evaluation.model):
        group = _sites_group(evaluation, seed)
        others = _class_metrics(evaluation, batch_size) | _codebook_use(evaluation, batch_size)
        return replace(group, values=group.values | others)
    units = _active_units(evaluation, batch_size, seed)
    about = {name: value for name, value in _likelihood(evaluation).items() if name != "dequantized"}
    return _Group(
        {"active_units": units.count, "active_units_se": units.count_se} | _against_prior(evaluation, seed),
        about | {"threshold": units.threshold},
    )


def _sites_group(evaluation: Evaluation, seed: int) -> _Group:
    """The active units of each continuous latent site of a pair, and of all; none of a pair with a condition.

    The codes of such a pair vary with what they are given, whether or not they tell images apart.
    """
    about = {name: value for name, value in _likelihood(evaluation).items() if name != "dequantized"}
    if _condition(evaluation):
        return _Group({}, about)
    seeds = seed, stream_seed(seed, "other codes")
    means, others = (
        site_means(evaluation.model, evaluation.images, device=evaluation.device, seed=stream) for stream in seeds
    )
    by_site = {name: active_units(means[name], others=others[name]) for name in means}
    if not by_site:
        return _Group({}, about)
    units = active_units(torch.cat([*means.values()], 1), others=torch.cat([*others.values()], 1))
    values = {
        "active_units": units.count,
        "active_units_se": units.count_se,
        "active_units_by_site": {name: each.count for name, each in by_site.items()},
    }
    return _Group(values, about | {"threshold": units.threshold})


def _codebook_use(evaluation: Evaluation, batch_size: int) -> dict[str, float]:
    """Of a vector-quantized model."""
    if not isinstance(evaluation.model, VectorQuantized):
        return {}
    codes = torch.cat([evaluation.model.codes(x).cpu() for x, _ in evaluation.batches(batch_size)])
    use = codebook_use(codes, evaluation.model.num_codes)
    return {"codes_used": use.used, "code_perplexity": use.perplexity}


def _class_metrics(evaluation: Evaluation, batch_size: int) -> dict[str, Any]:
    """Of a model that infers a class or a cluster of each image, `classify(x)`, and of images with labels."""
    classify, labels = getattr(evaluation.model, "classify", None), evaluation.images.labels
    if not callable(classify) or labels is None or not bool((labels >= 0).any()):
        return {}
    probabilities = torch.cat([classify(x).cpu() for x, _ in evaluation.batches(batch_size)])
    learned_labels = "labels" in getattr(evaluation.model, "withheld", ())
    return vars((label_accuracy if learned_labels else clustering)(probabilities, labels))


def _against_prior(evaluation: Evaluation, seed: int) -> dict[str, Any]:
    """Codes of the images against draws of a prior that is only sampled; what has densities has its KL."""
    model, device, n = evaluation.model, evaluation.device, len(evaluation.images)
    lacking = groups_lacking(model)
    if "evidence" not in lacking or "samples" in lacking or n < 20:
        return {}
    drawn = posterior_means(
        model, evaluation.images, draws=1, device=device, seed=stream_seed(seed, "two-sample codes")
    )
    with seeded_rng(device, stream_seed(seed, "two-sample draws")):
        test = two_sample_test(drawn, Densities(model).prior_sample(1, n)[0], seed=seed)
    return {
        "two_sample_accuracy": test.accuracy,
        "two_sample_accuracy_se": test.accuracy_se,
        "two_sample_p_value": test.p_value,
        "marginal_kl_lower_nats": test.kl_lower_nats,
        "marginal_kl_lower_se": test.kl_lower_se,
    }


def _active_units(evaluation: Evaluation, batch_size: int, seed: int) -> ActiveUnits:
    model, device = evaluation.model, evaluation.device
    x, densities = next(evaluation.batches(1))
    if not isinstance(densities.encode(x), torch.distributions.TransformedDistribution):  # the mean is known
        return active_units(codes(model, evaluation.images, batch_size=batch_size, device=device))
    seeds = seed, stream_seed(seed, "other codes")
    means, others = (posterior_means(model, evaluation.images, device=device, seed=stream) for stream in seeds)
    return active_units(means, others=others)


def _evidence_group(evaluation: Evaluation, images: Images, settings: dict[str, Any], noise: dict[str, Any]) -> _Group:
    k = settings["k"]
    estimate = evidence_of(evaluation, **settings, seed=noise["seed"], progress=noise["progress"])
    measured = bounds_of(evaluation, **noise)
    values = evidence_metrics(estimate) | {
        "elbo_of_evidence_images_nats": measured.elbo_nats,
        "elbo_of_evidence_images_se": measured.elbo_se,
    }
    comparable = _comparable(evaluation) | _quantity(evaluation.model) | {"k": k}
    per_image = {"evidence": _per_image(images, {"nll_nats": -estimate.log_likelihood}, comparable)}
    if estimate.bits is not None:  # comparable across likelihoods
        shared = {"binarization": evaluation.binarization, "k": k}
        per_image["bits"] = _per_image(images, {"bits_per_dimension": estimate.bits}, shared)
    about = _likelihood(evaluation) | {"k": k, "n": len(images), "images_sha256": images.fingerprint}
    about |= {"anneal": settings["anneal"]}
    if estimate.exact:
        about["exact"] = True
    if estimate.not_a_probability is not None:
        about["bits_per_dimension_absent"] = estimate.not_a_probability
    if evaluation.dequantize:
        about["bits_per_dimension_offset"] = "+ log2 256 = 8, as x is in units of 256 levels: an upper bound"
    return _Group(values, about, per_image)


def _samples_group(
    evaluation: Evaluation,
    images: Images,
    train: Images | None,
    extractor: Extractor,
    *,
    count: int,
    splits: int,
    batch_size: int,
    seed: int,
) -> _Group:
    labels = labels_of_samples(evaluation.model, images, count)
    drawn = prior_samples(
        evaluation.model, count, labels=labels, batch_size=batch_size, device=evaluation.device, seed=seed
    )
    # 256 grey levels, as the real images have.
    pixels = (drawn * 255).round().clamp(0, 255).to(torch.uint8)
    real = real_features(extractor, images, evaluation.device)
    values = score_samples(extract(extractor, pixels, device=evaluation.device), real, splits, seed)
    about = {"extractor": extractor.name, "num_generated": count, "splits": splits, "neighbours": 5}
    if labels is not None:
        about["labels"] = "of the test images"
    if train is not None:
        others = unseen_images(extractor, train, count)
        about["num_real"] = 0 if others is None else len(others)
        if others is not None and len(others) >= max(splits, 10):
            values["real_scores"] = score_real_images(extractor, others, images, splits, seed, evaluation.device)
            about["real_sha256"] = others.fingerprint
    about |= {"kernel_subsets": 100, "extractor_accuracy": getattr(extractor, "accuracy", None)}
    return _Group(values | {"extractor": extractor.name}, about)


def _per_image(images: Images, values: Mapping[str, Tensor], settings: dict[str, Any]) -> PerImage:
    """The per-image columns that are finite, with the keys of the images."""
    finite = {name: column for name, column in values.items() if column.isfinite().all()}
    return PerImage(image_keys(images.pixels), finite, settings)


def _quantity(model: Model) -> dict[str, Any]:
    """What p(x|z) is: a probability of 256 levels, or else a likelihood, named with its constants."""
    if data_range_of(model) == "256 levels":
        return {"likelihood": "a probability of 256 levels"}
    likelihood = getattr(model, "likelihood", None)  # its constants: what is not trained, such as a fixed variance
    constants = {} if likelihood is None else {name: value.tolist() for name, value in likelihood.named_buffers()}
    return {"likelihood_constants": constants}


_PACKAGES = ("torch", "pyro-ppl", "arviz", "numpy", "scipy", "scikit-learn")
_NAMES = {metric.name for metric in fields(Metrics)} - {"provenance", "per_image"}
