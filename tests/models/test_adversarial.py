"""The adversarial autoencoder: each player's gradient by hand, the ratio it learns in closed form, and its training."""

import dataclasses
import math

import pyro
import pytest
import torch
from pyro.infer import Predictive, Trace_ELBO
from torch import nn
from torch.nn.functional import softplus

from pyro_vae import (
    Spec,
    build,
    evaluate,
    evaluation,
    fit,
    fit_many,
    latent,
    likelihoods,
    load,
    posteriors,
    priors,
    save,
)
from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import ModuleExtractor
from pyro_vae.models.adversarial import Adversarial
from pyro_vae.svi import CompiledSVI

PRIORS = ("standard-normal", "uniform", "mixture", "swiss-roll", "generator")
QUIET = {"progress": False, "device": "cpu"}


def spec_of(prior="standard-normal", **options):
    model = {"kind": "adversarial", "discriminator": (16,), **options}
    return Spec(model=model, prior=prior, latent_dim=2, hidden=(16,), binarization="threshold", batch_size=8, epochs=2)


def gradients(model, *losses):
    """By parameter, that of the sum of some losses."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(sum(loss.sum() for loss in losses), parameters, allow_unused=True, retain_graph=True)
    return {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}


def of_programs(model, x, *beta):
    pyro.clear_param_store()
    model.zero_grad()
    loss = Trace_ELBO().differentiable_loss(model.model, model.guide, x, *beta)
    loss.backward()
    return loss, {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("prior", PRIORS)
def test_contract(tiny, tmp_path, prior, stochastic):
    model = build(spec_of(prior, stochastic=stochastic))
    x = tiny.as_float().round()
    loss, found = of_programs(model, x)
    assert math.isfinite(loss.item())
    for name, _ in model.named_parameters():
        assert found[name].isfinite().all(), name
        assert found[name].abs().sum() > 0, name
    assert model.encode(x).sample((3,)).shape == (3, 12, 2)
    assert model.prior().sample((3, 5)).shape == (3, 5, 2)
    assert model.reconstruct(x).shape == model.sample(12).shape == x.shape
    draws = Predictive(model.model, num_samples=4)(size=3)
    assert (draws["z"].shape, draws["x"].shape) == ((4, 3, 2), (4, 3, 1, 8, 8))
    particles = Trace_ELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=1)
    assert math.isfinite(particles.loss(model.model, model.guide, x))
    loaded = load(save(model, tmp_path / "model.safetensors"))
    assert loaded.spec == model.spec
    assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))
    assert torch.equal(loaded.log_ratio(loaded.encode(x).mean), model.log_ratio(model.encode(x).mean))


def test_each_player_has_the_gradient_of_its_own_loss(tiny):
    """No weight of one is moved by the loss of the other."""
    model = build(spec_of("generator", weight=3.0, gradient_penalty=0.7))
    x = tiny.as_float().round()
    torch.manual_seed(1)
    loss, found = of_programs(model, x, 2.0)
    torch.manual_seed(1)
    draws = model.prior().rsample((12,))
    z = model.encode(x).rsample()
    reconstruction, ratio = -model.decode(z).log_prob(x), model.log_ratio(z)
    assert loss.item() == pytest.approx((reconstruction + 2.0 * 3.0 * ratio).sum().item(), rel=1e-6)
    expected = {
        "encoder": gradients(model, reconstruction, 6.0 * ratio),
        "decoder": gradients(model, reconstruction),
        "prior": gradients(model, -model.log_ratio(draws)),
    }
    fixed = z.detach().requires_grad_(), draws.detach().requires_grad_()
    of_codes, of_draws = map(model.log_ratio, fixed)
    slopes = torch.autograd.grad(of_codes.sum() + of_draws.sum(), fixed, create_graph=True)
    penalty = [0.7 / 2 * slope.square() for slope in slopes]
    expected["discriminator"] = gradients(model, softplus(-of_codes), softplus(of_draws), *penalty)
    assert {name.split(".")[0] for name in found} == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name.split(".")[0]][name], rtol=1e-4, atol=1e-5)


def test_at_beta_0_it_is_trained_as_an_autoencoder(tiny):
    model = build(spec_of())
    x = tiny.as_float().round()
    _, found = of_programs(model, x, 0.0)
    expected = gradients(model, -model.decode(model.encode(x).mean).log_prob(x))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


class Shifted(nn.Module):
    """One pixel -> its value plus a shift, and the logarithm of a variance, here 0."""

    def __init__(self, shift):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, x):
        z = x.flatten(1) + self.shift
        return torch.cat([z, torch.zeros_like(z)], -1)


def shifted(shift, **options):
    """Codes N(shift, 1) of standard normal pixels, which tell a decoder of zeros nothing."""
    decoder = nn.Sequential(nn.Linear(1, 1), nn.Unflatten(-1, (1, 1, 1)))
    nn.init.zeros_(decoder[0].weight)
    q = posteriors.DiagonalNormal(1)
    return Adversarial(
        Shifted(shift), decoder, priors.StandardNormal(1), likelihoods.LinearGaussian(1.0), q, 1, **options
    )


def test_with_the_exact_ratio_the_encoder_descends_the_kl():
    """KL(N(m, 1) || N(0, 1)) = m^2 / 2, whose derivative is m; the ratio is m z - m^2 / 2."""
    m, n = 1.5, 50_000
    model = shifted(m, weight=4.0, discriminator_rate=1.0)
    model.discriminator = nn.Linear(1, 1)
    with torch.no_grad():
        model.discriminator.weight.fill_(m)
        model.discriminator.bias.fill_(-(m**2) / 2)
    x = torch.randn(n, 1, 1, 1)
    assert model.log_ratio(model.encode(x).mean).mean().item() == pytest.approx(m**2 / 2, abs=4 * m / n**0.5)
    trace = pyro.poutine.trace(model.guide).get_trace(x)
    trace.compute_log_prob()
    (gradient,) = torch.autograd.grad(trace.nodes["encoder_loss"]["log_prob"].mean(), [model.encoder.shift])
    assert gradient.item() == pytest.approx(4.0 * m, rel=1e-5)


def test_the_discriminator_learns_the_ratio_of_the_densities():
    model = shifted(1.0, discriminator=(32,), gradient_penalty=0.0)
    model.encoder.requires_grad_(False).eval()
    stepped(model, 1000, 0.005)
    z = torch.linspace(-1.0, 2.0, 13)[:, None]
    torch.testing.assert_close(model.log_ratio(z), z[:, 0] - 0.5, atol=0.25, rtol=0)


def stepped(model, steps, lr):
    """The model after some steps on standard normal pixels."""
    torch.manual_seed(0)
    svi = CompiledSVI(
        model.model, model.guide, lambda p: torch.optim.Adam(p, lr, (0.5, 0.9)), Trace_ELBO(), compile="capture"
    )
    for _ in range(steps):
        svi.step_tensor(torch.randn(256, 1, 1, 1))
    return model


def test_codes_move_to_the_prior():
    assert stepped(shifted(3.0, discriminator=(32,)), 800, 0.01).encoder.shift.item() == pytest.approx(0.0, abs=0.2)


def test_a_learned_prior_moves_to_the_codes():
    model = shifted(3.0, discriminator=(32,), gradient_penalty=1.0)
    model.prior = priors.Generator(1, noise_dim=4, units=(32,))
    model.encoder.requires_grad_(False).eval()
    draws = stepped(model, 600, 0.001).prior().sample((4000,))
    assert draws.mean().item() == pytest.approx(3.0, abs=0.2)
    assert draws.std().item() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("options", [{}, {"stochastic": True}, {"prior": "mixture"}, {"prior": "generator"}], ids=str)
def test_captured_steps_and_a_resumed_training_have_the_same_weights(digits, tmp_path, options):
    images, spec = digits.train.draw(40), spec_of(**options)

    def trained(**arguments):
        model = build(spec)
        history = fit(model, images, validation=images, **QUIET, **arguments)
        return model.state_dict(), history

    eager, history = trained(compile="off")
    captured, _ = trained(compile="capture")
    trained(compile="off", epochs=1, checkpoint=tmp_path / "checkpoint")
    resumed, _ = trained(compile="off", checkpoint=tmp_path / "checkpoint", resume=True)
    for name, value in eager.items():
        assert torch.equal(value, captured[name]), name
        assert torch.equal(value, resumed[name]), name
    assert history.column("train_kl_nats") == history.column("validation_kl_nats") == [0.0, 0.0]
    assert all(loss != part for loss, part in zip(*map(history.column, LOSSES), strict=True))


LOSSES = ("train_loss_nats", "train_reconstruction_nats")


def test_many_seeds_at_once(digits):
    images, spec = digits.train.draw(32), dataclasses.replace(spec_of(), validation_fraction=0.0, objective="elbo")
    for seed, (model, history) in zip((3, 0), fit_many(spec, images, seeds=[3, 0], **QUIET), strict=True):
        alone = build(dataclasses.replace(spec, seed=seed, image_shape=images.shape))
        expected = fit(alone, images, seed=seed, **QUIET)
        torch.testing.assert_close(model.state_dict(), alone.state_dict(), rtol=1e-4, atol=1e-5)
        assert history.column(LOSSES[0]) == pytest.approx(expected.column(LOSSES[0]), rel=1e-4)


def test_the_codes_of_digits_come_to_lie_as_the_prior(digits):
    train, test = digits
    common = {"latent_dim": 2, "hidden": (64,), "lr": 2e-3, "binarization": "threshold", "epochs": 30, "batch_size": 64}
    accuracy = {}
    for kind in ("autoencoder", {"kind": "adversarial", "discriminator": (64,)}):
        model = build(Spec(model=kind, **common))
        fit(model, train, compile="capture", **QUIET)
        draws = torch.randn(len(test), 2, generator=torch.Generator().manual_seed(0))
        accuracy[model.kind] = evaluation.two_sample_test(latent.codes(model, test), draws).accuracy
    assert accuracy["autoencoder"] > 0.9
    assert accuracy["adversarial"] < 0.7


@pytest.mark.parametrize("prior", ["standard-normal", "swiss-roll"])
def test_it_is_evaluated_as_an_autoencoder_and_its_samples(digits, prior):
    test = digits.test.draw(300)
    model = build(spec_of(prior))
    extractor = ModuleExtractor(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), "random", 5)
    metrics = evaluate(model, test, metrics=["bounds", "codes", "evidence", "samples"], extractor=extractor, **CPU)
    assert metrics.mse_per_pixel > 0
    assert metrics.frechet > 0
    assert 0.5 < metrics.two_sample_accuracy <= 1
    assert metrics.two_sample_p_value < 0.05
    assert metrics.marginal_kl_lower_nats > 0
    computed = metrics.to_dict()
    assert not {"kl_per_sample", "elbo_nats", "nll_nats", "mse_per_pixel_sampled"} & computed.keys()
    assert evaluate(model, test, metrics=["codes"], **CPU).two_sample_accuracy == metrics.two_sample_accuracy
    assert "two_sample_accuracy" not in evaluate(build(Spec(latent_dim=2)), test, metrics=["codes"], **CPU).to_dict()
    check = evaluation.predictive_check(model, test, kind="prior", replicates=5, binarization="threshold", device="cpu")
    assert check.replicates == 5


CPU = {"device": "cpu"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build(spec_of(weight=0)), r"model.weight: given 0, expected"),
        (lambda: build(spec_of(gradient_penalty=-1)), r"model.gradient_penalty: given -1, expected"),
        (lambda: build(spec_of(discriminator=(0,))), r"model.discriminator: given 0, expected"),
        (lambda: build(spec_of(stochastic=2)), r"model.stochastic: given 2, expected"),
        (
            lambda: build(spec_of({"kind": "mixture", "learned": True})),
            "prior: given 'mixture', expected one without par",
        ),
        (
            lambda: build(Spec(prior="swiss-roll", latent_dim=2)),
            "prior: given 'swiss-roll', expected one that has a den",
        ),
        (lambda: build(Spec(prior="generator")), "prior: given 'generator', expected one that has a density"),
        (lambda: build(spec_of()).model(), "size: given None"),
        (lambda: build(spec_of()).encode(torch.zeros(8, 8)), "x: given"),
        (lambda: build(spec_of()).sample(0), "n: given 0"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(InputError, match=f"^{message}") as error:
        call()
    assert "\n" not in str(error.value)


def test_what_needs_a_density_refuses_it(tiny):
    model = build(spec_of())
    for call in (
        lambda: evaluate(model, tiny, metrics=["evidence"], **CPU),
        lambda: evaluation.evidence(model, tiny, k=5, **CPU),
        lambda: evaluation.simulation_based_calibration(model, 100, **CPU),
        lambda: evaluation.to_inference_data(model, tiny, draws=2, k=5, **CPU),
    ):
        with pytest.raises(InputError, match="Adversarial"):
            call()
