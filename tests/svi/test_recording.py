"""A recorded step does what the compiled one does, and what can't be recorded is refused."""

import copy
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import Spec, build
from pyro_vae.svi import CompiledSVI, backends
from pyro_vae.svi.compiled_svi import RESCANNED_EVERY
from pyro_vae.svi.cpu import kernels, recording

pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="a processor without vectors that torch knows"
)
BY_KERNEL = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
NO_KERNEL = "without AVX2 or AVX-512 the products are torch's, which take the arguments of a step where they lie"


def compiled(function, inputs):
    return backends.inductor(make_fx(function)(*inputs), inputs)


@pytest.mark.skipif(not BY_KERNEL, reason=NO_KERNEL)
def test_a_recorded_graph_follows_its_arguments_wherever_they_lie():
    weight, counter = torch.randn(16, 16), torch.zeros(())
    x = torch.randn(6, 16)

    def function(x, weight, counter):
        counter.add_(1)
        y = (x[2:] @ weight).tanh()  # an argument from its third row on
        return y.sum(), y.t() @ x[:4]

    run = compiled(function, [x, weight, counter])
    counter.zero_()
    recorded = recording.record(lambda x: run(x, weight, counter), [x], [weight, counter])
    assert counter == 0  # as before the recording
    whole = torch.randn(40, 16)
    for number, argument in enumerate([x, torch.randn(6, 16), whole[3:9], whole[20:26]], start=1):
        loss, product = recorded(argument)
        expected = function(argument, weight, counter.clone())
        torch.testing.assert_close(loss, expected[0])
        torch.testing.assert_close(product, expected[1])
        assert counter == number
    first = recorded(x)[0]
    value = first.clone()
    recorded(torch.randn(6, 16))
    assert first == value  # a loss outlives the next step
    weight.zero_()  # what it uses where it lies
    assert recorded(x)[0] == 0


def test_recorded_draws_are_those_of_the_generator():
    x = torch.zeros(30)

    def twice(draw, x):
        return (draw(x + 1) + draw(x + 1),)

    draws = [torch.randn_like, torch.rand_like, lambda x: torch.normal(x, 2.0), lambda x: (x - 0.6).bernoulli()]
    for draw in draws:
        run = compiled(partial(twice, draw), [x])
        torch.manual_seed(0)
        expected = [run(x)[0].clone() for _ in range(3)]
        torch.manual_seed(0)
        recorded = recording.record(run, [x], [])
        for value in expected:
            torch.testing.assert_close(recorded(x)[0], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: (torch.linalg.cholesky(x),), "takes an argument of the step"),
        (lambda x: (torch.linalg.svdvals((x * 2).expand(70_000, 4, 4)),), "have to be copied"),
    ],
)
def test_what_can_not_be_recorded_says_why(function, message):
    x = torch.eye(4)
    run = compiled(function, [x])
    with pytest.raises(recording.NotRecordable, match=message):
        recording.record(run, [x], [])


def test_kernels_that_nobody_heard_of_are_noticed(monkeypatch):
    """As where Inductor has forgotten its modules."""
    from torch._inductor.codecache import PyCodeCache

    weight, x = torch.randn(16, 16), torch.randn(6, 16)
    run = compiled(lambda x, weight: ((x * weight.sum(0)).exp().sum(),), [x, weight])
    monkeypatch.setattr(PyCodeCache, "modules", [])
    before = weight.clone()
    with pytest.raises(recording.NotRecordable, match="something else"):
        recording.record(lambda x: run(x, weight), [x], [weight])
    assert torch.equal(weight, before)


def test_arguments_that_share_memory_are_refused():
    x = torch.ones(8)
    run = compiled(lambda x, y: (x + y,), [x, x.clone()])
    with pytest.raises(recording.NotRecordable, match="shares memory"):
        recording.record(run, [x, x[:]], [])
    with pytest.raises(recording.NotRecordable, match="shares memory"):
        recording.record(lambda y: run(x, y), [x[2:]], [x])


def test_a_step_out_of_bounds_is_an_error_and_not_a_crash():
    table, indices = torch.randn(10, 3), torch.arange(4)
    run = compiled(lambda indices, table: (table[indices].sum(),), [indices, table])
    recorded = recording.record(lambda indices: run(indices, table), [indices], [table])
    with pytest.raises(RuntimeError, match="out of bounds"):
        recorded(torch.tensor([0, 1, 2, 10]))


# --- in CompiledSVI ---------------------------------------------------------------------------------------------------

SPEC = Spec(image_shape=(1, 8, 8), latent_dim=3, hidden=(16,))


def pictures(seed, count=8):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def model_and_svi(compile, **settings):
    pyro.clear_param_store()
    torch.manual_seed(0)
    vae = build(SPEC)
    optimizer = torch.optim.Adam(vae.parameters(), lr=0.01, fused=True)
    svi = CompiledSVI(vae.model, vae.guide, optimizer, compile=compile, **settings)
    torch.manual_seed(1)
    return vae, optimizer, svi


def is_recorded(svi):
    return [replay.is_all_recorded for replay in svi._captured.replays]


