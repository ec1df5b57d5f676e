"""A captured step does to everything outside of it what Pyro's step does, and its capture does nothing.

Each program is a small one, run under Pyro's SVI and under `CompiledSVI` from the same state and seed: the losses, the
parameters, and the state of all that the program was made from must be the same.
"""

from __future__ import annotations

import warnings

import numpy
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoHierarchicalNormalMessenger, AutoNormalMessenger
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.svi import CompiledSVI, backends
from pyro_vae.svi.guards import Reads
from pyro_vae.svi.signature import Arguments
from pyro_vae.svi.verification import difference

BATCHES = [torch.linspace(-1.0, 2.0, size) for size in (3, 3, 3, 3, 2, 3, 3, 2, 2, 3)]


def norm(x, m=0.0, s=1.0):
    """z ~ N(m, s), x ~ N(z, 1)."""
    z = pyro.sample("z", dist.Normal(m, s))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(*args):
    pyro.sample("z", dist.Normal(pyro.param("l", torch.tensor(0.3)), 0.5))


class Case:
    """What a program is made from: a model, and the tensors and arrays around it."""

    def __init__(self, model, state=(), loss=Trace_ELBO, after=lambda number: None, batches=BATCHES):
        self.model, self.state, self.loss, self.after, self.batches = model, state, loss, after, batches


def outcome(kind, make, compile="capture", optim=lambda: pyro.optim.SGD({"lr": 0.01})):
    """Losses, parameters, and the state of all else, after a step on each batch; and the `SVI`."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    case = make()
    svi = kind(case.model, guide, optim(), case.loss(), **({} if kind is SVI else {"compile": compile}))
    losses = []
    for number, batch in enumerate(case.batches):
        losses.append(svi.step(batch.clone()))
        case.after(number)
    state = [_dense(value) if isinstance(value, torch.Tensor) else value for value in case.state]
    state += [None if value.grad is None else value.grad for value in case.state if isinstance(value, nn.Parameter)]
    params = [value.detach() for value in pyro.get_param_store().values()]
    return svi, losses, [*params, *state], torch.get_rng_state()


def _dense(value):
    return value.int_repr() if value.is_quantized else value.to_dense()


def same_as_pyro(make, compile="capture", rtol=1e-4, **options):
    _, expected, expected_state, random = outcome(SVI, make, **options)
    svi, losses, state, actual_random = outcome(CompiledSVI, make, compile, **options)
    assert losses == pytest.approx(expected, rel=rtol)
    assert len(state) == len(expected_state)
    for value, wanted in zip(state, expected_state, strict=True):
        if isinstance(wanted, torch.Tensor):
            torch.testing.assert_close(value, wanted, rtol=rtol, atol=1e-6)
        else:
            assert numpy.array_equal(value, wanted)
    assert torch.equal(actual_random, random)
    return svi


# --- tensors around a program -----------------------------------------------------------------------------------------


def sparse(to_sparse):
    a = to_sparse(torch.eye(3))
    return Case(lambda x: norm(torch.sparse.mm(a, x[:, None])[:, 0]), [a], batches=BATCHES[:4])


def used(a, of=lambda a: a):
    """A program whose scale is made from a tensor."""
    return Case(lambda x: norm(x, s=of(a)), [a])


TENSORS = {
    "sparse": lambda: sparse(torch.Tensor.to_sparse),
    "complex": lambda: used(torch.tensor(3.0 + 4.0j), torch.abs),
    "bool": lambda: used(torch.tensor(True), lambda a: torch.where(a, 2.0, 1.0)),
    "integer": lambda: used(torch.tensor(2), lambda a: a.float()),
    "expanded": lambda: used(torch.tensor(2.0).expand(3, 2), lambda a: a.sum()),
    "view": lambda: used(torch.arange(1.0, 7.0).view(2, 3)[:, 1:], lambda a: a.sum()),
    "overlapping windows": lambda: used(torch.arange(1.0, 7.0).unfold(0, 3, 1), lambda a: a.sum()),
    "shared memory": lambda: used(torch.ones(3).share_memory_(), lambda a: a.sum()),
    "half": lambda: used(torch.tensor(2.0, dtype=torch.bfloat16), lambda a: a.float()),
    "of numpy": lambda: used(torch.from_numpy(numpy.ones(3, dtype="float32")), lambda a: a.sum()),
    "empty": lambda: used(torch.ones(0), lambda a: 1 + a.sum()),
    "data": lambda: used(torch.tensor(2.0), lambda a: a.data * 2),
    "without gradients": lambda: used(nn.Parameter(torch.tensor(2.0)), lambda a: a.detach()),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_a_program_uses_are_left_as_they_were(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_as_pyro(TENSORS[name]).signatures >= 1


class Own(torch.Tensor):
    """A class of the user's own."""


