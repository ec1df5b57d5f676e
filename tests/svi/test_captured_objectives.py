"""Each of Pyro's objectives, and objectives of one's own: the captured step against Pyro's."""

import argparse
import functools
import math
import warnings

import pyro
import pyro.contrib.gp
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    EnergyDistance,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    Trace_MMD,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceTailAdaptive_ELBO,
    TraceTMC_ELBO,
    config_enumerate,
)

from pyro_vae.svi import CompiledSVI, NotFiniteError
from pyro_vae.svi.program import Program

X = torch.randn(40, generator=torch.Generator().manual_seed(0))


# --- programs -----------------------------------------------------------------------------------------------------


def normal(x):
    z = pyro.sample("z", dist.Normal(pyro.param("prior", torch.tensor(0.3)), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide_of_normal(x):
    loc = pyro.param("loc", torch.tensor(0.1))
    scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
    pyro.sample("z", dist.Normal(loc, scale))


def guide_of_five(x):
    pyro.sample(
        "z", dist.Normal(pyro.param("loc", torch.tensor(0.1)), 1.0), infer={"enumerate": "parallel", "num_samples": 5}
    )


def asleep(x=None, observations=None):
    """`normal` for the phase of sleep, which draws x and hands it to the guide."""
    z = pyro.sample("z", dist.Normal(pyro.param("prior", torch.tensor(0.3)), 1.0))
    with pyro.plate("data", len(X)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide_asleep(x=None, observations=None):
    x = observations["x"] if observations else x
    pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.1)) * x.mean(), 0.5))


def mixture(x):
    locs = pyro.param("locs", torch.tensor([-1.0, 1.0]))
    weights = pyro.param("weights", torch.tensor([0.3, 0.7]), constraint=dist.constraints.simplex)
    with pyro.plate("data", len(x)):
        which = pyro.sample("which", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(locs[which], 1.0), obs=x)


def classifier(x):
    with pyro.plate("data", len(x)):
        logits = torch.stack([x, -x], -1) * pyro.param("slope", torch.tensor(0.2))
        pyro.sample("which", dist.Categorical(logits=logits))


def classifier_with_an_impossible_class(x):
    """No x above 0 is of the second class; its terms, infinity times 0, are left out."""
    with pyro.plate("data", len(x)):
        logits = torch.stack([x * pyro.param("slope", torch.tensor(0.2)), (0.0 * x).where(x < 0, -math.inf)], -1)
        pyro.sample("which", dist.Categorical(logits=logits, validate_args=False))


def one_class(x):
    locs = pyro.param("locs", torch.tensor([-1.0, 1.0]))
    which = pyro.sample("which", dist.Categorical(torch.tensor([0.3, 0.7])))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(locs[which], 1.0), obs=x)


def guide_of_one_class(x):
    probs = pyro.param("probs", torch.tensor([0.5, 0.5]), constraint=dist.constraints.simplex)
    pyro.sample("which", dist.Categorical(probs))


def hidden_markov(x):
    transition = pyro.param("transition", torch.tensor([[0.8, 0.2], [0.3, 0.7]]), constraint=dist.constraints.simplex)
    locs = pyro.param("locs", torch.tensor([-1.0, 1.0]))
    state = 0
    for time in pyro.markov(range(6)):
        state = pyro.sample(f"state_{time}", dist.Categorical(transition[state]))
        pyro.sample(f"x_{time}", dist.Normal(locs[state], 1.0), obs=x[time])


def stable(x):
    """Pyro tests whether a stability is near 1, where the usual formula has a hole."""
    stability = pyro.param("stability", torch.tensor(1.9), constraint=dist.constraints.interval(0, 2))
    scale = pyro.param("scale", torch.tensor(0.1), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Stable(stability, 0.0, scale), obs=x)


PRIOR = dist.LogNormal(0.0, 1.0).expand([2]).to_event(1)  # made while validation is on, which it goes on with


def guide_of_scales(x):
    pyro.sample("scales", dist.LogNormal(pyro.param("locs", torch.zeros(2)), 0.1).to_event(1))


def with_a_distribution_from_outside(x):
    scales = pyro.sample("scales", PRIOR)
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, scales.sum()), obs=x)


def nothing(x):
    pass


NORMAL = (normal, guide_of_normal)
SUMMED_IN_MODEL = (config_enumerate(mixture), nothing)
SUMMED_IN_GUIDE = (mixture, config_enumerate(classifier))


# --- objectives ---------------------------------------------------------------------------------------------------


class Doubled(Trace_ELBO):
    def loss(self, *arguments):
        return 2 * super().loss(*arguments)

    def loss_and_grads(self, *arguments):
        return 2 * super().loss_and_grads(*arguments)


