"""`CompiledPredictive` draws what Pyro's Predictive draws under the same seed, and runs few of the draws in Python."""

import copy
import pickle
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn

from pyro_vae.svi import CompiledPredictive

DRAWS = 40
EFFECTS = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12])
ERRORS = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])
SCALE = 1.0


def schools(effects=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        return pyro.sample("effect", dist.Normal(theta, ERRORS), obs=effects)


def mixture(x=None):
    locs = pyro.sample("locs", dist.Normal(0.0, 3.0).expand([3]).to_event(1))
    with pyro.plate("data", 5):
        kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
        x = pyro.sample("x", dist.Normal(locs[kind], 0.1), obs=x)
    pyro.deterministic("largest", x.max())
    return x > 0


class Regression(PyroModule):
    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))

    def forward(self, x, spread=1.0):
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("rows", len(x), subsample_size=3) as rows:
            pyro.sample("y", dist.Normal(mean[rows], spread))
        return mean


def scaled():
    pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), SCALE))


def branching():
    return pyro.sample("x", dist.Normal(1.0 if pyro.sample("z", dist.Normal(0.0, 1.0)) > 0 else 5.0, 1.0))


def values_of(kind, model, *args, calls=2, between=lambda: None, **options):
    """The draws of some calls with these arguments, one after the other."""
    torch.manual_seed(0)
    predictive, results = kind(model, **options), []
    for number in range(calls):
        if number:
            between()
        results.append(predictive(*args))
    return results


def assert_same(actual, expected):
    for draws, wanted in zip(actual, expected, strict=True):
        assert list(draws) == list(wanted)
        for site, values in wanted.items():
            assert draws[site].dtype == values.dtype
            assert torch.equal(draws[site], values), site


class Counted:
    def __init__(self, program):
        self.program, self.calls = program, 0

    def __call__(self, *args):
        self.calls += 1
        return self.program(*args)


POSTERIOR = {"mu": torch.randn(DRAWS), "tau": torch.rand(DRAWS) + 0.1, "theta": torch.randn(DRAWS, 8)}
KINDS = {"kind": torch.arange(DRAWS * 5).reshape(-1, 5) % 3}
CASES = {  # the model, options, and arguments
    "a guide": (schools, {"guide": AutoNormal}, ()),
    "data": (schools, {"guide": AutoNormal}, (EFFECTS,)),
    "sites": (schools, {"guide": AutoNormal, "return_sites": ["effect", "mu", "_RETURN"]}, ()),
    "a point": (schools, {"guide": AutoDelta}, ()),
    "the prior": (schools, {}, ()),
    "posterior samples": (schools, {"posterior_samples": POSTERIOR}, ()),
    "discrete": (mixture, {"return_sites": ("kind", "x", "largest", "_RETURN")}, ()),
    "discrete, given": (mixture, {"posterior_samples": KINDS}, ()),
    "a module": (Regression(), {"return_sites": ("linear.weight", "y", "_RETURN")}, (torch.ones(7, 2), 0.5)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_draws_are_those_of_pyro_and_few_run_in_python(case):
    model, options, args = CASES[case]
    if "guide" in options:
        options = options | {"guide": options["guide"](model)}
        options["guide"](EFFECTS)
    counted = Counted(model)
    expected = values_of(Predictive, counted, *args, num_samples=DRAWS, **options)
    counted.calls = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        actual = values_of(CompiledPredictive, counted, *args, num_samples=DRAWS, **options)
    assert_same(actual, expected)
    assert counted.calls < DRAWS / 2


def test_a_parameter_that_is_trained_between_calls_has_its_new_value():
    def guide():
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    def train():
        with torch.no_grad():
            pyro.param("loc").add_(100.0)

    options = {"guide": guide, "num_samples": DRAWS, "between": train, "calls": 3}
    expected = values_of(Predictive, scaled, **options)
    pyro.clear_param_store()
    assert_same(values_of(CompiledPredictive, scaled, **options), expected)


def test_a_global_that_is_changed_between_calls_is_seen(monkeypatch):
    def change():
        monkeypatch.setattr(f"{__name__}.SCALE", 100.0)

    options = {"num_samples": DRAWS, "between": change}
    expected = values_of(Predictive, scaled, **options)
    monkeypatch.setattr(f"{__name__}.SCALE", 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(values_of(CompiledPredictive, scaled, **options), expected)


def test_a_change_that_is_not_guarded_is_found_by_comparison(tmp_path):
    file = tmp_path / "scale"

    def from_outside():
        return pyro.sample("x", dist.Normal(0.0, 1.0)) * float(file.read_text())

    options = {"num_samples": DRAWS, "return_sites": ("_RETURN",), "between": lambda: file.write_text("2")}
    file.write_text("1")
    expected = values_of(Predictive, from_outside, **options)
    file.write_text("1")
    with pytest.warns(UserWarning, match="CompiledPredictive: runs eagerly .* draws differ"):
        actual = values_of(CompiledPredictive, from_outside, **options)
    assert_same(actual, expected)


def test_a_program_that_branches_on_a_value_runs_eagerly_and_says_so_once():
    options = {"num_samples": DRAWS, "calls": 3}
    expected = values_of(Predictive, branching, **options)
    with pytest.warns(UserWarning, match="it reads a number back from a tensor") as caught:
        actual = values_of(CompiledPredictive, branching, **options)
    assert_same(actual, expected)
    (warning,) = caught
    assert str(warning.message).startswith("CompiledPredictive: runs eagerly: ")
    assert warning.filename == __file__


def test_another_model_that_is_assigned_makes_the_next_draws():
    predictive = CompiledPredictive(schools, num_samples=DRAWS)
    predictive()
    predictive.model = mixture
    torch.manual_seed(0)
    assert_same([predictive()], values_of(Predictive, mixture, num_samples=DRAWS, calls=1))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda predictive: pickle.loads(pickle.dumps(predictive))])  # noqa: S301 (which was pickled here)
def test_a_copy_draws_the_same(copied):
    predictive = CompiledPredictive(schools, num_samples=DRAWS)
    predictive()
    other = copied(predictive)
    torch.manual_seed(0)
    expected = predictive()
    torch.manual_seed(0)
    assert_same([other()], [expected])


@pytest.mark.parametrize("options", [{"num_samples": 5, "parallel": True}, {"num_samples": 1}])
def test_a_single_run_of_the_model_is_that_of_pyro(options):
    expected = values_of(Predictive, schools, **options)
    assert_same(values_of(CompiledPredictive, schools, **options), expected)


@pytest.mark.parametrize("kind", [Predictive, CompiledPredictive])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "posterior_samples or num_samples"),
        ({"posterior_samples": {}}, ValueError, "No sample sites"),
        ({"posterior_samples": POSTERIOR, "guide": schools}, ValueError, "cannot be provided with"),
        ({"num_samples": 2, "return_sites": "mu"}, AssertionError, None),
        ({"posterior_samples": {"mu": torch.ones(2), "tau": torch.ones(3)}}, RuntimeError, "invalid for input of size"),
        ({"posterior_samples": {"mu": torch.full((3,), torch.nan)}}, ValueError, "Expected parameter loc"),
        ({"num_samples": 0}, ZeroDivisionError, "size cannot be zero"),
        ({"num_samples": 2.5}, TypeError, "float"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sample's leading dimension")
def test_bad_input_is_refused_as_by_pyro(kind, options, error, message):
    with pytest.raises(error, match=message):
        kind(schools, **options)()
