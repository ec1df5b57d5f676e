"""Models of several stochastic layers: inferred upwards (hierarchical), and from the top down (ladder)."""

import copy
import math
from dataclasses import replace

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_vae import VAE, Spec, build, fit, fit_many, load, networks, posteriors, priors, save
from pyro_vae._utils.checks import InputError
from pyro_vae.models.hierarchical import Hierarchical
from pyro_vae.models.ladder import Ladder, merged
from pyro_vae.objectives import MeanFieldELBO, objective, resolved
from pyro_vae.svi import CompiledSVI

QUIET = {"progress": False, "device": "cpu"}
NORMALIZED = {"kind": "mlp", "batch_norm": True, "activation": "leaky-relu"}
SMALL = {"latent_dim": 4, "hidden": (16, 12), "binarization": "threshold", "batch_size": 4, "epochs": 2}
SPECS = [
    Spec(model={"kind": "hierarchical", "upper": (3, 2)}, **SMALL),
    Spec(model={"kind": "hierarchical", "upper": (3,), "batch_norm": True}, network=NORMALIZED, **SMALL),
    Spec(model={"kind": "ladder", "upper": (3, 2)}, network=NORMALIZED, **SMALL),
    Spec(model={"kind": "ladder", "upper": (3, 2), "batch_norm": False}, **SMALL),
    Spec(model={"kind": "ladder", "upper": ()}, **SMALL),
    Spec(model={"kind": "ladder", "upper": (3, 2)}, network={"kind": "conv", "channels": (4, 6)}, **SMALL),
    Spec(model={"kind": "ladder"}, network={"kind": "conv", "channels": (4, 6), "batch_norm": True}, **SMALL),
]


@pytest.fixture(params=SPECS, ids=lambda spec: f"{spec.model} {spec.network}")
def spec(request):
    return request.param


def images(n):
    return (torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.3).float()


def latent_sites(model):
    trace = poutine.trace(model.model).get_trace(size=2)
    return [name for name, site in trace.nodes.items() if name.startswith("z") and site["type"] == "sample"]


# --- linear-Gaussian layers, whose evidence and posterior are exact ------------------------------------------------

DIM, PIXELS, NOISE = 2, 4, 0.1


class LinearNormal(nn.Module):
    """A diagonal normal around a linear map, with a fixed standard deviation."""

    def __init__(self, weight, bias, scale):
        super().__init__()
        self.weight, self.bias, self.scale = weight, bias, scale

    def forward(self, h):
        return pyro.distributions.Normal(h @ self.weight.T + self.bias, self.scale).to_event(1)


class Pixels(nn.Module):
    def forward(self, mean):
        return pyro.distributions.Normal(mean, NOISE**0.5).to_event(3)


def linear_layers():
    """p(z2) = N(0, I), p(z1|z2) = N(A z2 + a, s^2), p(x|z1) = N(W z1 + b, c), so that each pair (z1_j, z2_j) is on its
    own given x, and its posterior is two lines of algebra."""
    torch.manual_seed(3)
    w = torch.linalg.qr(torch.randn(PIXELS, DIM, dtype=torch.double)).Q * torch.tensor([0.8, 1.3])
    b, a = torch.randn(PIXELS, dtype=torch.double), torch.randn(DIM, dtype=torch.double)
    slope, scale = torch.tensor([0.7, -1.1], dtype=torch.double), torch.tensor([0.6, 0.9], dtype=torch.double)
    decoder = nn.Sequential(nn.Linear(DIM, PIXELS).double(), nn.Unflatten(-1, (1, 2, 2)))
    with torch.no_grad():
        decoder[0].weight.copy_(w)
        decoder[0].bias.copy_(b)
    return w, b, a, slope, scale, decoder


