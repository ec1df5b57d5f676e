"""The doubly reparameterized gradient of the importance-weighted bound, on a linear Gaussian pair."""

import dataclasses
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import RenyiELBO

from pyro_vae import Images, Spec, build, fit, fit_many
from pyro_vae._utils.checks import InputError
from pyro_vae.objectives import objective, with_objective
from pyro_vae.path_gradient import DReGIWAE, PathGradientELBO

QUIET = {"progress": False, "device": "cpu"}
NOISE, X = 0.8, 1.7
OFF = {"w": 1.5, "loc": 0.4, "scale": 0.7}  # the posterior is N(1.25, 0.47^2)


def flows(layers):
    return [{"kind": kind, "layers": layers} for kind in ("planar", "conditional-planar")]


def pair(values, copies, beta=1.0, plates=1.0):
    """z ~ N(0, 1), x ~ N(w z, NOISE^2), q(z) = N(loc, scale^2), for so many copies of one x."""

    def parameter(name):
        constraint = constraints.positive if name == "scale" else constraints.real
        return pyro.param(name, torch.tensor(values[name], dtype=torch.float64), constraint=constraint)

    def model():
        with pyro.poutine.scale(scale=plates), pyro.plate("data", copies):
            with pyro.poutine.scale(scale=beta):
                z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(parameter("w") * z, NOISE), obs=torch.full((copies,), X, dtype=torch.float64))

    def guide():
        with pyro.poutine.scale(scale=plates), pyro.plate("data", copies), pyro.poutine.scale(scale=beta):
            pyro.sample("z", dist.Normal(parameter("loc"), parameter("scale")))

    return model, guide


def gradient(elbo, values, copies, seed=0, **options):
    """The loss and its gradient by w, loc and log scale, each over `copies`."""
    pyro.clear_param_store()
    torch.manual_seed(seed)
    loss = elbo.loss_and_grads(*pair(values, copies, **options))
    return loss / copies, torch.stack([pyro.param(name).unconstrained().grad for name in values]) / copies


def estimator(kind, k):
    return kind(num_particles=k, vectorize_particles=k > 1, max_plate_nesting=1)


def exact(values, k, beta):
    """By Gauss-Hermite quadrature over the k draws: -E log 1/k sum_i p(x|z_i) (p(z_i) / q(z_i))^beta."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    nodes, weights = torch.from_numpy(nodes), torch.from_numpy(weights / math.sqrt(2 * math.pi))
    free = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in values.items()}
    scale = free["scale"]
    z = free["loc"] + scale * nodes
    ratio = dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(free["loc"], scale).log_prob(z)
    log_w = dist.Normal(free["w"] * z, NOISE).log_prob(torch.tensor(X)) + beta * ratio
    together = torch.stack(torch.meshgrid(*[log_w] * k, indexing="ij")).logsumexp(0) - math.log(k)
    shares = torch.stack(torch.meshgrid(*[weights] * k, indexing="ij")).prod(0)
    loss = -(shares * together).sum()
    loss.backward()
    by_scale = free["scale"].grad * values["scale"]  # of its logarithm, which is trained
    return loss.item(), torch.stack([free["w"].grad, free["loc"].grad, by_scale])


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("k", [2, 3])
def test_its_mean_is_the_gradient_of_the_bound(k, beta):
    expected, of_parameters = exact(OFF, k, beta)
    loss, mean = gradient(estimator(DReGIWAE, k), OFF, 400_000, beta=beta)
    assert loss == pytest.approx(expected, rel=0.01)
    torch.testing.assert_close(mean, of_parameters, rtol=0.02, atol=0.005)


@pytest.mark.parametrize("vectorized", [True, False])
def test_value_and_gradient_of_the_model_are_those_of_iwae(vectorized):
    results = []
    for kind in ({"alpha": 0}, {}):
        make = RenyiELBO if kind else DReGIWAE
        elbo = make(num_particles=4, vectorize_particles=vectorized, max_plate_nesting=1, **kind)
        results.append(gradient(elbo, OFF, 50, beta=1.5, plates=2.0))
    (loss, plain), (same, doubly) = results
    assert same == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(doubly[0], plain[0])
    assert (doubly[1:] - plain[1:]).abs().min() > 1e-3


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_with_one_particle_it_is_the_path_gradient(beta):
    doubly, path = (gradient(estimator(kind, 1), OFF, 20, beta=beta) for kind in (DReGIWAE, PathGradientELBO))
    assert doubly[0] == pytest.approx(path[0])
    torch.testing.assert_close(doubly[1], path[1])


def test_at_the_posterior_the_guides_gradient_has_no_noise():
    precision = 1 + OFF["w"] ** 2 / NOISE**2
    posterior = OFF | {"loc": OFF["w"] * X / NOISE**2 / precision, "scale": precision**-0.5}
    assert gradient(estimator(DReGIWAE, 8), posterior, 1)[1][1:].abs().max() < 1e-12
    plain = RenyiELBO(alpha=0, num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    assert gradient(plain, posterior, 1)[1][1:].abs().max() > 0.01


def test_the_signal_to_noise_ratio_rises_with_k_where_that_of_iwae_falls():
    """Rainforth et al., 2018: as 1 / sqrt K of the plain estimate of the guide's gradient; Tucker et al.: as sqrt K."""

    def ratio(make, k):
        draws = torch.stack([gradient(make(k), OFF, 1, seed)[1][1] for seed in range(400)])
        return (draws.mean().abs() / draws.std()).item()

    def plain(k):
        return RenyiELBO(alpha=0, num_particles=k, vectorize_particles=True, max_plate_nesting=1)

    def doubly(k):
        return estimator(DReGIWAE, k)

    assert ratio(plain, 64) < 0.5 * ratio(plain, 2)
    assert ratio(doubly, 64) > 2 * ratio(doubly, 2)
    assert ratio(doubly, 2) > ratio(plain, 2)


