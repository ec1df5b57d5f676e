"""One contract for every model x network x likelihood x posterior, and the graphical model against closed forms."""

import copy
import itertools
import math

import pyro
import pyro.contrib.autoname
import pytest
import torch
from linear_gaussian import linear_gaussian
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO

from pyro_vae import Autoencoder, Spec, build, likelihoods, load, save
from pyro_vae._utils.checks import InputError
from pyro_vae.models.base import check_fits
from pyro_vae.parts import kinds

NETWORKS = ("mlp", {"kind": "conv", "channels": (4, 8)})
SPECS = [
    Spec(
        model=model,
        network=network,
        likelihood=likelihood,
        posterior=posterior,
        latent_dim=3,
        hidden=(16,),
    )
    for model, network, likelihood, posterior in itertools.product(
        ("vae",), NETWORKS, kinds("likelihood"), kinds("posterior")
    )
] + [
    Spec(model="autoencoder", network=network, likelihood=likelihood, latent_dim=3, hidden=(16,))
    for network, likelihood in itertools.product(NETWORKS, kinds("likelihood"))
]
SPECS += [
    Spec(prior="laplace", posterior="laplace", latent_dim=3, hidden=(16,)),
    Spec(prior="uniform", posterior="uniform", latent_dim=3, hidden=(16,)),
    Spec(model="vae-prior-at-start", posterior="planar", latent_dim=3, hidden=(16,)),
    Spec(model="vae-prior-at-start", posterior="conditional-planar", latent_dim=3, hidden=(16,)),
]


@pytest.mark.parametrize(
    "spec", SPECS, ids=lambda spec: f"{spec.model}-{spec.network}-{spec.likelihood}-{spec.posterior}-{spec.prior}"
)
def test_contract(spec, tmp_path):
    model = build(spec)
    x = torch.rand(5, 1, 8, 8).round()

    q = model.encode(x)
    assert (q.batch_shape, q.event_shape) == ((5,), (3,))
    p = model.decode(torch.randn(2, 5, 3))
    assert (p.batch_shape, p.event_shape) == ((2, 5), (1, 8, 8))
    assert model.reconstruct(x).shape == x.shape
    if spec.likelihood != "gaussian-linear":
        assert bool((model.reconstruct(x) >= 0).all() & (model.reconstruct(x) <= 1).all())
    if spec.model != "autoencoder":
        assert model.sample(4).shape == (4, 1, 8, 8)

    loss = Trace_ELBO().differentiable_loss(model.model, model.guide, x)
    loss.backward()
    assert math.isfinite(loss.item())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert parameter.grad.abs().sum() > 0, name
    with_parameters = {name.split(".")[0] for name, _ in model.named_parameters()}
    expected = {f"{model.prefix}.{name}" for name in with_parameters}
    assert {name.split("$$$")[0] for name in pyro.get_param_store()} == expected

    loaded = load(save(model, tmp_path / "model.safetensors"))
    assert loaded.spec == spec
    torch.testing.assert_close(loaded.reconstruct(x), model.reconstruct(x), rtol=0, atol=0)
    for part in dict(model.named_children()):
        assert part in repr(model)


@pytest.mark.parametrize("spec", SPECS[:3], ids=lambda spec: spec.posterior)
def test_plain_pyro(spec):
    """SVI, Predictive and handlers take the pair as they take any other."""
    model = build(spec)
    x = torch.rand(6, 1, 8, 8).round()
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    samples = Predictive(model.model, guide=model.guide, num_samples=7)(x)
    assert samples["z"].shape == (7, 6, 3)
    with poutine.trace() as recorded, poutine.block(hide=["x"]):
        model.model(x)
    assert "z" in recorded.trace.nodes
    assert "x" not in recorded.trace.nodes


