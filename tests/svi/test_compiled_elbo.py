"""The loss as a function of the parameters: its values and gradients are Pyro's, and nothing else is touched."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

from pyro_vae._utils.checks import InputError
from pyro_vae.svi import compiled_elbo

X = torch.randn(30, generator=torch.Generator().manual_seed(0)) + 2


def model(x):
    loc = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def branching(x):
    model(x * 2 if x.sum() > 0 else x)


def guide(x):
    loc = pyro.param("loc", torch.tensor(0.5))
    spread = pyro.param("spread", torch.tensor(0.3), constraint=dist.constraints.positive)
    pyro.sample("mu", dist.Normal(loc, spread))


def of_pyro(model, guide, loss, values, x):
    """Loss and gradients by Pyro's objective in a store with these unconstrained values, from seed 0."""
    with pyro.get_param_store().scope():
        loss.loss(model, guide, x)
        params = pyro.get_param_store()._params
        with torch.no_grad():
            for name, value in values.items():
                params[name].copy_(value)
        torch.manual_seed(0)
        number = loss.loss_and_grads(model, guide, x)
        return number, {name: params[name].grad for name in values}


@pytest.mark.parametrize("compile", ["off", "capture", "inductor"])
@pytest.mark.parametrize("program", [model, branching])
@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.filterwarnings("ignore:CompiledSVI. runs eagerly")
def test_values_and_gradients_are_pyros(compile, program, loss):
    """At any values of the parameters; the param store is as before."""
    pyro.get_param_store().clear()
    pyro.param("loc", torch.tensor(7.0))
    state = {name: value.clone() for name, value in pyro.get_param_store()._params.items()}
    elbo = compiled_elbo(program, guide, loss(num_particles=2), compile=compile)
    params = elbo.params(X)
    assert sorted(params) == ["loc", "spread"]
    for number in range(4):
        values = {"spread": torch.tensor(0.1 * number - 1), "loc": torch.tensor(number * 1.0)}
        torch.manual_seed(0)
        value, gradients = elbo(values, X + number)
        expected, of_params = of_pyro(program, guide, loss(num_particles=2), values, X + number)
        assert value.item() == pytest.approx(expected, rel=1e-5)
        assert list(gradients) == list(values)
        for name, gradient in of_params.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5)
    assert elbo._captured.replays == [] or compile != "off"
    assert all(torch.equal(value, state[name]) for name, value in pyro.get_param_store()._params.items())
    assert all(param.grad is None for param in params.values())
    assert params["loc"].item() == 0.5


class Regression(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = PyroModule[nn.Linear](1, 1)

    def forward(self, x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            return pyro.sample("x", dist.Normal(self.net(x[:, None])[:, 0], scale), obs=x)


@pytest.mark.parametrize("local", [False, True])
def test_it_is_differentiated_as_in_a_loop_of_torchs(local):
    """An optimizer of torch trains the modules themselves, whose predictions follow."""

    def trained(compiled):
        torch.manual_seed(0)
        net = Regression()
        guide = AutoNormal(net)
        loss_fn = Trace_ELBO()(net, guide)
        loss_fn(X)
        elbo, losses = compiled_elbo(net, guide, compile="capture"), []
        params = elbo.params(X) if compiled else None
        optimizer = torch.optim.SGD(params.values() if compiled else loss_fn.parameters(), lr=0.001)
        for _ in range(20):
            optimizer.zero_grad()
            loss = elbo(params, X)[0] if compiled else loss_fn(X)
            (2 * loss).backward()
            optimizer.step()
            losses.append(loss.item())
        return [*losses, *Predictive(net, guide=guide, num_samples=3)(X)["scale"].flatten().tolist()]

    with pyro.settings.context(module_local_params=local):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            pyro.clear_param_store()
            actual = trained(compiled=True)
        pyro.clear_param_store()
        assert actual == pytest.approx(trained(compiled=False), rel=1e-4)


@pytest.mark.parametrize("compile", ["off", "capture"])
def test_modules_that_pyro_does_not_know_get_their_gradients(compile):
    """At `backward`, as from Pyro's own differentiable loss."""
    net = nn.Linear(1, 1)

    def model():
        scale = net(torch.ones(1))[0].exp()
        pyro.sample("x", dist.Normal(pyro.param("loc", torch.tensor(0.5)), scale), obs=torch.tensor(2.0))

    (3 * Trace_ELBO().differentiable_loss(model, lambda: None)).backward()
    expected = [param.grad.clone() for param in net.parameters()]
    pyro.clear_param_store()
    elbo = compiled_elbo(model, lambda: None, compile=compile)
    params = elbo.params()
    for _ in range(3):
        net.zero_grad()
        loss, gradients = elbo(params)
        assert list(gradients) == ["loc"]
        assert all(param.grad is None for param in net.parameters())
        (3 * loss).backward()
        torch.testing.assert_close([param.grad for param in net.parameters()], expected)


def test_programs_run_with_given_parameters():
    pyro.clear_param_store()
    elbo = compiled_elbo(model, guide)
    params = elbo.params(X)
    values = {"loc": torch.tensor(4.0), "spread": torch.tensor(-20.0)}
    with elbo.using(values):
        draws = Predictive(model, guide=guide, num_samples=5, return_sites=["mu"])(X)["mu"]
    torch.testing.assert_close(draws, torch.full_like(draws, 4.0))
    assert params["loc"].item() == 0.5
    assert not pyro.get_param_store()._params


def test_parameters_in_another_layout_are_taken():
    """Compiled code takes the strides of the parameters for granted."""
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))

    def model():
        w = pyro.param("w", torch.zeros(3, 4))
        pyro.sample("y", dist.Normal(w, 1.0).to_event(2), obs=torch.arange(12.0).reshape(3, 4))

    elbo = compiled_elbo(model, lambda: None, compile="inductor")
    elbo.params()
    expected = [elbo({"w": weight}) for _ in range(3)][-1]
    actual = elbo({"w": weight.T.contiguous().T})
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"loc": torch.tensor(0.0)}, "params: given .*, expected parameters named loc, spread"),
        (
            {"loc": torch.zeros(2), "spread": torch.tensor(0.0)},
            r"params\['loc'\]: given .*, expected a tensor of shape",
        ),
        ({"loc": torch.tensor(0), "spread": torch.tensor(0.0)}, r"params\['loc'\]: .* in torch.float32 on cpu"),
    ],
)
@pytest.mark.parametrize("compile", ["off", "capture"])
def test_other_parameters_are_refused(params, message, compile):
    elbo = compiled_elbo(model, guide, compile=compile)
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            elbo(params, X)