def test_steps_are_those_of_step_tensor_also_when_rate_and_beta_change():
    """With batches of two sizes, beta a tensor, and a rate that a schedule changes."""
    runs = []
    for backend, many in (("off", False), ("inductor", False), ("inductor", True)):
        vae, optimizer, svi = model_and_svi(backend)
        beta = torch.tensor(0.0)

        def arguments(optimizer=optimizer, beta=beta):
            for number in range(3 * RESCANNED_EVERY):
                beta.fill_(min(1.0, (number + 1) / 100))
                optimizer.param_groups[0]["lr"] = 0.01 / (1 + number / 100)
                yield pictures(number, 5 if number % 7 == 6 else 8), beta

        losses = [*svi.steps(arguments())] if many else [svi.step_tensor(*args) for args in arguments()]
        runs.append((torch.stack(losses).double(), [param.detach().clone() for param in vae.parameters()]))
        if backend == "inductor":
            assert any(is_recorded(svi)) == BY_KERNEL
    (eager, of_eager), (single, of_single), (many, of_many) = runs
    assert torch.equal(single, many)
    assert all(map(torch.equal, of_single, of_many))
    torch.testing.assert_close(many, eager, rtol=1e-3, atol=1e-3)
    for param, expected in zip(of_many, of_eager, strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-2, atol=1e-3)


def test_parameters_that_were_moved_are_used_where_they_are():
    """New data under the same parameter, a state that was loaded, and one that was cleared."""
    runs = []
    for backend in ("off", "inductor"):
        vae, optimizer, svi = model_and_svi(backend)
        losses = [svi.step(pictures(0)) for _ in range(5)]
        state = {name: value.clone() for name, value in vae.state_dict().items()}
        optimizer_state = svi.state_dict()
        losses += [svi.step(pictures(0)) for _ in range(5)]
        for param in vae.parameters():
            param.data = param.data.clone() * 0.5
        losses += [svi.step(pictures(0)) for _ in range(5)]
        vae.load_state_dict(state)
        svi.load_state_dict(optimizer_state)
        losses += [svi.step(pictures(0)) for _ in range(5)]
        optimizer.state.clear()
        losses += [svi.step(pictures(0)) for _ in range(5)]
        runs.append(losses)
    assert runs[1] == pytest.approx(runs[0], rel=1e-3)


def test_steps_in_bfloat16_see_parameters_that_were_written_to():
    """Of which the step before has left rounded copies; the product reads those."""
    runs = []
    for many in (False, True):
        vae, _, svi = model_and_svi("inductor", precision="bf16")
        arguments = ((pictures(number),) for number in range(3 * RESCANNED_EVERY))
        losses = []
        for number, loss in enumerate(svi.steps(arguments) if many else (svi.step_tensor(*args) for args in arguments)):
            losses.append(loss.item())
            if number % 50 == 30:
                with torch.no_grad():
                    vae.decoder[-2].weight.mul_(-3)
        runs.append(losses)
        assert any(is_recorded(svi)) or not BY_KERNEL
    assert runs[0] == runs[1]
    after = [runs[0][number + 1] / runs[0][number] for number in range(230, 281, 50)]
    assert min(after) > 1.1  # where it matters


def test_a_copy_has_parameters_of_its_own():
    pyro.clear_param_store()
    torch.manual_seed(0)
    vae = build(SPEC)
    svi = CompiledSVI(vae.model, vae.guide, torch.optim.Adam(vae.parameters(), fused=True), compile="inductor")
    for _ in range(5):
        svi.step(pictures(0))
    assert any(is_recorded(svi)) == BY_KERNEL
    other, state = copy.deepcopy((vae, svi)), copy.deepcopy(vae.state_dict())
    with pyro.get_param_store().scope():
        for _ in range(5):
            other[1].step(pictures(0))
    assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())
    assert not all(torch.equal(value, state[name]) for name, value in other[0].state_dict().items())


def test_steps_stop_at_a_loss_that_is_not_finite():
    *_, svi = model_and_svi("inductor")
    batches = [pictures(0)] * 150 + [pictures(0) * float("nan")] + [pictures(0)] * 400
    with pytest.raises(FloatingPointError, match="at step 151"):
        for _ in svi.steps((x,) for x in batches):
            pass
    assert svi.steps_taken < 400


def test_steps_see_at_once_what_changed():
    shift = [0.0]

    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x + shift[0])

    def guide(x):
        pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.0)), 0.001))

    pyro.clear_param_store()
    svi = CompiledSVI(model, guide, lambda params: torch.optim.Adam(params, lr=1e-8, fused=True), compile="inductor")
    x = torch.zeros(20)
    losses = []
    for number, loss in enumerate(svi.steps((x,) for _ in range(3 * RESCANNED_EVERY))):
        losses.append(loss.item())
        if number == 140:
            shift[0] = 100.0
    assert losses[140] < 100
    assert min(losses[141:]) > 10_000


def of_matrix(x):
    weight = pyro.param("weight", torch.arange(16.0).reshape(4, 4) / 10)
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0).expand([4]).to_event(1), obs=(x @ weight).sum(0))


