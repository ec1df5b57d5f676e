"""The path gradient, and what the objective `auto` stands for."""

import dataclasses
import itertools
import json
import math
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_value,
)
from torch import nn
from torch.distributions import constraints, kl_divergence

from pyro_vae import VAE, Images, Spec, build, fit, fit_many
from pyro_vae._utils.checks import InputError
from pyro_vae.experiments.run import run
from pyro_vae.objectives import Terms, objective, resolved, with_objective
from pyro_vae.parts import kinds
from pyro_vae.path_gradient import PathGradientELBO, along_the_path, slope
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.svi import CompiledSVI
from pyro_vae.training.checkpoint import read_checkpoint, write_checkpoint

QUIET = {"progress": False, "device": "cpu"}
W, NOISE, X = 1.5, 0.8, torch.tensor([0.7, -1.2, 2.0])
PRECISION = 1 + W**2 / NOISE**2  # of the posterior of z, whose mean is W x / NOISE^2 / PRECISION
POSTERIOR = {"slope": W / NOISE**2 / PRECISION, "offset": 0.0, "scale": PRECISION**-0.5}


def flows(layers):
    return [{"kind": kind, "layers": layers} for kind in ("planar", "conditional-planar")]


def linear_gaussian(guide):
    """z ~ N(0, 1), x ~ N(W z, NOISE^2), and q(z|x) = N(slope x + offset, scale^2)."""

    def model():
        with pyro.plate("data", len(X)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(W * z, NOISE), obs=X)

    def programmed():
        params = {
            name: pyro.param(name, torch.tensor(value), constraint=dist.constraints.positive)
            if name == "scale"
            else pyro.param(name, torch.tensor(value))
            for name, value in guide.items()
        }
        with pyro.plate("data", len(X)):
            pyro.sample("z", dist.Normal(params["slope"] * X + params["offset"], params["scale"]))

    return model, programmed


def gradients(kind, guide, particles, seed=0):
    pyro.clear_param_store()
    torch.manual_seed(seed)
    elbo = kind(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
    loss = elbo.loss_and_grads(*linear_gaussian(guide))
    return loss, {name: pyro.param(name).unconstrained().grad.item() for name in guide}


def test_the_mean_of_the_path_gradient_is_the_gradient_of_the_elbo():
    """Of the linear Gaussian pair in closed form: -ELBO = E (x - W z)^2 / (2 NOISE^2) + KL + constant."""
    guide = {"slope": 0.3, "offset": 0.5, "scale": 0.9}
    free = {name: torch.tensor(value, requires_grad=True) for name, value in guide.items()}
    loc = free["slope"] * X + free["offset"]
    q = dist.Normal(loc, free["scale"])
    squares = (X - W * loc).square() + W**2 * free["scale"] ** 2
    (squares / (2 * NOISE**2) + kl_divergence(q, dist.Normal(0.0, 1.0))).sum().backward()
    expected = {name: value.grad.item() for name, value in free.items()}
    expected["scale"] *= guide["scale"]  # of its logarithm, which is trained
    _, mean = gradients(PathGradientELBO, guide, 200_000)
    assert mean == pytest.approx(expected, rel=0.02, abs=0.05)


def test_at_the_posterior_the_path_gradient_has_no_noise():
    for seed in range(5):
        assert gradients(PathGradientELBO, POSTERIOR, 1, seed)[1] == pytest.approx(
            dict.fromkeys(POSTERIOR, 0), abs=1e-5
        )
    noisy = gradients(Trace_ELBO, POSTERIOR, 1)[1]
    assert max(map(abs, noisy.values())) > 0.1


@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"posterior": "laplace"},
        {"posterior": "planar"},
        {"posterior": "conditional-planar"},
        {"posterior": "planar", "model": "vae-prior-at-start"},
        {"model": "autoencoder"},
    ],
)
def test_its_loss_is_that_of_the_elbo_and_so_is_the_gradient_of_the_decoder(tiny, options, beta):
    x, losses, decoders = tiny.as_float().round(), [], []
    for name in ("elbo", "path-gradient"):
        model = build(Spec(latent_dim=3, hidden=(8,), **options))
        torch.manual_seed(0)
        losses.append(objective(name, particles=3).loss_and_grads(model.model, model.guide, x, beta))
        decoders.append(torch.cat([param.grad.flatten() for param in model.decoder.parameters()]))
    assert losses[0] == losses[1]
    torch.testing.assert_close(*decoders)