class OfTraces(TraceEnum_ELBO):
    def differentiable_loss(self, model, guide, *args):
        terms = (m.log_prob_sum() - g.log_prob_sum() for m, g in self._get_traces(model, guide, args, {}))
        return -sum(terms)

    def loss_and_grads(self, model, guide, *args):
        loss = self.differentiable_loss(model, guide, *args)
        loss.backward()
        return loss.item()


def of_two_runs(model, guide, *args):
    """A loss as in Pyro's tutorial on custom objectives."""
    guide_trace = poutine.trace(guide).get_trace(*args)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args)
    return (guide_trace.log_prob_sum() - model_trace.log_prob_sum()).reshape(1)


PARTICLES = {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 1}


def kernel():
    return pyro.contrib.gp.kernels.RBF(input_dim=1, lengthscale=torch.tensor(1.0))


@pytest.mark.parametrize(
    ("programs", "make_loss"),
    [
        pytest.param(SUMMED_IN_MODEL, TraceEnum_ELBO, id="enumerated in the model"),
        pytest.param(SUMMED_IN_GUIDE, TraceEnum_ELBO, id="enumerated in the guide"),
        pytest.param(SUMMED_IN_GUIDE, lambda: TraceEnum_ELBO(num_particles=3), id="three particles"),
        pytest.param(SUMMED_IN_GUIDE, lambda: TraceEnum_ELBO(**PARTICLES), id="three particles at once"),
        pytest.param(
            (mixture, config_enumerate(classifier_with_an_impossible_class)), TraceEnum_ELBO, id="probabilities of 0"
        ),
        pytest.param(
            (one_class, config_enumerate(guide_of_one_class, "sequential")), TraceEnum_ELBO, id="sequential enumeration"
        ),
        pytest.param((config_enumerate(hidden_markov), nothing), TraceEnum_ELBO, id="hidden Markov model"),
        pytest.param(NORMAL, lambda: TraceEnum_ELBO(strict_enumeration_warning=False), id="nothing to enumerate"),
        pytest.param((normal, guide_of_five), TraceTMC_ELBO, id="tensor Monte Carlo"),
        pytest.param(NORMAL, lambda: RenyiELBO(0.5, num_particles=3), id="Renyi"),
        pytest.param(NORMAL, lambda: ReweightedWakeSleep(**PARTICLES), id="wake-sleep, awake"),
        pytest.param(
            (asleep, guide_asleep),
            lambda: ReweightedWakeSleep(num_particles=3, insomnia=0.5, vectorize_particles=False),
            id="wake-sleep",
        ),
        pytest.param(NORMAL, lambda: Trace_MMD(kernel(), **PARTICLES), id="maximum mean discrepancy"),
        pytest.param(NORMAL, lambda: TraceTailAdaptive_ELBO(**PARTICLES), id="tail-adaptive"),
        pytest.param(NORMAL, lambda: EnergyDistance(num_particles=3, prior_scale=0.5), id="energy distance"),
        pytest.param((stable, nothing), EnergyDistance, id="energy distance of a stable distribution"),
        pytest.param((with_a_distribution_from_outside, guide_of_scales), Trace_ELBO, id="a distribution from outside"),
        pytest.param(NORMAL, Doubled, id="a subclass"),
        pytest.param(NORMAL, lambda: OfTraces(strict_enumeration_warning=False), id="own gradients"),
        pytest.param(NORMAL, lambda: of_two_runs, id="a function"),
        pytest.param(NORMAL, lambda: Trace_ELBO(num_particles=2).differentiable_loss, id="a method"),
        pytest.param(NORMAL, lambda: lambda *arguments: 2 * TraceGraph_ELBO().loss(*arguments), id="without gradients"),
    ],
)
def test_every_objective_is_captured_and_equals_pyro(programs, make_loss):
    def losses(kind):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = kind(*programs, pyro.optim.Adam({"lr": 0.01}), make_loss())
        steps = [svi.step(X.roll(number)) for number in range(15)]
        try:
            return svi, [*steps, *(svi.evaluate_loss(X) for _ in range(3))]
        except NotImplementedError:  # as Pyro's
            return svi, steps

    _, expected = losses(SVI)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # so that nothing ran eagerly
        svi, actual = losses(CompiledSVI)
    assert actual == [pytest.approx(loss, rel=1e-4, abs=1e-5) for loss in expected]
    assert [type(loss) for loss in actual] == [type(loss) for loss in expected]
    assert svi.signatures == 1 + (len(expected) > 15)