def of_loc(x):
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 0.1))


def transpose(svi):
    weight = pyro.get_param_store()._params["weight"]
    weight.data = weight.data.t()


CHANGES = {
    "model": lambda svi: setattr(svi, "model", pyro.poutine.scale(of_matrix, 3.0)),
    "handler": lambda svi: pyro.poutine.scale(scale=3.0).__enter__(),
    "betas": lambda svi: svi.optimizer.optimizer.param_groups[0].update(betas=(0.1, 0.2)),
    "strides": transpose,
    "dtype": lambda svi: torch.set_default_dtype(torch.float64),
    "learning rate": lambda svi: svi.optimizer.optimizer.param_groups[0].update(lr=0.5),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.filterwarnings("ignore:CompiledSVI. runs eagerly inside another")
def test_steps_see_at_once_what_changed_beside_the_programs(change):
    runs = []
    for backend in ("capture", "inductor"):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = CompiledSVI(
            of_matrix, of_loc, lambda params: torch.optim.Adam(params, lr=1e-3, fused=True), compile=backend
        )
        arguments = [(torch.randn(5, 4),) for _ in range(RESCANNED_EVERY + 60)]
        losses, handlers, dtype = [], list(pyro.poutine.runtime._PYRO_STACK), torch.get_default_dtype()
        try:
            for number, loss in enumerate(svi.steps(arguments)):
                losses.append(loss.item())
                if number == RESCANNED_EVERY + 20:
                    assert any(is_recorded(svi)) == (backend == "inductor" and BY_KERNEL)
                    change(svi)
        finally:
            pyro.poutine.runtime._PYRO_STACK[:] = handlers
            torch.set_default_dtype(dtype)
        runs.append(losses)
    assert runs[1] == pytest.approx(runs[0], rel=1e-4)


@pytest.mark.skipif(not BY_KERNEL, reason=NO_KERNEL)
def test_an_argument_that_is_a_parameter_is_read_before_the_update():
    """Which a kernel makes that computes its gradient, before other kernels have read the argument."""

    def model(x):
        first = pyro.param("first", lambda: torch.randn(128, 128) / 10)
        second = pyro.param("second", lambda: torch.randn(128, 128) / 10)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand([128]).to_event(1), obs=((x @ first).tanh() @ second).sum(0))

    runs = []
    for backend in ("capture", "inductor"):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = CompiledSVI(model, of_loc, lambda params: torch.optim.Adam(params, lr=0.05, fused=True), compile=backend)
        for _ in range(20):
            svi.step(torch.ones(128, 128))
        weight = pyro.get_param_store()._params["first"].detach()
        runs.append([svi.step(weight) for _ in range(4)])
    assert runs[1] == pytest.approx(runs[0], rel=2e-4)


def test_steps_see_at_once_that_a_parameter_lies_elsewhere():
    """The recorded kernels must not write to the memory that was given back."""
    runs = []
    for many in (False, True):
        vae, _, svi = model_and_svi("inductor")
        arguments = ((pictures(number),) for number in range(RESCANNED_EVERY + 60))
        losses = []
        for number, loss in enumerate(svi.steps(arguments) if many else (svi.step_tensor(*args) for args in arguments)):
            losses.append(loss.item())
            if number == RESCANNED_EVERY + 30:
                for param in vae.parameters():
                    param.data = param.data.clone() * 0.5
        runs.append(losses)
    assert runs[0] == runs[1]


def test_another_optimizer_is_not_recorded_and_steps_as_pyro_does():
    def make(compile):
        pyro.clear_param_store()
        torch.manual_seed(0)
        vae = build(SPEC)
        svi = CompiledSVI(vae.model, vae.guide, lambda params: torch.optim.SGD(params, lr=1e-4), compile=compile)
        torch.manual_seed(1)
        return [loss.item() for loss in svi.steps((pictures(0),) for _ in range(150))], svi

    expected, _ = make("off")
    actual, svi = make("inductor")
    assert actual == pytest.approx(expected, rel=1e-4)
    assert not any(is_recorded(svi))


def test_without_a_compiler_for_our_kernels_the_step_is_the_compiled_one(monkeypatch):
    def fails(*_, **__):
        raise kernels.NotCompilable("none")

    *_, svi = model_and_svi("off")
    expected = [svi.step(pictures(0)) for _ in range(20)]
    monkeypatch.setattr(kernels, "load", fails)
    *_, svi = model_and_svi("inductor")
    assert [svi.step(pictures(0)) for _ in range(20)] == pytest.approx(expected, rel=1e-3)
    assert not any(is_recorded(svi))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_program_without_parameters_is_compiled_as_well(precision):
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(loc, 1.0).expand([len(x)]).to_event(1), obs=x)

    def guide(x):
        pyro.sample("loc", dist.Normal(0.0, 1.0))

    runs = []
    for backend in ("off", "inductor"):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = CompiledSVI(model, guide, torch.optim.Adam, compile=backend, precision=precision)
        runs.append([svi.step(torch.ones(3)) for _ in range(6)])
    assert runs[1] == pytest.approx(runs[0], rel=1e-5)