@pytest.mark.parametrize("posterior", ["normal", "laplace", *flows(2)], ids=str)
def test_of_a_vae_it_is_unbiased_whatever_the_posterior(tiny, posterior):
    """The same draws for both, so that their means differ by that of the score alone; copies of two images."""
    x, means = tiny.as_float().round()[:2].repeat(20_000, 1, 1, 1), []
    for name in ("iwae", "iwae-dreg"):
        model = build(Spec(latent_dim=2, hidden=(4,), posterior=posterior))
        pyro.clear_param_store()
        torch.manual_seed(0)
        objective(name, particles=3).loss_and_grads(model.model, model.guide, x)
        parts = {"encoder": [*model.encoder.parameters(), *model.posterior.parameters()]}
        parts["decoder"] = [*model.decoder.parameters()]
        means.append({part: torch.cat([param.grad.flatten() for param in own]) for part, own in parts.items()})
    plain, doubly = means
    torch.testing.assert_close(doubly["decoder"], plain["decoder"], rtol=1e-3, atol=1e-3 * plain["decoder"].norm())
    assert (doubly["encoder"] - plain["encoder"]).norm() < 0.05 * plain["encoder"].norm()
    assert not torch.equal(doubly["encoder"], plain["encoder"])


@pytest.mark.parametrize("compile", ["capture", "inductor"])
@pytest.mark.parametrize("posterior", ["normal", flows(1)[0]], ids=str)
def test_its_compiled_step_is_the_eager_one(tiny, posterior, compile):
    """Warnings, which would tell of a step that is not captured, are errors."""
    weights = {}
    for backend in ("off", compile):
        model = build(Spec(latent_dim=2, hidden=(16,), posterior=posterior))
        options = {"epochs": 2, "batch_size": 6, "objective": "iwae-dreg", "particles": 3, "beta": 1.5}
        fit(model, tiny, binarization="threshold", compile=backend, **options, **QUIET)
        weights[backend] = torch.cat([param.flatten() for param in model.parameters()])
    torch.testing.assert_close(weights["off"], weights[compile], rtol=1e-4, atol=1e-5)


def test_many_seeds_take_it(tiny):
    spec = Spec(latent_dim=2, hidden=(16,), epochs=2, batch_size=6, validation_fraction=0.0, binarization="threshold")
    spec = dataclasses.replace(spec, objective="iwae-dreg", particles=3, compile="capture")
    (_, first), _ = fit_many(spec, tiny, seeds=[0, 1], **QUIET)
    names = ("epochs", "batch_size", "objective", "particles", "binarization", "compile")
    alone = build(dataclasses.replace(spec, image_shape=tiny.shape))
    history = fit(alone, tiny, **{name: getattr(spec, name) for name in names}, **QUIET)
    assert first.column("train_loss_nats") == pytest.approx(history.column("train_loss_nats"), rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "particles: given 1, expected at least 2 for iwae-dreg; with 1 it is the path-gradient"),
        ({"particles": 2, "posterior": "uniform"}, "expected iwae: the support of a uniform posterior moves"),
        ({"particles": 2, "model": "autoencoder"}, "sites none .* expected iwae, unless the guide has exactly one"),
        (
            {"particles": 2, "model": "vae-prior-at-start", "posterior": "planar"},
            "sites z .* and misplaced_prior .* expected iwae, unless the guide has exactly one",
        ),
    ],
)
def test_what_it_is_not_for_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        with_objective(Spec(objective="iwae-dreg", **fields), Images(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)))


def discrete():
    pyro.sample("z", dist.Bernoulli(pyro.param("p", torch.tensor(0.3), constraint=constraints.unit_interval)))


def moving():
    pyro.sample("z", dist.Uniform(0.0, pyro.param("end", torch.tensor(0.3))))


def two_sites():
    loc = pyro.sample("loc", dist.Normal(pyro.param("a", torch.tensor(0.3)), 1.0))
    pyro.sample("z", dist.Normal(loc, 1.0))


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (
            discrete,
            r"iwae-dreg with the sites none \(reparameterized\) and z \(not\)', expected iwae, unless the guide has",
        ),
        (two_sites, r"with the sites loc, z \(reparameterized\) and none \(not\)"),
        (moving, "given 'iwae-dreg', expected iwae for a Uniform, whose support moves with its parameters"),
    ],
)
def test_other_guides_are_refused(guide, message):
    with pytest.raises(InputError, match=message):
        DReGIWAE(num_particles=2, vectorize_particles=True, max_plate_nesting=0).loss_and_grads(guide, guide)
