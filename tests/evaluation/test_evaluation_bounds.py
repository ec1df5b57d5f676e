import math

import pytest
import torch
from linear_gaussian import linear_gaussian
from torch.distributions import kl_divergence

from pyro_vae import Images, Spec, build, evaluate, fit, latent
from pyro_vae._utils.checks import InputError
from pyro_vae.data import binarize
from pyro_vae.evaluation import bounds, kl_per_image, mse_per_pixel
from pyro_vae.parts import kinds
from pyro_vae.spec import GROUPS

CPU = {"device": "cpu"}


def test_the_exact_posterior_gives_the_exact_evidence(tiny):
    vae, evidence = linear_gaussian()
    images = Images(torch.randint(0, 256, (50, 1, 2, 2), dtype=torch.uint8))
    log_evidence = evidence.log_prob(images.as_float().flatten(1)).double()
    result = bounds(vae, images, samples=2000, **CPU)
    # The closed-form KL beside a sampled reconstruction: equal on average.
    assert result.elbo_nats == pytest.approx(log_evidence.mean().item(), abs=0.05)
    assert result.elbo_nats == pytest.approx(-(result.reconstruction_nats + result.kl_per_sample))
    assert result.elbo_se == pytest.approx(log_evidence.std().item() / 50**0.5, rel=0.05)


def test_kl_is_exact_where_it_can_be_and_agrees_with_monte_carlo(tiny):
    model = build(Spec(latent_dim=3))
    q, p = model.encode(tiny.as_float()), model.prior()
    exact, is_exact = kl_per_image(q, p, None)
    assert is_exact
    z = q.rsample((20_000,))
    torch.testing.assert_close((q.log_prob(z) - p.log_prob(z)).mean(0), exact, atol=0.03, rtol=0)


@pytest.mark.parametrize("posterior", ["planar", "conditional-planar"])
def test_kl_of_flows_is_monte_carlo_and_not_negative(digits, posterior):
    """Also after training, where the documents' estimator, with the prior at z_0, goes below zero."""
    model = build(Spec(latent_dim=4, posterior={"kind": posterior, "layers": 8}, hidden=(64,)))
    fit(model, digits.train, epochs=3, binarization="threshold", progress=False, **CPU)
    result = bounds(model, digits.test, binarization="threshold", **CPU)
    assert result.kl_is_exact is False
    assert result.kl_per_sample > 0
    of_fewer_samples = bounds(model, digits.test, binarization="threshold", samples=50, **CPU)
    assert result.kl_per_sample == pytest.approx(of_fewer_samples.kl_per_sample, abs=4 * result.kl_se)


def test_the_misplaced_prior_of_flows_is_named_and_can_be_negative(digits):
    """Trained on the documents' loss, their estimator falls below zero, while the KL, with the prior at z_K, rises."""
    spec = Spec(latent_dim=4, posterior={"kind": "planar", "layers": 8}, hidden=(64,), model="vae-prior-at-start")
    mistaken = build(spec)
    fit(mistaken, digits.train, epochs=20, binarization="threshold", lr=1e-2, progress=False, **CPU)
    result = bounds(mistaken, digits.test, binarization="threshold", samples=20, **CPU)
    assert result.kl_prior_at_start < 0 < result.kl_per_sample

    x = binarize(digits.test, "threshold").as_float()
    with torch.no_grad():
        q, p = mistaken.encode(x), mistaken.prior()
        start = q.base_dist.sample((50,))
        z, log_determinants = start, torch.zeros(start.shape[:-1])
        for transform in q.transforms:
            before, z = z, transform(z)
            log_determinants += transform.log_abs_det_jacobian(before, z)
        kl_of_base = kl_divergence(q.base_dist, p)
        by_hand = (kl_of_base - log_determinants.mean(0)).mean().item()
    assert result.kl_prior_at_start == pytest.approx(by_hand, abs=0.1)
    assert bounds(build(Spec(latent_dim=2)), digits.test, **CPU, binarization="threshold").kl_prior_at_start is None


def test_mse_is_over_all_pixels_decoding_the_mean(tiny):
    model = build(Spec(latent_dim=3, likelihood="gaussian"))
    result = bounds(model, tiny, **CPU)
    with torch.no_grad():
        expected = mse_per_pixel(tiny.as_float(), model.reconstruct(tiny.as_float()))
    assert result.mse_per_pixel == pytest.approx(expected, rel=1e-6)
    # With c = 1/2 the reconstruction term is the summed squared error and a constant.
    summed = 64 * result.mse_per_pixel_sampled + 64 / 2 * math.log(math.pi)
    assert result.reconstruction_nats == pytest.approx(summed, rel=1e-5)


