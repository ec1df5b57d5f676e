"""Splits log p(x) - ELBO into the approximation gap of q's family and the amortization gap of the encoder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyro
import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.progress import Progress
from pyro_vae._utils.rng import NOISE_BLOCK, seeded_rng, stream_seed
from pyro_vae.data import Images
from pyro_vae.evaluation.bounds import standard_error
from pyro_vae.evaluation.likelihood.importance_weights import (
    LEAST,
    log_mean_weight,
    log_mean_weight_mcse,
    pareto_smooth,
)
from pyro_vae.evaluation.likelihood.weighted_draws import WeightedDraws, weighted_draws
from pyro_vae.evaluation.loop import Evaluation, evaluation_of
from pyro_vae.models import VAE, require_prior
from pyro_vae.models.base import batch_arguments, check_model, check_set
from pyro_vae.path_gradient import along_the_path, takes_path_gradient
from pyro_vae.programs.densities import Densities, named

RATES = (1.0, 0.25, 0.0625)  # Adam's learning rates, in units of `lr`: the next one after a round without improvement


@dataclass(frozen=True)
class InferenceGap:
    r"""The two parts of log p(x) - ELBO; means over n images, nats per image, always at beta = 1.

    - `approximation_gap_nats`: log p(x) - max over q in the family of the ELBO: due to the family.
    - `amortization_gap_nats`: that maximum - ELBO of the encoder: due to the encoder.
    - `..._se`: standard error over images, None of one image; `..._mcse`: the Monte Carlo standard error of the mean,
      of the draws for these same images. An estimated log p(x) is a lower bound in expectation, and so is then the
      approximation gap; `evidence_trusted` tells whether to trust it.
    - `log_evidence_nats`, `elbo_optimal_nats`, `elbo_nats`: the three values between which the gaps lie.
    - `evidence_trusted`: share of images whose Pareto k, with the optimised q as the proposal, is at most its
      threshold; None where log p(x) was given, or drawn with less than 25 samples.
    - `converged`: whether the last round of each block of images improved the ELBO by at most the tolerance;
      `last_round_nats`: by how much it did, the mean over images.
    - `per_image`: `log_evidence_nats`, `elbo_optimal_nats`, `elbo_nats`, `approximation_gap_nats`,
      `amortization_gap_nats`, and `pareto_k` where it is known; float64, `(n,)` each.
    """

    n: int
    approximation_gap_nats: float
    approximation_gap_se: float | None
    approximation_gap_mcse: float
    amortization_gap_nats: float
    amortization_gap_se: float | None
    amortization_gap_mcse: float
    log_evidence_nats: float
    elbo_optimal_nats: float
    elbo_nats: float
    evidence_trusted: float | None
    converged: bool
    last_round_nats: float
    per_image: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)


def inference_gap(
    model: VAE,
    images: Images,
    *,
    log_evidence: Tensor | None = None,
    binarization: str | None = None,
    dequantize: bool | None = None,
    k: int = 1000,
    samples: int = 500,
    particles: int = 8,
    lr: float = 0.02,
    steps: int = 100,
    rounds: int = 30,
    tolerance_nats: float = 0.005,
    decoded_at_once: int = 2000,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = False,
) -> InferenceGap:
    r"""Approximation and amortization gap of `model` on `images`.

    .. math:: \log p(x) - \mathcal L(x; q_\phi)
              = \bigl[\log p(x) - \max_{q \in \mathcal Q} \mathcal L(x; q)\bigr]
              + \bigl[\max_{q \in \mathcal Q} \mathcal L(x; q) - \mathcal L(x; q_\phi)\bigr]

    The maximum is taken for each image separately: Adam ascends the ELBO from the output of the encoder,
    `(n, num_parameters)`, for many images at once. The family is all q that these parameters can express: the layers
    of a planar flow, which all images share, stay fixed; those of a conditional planar flow are among the parameters.
    The best q of all rounds is taken for each image, the encoder's own included; it is chosen with other draws than
    those that it is scored with, so that the choice adds no bias. The model is not changed.

    Args:
        model: a `VAE`.
        images: the images to evaluate on.
        log_evidence: log p(x) of each image where it is known, nats, `(n,)`, or annealed
            (:func:`~pyro_vae.evaluation.annealed_log_likelihood`); by default it is importance-sampled, with the
            optimised q as the proposal, which is too small where that q is much narrower than the posterior.
        binarization: as in training, by default what the model's spec says; `dynamic` is `static` here: each image is
            drawn once, the same for all models.
        dequantize: as in training, by default what the model's spec says; one draw of the noise for each image.
        k: importance samples per image.
        samples: draws per image by which an ELBO is estimated.
        particles: draws per image and step of the ascent.
        lr: Adam's first learning rate; where a round gains no more than the tolerance it falls to a quarter, twice.
        steps: of a round.
        rounds: at most this many; a warning tells where they were not enough.
        tolerance_nats: gain per image, on average, that a round must exceed to be followed by another.
        decoded_at_once: codes in one pass of the decoder; it bounds the memory, and changes the result only through the
            noise.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        seed: of all draws. The global generators are as before afterwards.
        progress: a progress bar where standard error is a terminal; else a line every half minute.

    Raises:
        InputError: an autoencoder, which has no evidence; weights that are not finite; or a `log_evidence` that does
            not fit.

    Source: Cremer, Li and Duvenaud, "Inference suboptimality in variational autoencoders", 2018,
    https://arxiv.org/abs/1801.03558

    >>> from pyro_vae import Spec, build, load_data
    >>> some = load_data("digits").test.take(slice(0, 10))
    >>> gap = inference_gap(build(Spec(latent_dim=2)), some, binarization="threshold", k=50, samples=50, steps=20)
    >>> gap.n, gap.amortization_gap_nats > 0
    (10, True)
    """
    vae = require_prior(model)
    check_model(vae, "encoder", "posterior")
    check_set("images", images)
    counts = {"k": k, "samples": samples, "particles": particles, "steps": steps, "rounds": rounds}
    counts = {name: checks.positive_integer(name, value) for name, value in counts.items()}
    if samples < 2:
        raise checks.fail("samples", samples, "at least 2, for a standard error")
    at_once = checks.positive_integer("decoded_at_once", decoded_at_once)
    lr, tolerance = checks.positive("lr", lr), checks.positive("tolerance_nats", tolerance_nats)
    seed = checks.seed("seed", seed)
    exact = None if log_evidence is None else _check_evidence(log_evidence, len(images))
    with evaluation_of(
        vae,
        images,
        "inference_gap",
        binarization=binarization,
        dequantize=dequantize,
        device=device,
        gradients=True,
        finite_weights=True,
    ) as evaluation:
        if named(vae.encode, batch_arguments(vae, images)):
            raise checks.fail("model", type(vae).__name__, "one whose `encode` takes the pixels alone")
        columns = _gaps(evaluation, seed, lr, tolerance, at_once, counts, exact is None, progress)
    return _summary(columns, exact, tolerance, rounds)


def _gaps(
    evaluation: Evaluation,
    seed: int,
    lr: float,
    tolerance: float,
    at_once: int,
    counts: Mapping[str, int],
    with_evidence: bool,
    progress: bool,
) -> dict[str, Tensor]:
    """The terms of the gaps for each image, `(n,)`."""
    block = max(1, min(NOISE_BLOCK, at_once // counts["particles"]))
    columns: dict[str, list[Tensor]] = {}
    bar = Progress(len(evaluation.images), "image", "inference gap", visible=progress)
    # Without Pyro's checks of each step: the weights are finite.
    with torch.no_grad(), pyro.validation_enabled(False), bar:
        for index, (x, densities) in enumerate(evaluation.batches(block)):

            def stream(name: str, index: int = index) -> int:
                return stream_seed(seed, f"inference gap {name} {index}")

            with seeded_rng(evaluation.device, stream("ascent")):
                start = densities.model.encoder(x)
                best, gain = _ascend(densities, x, start, stream("choice"), lr, tolerance, at_once, counts)
            values = _values(densities, x, start, best, with_evidence, at_once, counts, stream)
            for name, value in (values | {"last_round": gain}).items():
                columns.setdefault(name, []).append(value)
            bar.update(len(x))
    return {name: torch.cat(values) for name, values in columns.items()}


def _ascend(
    densities: Densities,
    x: Tensor,
    start: Tensor,
    choice_seed: int,
    lr: float,
    tolerance: float,
    at_once: int,
    counts: Mapping[str, int],
) -> tuple[Tensor, Tensor]:
    """The best parameters of q of each image, `(n, P)`, and the mean gain of the last round, n times, `(n,)`."""

    def elbo(parameters: Tensor) -> Tensor:
        with seeded_rng(x.device, choice_seed):  # the same draws each time, so that differences are of q alone
            q = densities.model.posterior(parameters)
            return weighted_draws(densities, x, counts["samples"], at_once, q).log_weights.mean(0)

    parameters = start.clone().requires_grad_()
    adam = torch.optim.Adam([parameters], lr=lr)
    best, best_elbo, rate, gain = start.clone(), elbo(start), 0, 0.0
    for _ in range(counts["rounds"]):
        for _ in range(counts["steps"]):
            parameters.grad = _ascent(densities, x, parameters, counts["particles"])
            adam.step()
        reached = elbo(parameters)
        better = reached > best_elbo  # false where it is NaN
        gain = float((reached - best_elbo).clamp(min=0).nan_to_num().mean())
        best[better], best_elbo[better] = parameters.detach()[better], reached[better]
        if gain <= tolerance:
            rate += 1
            if rate == len(RATES):
                break
            adam.param_groups[0]["lr"] = lr * RATES[rate]
    return best, torch.full((len(x),), gain, dtype=torch.float64)


def _ascent(densities: Densities, x: Tensor, parameters: Tensor, particles: int) -> Tensor:
    """Minus the gradient of the ELBO of each image by its own parameters of q; nothing else gets one."""
    with torch.enable_grad():
        q = densities.model.posterior(parameters)
        z = q.rsample((particles,))
        log_q = q.log_prob(z)
        if takes_path_gradient(q):  # without the noise of the score, so that it vanishes at an exact posterior
            log_q = along_the_path(q, z, log_q)
        log_weight = densities.decode(z).log_prob(x) + densities.prior().log_prob(z) - log_q
        (gradient,) = torch.autograd.grad(-log_weight.mean(0).sum(), parameters)
    return gradient


def _values(
    densities: Densities,
    x: Tensor,
    start: Tensor,
    best: Tensor,
    with_evidence: bool,
    at_once: int,
    counts: Mapping[str, int],
    stream: Callable[[str], int],
) -> dict[str, Tensor]:
    """ELBOs and evidence of each image, and the squared Monte Carlo errors of the parts, `(n,)` each."""

    def drawn(parameters: Tensor, name: str, draws: int) -> WeightedDraws:
        with seeded_rng(x.device, stream(name)):
            return weighted_draws(densities, x, draws, at_once, densities.model.posterior(parameters))

    # Common random numbers, so that the noise of their difference is small.
    encoder, optimal = (drawn(parameters, "elbo", counts["samples"]).log_weights for parameters in (start, best))
    values = {
        "elbo_nats": encoder.mean(0),
        "elbo_optimal_nats": optimal.mean(0),
        "elbo_optimal_error": optimal.var(0) / len(optimal),
        "amortization_error": (optimal - encoder).var(0) / len(optimal),
    }
    if with_evidence:
        evidence = drawn(best, "evidence", counts["k"])
        values["log_evidence_nats"] = log_mean_weight(evidence.log_weights)
        if counts["k"] > 1:
            values["evidence_error"] = log_mean_weight_mcse(evidence.log_weights).square()
        if counts["k"] >= LEAST:
            smoothed = pareto_smooth(evidence.log_weights, evidence.resolution_nats)
            values["pareto_k"], values["trusted"] = smoothed.pareto_k, smoothed.trusted.double()
    return values


def _summary(columns: dict[str, Tensor], exact: Tensor | None, tolerance: float, rounds: int) -> InferenceGap:
    log_evidence = columns["log_evidence_nats"] if exact is None else exact
    n = len(log_evidence)
    gaps = {
        "approximation_gap_nats": log_evidence - columns["elbo_optimal_nats"],
        "amortization_gap_nats": columns["elbo_optimal_nats"] - columns["elbo_nats"],
    }
    evidence_error = columns.get("evidence_error", torch.zeros(n, dtype=torch.float64))
    error = columns["elbo_optimal_error"] + evidence_error
    values = {"log_evidence_nats": log_evidence} | {name: columns[name] for name in ("elbo_optimal_nats", "elbo_nats")}
    converged = bool((columns["last_round"] <= tolerance).all())
    last_round = columns["last_round"].mean().item()
    if not converged:
        warnings.warn(
            f"inference_gap: the last of {rounds} rounds still brought {last_round:.2g} nats per image, so that the "
            "amortization gap is too small and the approximation gap too large; give more rounds or steps",
            stacklevel=3,
        )
    per_image = values | gaps | ({"pareto_k": columns["pareto_k"]} if "pareto_k" in columns else {})
    return InferenceGap(
        n=n,
        **{name: value.mean().item() for name, value in (values | gaps).items()},
        approximation_gap_se=standard_error(gaps["approximation_gap_nats"]),
        approximation_gap_mcse=error.sum().sqrt().item() / n,
        amortization_gap_se=standard_error(gaps["amortization_gap_nats"]),
        amortization_gap_mcse=columns["amortization_error"].sum().sqrt().item() / n,
        evidence_trusted=columns["trusted"].mean().item() if "trusted" in columns else None,
        converged=converged,
        last_round_nats=last_round,
        per_image=per_image,
    )


def _check_evidence(log_evidence: Tensor, n: int) -> Tensor:
    values = checks.tensor("log_evidence", log_evidence).cpu().double()
    if values.shape != (n,) or not bool(values.isfinite().all()):
        raise checks.fail("log_evidence", log_evidence, f"log p(x) of each image, finite, of shape ({n},)")
    return values
