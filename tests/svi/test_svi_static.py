"""Programs that decide by what they are not given: each against Pyro's own steps, with a change in their midst."""

import ctypes
import functools
import types
import warnings

import numpy
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoStructured
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import one_hot

from pyro_vae.svi import CompiledSVI, capture
from pyro_vae.svi.scalar_reads import NotCapturable

Y = torch.linspace(-1.0, 3.0, 6)


class Table:
    weight = 1.0

    def __init__(self):
        self.values, self.named, self._private, self.array = [1.0], {"a": 1.0}, 1.0, numpy.ones(2)


class Constant:
    def __get__(self, instance, kind=None):
        return [] if instance is None else instance.weight


class Described:
    constant = Constant()  # anew from the class each time

    def __init__(self):
        self.weight = 1.0


TABLE, DESCRIBED = Table(), Described()
SETTINGS = types.SimpleNamespace(weight=1.0)


def scaled(read, y):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(z * read(), 1.0), obs=y)


def guide(y):
    scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.1)), scale))


def losses(kind, model, change=lambda number: None, steps=8, guide=guide, loss=Trace_ELBO):
    """Of some steps from the same start, and the parameters after them; `change` is called before each."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    svi, values = kind(model, guide, pyro.optim.Adam({"lr": 0.01}), loss()), []
    for number in range(steps):
        change(number)
        values.append(svi.step(Y))
    return numpy.ravel(
        [*map(float, numpy.ravel(values)), *(param.sum().item() for param in pyro.get_param_store().values())]
    )


def read_global():
    return TABLE.values[0]


@pytest.mark.parametrize(
    ("read", "write"),
    [
        (read_global, lambda value: TABLE.values.__setitem__(0, value)),
        (lambda: TABLE.named["a"], lambda value: TABLE.named.update(a=value)),
        (lambda: TABLE._private, lambda value: setattr(TABLE, "_private", value)),
        (lambda: float(TABLE.array[1]), lambda value: TABLE.array.__setitem__(1, value)),
        (lambda: TABLE.weight, lambda value: setattr(Table, "weight", value)),
        (lambda: SETTINGS.weight, lambda value: setattr(SETTINGS, "weight", value)),
        (lambda: TABLE.__dict__["_private"], lambda value: setattr(TABLE, "_private", value)),
        (lambda: max(vars(SETTINGS).values()), lambda value: setattr(SETTINGS, "weight", value)),
        (lambda: DESCRIBED.constant, lambda value: setattr(DESCRIBED, "weight", value)),
    ],
    ids=[
        "list",
        "dictionary",
        "private attribute",
        "array",
        "class attribute",
        "namespace",
        "__dict__",
        "vars",
        "descriptor",
    ],
)
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: pyro.poutine.scale(model, scale=0.5)])
def test_a_value_within_reach_is_seen_to_change(read, write, wrap):
    def change(number):
        write(3.0 if number >= 4 else 1.0)

    model = wrap(functools.partial(scaled, read))
    expected = losses(SVI, model, change)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert losses(CompiledSVI, model, change) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    write(1.0)


@pytest.mark.parametrize("what", ["child", "hook", "unfrozen"])
def test_a_module_that_is_changed_is_seen(what):
    def run(kind):
        net = nn.Sequential(nn.Linear(1, 1), nn.Identity())
        nn.init.ones_(net[0].weight), nn.init.zeros_(net[0].bias)
        net[0].bias.requires_grad_(what != "unfrozen")
        net.eval()  # Pyro warns of frozen parameters in training

        def change(number):
            if number != 4:
                return
            if what == "child":
                net[1] = nn.Softplus()
            elif what == "hook":
                net[1].register_forward_hook(lambda module, arguments, out: 3 * out)
            else:
                net[0].bias.requires_grad_(True)

        def model(y):
            pyro.module("net", net)
            scaled(lambda: net(torch.ones(1)), y)

        return losses(kind, model, change)

    assert run(CompiledSVI) == pytest.approx(run(SVI), rel=1e-4, abs=1e-5)


def counting(state):
    state["n"] = state.get("n", 0.0) + 0.1
    return state["n"]


def averaging(state):
    state["mean"] = 0.9 * state.get("mean", torch.tensor(0.0)) + 0.1
    return state["mean"]


def reading_a_parameter(state):
    return float(pyro.param("s", torch.tensor(0.5)).detach().numpy())


def seeding(state):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return torch.rand(())


def seeding_beside_a_lost_gradient(state):
    unused = pyro.param("unused", torch.tensor(0.5))
    return seeding(state) + torch.where(unused > 9, (0 * unused).sqrt(), 0)  # its gradient is NaN, 0 times infinity


def drawing_by_itself(state):
    own = state.setdefault("own", torch.Generator().manual_seed(0))
    return torch.rand((), generator=own)


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (counting, "each run of it changes"),
        (averaging, "each run of it changes"),
        (reading_a_parameter, "reads numbers back from a tensor, by .numpy"),
        (seeding, "on other values"),
        (seeding_beside_a_lost_gradient, "on other values"),
        (drawing_by_itself, "each run of it changes the state of random numbers"),
    ],
)
def test_what_does_not_stay_the_same_runs_eagerly_as_under_pyro(read, reason):
    expected = losses(SVI, functools.partial(scaled, functools.partial(read, {})))
    with pytest.warns(UserWarning, match=f"runs eagerly: .*{reason}") as caught:
        actual = losses(CompiledSVI, functools.partial(scaled, functools.partial(read, {})))
    assert actual == pytest.approx(expected, rel=1e-4, nan_ok=True)
    assert len(caught) == 1


def shuffled(size):
    return torch.randperm(size)


def drawn_into_a_view(size):
    indices = torch.arange(size)
    indices[0] = torch.randint(size, ())
    return indices


@pytest.mark.parametrize(
    ("indices", "is_captured"), [(None, True), (torch.arange, True), (shuffled, False), (drawn_into_a_view, False)]
)
def test_a_sequential_plate_is_captured_unless_its_indices_vary(indices, is_captured):
    def one_by_one(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        for number, i in enumerate(pyro.plate("rows", 4, subsample=None if indices is None else indices(4))):
            pyro.sample(f"x_{number}", dist.Normal(z * (i + 1), 1.0), obs=x[i])

    def of_z(x):
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.5)), 1.0))

    runs = []
    for kind in (SVI, functools.partial(CompiledSVI, compile="capture")):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = kind(one_by_one, of_z, pyro.optim.SGD({"lr": 0.001}), loss=Trace_ELBO())
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            runs.append([svi.step(Y[:4]) for _ in range(12)])
    assert runs[1] == pytest.approx(runs[0], rel=1e-5)
    assert svi.signatures == is_captured
    reasons = [str(each.message) for each in warned]
    assert len(reasons) == (not is_captured)
    assert all("the indices of a plate" in reason for reason in reasons)


def failing(x):
    raise ValueError


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        (failing, "on other values it raises ValueError"),
        (lambda x: (x / 0,), "on other values no result of it is finite"),
    ],
)
def test_a_graph_that_can_not_be_compared_is_no_captured_step(later, reason):
    captured = capture.capture(lambda x: (x + 1,), [torch.zeros(2)], [torch.ones(2)])
    with pytest.raises(NotCapturable, match=reason):
        capture.verify(captured, later, [], [torch.ones(2)], [])


def byte_of(x):
    """A value that is read from the memory of a tensor, which no mode sees: 0 of 0.0, and 63 of 1.0."""
    return ctypes.c_ubyte.from_address(x.data_ptr() + 3).value


@pytest.mark.parametrize(
    ("function", "differing"),
    [
        (lambda x: (x * byte_of(x),), "aten.mul.Tensor of a tensor, 0, then aten.mul.Tensor of a tensor, 63"),
        (lambda x: (x + torch.tensor([byte_of(x)]),), r"aten.lift_fresh.default of \[0], then .* of \[63]"),
        (lambda x: (x.exp() if byte_of(x) else x.sin(),), "aten.sin.* then aten.exp.*"),
        (lambda x: (x.exp() + (x.sin() if byte_of(x) else 0),), "aten.add.Tensor of a tensor, 0, then aten.sin"),
        (lambda x: (x.exp(), *([x.sin()] if byte_of(x) else ())), "return of a tensor, then aten.sin"),
        (lambda x: (x.sub([x.exp(), x.sin()][byte_of(x) > 0]),), "aten.sub.Tensor of a tensor, a tensor, then"),
        (lambda x: ([x.exp(), x.sin()][byte_of(x) > 0],), "return of a tensor, then return of a tensor"),
        (lambda x: (torch.tensor([byte_of(x)]).fill_(1) + x,), r"aten.lift_fresh.default of \[0], then .* of \[63]"),
    ],
)
def test_a_function_that_does_not_do_the_same_on_other_values_is_no_graph(function, differing):
    with pytest.raises(NotCapturable, match=f"it does not do the same on other values: {differing}"):
        capture.capture(function, [torch.zeros(2)], [torch.ones(2)])


def added_up(x):
    total = torch.tensor([0.0, 1.0])
    total[0] += x.sum()
    return (total,)


@pytest.mark.parametrize("function", [added_up, lambda x: (x + torch.tensor([float("nan"), 1.0]),)])
def test_constants_may_be_written_to_and_need_not_be_numbers(function):
    captured = capture.capture(function, [torch.zeros(2)], [torch.ones(2)])
    x = torch.tensor([2.0, 3.0])
    torch.testing.assert_close(captured.graph(x, *captured.live), function(x), equal_nan=True)


LABELS = torch.tensor([0, 2, 1, 0, 2, 1])


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda: Y.sum().item(), "reads a number back"),
        (lambda: 1.0 if Y.sum() > 0 else 2.0, "reads a number back"),
        (lambda: float(f"{Y.sum():.1f}"), "reads a number back"),
        (lambda: one_hot(LABELS).sum(), "reads a number back"),
        (lambda: len(LABELS.nonzero()), "shape of a tensor depends on values: aten.nonzero"),
        (lambda: Y[LABELS > 0].sum(), "shape of a tensor depends on values: aten.index"),
        (lambda: LABELS.unique().sum(), "shape of a tensor depends on values: aten._unique2"),
        (lambda: Y.repeat_interleave(LABELS).sum(), "shape of a tensor depends on values: aten.repeat_interleave"),
        (lambda: Y.numpy().max(), "reads numbers back from a tensor, by .numpy"),
        (lambda: max(Y.tolist()), "reads numbers back from a tensor, by .tolist"),
        (lambda: numpy.asarray(Y).max(), "reads numbers back from a tensor, by .__array__"),
        (lambda: print(Y) or 1.0, "prints a tensor"),
    ],
)
def test_a_read_that_keeps_a_program_from_its_capture_is_named_with_its_line(read, reason):
    def model(y):
        scaled(lambda: float(read()), y)

    expected = losses(SVI, model)
    with pytest.warns(UserWarning, match=f"runs eagerly: .*{reason}") as caught:
        actual = losses(CompiledSVI, model)
    line = f", at {__file__}:{read.__code__.co_firstlineno}: (lambda: "
    assert [line in str(warning.message) for warning in caught] == [True]
    assert actual == pytest.approx(expected, rel=1e-4)


def test_one_hot_of_a_given_number_of_classes_is_captured():
    def model(y, labels):
        weights = pyro.param("weights", torch.ones(3))
        scaled(lambda: one_hot(labels, num_classes=3).float() @ weights, y)

    def run(kind):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = kind(model, lambda y, labels: guide(y), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        return svi, [svi.step(Y, LABELS.roll(number)) for number in range(6)]

    _, expected = run(SVI)
    svi, actual = run(CompiledSVI)
    assert actual == pytest.approx(expected, rel=1e-4)
    assert svi.signatures == 1
    with pytest.raises(RuntimeError, match="out of bounds"):
        svi.step(Y, LABELS + 1)


def test_a_capture_makes_no_mode_for_each_operation(monkeypatch):
    """Each would keep a list of the whole stack, which takes longer than all else of a capture."""
    made = []
    original = FakeTensorMode.__init__
    monkeypatch.setattr(FakeTensorMode, "__init__", lambda self, **options: made.append(1) or original(self, **options))
    losses(CompiledSVI, functools.partial(scaled, lambda: sum(Y.unbind())))
    assert 0 < len(made) <= 3


@pytest.mark.filterwarnings("ignore:CompiledSVI")  # now it is captured, now it runs eagerly
def test_what_failed_in_capturing_equals_pyro():
    model = functools.partial(scaled, lambda: 1.0)
    expected = losses(SVI, model, guide=AutoStructured(model))
    assert losses(CompiledSVI, model, guide=AutoStructured(model)) == pytest.approx(expected, rel=1e-4)


def test_an_error_of_the_program_is_its_own():
    calls = []

    def model(y):
        calls.append(1)
        if len(calls) == 2:
            raise OSError("no more")
        scaled(lambda: 1.0, y)

    svi = CompiledSVI(model, guide, torch.optim.Adam)
    pyro.clear_param_store()
    svi.step(Y)
    with pytest.raises(OSError, match="no more"):
        svi.step(Y)
