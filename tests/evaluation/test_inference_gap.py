"""The inference gap of linear-Gaussian models, whose every part has a closed form."""

import math

import pytest
import torch
from linear_gaussian import linear_gaussian
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae import Images, Spec, build
from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import inference_gap

CPU = {"device": "cpu"}


def random_images(n):
    generator = torch.Generator().manual_seed(0)
    return Images(torch.randint(0, 256, (n, 1, 2, 2), dtype=torch.uint8, generator=generator), name="random")


MILD = [[0.9, 0.5], [-0.3, 0.4], [0.6, 0.7], [0.2, -0.5]]
STRONG = [[0.9, 0.8], [-0.3, -0.1], [0.6, 0.7], [0.2, -0.1]]


def correlated(w, shift=0.0, stretch=0.0):
    """Columns of W that are not orthogonal, and an encoder that puts out the best diagonal q, or one beside it."""
    vae, _ = linear_gaussian(c=0.2)
    w = torch.tensor(w)
    b = vae.decoder[0].bias.detach()
    precision = torch.eye(2) + w.T @ w / 0.2
    gain = torch.linalg.solve(precision, w.T / 0.2)
    with torch.no_grad():
        vae.decoder[0].weight.copy_(w)
        vae.encoder[1].weight.copy_(torch.cat([gain, torch.zeros(2, 4)]))
        log_variance = -precision.diagonal().log()  # of the best diagonal q, N(E[z|x], 1 / diag(precision))
        vae.encoder[1].bias.copy_(torch.cat([-gain @ b + shift, log_variance + stretch]))
    truth = MultivariateNormal(b, w @ w.T + 0.2 * torch.eye(4))
    return vae, truth, precision


@pytest.mark.parametrize("is_given", [False, True])
@pytest.mark.parametrize(("w", "least"), [(MILD, 0.1), (STRONG, 0.5)], ids=["mild", "strong"])
def test_both_gaps_are_those_of_the_closed_form(w, least, is_given):
    vae, truth, precision = correlated(w, shift=0.3, stretch=-0.8)
    images = random_images(30)
    posterior = MultivariateNormal(torch.zeros(2), precision_matrix=precision)
    best = MultivariateNormal(torch.zeros(2), torch.diag(1 / precision.diagonal()))
    off = MultivariateNormal(torch.full((2,), 0.3), torch.diag(math.exp(-0.8) / precision.diagonal()))
    approximation = kl_divergence(best, posterior).item()
    assert approximation == pytest.approx((precision.diagonal().log().sum() - precision.logdet()).item() / 2, rel=1e-3)
    assert approximation > least
    amortization = kl_divergence(off, posterior).item() - approximation
    log_p = truth.log_prob(images.as_float().flatten(1))
    known_log_p = log_p if is_given else None
    gap = inference_gap(vae, images, log_evidence=known_log_p, samples=2000, k=2000, tolerance_nats=0.001, **CPU)
    assert gap.converged
    assert gap.amortization_gap_nats == pytest.approx(amortization, abs=4 * gap.amortization_gap_mcse + 0.004)
    assert gap.approximation_gap_mcse < 0.02
    assert gap.elbo_nats + gap.amortization_gap_nats + gap.approximation_gap_nats == pytest.approx(
        gap.log_evidence_nats
    )
    if w is STRONG and not is_given:  # so narrow a proposal misses the tails: the evidence is too small, and says so
        assert gap.evidence_trusted < 0.7
        assert gap.approximation_gap_nats < approximation
        return
    assert gap.evidence_trusted is None if is_given else gap.evidence_trusted > 0.9
    assert gap.approximation_gap_nats == pytest.approx(approximation, abs=4 * gap.approximation_gap_mcse)


def test_monte_carlo_errors_are_the_spread_over_seeds():
    vae, truth, _ = correlated(MILD, shift=0.3)
    images = random_images(5)
    log_p = truth.log_prob(images.as_float().flatten(1))
    options = {"samples": 100, "steps": 10, "rounds": 12, "tolerance_nats": 1.0, "log_evidence": log_p}
    runs = [inference_gap(vae, images, seed=seed, **options, **CPU) for seed in range(40)]
    for name in ("approximation_gap", "amortization_gap"):
        spread = torch.tensor([getattr(run, f"{name}_nats") for run in runs]).std().item()
        said = sum(getattr(run, f"{name}_mcse") for run in runs) / len(runs)
        assert said == pytest.approx(spread, rel=0.35)


