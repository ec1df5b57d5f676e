"""`CompiledSVI` wherever Pyro's SVI is used: methods, attributes and copies, and beside torch's own optimizers."""

import copy
import pickle
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.infer import SVI, EmpiricalMarginal, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

from pyro_vae._utils.checks import InputError
from pyro_vae.svi import CompiledSVI
from pyro_vae.svi.program import Program

X = torch.randn(30, generator=torch.Generator().manual_seed(0)) + 2
KINDS = (SVI, CompiledSVI)


def model(x, scale=1.0):
    loc = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        return pyro.sample("x", dist.Normal(loc, scale), obs=x)


def guide(x, scale=1.0):
    loc = pyro.param("loc", torch.tensor(0.5))
    spread = pyro.param("spread", torch.tensor(0.3), constraint=dist.constraints.positive)
    pyro.sample("mu", dist.Normal(loc, spread))


def adam():
    return pyro.optim.Adam({"lr": 0.05})


def fresh(kind, optim=None, loss=None, **options):
    """An SVI of this kind, from a clean store and seed 0."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    return kind(model, guide, optim or adam(), loss or Trace_ELBO(), **options)


def params():
    return {name: value.detach().clone() for name, value in pyro.get_param_store().items()}


def for_both(run):
    """What `run(kind)` returns for Pyro's SVI, and for `CompiledSVI`, which must not run eagerly."""
    expected = run(SVI)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return expected, run(partial(CompiledSVI, compile="capture"))


# --- methods and attributes of Pyro's SVI ---------------------------------------------------------------------------


def test_it_is_one_of_pyros():
    svi = fresh(CompiledSVI)
    assert isinstance(svi, SVI)
    assert (svi.num_samples, svi.num_steps, svi.exec_traces) == (0, 0, [])


@pytest.mark.parametrize("loss", [Trace_ELBO, lambda: lambda *args: Trace_ELBO().differentiable_loss(*args)])
def test_the_objective_is_a_function_of_the_programs(loss):
    """As the tutorial on mixtures calls it."""

    def run(kind):
        svi = fresh(kind, loss=loss())
        first = svi.loss(svi.model, svi.guide, X)
        svi.loss_and_grads(svi.model, svi.guide, X)
        gradients = [param.grad.clone() for param in pyro.get_param_store()._params.values()]
        return [float(torch.as_tensor(first).detach()), *map(float, gradients), *(svi.step(X) for _ in range(4))]

    expected, actual = for_both(run)
    assert actual == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["loss", "loss_and_grads", "model", "guide"])
def test_what_is_assigned_is_used(name):
    def doubled(*args, **kwargs):
        return 2 * Trace_ELBO().loss_and_grads(*args, **kwargs)

    def other_model(x):
        model(x + 1)

    def other_guide(x):
        pyro.sample("mu", dist.Normal(pyro.param("other", torch.tensor(0.1)), 1.0))

    values = {"loss": doubled, "loss_and_grads": doubled, "model": other_model, "guide": other_guide}

    def run(kind):
        svi = fresh(kind)
        numbers = [*(svi.step(X) for _ in range(4)), svi.evaluate_loss(X)]
        setattr(svi, name, values[name])
        return [*numbers, *(svi.step(X) for _ in range(4)), *(svi.evaluate_loss(X) for _ in range(3))]

    expected, actual = for_both(run)
    assert actual == pytest.approx(expected, rel=1e-5)


def test_run_is_pyros():
    """It takes `num_steps` steps, which are captured, and then draws `num_samples` traces of the posterior."""

    def run(kind):
        pyro.clear_param_store()
        torch.manual_seed(0)
        with pytest.warns(FutureWarning):
            svi = kind(model, guide, adam(), Trace_ELBO(), None, 10, 40)
        with pytest.warns(FutureWarning):
            assert svi.run(X) is svi
        if isinstance(svi, CompiledSVI):
            assert svi.signatures == 1
        marginal = EmpiricalMarginal(svi, "mu")
        draws = [trace.nodes["mu"]["value"].item() for trace in svi.exec_traces]
        return [*draws, marginal.mean.item(), *map(float, params().values())]

    expected, actual = for_both(run)
    assert len(actual) == 13
    assert actual == pytest.approx(expected, rel=1e-4)


def test_run_prepares_the_arguments_of_traces():
    pyro.clear_param_store()
    svi = CompiledSVI(model, guide, adam(), prepare=lambda index: (X[index],))
    svi.num_samples = svi.num_steps = 3
    with pytest.warns(FutureWarning):
        svi.run(torch.arange(7))
    assert [len(trace.nodes["x"]["value"]) for trace in svi.exec_traces] == [7, 7, 7]


