"""A captured step is replayed only while the Python values that its programs read are the same."""

import collections
import cProfile
import dataclasses
import functools
import itertools
import sys
import types
import warnings

import numpy
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.distributions import Transform

from pyro_vae.svi import CompiledSVI

Y = torch.linspace(-1.0, 3.0, 6)


def guide(y):
    scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.1)), scale))


def model_of(read):
    """A model with a number, which `read` returns."""

    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(z * read(), 1.0), obs=y)

    return model


def run(kind, model, guide=guide, change=lambda: None, each=lambda svi: None, steps=8):
    """The losses of some steps, then the parameters; `change` is called after half of them, `each` after each."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    svi, losses = kind(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO()), []
    for number in range(steps):
        if number == steps // 2:
            change()
        losses.append(svi.step(Y))
        each(svi)
    sums = [param.sum().item() for _, param in sorted(pyro.get_param_store().items())]
    return [*losses, *sums], svi


def equal_to_pyro(make, captures, **options):
    """Both from what `make` returns: a model, and what changes it. Nothing runs eagerly."""
    model, change, *guides = make()
    expected, _ = run(SVI, model, *guides, change=change, **options)
    model, change, *guides = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        actual, svi = run(CompiledSVI, model, *guides, change=change, **options)
    assert actual == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert svi.signatures == captures
    return svi


# --- what the programs read -------------------------------------------------------------------------------------------


class Settings:
    weight = 1.0

    def __init__(self):
        self.own, self.items, self.named, self.unused = 1.0, [1.0, 1.0], {"a": 1.0}, []
        self.inner = types.SimpleNamespace(weight=1.0)
        self.ring, self.choices, self.array = collections.deque([1.0]), {1.0}, numpy.ones(2)

    def method(self):
        return self.own

    @property
    def derived(self):
        return 2 * self.own

    @staticmethod
    def constant():
        return 1.0


class Slots:
    __slots__ = ("weight",)

    def __init__(self):
        self.weight = 1.0


class Dynamic:
    def __init__(self):
        self._values = {"weight": 1.0}

    def __getattr__(self, name):
        return self._values[name]


@dataclasses.dataclass
class Data:
    weight: float = 1.0


Pair = collections.namedtuple("Pair", "weight other")
GLOBAL = 1.0
HOLDER: dict = {}


class Holding:
    """An object with another one, which it gives away in several ways."""

    def __init__(self):
        self._inner = Settings()

    @property
    def inner(self):
        return self._inner

    def get(self):
        return self._inner


class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = 1.0


def given_by_a_name(name, read):
    """A case: a number in a module that a function imports."""

    def case():
        module = types.ModuleType("a_module_of_numbers")
        module.weight = 1.0
        sys.modules[module.__name__] = module
        return model_of(read), lambda: setattr(module, name, 3.0)

    return case


def imported_inside():
    from a_module_of_numbers import weight

    return weight


def made_up_of_a_module():
    import a_module_of_numbers

    return getattr(a_module_of_numbers, "".join(["wei", "ght"]))


def made_up_global():
    set_global(1.0)
    return model_of(lambda: globals()["".join(["GLO", "BAL"])]), lambda: set_global(3.0)


def made_up_of_a_class():
    kind = type("Own", (Settings,), {"weight_a": 1.0})
    held = kind()
    return model_of(lambda: getattr(held, "weight_" + "a".lower())), lambda: setattr(kind, "weight_a", 3.0)


def attribute_of_a_tensor():
    tensor = torch.ones(1)
    tensor.gain = 1.0
    return model_of(lambda: tensor.sum() * tensor.gain), lambda: setattr(tensor, "gain", 3.0)


def part_of_a_distribution():
    prior = dist.TransformedDistribution(dist.Normal(0.0, 1.0), [dist.transforms.AffineTransform(0.0, 1.0)])

    def model(y):
        z = pyro.sample("z", prior)
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    return model, lambda: setattr(prior, "base_dist", dist.Normal(1.0, 0.5))


def set_global(value):
    global GLOBAL
    GLOBAL = value


def attribute(change, read, make=Settings):
    """A case: the model reads from an object, which is then changed."""

    def case():
        held = make()
        return model_of(lambda: read(held)), lambda: change(held)

    return case


def closure():
    weight = 1.0

    def read():
        return weight

    def change():
        nonlocal weight
        weight = 3.0

    return model_of(read), change


def closed_over_list():
    weights = [1.0]
    return model_of(lambda: sum(weights)), lambda: weights.append(2.0)


def global_variable():
    set_global(1.0)
    return model_of(lambda: GLOBAL), lambda: set_global(3.0)


def default_argument():
    def read(weight=1.0):
        return weight

    return model_of(read), lambda: setattr(read, "__defaults__", (3.0,))


def keyword_default():
    def read(*, weight=1.0):
        return weight

    return model_of(read), lambda: read.__kwdefaults__.update(weight=3.0)


def function_attribute():
    def read():
        return read.weight

    read.weight = 1.0
    return model_of(read), lambda: setattr(read, "weight", 3.0)


def partial_keyword():
    read = functools.partial(lambda weight: weight, weight=1.0)
    return model_of(read), lambda: read.keywords.update(weight=3.0)


def long_list():
    data = [torch.ones(())] * 70
    return model_of(lambda: torch.stack(data).sum() / 70), lambda: data.extend([torch.ones(())] * 70)


def class_attribute():
    class Holder:
        weight = 1.0

    return model_of(lambda: Holder.weight), lambda: setattr(Holder, "weight", 3.0)


def inherited_then_shadowed():
    class Base:
        weight = 1.0

    class Derived(Base):
        pass

    return model_of(lambda: Derived().weight), lambda: setattr(Derived, "weight", 3.0)


def replaced_method():
    class Holder:
        def read(self):
            return 1.0

    return model_of(Holder().read), lambda: setattr(Holder, "read", lambda self: 3.0)


def replaced_method_of_the_object():
    class Holder:
        def read(self):
            return 1.0

    holder = Holder()
    return model_of(lambda: holder.read()), lambda: setattr(holder, "read", lambda: 3.0)


def replaced_function():
    def first():
        return 1.0

    HOLDER["read"] = first
    return model_of(lambda: HOLDER["read"]()), lambda: HOLDER.update(read=lambda: 3.0)


def deleted_attribute():
    held = Settings()
    held.weight = 3.0
    return model_of(lambda: held.weight), lambda: delattr(held, "weight")


def imported_module():
    module = types.ModuleType("a_users_module")
    module.weight = 1.0
    return model_of(lambda: module.weight), lambda: setattr(module, "weight", 3.0)


def distribution_by_convention():
    class Scaled(dist.Normal):
        factor = 1.0

        def log_prob(self, value):
            return self.factor * super().log_prob(value)

    def model(y):
        z = pyro.sample("z", Scaled(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0).expand([6]).to_event(1), obs=y)

    return model, lambda: setattr(Scaled, "factor", 3.0)


def messenger_by_convention():
    class Scaling(Messenger):
        def __init__(self):
            super().__init__()
            self.factor = 1.0

        def _pyro_sample(self, msg):
            msg["scale"] = msg["scale"] * self.factor

    scaling = Scaling()
    return scaling(model_of(lambda: 1.0)), lambda: setattr(scaling, "factor", 3.0)


def transform_by_convention():
    class Shift(Transform):
        domain = codomain = dist.constraints.real
        bijective = True
        shift = 0.0

        def _call(self, x):
            return x + self.shift

        def _inverse(self, y):
            return y - self.shift

        def log_abs_det_jacobian(self, x, y):
            return torch.zeros_like(x)

    shift = Shift()

    def model(y):
        z = pyro.sample("z", dist.TransformedDistribution(dist.Normal(0.0, 1.0), [shift]))
        pyro.sample("y", dist.Normal(z, 1.0).expand([6]).to_event(1), obs=y)

    return model, lambda: setattr(shift, "shift", 1.0)


def autoguide_by_convention():
    class Guide(AutoNormal):
        widening = 1.0

        def _get_loc_and_scale(self, name):
            loc, scale = super()._get_loc_and_scale(name)
            return loc, self.widening * scale

    model = model_of(lambda: 1.0)
    guide = Guide(model)
    return model, lambda: setattr(guide, "widening", 3.0), guide


def gradient_reversal():
    class Reverse(torch.autograd.Function):
        lam = 1.0

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return -Reverse.lam * gradient

    def model(y):
        shift = Reverse.apply(pyro.param("shift", torch.tensor(0.3)))
        z = pyro.sample("z", dist.Normal(shift, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0).expand([6]).to_event(1), obs=y)

    return model, lambda: setattr(Reverse, "lam", -1.0)


def handler_setting():
    handler = pyro.poutine.scale(scale=1.0)
    return handler(model_of(lambda: 1.0)), lambda: setattr(handler, "scale", 0.5)


def conditioned_data():
    data = {"z": torch.tensor(0.5)}
    model = pyro.poutine.condition(model_of(lambda: 1.0), data=data)
    return model, lambda: data.update(z=torch.tensor(1.5)), lambda y: None


def module_case(change, read=lambda net: net(torch.ones(1)).sum(), train=False):
    def case():
        net = nn.Sequential(nn.Linear(1, 1), nn.Identity(), nn.Dropout(0.5))
        nn.init.ones_(net[0].weight), nn.init.zeros_(net[0].bias)
        net.train(train)

        def model(y):
            pyro.module("net", net)
            model_of(lambda: read(net))(y)

        return model, lambda: change(net)

    return case


def tensor_hook():
    def case():
        weight = nn.Parameter(torch.ones(()))
        net = nn.Module()
        net.weight = weight

        def model(y):
            pyro.module("net", net)
            model_of(lambda: net.weight)(y)

        return model, lambda: weight.register_hook(lambda gradient: 3 * gradient)

    return case


def second_tensor_hook():
    model, _ = tensor_hook()()
    weight = model.__closure__[0].cell_contents.weight
    weight.register_hook(lambda gradient: 2 * gradient)
    return model, lambda: weight.register_hook(lambda gradient: 3 * gradient)


def pyro_sample_replaced():
    class Net(PyroModule):
        def __init__(self):
            super().__init__()
            self.z = PyroSample(dist.Normal(0.0, 1.0))
            self.scale = PyroParam(torch.tensor(1.0), dist.constraints.positive)

        def forward(self, y):
            pyro.sample("y", dist.Normal(self.z, self.scale).expand([6]).to_event(1), obs=y)

    net = Net()
    return net, lambda: setattr(net, "z", PyroSample(dist.Normal(2.0, 1.0)))


def property_over_a_closure():
    weight = 1.0

    class Holder:
        @property
        def read(self):
            return weight

        @staticmethod
        def other():
            return weight

    def change():
        nonlocal weight
        weight = 3.0

    holder = Holder()
    return model_of(lambda: holder.read + holder.other()), change


class Tripled(Settings):
    def method(self):
        return 3 * self.own


def hidden_builtin():
    module = {}
    exec("def read(): return abs(-1.0)", module)  # noqa: S102
    return model_of(module["read"]), lambda: module.update(abs=lambda number: 3.0)


def number_over_a_parameter():
    class Weighted(PyroModule):
        def __init__(self):
            super().__init__()
            self.weight = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)

    held = Weighted()
    return model_of(lambda: held.weight), lambda: setattr(held, "weight", 3.0)


SEEN = {
    "another class": attribute(lambda held: setattr(held, "__class__", Tripled), lambda held: held.method()),
    "hidden built-in function": hidden_builtin,
    "number over a parameter": number_over_a_parameter,
    "property over a closure": property_over_a_closure,
    "attribute": attribute(lambda held: setattr(held, "own", 3.0), lambda held: held.own),
    "attribute of an attribute": attribute(lambda s: setattr(s.inner, "weight", 3.0), lambda s: s.inner.weight),
    "object replaced": attribute(
        lambda held: setattr(held, "inner", types.SimpleNamespace(weight=3.0)), lambda held: held.inner.weight
    ),
    "method": attribute(lambda held: setattr(held, "own", 3.0), Settings.method),
    "property": attribute(lambda held: setattr(held, "own", 3.0), lambda held: held.derived),
    "getattr": attribute(lambda held: setattr(held, "own", 3.0), lambda held: getattr(held, "own")),  # noqa: B009
    "getattr of a name made up": attribute(
        lambda held: setattr(held, "own", 3.0), lambda held: getattr(held, "".join(["o", "wn"]))
    ),
    "getattr of a missing name": attribute(
        lambda held: setattr(held, "later", 3.0), lambda held: getattr(held, "later", 1.0)
    ),
    "hasattr": attribute(lambda held: setattr(held, "later", 3.0), lambda held: 3.0 if hasattr(held, "later") else 1.0),
    "vars": attribute(lambda held: setattr(held.inner, "weight", 3.0), lambda held: max(vars(held.inner).values())),
    "shadowed by the object": attribute(lambda held: setattr(held, "weight", 3.0), lambda held: held.weight),
    "slots": attribute(lambda held: setattr(held, "weight", 3.0), lambda held: held.weight, Slots),
    "__getattr__": attribute(lambda held: held._values.update(weight=3.0), lambda held: held.weight, Dynamic),
    "dataclass": attribute(lambda held: setattr(held, "weight", 3.0), lambda held: held.weight, Data),
    "asdict": attribute(
        lambda held: setattr(held, "weight", 3.0), lambda held: dataclasses.asdict(held)["weight"], Data
    ),
    "named tuple replaced": attribute(
        lambda held: setattr(held, "pair", Pair(3.0, 0.0)),
        lambda held: held.pair.weight,
        lambda: types.SimpleNamespace(pair=Pair(1.0, 0.0)),
    ),
    "list item": attribute(lambda held: held.items.__setitem__(1, 3.0), lambda held: held.items[1]),
    "list grown": attribute(lambda held: held.items.append(3.0), lambda held: sum(held.items)),
    "list sorted": attribute(lambda held: held.sort(), lambda held: held[0], lambda: [1.0, 0.5, 2.0]),
    "dictionary item": attribute(lambda held: held.named.update(a=3.0), lambda held: held.named["a"]),
    "dictionary key": attribute(
        lambda held: held.named.update(b=held.named.pop("a")), lambda held: held.named.get("b", 3.0)
    ),
    "deque": attribute(lambda held: held.ring.appendleft(3.0), lambda held: held.ring[0]),
    "set": attribute(lambda held: held.choices.add(3.0), lambda held: max(held.choices)),
    "array": attribute(lambda held: held.array.fill(3.0), lambda held: float(held.array[1])),
    "tensor replaced": attribute(
        lambda held: setattr(held, "own", torch.tensor(3.0)),
        lambda held: held.own,
        lambda: types.SimpleNamespace(own=torch.tensor(1.0)),
    ),
    "items of a list": attribute(
        lambda held: setattr(held[1], "own", 3.0),
        lambda held: sum(each.own for each in held),
        lambda: [Settings(), Settings()],
    ),
    "a loop over a dictionary": attribute(
        lambda held: setattr(held["b"], "own", 3.0),
        lambda held: sum([each.own for _, each in held.items()]),
        lambda: {"a": Settings(), "b": Settings()},
    ),
    "closure": closure,
    "closed-over list": closed_over_list,
    "global": global_variable,
    "default argument": default_argument,
    "keyword default": keyword_default,
    "function attribute": function_attribute,
    "partial": partial_keyword,
    "long list": long_list,
    "class attribute": class_attribute,
    "class attribute, shadowed": inherited_then_shadowed,
    "method replaced": replaced_method,
    "method of an object replaced": replaced_method_of_the_object,
    "function replaced": replaced_function,
    "attribute deleted": deleted_attribute,
    "imported module": imported_module,
    "log_prob": distribution_by_convention,
    "_pyro_sample": messenger_by_convention,
    "_call": transform_by_convention,
    "autoguide": autoguide_by_convention,
    "backward": gradient_reversal,
    "handler": handler_setting,
    "condition": conditioned_data,
    "child": module_case(lambda net: net.__setitem__(1, nn.Softplus())),
    "further child": module_case(lambda net: net.append(nn.Softplus())),
    "what a function returns": attribute(
        lambda held: setattr(held.inner, "own", 3.0), lambda held: held.get().own, Holding
    ),
    "what a property returns": attribute(
        lambda held: setattr(held.inner, "own", 3.0), lambda held: held.inner.own, Holding
    ),
    "item of a module list": attribute(
        lambda held: setattr(held[0], "gain", 3.0), lambda held: held[0].gain, lambda: nn.ModuleList([Gain()])
    ),
    "submodule by name": attribute(
        lambda held: setattr(held.get_submodule("0"), "gain", 3.0),
        lambda held: held.get_submodule("0").gain,
        lambda: nn.ModuleList([Gain()]),
    ),
    "imported inside": given_by_a_name("weight", imported_inside),
    "made-up name of a module": given_by_a_name("weight", made_up_of_a_module),
    "made-up global": made_up_global,
    "made-up name of a class": made_up_of_a_class,
    "attribute of a tensor": attribute_of_a_tensor,
    "part of a distribution": part_of_a_distribution,
    "padding": attribute(
        lambda held: setattr(held, "padding", (0,)),
        lambda held: held(torch.ones(1, 1, 5)).sum().detach(),
        lambda: nn.init.ones_((layer := nn.Conv1d(1, 1, 3, padding=1, bias=False)).weight) is None or layer,
    ),
    "dictionary order": attribute(
        lambda held: held.update(a=held.pop("a")), lambda held: next(iter(held.values())), lambda: {"a": 1.0, "b": 3.0}
    ),
    "training": module_case(lambda net: net.train()),
    "setting of a layer": module_case(lambda net: setattr(net[2], "p", 0.9), train=True),
    "parameter frozen": module_case(lambda net: net[0].bias.requires_grad_(False)),
    "forward hook": module_case(lambda net: net[1].register_forward_hook(lambda module, args, out: 3 * out)),
    "forward pre-hook": module_case(lambda net: net[0].register_forward_pre_hook(lambda module, args: (3 * args[0],))),
    "backward hook": module_case(
        lambda net: net[1].register_full_backward_hook(lambda module, inputs, outputs: (3 * inputs[0],))
    ),
    "forward replaced": module_case(lambda net: setattr(net[1], "forward", lambda x: 3 * x)),
    "buffer replaced": module_case(
        lambda net: net.register_buffer("factor", torch.tensor(3.0)),
        lambda net: net(torch.ones(1)).sum() * getattr(net, "factor", 1.0),
    ),
    "tensor hook": tensor_hook(),
    "second tensor hook": second_tensor_hook,
    "PyroSample": pyro_sample_replaced,
}


@pytest.mark.parametrize("case", SEEN.values(), ids=SEEN)
def test_a_change_of_what_was_read_is_seen(case):
    equal_to_pyro(case, captures=2)


def test_a_hook_of_all_modules_is_seen():
    """It is called for the captured step, a module of torch's, too, unless that is called by its `forward`."""
    handles = []

    def triple(module, inputs, output):
        return 3 * output

    def case():
        net = nn.Linear(1, 1)
        nn.init.ones_(net.weight), nn.init.zeros_(net.bias)
        while handles:
            handles.pop().remove()
        model = model_of(lambda: net(torch.ones(1)).sum().detach())
        return model, lambda: handles.append(nn.modules.module.register_module_forward_hook(triple))

    try:
        equal_to_pyro(case, captures=2)
    finally:
        handles.pop().remove()