def exact(kind, shift=0.0):
    """A pair with the exact posterior, or one whose means are shifted; log p(x); and the exact p(z1, z2 | x)."""
    w, b, a, slope, scale, decoder = linear_layers()
    squared = w.square().sum(0)
    eye, diagonal = torch.eye(DIM, dtype=torch.double), torch.diag(slope)
    downwards = LinearNormal(diagonal, a, scale)
    # p(z1) = N(a, slope^2 + s^2); p(x) = N(W a + b, W diag(..) W' + c)
    variance = slope.square() + scale.square()
    evidence = MultivariateNormal(w @ a + b, w @ torch.diag(variance) @ w.T + NOISE * torch.eye(PIXELS).double())
    joint = torch.cat([torch.cat([torch.diag(variance), diagonal], 1), torch.cat([diagonal, eye], 1)])
    to_pixels = torch.cat([w, torch.zeros(PIXELS, DIM).double()], 1)
    gain = joint @ to_pixels.T @ torch.linalg.inv(to_pixels @ joint @ to_pixels.T + NOISE * torch.eye(PIXELS).double())

    def posterior(x):
        mean = torch.cat([a, torch.zeros(DIM).double()]) + (x.flatten(1) - evidence.mean) @ gain.T
        return MultivariateNormal(mean, joint - gain @ to_pixels @ joint)

    def layer(variance_of):  # of one layer of the posterior given x, mean and log variance
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2 * DIM).double())
        rows = slice(0, DIM) if variance_of == "z1" else slice(DIM, 2 * DIM)
        start = a if variance_of == "z1" else torch.zeros(DIM).double()
        with torch.no_grad():
            encoder[1].weight.copy_(torch.cat([gain[rows], torch.zeros(DIM, PIXELS)]))
            mean = start - gain[rows] @ evidence.mean + shift
            encoder[1].bias.copy_(torch.cat([mean, (joint - gain @ to_pixels @ joint).diagonal()[rows].log()]))
        return encoder

    if kind == "hierarchical":
        pair = Hierarchical(layer("z1"), decoder, Pixels(), posteriors.DiagonalNormal(DIM), DIM, (DIM,)).double()
        # p(z2|z1) = N(slope (z1 - a) / (slope^2 + s^2), s^2 / (slope^2 + s^2))
        pair.upwards[0] = LinearNormal(torch.diag(slope / variance), -slope * a / variance, scale / variance.sqrt())
    else:
        pair = Ladder(nn.Flatten(), decoder, Pixels(), DIM, (PIXELS,), (DIM,), batch_norm=False).double()
        pair.upwards = nn.ModuleList([nn.Identity(), nn.Identity()])
        # As a function of z1, p(x|z1) is N(z1; W'(x - b) / |w|^2, c / |w|^2).
        likelihood = nn.Linear(PIXELS, 2 * DIM).double()
        with torch.no_grad():
            likelihood.weight.copy_(torch.cat([w.T / squared[:, None], torch.zeros(DIM, PIXELS)]))
            likelihood.bias.copy_(torch.cat([-(w.T @ b) / squared, (NOISE / squared).log()]))
        pair.estimates = nn.ModuleList([likelihood, layer("z2")[1]])
    pair.downwards[0] = downwards
    return pair, evidence, posterior


def log_weights(pair, x):
    """log p(x, z) - log q(z|x) of each image at a draw, and the draw."""
    guide = poutine.trace(pair.guide).get_trace(x)
    model = poutine.trace(poutine.replay(pair.model, guide)).get_trace(x)
    guide.compute_log_prob()
    model.compute_log_prob()
    z = torch.cat([guide.nodes[name]["value"] for name in ("z1", "z2")], -1)
    q = sum(guide.nodes[name]["log_prob"] for name in ("z1", "z2"))
    return sum(model.nodes[name]["log_prob"] for name in ("z1", "z2", "x")) - q, q, z


@pytest.mark.parametrize("kind", ["hierarchical", "ladder"])
def test_the_exact_posterior_is_within_reach_and_gives_the_evidence(kind):
    pair, evidence, _ = exact(kind)
    x = torch.randn(5, 1, 2, 2, dtype=torch.double)
    torch.testing.assert_close(log_weights(pair, x)[0], evidence.log_prob(x.flatten(1)))