def test_steps_are_counted_beside_num_steps():
    svi = fresh(CompiledSVI)
    for _ in range(3):
        svi.step(X)
    assert (svi.steps_taken, svi.num_steps) == (3, 0)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_loss_of_a_single_element_is_a_float(shape):
    def run(kind):
        svi = fresh(kind, loss=lambda *args: Trace_ELBO().differentiable_loss(*args).reshape(shape))
        losses = [*(svi.step(X) for _ in range(3)), *(svi.evaluate_loss(X) for _ in range(3))]
        assert {*map(type, losses)} == {float}
        return losses

    expected, actual = for_both(run)
    assert actual == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("compile", ["off", "capture", "inductor"])
def test_an_optimizer_that_is_assigned_takes_the_next_step(compile):
    def run(kind):
        svi = fresh(kind)
        losses = [svi.step(X) for _ in range(4)]
        svi.optim = other = pyro.optim.SGD({"lr": 0.001})
        assert svi.optim is other
        losses += [svi.step(X) for _ in range(4)]
        svi.optim = adam()
        return losses + [svi.step(X) for _ in range(4)]

    assert run(partial(CompiledSVI, compile=compile)) == pytest.approx(run(SVI), rel=1e-4)


def test_an_optimizer_that_is_assigned_between_many_steps_takes_the_next():
    def run(kind):
        svi = fresh(kind)
        many = svi.steps([(X,)] * 130) if isinstance(svi, CompiledSVI) else (svi.step(X) for _ in range(130))
        for step, _ in enumerate(many):
            if step == 115:
                svi.optim = pyro.optim.SGD({"lr": 0.0})
        return list(map(float, params().values()))

    assert run(partial(CompiledSVI, compile="inductor")) == pytest.approx(run(SVI), rel=1e-4)


def test_a_torch_optimizer_is_optim_as_it_was_given():
    param = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.Adam([param])
    assert fresh(CompiledSVI, optim=optimizer).optim is optimizer
    assert fresh(CompiledSVI, optim=torch.optim.Adam).optim is torch.optim.Adam
    with pytest.raises(InputError, match="optim: given 'int'"):
        fresh(CompiledSVI).optim = 3


def branching(x):
    pyro.sample("mu", dist.Normal(0.0, 1.0 if x.sum() > 0 else 2.0))


@pytest.mark.parametrize("method", ["step", "step_tensor", "evaluate_loss", "run_steps"])
def test_a_warning_points_at_the_call(method):
    pyro.clear_param_store()
    svi = CompiledSVI(branching, guide, adam(), compile="capture")
    args = (2, X) if method == "run_steps" else (X,)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            getattr(svi, method)(*args)
    assert [warning.filename for warning in caught] == [__file__]


# --- copies ---------------------------------------------------------------------------------------------------------


class Regression(PyroModule):
    def __init__(self, latent=False):
        super().__init__()
        self.net, self.latent = PyroModule[nn.Linear](1, 1), latent

    def forward(self, x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0)) if self.latent else 1.0
        with pyro.plate("data", len(x)):
            return pyro.sample("x", dist.Normal(self.net(x[:, None])[:, 0], scale), obs=x)


def no_latents(x):
    pass


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301 (which was pickled here)


@pytest.mark.parametrize(
    ("make_copy", "steps_before"), [(copy.copy, 5), (copy.deepcopy, 5), (copy.deepcopy, 0), (through_pickle, 0)]
)
@pytest.mark.parametrize("kind", [SVI, partial(CompiledSVI, compile="capture")], ids=["SVI", "CompiledSVI"])
def test_a_copy_takes_the_steps_of_the_original(make_copy, steps_before, kind):
    """With the programs, the objective and the optimizer; the parameters are in the store, as with Pyro's SVI."""
    losses = []
    for copied in (False, True):
        svi = fresh(kind, optim=pyro.optim.SGD({"lr": 0.001}), loss=TraceMeanField_ELBO(num_particles=2))
        losses.append([svi.step(X) for _ in range(steps_before)])
        if copied:
            svi = make_copy(svi)
            assert isinstance(svi.loss.__self__, TraceMeanField_ELBO)
        losses[-1] += [svi.step(X) for _ in range(5)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.parametrize(
    "optim", [lambda net: torch.optim.Adam(net.parameters()), lambda net: torch.optim.Adam, lambda net: adam()]
)
def test_a_trained_svi_of_modules_is_pickled_with_the_state_of_its_optimizer(optim):
    losses = []
    for copied in (False, True):
        pyro.clear_param_store()
        torch.manual_seed(0)
        net = Regression()
        svi = CompiledSVI(net, no_latents, optim(net), compile="capture")
        losses.append([svi.step(X) for _ in range(5)])
        if copied:
            svi = through_pickle(svi)
            pyro.clear_param_store()
        losses[-1] += [svi.step(X) for _ in range(5)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_an_svi_is_pickled_whose_optimizer_has_some_of_the_parameters():
    pyro.clear_param_store()
    net = Plain()
    svi = CompiledSVI(net, no_latents, torch.optim.Adam(net.scale.parameters()), compile="capture")
    losses = [svi.step(X) for _ in range(4)]
    other = through_pickle(svi)
    assert other.step(X) == pytest.approx(svi.step(X), rel=1e-6)
    assert losses[-1] < losses[0]


class Plain(torch.nn.Module):
    """No PyroModule, which takes the weak references by Pyro off itself."""

    def __init__(self):
        super().__init__()
        self.net, self.scale = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)

    def forward(self, x):
        pyro.module("plain", self)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.scale(self.net(x[:, None]))[:, 0], 1.0), obs=x)


