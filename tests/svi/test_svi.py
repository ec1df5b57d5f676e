"""The captured step against Pyro's own, on VAEs and on programs that are none."""

import copy
import dataclasses
import math
import re
import warnings
from functools import partial

import numpy
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    SVI,
    RenyiELBO,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import (
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_median,
)
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

from pyro_vae import Spec, build, fit
from pyro_vae._utils.checks import InputError
from pyro_vae.svi import CompiledSVI, NotFiniteError, backends
from pyro_vae.svi.guards import Reads
from pyro_vae.svi.signature import Arguments

SPEC = Spec(image_shape=(1, 8, 8), latent_dim=3, hidden=(16,))
X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([1.0, -2.0, 0.5]) + 0.3


def pictures(n):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(n))


def params():
    """By name, without the prefix that each VAE has of its own."""
    store = pyro.get_param_store()
    return {re.sub(r"^[^.$]+\.", "", name): value.detach().clone() for name, value in store.items()}


def trained(make_svi, batches):
    """Losses and parameters after a step on each batch, from a clean store and seed 0."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    svi = make_svi()
    losses = [svi.step(*batch) for batch in batches]
    return svi, losses, params()


def equal_to_pyro(make_pair, batches, make_loss=Trace_ELBO, rtol=1e-4, compile="capture", adam=None):
    adam = adam or (lambda: pyro.optim.Adam({"lr": 0.01}))
    _, losses, expected = trained(lambda: SVI(*make_pair(), adam(), make_loss()), batches)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # so that nothing ran eagerly
        svi, actual_losses, actual = trained(
            lambda: CompiledSVI(*make_pair(), adam(), make_loss(), compile=compile), batches
        )
    assert actual_losses == pytest.approx(losses, rel=rtol)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, rtol=rtol, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    return svi


# --- VAEs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous-bernoulli", "gaussian", "gaussian-learned"])
@pytest.mark.parametrize("posterior", ["normal", "planar", "conditional-planar"])
def test_vae_equals_pyro_over_100_steps(likelihood, posterior):
    def pair():
        torch.manual_seed(1)
        vae = build(dataclasses.replace(SPEC, likelihood=likelihood, posterior=posterior))
        return vae.model, vae.guide

    batches = [(pictures(8).roll(i, 0), 2.0) for i in range(100)]
    svi = equal_to_pyro(pair, batches)
    assert svi.signatures == 1


@pytest.mark.parametrize(
    "loss",
    [
        TraceMeanField_ELBO,
        TraceGraph_ELBO,
        lambda: Trace_ELBO(num_particles=3),
        lambda: Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        lambda: RenyiELBO(alpha=0, num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        lambda: RenyiELBO(alpha=0.5, num_particles=2),
    ],
)
def test_every_loss_equals_pyro(loss):
    def pair():
        torch.manual_seed(1)
        vae = build(SPEC)
        return vae.model, vae.guide

    assert equal_to_pyro(pair, [(pictures(8).roll(i, 0),) for i in range(20)], loss).signatures == 1


def test_inductor_equals_pyro_under_the_same_noise(monkeypatch):
    def pair():
        torch.manual_seed(1)
        vae = build(SPEC)
        return vae.model, vae.guide

    compiled, original = [], backends.inductor
    monkeypatch.setattr(backends, "inductor", lambda *arguments: compiled.append(1) or original(*arguments))
    equal_to_pyro(pair, [(pictures(8).roll(i, 0),) for i in range(30)], compile="inductor", rtol=1e-3)
    assert compiled


def test_the_last_short_batch_and_a_schedule_of_beta():
    """Another batch size is another capture; a float that changes, after three values, is not."""

    def pair():
        torch.manual_seed(1)
        vae = build(SPEC)
        return vae.model, vae.guide

    sizes = [8, 8, 5] * 10
    batches = [(pictures(size), 0.1 * (i + 1)) for i, size in enumerate(sizes)]
    svi = equal_to_pyro(pair, batches)
    assert svi.signatures <= 6
    tensors = [(x, torch.tensor(beta)) for x, beta in batches]
    assert trained(lambda: CompiledSVI(*pair(), pyro.optim.Adam({"lr": 0.01})), tensors)[0].signatures == 2


def test_evaluate_loss_equals_pyro_and_leaves_the_parameters():
    vae = build(SPEC)
    options = (vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}))
    pyros, ours = SVI(*options, Trace_ELBO()), CompiledSVI(*options)
    before = copy.deepcopy(vae.state_dict())
    for _ in range(3):
        torch.manual_seed(0)
        expected = pyros.evaluate_loss(pictures(8))
        torch.manual_seed(0)
        assert ours.evaluate_loss(pictures(8)) == pytest.approx(expected, rel=1e-5)
    assert ours.signatures == 1
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


# --- other programs -----------------------------------------------------------------------------------------------


def regression(x, y):
    weight = pyro.sample("weight", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, scale), obs=y)


SCALES = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])


def eight_schools():
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    spread = pyro.sample("spread", dist.HalfCauchy(10.0))
    with pyro.plate("schools", 8):
        effect = pyro.sample("effect", dist.Normal(mean, spread))
        pyro.sample("y", dist.Normal(effect, SCALES), obs=EFFECTS)


@pytest.mark.parametrize("auto", [AutoNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal, AutoIAFNormal])
@pytest.mark.parametrize("program", ["regression", "eight schools"])
def test_autoguides_equal_pyro(auto, program):
    model, batch = (regression, (X, Y)) if program == "regression" else (eight_schools, ())
    options = {} if auto is AutoIAFNormal else {"init_loc_fn": init_to_median}
    equal_to_pyro(lambda: (model, auto(model, **options)), [batch] * 50, rtol=1e-3)


def test_subsampling_and_constrained_params_and_mask():
    def model(x, y):
        weight = pyro.sample("weight", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x), subsample_size=10) as index, pyro.poutine.mask(mask=y[index] > -1):
            pyro.sample("y", dist.Normal(x[index] @ weight, 0.5), obs=y[index])

    def guide(x, y):
        loc = pyro.param("loc", torch.zeros(3))
        scale = pyro.param("scale", torch.full((3,), 0.3), constraint=dist.constraints.positive)
        pyro.sample("weight", dist.Normal(loc, scale).to_event(1))
        with pyro.plate("data", len(x), subsample_size=10):
            pass

    equal_to_pyro(lambda: (model, guide), [(X, Y)] * 40)


def test_a_score_function_estimator_and_pyro_modules():
    class Linear(PyroModule):
        def __init__(self):
            super().__init__()
            self.bias = PyroParam(torch.tensor(0.0))
            self.weight = PyroSample(dist.Normal(torch.zeros(3), 1.0).to_event(1))

        def forward(self, x, y):
            mean = x @ self.weight + self.bias
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    def pair():
        module = Linear()
        return module, AutoNormal(module)

    equal_to_pyro(pair, [(X, Y)] * 40)

    def discrete(x):
        flag = pyro.sample("flag", dist.Bernoulli(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(flag, 1.0), obs=x)

    def guide(x):
        pyro.sample(
            "flag", dist.Bernoulli(pyro.param("p", torch.tensor(0.4), constraint=dist.constraints.unit_interval))
        )

    for loss in (Trace_ELBO, TraceGraph_ELBO):
        equal_to_pyro(lambda: (discrete, guide), [(Y,)] * 40, loss)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: pyro.optim.AdamW({"lr": 0.01, "weight_decay": 0.1}),
        lambda: pyro.optim.SGD({"lr": 1e-4, "momentum": 0.9}),
        lambda: pyro.optim.ClippedAdam({"lr": 0.01, "clip_norm": 1.0, "lrd": 0.99}),
        lambda: pyro.optim.Adam({"lr": 0.01}, {"clip_norm": 0.5}),
        lambda: pyro.optim.Adam(lambda name: {"lr": 0.1 if "loc" in name else 0.01}),
    ],
)
def test_every_optimizer_equals_pyro(optimizer):
    equal_to_pyro(lambda: (regression, AutoNormal(regression)), [(X, Y)] * 40, rtol=1e-3, adam=optimizer)


def test_a_scheduler_is_stepped_by_its_wrapper():
    params_by_kind = {}
    for kind in (SVI, CompiledSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        schedule = pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.5})
        svi = kind(regression, AutoNormal(regression), schedule, Trace_ELBO())
        for _ in range(6):
            for _ in range(5):
                svi.step(X, Y)
            schedule.step()
        params_by_kind[kind] = params()
    for name, value in params_by_kind[SVI].items():
        torch.testing.assert_close(params_by_kind[CompiledSVI][name], value, rtol=1e-3, atol=1e-5)


def test_torch_optimizers_as_class_factory_and_instance():
    results = []
    for make in (
        lambda vae: torch.optim.Adam,
        lambda vae: lambda groups: torch.optim.Adam(groups, lr=1e-3),
        lambda vae: torch.optim.Adam(vae.parameters(), lr=1e-3),
    ):
        pyro.clear_param_store()
        torch.manual_seed(0)
        vae = build(SPEC)
        svi = CompiledSVI(vae.model, vae.guide, make(vae))
        results.append([svi.step(pictures(8)) for _ in range(5)])
    assert results[0] == pytest.approx(results[1])
    assert results[0] == pytest.approx(results[2])


@pytest.mark.parametrize("seed", range(5))
def test_a_sum_of_parameters_is_captured(seed):
    """Whatever lies in the memory that its gradients get: they are compared before that is given back."""
    torch.manual_seed(seed)
    pyro.clear_param_store()

    def model(x):
        weight = pyro.param("a", torch.randn(3, 2)) + pyro.param("b", torch.randn(3, 2))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal((x @ weight).sum(-1), 1.0), obs=x[:, 0])

    svi = CompiledSVI(model, lambda x: None, torch.optim.Adam)
    for _ in range(3):
        svi.step(X)
    assert svi.signatures == 1


# --- what stays live ----------------------------------------------------------------------------------------------


def test_an_argument_given_twice_or_held_by_the_program_is_not_taken_for_one_thing():
    held = torch.ones(4)

    def model(x, y):
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("x", dist.Normal(loc + x + 10 * y + 100 * held, 1.0).to_event(1), obs=torch.zeros(4))

    def guide(x, y):
        pass

    for first in ((held, held), (torch.ones(4).expand(2, 4).T[:, 0], held)):
        pyro.clear_param_store()
        svi = CompiledSVI(model, guide, lambda groups: torch.optim.SGD(groups, lr=0.0))
        eager = CompiledSVI(model, guide, lambda groups: torch.optim.SGD(groups, lr=0.0), compile="off")
        for arguments in (first, first, (torch.full((4,), 2.0), torch.full((4,), 3.0)), (torch.zeros(8)[::2], held)):
            assert svi.step(*arguments) == pytest.approx(eager.step(*arguments))
        assert svi.signatures >= 2


def test_an_argument_that_requires_gradients_runs_eagerly():
    svi = CompiledSVI(regression, AutoNormal(regression), torch.optim.Adam)
    with pytest.warns(UserWarning, match="requires gradients"):
        svi.step(X, Y.clone().requires_grad_())


def test_buffers_data_attributes_and_training_mode_stay_live():
    class Program:
        def __init__(self):
            self.offset = torch.tensor(0.0)
            self.power = 1.0

        def model(self):
            loc = pyro.param("loc", torch.tensor(1.0))
            pyro.sample("x", dist.Normal(self.power * loc + self.offset, 1.0), obs=torch.tensor(0.0))

        def guide(self):
            pass

    program = Program()
    svi = CompiledSVI(program.model, program.guide, lambda groups: torch.optim.SGD(groups, lr=0.0))
    normalizer = 0.5 * math.log(2 * math.pi)

    def squared_mean():
        return 2 * (svi.step() - normalizer)

    assert [squared_mean() for _ in range(3)] == pytest.approx([1.0] * 3)
    program.offset.fill_(1.0)  # in place
    assert squared_mean() == pytest.approx(4.0)
    program.offset = torch.tensor(2.0)  # another tensor
    assert squared_mean() == pytest.approx(9.0)
    program.power = 2.0  # a plain attribute
    assert squared_mean() == pytest.approx(16.0)
    with torch.no_grad():  # a parameter, in place
        pyro.get_param_store()._params["loc"].fill_(0.0)
    assert squared_mean() == pytest.approx(4.0)
    pyro.get_param_store()["loc"] = torch.tensor(3.0)  # another parameter
    assert squared_mean() == pytest.approx(64.0)


@pytest.mark.parametrize("compile", ["capture", "inductor"])
def test_dropout_and_batch_norm_follow_the_mode(compile):
    torch.manual_seed(0)
    vae = build(SPEC)
    # No bias before the norm, which takes it out: its gradient is rounding alone, and Adam would make steps of that.
    dense = nn.Linear(64, 8, bias=False)
    vae.encoder = nn.Sequential(nn.Flatten(), dense, nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 6))
    reference = copy.deepcopy(vae)

    def run(kind, model):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = kind(model.model, model.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        losses = [svi.step(pictures(8)) for _ in range(4)]
        model.eval()
        losses += [svi.evaluate_loss(pictures(8)) for _ in range(3)]
        model.train()
        return [*losses, *(svi.step(pictures(8)) for _ in range(3))]

    assert run(partial(CompiledSVI, compile=compile), vae) == pytest.approx(run(SVI, reference), rel=1e-4)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(vae.state_dict()[name], value, rtol=1e-3, atol=1e-5)


# --- what can't be captured ---------------------------------------------------------------------------------------


def simple_guide(x):
    loc = pyro.param("loc", torch.tensor(0.1))
    pyro.sample("z", dist.Normal(loc, 1.0))


def branching(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    scale = 1.0 if x.sum() > 0 else 10.0
    pyro.sample("x", dist.Normal(z, scale).expand([len(x)]).to_event(1), obs=x)


def reading(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1 + float(x.numpy().max())).expand([len(x)]).to_event(1), obs=x)


CALLS = []


def counting(x):
    CALLS.append(1)
    z = pyro.sample("z", dist.Normal(0.0, float(len(CALLS))))
    pyro.sample("x", dist.Normal(z, 1.0).expand([len(x)]).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (branching, "reads a number back"),
        (reading, "reads numbers back from a tensor, by .numpy"),
        (counting, "each run of it changes the global variable.CALLS"),
    ],
)
def test_what_cannot_be_captured_runs_eagerly_and_says_why_once(model, reason):
    CALLS.clear()
    batches = [(Y * (-1) ** i,) for i in range(6)]
    _, losses, expected = trained(
        lambda: SVI(model, simple_guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()), batches
    )
    CALLS.clear()
    with pytest.warns(UserWarning, match=f"runs eagerly: .*{reason}") as caught:
        svi, actual, actual_params = trained(
            lambda: CompiledSVI(model, simple_guide, pyro.optim.Adam({"lr": 0.01})), batches
        )
    assert len(caught) == 1
    assert svi.signatures == 0
    assert actual == pytest.approx(losses)
    assert actual_params["loc"].item() == pytest.approx(expected["loc"].item())


def test_a_gradient_that_is_not_finite_on_other_values_is_no_reason_to_run_eagerly():
    """The captured step is compared with the program on perturbed parameters, or on theirs where those overflow."""

    def model():
        loc = pyro.param("loc", torch.tensor(0.5))
        perturbed = 0.5 * (1 + 2**-6) + 2**-6  # where the root has no derivative
        pyro.sample("x", dist.Normal((loc - perturbed).abs().sqrt(), 1.0), obs=torch.tensor(1.0))

    svi = CompiledSVI(model, lambda: None, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO(), compile="capture")
    assert all(math.isfinite(svi.step()) for _ in range(3))
    assert svi.signatures == 1


def test_other_arguments_run_eagerly():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand([len(x)]).to_event(1), obs=torch.as_tensor(x))

    svi = CompiledSVI(model, simple_guide, torch.optim.Adam)
    with pytest.warns(UserWarning, match="an argument is a ndarray"):
        svi.step(Y.numpy())
    assert svi.signatures == 0


def test_no_compiler_falls_back_with_one_message(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr("torch._inductor.compile", fails)

    def losses(compile):
        pyro.clear_param_store()
        torch.manual_seed(0)
        vae = build(SPEC)
        svi = CompiledSVI(vae.model, vae.guide, torch.optim.Adam, compile=compile)
        return [svi.step(pictures(8)) for _ in range(5)]

    with pytest.warns(UserWarning, match="not compiled: no C") as caught:
        actual = losses("inductor")
    assert len(caught) == 1
    assert actual == pytest.approx(losses("off"), rel=1e-4)


# --- numbers that are lost, state, input --------------------------------------------------------------------------


def test_a_lost_number_names_its_step():
    vae = build(SPEC)
    svi = CompiledSVI(vae.model, vae.guide, torch.optim.Adam)
    for _ in range(3):
        svi.step(pictures(8))
    with torch.no_grad():
        vae.decoder[0].bias[0] = math.nan
    with pytest.raises(NotFiniteError, match="the loss is nan at step 4"):
        svi.step(pictures(8))
    svi = CompiledSVI(vae.model, vae.guide, torch.optim.Adam)
    svi.ready = True
    with pyro.validation_enabled(False), warnings.catch_warnings(), pytest.raises(NotFiniteError) as caught:
        warnings.simplefilter("ignore")
        for _ in range(1000):
            svi.step_tensor(pictures(8))
    assert (caught.value.step, svi.steps_taken) == (1, 200)


def test_a_lost_number_of_a_step_tensor_is_told_after_a_step():
    sgd, nothing = partial(torch.optim.SGD, lr=0.1), lambda x: None
    svi = CompiledSVI(nothing, nothing, sgd, loss=lambda model, guide, x: x, compile="off")
    for x in (1.0, math.nan):
        svi.step_tensor(torch.tensor(x))
    svi.step(torch.tensor(1.0))
    with pytest.raises(NotFiniteError, match="the loss is nan at step 2"):
        svi.check_finite()


def test_state_goes_from_compiled_to_eager_and_back():
    def steps(kinds):
        pyro.clear_param_store()
        torch.manual_seed(0)
        vae, state, losses = build(SPEC), {}, []
        for kind in kinds:
            svi = CompiledSVI(vae.model, vae.guide, torch.optim.Adam, compile=kind)
            svi.load_state_dict(state)
            losses += [svi.step(pictures(8)) for _ in range(5)]
            state = copy.deepcopy(svi.state_dict())
        return losses

    expected = steps(["off"] * 3)
    assert steps(["capture", "off", "capture"]) == pytest.approx(expected, rel=1e-5)


def test_bfloat16_stays_close_and_keeps_its_parameters_in_float32():
    def losses(precision):
        pyro.clear_param_store()
        torch.manual_seed(0)
        vae = build(dataclasses.replace(SPEC, network={"kind": "conv", "channels": (4,)}, hidden=(16,)))
        svi = CompiledSVI(vae.model, vae.guide, torch.optim.Adam, precision=precision)
        values = [svi.step(pictures(8)) for _ in range(60)]
        assert {parameter.dtype for parameter in vae.parameters()} == {torch.float32}
        return values

    full, half = losses("fp32"), losses("bf16")
    assert (half != full) == backends.processor_multiplies_bfloat16()
    assert half == pytest.approx(full, rel=0.01)


@pytest.mark.parametrize("compile", ["capture", "inductor"])
def test_on_a_processor_that_does_not_multiply_bfloat16_it_is_float32_and_said(compile, monkeypatch):
    """Where torch would take ten times as long for it."""
    monkeypatch.setattr(backends, "processor_multiplies_bfloat16", lambda: False)

    def losses(precision):
        pyro.clear_param_store()
        torch.manual_seed(0)
        vae = build(SPEC)
        svi = CompiledSVI(vae.model, vae.guide, torch.optim.Adam, compile=compile, precision=precision)
        return [svi.step(pictures(8)) for _ in range(8)]

    with pytest.warns(UserWarning, match="no instructions for bfloat16, so that products stay in float32") as warned:
        half = losses("bf16")
    assert len(warned) == 1
    assert half == losses("fp32")


@pytest.mark.parametrize("of", ["float64", "no products"])
def test_where_there_is_nothing_to_round_nothing_is_said(of, monkeypatch, recwarn):
    monkeypatch.setattr(backends, "processor_multiplies_bfloat16", lambda: False)
    warnings.simplefilter("always")
    dtype = torch.float64 if of == "float64" else torch.float32
    x = torch.ones(3, 2, dtype=dtype)

    def model(x):
        weight = pyro.param("weight", torch.ones(2, 1, dtype=dtype))
        mean = x @ weight if of == "float64" else x * weight[:, 0]
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(2), obs=torch.zeros_like(mean))

    svi = CompiledSVI(model, lambda x: None, torch.optim.Adam, compile="capture", precision="bf16")
    for _ in range(4):
        svi.step(x)
    assert svi.signatures == 1
    assert not list(recwarn)


def test_bfloat16_is_no_reason_to_run_eagerly(recwarn):
    """A gradient that is a small difference of large products, lost in bfloat16 whatever the program."""
    x, y = torch.randn(64, 32) + 1, torch.randn(64)

    def model(x, y):
        first = pyro.param("first", torch.full((32, 8), 0.1))
        second = pyro.param("second", torch.full((32, 8), 0.1001))
        pyro.sample("y", dist.Normal(1000 * ((x @ first) - (x @ second)).sum(1), 100.0).to_event(1), obs=y)

    def losses(**settings):
        pyro.clear_param_store()
        svi = CompiledSVI(model, lambda x, y: None, partial(torch.optim.Adam, lr=1e-6), **settings)
        return [svi.step(x, y) for _ in range(20)]

    half, full = losses(precision="bf16", compile="capture"), losses(compile="off")
    assert not [warning for warning in recwarn if "eagerly" in str(warning.message)]
    assert (half != pytest.approx(full, rel=1e-3)) == backends.processor_multiplies_bfloat16()


def test_a_capture_leaves_no_trace(tiny):
    """Draws, gradients, statistics and Pyro's settings are as without it."""
    vae = build(SPEC)
    svi = CompiledSVI(vae.model, vae.guide, lambda groups: torch.optim.SGD(groups, lr=0.0))
    svi.step(pictures(8))
    state, store = torch.get_rng_state(), dict(pyro.get_param_store()._params)
    svi._program.capture("step", Arguments((pictures(8),), {}), Reads())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(pyro.get_param_store()._params[name] is value for name, value in store.items())
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert pyro.settings.get("validate_poutine")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda vae: CompiledSVI(vae.model, vae.guide, 3), "optim: given 'int'"),
        (lambda vae: CompiledSVI(vae.model, vae.guide, torch.optim.Adam, loss=3), "loss: given 'int'"),
        (lambda vae: CompiledSVI(vae.model, vae.guide, torch.optim.Adam, compile="fast"), "compile: given 'fast'"),
        (lambda vae: CompiledSVI(vae.model, vae.guide, torch.optim.Adam, precision="fp8"), "precision: given 'fp8'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call(build(SPEC))


@pytest.mark.parametrize("compile", ["off", "capture", "inductor"])
def test_fit_gives_the_same_with_every_backend(tiny, compile):
    def weights(how):
        model = build(SPEC)
        fit(model, tiny, epochs=3, batch_size=5, validation=tiny, binarization="dynamic", compile=how, progress=False)
        return model.state_dict()

    actual, expected = weights(compile), weights("off")
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-5)


