"""The evidence of a linear-Gaussian model, which is known, and Pareto k of known tails."""

import itertools
import json
import math
import warnings

import matplotlib
import matplotlib.pyplot
import pytest
import torch
from linear_gaussian import linear_gaussian
from pyro.distributions import MultivariateNormal
from torch import nn

from pyro_vae import VAE, Autoencoder, Images, Spec, build, likelihoods, networks, posteriors, priors
from pyro_vae._utils.checks import InputError
from pyro_vae.data.dequantization import dequantized_once
from pyro_vae.evaluation import (
    annealed_log_likelihood,
    bidirectional_monte_carlo,
    bounds,
    evaluate,
    evidence,
    log_mean_weight,
    to_inference_data,
)
from pyro_vae.evaluation.likelihood.annealing import anneal_images
from pyro_vae.evaluation.likelihood.weighted_draws import weighted_draws
from pyro_vae.latent import posterior_means
from pyro_vae.programs.densities import Densities

CPU = {"device": "cpu"}


def random_images(n):
    generator = torch.Generator().manual_seed(0)
    return Images(torch.randint(0, 256, (n, 1, 2, 2), dtype=torch.uint8, generator=generator), name="random")


def mismatched():
    """The linear-Gaussian model with a guide that is a little off, everywhere alike."""
    vae, truth = linear_gaussian()
    with torch.no_grad():
        vae.encoder[1].bias += torch.tensor([0.3, -0.2, 0.4, 0.4])
    return vae, truth


class Exact(nn.Module):
    """The exact posterior with full covariance, for any weights W: N((W'W + cI)^-1 W'(x - b), c (W'W + cI)^-1)."""

    def __init__(self, decoder, c):
        super().__init__()
        w, b = decoder[0].weight.detach(), decoder[0].bias.detach()
        precision = w.T @ w + c * torch.eye(w.shape[1])
        self.gain, self.offset, self.covariance = torch.linalg.solve(precision, w.T), b, c * torch.linalg.inv(precision)
        self.latent_dim = w.shape[1]

    def forward(self, x):
        return MultivariateNormal((x - self.offset) @ self.gain.T, self.covariance)


def test_an_exact_full_covariance_guide_has_constant_weights_and_the_evidence_at_k_1():
    vae, _ = linear_gaussian(c=0.2)
    with torch.no_grad():
        vae.decoder[0].weight.copy_(torch.randn(4, 2))  # columns that are not orthogonal: no diagonal guide is exact
    w, b = vae.decoder[0].weight.detach(), vae.decoder[0].bias.detach()
    truth = MultivariateNormal(b, w @ w.T + 0.2 * torch.eye(4))
    vae.encoder, vae.posterior = nn.Flatten(), Exact(vae.decoder, 0.2)
    images = random_images(30)
    expected = truth.log_prob(images.as_float().flatten(1)).double()
    result = evidence(vae, images, k=1, **CPU)
    torch.testing.assert_close(result.log_likelihood, expected, rtol=1e-4, atol=1e-4)
    assert result.pareto is None
    many = evidence(vae, images, k=100, **CPU)
    assert bool(many.pareto.exact.all())
    assert many.pareto.pareto_k.tolist() == [-math.inf] * 30
    assert many.pareto.shares() == {"good": 1.0, "ok": 0.0, "bad": 0.0, "very bad": 0.0}
    torch.testing.assert_close(
        many.pareto.effective_samples, torch.full((30,), 100.0, dtype=torch.float64), rtol=1e-3, atol=0
    )
    assert many.nll_mcse < 1e-4
    assert many.warnings == ()
    assert many.trusted.nll_nats == many.nll_nats


def test_a_mismatched_guide_still_finds_the_evidence_and_the_elbo_stays_below():
    vae, truth = mismatched()
    images = random_images(40)
    expected = truth.log_prob(images.as_float().flatten(1)).mean().item()
    result = evidence(vae, images, k=4000, **CPU)
    assert -result.nll_nats == pytest.approx(expected, abs=0.01)
    assert abs(-result.nll_nats - expected) <= 3 * result.nll_mcse
    assert result.warnings == ()
    elbo = bounds(vae, images, samples=500, **CPU).elbo_nats
    assert elbo < expected - 0.05