@pytest.mark.parametrize("posterior", ["planar", "conditional-planar"])
def test_the_slope_of_a_flow_is_that_of_its_density(posterior):
    """By the chain rule with the whole Jacobian: slope = J^-T (slope of log q_0 - log|det J|, as functions of z_0)."""
    model = build(Spec(latent_dim=3, hidden=(8,), posterior={"kind": posterior, "layers": 3})).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.posterior.parameters():
            parameter.add_(torch.randn_like(parameter))
    q = model.encode(torch.rand(1, 1, 8, 8).double())
    z = q.rsample()

    def carried(start):
        log_q = q.base_dist.log_prob(start)
        for layer in q.transforms:
            after = layer(start)
            log_q, start = log_q - layer.log_abs_det_jacobian(start, after), after
        return start[0], log_q[0]

    actual = slope(q, z)[0]
    start = z
    for layer in reversed(q.transforms):
        start = layer.inv(start)
    jacobian, of_log_q = (
        derivative[:, 0] if derivative.dim() == 3 else derivative[0]
        for derivative in jacobians(carried, start.detach())
    )
    torch.testing.assert_close(actual, torch.linalg.solve(jacobian.T, of_log_q))
    assert not actual.requires_grad


def jacobians(function, at):
    return torch.autograd.functional.jacobian(function, at)


@pytest.mark.parametrize("posterior", ["normal", *flows(2)], ids=str)
def test_the_mean_of_the_encoders_path_gradient_is_that_of_the_elbo(tiny, posterior):
    x, means = tiny.as_float().round()[:2], []
    for name in ("elbo", "path-gradient"):
        model = build(Spec(latent_dim=2, hidden=(4,), posterior=posterior))
        torch.manual_seed(0)
        objective(name, particles=50_000).loss_and_grads(model.model, model.guide, x)
        parameters = [*model.encoder.parameters(), *model.posterior.parameters()]
        means.append(torch.cat([param.grad.flatten() for param in parameters]))
    assert (means[0] - means[1]).norm() < 0.03 * means[0].norm()
    assert not torch.equal(*means)


@pytest.mark.parametrize("posterior", ["normal", *flows(1)], ids=str)
def test_its_captured_step_is_the_eager_one(tiny, posterior):
    """Warnings, which would tell of a step that is not captured, are errors."""
    weights = {}
    for backend in ("off", "capture"):
        model = build(Spec(latent_dim=2, hidden=(16,), posterior=posterior))
        fit(
            model,
            tiny,
            epochs=2,
            batch_size=6,
            objective="path-gradient",
            binarization="threshold",
            compile=backend,
            **QUIET,
        )
        weights[backend] = torch.cat([param.flatten() for param in model.parameters()])
    torch.testing.assert_close(weights["off"], weights["capture"])


def test_compiled_svi_captures_it():
    pyro.clear_param_store()
    svi = CompiledSVI(*linear_gaussian(POSTERIOR), torch.optim.Adam, PathGradientELBO(), compile="capture")
    for _ in range(3):
        svi.step()
    assert svi.signatures == 1