@pytest.mark.filterwarnings("ignore:pixels that are exactly 0 or 1")
@pytest.mark.parametrize("likelihood", kinds("likelihood"))
def test_an_autoencoder_has_no_kl_and_no_elbo(tiny, likelihood):
    model = build(Spec(model="autoencoder", likelihood=likelihood, latent_dim=3))
    metrics = evaluate(model, tiny, metrics=GROUPS, extractor=len, binarization="threshold", **CPU).to_dict()
    reconstruction = {"mse_per_pixel", "reconstruction_nats", "reconstruction_se"}
    assert set(metrics) == reconstruction | {"active_units", "active_units_se", "provenance"}


def test_batches_of_unequal_length_weigh_as_they_should(tiny):
    model = build(Spec(latent_dim=3))
    results = [bounds(model, tiny, binarization="dynamic", batch_size=size, **CPU) for size in (12, 5, 1)]
    for name in ("mse_per_pixel", "kl_per_sample", "kl_se"):
        values = [getattr(result, name) for result in results]
        assert values == pytest.approx([values[0]] * 3, rel=1e-5), name


def test_the_order_of_images_does_not_matter(tiny):
    model = build(Spec(latent_dim=3))
    shuffled = tiny.take(torch.randperm(12))
    first, second = (bounds(model, images, binarization="threshold", **CPU) for images in (tiny, shuffled))
    assert first.mse_per_pixel == pytest.approx(second.mse_per_pixel, rel=1e-6)
    assert first.kl_per_sample == pytest.approx(second.kl_per_sample, rel=1e-6)


def test_beta_of_training_has_no_say(digits):
    """What was trained at beta = 1/4 is evaluated at 1, with the KL of its posterior in closed form."""
    trained, other = (build(Spec(latent_dim=3, hidden=(32,), beta=beta)) for beta in (0.25, 1.0))
    fit(trained, digits.train, epochs=10, beta=0.25, lr=5e-3, binarization="threshold", progress=False, **CPU)
    other.load_state_dict(trained.state_dict())
    result = bounds(trained, digits.test, binarization="threshold", **CPU)
    assert result == bounds(other, digits.test, binarization="threshold", **CPU)
    with torch.no_grad():
        q = trained.encode(binarize(digits.test, "threshold").as_float()).base_dist
    kl = 0.5 * (q.loc**2 + q.scale**2 - 1 - (q.scale**2).log()).sum(-1)
    assert kl.mean() > 0.5  # or a factor could not be seen
    assert result.kl_per_sample == pytest.approx(kl.mean().item(), rel=1e-4)
    assert result.elbo_nats == pytest.approx(-(result.reconstruction_nats + kl.mean().item()), rel=1e-5)


def test_more_samples_have_less_noise(tiny):
    """Of one image a thousand times, the means of 16 samples scatter a quarter as much as single ones."""
    model, copies = build(Spec(latent_dim=3)), tiny.take(torch.zeros(1000, dtype=torch.int64))
    single, many = (bounds(model, copies, binarization="threshold", samples=samples, **CPU) for samples in (1, 16))
    scatter = [result.per_image["reconstruction_nats"].std().item() for result in (single, many)]
    assert scatter[0] / scatter[1] == pytest.approx(4, rel=0.2)


def test_standard_errors_are_those_of_repetition(digits):
    """Means over many small sets scatter as the standard error of one says."""
    model = build(Spec(latent_dim=3))
    parts = [digits.train.take(slice(start, start + 50)) for start in range(0, 1400, 50)]
    results = [bounds(model, part, binarization="threshold", seed=index, **CPU) for index, part in enumerate(parts)]
    scatter = torch.tensor([result.elbo_nats for result in results]).std().item()
    claimed = sum(result.elbo_se for result in results) / len(results)
    assert scatter == pytest.approx(claimed, rel=0.5)