def test_the_bound_rises_with_k_and_its_gap_is_var_w_over_2k():
    vae, truth = mismatched()
    x = random_images(1).as_float()
    with torch.no_grad():
        weights = weighted_draws(Densities(vae), x, 600_000, 4000).log_weights
    log_p = truth.log_prob(x.flatten(1)).item()
    gaps = {}
    for k in (1, 5, 25, 50, 100):
        gaps[k] = log_p - log_mean_weight(weights.reshape(k, -1)).mean().item()
    values = list(gaps.values())
    assert values == sorted(values, reverse=True)
    assert all(value > 0 for value in values)
    relative_variance = (weights - log_p).exp().var().item()
    assert 2 * 50 * gaps[50] == pytest.approx(relative_variance, rel=0.25)
    assert 2 * 100 * gaps[100] == pytest.approx(relative_variance, rel=0.25)


@pytest.mark.parametrize(("k", "decoded_at_once"), [(30, 7), (30, 1), (29, 4000), (101, 64)])
def test_counts_are_exact_when_nothing_divides(k, decoded_at_once):
    vae, _ = mismatched()
    with torch.no_grad():
        z, weights, _ = weighted_draws(Densities(vae), random_images(3).as_float(), k, decoded_at_once)
    assert z.shape == (k, 3, 2)
    assert weights.shape == (k, 3)
    result = evidence(vae, random_images(53), k=k, decoded_at_once=decoded_at_once, **CPU)
    assert result.log_likelihood.shape == result.pareto.pareto_k.shape == (53,)


def test_an_interrupted_evidence_goes_on_to_the_same_result(tmp_path, monkeypatch):
    vae, _ = mismatched()
    images, partial = random_images(130), tmp_path / "partial.safetensors"  # three blocks
    whole = evidence(vae, images, k=30, **CPU)
    calls = []

    def stop_at_the_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return weighted_draws(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pyro_vae.evaluation.likelihood.evidence.weighted_draws", stop_at_the_third)
        evidence(vae, images, k=30, partial=partial, **CPU)
    with monkeypatch.context() as patch:
        patch.setattr("pyro_vae.evaluation.likelihood.evidence.weighted_draws", stop_at_the_third)
        resumed = evidence(vae, images, k=30, partial=partial, **CPU)
    assert len(calls) == 4  # the third block alone was left
    assert resumed.log_likelihood.tolist() == whole.log_likelihood.tolist()
    assert resumed.pareto.pareto_k.tolist() == whole.pareto.pareto_k.tolist()
    other = evidence(vae, images, k=30, seed=1, partial=partial, **CPU)  # other settings: nothing is taken over
    assert other.log_likelihood.tolist() == evidence(vae, images, k=30, seed=1, **CPU).log_likelihood.tolist()
    partial.write_bytes(b"damaged")
    assert evidence(vae, images, k=30, partial=partial, **CPU).nll_nats == whole.nll_nats


def test_chunks_change_the_noise_only():
    vae, _ = mismatched()
    results = [evidence(vae, random_images(20), k=2000, decoded_at_once=size, **CPU).nll_nats for size in (4000, 333)]
    assert results[0] == pytest.approx(results[1], abs=0.02)


def test_beta_of_training_has_no_say(tiny):
    results = [
        evidence(build(Spec(latent_dim=2, beta=beta)), tiny, k=10, binarization="threshold", **CPU)
        for beta in (1.0, 9.0)
    ]
    assert results[0].nll_nats == results[1].nll_nats


def test_the_standard_error_is_that_of_repetition():
    vae, _ = mismatched()
    images = random_images(1200)
    parts = [evidence(vae, images.take(slice(start, start + 40)), k=50, **CPU) for start in range(0, 1200, 40)]
    scatter = torch.tensor([part.nll_nats for part in parts]).std().item()
    assert scatter == pytest.approx(sum(part.nll_se for part in parts) / len(parts), rel=0.4)
    assert evidence(vae, random_images(1), k=50, **CPU).nll_se is None


def test_lost_numbers_are_an_error_and_not_a_result():
    vae, _ = mismatched()
    with torch.no_grad():
        vae.decoder[0].weight[0, 0] = math.nan
    with pytest.raises(InputError, match="log_weights: given 'NaN or infinity'"):
        evidence(vae, random_images(3), k=30, **CPU)


def test_the_binarization_told_is_that_of_the_numbers(tiny):
    model = build(Spec(latent_dim=2))
    results = [evidence(model, tiny, k=10, binarization=how, **CPU) for how in ("static", "dynamic")]
    assert [result.binarization for result in results] == ["static", "static"]
    assert results[0].nll_nats == results[1].nll_nats


def test_the_standard_error():
    vae, _ = mismatched()
    result = evidence(vae, random_images(200), k=50, **CPU)
    assert result.nll_se == pytest.approx(result.log_likelihood.std().item() / 200**0.5)
    assert (result.n, result.k, result.binarization) == (200, 50, "none")


class Narrow(nn.Module):
    """The exact posterior, its deviations times s."""

    def __init__(self, posterior, s):
        super().__init__()
        self.posterior, self.s = posterior, s

    def forward(self, parameters):
        q = self.posterior(parameters)
        return type(q.base_dist)(q.base_dist.loc, self.s * q.base_dist.scale).to_event(1)


def scaled_guide(s, c=0.1):
    """A linear-Gaussian model of four pixels and four dimensions; the guide is the exact posterior, s times as wide."""
    linear, _ = linear_gaussian()
    w = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1))).Q
    w = w * torch.tensor([0.8, 1.3, 0.5, 2.0])
    decoder, encoder = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(-1, (1, 2, 2))), nn.Linear(4, 8)
    variance = c / (w.square().sum(0) + c)
    gain = (variance / c)[:, None] * w.T
    with torch.no_grad():
        decoder[0].weight.copy_(w)
        encoder.weight.copy_(torch.cat([gain, torch.zeros(4, 4)]))
        encoder.bias.copy_(torch.cat([-gain @ decoder[0].bias, variance.log()]))
    posterior = Narrow(posteriors.DiagonalNormal(4), s)
    vae = VAE(nn.Sequential(nn.Flatten(), encoder), decoder, priors.StandardNormal(4), linear.likelihood, posterior)
    return vae, MultivariateNormal(decoder[0].bias.detach(), w @ w.T + c * torch.eye(4))