def test_many_seeds_take_it(tiny):
    spec = Spec(latent_dim=2, hidden=(16,), epochs=2, batch_size=6, validation_fraction=0.0, binarization="threshold")
    spec = dataclasses.replace(spec, objective="path-gradient", compile="capture")
    (_, first), _ = fit_many(spec, tiny, seeds=[0, 1], **QUIET)
    alone = build(dataclasses.replace(spec, image_shape=tiny.shape))
    names = ("epochs", "batch_size", "objective", "binarization", "compile")
    history = fit(alone, tiny, **{name: getattr(spec, name) for name in names}, **QUIET)
    assert first.column("train_loss_nats") == pytest.approx(history.column("train_loss_nats"), rel=1e-4)


def test_a_support_that_moves_is_refused(tiny):
    with pytest.raises(InputError, match="objective: given 'path-gradient', expected .* the support of a uniform"):
        with_objective(Spec(posterior="uniform", objective="path-gradient"), ONE_IMAGE)
    model = build(Spec(latent_dim=2, posterior="uniform", prior="uniform"))
    q = model.encode(tiny.as_float())
    with pytest.raises(InputError, match="expected elbo for a ClosedUniform, whose support moves with its parameters"):
        along_the_path(q, q.rsample(), torch.zeros(()))
    with pytest.raises(InputError, match="the support of a uniform posterior moves with it"):
        fit(model, tiny, epochs=1, objective="path-gradient", binarization="threshold", **QUIET)
    fixed = dist.Uniform(torch.zeros(2), torch.ones(2))
    assert slope(fixed, torch.full((2,), 0.5)).tolist() == [0, 0]


def test_a_flow_with_layers_of_other_kinds_is_refused():
    layers = [transforms.Planar(2), transforms.AffineTransform(torch.zeros(2), torch.ones(2))]
    q = dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), layers)
    with pytest.raises(InputError, match="expected elbo for a flow that mixes planar layers with others"):
        slope(q, q.rsample())


def test_a_draw_that_is_not_reparameterized_keeps_its_score():
    def model():
        pyro.sample("z", dist.Bernoulli(0.5))

    def guide():
        pyro.sample("z", dist.Bernoulli(pyro.param("p", torch.tensor(0.3), constraint=constraints.unit_interval)))

    gradients = []
    for kind in (Trace_ELBO, PathGradientELBO):
        pyro.clear_param_store()
        torch.manual_seed(0)
        kind().loss_and_grads(model, guide)
        gradients.append(pyro.param("p").unconstrained().grad.item())
    assert gradients[0] == gradients[1] != 0


# --- autoguides -----------------------------------------------------------------------------------------------------


def gamma_poisson():
    """A positive latent variable: its guide is a normal one, carried over by exp, a `Delta` with the Jacobian."""
    rate = pyro.sample("rate", dist.Gamma(3.0, 2.0))
    with pyro.plate("data", 4):
        pyro.sample("x", dist.Poisson(rate), obs=torch.tensor([2.0, 0.0, 3.0, 1.0]))


def two_positive():
    with pyro.plate("data", 3):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        pyro.sample("share", dist.Beta(2.0, scale + 1))
        pyro.sample("x", dist.Normal(0.0, scale), obs=X)


def scaled_by_a_parameter():
    """log z = a u, with a trained: the `log_density` of z depends on a, and not by the draw alone."""
    a = pyro.param("a", torch.tensor(0.7))
    loc, scale = pyro.param("loc", torch.tensor(0.2)), pyro.param("scale", torch.tensor(0.8))
    u = pyro.sample("u", dist.Normal(loc, scale), infer={"is_auxiliary": True})
    pyro.sample("rate", dist.Delta((a * u).exp(), log_density=-(a * u) - a.log()))