def test_two_models_train_in_one_param_store():
    """Each as it trains alone; the weights of the second, and of a copy, are not those of the first."""
    x = torch.rand(20, 1, 8, 8).round()

    def trained(model, *others):
        svis = [SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()) for pair in (model, *others)]
        for step in range(3):
            for svi in svis:
                torch.manual_seed(step)
                svi.step(x)
        return model.state_dict()

    def models():
        first, second = (build(Spec(latent_dim=2, hidden=(8,), seed=seed)) for seed in (1, 2))
        return [first, second, copy.deepcopy(first)]

    alone = []
    for model in models():
        with pyro.get_param_store().scope():
            alone.append(trained(model))
    together = models()
    trained(*together)
    for model, expected in zip(together, alone, strict=True):
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
    assert not torch.equal(together[0].encoder.state_dict()["1.weight"], together[1].encoder.state_dict()["1.weight"])


def test_two_models_in_one_trace():
    first, second = (build(Spec(latent_dim=2, seed=seed)) for seed in (1, 2))

    def both():
        for name, model in (("first", first), ("second", second)):
            with pyro.contrib.autoname.scope(prefix=name):
                model.model(size=4)

    nodes = poutine.trace(both).get_trace().nodes
    assert {"first/z", "first/x", "second/z", "second/x"} <= nodes.keys()
    assert nodes["first/x"]["value"].shape == (4, 1, 8, 8)


def test_the_prior_predictive_has_the_moments_of_the_evidence():
    vae, evidence = linear_gaussian()
    n = 40_000
    for parallel in (False, True):
        torch.manual_seed(0)
        draws = Predictive(vae.model, num_samples=2, parallel=parallel)(size=n)
        assert draws["z"].shape == (2, n, 2)
        assert draws["x"].shape == (2, n, 1, 2, 2)
        x = draws["x"].detach().reshape(2 * n, 4)
        error = (evidence.variance / (2 * n)).sqrt()
        assert bool(((x.mean(0) - evidence.mean).abs() < 4.5 * error).all())
        torch.testing.assert_close(x.T.cov(), evidence.covariance_matrix, atol=0.03, rtol=0)
    torch.manual_seed(0)
    drawn = vae.model(None, size=5)
    torch.manual_seed(0)
    assert torch.equal(drawn, vae.model(size=5, beta=0.5))


def test_beta_is_the_second_argument():
    vae, _ = linear_gaussian()
    x = torch.randn(3, 1, 2, 2)
    scales = [poutine.trace(vae.model).get_trace(x, *beta).nodes["z"]["scale"] for beta in ((), (0.5,))]
    assert scales == [1.0, 0.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "size: given None, expected a whole number of at least 1"),
        ({"size": 0}, "size: given 0"),
        ({"x": torch.rand(3, 1, 8, 8), "size": 2}, "size: given 2, expected None, or 3, the images of x"),
    ],
)
def test_sizes_that_do_not_fit(arguments, message):
    with pytest.raises(InputError, match=message):
        build(Spec(latent_dim=2)).model(**arguments)


def test_with_the_exact_posterior_every_elbo_sample_is_the_evidence():
    vae, evidence = linear_gaussian()
    x = torch.randn(20, 1, 2, 2)
    expected = -evidence.log_prob(x.flatten(1)).sum().item()
    assert Trace_ELBO().loss(vae.model, vae.guide, x) == pytest.approx(expected, rel=1e-4)
    # In closed form only on average: z still moves the likelihood term.
    elbo = TraceMeanField_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
    assert elbo.loss(vae.model, vae.guide, x) == pytest.approx(expected, rel=0.01)


def test_with_another_posterior_the_elbo_is_lower_by_its_kl_to_the_exact_one():
    vae, evidence = linear_gaussian()
    x = torch.randn(5, 1, 2, 2)
    exact = vae.encode(x)
    exact = pyro.distributions.Normal(exact.base_dist.loc.detach(), exact.base_dist.scale.detach()).to_event(1)
    with torch.no_grad():
        vae.encoder[1].bias += torch.tensor([0.3, -0.2, 0.4, -0.4])
    gap = torch.distributions.kl_divergence(vae.encode(x), exact).sum().item()
    elbo = Trace_ELBO(num_particles=40_000, vectorize_particles=True, max_plate_nesting=1)
    loss = elbo.loss(vae.model, vae.guide, x)
    assert loss + evidence.log_prob(x.flatten(1)).sum().item() == pytest.approx(gap, rel=0.03)


