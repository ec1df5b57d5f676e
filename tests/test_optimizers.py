"""Pyro's optimizers keep their state, whoever steps: `CompiledSVI` beside `pyro.infer.SVI`."""

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from pyro_vae.checks import InputError
from pyro_vae.svi import CompiledSVI

X = torch.randn(30, generator=torch.Generator().manual_seed(0)) + 2
WRAPPERS = {
    "Adam": lambda: pyro.optim.Adam({"lr": 0.05}),
    "Adam, clipped": lambda: pyro.optim.Adam({"lr": 0.05}, {"clip_norm": 0.5}),
    "Adam, by name": lambda: pyro.optim.Adam(lambda name: {"lr": 0.1 if name == "loc" else 0.01}),
    "AdamW": lambda: pyro.optim.AdamW({"lr": 0.05, "weight_decay": 0.1}),
    "SGD": lambda: pyro.optim.SGD({"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.1}),
    "RMSprop": lambda: pyro.optim.RMSprop({"lr": 0.05}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.9}),
}
every_wrapper = pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS.keys())


def model(x):
    loc = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def guide(x):
    loc = pyro.param("loc", torch.tensor(0.5))
    scale = pyro.param("scale", torch.tensor(0.3), constraint=dist.constraints.positive)
    pyro.sample("mu", dist.Normal(loc, scale))


def after(optim, kinds, steps=6):
    """The parameters after some steps of an SVI of each kind, one SVI after the other, with one optimizer."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    for kind in kinds:
        svi = kind(model, guide, optim, loss=Trace_ELBO())
        for _ in range(steps):
            svi.step(X)
    return {name: value.detach().clone() for name, value in pyro.get_param_store().items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


@every_wrapper
@pytest.mark.parametrize(
    "kinds", [(SVI, CompiledSVI), (CompiledSVI, SVI), (CompiledSVI, CompiledSVI, SVI, CompiledSVI)], ids=len
)
def test_one_goes_on_where_the_other_stopped(wrapper, kinds):
    assert_same(after(wrapper(), kinds), after(wrapper(), [SVI] * len(kinds)))


@every_wrapper
def test_two_take_turns(wrapper):
    found = []
    for kind in (SVI, CompiledSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        optim = wrapper()
        one, other = (kind(model, guide, optim, loss=Trace_ELBO()) for _ in range(2))
        for _ in range(6):
            one.step(X)
            other.step(X[:20])
        found.append({name: value.detach().clone() for name, value in pyro.get_param_store().items()})
    assert_same(found[1], found[0])


@every_wrapper
def test_the_wrapper_has_the_state(wrapper):
    states = []
    for kind in (SVI, CompiledSVI):
        optim = wrapper()
        after(optim, [kind])
        states.append(optim.get_state())
    expected, found = states
    assert found.keys() == expected.keys()
    for name, state in expected.items():
        for key, value in state["state"].get(0, {}).items():
            torch.testing.assert_close(found[name]["state"][0][key], value, rtol=1e-5, atol=1e-6)
        assert found[name]["param_groups"][0]["lr"] == state["param_groups"][0]["lr"]


@every_wrapper
@pytest.mark.parametrize("kind", [SVI, CompiledSVI])
def test_the_state_of_a_wrapper_is_taken(wrapper, kind):
    expected = after(wrapper(), [SVI, SVI])
    first, second = wrapper(), wrapper()
    after(first, [kind])
    second.set_state(first.get_state())
    svi = CompiledSVI(model, guide, second)
    for _ in range(6):
        svi.step(X)
    assert_same({name: value.detach() for name, value in pyro.get_param_store().items()}, expected)


@every_wrapper
def test_its_own_state_is_in_the_wrapper_too(wrapper):
    """After `load_state_dict`, before the first step and later."""
    expected = after(wrapper(), [SVI, SVI])
    for steps_before in (0, 1):
        optim = wrapper()
        pyro.clear_param_store()
        torch.manual_seed(0)
        first = CompiledSVI(model, guide, wrapper())
        for _ in range(6):
            first.step(X)
        values, noise = pyro.get_param_store().get_state(), torch.get_rng_state()
        params = {name: value.detach().clone() for name, value in values["params"].items()}
        second = CompiledSVI(model, guide, optim)
        for _ in range(steps_before):
            second.step(X)
        with torch.no_grad():
            for name, value in params.items():
                pyro.get_param_store()._params[name].copy_(value)
        second.load_state_dict(first.state_dict())
        torch.set_rng_state(noise)
        for _ in range(3):
            second.step(X)
        svi = SVI(model, guide, optim, loss=Trace_ELBO())
        for _ in range(3):
            svi.step(X)
        assert_same({name: value.detach() for name, value in pyro.get_param_store().items()}, expected)


class SometimesUsed(nn.Module):
    def __init__(self):
        super().__init__()
        self.always, self.sometimes = nn.Linear(1, 8), nn.Linear(1, 8)

    def model(self, x, both):
        pyro.module("net", self)
        loc = self.always(x).sum(-1) + (self.sometimes(x).sum(-1) if both else 0)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=x[:, 0])

    def guide(self, x, both):
        pass


@every_wrapper
@pytest.mark.parametrize("compile", ["off", "capture", "inductor"])
def test_a_parameter_without_a_gradient_is_stepped_by_zeros_where_it_had_one(wrapper, compile):
    """As Pyro does it, whose gradients are set to zero after a step, so that Adam's mean moves the parameter on."""
    order = [False, False, False, True, False, False, True, True, False, False, False, False]
    found = []
    for kind in (SVI, lambda *args, **kwargs: CompiledSVI(*args, **kwargs, compile=compile)):
        pyro.clear_param_store()
        torch.manual_seed(0)
        net = SometimesUsed()
        svi = kind(net.model, net.guide, wrapper(), loss=Trace_ELBO())
        for both in order:
            svi.step(X[:, None], both)
        found.append({name: value.detach().clone() for name, value in net.named_parameters()})
    assert_same(found[1], found[0])