def mean_gradient(kind, model, guide, particles=50_000):
    pyro.clear_param_store()
    torch.manual_seed(0)
    elbo = kind(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    program = guide if guide is scaled_by_a_parameter else guide(model)
    loss = elbo.loss_and_grads(model, program)
    return loss, torch.cat(
        [param.unconstrained().grad.flatten() for _, param in sorted(pyro.get_param_store().items())]
    )


@pytest.mark.parametrize(
    ("model", "guide"),
    [
        (gamma_poisson, partial(AutoNormal, init_scale=0.5)),
        (gamma_poisson, partial(AutoMultivariateNormal, init_scale=0.5)),
        (two_positive, partial(AutoNormal, init_scale=0.5)),
        (two_positive, partial(AutoDiagonalNormal, init_scale=0.5)),
        (two_positive, partial(AutoLowRankMultivariateNormal, init_scale=0.5)),
        (gamma_poisson, AutoDelta),
        (gamma_poisson, scaled_by_a_parameter),
    ],
)
def test_autoguides_keep_the_gradient_of_their_delta_sites(model, guide):
    """The same draws, so that the means differ by the mean of the score alone, about 1 / sqrt(particles)."""
    loss, expected = mean_gradient(Trace_ELBO, model, guide)
    same, mean = mean_gradient(PathGradientELBO, model, guide)
    assert mean.abs().max() > 0.1
    torch.testing.assert_close(mean, expected, rtol=0.0, atol=0.04)
    assert same == pytest.approx(loss, rel=1e-6)


def test_an_autoguide_at_the_posterior_has_no_noise():
    def model():
        pyro.sample("z", dist.LogNormal(0.3, 0.8))

    def at_the_posterior(kind):
        pyro.clear_param_store()
        torch.manual_seed(0)
        guide = AutoNormal(model, init_loc_fn=init_to_value(values={"z": torch.tensor(0.3).exp()}), init_scale=0.8)
        kind().loss_and_grads(model, guide)
        return [param.unconstrained().grad.item() for param in pyro.get_param_store().values()]

    assert at_the_posterior(PathGradientELBO) == pytest.approx([0, 0], abs=1e-5)
    assert max(map(abs, at_the_posterior(Trace_ELBO))) > 0.1


@pytest.mark.parametrize(
    "wrap", [lambda delta: delta, lambda delta: delta.mask(torch.tensor(True))], ids=["event", "mask"]
)
def test_a_wrapped_delta_is_one(wrap):
    def guide():
        log_density = pyro.param("log_density", torch.tensor([0.5, 0.1]))
        pyro.sample("z", wrap(dist.Delta(torch.ones(2), log_density=log_density).to_event(1)))

    def model():
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    pyro.clear_param_store()
    PathGradientELBO().loss_and_grads(model, guide)
    assert pyro.param("log_density").grad.tolist() == [1, 1]


def test_a_density_without_a_derivative_is_refused():
    scale = torch.tensor(2.0, requires_grad=True)
    q = dist.TransformedDistribution(dist.Uniform(0.0, 1.0), [transforms.AffineTransform(0.0, scale)])
    with pytest.raises(InputError, match="elbo for a TransformedDistribution, whose log_prob has no derivative with"):
        slope(q, q.rsample())


# --- auto -----------------------------------------------------------------------------------------------------------


ONE_IMAGE = Images(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


CLOSED_FORM_KL = (  # posterior, prior
    ("normal", "standard-normal"),
    ("normal", "laplace"),
    ("laplace", "standard-normal"),
    ("laplace", "laplace"),
    ("uniform", "standard-normal"),
    ("uniform", "uniform"),
)


def specs():
    for names in itertools.product(kinds("model"), kinds("posterior"), kinds("prior")):
        spec = Spec(**dict(zip(("model", "posterior", "prior"), names, strict=True)), latent_dim=2, hidden=(4,))
        try:
            build(spec)
        except InputError:  # a prior that does not go with it
            continue
        yield spec


@pytest.mark.filterwarnings("ignore:.*so that this has no effect")  # of all combinations of parts
def test_what_auto_is_and_what_can_be_trained_is_asked_of_the_parts():
    settled = set()
    for spec in specs():
        closed = spec.model == "vae" and (spec.posterior, spec.prior) in CLOSED_FORM_KL
        moves = spec.model == "vae" and spec.posterior == "uniform"
        model = build(spec)
        only = getattr(model, "only_objective", None)
        default = only or getattr(model, "default_objective", "elbo")
        only = "enumerated" if default == "enumerated" else only
        expected = (
            default if spec.model != "vae" else "path-gradient" if not moves else "mean-field" if closed else "elbo"
        )
        auto = with_objective(spec, ONE_IMAGE)
        assert auto == dataclasses.replace(spec, objective=expected)
        assert with_objective(auto, ONE_IMAGE) == auto
        settled.add(auto.objective.kind)
        in_order = spec.model not in ("vae", "hierarchical")  # which is inferred in the opposite order of the model's
        for name, allowed in (("mean-field", closed or in_order), ("path-gradient", not moves)):
            wanted = dataclasses.replace(spec, objective=name)
            if allowed and only in (None, name):
                assert with_objective(wanted, ONE_IMAGE) == wanted
            else:
                with pytest.raises(InputError, match=f"objective: given '{name}.*', expected"):
                    with_objective(wanted, ONE_IMAGE)
    assert settled >= {"path-gradient", "mean-field", "elbo"}


class Enumerated(torch.nn.Module):
    """A user's own pair, with a discrete site that both programs have, or the model alone."""

    def __init__(self, in_guide):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(2))
        self.in_guide = in_guide

    def site(self):
        pyro.sample("k", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})

    def model(self, x, beta=1.0):
        pyro.module("pair", self)
        with pyro.plate("data", len(x)):
            self.site()
            pyro.sample("x", dist.Bernoulli(0.5).expand(x.shape[1:]).to_event(3), obs=x)

    def guide(self, x, beta=1.0):
        with pyro.plate("data", len(x)):
            if self.in_guide:
                self.site()