def test_an_installed_package_is_guarded_as_the_users_own_files_are(tmp_path, monkeypatch):
    package = tmp_path / "lib" / "python3" / "site-packages" / "a_package_of_others"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "LIMIT = 1.0\nclass Options:\n    weight = 1.0\ndef read(options):\n    return options.weight * LIMIT\n"
    )
    monkeypatch.syspath_prepend(package.parent)

    def case(change):
        sys.modules.pop(package.name, None)
        module = __import__(package.name)
        options = module.Options()
        return model_of(lambda: module.read(options)), lambda: change(module)

    equal_to_pyro(lambda: case(lambda module: setattr(module.Options, "weight", 3.0)), captures=2)
    equal_to_pyro(lambda: case(lambda module: setattr(module, "LIMIT", 3.0)), captures=2)
    sys.modules.pop(package.name, None)


# --- what is nobody's business ----------------------------------------------------------------------------------------


class Student:
    """A class as students write it: the programs, the optimization and its records in one."""

    def __init__(self, kind):
        self.losses, self.calls, self.seen, self.table = [], 0, {}, {}
        self.net = nn.Linear(1, 1)
        nn.init.ones_(self.net.weight), nn.init.zeros_(self.net.bias)
        self.other = nn.Linear(1, 1)
        self.names = ["loc", "scale", "b"]
        self.b = []
        self.svi = kind(self.model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())

    def model(self, y):
        self.calls += 1
        self.seen["latest"] = 1.0
        self.b.append(1)
        pyro.module("net", self.net)
        shift = pyro.param("b", torch.tensor(0.5))
        z = pyro.sample("z", dist.Normal(shift, 1.0))
        pyro.sample("y", dist.Normal(z + self.net(torch.ones(1)).sum(), 1.0).expand([6]).to_event(1), obs=y)

    def train(self):
        self.losses.append(self.svi.step(Y))
        self.n = getattr(self, "n", 0) + 1
        self.table = {**self.table, self.n: self.losses[-1]}
        self.names = [*self.names, "another"]
        self.other.register_forward_hook(lambda *_: None)
        self.other.train(self.n % 2 == 0)


