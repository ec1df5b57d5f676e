"""Uniform noise makes a density of pixels a bound on the probability of their levels."""

import json
import math

import pytest
import torch
from torch import nn

from pyro_vae import VAE, Images, Spec, build, evaluate, fit, fit_many, networks, posteriors, priors
from pyro_vae._utils.checks import InputError
from pyro_vae.cli.app import main
from pyro_vae.data import dequantize
from pyro_vae.data.batches import dequantized
from pyro_vae.evaluation import bounds, evidence, to_inference_data
from pyro_vae.likelihoods import ContinuousBernoulli
from pyro_vae.parts import kinds

CPU = {"device": "cpu"}
DENSITIES = ("continuous-bernoulli", "gaussian", "gaussian-learned", "gaussian-linear")


def levels(n=50, shape=(1, 4, 4)):
    return Images(torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8))


class Ignoring(nn.Module):
    """A decoder that puts out `logit` for every pixel, whatever z is."""

    def __init__(self, logit, shape=(1, 4, 4)):
        super().__init__()
        self.logit, self.shape = nn.Parameter(torch.tensor(float(logit))), shape

    def forward(self, z):
        return self.logit.expand(len(z), *self.shape)


def ignoring_z(logit):
    """Whose posterior is the prior, so that log p(x) is log p(x|z) whatever z is."""
    encoder = networks.mlp_encoder((1, 4, 4), 4, (4,))
    nn.init.zeros_(encoder[-1].weight)
    nn.init.zeros_(encoder[-1].bias)
    return VAE(encoder, Ignoring(logit), priors.StandardNormal(2), ContinuousBernoulli(), posteriors.DiagonalNormal(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_level_keeps_its_interval(dtype):
    pixels = torch.arange(256, dtype=torch.uint8)
    least, most = torch.zeros(256), torch.full((256,), 1 - 2**-24)
    for noise in (least, most, None):
        x = dequantized(pixels, dtype, noise)
        assert x.dtype == dtype
        assert torch.equal((256 * x).floor(), pixels.to(dtype))
        assert bool((x < 1).all())


def test_the_noise_is_uniform():
    torch.manual_seed(0)
    u = 256 * dequantized(torch.full((100_000,), 7, dtype=torch.uint8)) - 7
    assert u.mean().item() == pytest.approx(0.5, abs=0.004)
    assert u.var().item() == pytest.approx(1 / 12, rel=0.02)


def test_the_noise_of_evaluation_is_that_of_the_image_wherever_it_stands():
    images = levels()
    order = torch.randperm(50)
    assert torch.equal(dequantize(images)[order], dequantize(images.take(order)))
    assert torch.equal(dequantize(images)[7:20], dequantize(images.take(slice(7, 20))))


def test_uniform_noise_under_the_uniform_density_is_eight_bits_per_dimension():
    metrics = evaluate(ignoring_z(0.0), levels(), metrics=["bounds", "evidence"], k=30, dequantize=True, **CPU)
    assert metrics.nll_nats == pytest.approx(0, abs=1e-5)
    assert metrics.elbo_nats == pytest.approx(0, abs=1e-5)
    assert metrics.bits_per_dimension == pytest.approx(8, abs=1e-6)
    source = metrics.provenance["nll_nats"]
    assert "(level + u) / 256" in source["dequantized"]
    assert "log2 256 = 8" in source["bits_per_dimension_offset"]
    assert "bits_per_dimension_absent" not in source


def test_the_number_is_a_lower_bound_on_the_probability_of_the_levels():
    """Of one level, E log p((k + u) / 256) - log 256 <= log of the mass between its edges, by Jensen's inequality."""
    images, model = levels(400), ignoring_z(6.0)
    estimate = evidence(model, images, k=5, dequantize=True, **CPU)
    edges = ContinuousBernoulli()(torch.full((1, 1, 1), 6.0)).base_dist.cdf(torch.arange(257) / 256).flatten()
    exact = edges.diff().log()[images.pixels.long()].mean().item() / -math.log(2)
    assert exact < estimate.bits_per_dimension < exact + 0.01
    x = dequantize(images)
    assert estimate.nll_nats == pytest.approx(-model.decode(torch.zeros(2)).log_prob(x).mean().item(), abs=1e-4)
    assert bounds(model, images, dequantize=True, **CPU).reconstruction_nats == pytest.approx(
        estimate.nll_nats, abs=1e-4
    )


def test_what_arviz_sees_is_what_the_likelihood_saw():
    data = to_inference_data(ignoring_z(2.0), levels(3), draws=20, k=30, dequantize=True, **CPU)
    assert torch.equal(torch.from_numpy(data.observed_data.x.values), dequantize(levels(3)))
    exact = ContinuousBernoulli()(torch.full((1, 4, 4), 2.0)).log_prob(dequantize(levels(3)))
    assert data.constant_data.log_evidence.values == pytest.approx(exact.numpy(), abs=1e-4)


def test_codes_are_of_the_levels_themselves():
    metrics = evaluate(ignoring_z(2.0), levels(), dequantize=True, **CPU)
    assert "dequantized" in metrics.provenance["elbo_nats"]
    assert "dequantized" not in metrics.provenance["active_units"]


@pytest.mark.parametrize("likelihood", DENSITIES)
def test_every_density_trains_on_noised_pixels(digits, likelihood):
    images = digits.train.take(slice(0, 200))
    model = build(Spec(latent_dim=2, hidden=(32,), likelihood=likelihood, dequantize=True))
    history = fit(model, images, epochs=5, batch_size=50, lr=3e-3, dequantize=True, progress=False, **CPU)
    assert history.column("train_loss_nats")[-1] < history.column("train_loss_nats")[0]
    metrics = evaluate(model, images.take(slice(0, 80)), metrics=["bounds", "evidence"], k=200, dequantize=True, **CPU)
    assert metrics.nll_nats < -metrics.elbo_nats + 3 * metrics.elbo_se
    assert metrics.bits_per_dimension == pytest.approx(metrics.nll_nats / 64 / math.log(2) + 8)
    assert metrics.bits_per_dimension > 0


def test_the_noise_of_training_is_drawn_anew_and_the_same_in_every_backend(tiny):
    seen, losses = [], []
    for how in ("off", "capture"):
        model = build(Spec(latent_dim=2, hidden=(8,), likelihood="gaussian"))
        history = fit(
            model, tiny, epochs=3, batch_size=12, dequantize=True, compile=how, lr=1e-9, progress=False, **CPU
        )
        losses.append(history.column("train_loss_nats"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    model = build(Spec(latent_dim=2, hidden=(8,), likelihood="gaussian"))
    model.encoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].clone()))
    fit(model, tiny.take(slice(0, 1)), epochs=2, dequantize=True, compile="off", progress=False, **CPU)
    batches = [x for x in seen if x.shape[0] == 1][-2:]
    assert not torch.equal(*batches)
    assert all(torch.equal((256 * x).floor(), tiny.pixels[:1].float()) for x in batches)


def test_many_seeds_are_the_runs_of_each(digits):
    images = digits.train.take(slice(0, 40))
    spec = Spec(
        latent_dim=2, hidden=(8,), epochs=2, batch_size=8, likelihood="gaussian", dequantize=True, compile="capture"
    )
    for seed, (_, history) in zip([3, 4], fit_many(spec, images, seeds=[3, 4], progress=False, **CPU), strict=True):
        alone, held_out = images.split(0.1, seed)
        model = build(Spec(**(spec.to_dict() | {"seed": seed, "image_shape": images.shape})))
        expected = fit(
            model,
            alone,
            validation=held_out,
            epochs=2,
            batch_size=8,
            dequantize=True,
            compile="capture",
            seed=seed,
            progress=False,
            **CPU,
        )
        assert history.column("train_loss_nats") == pytest.approx(expected.column("train_loss_nats"), rel=1e-5)


def test_the_command_line(tmp_path, capsys):
    run = tmp_path / "run"
    common = ["--epochs", "1", "--hidden", "8", "--latent-dim", "2", "--quiet"]
    assert main(["train", "--likelihood", "gaussian-learned", "--dequantize", "--out", str(run), *common]) == 0
    assert json.loads((run / "spec.json").read_text())["dequantize"] is True
    assert main(["train", "--resume", "--out", str(run), "--epochs", "2", "--quiet"]) == 0
    assert main(["evaluate", str(run), "--metrics", "evidence", "--k", "5", "--evidence-images", "20", "--quiet"]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["bits_per_dimension"] == pytest.approx(metrics["nll_nats"] / 64 / math.log(2) + 8)
    assert "dequantized" in metrics["provenance"]["elbo_nats"]
    assert main(["train", "--resume", "--no-dequantize", "--out", str(run), "--quiet"]) == 2
    assert "dequantize: given False, expected True, as in the run" in capsys.readouterr().err
    assert main(["train", "--dequantize", "--out", str(tmp_path / "other"), *common]) == 2
    assert "dequantize: given True, expected False, or a likelihood" in capsys.readouterr().err


@pytest.mark.parametrize("likelihood", [name for name in kinds("likelihood") if name not in DENSITIES])
def test_other_likelihoods_take_no_noise(tiny, likelihood):
    with pytest.raises(InputError, match="dequantize: given True, expected False, or a likelihood whose"):
        build(Spec(likelihood=likelihood, dequantize=True))
    model = build(Spec(likelihood=likelihood))
    for call in (
        lambda: fit(model, tiny, epochs=1, dequantize=True, **CPU),
        lambda: bounds(model, tiny, dequantize=True, **CPU),
        lambda: evidence(model, tiny, dequantize=True, **CPU),
        lambda: evaluate(model, tiny, dequantize=True, **CPU),
        lambda: evaluate(model, tiny, metrics=["codes"], dequantize=True, **CPU),
        lambda: to_inference_data(model, tiny, dequantize=True, **CPU),
    ):
        with pytest.raises(InputError, match='dequantize: given True.*"unit interval"'):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Spec(dequantize="yes"), "dequantize: given 'yes', expected True or False"),
        (lambda: Spec(dequantize=1), "dequantize: given 1"),
        (lambda: Spec(likelihood="gaussian", dequantize=True, binarization="static"), "binarization static"),
        (lambda: Spec.parse({"dequantize": "maybe"}), "dequantize: given 'maybe', expected one of true, false"),
        (lambda: bounds(ignoring_z(0.0), levels(), dequantize="yes"), "dequantize: given 'yes'"),
        (lambda: bounds(ignoring_z(0.0), levels(), dequantize=True, binarization="dynamic"), "binarization 'dynamic'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
