"""Apple's GPUs have no float64, so none is made on the training device in all that trains and evaluates.

There is none on the machines that run these tests. So the CPU is the device, and what comes from `.cpu()`, or is made
without naming a device, is taken for the host.
"""

from contextlib import contextmanager

import pyro
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from pyro_vae import Spec, build, evaluate, fit, fit_many, latent
from pyro_vae._utils.checks import InputError
from pyro_vae._utils.device import choose_device
from pyro_vae._utils.rng import seeded_rng
from pyro_vae.data.batches import shuffled
from pyro_vae.evaluation import (
    ModuleExtractor,
    aggregate_posterior,
    annealed_log_likelihood,
    bidirectional_monte_carlo,
    in_domain_classifier,
    inference_gap,
    kl_per_dimension,
    mse_per_pixel,
    predictive_check,
    simulation_based_calibration,
    to_inference_data,
)
from pyro_vae.models.base import move
from pyro_vae.objectives import Terms
from pyro_vae.svi import CompiledSVI

SPEC = Spec(latent_dim=2, hidden=(16,), epochs=2)
QUIET = {"progress": False, "device": "cpu"}


class Calls(TorchFunctionMode):
    """Which tensors are made for the host; a copy to the CPU is a copy here as well."""

    def __init__(self, host):
        super().__init__()
        self.host, self.names_no_device = host, False

    def from_numpy(self, array, original=torch.from_numpy):
        return self.__torch_function__(original, (), (array,))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        before, self.names_no_device = self.names_no_device, kwargs.get("device") is None
        try:
            made = func(*args, **kwargs)
        finally:
            self.names_no_device = before
        if func is torch.Tensor.cpu:
            made = made.clone()
            self.host[made] = True
        return made


class NoFloat64OnTheDevice(TorchDispatchMode):
    def __init__(self, host, calls):
        super().__init__()
        self.host, self.calls = host, calls

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_host = all(leaf in self.host for leaf in tensors) if tensors else self.calls.names_no_device
        if func is torch.ops.aten.lift_fresh.default:  # of values that come from Python or NumPy
            on_host = self.calls.names_no_device
        made = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(made):
            if not isinstance(leaf, torch.Tensor):
                continue
            if on_host:
                self.host[leaf] = True
            elif leaf.dtype == torch.float64:
                raise AssertionError(f"{func} makes float64 on the device")
        return made


@pytest.fixture
def refused(monkeypatch):
    @contextmanager
    def inside():
        host = WeakTensorKeyDictionary()
        calls = Calls(host)
        # The one that modes do not see.
        monkeypatch.setattr(torch, "from_numpy", calls.from_numpy)
        monkeypatch.setattr("pyro_vae.svi.ambient.not_replayable", str)  # steps would run eagerly under these modes
        with calls, NoFloat64OnTheDevice(host, calls):
            yield

    return inside


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.double(),
        lambda x: x.double().cpu(),
        lambda x: torch.zeros(2, dtype=torch.float64, device=x.device),
        lambda x: x * torch.ones(3, dtype=torch.float64),
    ],
)
def test_float64_on_the_device_is_seen(refused, make):
    with refused():
        x = torch.zeros(3, device="cpu")
        assert x.cpu().double().sum().item() == 0
        with pytest.raises(AssertionError, match="makes float64 on the device"):
            make(x)


