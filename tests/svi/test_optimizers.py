"""Pyro's optimizers keep their state, whoever steps: `CompiledSVI` beside `pyro.infer.SVI`."""

import copy
import functools

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from pyro.optim.multi import MixedMultiOptimizer
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from pyro_vae._utils.checks import InputError
from pyro_vae.svi import CompiledSVI
from pyro_vae.svi.cpu.adam import is_plain_adam

X = torch.randn(30, generator=torch.Generator().manual_seed(0)) + 2
WRAPPERS = {
    "Adam": lambda: pyro.optim.Adam({"lr": 0.05}),
    "Adam, clipped": lambda: pyro.optim.Adam({"lr": 0.05}, {"clip_norm": 0.5}),
    "Adam, by name": lambda: pyro.optim.Adam(lambda name: {"lr": 0.1 if name == "loc" else 0.01}),
    "AdamW": lambda: pyro.optim.AdamW({"lr": 0.05, "weight_decay": 0.1}),
    "SGD": lambda: pyro.optim.SGD({"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.1}),
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


def late_model(x, both):
    loc = pyro.param("late", torch.tensor(1.0)) if both else 0.0
    model(x - loc)


def late_guide(x, both):
    guide(x)


def values():
    return {name: value.detach().clone() for name, value in pyro.get_param_store().items()}


def after(optim, kinds, steps=6):
    """The parameters after some steps of an SVI of each kind, one SVI after the other, with one optimizer."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    for kind in kinds:
        svi = kind(model, guide, optim, loss=Trace_ELBO())
        for _ in range(steps):
            svi.step(X)
    return values()


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-5, atol=1e-6)


@every_wrapper
@pytest.mark.parametrize(
    "kinds", [(SVI, CompiledSVI), (CompiledSVI, SVI), (CompiledSVI, CompiledSVI, SVI, CompiledSVI)], ids=len
)
def test_one_goes_on_where_the_other_stopped(wrapper, kinds):
    assert_same(after(wrapper(), kinds), after(wrapper(), [SVI] * len(kinds)))


@every_wrapper
def test_two_take_turns(wrapper):
    runs = []
    for kind in (SVI, CompiledSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        optim = wrapper()
        first, second = (kind(model, guide, optim, loss=Trace_ELBO()) for _ in range(2))
        for _ in range(6):
            first.step(X)
            second.step(X[:20])
        runs.append(values())
    assert_same(runs[1], runs[0])


@every_wrapper
def test_the_wrapper_has_the_state(wrapper):
    states = []
    for kind in (SVI, CompiledSVI):
        optim = wrapper()
        after(optim, [kind])
        states.append(optim.get_state())
    expected, actual = states
    assert actual.keys() == expected.keys()
    for name, state in expected.items():
        assert state["state"], "a state to compare"
        for key, value in state["state"][0].items():
            torch.testing.assert_close(actual[name]["state"][0][key], value, rtol=1e-5, atol=1e-6)
        assert actual[name]["param_groups"][0]["lr"] == state["param_groups"][0]["lr"]


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
    assert_same(values(), expected)


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
        noise = torch.get_rng_state()
        params = {name: value.detach().clone() for name, value in pyro.get_param_store()._params.items()}
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
        assert_same(values(), expected)


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
    runs = []
    for kind in (SVI, lambda *args, **kwargs: CompiledSVI(*args, **kwargs, compile=compile)):
        pyro.clear_param_store()
        torch.manual_seed(0)
        net = SometimesUsed()
        svi = kind(net.model, net.guide, wrapper(), loss=Trace_ELBO())
        for both in order:
            svi.step(X[:, None], both)
        runs.append({name: value.detach().clone() for name, value in net.named_parameters()})
    assert_same(runs[1], runs[0])


@every_wrapper
@pytest.mark.parametrize("kinds", [(CompiledSVI, CompiledSVI), (SVI, CompiledSVI)], ids=["own", "after Pyro's"])
def test_zeros_are_also_those_of_another_svi(wrapper, kinds):
    runs = []
    for of_steps in ((SVI, SVI), kinds):
        pyro.clear_param_store()
        torch.manual_seed(0)
        net, optim = SometimesUsed(), wrapper()
        for kind, both in zip(of_steps, (True, False), strict=True):
            svi = kind(net.model, net.guide, optim, loss=Trace_ELBO())
            for _ in range(5):
                svi.step(X[:, None], both)
        runs.append({name: value.detach().clone() for name, value in net.named_parameters()})
    assert_same(runs[1], runs[0])


@every_wrapper
@pytest.mark.parametrize("kinds", [(CompiledSVI,) * 4, (CompiledSVI, SVI, CompiledSVI, SVI)], ids=["own", "both"])
@pytest.mark.parametrize("compile", ["off", "capture"])
def test_only_the_parameters_of_a_step_are_stepped(wrapper, kinds, compile):
    """Whatever gradients others have, and however their rates decay."""
    runs = []
    for of_steps in ((SVI,) * 4, kinds):
        pyro.clear_param_store()
        torch.manual_seed(0)
        optim = wrapper()
        options = {SVI: {}, CompiledSVI: {"compile": compile}}
        svis = {kind: kind(late_model, late_guide, optim, loss=Trace_ELBO(), **options[kind]) for kind in set(of_steps)}
        for number, kind in enumerate(of_steps):
            for _ in range(4):
                svis[kind].step(X, number % 3 < 2)
        runs.append(values())
    assert_same(runs[1], runs[0])


def forget_all(optim, param):
    optim.optim_objs.clear()


def forget_state(optim, param):
    optim.optim_objs[param].state.clear()


def load_another(optim, param):
    state = optim.optim_objs[param].state_dict()
    state["param_groups"][0]["lr"] *= 0.5
    state["state"] = {0: {name: value * 1 for name, value in state["state"].get(0, {}).items()}}
    optim.optim_objs[param].load_state_dict(state)


@every_wrapper
@pytest.mark.parametrize("change", [forget_all, forget_state, load_another])
def test_what_is_replaced_in_a_wrapper_counts(wrapper, change):
    runs = []
    for kind in (SVI, CompiledSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        optim = wrapper()
        svi = kind(late_model, late_guide, optim, loss=Trace_ELBO())
        for step in range(12):
            svi.step(X, step > 7)
            if step == 5:
                change(optim, pyro.get_param_store()._params["loc"])
        runs.append(values())
    assert_same(runs[1], runs[0])


def test_two_of_one_wrapper_stay_together_after_a_load():
    pyro.clear_param_store()
    optim = pyro.optim.Adam({"lr": 0.05})
    first, second = (CompiledSVI(model, guide, optim) for _ in range(2))
    for svi in (first, second, first):
        svi.step(X)
    first.load_state_dict(first.state_dict())
    for svi in (first, second, first, second):
        svi.step(X)
    of_params = [state["state"][0] for svi in (first, second) for state in svi.state_dict().values()]
    assert [int(state["step"]) for state in of_params] == [7] * 4


def test_a_state_is_that_of_the_optimizer():
    """Torch's, also before the first step; a Pyro optimizer, which keeps a state by name, refuses torch's."""
    pyro.clear_param_store()
    svi = CompiledSVI(model, guide, torch.optim.Adam)
    for _ in range(3):
        svi.step(X)
    state = svi.state_dict()
    assert len(state["param_groups"]) == 1
    for steps_before in (0, 1):
        later = CompiledSVI(model, guide, torch.optim.Adam)
        for _ in range(steps_before):
            later.step(X)
        later.load_state_dict(copy.deepcopy(state))  # of which torch takes the tensors themselves
        later.step(X)
        assert [int(param_state["step"]) for param_state in later.state_dict()["state"].values()] == [4, 4]
    for optim in (pyro.optim.ClippedAdam({"lr": 0.05}), pyro.optim.Adam({"lr": 0.05})):
        with pytest.raises(InputError, match="state: given 'the state of a torch optimizer'"):
            CompiledSVI(model, guide, optim).load_state_dict(state)


class Scaled(torch.optim.Optimizer):
    """Keeps an option to itself, and asks for it."""

    def __init__(self, params, lr, scale):
        super().__init__(params, {"lr": lr})
        self.scale = scale

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for param in group["params"]:
                param -= group["lr"] * self.scale * param.grad


ADAM = (torch.optim.Adam, {"lr": 0.05})


class Frozen(PyroOptim):
    def __call__(self, params, *args, **kwargs):
        pass


class AllButScale(PyroOptim):
    """Pyro calls it with a set."""

    def __call__(self, params, *args, **kwargs):
        super().__call__(params - {pyro.get_param_store()._params["scale"]}, *args, **kwargs)


class ByName(PyroOptim):
    """As `HorovodOptimizer`."""

    def __call__(self, params, *args, **kwargs):
        super().__call__(sorted(params, key=pyro.get_param_store().param_name), *args, **kwargs)


class TwiceTheGradient(PyroOptim):
    def __call__(self, params, *args, **kwargs):
        for param in params:
            param.grad *= 2
        super().__call__(params, *args, **kwargs)


class Descends(PyroOptim):
    def _get_optim(self, param):
        return torch.optim.SGD([param], lr=1e-3)


class Clips(PyroOptim):
    def _get_grad_clip(self, param):
        return lambda param: param.grad.clamp_(-0.1, 0.1)


class Halves(PyroLRScheduler):
    def __call__(self, params, *args, **kwargs):
        super().__call__(params, *args, **kwargs)
        self.step()


class StepsBack(torch.optim.Adam):
    def step(self, closure=None):
        for group in self.param_groups:
            for param in group["params"]:
                param.grad.neg_()
        return super().step(closure)


class WrapsStep(StepsBack):
    @functools.wraps(torch.optim.Adam.step)
    def step(self, closure=None):
        return super().step(closure)


class Selects(torch.optim.Adam):
    """Chooses the gradients of a step."""

    def _init_group(self, group, params, gradients, *others):
        result = super()._init_group(group, params, gradients, *others)
        gradients[:] = [gradient.neg() for gradient in gradients]
        return result


def hooked(params, **options):
    optimizer = torch.optim.Adam(params, **options)
    optimizer.register_step_post_hook(lambda optimizer, *_: optimizer.param_groups[0]["params"][0].data.mul_(0.9))
    return optimizer


OVERRIDDEN = {
    "__call__ that does nothing": lambda: Frozen(*ADAM),
    "__call__ with fewer parameters": lambda: AllButScale(*ADAM),
    "__call__ in another order": lambda: ByName(*ADAM),
    "__call__ that changes gradients": lambda: TwiceTheGradient(torch.optim.AdamW, {"lr": 0.05, "eps": 1.0}),
    "_get_optim": lambda: Descends(*ADAM),
    "_get_grad_clip": lambda: Clips(torch.optim.Adam, {"lr": 0.05, "eps": 1.0}),
    "scheduler": lambda: Halves(
        torch.optim.lr_scheduler.ExponentialLR,
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.5},
    ),
    "step": lambda: PyroOptim(StepsBack, {"lr": 0.05}),
    "step that wraps torch's": lambda: PyroOptim(WrapsStep, {"lr": 0.05}),
    "_init_group": lambda: PyroOptim(Selects, {"lr": 0.05}),
    "hook": lambda: PyroOptim(hooked, {"lr": 0.05}),
    "maximize": lambda: pyro.optim.Adam({"lr": 0.05, "maximize": True}),
    "amsgrad": lambda: pyro.optim.Adam({"lr": 0.05, "amsgrad": True}),
    "rate in a tensor": lambda: pyro.optim.Adam({"lr": torch.tensor(0.05)}),
    "DCTAdam": lambda: pyro.optim.DCTAdam({"lr": 0.05}),
    "AdagradRMSProp": lambda: pyro.optim.AdagradRMSProp({"eta": 0.05}),
    "function": lambda: PyroOptim(lambda params, **options: torch.optim.Adam(params, **options), {"lr": 0.05}),
}


@pytest.mark.parametrize("wrapper", OVERRIDDEN.values(), ids=OVERRIDDEN)
@pytest.mark.parametrize("kinds", [(CompiledSVI,), (SVI, CompiledSVI), (CompiledSVI, SVI)], ids=["own", "to", "from"])
def test_what_a_wrapper_or_its_optimizers_override_counts(wrapper, kinds):
    assert_same(after(wrapper(), kinds), after(wrapper(), [SVI] * len(kinds)))


def replace_optimizer(optim, param):
    optim.optim_objs[param] = torch.optim.SGD([param], lr=1e-3)


def add_hook(optim, param):
    optim.optim_objs[param].register_step_post_hook(lambda optimizer, *_: param.data.mul_(0.9))


def override_step(optim, param):
    optim.optim_objs[param].step = lambda: None


def add_clipping(optim, param):
    optim.grad_clip[param] = lambda param: param.grad.zero_()


@pytest.mark.parametrize("change", [replace_optimizer, add_hook, override_step, add_clipping])
def test_what_is_overridden_later_counts(change):
    test_what_is_replaced_in_a_wrapper_counts(WRAPPERS["Adam"], change)


def test_hooks_of_all_optimizers_are_called():
    pyro.clear_param_store()
    calls = []
    for optim in (torch.optim.Adam, pyro.optim.Adam({"lr": 0.05})):
        svi = CompiledSVI(model, guide, optim, compile="capture")
        for _ in range(3):
            svi.step(X)
        calls.clear()
        handle = register_optimizer_step_post_hook(lambda *_: calls.append(1))
        svi.step(X)
        handle.remove()
        assert calls


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        (lambda param: torch.optim.LBFGS([param]), "optim: given 'LBFGS', expected an optimizer whose step needs no"),
        (lambda param: torch.optim.LBFGS, "optim: given 'LBFGS', expected an optimizer whose step needs no"),
        (lambda param: MixedMultiOptimizer([(["loc"], pyro.optim.Adam({}))]), "optim: given 'MixedMultiOptimizer'"),
    ],
)
def test_optimizers_that_estimate_the_loss_themselves_are_refused(optim, message):
    pyro.clear_param_store()
    with pytest.raises(InputError, match=message):
        CompiledSVI(model, guide, optim(torch.ones(1, requires_grad=True))).step(X)


def test_an_optimizer_of_ones_own_has_its_arguments():
    runs = [after(pyro.optim.PyroOptim(Scaled, {"lr": 0.01, "scale": 0.3}), [kind]) for kind in (SVI, CompiledSVI)]
    assert_same(runs[1], runs[0])


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
    runs = []
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
        runs.append(values())
    assert_same(runs[1], runs[0])


@pytest.mark.parametrize("compile", ["capture", "inductor"])
def test_rates_that_part_between_many_steps_are_followed(compile):
    runs = []
    for kind in (SVI, lambda *args, **kwargs: CompiledSVI(*args, **kwargs, compile=compile)):
        pyro.clear_param_store()
        torch.manual_seed(0)
        optim = pyro.optim.Adam({"lr": 0.05})
        svi = kind(model, guide, optim, loss=Trace_ELBO())
        many = svi.steps([(X,)] * 130) if isinstance(svi, CompiledSVI) else (svi.step(X) for _ in range(130))
        for step, _ in enumerate(many):
            if step == 115:
                optim.optim_objs[pyro.get_param_store()._params["loc"]].param_groups[0]["lr"] = 0.5
        runs.append(values())
    assert_same(runs[1], runs[0])


def schedulers():
    adam = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}}
    return {
        "StepLR": lambda: pyro.optim.StepLR({**adam, "step_size": 2, "gamma": 0.1}),
        "OneCycleLR": lambda: pyro.optim.OneCycleLR({**adam, "max_lr": 0.5, "total_steps": 20}),
        "of SGD": lambda: pyro.optim.ExponentialLR(
            {"optimizer": torch.optim.SGD, "optim_args": {"lr": 1e-3, "momentum": 0.9}, "gamma": 0.5}
        ),
    }


@pytest.mark.parametrize("make", schedulers().values(), ids=schedulers())
@pytest.mark.parametrize(
    "kinds", [(CompiledSVI,) * 2, (SVI, CompiledSVI), (CompiledSVI, SVI)], ids=["own", "to", "from"]
)
@pytest.mark.parametrize("saved", [False, True])
def test_schedulers_are_pyros(make, kinds, saved):
    """With a parameter that appears later, and from one to the other, also by way of what the wrapper saves."""
    runs = []
    for of_steps in ((SVI, SVI), kinds):
        pyro.clear_param_store()
        torch.manual_seed(0)
        optim = make()
        for number, kind in enumerate(of_steps):
            if number and saved:
                state, optim = optim.get_state(), make()
                optim.set_state(state)
            svi = kind(late_model, late_guide, optim, loss=Trace_ELBO())
            for step in range(8):
                svi.step(X, number + step > 2)
                optim.step()
        runs.append(values())
    assert_same(runs[1], runs[0])


def test_the_optimizers_of_a_wrapper_are_one_kernel():
    svi = CompiledSVI(model, guide, pyro.optim.Adam({"lr": 0.05}))
    pyro.clear_param_store()
    svi.step(X)
    adam = svi.optimizer.fused_adam(list(pyro.get_param_store()._params.values()))
    assert [len(group.params) for group in adam._groups] == [2]


def test_torch_compile_leaves_the_step_to_the_kernel(monkeypatch):
    """Its first call in a process puts a mark around this method of every optimizer."""
    marked = torch._dynamo.disable(torch.optim.Adam._init_group)
    optimizer = torch.optim.Adam([torch.ones(2, requires_grad=True)])
    monkeypatch.setattr(torch.optim.Adam, "_init_group", marked)
    assert is_plain_adam(optimizer)
    monkeypatch.setattr(torch.optim.Adam, "_init_group", functools.wraps(marked)(lambda *arguments: marked(*arguments)))
    assert not is_plain_adam(optimizer)


def test_a_step_that_the_compiler_wraps_otherwise_is_run_as_it_is():
    """Some of its decorators leave no mark."""

    class Wrapped(torch.optim.Adam):
        @torch._dynamo.error_on_graph_break(False)
        def step(self, closure=None):
            return super().step(closure)

    assert not is_plain_adam(Wrapped([torch.ones(2, requires_grad=True)]))


class OfOnesOwn(torch.optim.Adam):
    """With torch's own step."""


class StepsTwice(torch.optim.Adam):
    def step(self, closure=None):
        super().step()
        return super().step(closure)


@pytest.mark.parametrize("compile", ["capture", "inductor"])
@pytest.mark.parametrize("kind", [torch.optim.Adam, OfOnesOwn, StepsTwice])
def test_a_scheduler_of_torchs_leaves_the_step_to_the_kernel(kind, compile):
    """It wraps `step` to see that it was called; a step of another class is run as it is."""
    after = []
    for of_steps in ("off", compile):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = CompiledSVI(model, guide, lambda groups: kind(groups, lr=0.05, fused=True), compile=of_steps)
        svi.step(X)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(svi.optimizer.optimizer, 0.9)
        for _ in range(6):
            svi.step(X)
            scheduler.step()
        after.append(values())
    assert_same(after[1], after[0])
    adam = svi.optimizer.fused_adam(list(pyro.get_param_store()._params.values()))
    assert (adam is None) == (kind is StepsTwice)


def test_a_step_that_somebody_else_has_wrapped_is_run_as_it_is():
    pyro.clear_param_store()
    svi = CompiledSVI(model, guide, torch.optim.Adam, compile="capture")
    svi.step(X)
    optimizer, calls = svi.optimizer.optimizer, []
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    original = optimizer.step

    @functools.wraps(original)
    def counted(*args):
        calls.append(1)
        return original(*args)

    optimizer.step = counted
    for _ in range(3):
        svi.step(X)
    assert len(calls) == 3