def test_a_guide_half_too_narrow_is_not_believed():
    """The estimate is far above the exact NLL, by many of its Monte Carlo errors: what is told must say so."""
    vae, truth = scaled_guide(0.5)
    images = random_images(100)
    exact = -truth.log_prob(images.as_float().flatten(1)).mean().item()
    result = evidence(vae, images, k=1000, anneal=20, anneal_temperatures=300, **CPU)
    assert result.nll_nats - exact > 0.1 > 3 * result.nll_mcse
    assert -result.pareto.log_likelihood.mean().item() - exact > 1.5 * (result.nll_nats - exact)  # further off
    assert any("Pareto k above 0.67" in warning for warning in result.warnings)
    assert any("fell by" in warning for warning in result.warnings)
    assert result.trusted.n == int(result.pareto.trusted.sum()) < 50
    check = result.annealed
    assert not bool(result.pareto.trusted[check.index].any())
    expected = truth.log_prob(images.as_float().flatten(1)).double()[check.index]
    assert check.importance.nll_nats == pytest.approx(-result.log_likelihood[check.index].mean().item())
    assert abs(check.annealed_nll.nll_nats + expected.mean().item()) < 4 * check.annealed_nll.nll_mcse
    assert check.drop_nats == pytest.approx(check.importance.nll_nats - check.annealed_nll.nll_nats)
    assert check.annealed.chain_sd_nats.shape == check.annealed.effective_samples.shape == (20,)


def test_trusted_images_are_not_unbiased_where_all_tails_are_alike():
    """k, estimated from the same draws, is low where the largest weights were missed by chance."""
    vae, truth = scaled_guide(0.5)
    images = random_images(200)
    errors = -truth.log_prob(images.as_float().flatten(1)).double()
    result = evidence(vae, images, k=1000, **CPU)
    errors = -result.log_likelihood - errors
    assert errors[result.pareto.trusted].mean() > errors[~result.pareto.trusted].mean() + 0.1
    assert any("chosen by the same draws" in warning for warning in result.warnings)


def test_annealing_shows_what_importance_sampling_lacks():
    vae, truth = linear_gaussian()
    with torch.no_grad():
        vae.encoder[1].bias += torch.tensor([2.0, -2.0, 0.0, 0.0])  # a guide in the wrong place
    images = random_images(10)
    result = evidence(vae, images, k=100, anneal=10, anneal_temperatures=300, **CPU)
    exact = -truth.log_prob(images.as_float().flatten(1)).double()[result.annealed.index].mean().item()
    assert abs(result.annealed.annealed_nll.nll_nats - exact) < 4 * result.annealed.annealed_nll.nll_mcse
    assert result.annealed.importance.nll_nats - exact > 1
    assert any("annealed importance sampling finds the NLL of" in warning for warning in result.warnings)