OTHER_TENSORS = {
    "sparse_csr": lambda: sparse(torch.Tensor.to_sparse_csr),
    "class Own": lambda: used(torch.tensor(2.0).as_subclass(Own)),
    "nested": lambda: used(
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), lambda a: a.to_padded_tensor(0.0).sum()
    ),
    "quantized": lambda: used(
        torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8), lambda a: a.dequantize().sum()
    ),
    "meta": lambda: used(torch.ones(2, device="meta"), lambda a: float(len(a + 1))),
    "conjugate": lambda: used(torch.tensor(3.0 + 4.0j).conj(), lambda a: a.abs()),
}


@pytest.mark.parametrize("name", OTHER_TENSORS)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.filterwarnings("ignore:torch.ao.quantization")
@pytest.mark.filterwarnings("ignore:.*quantized")
def test_tensors_of_other_kinds_run_eagerly(name):
    make = OTHER_TENSORS[name]
    if name in ("nested", "meta"):  # which can't be compared
        pure, make = make, lambda: Case(pure().model)
    with pytest.warns(UserWarning, match=f"runs eagerly: it uses a.*{name}"):
        assert same_as_pyro(make).signatures == 0


def test_a_program_that_writes_in_place_writes_once_per_step():
    def make():
        count, seen = torch.zeros(()), torch.zeros(2, 3)

        def model(x):
            count.add_(1)
            seen.view(-1)[: len(x)].mul_(0.5).add_(x.detach())
            norm(x, s=1 + seen.sum().abs() / count)

        return Case(model, [count, seen])

    assert same_as_pyro(make).signatures == 2


def test_nothing_is_written_to_memory_that_can_not_be_written_to(tmp_path):
    """As where a data set is a file mapped into memory; writing to it would end the process."""
    path = tmp_path / "a.npy"
    numpy.save(path, numpy.ones(3, dtype="float32"))

    def make():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that it can't be written to
            a = torch.from_numpy(numpy.load(path, mmap_mode="r"))
        return used(a, lambda a: a.sum())

    assert same_as_pyro(make).signatures >= 1


def test_read_only_arrays_are_no_reason_to_run_eagerly():
    def make():
        array = numpy.array([1.0, 2.0])
        array.flags.writeable = False
        return Case(lambda x: norm(x, s=float(array[1])), [array])

    assert same_as_pyro(make).signatures >= 1


@pytest.mark.parametrize("read", [lambda n: float(n.numpy()), lambda n: float(n.tolist()), numpy.asarray])
def test_an_integer_that_is_read_outside_the_dispatcher_is_not_frozen(read):
    def make():
        number = torch.tensor(1)
        return Case(lambda x: norm(x, s=float(read(number))), [number], after=lambda _: number.add_(1))

    with pytest.warns(UserWarning, match="runs eagerly: it reads numbers back from a tensor"):
        assert same_as_pyro(make).signatures == 0


# --- gradients, graphs and versions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [None, 1.0], ids=["without a gradient", "with a gradient"])
@pytest.mark.parametrize("optim", [pyro.optim.SGD, pyro.optim.Adam])
@pytest.mark.parametrize("compile", ["capture", "inductor"])
def test_parameters_that_are_not_pyros_get_their_gradients(compile, optim, start):
    """From an optimizer of their own, which steps after each batch."""

    def make():
        net = nn.Linear(3, 3)
        own = torch.optim.SGD(net.parameters(), lr=1e-3)
        for param in net.parameters():
            param.grad = None if start is None else torch.full_like(param, start)

        def after(number):
            if number % 2:  # so that gradients also add up
                own.step()
                own.zero_grad(set_to_none=number % 4 == 1)

        return Case(lambda x: norm(x, s=net(x).exp().sum()), [*net.parameters()], after=after, batches=BATCHES[:4] * 3)

    options = {"optim": lambda: optim({"lr": 0.01})}
    assert same_as_pyro(make, compile, rtol=1e-3, **options).signatures == 1