@pytest.mark.parametrize(
    ("compile", "fields"),
    [
        ("capture", {}),
        ("capture", {"beta": 2.0, "beta_warmup": 1, "binarization": "dynamic"}),
        ("off", {"beta": 2.0, "beta_warmup": 1, "posterior": "planar", "likelihood": "gaussian-learned"}),
        ("off", {"posterior": "conditional-planar", "model": "vae-prior-at-start"}),
        ("off", {"prior": "uniform", "posterior": "uniform", "likelihood": "continuous-bernoulli", "dequantize": True}),
        ("off", {"likelihood": {"kind": "discretized-logistic", "components": 2}}),
        ("off", {"likelihood": "discretized-gaussian"}),
        ("off", {"objective": "iwae", "particles": 3, "network": {"kind": "conv", "channels": (4,)}}),
        ("off", {"objective": "iwae-dreg", "particles": 3, "posterior": "planar"}),
        ("off", {"objective": "mean-field", "prior": "laplace", "posterior": "laplace"}),
        ("off", {"model": "autoencoder"}),
        ("off", {"sampler": "latent-density"}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:grey pixels")
def test_in_a_training_and_its_evaluation(tiny, refused, compile, fields):
    model = build(Spec(latent_dim=2, hidden=(16,), **fields))
    names = ("objective", "particles", "beta", "beta_warmup", "binarization", "dequantize", "sampler")
    options = {name: getattr(model.spec, name) for name in names}
    extractor = ModuleExtractor(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), "random", 5)
    groups = ["bounds", "codes"] if fields.get("model") == "autoencoder" else ["bounds", "codes", "evidence", "samples"]
    with refused():
        fit(model, tiny, epochs=2, batch_size=5, validation=tiny, compile=compile, **options, **QUIET)
        noised = {"dequantize": model.spec.dequantize, "device": "cpu"}
        metrics = evaluate(model, tiny, metrics=groups, k=30, extractor=extractor, train=tiny, **noised)
    assert metrics.mse_per_pixel > 0


@pytest.mark.filterwarnings("ignore:grey pixels")
def test_in_draws_with_weights_on_the_device(tiny, refused):
    weights = torch.arange(1.0, len(tiny) + 1, device="cpu")
    with refused():
        fit(build(SPEC), tiny, epochs=1, batch_size=5, sampler=lambda model, images: weights, **QUIET)


class NoFloat64OnMeta(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(made):
            assert not (leaf.device.type == "meta" and leaf.dtype == torch.float64), f"{func} makes float64"
        return made


def test_in_the_order_of_draws_with_weights():
    """Of pixels on the device `meta`."""
    pixels = torch.zeros(9, 1, 2, 2, dtype=torch.uint8, device="meta")
    with NoFloat64OnMeta():
        parts = list(shuffled(pixels, 4, weights=torch.ones(9, dtype=torch.float64)))
    assert [(len(part), part.device.type) for part in parts] == [(4, "meta"), (4, "meta"), (1, "meta")]


@pytest.mark.parametrize("options", [{}, {"beta_warmup": 1, "validation_fraction": 0.25, "binarization": "dynamic"}])
@pytest.mark.filterwarnings("ignore:grey pixels")
def test_in_a_training_of_many(tiny, refused, options):
    spec = Spec(latent_dim=2, hidden=(16,), epochs=2, batch_size=5, **{"validation_fraction": 0.0} | options)
    with refused():
        fit_many(spec, tiny, seeds=[0, 1], **QUIET)


@pytest.mark.filterwarnings("ignore:grey pixels")
def test_in_what_looks_into_a_model(tiny, refused):
    model = build(SPEC)
    with refused():
        x = tiny.as_float()
        latent.codes(model, tiny, device="cpu")
        latent.posterior_means(model, tiny, device="cpu")
        latent.prior_samples(model, 3, device="cpu")
        latent.interpolate(model, x[0], x[1])
        latent.manifold(model, 3, spacing="quantiles")
        annealed_log_likelihood(model, x, temperatures=3, chains=2, device="cpu")
        bidirectional_monte_carlo(model, 3, temperatures=3, chains=2, device="cpu")
        to_inference_data(model, tiny, draws=3, k=30, device="cpu")
        quick = {"steps": 2, "rounds": 3, "tolerance_nats": 100.0, "samples": 3}
        inference_gap(model, tiny, k=30, device="cpu", **quick)
        simulation_based_calibration(model, 10, bins=2, draws=9, device="cpu")
        for kind in ("prior", "posterior"):
            predictive_check(model, tiny, kind=kind, replicates=3, device="cpu")
        q, p = model.encode(x), model.prior()
        kl_per_dimension(q, p)
        aggregate_posterior(q, p)
        mse_per_pixel(x, model.reconstruct(x))


def test_in_the_classifier(tiny, refused, monkeypatch):
    monkeypatch.setattr("pyro_vae.evaluation.samples.classifier.round", lambda _: 1, raising=False)  # one epoch
    with refused(), pytest.warns(UserWarning, match="not clearly better than chance"):
        in_domain_classifier((tiny, tiny), device="cpu", progress=False)


def test_in_an_argument_that_keeps_changing(refused):
    def model(x, rate):
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=rate):
            pyro.sample("x", pyro.distributions.Normal(pyro.param("loc", torch.zeros(())), 1.0), obs=x)

    svi = CompiledSVI(model, lambda x, rate: None, torch.optim.Adam, compile="capture")
    with refused():
        x = torch.ones(4, device="cpu")
        losses = [svi.step_tensor(x, 0.1 * number) for number in range(1, 9)]
        torch.stack(losses)
    assert svi.signatures == 3  # two for the first values, of which the very first ran eagerly, and one for all others


def test_sums_are_those_of_float64():
    """Though float32 keeps 24 bits, of which a sum of 2,000 such steps would lose half."""
    terms, expected = Terms(torch.device("cpu")), torch.zeros(2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        log_likelihood, log_q, log_p = -torch.rand(3, generator=generator) * torch.tensor([9e4, 3e3, 4e3])
        sites = {"type": "sample", "is_observed": False, "infer": {}, "mask": None}
        model = pyro.poutine.Trace()
        model.add_node("z", name="z", unscaled_log_prob=log_p, **sites)
        model.add_node("x", name="x", unscaled_log_prob=log_likelihood, **sites | {"is_observed": True})
        guide = pyro.poutine.Trace()
        guide.add_node("z", name="z", unscaled_log_prob=log_q, **sites)
        terms._add(model, guide, 1)
        expected += torch.stack([log_likelihood.double(), log_q.double() - log_p.double()])
    torch.testing.assert_close(terms.totals(), expected, rtol=1e-10, atol=0)


def test_auto_takes_an_apple_gpu_where_there_is_no_cuda(monkeypatch):
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=cuda: available)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda available=mps: available)
        assert choose_device("auto").type == expected
    monkeypatch.setattr("pyro_vae.models.base.choose_device", torch.device)
    with pytest.raises(InputError, match="model: given 'float64 weights', expected float32 on mps"):
        move(build(SPEC).double(), "mps")


def test_random_numbers_of_an_apple_gpu_are_borrowed_and_given_back(monkeypatch):
    generator = torch.Generator().manual_seed(5)
    monkeypatch.setattr(torch.mps, "manual_seed", generator.manual_seed)
    monkeypatch.setattr(torch.mps, "get_rng_state", generator.get_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", generator.set_state)
    before = generator.get_state()
    with seeded_rng(torch.device("mps"), seed=3):
        assert torch.rand(1, generator=generator) == torch.rand(1, generator=torch.Generator().manual_seed(3))
    assert torch.equal(generator.get_state(), before)