def test_nothing_is_trained_and_nothing_global_touched(tiny):
    model = build(Spec(latent_dim=3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first = evaluate(model, tiny, binarization="dynamic", **CPU)
    assert evaluate(model, tiny, binarization="dynamic", **CPU) == first
    assert evaluate(model, tiny, binarization="dynamic", seed=1, **CPU) != first
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_provenance_names_what_was_measured(tiny):
    metrics = evaluate(build(Spec(latent_dim=3)), tiny, binarization="threshold", seed=5, **CPU).to_dict()
    source = metrics["provenance"]["elbo_nats"]
    assert (source["n"], source["seed"], source["binarization"], source["likelihood"]) == (
        12,
        5,
        "threshold",
        "Bernoulli",
    )
    assert source["images_sha256"] == tiny.fingerprint
    assert "frechet" not in metrics
    assert all(name in metrics for name in metrics["provenance"])


def test_the_seed_does_not_choose_the_data(tiny):
    """Static and dynamic binarization are one fixed draw, so that all models are evaluated on the same images."""
    model = build(Spec(latent_dim=3))
    results = [
        bounds(model, tiny, binarization=how, seed=seed, **CPU) for how in ("static", "dynamic") for seed in (0, 1)
    ]
    assert len({result.kl_per_sample for result in results}) == 1
    assert len({result.reconstruction_nats for result in results}) == 2


def test_one_image_has_no_standard_error(tiny):
    result = bounds(build(Spec(latent_dim=3)), tiny.take(slice(0, 1)), binarization="threshold", **CPU)
    assert result.elbo_se is None
    assert result.elbo_nats < 0


def test_grey_pixels_warn(tiny):
    with pytest.warns(UserWarning, match="not a log-likelihood"):
        bounds(build(Spec(latent_dim=2)), tiny, **CPU)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda tiny: bounds(build(Spec()), tiny, samples=0), "samples: given 0"),
        (lambda tiny: bounds(build(Spec()), tiny, batch_size=-1), "batch_size: given -1"),
        (lambda tiny: bounds(build(Spec()), tiny, binarization="x"), "binarization: given 'x'"),
        (lambda tiny: evaluate(build(Spec(dataset="mnist")), tiny), "images: given"),
        (
            lambda tiny: evaluate(build(Spec()), tiny, metrics=["bound"]),
            "metrics: given 'bound', .*did you mean 'bounds'",
        ),
        (lambda tiny: evaluate(build(Spec()), tiny, metrics=["samples"]), "extractor: given None"),
        (lambda tiny: evaluate(build(Spec()), tiny, extractor=len, num_generated=0), "num_generated: given 0"),
        (
            lambda tiny: evaluate(build(Spec()), tiny, num_generated=5, extractor=len),
            "num_generated: given 5, expected at least 10",
        ),
        (lambda tiny: mse_per_pixel(torch.zeros(2, 1), torch.zeros(1, 1)), "reconstruction: given"),
    ],
)
def test_bad_arguments_are_named(tiny, call, message):
    with pytest.raises(InputError, match=message):
        call(tiny)


@pytest.mark.parametrize(
    "spec", [Spec(latent_dim=3), Spec(latent_dim=3, posterior="planar"), Spec(model="autoencoder")]
)
def test_the_batch_size_changes_rounding_only(digits, spec):
    model, images = build(spec), digits.test.take(slice(0, 230))
    few, many = (bounds(model, images, binarization="static", samples=2, batch_size=size, **CPU) for size in (7, 500))
    assert few.per_image.keys() == many.per_image.keys()
    for name, values in few.per_image.items():
        torch.testing.assert_close(values, many.per_image[name], rtol=1e-5, atol=1e-4)


def test_per_image_values_are_those_of_the_means(digits):
    result = bounds(build(Spec(latent_dim=3, posterior="planar")), digits.test, binarization="static", **CPU)
    for name, values in result.per_image.items():
        assert (values.shape, values.dtype) == ((len(digits.test),), torch.float64)
        assert values.mean().item() == getattr(result, name)
    assert result.per_image["elbo_nats"].std().item() / len(digits.test) ** 0.5 == result.elbo_se


def test_noise_of_bounds_and_of_samples_is_independent(digits):
    """Under one seed; were the generators started alike, the noise of image i would be the code of sample i."""
    model, drawn = build(Spec(latent_dim=4)), []
    decode = model.decode
    model.decode = lambda z: drawn.append(z) or decode(z)
    bounds(model, digits.test, binarization="static", seed=3, **CPU)
    of_blocks = [block for block in drawn if len(block) > 2]  # the model is tried on block and two images before
    noise = [z - mean for mean, z in zip(of_blocks[::2], of_blocks[1::2], strict=True)]
    drawn.clear()
    latent.prior_samples(model, len(digits.test), device="cpu", seed=3)
    epsilon, z = torch.cat(noise).flatten(), torch.cat(drawn).flatten()
    correlation = torch.corrcoef(torch.stack([epsilon, z]))[0, 1].item()
    assert correlation == pytest.approx(0, abs=4 / len(z) ** 0.5)