@pytest.mark.parametrize("kind", ["hierarchical", "ladder"])
def test_the_bound_lacks_the_divergence_to_the_posterior(kind):
    """log p(x) = log p(x, z) / q(z|x) + log q(z|x) / p(z|x) at each z, and so ELBO + KL = log p(x)."""
    pair, evidence, posterior = exact(kind, shift=0.4)
    x = torch.randn(5, 1, 2, 2, dtype=torch.double)
    log_weight, log_q, z = log_weights(pair, x)
    assert (log_weight - evidence.log_prob(x.flatten(1))).abs().min() > 1e-3
    divergence = log_q - posterior(x).log_prob(z)
    torch.testing.assert_close(log_weight + divergence, evidence.log_prob(x.flatten(1)))


def test_the_closed_kl_of_a_ladder_is_the_mean_of_the_sampled_one():
    pair, _, _ = exact("ladder", shift=0.4)
    x = torch.randn(3, 1, 2, 2, dtype=torch.double)
    options = {"num_particles": 4000, "vectorize_particles": True, "max_plate_nesting": 1}
    with torch.no_grad():
        losses = [elbo(**options).loss(pair.model, pair.guide, x) for elbo in (Trace_ELBO, MeanFieldELBO)]
    assert losses[0] == pytest.approx(losses[1], abs=0.3)


def test_merging_multiplies_two_normals():
    generator = torch.Generator().manual_seed(0)
    loc, scale = torch.randn(2, 5, 3, generator=generator), torch.rand(2, 5, 3, generator=generator) + 0.1
    p, q = (pyro.distributions.Normal(*values).to_event(1) for values in zip(loc, scale, strict=True))
    z = torch.randn(7, 5, 3, generator=generator)
    constant = p.log_prob(z) + q.log_prob(z) - merged(p, q).log_prob(z)
    torch.testing.assert_close(constant, constant[:1].expand(7, 5))


def test_an_estimate_without_precision_leaves_the_prior():
    """And one of variances that float32 can't invert is no nan."""
    p, vague = (pyro.distributions.Normal(torch.zeros(2), torch.tensor(scale)).to_event(1) for scale in (1.0, 1e18))
    torch.testing.assert_close(merged(p, vague).variance, p.variance)
    sharp = pyro.distributions.Normal(torch.ones(2), torch.tensor(1e-15)).to_event(1)
    assert merged(p, sharp).mean.tolist() == [1.0, 1.0]


def test_one_layer_is_a_vae():
    pair = build(SPECS[4])
    encoder = nn.Sequential(pair.encoder, pair.upwards[0], pair.estimates[0])
    vae = VAE(encoder, pair.decoder, priors.StandardNormal(4), pair.likelihood, posteriors.DiagonalNormal(4))
    losses = []
    for model in (pair, vae):
        torch.manual_seed(0)
        losses.append(Trace_ELBO().loss(model.model, model.guide, images(6)))
    assert losses[0] == losses[1]


# --- every model of several layers ---------------------------------------------------------------------------------


def test_sites_and_shapes_of_the_prior_predictive(spec):
    model = build(spec).eval()
    sites = latent_sites(model)
    assert sites == [f"z{layer}" for layer in range(len(sites), 0, -1)]
    draws = Predictive(model.model, num_samples=3)(size=5)
    assert draws["x"].shape == (3, 5, 1, 8, 8)
    assert draws["z1"].shape == (3, 5, 4)


def test_each_parameter_has_a_gradient_and_is_in_the_param_store(spec):
    model, x = build(spec), images(6)
    elbo = objective(model.default_objective)
    elbo.loss_and_grads(model.model, model.guide, x)
    without = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    assert without == []
    assert {id(value) for value in pyro.get_param_store().values()} == {id(value) for value in model.parameters()}