def test_a_parameter_that_is_frozen_later_gets_no_more_gradients():
    def make():
        scale = nn.Parameter(torch.tensor(1.0))
        return Case(lambda x: norm(x, s=scale), [scale], after=lambda number: scale.requires_grad_(number < 3))

    assert same_as_pyro(make).signatures >= 2


def test_evaluating_leaves_gradients_as_they_were():
    scale = nn.Parameter(torch.tensor(1.0))
    svi = CompiledSVI(lambda x: norm(x, s=scale), guide, torch.optim.Adam, compile="capture")
    for _ in range(3):
        svi.evaluate_loss(BATCHES[0])
    assert scale.grad is None


@pytest.mark.parametrize("read", [lambda w, k: k, lambda w, k: k + w], ids=["the result", "the result and its root"])
def test_a_graph_that_the_user_retains_stays_usable(read):
    def make():
        w = nn.Parameter(torch.tensor(2.0))
        k = w**2
        return Case(lambda x: norm(x, s=read(w, k)), [w], loss=lambda: Trace_ELBO(retain_graph=True))

    with pytest.warns(UserWarning, match="runs eagerly: it differentiates through operations that happened before"):
        assert same_as_pyro(make).signatures == 0


def test_a_capture_leaves_version_counters_as_they_were():
    buffer, scale, a = torch.zeros(3), nn.Parameter(torch.tensor(1.0)), torch.eye(3).to_sparse()

    def model(x):
        buffer[:2].add_(1)
        norm(torch.sparse.mm(a, x[:, None])[:, 0], s=scale + buffer.sum())

    svi = CompiledSVI(model, guide, torch.optim.Adam, compile="capture")
    pyro.clear_param_store()
    svi.step(BATCHES[0])
    tensors = [buffer, scale, a, pyro.get_param_store()._params["l"]]
    before = [tensor._version for tensor in tensors]
    svi._program.capture("step", Arguments((BATCHES[0],), {}), Reads())
    assert [tensor._version for tensor in tensors] == before
    assert svi.step(BATCHES[0]) is not None
    assert svi.signatures == 1


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compile", ["capture", "inductor"])
def test_an_argument_that_a_program_writes_to_is_written_to_once(compile):
    def make():
        seen = []

        def model(x):
            norm(x.clone())
            x.mul_(2.0)

        return Case(model, seen)

    def run(kind, **options):
        pyro.clear_param_store()
        svi, x = kind(make().model, guide, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO(), **options), torch.ones(3)
        return [(svi.step(x), x.clone()) for _ in range(4)]

    torch.manual_seed(0)
    expected = run(SVI)
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="runs eagerly: it writes to an argument in place"):
        actual = run(CompiledSVI, compile=compile)
    for (loss, x), (wanted, wanted_x) in zip(actual, expected, strict=True):
        assert loss == pytest.approx(wanted)
        assert torch.equal(x, wanted_x)


# --- the state of torch -----------------------------------------------------------------------------------------------