ENUMERATED = {
    "mixture": lambda: build(Spec(model="mixture", latent_dim=2, hidden=(4,))),
    "semi-supervised": lambda: build(Spec(model="semi-supervised", latent_dim=2, hidden=(4,))),
    "own, in both": lambda: Enumerated(True),
    "own, in the model": lambda: Enumerated(False),
}
OTHERS = ("elbo", "iwae", "iwae-dreg", "mean-field", "path-gradient")


@pytest.mark.parametrize("name", ENUMERATED)
def test_enumerated_sites_need_the_objective_that_sums_over_them(name):
    model = ENUMERATED[name]()
    assert resolved("auto", model, ONE_IMAGE) == resolved("enumerated", model, ONE_IMAGE) == "enumerated"
    for other in OTHERS:
        expected = f"objective: given '{other}', expected enumerated: it sums over the discrete site [ky]$"
        with pytest.raises(InputError, match=expected):
            resolved(other, model, ONE_IMAGE)


def test_the_adversarial_kind_is_trained_with_its_own_objective_alone():
    model = build(Spec(model="adversarial", latent_dim=2, hidden=(4,)))
    assert resolved("auto", model, ONE_IMAGE) == resolved("elbo", model, ONE_IMAGE) == "elbo"
    for other in OTHERS[1:]:
        with pytest.raises(InputError, match=f"given '{other}', expected elbo: Adversarial takes no other"):
            resolved(other, model, ONE_IMAGE)


@pytest.mark.parametrize(("posterior", "prior"), [("normal", "laplace"), ("laplace", "standard-normal")])
def test_every_closed_kl_is_used(tiny, posterior, prior):
    """Torch has more than those of equal kinds."""
    model = build(Spec(latent_dim=2, posterior=posterior, prior=prior, objective="mean-field"))
    x = tiny.as_float().round()
    q = model.encode(x)
    z = q.rsample((100_000,))
    expected = (q.log_prob(z) - model.prior().log_prob(z)).mean(0)
    exact = kl_divergence(q, model.prior())
    torch.testing.assert_close(exact, expected, rtol=0.02, atol=0.02)
    terms = Terms(torch.device("cpu"))
    loss = terms.watch(objective("mean-field")).loss(model.model, model.guide, x)
    assert loss == pytest.approx(-terms.totals()[0].item() + exact.sum().item(), rel=1e-5)