def test_particles_in_an_outer_plate_are_as_many_runs(spec):
    """Networks flatten what is before the images; batch normalization would else take particles for images."""
    model, x = build(spec).eval(), images(6)
    with poutine.trace() as trace, pyro.plate("particles", 7, dim=-2):
        model.guide(x)
    values = {name: trace.trace.nodes[name]["value"] for name in latent_sites(model)}
    assert {tuple(value.shape[:-1]) for value in values.values()} == {(7, 6)}
    program = poutine.condition(model.model, data={name: value[2] for name, value in values.items()})
    single = poutine.trace(program).get_trace(x).log_prob_sum()
    with pyro.plate("particles", 7, dim=-2):
        together = poutine.trace(poutine.condition(model.model, data=values)).get_trace(x)
    together.compute_log_prob()
    each = sum(together.nodes[name]["log_prob"][2].sum() for name in (*values, "x"))
    torch.testing.assert_close(each, single, rtol=1e-5, atol=1e-3)


def test_an_image_is_scored_alike_in_any_batch(spec):
    model, x = build(spec), images(6)
    model.model(x)  # a training step moves the running means
    model.eval()
    whole, some = (poutine.trace(model.guide).get_trace(batch) for batch in (x, x[:2]))
    first = next(name for name, site in whole.nodes.items() if name.startswith("z") and site["type"] == "sample")
    for attribute in ("mean", "variance"):
        of_whole, of_some = (getattr(trace.nodes[first]["fn"], attribute) for trace in (whole, some))
        torch.testing.assert_close(of_some, of_whole[:2])


def test_the_captured_step_is_the_eager_one(spec):
    x, losses = images(8), {}
    for kind in (SVI, CompiledSVI):
        model = build(spec).train()
        torch.manual_seed(0)
        pyro.clear_param_store()
        elbo = objective(model.default_objective)
        svi = kind(model.model, model.guide, pyro.optim.Adam({"lr": 1e-3}), elbo)
        losses[kind] = [svi.step(x) for _ in range(5)]
        if kind is CompiledSVI:
            assert svi.signatures == 1
    assert losses[CompiledSVI] == pytest.approx(losses[SVI], rel=1e-5)


def test_saved_and_loaded_it_is_the_same(spec, tiny, tmp_path):
    model = build(spec)
    fit(model, tiny, **QUIET)
    again = load(save(model, tmp_path / "weights.safetensors"))
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert again.spec.model == spec.model


