"""Likelihoods of 256 grey levels: exact masses, which sum to one wherever mean and scale are."""

import math
from functools import cache

import mpmath
import pytest
import torch

from pyro_vae import Images, Spec, build, evaluate, fit, likelihoods, load, save
from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import compare, evidence
from pyro_vae.pixel_distributions import LogisticLevels, NormalLevels

CPU = {"device": "cpu"}
KINDS = [LogisticLevels, NormalLevels]
LEVELS = torch.arange(256) / 255
# A mean at an end, at an edge between two bins and between; scales of a hundredth of a level to a thousand images.
MEANS, SCALES = [0.0, 0.5, 100.5 / 255, 0.999], [5e-5, 1e-3, 0.02, 0.3, 30.0, 1e3]


@cache
def exact_log_mass(kind, mean, scale, level):
    with mpmath.workdps(60):

        def below(t):
            if kind is NormalLevels:
                return mpmath.erfc(-t / mpmath.sqrt(2)) / 2
            return 1 / (1 + mpmath.exp(-t))

        low, high = ((level + half - 255 * mpmath.mpf(mean)) / (255 * mpmath.mpf(scale)) for half in (-0.5, 0.5))
        if level == 0:
            return float(mpmath.log(below(high)))
        if level == 255:
            return float(mpmath.log(below(-low)))
        if low > 0:  # by symmetry, where the difference of two masses near 1 would be 0
            low, high = -high, -low
        return float(mpmath.log(below(high) - below(low)))


def single(kind, mean, scale, dtype):
    return kind(torch.tensor(mean, dtype=dtype), torch.tensor(scale, dtype=dtype))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_masses_are_exact_far_into_the_tails_and_sum_to_one(kind, dtype, mean, scale):
    p = single(kind, mean, scale, dtype)
    log_masses = p.log_prob(LEVELS.to(dtype))
    assert bool((log_masses <= 1e-6).all())
    # Edges are as exact as mean / scale can be in this type.
    edge = 4 * torch.finfo(dtype).eps * max(1, abs(mean - 0.5) + 1) / scale
    for level in (0, 1, 2, 100, 101, 127, 128, 200, 254, 255):
        exact = exact_log_mass(kind, p.loc.item(), p.scale.item(), level)
        slope = 1 / scale if kind is LogisticLevels else max(1, abs(level / 255 - mean) / scale) / scale
        error = edge * scale * slope + (1e-5 if dtype == torch.float32 else 1e-9)
        assert log_masses[level].item() == pytest.approx(exact, rel=1e-5 if dtype == torch.float32 else 1e-9, abs=error)
    assert log_masses.double().exp().sum().item() == pytest.approx(1, abs=2e-5 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_float64_and_finite(kind, scale):
    def gradients(dtype):
        mean, log_scale = (torch.full((256,), v, dtype=dtype, requires_grad=True) for v in (0.3, math.log(scale)))
        return torch.autograd.grad(kind(mean, log_scale.exp()).log_prob(LEVELS.to(dtype)).sum(), (mean, log_scale))

    for actual, exact in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        assert bool(actual.isfinite().all())
        torch.testing.assert_close(
            actual.double(), exact, rtol=2e-3, atol=2e-3 * max(1.0, exact.abs().max().item() / 100)
        )


@pytest.mark.parametrize("scale", [2e-4, 0.002, 0.05, 2.0])
@pytest.mark.parametrize("mean", [0.0, 0.2, 0.999])
@pytest.mark.parametrize("kind", KINDS)
def test_moments_and_draws_are_those_of_the_masses(kind, mean, scale):
    torch.manual_seed(0)
    p = single(kind, mean, scale, torch.float64)
    levels = torch.arange(256, dtype=torch.float64) / 255
    mass = p.log_prob(levels).exp()
    first = (mass * levels).sum().item()
    assert p.mean.item() == pytest.approx(first, abs=1e-9)
    assert p.variance.item() == pytest.approx((mass * (levels - first) ** 2).sum().item(), abs=1e-9)
    drawn = (255 * p.sample((40_000,))).round().long()
    shares = torch.bincount(drawn, minlength=256) / len(drawn)
    assert (shares - mass).abs().max().item() < 4 * (0.25 / len(drawn)) ** 0.5
    assert bool(p.support.check(p.sample((10,))).all())


@pytest.mark.parametrize("value", [0.5, -1 / 255, 256 / 255, math.nan])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_level_is_refused(kind, value):
    with pytest.raises(ValueError, match="within the support"):
        single(kind, 0.5, 0.1, torch.float32).log_prob(torch.tensor(value))


def test_black_and_white_are_levels():
    p = likelihoods.DiscretizedLogistic()(torch.zeros(2, 1, 2, 2))
    assert p.log_prob(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)).shape == (2,)


def test_a_mixture_is_the_weighted_sum_of_its_components():
    torch.manual_seed(0)
    components, channels = 3, 2
    parameters = torch.randn(5, 3 * components * channels, 4, 4, dtype=torch.float64)
    likelihood = likelihoods.DiscretizedLogistic(components, scale=0.05).double()
    assert likelihood.parameters_per_pixel == 9
    p = likelihood(parameters)
    assert (p.batch_shape, p.event_shape) == ((5,), (2, 4, 4))
    x = torch.randint(256, (5, channels, 4, 4)) / torch.tensor(255, dtype=torch.float64)
    weights, means, log_scales = parameters.reshape(5, 3, components, channels, 4, 4).unbind(1)
    each = LogisticLevels(means.sigmoid(), 0.05 * log_scales.exp())
    mass = (weights.softmax(1) * each.log_prob(x[:, None]).exp()).sum(1)
    torch.testing.assert_close(p.log_prob(x), mass.log().sum((1, 2, 3)))
    torch.testing.assert_close(p.mean, (weights.softmax(1) * each.mean).sum(1))
    assert bool(p.base_dist.support.check(p.sample()).all())