@pytest.mark.parametrize("s", [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.4])
def test_without_a_warning_the_exact_value_lies_within_three_monte_carlo_errors(s):
    vae, truth = scaled_guide(s)
    images = random_images(60)
    exact = -truth.log_prob(images.as_float().flatten(1)).mean().item()
    for seed in range(4):
        result = evidence(vae, images, k=500, seed=seed, **CPU)
        doubt = [warning for warning in result.warnings if "over a quarter" not in warning]
        assert (
            doubt or abs(result.nll_nats - exact) <= 3 * result.nll_mcse + result.nll_by_k[0].drop_nats + 1e-5
        )  # float32
        if s <= 0.5:
            assert doubt
        if 0.9 <= s <= 1.1:
            assert not result.warnings


def test_the_curve_over_k():
    vae, _ = mismatched()
    images = random_images(30)
    result = evidence(vae, images, k=400, **CPU)
    assert [point.k for point in result.nll_by_k] == [400, 200, 100, 50, 25, 12, 6]
    assert result.nll_by_k[0].nll_nats == result.nll_nats
    values = [point.nll_nats for point in result.nll_by_k]
    assert values == sorted(values)
    for point, fewer in itertools.pairwise(result.nll_by_k):
        assert point.drop_nats == pytest.approx(fewer.nll_nats - point.nll_nats)
        assert point.drop_se > 0
    assert result.nll_by_k[-1].drop_nats is None
    # At 50 samples the NLL is that of 50 samples, in the mean.
    fewer = [evidence(vae, images, k=50, seed=seed, **CPU).nll_nats for seed in range(1, 9)]
    assert result.nll_by_k[3].nll_nats == pytest.approx(sum(fewer) / 8, abs=0.02)


def test_one_sample_and_one_image_have_no_errors():
    vae, _ = mismatched()
    result = evidence(vae, random_images(3), k=1, **CPU)
    assert (result.nll_mcse, result.log_likelihood_mcse, result.trusted) == (None, None, None)
    assert [(point.k, point.drop_nats) for point in result.nll_by_k] == [(1, None)]
    assert any("too few for Pareto k" in warning for warning in result.warnings)
    single = evidence(vae, random_images(1), k=50, **CPU)
    assert (single.nll_se, single.nll_by_k[0].drop_se) == (None, None)


@pytest.mark.parametrize(("temperatures", "few"), [(3, True), (300, False)])
def test_few_effective_chains_are_told(temperatures, few):
    vae, _ = scaled_guide(0.5)
    result = evidence(vae, random_images(30), k=100, anneal=10, anneal_temperatures=temperatures, **CPU)
    effective = result.annealed.annealed.effective_samples.median().item()
    assert (effective < 8) == few
    told = [warning for warning in result.warnings if "effective chains of 16" in warning]
    assert (f"has {effective:.1f} effective" in "".join(told)) == few == bool(told)


def test_annealing_takes_the_distrusted_and_no_others():
    vae, _ = scaled_guide(0.5)
    images = random_images(30)
    result = evidence(vae, images, k=200, anneal=10_000, anneal_temperatures=2, decoded_at_once=64, **CPU)
    assert result.annealed.index.tolist() == (~result.pareto.trusted).nonzero()[:, 0].tolist()
    few = [evidence(vae, images, k=200, anneal=3, anneal_temperatures=2, seed=seed, **CPU) for seed in (0, 0, 1)]
    assert few[0].annealed.index.tolist() == few[1].annealed.index.tolist() != few[2].annealed.index.tolist()
    assert few[0].annealed.annealed_nll == few[1].annealed.annealed_nll
    exact, _ = linear_gaussian()
    assert evidence(exact, images, k=100, anneal=3, **CPU).annealed is None  # there are none