@pytest.mark.parametrize("compile", ["off", "capture", "inductor"])
def test_parameters_that_are_added_later_are_stepped(compile):
    torch.manual_seed(0)
    net = SometimesUsed()
    pyro.clear_param_store()
    optim = torch.optim.Adam(net.always.parameters(), lr=0.1)
    svi = CompiledSVI(net.model, net.guide, optim, compile=compile)
    before = [param.detach().clone() for param in net.parameters()]
    for _ in range(3):
        svi.step(X[:, None], True)
    moved = [not torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True)]
    assert moved == [True, True, False, False]
    optim.add_param_group({"params": list(net.sometimes.parameters()), "lr": 0.1})
    svi.step(X[:, None], True)
    assert all(not torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))


@every_wrapper
@pytest.mark.parametrize("compile", ["off", "capture", "inductor"])
def test_rates_that_are_set_by_hand_are_followed(wrapper, compile):
    """In the optimizers of the wrapper, of all parameters and of one."""
    found = []
    for kind in (SVI, lambda *args, **kwargs: CompiledSVI(*args, **kwargs, compile=compile)):
        pyro.clear_param_store()
        torch.manual_seed(0)
        optim = wrapper()
        svi = kind(model, guide, optim, loss=Trace_ELBO())
        for step in range(12):
            svi.step(X)
            for name, value in pyro.get_param_store()._params.items():
                if step % 3 == 1 or (step > 6 and name == "loc"):
                    optim.optim_objs[value].param_groups[0]["lr"] *= 0.8
        found.append({name: value.detach().clone() for name, value in pyro.get_param_store().items()})
    assert_same(found[1], found[0])


@pytest.mark.parametrize("compile", ["capture", "inductor"])
def test_rates_that_part_between_many_steps_are_followed(compile):
    found = []
    for kind in (SVI, lambda *args, **kwargs: CompiledSVI(*args, **kwargs, compile=compile)):
        pyro.clear_param_store()
        torch.manual_seed(0)
        optim = pyro.optim.Adam({"lr": 0.05})
        svi = kind(model, guide, optim, loss=Trace_ELBO())
        many = svi.steps([(X,)] * 130) if isinstance(svi, CompiledSVI) else (svi.step(X) for _ in range(130))
        for step, _ in enumerate(many):
            if step == 115:
                optim.optim_objs[pyro.get_param_store()._params["loc"]].param_groups[0]["lr"] = 0.5
        found.append({name: value.detach().clone() for name, value in pyro.get_param_store().items()})
    assert_same(found[1], found[0])


def scheduler():
    options = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}}
    return pyro.optim.StepLR({**options, "step_size": 3, "gamma": 0.1})


def with_scheduler(kind, optim, rounds=2):
    svi = kind(model, guide, optim, loss=Trace_ELBO())
    for _ in range(rounds):
        for _ in range(4):
            svi.step(X)
        optim.step()
    return {name: value.detach().clone() for name, value in pyro.get_param_store().items()}


def test_the_state_of_a_scheduler_goes_from_one_to_the_next():
    """Its rate falls after the third round, which is the first of the second one."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    expected = with_scheduler(SVI, scheduler(), rounds=4)
    pyro.clear_param_store()
    torch.manual_seed(0)
    first, second = scheduler(), scheduler()
    with_scheduler(CompiledSVI, first)
    second.set_state(first.get_state())
    assert_same(with_scheduler(CompiledSVI, second), expected)


def test_the_optimizers_of_a_wrapper_are_one_kernel():
    svi = CompiledSVI(model, guide, pyro.optim.Adam({"lr": 0.05}))
    pyro.clear_param_store()
    svi.step(X)
    adam = svi.optimizer.fused_adam(list(pyro.get_param_store()._params.values()))
    assert [len(one.params) for one in adam._groups] == [2]


def test_a_scheduler_that_has_stepped_others_is_refused():
    pyro.clear_param_store()
    optim, other = scheduler(), scheduler()
    with_scheduler(SVI, optim)
    other.set_state(optim.get_state())
    for given, reason in ((optim, "in use"), (other, "state of another scheduler")):
        with pytest.raises(InputError, match=f"optim: given .*{reason}"):
            CompiledSVI(model, guide, given).step(X)