NETWORKS = {"mlp": "mlp", "conv": {"kind": "conv", "channels": (8,)}}
MIXTURE = {"kind": "discretized-logistic", "components": 3}
LIKELIHOODS = [
    {"likelihood": "discretized-logistic"},
    {"likelihood": MIXTURE},
    {"likelihood": "discretized-gaussian"},
]


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("fields", LIKELIHOODS)
def test_it_trains_and_its_numbers_are_in_order(digits, tmp_path, fields, network):
    """E log p(x|z) - KL <= log p(x) <= 0, and bits per dimension are those of a probability."""
    spec = Spec(latent_dim=2, hidden=(32,), network=NETWORKS[network], **fields)
    model = build(spec)
    images = digits.train.take(slice(0, 300))
    history = fit(model, images, epochs=8, batch_size=50, lr=3e-3, progress=False, **CPU)
    losses = history.column("train_loss_nats")
    assert losses[-1] < losses[0]
    metrics = evaluate(model, images.take(slice(0, 100)), metrics=["bounds", "evidence"], k=200, **CPU)
    assert 0 < metrics.nll_nats < -metrics.elbo_nats + 3 * metrics.elbo_se
    assert metrics.bits_per_dimension == pytest.approx(metrics.nll_nats / 64 / math.log(2))
    save(model, tmp_path / "weights.safetensors")
    loaded = load(tmp_path / "weights.safetensors")
    x = images.as_float()[:5]
    torch.testing.assert_close(loaded.reconstruct(x), model.reconstruct(x))
    assert model.sample(3).shape == (3, 1, 8, 8)
    assert bool(((model.reconstruct(x) >= 0) & (model.reconstruct(x) <= 1)).all())


def test_probabilities_of_levels_compare_across_likelihoods_and_with_no_density(tiny):
    first, *others = (evaluate(build(Spec(latent_dim=2, **fields)), tiny, **CPU) for fields in LIKELIHOODS)
    for other in others:
        (difference,) = compare({"a": first, "b": other})
        assert difference.difference == pytest.approx(other.elbo_nats - first.elbo_nats)
    density = evaluate(build(Spec(latent_dim=2, likelihood="gaussian")), tiny, **CPU)
    with pytest.raises(InputError, match="likelihood of b: given 'Gaussian'"):
        compare({"a": first, "b": density})


@pytest.mark.parametrize("fields", LIKELIHOODS)
def test_where_the_decoder_ignores_z_the_nll_is_that_of_the_masses(fields):
    images = Images(torch.randint(256, (20, 1, 2, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8))
    model = build(Spec(image_shape=(1, 2, 2), dataset="mine", latent_dim=2, **fields))
    with torch.no_grad():
        model.decoder[-2].weight.zero_()
        p = model.decode(torch.zeros(2))
        table = torch.stack([p.base_dist.log_prob((LEVELS[k]).expand(1, 2, 2)) for k in range(256)])
    exact = table.gather(0, images.pixels.long()).sum((1, 2, 3))
    estimate = evidence(model, images, k=3000, **CPU)
    torch.testing.assert_close(estimate.log_likelihood.float(), exact, rtol=0, atol=0.1)
    assert estimate.nll_nats == pytest.approx(-exact.mean().item(), abs=0.02)
    assert table.exp().sum(0).flatten().tolist() == pytest.approx([1.0] * 4, abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "compile"), [*((fields, "capture") for fields in LIKELIHOODS), (LIKELIHOODS[1], "inductor")]
)
def test_a_captured_step_is_the_eager_one(tiny, fields, compile):
    histories = []
    for how in ("off", compile):
        model = build(Spec(latent_dim=2, hidden=(8,), **fields))
        history = fit(model, tiny, epochs=2, batch_size=4, compile=how, progress=False, **CPU)
        histories.append(history.column("train_loss_nats"))
    assert histories[1] == pytest.approx(histories[0], rel=1e-6 if compile == "capture" else 1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build(Spec(likelihood={**MIXTURE, "components": 0})), "likelihood.components: given 0"),
        (lambda: build(Spec(likelihood={**MIXTURE, "components": 2.5})), "likelihood.components: given 2.5"),
        (lambda: Spec(likelihood={**MIXTURE, "kind": "bernoulli"}), "likelihood.components: .*: bernoulli has none"),
        (
            lambda: Spec(likelihood={**MIXTURE, "kind": "discretized-gaussian"}),
            "likelihood.components: given 3, expected an option of discretized-gaussian: scale",
        ),
        (lambda: Spec(likelihood="discretised-logistic"), "did you mean 'discretized-logistic'"),
        (lambda: likelihoods.DiscretizedLogistic(components=0), "components: given 0"),
        (lambda: likelihoods.DiscretizedLogistic(scale=0.0), "scale: given 0.0"),
        (lambda: likelihoods.DiscretizedGaussian(scale=-1.0), "scale: given -1.0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