def test_loss_and_grads_of_ones_own():
    def loss_and_grads(model, guide, *args):
        loss = of_two_runs(model, guide, *args)
        (3 * loss).backward()
        return loss.item()

    def location(kind):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = kind(*NORMAL, pyro.optim.SGD({"lr": 1e-3}), of_two_runs, loss_and_grads)
        return [svi.step(X) for _ in range(5)], pyro.param("loc").item()

    assert location(CompiledSVI) == (pytest.approx(location(SVI)[0]), pytest.approx(location(SVI)[1]))


# --- losses that are not finite ------------------------------------------------------------------------------------


def test_an_infinite_loss_after_a_finite_one_is_an_error_and_so_is_nan_at_once():
    class Scaled(Trace_ELBO):
        by = torch.tensor(1.0)

        def loss_and_grads(self, *arguments):
            return super().loss_and_grads(*arguments) * self.by

    loss = Scaled()
    svi = CompiledSVI(*NORMAL, torch.optim.Adam, loss)
    for _ in range(3):
        svi.step(X)
    loss.by.fill_(math.inf)
    with pytest.raises(NotFiniteError, match="the loss is inf at step 4"):
        svi.step(X)
    loss.by.fill_(math.nan)
    with pytest.raises(NotFiniteError, match="the loss is nan at step 1"):
        CompiledSVI(*NORMAL, torch.optim.Adam, loss).step(X)


def test_where_the_first_loss_is_infinite_later_ones_may_be_but_not_nan():
    svi = CompiledSVI(*NORMAL, torch.optim.Adam, TraceTailAdaptive_ELBO(**PARTICLES))
    losses = [svi.step_tensor(X) for _ in range(5)]
    svi.check_finite()
    assert svi.signatures == 1
    assert losses == [torch.tensor(math.inf)] * 5
    with torch.no_grad():
        pyro.get_param_store()._params["loc"].fill_(math.nan)
    assert svi.step(X) == math.inf


# --- objects as arguments ------------------------------------------------------------------------------------------


class Table:
    def __init__(self):
        self.rows, self.offset = [1.0, 2.0], torch.tensor(0.5)

    def total(self):
        return sum(self.rows) + self.offset


def with_settings(x, settings, table, function):
    z = pyro.sample("z", dist.Normal(0.0, settings.scale))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(function(z) + table.total(), 1.0), obs=x)


def guide_with_settings(x, settings, table, function):
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.1)), 1.0))


def test_objects_are_arguments_and_what_is_read_of_them_is_guarded():
    """As the settings that many of Pyro's examples pass to model and guide."""

    def losses(kind):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = kind(with_settings, guide_with_settings, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        settings, table, function = argparse.Namespace(scale=1.0), Table(), functools.partial(torch.mul, 2.0)
        losses = []
        for number in range(125):
            if number == 25:
                settings.scale = 2.0
            elif number == 50:
                table.rows.append(-5.0)
            elif number == 75:
                table.offset.fill_(3.0)  # in place, which is no other capture
            elif number == 100:
                settings = argparse.Namespace(scale=3.0)
            losses.append(svi.step(X, settings, table, function))
        return svi, losses

    _, expected = losses(SVI)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        svi, actual = losses(CompiledSVI)
    assert actual == pytest.approx(expected, rel=1e-4)
    assert svi.signatures == 4


# --- what stays eager ----------------------------------------------------------------------------------------------


def test_an_observed_part_whose_shape_depends_on_values_runs_eagerly():
    """As where only the labelled images of a batch have an observed label."""

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        observed = x[x > 0]
        with pyro.plate("data", len(observed)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=observed)

    def losses(kind):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = kind(model, guide_of_normal, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        return [svi.step(X + 0.1 * number) for number in range(5)]

    with pytest.warns(UserWarning, match="the shape of a tensor depends on values.*x > 0") as caught:
        actual = losses(CompiledSVI)
    assert len(caught) == 1
    assert actual == pytest.approx(losses(SVI))


def test_a_program_that_is_never_captured_is_not_tried_for_each_new_shape(monkeypatch):
    """As one that packs sequences, whose batches have many lengths: an attempt takes as long as many steps."""
    tried, original = [], Program.capture
    monkeypatch.setattr(Program, "capture", lambda *arguments: tried.append(1) or original(*arguments))

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0 if x.sum() > 0 else 2.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    svi = CompiledSVI(model, guide_of_normal, torch.optim.Adam)
    with pytest.warns(UserWarning, match="reads a number back") as caught:
        [svi.step(X[:size]) for size in range(2, 12)]
    assert (len(caught), len(tried), svi.signatures) == (1, 3, 0)