def test_records_beside_the_programs_cause_no_further_capture():
    losses = {}
    for kind in (SVI, CompiledSVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        student = Student(kind)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(8):
                student.train()
        losses[kind] = student.losses
    assert losses[CompiledSVI] == pytest.approx(losses[SVI], rel=1e-4)
    assert student.svi.signatures == 1


def count(held):
    held.steps += 1
    return 1.0


def store():
    HOLDER["latest"] = 2.0
    return 1.0


def latest():
    return HOLDER["stack"][-1]


def stack():
    """Each run takes away what it has put there, though into another list."""
    HOLDER.setdefault("stack", []).append(1.0)
    weight = latest()
    HOLDER.pop("stack").clear()
    return weight


def local():
    GLOBAL = 0.5  # noqa: N806
    return GLOBAL + GLOBAL


BESIDE = {
    "a global variable of a local one's name": attribute(lambda held: set_global(GLOBAL + 1.0), lambda held: local()),
    "a stack": attribute(lambda held: None, lambda held: stack()),
    "an attribute that is not read": attribute(lambda held: setattr(held, "unused", [1]), lambda held: held.own),
    "an equal number": attribute(lambda held: setattr(held, "own", float("1")), lambda held: held.own),
    "a list that is only added to": attribute(
        lambda held: held.unused.extend([1, 2]), lambda held: held.unused.append(1) or held.own
    ),
    "a counter that is only advanced": attribute(
        lambda held: setattr(held, "steps", 0), lambda held: count(held), lambda: types.SimpleNamespace(steps=0)
    ),
    "an item that is only set": attribute(lambda held: HOLDER.update(b=2.0), lambda held: store()),
    "content of a tensor": attribute(lambda held: held.fill_(3.0), lambda held: held, lambda: torch.tensor(1.0)),
    "another object of the class": attribute(lambda held: setattr(Settings(), "own", 3.0), lambda held: held.own),
}


@pytest.mark.parametrize("case", BESIDE.values(), ids=BESIDE)
def test_a_change_beside_what_was_read_causes_no_capture(case):
    equal_to_pyro(case, captures=1)


# --- what cannot be guarded -------------------------------------------------------------------------------------------

TABLE = numpy.ones(1000)  # too large for all of it to be compared


def test_a_change_that_only_gradients_show_is_found_by_comparison():
    """At call 10 at the latest."""

    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return -float(TABLE[1]) * gradient

    def model(y):
        shift = Reverse.apply(pyro.param("shift", torch.tensor(0.3)))
        z = pyro.sample("z", dist.Normal(shift, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0).expand([6]).to_event(1), obs=y)

    with pytest.warns(UserWarning, match="from call 10 .*: the program's gradients differ"):
        run(CompiledSVI, model, change=lambda: TABLE.__setitem__(1, -1.0), steps=14)
    TABLE[1] = 1.0


def test_what_runs_change_is_put_back_after_a_capture():
    """A program that is captured in vain goes on as under Pyro; the two runs of a capture count for nothing."""

    def case(kind):
        state = {"n": 0, "items": [], "mean": torch.zeros(())}

        def model(y):
            state["n"] += 1
            state["items"].append(state["n"])
            state["mean"] = 0.9 * state["mean"] + 0.1 * len(state["items"])
            model_of(lambda: state["mean"])(y)

        return run(kind, model)[0], state["items"]

    expected = case(SVI)
    with pytest.warns(UserWarning, match="runs eagerly: each run of it changes"):
        actual = case(CompiledSVI)
    assert actual[0] == pytest.approx(expected[0])
    assert actual[1] == expected[1]


def test_a_counter_that_is_only_advanced_stands_still_while_steps_are_replayed():
    """As the docstring of CompiledSVI says: what programs only write is nobody's business."""
    calls = types.SimpleNamespace(count=0)

    def model(y):
        calls.count += 1
        model_of(lambda: 1.0)(y)

    run(CompiledSVI, model, steps=5)
    assert calls.count == 1


def test_an_iterator_is_refused_before_it_is_advanced():
    def case(kind):
        numbers = itertools.count(1)
        return run(kind, model_of(lambda: float(next(numbers))))[0]

    with pytest.warns(UserWarning, match="it may advance an iterator, a count"):
        actual = case(CompiledSVI)
    assert actual == pytest.approx(case(SVI))


def test_a_profiler_goes_on_after_a_capture():
    profiler = cProfile.Profile()
    profiler.enable()
    run(CompiledSVI, model_of(lambda: 1.0), steps=3)
    assert sys.getprofile() is profiler or sys.version_info >= (3, 12)  # which has another way
    profiler.disable()