def test_of_the_exact_posterior_both_are_zero():
    vae, truth = linear_gaussian()
    images = random_images(20)
    # Of 50 weights the tail of 10 is too short: a k above 1 - 1/log10(50) = 0.41 is then often chance.
    gap = inference_gap(vae, images, samples=50, k=500, **CPU)
    assert gap.approximation_gap_nats == pytest.approx(0, abs=1e-3)
    assert gap.amortization_gap_nats == pytest.approx(0, abs=1e-3)
    log_p = truth.log_prob(images.as_float().flatten(1)).double()
    torch.testing.assert_close(gap.per_image["log_evidence_nats"], log_p, atol=1e-3, rtol=0)
    assert gap.converged
    assert gap.evidence_trusted >= 0.9  # the weights are equal up to what the ascent leaves


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"posterior": "laplace"},
        {"posterior": "planar"},
        {"posterior": "conditional-planar"},
        {"posterior": "uniform", "prior": "uniform"},
    ],
    ids=str,
)
def test_of_every_posterior_and_nothing_is_changed(tiny, options):
    model = build(Spec(latent_dim=2, hidden=(16,), **options)).train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.get_rng_state()
    quick = {"samples": 200, "steps": 50, "k": 200, "binarization": "threshold", "tolerance_nats": 0.05}
    gap = inference_gap(model, tiny, **quick, **CPU)
    assert gap.amortization_gap_nats > 0.2  # of an encoder without any training
    assert gap.approximation_gap_nats > -0.2
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    quick |= {"steps": 5, "rounds": 3, "tolerance_nats": 100.0}
    first = inference_gap(model, tiny, **quick, **CPU)
    assert first == inference_gap(model, tiny, **quick, **CPU)
    assert first != inference_gap(model, tiny, seed=1, **quick, **CPU)


def test_what_has_not_converged_says_so(tiny):
    model = build(Spec(latent_dim=2, hidden=(16,)))
    with pytest.warns(UserWarning, match=r"the last of 1 rounds still brought .* nats per image"):
        gap = inference_gap(model, tiny, binarization="threshold", rounds=1, steps=20, samples=50, k=50, **CPU)
    assert not gap.converged
    assert gap.last_round_nats > 0.005


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_evidence": torch.zeros(3)}, r"log_evidence: given Tensor.*, expected log p\(x\) of each image"),
        ({"log_evidence": torch.full((12,), math.nan)}, "log_evidence: given"),
        ({"samples": 1}, "samples: given 1, expected at least 2"),
        ({"particles": 0}, "particles: given 0"),
        ({"steps": 0}, "steps: given 0"),
        ({"rounds": 1.5}, "rounds: given 1.5"),
        ({"k": 0}, "k: given 0"),
        ({"lr": 0}, "lr: given 0"),
        ({"tolerance_nats": -1}, "tolerance_nats: given -1"),
        ({"seed": -1}, "seed: given -1"),
        ({"decoded_at_once": 0}, "decoded_at_once: given 0"),
    ],
)
def test_bad_input_is_named(tiny, options, message):
    with pytest.raises(InputError, match=message):
        inference_gap(build(Spec(latent_dim=2)), tiny, binarization="threshold", **options, **CPU)


def test_other_models_are_refused(tiny):
    with pytest.raises(InputError, match="model: given"):
        inference_gap(build(Spec(model="autoencoder", latent_dim=2)), tiny, **CPU)
    with pytest.raises(InputError, match="model: given"):
        inference_gap(nn.Linear(2, 2), tiny, **CPU)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_weights_that_are_not_finite_are_named(tiny, part):
    model = build(Spec(latent_dim=2))
    with torch.no_grad():
        next(getattr(model, part).parameters()).fill_(math.nan)
    with pytest.raises(InputError, match=f"model: given 'weights that are not finite, in {part}"):
        inference_gap(model, tiny, binarization="threshold", **CPU)