def test_neighbouring_seeds_share_no_chain_and_no_codes(monkeypatch):
    """What seed 0 drew for its second block was what seed 1 drew for its first."""
    seeds = []
    monkeypatch.setattr(
        "pyro_vae.evaluation.likelihood.evidence.anneal_images",
        lambda *args, seed, **options: seeds.append(seed) or anneal_images(*args, seed=seed, **options),
    )
    monkeypatch.setattr(
        "pyro_vae.evaluation.metric_groups.posterior_means",
        lambda *args, seed, **options: seeds.append(seed) or posterior_means(*args, seed=seed, **options),
    )
    vae = build(Spec(image_shape=(1, 2, 2), latent_dim=2, posterior="planar", likelihood="gaussian"))
    for seed in (0, 1, 2):
        evidence(vae, random_images(5), k=20, anneal=5, anneal_temperatures=1, decoded_at_once=32, seed=seed, **CPU)
        evaluate(vae, random_images(5), metrics=["codes"], seed=seed, **CPU)
    assert len(seeds) == len(set(seeds)) == 3 * (3 + 2)


@pytest.mark.parametrize("dequantize", [False, True])
def test_annealing_is_of_the_same_pixels(monkeypatch, dequantize):
    vae, _ = mismatched()
    vae.likelihood.data_range = "unit interval"
    images, seen = random_images(12), []

    def recorded(model, x, **options):
        seen.append(x)
        return anneal_images(model, x, **options)

    monkeypatch.setattr("pyro_vae.evaluation.likelihood.evidence.anneal_images", recorded)
    result = evidence(vae, images, k=20, dequantize=dequantize, anneal=6, anneal_temperatures=2, **CPU)
    pixels = images.pixels[result.annealed.index]
    assert torch.equal(torch.cat(seen), dequantized_once(pixels) if dequantize else pixels / 255)