# --- what changes without being seen at once -------------------------------------------------------------------------

TABLE = numpy.ones(1000)  # too large for all of it to be watched


def scaled_by_table():
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 40):
        pyro.sample("y", dist.Normal(mu * float(TABLE[1]), 1.0), obs=Y)


def guide_of_mu():
    pyro.sample("mu", dist.Normal(pyro.param("loc", torch.tensor(0.5)), 0.1))


def losses_with_a_change(make_svi):
    """Of 20 steps, where a number in an array of the program is another from the sixth on."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    svi, losses = make_svi(scaled_by_table, guide_of_mu, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO()), []
    for number in range(20):
        TABLE[1] = 5.0 if number >= 5 else 1.0
        losses.append(svi.step())
    TABLE[1] = 1.0
    return losses


def test_what_is_not_seen_to_change_is_found_by_comparison():
    """At call 10 at the latest; from there the steps are Pyro's."""
    expected = losses_with_a_change(SVI)
    with pytest.warns(UserWarning, match="from call 10 .* the program's loss is"):
        actual = losses_with_a_change(CompiledSVI)
    assert actual[:5] + actual[12:] == pytest.approx(expected[:5] + expected[12:], rel=1e-4)
    assert actual[6] != pytest.approx(expected[6], rel=0.01)


def test_inside_another_handler_it_runs_eagerly():
    svi = CompiledSVI(scaled_by_table, guide_of_mu, torch.optim.Adam)
    for _ in range(3):
        svi.step()
    plain = svi.evaluate_loss()
    with pyro.poutine.scale(scale=10.0), pytest.warns(UserWarning, match="inside another"):
        assert svi.evaluate_loss() > 5 * plain