@pytest.mark.parametrize("beta", [0.25, 4.0, torch.tensor(4.0)])
def test_beta_weighs_the_kl_term_alone(beta):
    vae = build(SPECS[0]).double()  # a small difference of large sums
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64).round()
    trace = poutine.trace(vae.guide).get_trace(x)
    losses = []
    for weight in (1.0, beta):
        guide = poutine.trace(poutine.replay(vae.guide, trace)).get_trace(x, weight)
        model = poutine.trace(poutine.replay(vae.model, trace)).get_trace(x, weight)
        losses.append(guide.log_prob_sum() - model.log_prob_sum())
    z = trace.nodes["z"]["value"]
    kl = (vae.encode(x).log_prob(z) - vae.prior().log_prob(z)).sum()
    torch.testing.assert_close(losses[1] - losses[0], (beta - 1) * kl)


def test_beta_zero_drops_the_kl_term():
    vae = build(SPECS[0])
    x = torch.rand(5, 1, 8, 8).round()
    pyro.set_rng_seed(0)
    loss = Trace_ELBO().loss(vae.model, vae.guide, x, beta=0)
    pyro.set_rng_seed(0)
    z = vae.encode(x).rsample()
    assert loss == pytest.approx(-vae.decode(z).log_prob(x).sum().item(), rel=1e-5)


def test_same_capacity():
    """The autoencoder has the VAE's networks, but for the outputs that would be variances."""
    vae, autoencoder = (build(Spec(model=name, latent_dim=3)) for name in ("vae", "autoencoder"))
    weights = [{name: value.shape for name, value in model.named_parameters()} for model in (vae, autoencoder)]
    differing = {name for name in weights[0] if weights[0][name] != weights[1].get(name)}
    assert differing == {"encoder.3.weight", "encoder.3.bias"}


def test_building_is_deterministic_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    first, second, other = (build(Spec(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first.encoder[1].weight, other.encoder[1].weight)


def test_bad_input_is_named(tiny, digits):
    vae = build(SPECS[0])
    autoencoder = Autoencoder(vae.encoder, vae.decoder, likelihoods.Bernoulli())
    for call, message in [
        (lambda: vae.encode(torch.zeros(8, 8)), r"x: given 'torch.float32 of shape \(8, 8\)'"),
        (lambda: vae.encode(tiny.pixels), "x: given 'torch.uint8"),
        (lambda: autoencoder.reconstruct(torch.zeros(1, 8, 8)), r"expected floats in \[0, 1\] of shape \(N, C, H, W\)"),
        (lambda: vae.sample(0), "n: given 0"),
        (lambda: build(Spec(dataset="my/images")), "image_shape: given None"),
        (lambda: check_fits(build(Spec(dataset="mnist")), tiny), r"images: given 'shape \(1, 8, 8\)'"),
    ]:
        with pytest.raises(InputError, match=message):
            call()


def test_an_autoencoder_has_nothing_to_draw_images_from():
    model = build(Spec(model="autoencoder", latent_dim=2))
    for call in (lambda: model.model(size=3), lambda: pyro.infer.Predictive(model.model, num_samples=2)(size=3)):
        with pytest.raises(InputError, match="^x: given None, expected images: an autoencoder has no prior"):
            call()


def test_a_file_of_weights_that_cannot_be_written_is_named():
    with pytest.raises(InputError, match="^path: given '/proc/nowhere/y', expected a file that can be written"):
        save(build(Spec(latent_dim=2)), "/proc/nowhere/y")