def test_other_programs_than_a_vaes_are_trained_by_the_elbo():
    class Own(VAE):
        def guide(self, x, beta=1.0):
            super().guide(x, beta)

    parts = build(Spec(latent_dim=2))
    own = Own(parts.encoder, parts.decoder, parts.prior, parts.likelihood, parts.posterior)
    assert resolved("auto", own, ONE_IMAGE) == "elbo"
    parts.guide = own.guide
    assert resolved("auto", parts, ONE_IMAGE) == "elbo"
    assert resolved("iwae", own, ONE_IMAGE) == "iwae"
    with pytest.raises(InputError, match="objective: given 'elbow'.*did you mean 'elbo'"):
        resolved("elbow", own, ONE_IMAGE)


def test_a_flow_of_the_users_own_is_not_inverted_without_being_asked(tiny):
    """An inverse may be missing, or take long; who asks for path gradients gets them by it."""
    scale = torch.tensor([2.0, -0.5])

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = DiagonalNormal(2)
            self.num_parameters = self.base.num_parameters

        def forward(self, parameters):
            return dist.TransformedDistribution(self.base(parameters), [transforms.AffineTransform(0.5, scale)])

    vae = build(Spec(latent_dim=2))
    vae.posterior = Own()
    assert resolved("auto", vae, ONE_IMAGE) == "elbo"
    q = vae.encode(tiny.as_float())
    z = q.rsample()
    normal = dist.Normal(0.5 + scale * q.base_dist.mean, scale.abs() * q.base_dist.stddev)
    torch.testing.assert_close(slope(q, z), slope(normal, z))


class LocationAndScale(nn.Module):
    """A user's own posterior: no `num_parameters`, and a scale that the encoder gives."""

    def __init__(self, before=None, kind=dist.Normal):
        super().__init__()
        self.before, self.kind = before, kind

    def forward(self, parameters):
        parameters = parameters if self.before is None else self.before(parameters)
        return self.kind(*parameters.chunk(2, -1)).to_event(1)


class InTrainingAlone(nn.Module):
    def forward(self, parameters):
        if not self.training:
            raise TypeError
        return parameters


class WithoutSupport(dist.Normal):
    @property
    def support(self):
        raise NotImplementedError


def with_posterior(posterior):
    vae = build(Spec(latent_dim=2))
    vae.encoder, vae.posterior = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Softplus()), posterior
    return vae.train()


@pytest.mark.parametrize(
    ("posterior", "expected"),
    [
        (LocationAndScale(), "path-gradient"),
        (LocationAndScale(nn.Sequential(nn.BatchNorm1d(4), nn.Softplus())), "path-gradient"),
        (LocationAndScale(nn.Dropout(0.5)), "path-gradient"),
        (LocationAndScale(kind=dist.Delta), "elbo"),
        (LocationAndScale(InTrainingAlone()), "elbo"),
        (LocationAndScale(kind=WithoutSupport), "elbo"),
    ],
    ids=["scale-of-the-encoder", "batch-norm", "dropout", "delta", "not-in-evaluation", "no-support"],
)
def test_a_posterior_of_the_users_own_is_asked_by_an_image(posterior, expected):
    """As it is in evaluation; and nothing of it, or of the generators, is changed."""
    vae = with_posterior(posterior)
    weights = {name: value.clone() for name, value in vae.state_dict().items()}
    before = torch.get_rng_state()
    with torch.no_grad():
        assert resolved("auto", vae, ONE_IMAGE) == expected
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in vae.modules())
    assert all(torch.equal(value, weights[name]) for name, value in vae.state_dict().items())


class AlwaysDropout(nn.Module):
    def forward(self, parameters):
        return nn.functional.dropout(parameters, 0.1) + 0.1