def test_metrics_show_what_the_error_is_made_of():
    vae, _ = scaled_guide(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = evaluate(vae, random_images(40), metrics=["evidence"], k=200, anneal=2, **CPU)
    expected = evidence(vae, random_images(40), k=200, **CPU)
    assert (metrics.nll_nats, metrics.nll_se, metrics.nll_mcse) == (
        expected.nll_nats,
        expected.nll_se,
        expected.nll_mcse,
    )
    assert metrics.nll_effective_samples == expected.effective_samples.median().item()
    assert metrics.nll_trusted_share == expected.pareto.trusted.double().mean().item()
    assert metrics.nll_trusted_nats == expected.trusted.nll_nats
    assert [point["k"] for point in metrics.nll_by_k] == [200, 100, 50, 25, 12, 6, 3]
    assert metrics.nll_warnings
    assert metrics.provenance["nll_annealed_nats"]["anneal"] == metrics.nll_annealing["images"] == 2
    assert json.loads(json.dumps(metrics.to_dict()))["nll_diagnostics"].keys() == {"pareto_smoothed_nats"}
    rows = {label: (value, meaning) for label, value, meaning in metrics.rows()}
    assert rows["NLL"][0] == f"{metrics.nll_nats:.2f} ± {metrics.nll_se:.2f}"
    assert rows["NLL, Monte Carlo SE"][0] == f"{metrics.nll_mcse:.3f}"
    assert f"({expected.trusted.n} of 40)" in rows["NLL, trusted images"][1]
    assert "2 images" in rows["NLL, annealed"][1]
    assert not [label for label in rows if "smoothed" in label]
    assert [meaning for label, _, meaning in metrics.rows() if label == "NLL, caution"] == metrics.nll_warnings
    good = evaluate(mismatched()[0], random_images(40), metrics=["evidence"], k=1000, **CPU)
    assert good.nll_warnings is good.nll_annealed_nats is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evidence(mismatched()[0], random_images(2), k=0), "k: given 0"),
        (lambda: evidence(mismatched()[0], random_images(2), decoded_at_once=0), "decoded_at_once: given 0"),
        (lambda: evidence(deterministic(), random_images(2)), "a model with a density of its codes"),
        (lambda: evidence(mismatched()[0], random_images(2), anneal=-1), "anneal: given -1"),
        (lambda: evidence(mismatched()[0], random_images(2), anneal_temperatures=0), "anneal_temperatures: given 0"),
        (lambda: to_inference_data(mismatched()[0], random_images(2), draws=0), "draws: given 0"),
        (
            lambda: annealed_log_likelihood(mismatched()[0], random_images(1).as_float(), temperatures=0),
            "temperatures: given 0",
        ),
        (lambda: bidirectional_monte_carlo(deterministic(), 2), "a deterministic autoencoder has none"),
        (lambda: annealed_log_likelihood(mismatched()[0], random_images(1).pixels), "x: given 'torch.uint8"),
        (lambda: annealed_log_likelihood(mismatched()[0], torch.zeros(1, 2, 2)), "x: given"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def deterministic():
    encoder, decoder = networks.mlp_encoder((1, 2, 2), 2), networks.mlp_decoder(2, (1, 2, 2))
    return Autoencoder(encoder, decoder, likelihoods.Gaussian())


@pytest.fixture(scope="module")
def inference_data():
    vae, _ = mismatched()
    return to_inference_data(vae, random_images(4), draws=300, k=1000, **CPU)


def test_inference_data_has_named_dimensions(inference_data):
    assert dict(inference_data.posterior.z.sizes) == {"chain": 1, "draw": 300, "image": 4, "latent": 2}
    assert dict(inference_data.log_likelihood.log_p_x.sizes) == {"chain": 1, "draw": 300, "image": 4}
    assert dict(inference_data.sample_stats.log_p_x_given_z.sizes) == {"chain": 1, "draw": 300, "image": 4}
    assert inference_data.posterior_predictive.x.dims == ("chain", "draw", "image", "channel", "row", "column")
    assert dict(inference_data.observed_data.x.sizes) == {"image": 4, "channel": 1, "row": 2, "column": 2}
    assert inference_data.constant_data.pareto_k.dims == ("image",)


def test_resampled_draws_follow_the_exact_posterior(inference_data):
    vae, _ = linear_gaussian()
    with torch.no_grad():
        exact = vae.encode(random_images(4).as_float())
    z = torch.from_numpy(inference_data.posterior.z.values[0])
    error = exact.stddev / 300**0.5
    assert bool(((z.mean(0) - exact.mean).abs() < 5 * error).all())
    torch.testing.assert_close(z.std(0), exact.stddev, rtol=0.25, atol=0)


@pytest.fixture(scope="module")
def az():
    matplotlib.use("Agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz
    return arviz


def before_1(az):
    return az.__version__.startswith("0.")


@pytest.mark.filterwarnings("ignore")  # ArviZ's own
def test_leaving_one_out_by_arviz_gives_log_p_x(inference_data, az):
    """An image's z is its own, so what predicts it without itself is p(x)."""
    _, truth = linear_gaussian()
    x = random_images(4).as_float()
    expected = truth.log_prob(x.flatten(1)).double()
    exact, errors = expected.sum().item(), inference_data.constant_data.log_evidence_mcse.values
    tolerance = 4 * float((errors**2).sum()) ** 0.5
    if before_1(az):
        loo = az.loo(inference_data, pointwise=True)
        total, effective, pointwise = loo.elpd_loo, loo.p_loo, loo.loo_i
        assert az.waic(inference_data).elpd_waic == pytest.approx(exact, abs=tolerance)
    else:  # as docs/howto/arviz.md says
        log_weights = 0 * inference_data.log_likelihood.log_p_x - math.log(300)
        loo = az.loo(
            inference_data, pointwise=True, log_weights=log_weights, pareto_k=inference_data.constant_data.pareto_k
        )
        total, effective, pointwise = loo.elpd, loo.p, loo.elpd_i
    assert total == pytest.approx(exact, abs=tolerance)
    assert effective == pytest.approx(0, abs=1e-6)
    assert (abs(pointwise.values - expected.numpy()) < 4 * errors).all()
    assert (errors < 0.1).all()
    # What a reader might have taken for it: the densities given an image's own z are far higher.
    given_z = inference_data.sample_stats.log_p_x_given_z.values
    assert given_z.mean() * 4 > exact + 5


@pytest.mark.filterwarnings("ignore")  # ArviZ's own
def test_arviz_takes_it(inference_data, az):
    summary = az.summary(inference_data, var_names=["z"], kind="stats")
    assert len(summary) == 8
    az.plot_pair(inference_data, var_names=["z"], coords={"image": 0})
    if before_1(az):
        az.plot_khat(inference_data.constant_data.pareto_k)
        az.plot_ppc(inference_data, num_pp_samples=20)
    else:
        az.plot_khat(inference_data.constant_data)
        az.plot_ppc_dist(inference_data, num_samples=20)
    matplotlib.pyplot.close("all")