def test_a_deep_copy_captures_its_own_steps():
    pyro.clear_param_store()
    net = Regression()
    svi = CompiledSVI(net, no_latents, adam(), compile="capture")
    for _ in range(3):
        svi.step(X)
    other = copy.deepcopy(svi)
    assert (svi.signatures, other.signatures, other.steps_taken) == (1, 0, 3)
    assert other.model is not net
    for _ in range(3):
        other.step(X)
    assert other.signatures == 1


# --- many steps, evaluation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compile", ["off", "capture", "inductor"])
def test_many_steps_in_a_call_are_those_of_pyro(compile):
    pyros = fresh(SVI)
    expected = [pyros.step(X, scale=2.0) for _ in range(220)]
    after = params()
    svi = fresh(CompiledSVI, compile=compile)
    losses = svi.run_steps(220, X, scale=2.0)
    assert losses.shape == (220,)
    assert losses.tolist() == pytest.approx(expected, rel=1e-3)
    assert svi.steps_taken == 220
    for name, value in after.items():
        torch.testing.assert_close(params()[name], value, rtol=1e-3, atol=1e-5)
    with pytest.raises(InputError, match="num_steps: given 0"):
        svi.run_steps(0, X)


def test_many_steps_see_what_changed_before_the_call():
    """Though nothing is looked at between two of them."""
    losses, noise = {}, {"scale": 1.0}

    def noisy(x):
        loc = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, noise["scale"]), obs=x)

    for kind in (SVI, CompiledSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        optim, losses[kind] = pyro.optim.Adam({"lr": 0.01}), []
        options = {"compile": "inductor"} if kind is CompiledSVI else {}
        svi = kind(noisy, guide, optim, Trace_ELBO(), **options)
        for scale, rate in ((1.0, 0.01), (3.0, 0.01), (3.0, 0.1)):
            noise["scale"] = scale
            for of_param in optim.optim_objs.values():
                of_param.param_groups[0]["lr"] = rate
            many = svi.run_steps(220, X).tolist() if kind is CompiledSVI else [svi.step(X) for _ in range(220)]
            losses[kind] += many
    assert losses[CompiledSVI] == pytest.approx(losses[SVI], rel=1e-3)


def test_an_evaluation_is_captured(monkeypatch):
    """So that the programs do not run at each."""
    svi = fresh(CompiledSVI, compile="capture")
    for _ in range(3):
        svi.evaluate_loss(X)
    monkeypatch.setattr(Program, "estimate", None)
    assert len({svi.evaluate_loss(X) for _ in range(5)}) == 5


def test_predictions_use_what_was_trained():
    svi = fresh(CompiledSVI)
    svi.run_steps(300, X)
    draws = Predictive(model, guide=guide, num_samples=500, return_sites=["mu"])(X)
    assert draws["mu"].mean().item() == pytest.approx(X.mean().item(), abs=0.2)


# --- torch's optimizers, as in Pyro's examples `svi_torch` and `svi_lightning` ---------------------------------------


@pytest.mark.parametrize("local", [False, True])
def test_an_optimizer_of_torch_takes_the_steps_of_its_own_loop(local):
    """Also where the parameters are in the modules alone, as these examples set it."""

    def trained(compiled):
        pyro.clear_param_store()
        torch.manual_seed(0)
        net = Regression(latent=True)
        guide = AutoNormal(net)
        loss_fn = Trace_ELBO()(net, guide)
        loss_fn(X)
        optimizer, losses = torch.optim.Adam(loss_fn.parameters(), lr=0.01), []
        svi = CompiledSVI(net, guide, optimizer, compile="capture")
        for _ in range(20):
            if compiled:
                losses.append(svi.step(X))
            else:
                optimizer.zero_grad()
                loss = loss_fn(X)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        assert [replay.calls for replay in svi._captured.replays] == [18] * compiled
        return losses

    with pyro.settings.context(module_local_params=local):
        assert trained(compiled=True) == pytest.approx(trained(compiled=False), rel=1e-4)