@pytest.mark.parametrize("before", [None, nn.BatchNorm1d(4), nn.Dropout(0.5), AlwaysDropout()])
def test_it_trains_and_leaves_the_generators_as_they_were(tiny, before):
    before = None if before is None else nn.Sequential(before, nn.Softplus())
    vae = with_posterior(LocationAndScale(before))
    state = torch.get_rng_state()
    history = fit(vae, tiny, epochs=1, binarization="threshold", **QUIET)
    assert torch.equal(torch.get_rng_state(), state)
    assert math.isfinite(history.column("train_loss_nats")[-1])


def test_a_run_records_what_auto_stands_for(tmp_path):
    normal, uniform = ("normal", "standard-normal", "path-gradient"), ("uniform", "uniform", "mean-field")
    for posterior, prior, expected in (normal, uniform):
        spec = Spec(posterior=posterior, prior=prior, latent_dim=2, epochs=1, binarization="threshold")
        model, _, _ = run(spec, tmp_path / posterior, progress=False)
        assert json.loads((tmp_path / posterior / "spec.json").read_text())["objective"] == expected
        assert model.spec.objective == expected
        run(dataclasses.replace(spec, epochs=2), tmp_path / posterior, resume=True, progress=False)


def test_a_run_goes_on_under_its_own_objective(tmp_path):
    """As before `auto` was the default."""
    spec = Spec(latent_dim=2, epochs=1, binarization="threshold", objective="elbo")
    run(spec, tmp_path, progress=False)
    model, _, _ = run(dataclasses.replace(spec, epochs=2, objective="auto"), tmp_path, resume=True, progress=False)
    assert model.spec.objective == "elbo"
    with pytest.raises(InputError, match="objective: given 'mean-field', expected 'elbo', as in the run"):
        run(dataclasses.replace(spec, epochs=2, objective="mean-field"), tmp_path, resume=True, progress=False)


def test_checkpoints_of_before_auto_go_on_under_their_own_objective(tiny, tmp_path):
    """In which the description of the model had an objective, and lacked fields that specs got since."""
    options = QUIET | {"binarization": "threshold", "batch_size": 5}
    whole, model = build(Spec(latent_dim=2)), build(Spec(latent_dim=2))
    expected = fit(whole, tiny, epochs=2, objective="elbo", **options)
    fit(model, tiny, epochs=1, objective="elbo", checkpoint=tmp_path, **options)
    state = read_checkpoint(tmp_path)
    old = state["settings"]["model"] | {"objective": "elbo"}
    del old["validation_fraction"]
    write_checkpoint(tmp_path, 1, state | {"settings": state["settings"] | {"model": old}})
    history = fit(build(Spec(latent_dim=2)), tiny, epochs=2, checkpoint=tmp_path, resume=True, **options)
    assert history.column("train_loss_nats") == expected.column("train_loss_nats")


def test_many_seeds_go_on_under_their_own_objective(tiny, tmp_path):
    spec = Spec(latent_dim=2, epochs=1, batch_size=6, validation_fraction=0.0, binarization="threshold")
    old = dataclasses.replace(spec, objective="elbo")
    fit_many(old, tiny, seeds=[0, 1], out=tmp_path, **QUIET)
    resumed = fit_many(dataclasses.replace(spec, epochs=2), tiny, seeds=[0, 1], out=tmp_path, resume=True, **QUIET)
    assert [model.spec.objective for model, _ in resumed] == ["elbo", "elbo"]
    fresh = fit_many(spec, tiny, seeds=[0, 1], **QUIET)
    assert [model.spec.objective for model, _ in fresh] == ["path-gradient", "path-gradient"]


def test_committed_results_name_their_objective():
    """So that a new default changes nothing about them."""
    folder = Path(__file__).parents[2] / "docs" / "results"
    specs = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/runs/**/spec.json")]
    assert specs
    assert {spec["objective"] for spec in specs} <= {"elbo", "enumerated", "mean-field", "path-gradient"}  # not "auto"