def test_resumed_it_is_bit_for_bit_the_same(spec, tiny, tmp_path):
    whole, halves = build(spec), [build(spec), build(spec)]
    options = {**QUIET, "beta_warmup": 2, "epochs": 4, "validation": tiny}
    fit(whole, tiny, **options)
    fit(halves[0], tiny, **{**options, "epochs": 2}, checkpoint=tmp_path)
    fit(halves[1], tiny, **options, checkpoint=tmp_path, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(halves[1].state_dict()[name], value), name


def test_it_learns(digits):
    for spec in (SPECS[0], SPECS[2]):
        model = build(replace(spec, epochs=8, batch_size=64, lr=5e-3))
        epochs = fit(model, digits.train, **QUIET).epochs
        assert epochs[-1].train_loss_nats < epochs[1].train_loss_nats - 1


def test_float64_and_copies():
    model = build(SPECS[2]).double()
    x = images(4).double()
    assert poutine.trace(model.guide).get_trace(x).nodes["z1"]["value"].dtype == torch.float64
    assert copy.deepcopy(model).prefix != model.prefix


# --- free bits, and what needs the order of the layers ---------------------------------------------------------------


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_free_bits_of_a_layer_are_the_maximum_of_its_mean(beta):
    model, x = build(SPECS[3]), images(6)
    closed = {}
    torch.manual_seed(0)
    guide = poutine.trace(model.guide).get_trace(x)
    program = poutine.trace(poutine.replay(model.model, guide)).get_trace(x)
    for name in latent_sites(model):
        q, p = guide.nodes[name]["fn"], program.nodes[name]["fn"]
        closed[name] = float(torch.distributions.kl_divergence(q.base_dist, p.base_dist).sum(-1).mean().detach())
    threshold = sum(closed.values()) / 3
    losses = []
    for free_bits in (threshold, 0.0):
        torch.manual_seed(0)
        elbo = MeanFieldELBO(free_bits=free_bits, free_bits_per="site")
        losses.append(elbo.loss(model.model, model.guide, x, beta))
    expected = beta * 6 * sum(max(threshold - kl, 0) for kl in closed.values())
    assert expected > 0.01
    assert losses[0] - losses[1] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_a_closed_kl_is_refused_for_layers_inferred_upwards(tiny):
    model = build(SPECS[0])
    message = "mean-field with a guide that draws z1, z2, z3', expected elbo, .* of the model, z3, z2, z1"
    with pytest.raises(InputError, match=message):
        fit(model, tiny, objective="mean-field", **QUIET)
    with pytest.raises(InputError, match=message):
        MeanFieldELBO().loss(model.model, model.guide, images(2))
    assert resolved("auto", model, tiny) == "elbo"
    assert resolved("auto", build(SPECS[2]), tiny) == "mean-field"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build(Spec(model={"kind": "ladder", "upper": (3, 0)})), "model.upper: given 0, expected a whole"),
        (lambda: build(Spec(model={"kind": "hierarchical", "upper": 3})), "model.upper: given 3, expected a list"),
        (
            lambda: build(Spec(model={"kind": "ladder", "upper": (3, 2), "upper_hidden": (8,)})),
            r"model.upper_hidden: given \(8,\), expected 2 whole numbers",
        ),
        (lambda: build(Spec(model={"kind": "ladder", "activation": "rel"})), "model.activation: given 'rel'.*'relu'"),
        (lambda: build(Spec(model={"kind": "ladder", "batch_norm": 1})), "model.batch_norm: given 1, expected True"),
        (lambda: build(Spec(model={"kind": "hierarchical", "batch_norm": 1})), "model.batch_norm: given 1"),
        (lambda: build(Spec(network={"kind": "mlp", "batch_norm": 1})), "network.batch_norm: given 1"),
        (lambda: build(Spec(model="ladder", hidden=())), r"hidden: given \(\), expected at least one layer"),
        (lambda: Spec(model={"kind": "ladder", "layers": 3}), "model.layers: given 3, expected an option of ladder"),
        (lambda: build(SPECS[0]).model(), "size: given None"),
        (lambda: build(SPECS[2]).guide(torch.zeros(2, 64)), "x: given"),
        (lambda: build(SPECS[0]).guide(torch.zeros(2, 64)), "x: given"),
        (
            lambda: MeanFieldELBO(free_bits=1.0, free_bits_per="layer"),
            "free_bits_per: given 'layer', expected one of dimension, site",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_batch_normalization_needs_two_images_and_one_training(tiny):
    with pytest.raises(
        InputError, match="batch_size: given 11, expected one that leaves no batch of a single image of 12"
    ):
        fit(build(replace(SPECS[2], batch_size=11)), tiny, **QUIET)
    fit(build(replace(SPECS[3], batch_size=11)), tiny, **QUIET)
    with pytest.raises(InputError, match="spec: given 'a model with batch normalization', expected one without"):
        fit_many(SPECS[2], tiny, seeds=[0, 1], progress=False)


# --- networks with batch normalization -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_normalized_networks_have_a_norm_before_each_activation_and_no_bias_before_it(kind):
    model = build(Spec(network={"kind": kind, "batch_norm": True}, hidden=(8, 8), latent_dim=2))
    for body in (model.encoder, model.decoder):
        layers = [layer for layer in body if not isinstance(layer, nn.Flatten | nn.Unflatten)]
        norms = [i for i, layer in enumerate(layers) if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        activations = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Tanh | nn.ReLU)]
        assert [i + 1 for i in norms] == activations
        assert activations
        assert all(layers[i - 1].bias is None for i in norms)
        assert layers[-1].bias is not None


def test_a_leaky_rectifier_lets_a_tenth_through():
    assert networks.activation_of("leaky-relu")()(torch.tensor([-1.0, 2.0])).tolist() == pytest.approx([-0.1, 2.0])
    assert math.isclose(networks.activation_of("leaky-relu")().negative_slope, 0.1)