class Counting(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Dispatching(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def through_a_product(x):
    weight = pyro.param("w", torch.linspace(0.1, 0.9, 9).reshape(3, 3))
    norm(x @ weight)


@pytest.mark.parametrize(
    "around",
    [
        lambda: torch.autocast("cpu"),
        torch.autograd.detect_anomaly,
        pytest.param(
            lambda: torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor * 1.5),
            marks=pytest.mark.skipif(
                not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"),
                reason="torch 2.6 does not tell whether there are hooks",
            ),
        ),
        Counting,
        Dispatching,
        torch.no_grad,
    ],
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.filterwarnings("ignore:CompiledSVI. runs eagerly")
def test_what_is_entered_after_a_capture_is_in_force(around):
    def run(kind, **options):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = kind(through_a_product, guide, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO(), **options)
        losses = [svi.step(BATCHES[0]) for _ in range(3)]
        with around():
            losses += [svi.step(BATCHES[0]) for _ in range(3)]
        return losses + [svi.step(BATCHES[0]) for _ in range(3)]

    assert run(CompiledSVI, compile="capture") == pytest.approx(run(SVI), rel=1e-4)


@pytest.mark.parametrize(
    ("put", "back"),
    [
        (lambda: torch.set_default_dtype(torch.float64), lambda: torch.set_default_dtype(torch.float32)),
        (
            lambda: torch.use_deterministic_algorithms(True),
            lambda: torch.use_deterministic_algorithms(False),
        ),
        (
            lambda: torch.set_float32_matmul_precision("medium"),
            lambda: torch.set_float32_matmul_precision("highest"),
        ),
        (lambda: torch.set_default_device("cpu"), lambda: torch.set_default_device(None)),
        (
            lambda: pyro.settings.set(cholesky_relative_jitter=8.0),
            lambda: pyro.settings.set(cholesky_relative_jitter=4.0),
        ),
    ],
    ids=["dtype", "deterministic", "precision", "device", "jitter of Pyro's"],
)
def test_settings_of_torch_are_part_of_the_signature(put, back):
    svi = CompiledSVI(norm, guide, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO(), compile="capture")
    pyro.clear_param_store()
    for _ in range(3):
        svi.step(BATCHES[0])
    try:
        put()
        svi.step(BATCHES[0])
        assert svi.signatures == 2
    finally:
        back()
    svi.step(BATCHES[0])
    assert svi.signatures == 2


def test_a_module_that_is_converted_midway_is_captured_anew():
    def run(kind, **options):
        pyro.clear_param_store()
        torch.manual_seed(0)
        net = nn.Linear(3, 3)

        def model(x):
            pyro.module("net", net)
            norm(net(x.to(net.weight.dtype)))

        svi = kind(model, guide, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO(), **options)
        losses = [svi.step(BATCHES[0]) for _ in range(4)]
        net.double()
        return losses + [svi.step(BATCHES[0]) for _ in range(4)]

    assert run(CompiledSVI, compile="capture") == pytest.approx(run(SVI), rel=1e-4)


@pytest.mark.parametrize("wrap", [torch.jit.script, torch.compile], ids=["script", "compile"])
@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.filterwarnings("ignore:Skipping serialization")  # of an older torch
@pytest.mark.filterwarnings("ignore:CompiledSVI. runs eagerly")
def test_compiled_modules_give_what_they_give_under_pyro(wrap):
    def run(kind, **options):
        pyro.clear_param_store()
        torch.manual_seed(0)
        net = wrap(nn.Sequential(nn.Linear(3, 3), nn.Tanh()))

        def model(x):
            pyro.module("net", net)
            norm(net(x))

        svi = kind(model, guide, pyro.optim.SGD({"lr": 0.01}), Trace_ELBO(), **options)
        return [svi.step(BATCHES[0]) for _ in range(6)]

    assert run(CompiledSVI, compile="capture") == pytest.approx(run(SVI), rel=1e-4)


# --- programs that ran eagerly without need ---------------------------------------------------------------------------


def observed_in_part(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x, obs_mask=torch.arange(len(x)) % 2 == 0)


def guide_of_the_rest(x):
    guide()
    with pyro.plate("data", len(x)):
        pyro.sample("x_unobserved", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("model", "make_guide"),
    [
        (norm, lambda: AutoNormalMessenger(norm)),
        (norm, lambda: AutoHierarchicalNormalMessenger(norm)),
        (observed_in_part, lambda: guide_of_the_rest),
    ],
    ids=["messenger", "hierarchical messenger", "obs_mask"],
)
def test_messenger_guides_and_partly_observed_sites_are_captured(model, make_guide):
    def run(kind, **options):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = kind(model, make_guide(), pyro.optim.SGD({"lr": 0.01}), Trace_ELBO(), **options)
        return svi, [svi.step(BATCHES[0]) for _ in range(6)]

    (_, expected), (svi, actual) = run(SVI), run(CompiledSVI, compile="capture")
    assert actual == pytest.approx(expected, rel=1e-4)
    assert svi.signatures == 1


def results(loss, gradient):
    return [torch.tensor(loss), torch.tensor(gradient)]


@pytest.mark.parametrize(
    ("program", "captured", "what"),
    [
        (results(1.0, [1.0, 2.0]), results(1.0, [1.0, 2.0]), None),
        (results(1.0, [1.0, 2.0]), results(1.5, [1.0, 2.0]), "loss"),
        (results(1.0, [1.0, 2.0]), results(1.0, [1.0, 2.5]), "gradients"),
        (results(torch.inf, [1.0, 2.0]), results(torch.inf, [1.0, 2.0]), None),
        (results(torch.inf, [1.0, 2.0]), results(torch.inf, [1.0, 2.5]), "gradients"),
        (results(torch.inf, [1.0, 2.0]), results(-torch.inf, [1.0, 2.0]), "loss"),
        (results(torch.nan, [1.0, torch.nan]), results(torch.nan, [1.0, torch.nan]), None),
        (results(1.0, [1.0, torch.nan]), results(1.0, [1.5, torch.nan]), "gradients"),
        (results(1.0, [1.0, torch.nan]), results(1.0, [torch.nan, 1.0]), "gradients"),
        (results(1.0, [1.0, torch.inf]), results(1.0, [1.0, 5.0]), "gradients"),
        (results(1.0, [1.0]), [torch.tensor(1.0), None], "only one"),
    ],
)
def test_a_comparison_covers_results_that_are_not_finite(program, captured, what):
    found = difference(program, captured)
    assert found is None if what is None else what in found


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_lstm_is_captured(dropout):
    def make():
        torch.manual_seed(0)
        rnn = nn.LSTM(3, 5, num_layers=2, dropout=dropout, batch_first=True)

        def guide(x):
            pyro.module("rnn", rnn)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(rnn(x)[0][:, -1].sum(-1), 1.0))

        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(1.0, 1.0))

        return model, guide

    losses = []
    for kind in (SVI, CompiledSVI):
        pyro.clear_param_store()
        svi = kind(*make(), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        torch.manual_seed(1)
        losses.append([svi.step(torch.ones(4, 6, 3)) for _ in range(12)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert svi.signatures == 1


# --- compiled code ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first_wrong", [0, 11], ids=["from the start", "before call 10"])
def test_compiled_code_that_computes_something_else_is_given_up(first_wrong, monkeypatch):
    steps = []

    def compiled(graph, inputs):
        return lambda *args: [(2 if len(steps) >= first_wrong else 1) * output for output in graph.forward(*args)]

    def make():
        steps.clear()
        return Case(norm, after=steps.append, batches=BATCHES[:1] * 14)

    monkeypatch.setattr(backends, "inductor", compiled)
    with pytest.warns(UserWarning, match="the captured step is not compiled: the program's loss is") as caught:
        svi = same_as_pyro(make, compile="inductor")
    assert (len(caught), svi.signatures) == (1, 1)


@pytest.mark.parametrize(
    ("code", "is_compared"),
    [
        (lambda x: (torch.rand_like(x), torch.randn(4))[::-1], True),
        (lambda x: (torch.randn(4), torch.rand_like(x.T.contiguous()).T), False),
        (lambda x: (torch.randn(4), torch.rand_like(x.T.contiguous().T)), True),
        (lambda x: (torch.randn(4), torch.randn_like(x)), False),
    ],
    ids=["another order", "another shape", "another memory format", "another operation"],
)
def test_draws_in_another_order_are_no_difference_of_compiled_code(code, is_compared):
    x = torch.ones(2, 3)
    graph, compiled = (make_fx(each)(x) for each in (lambda x: (torch.randn(4), torch.rand_like(x)), code))
    results = backends.on_same_draws(graph, compiled.forward, [x])
    assert all(map(torch.equal, *results)) if is_compared else results is None
