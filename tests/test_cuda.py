"""What must be true on CUDA; `--device cpu` runs the same tests there, as `make gpu DEVICE=cpu` does."""

import dataclasses
import random

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

from pyro_vae import Spec, build, evaluate, fit, fit_many, load, save
from pyro_vae._utils.device import choose_device
from pyro_vae.cli.app import main
from pyro_vae.data import binarize
from pyro_vae.evaluation import in_domain_classifier
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.svi import CompiledSVI
from pyro_vae.training.distributed import own_device

SPEC = Spec(latent_dim=2, hidden=(32,), image_shape=(1, 8, 8))
BACKENDS = ("capture", "inductor", "cudagraph")


@pytest.fixture
def device(request):
    """The device of `--device`, cuda by default."""
    chosen = torch.device(request.config.getoption("--device"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; --device cpu runs the same here")
    return chosen


@pytest.fixture
def few(digits):
    """Three whole batches of 32 and a short one."""
    return digits.train.take(slice(0, 3 * 32 + 5))


def trained(spec, images, device, compile="off", **options):
    """In float32 throughout: the rounding of TF32, which convolutions have by default, would hide other differences."""
    model = build(spec)
    arguments = {"epochs": 3, "batch_size": 32, "lr": 0.01, "binarization": "threshold", "seed": 3} | options
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return model, fit(model, images, device=device, compile=compile, progress=False, **arguments)


def on(device, compile):
    if compile == "cudagraph" and device.type != "cuda":
        pytest.skip("CUDA graphs are of CUDA")
    return compile


@pytest.mark.parametrize("compile", BACKENDS)
@pytest.mark.parametrize(
    ("parts", "options"),
    [
        ({}, {}),
        ({"network": "conv"}, {}),
        ({"posterior": {"kind": "planar", "layers": 3}}, {"binarization": "dynamic"}),
        ({"posterior": {"kind": "conditional-planar", "layers": 2}}, {"beta": 2.0, "beta_warmup": 2}),
        ({"likelihood": "gaussian-learned"}, {"objective": "mean-field", "binarization": "none"}),
        ({"likelihood": "continuous-bernoulli"}, {"binarization": "none"}),
        ({"likelihood": "gaussian"}, {"binarization": "none", "dequantize": True}),
        ({"likelihood": {"kind": "discretized-logistic", "components": 3}}, {"binarization": "none"}),
        ({"likelihood": "discretized-gaussian"}, {"binarization": "none"}),
        ({}, {"objective": "iwae", "particles": 3}),
        ({}, {"objective": "iwae-dreg", "particles": 3}),
        ({"model": "autoencoder"}, {}),
    ],
    ids=str,
)
def test_a_training_is_the_eager_one_under_the_same_seed(few, device, compile, parts, options):
    spec = dataclasses.replace(SPEC, **parts)
    reference, expected = trained(spec, few, device, validation=few.take(slice(0, 40)), **options)
    model, history = trained(spec, few, device, on(device, compile), validation=few.take(slice(0, 40)), **options)
    for name in ("train_loss_nats", "train_kl_nats", "validation_loss_nats"):
        assert history.column(name) == pytest.approx(expected.column(name), rel=2e-3, abs=2e-3)
    for (name, value), other in zip(model.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=0.02, atol=5e-3, msg=name)


@pytest.mark.parametrize("compile", BACKENDS)
def test_a_plain_pyro_program_has_the_losses_of_pyro(device, compile):
    def model(x):
        loc = pyro.sample("loc", dist.Normal(torch.zeros((), device=x.device), 10.0))
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros((), device=x.device), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    def losses(make):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = make(AutoNormal(model))
        return [svi.step(x) for _ in range(40)]

    x = torch.linspace(-1, 3, 50, device=device)
    expected = losses(lambda guide: SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO()))
    captured = losses(
        lambda guide: CompiledSVI(model, guide, pyro.optim.Adam({"lr": 0.05}), compile=on(device, compile))
    )
    assert captured == pytest.approx(expected, rel=1e-3)


def test_static_binarization_is_the_same_wherever_the_pixels_are(few, device):
    there = binarize(dataclasses.replace(few, pixels=few.pixels.to(device)), "static").pixels
    assert there.device.type == device.type
    assert torch.equal(there.cpu(), binarize(few, "static").pixels)


@pytest.mark.parametrize("compile", BACKENDS)
def test_a_recorded_step_follows_the_learning_rate(few, device, compile):
    def losses(backend):
        pyro.clear_param_store()
        torch.manual_seed(0)
        model = build(SPEC).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
        svi = CompiledSVI(model.model, model.guide, optimizer, compile=backend)
        x = binarize(few, "threshold").as_float().to(device)
        values = []
        for step in range(20):
            optimizer.param_groups[0]["lr"] = 0.01 if step < 10 else 0.0
            values.append(svi.step(x))
        return values, [param.detach().clone() for param in model.parameters()]

    expected, weights = losses("off")
    captured, same = losses(on(device, compile))
    assert captured == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(same, weights, rtol=0.01, atol=2e-3)


@pytest.mark.parametrize("compile", ["off", *BACKENDS])
def test_a_resumed_training_ends_where_the_whole_one_does(few, device, compile, tmp_path):
    _, expected = trained(SPEC, few, device, on(device, compile), epochs=4)
    trained(SPEC, few, device, compile, epochs=2, checkpoint=tmp_path)
    _, history = trained(SPEC, few, device, compile, epochs=4, checkpoint=tmp_path, resume=True)
    assert history.column("train_loss_nats") == pytest.approx(expected.column("train_loss_nats"), rel=1e-3)
    _, elsewhere = trained(SPEC, few, "cpu", epochs=5, checkpoint=tmp_path, resume=True)  # on another device
    assert len(elsewhere.epochs) == 5


@pytest.mark.parametrize("compile", BACKENDS)
def test_many_seeds_train_as_each_alone_in_distribution(digits, device, compile, tmp_path):
    images = digits.train.take(slice(0, 320))
    spec = dataclasses.replace(
        SPEC, epochs=6, lr=0.01, batch_size=32, binarization="threshold", compile=on(device, compile)
    )
    arguments = {"seeds": [0, 1, 2], "device": device, "progress": False}
    fit_many(dataclasses.replace(spec, epochs=3), images, out=tmp_path, **arguments)
    runs = fit_many(spec, images, out=tmp_path, resume=True, **arguments)
    for _, history in runs:
        assert history.column("train_loss_nats")[-1] < history.column("train_loss_nats")[0]
    train, validation = (images, None) if not spec.validation_fraction else images.split(spec.validation_fraction, 0)
    _, alone = trained(dataclasses.replace(spec, seed=0), train, device, epochs=6, seed=0, validation=validation)
    assert runs[0][1].column("train_loss_nats")[-1] == pytest.approx(alone.column("train_loss_nats")[-1], rel=0.1)


@pytest.mark.parametrize("compile", BACKENDS)
def test_bfloat16_loses_little(digits, device, compile):
    images = digits.train.take(slice(0, 320))
    _, expected = trained(SPEC, images, device, epochs=6)
    _, history = trained(SPEC, images, device, on(device, compile), epochs=6, precision="bf16")
    assert history.column("train_loss_nats") == pytest.approx(expected.column("train_loss_nats"), rel=0.02)


@pytest.mark.parametrize("compile", ["off", "capture"])
def test_pixels_that_stay_on_the_host_train_the_same(few, device, compile, monkeypatch):
    """Of whole-set batches, whose order does not matter, and without noise."""
    spec = dataclasses.replace(SPEC, model="autoencoder")
    _, expected = trained(spec, few, device, batch_size=len(few), epochs=5)
    monkeypatch.setattr("pyro_vae.training.passes.resident", lambda pixels, device: pixels.cpu())
    _, history = trained(spec, few, device, compile, batch_size=len(few), epochs=5)
    assert history.column("train_loss_nats") == pytest.approx(expected.column("train_loss_nats"), rel=1e-3)


class Huge(torch.nn.Module):
    """Asks for a million gigabytes, where there is more than one image."""

    def forward(self, x):
        if len(x) > 1:
            torch.empty(2**50, device=x.device)
        return x


def test_out_of_memory_is_one_clear_line_and_harms_nothing(few, device):
    model = build(SPEC)
    model.encoder = torch.nn.Sequential(Huge(), *model.encoder)
    message = "out of memory at epoch 1, step 1; try a smaller batch_size, or fewer particles"
    with pytest.raises(torch.OutOfMemoryError, match=message):
        fit(model, few, epochs=1, binarization="threshold", device=device, progress=False)
    trained(SPEC, few, device, "capture")


def test_a_device_has_the_name_that_its_tensors_have(device):
    assert own_device(choose_device(device)) == torch.zeros(1, device=device).device


def test_generators_are_as_before(few, device):
    torch.manual_seed(5)
    random.seed(5)
    states = [torch.get_rng_state(), random.getstate()]
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    model, _ = trained(SPEC, few, device, "capture")
    evaluate(model, few, metrics=["bounds", "codes"], binarization="threshold", device=device)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    if on_device is not None:
        assert torch.equal(torch.cuda.get_rng_state(device), on_device)


def test_evaluation_agrees_with_the_cpu(digits, device, tmp_path):
    model, _ = trained(dataclasses.replace(SPEC, latent_dim=4), digits.train, device, epochs=5)
    save(model, tmp_path / "weights.safetensors")
    arguments = {
        "metrics": ["bounds", "codes", "evidence"],
        "binarization": "threshold",
        "k": 200,
        "evidence_images": 60,
    }
    here = evaluate(model, digits.test, device=device, **arguments).to_dict()
    there = evaluate(load(tmp_path / "weights.safetensors"), digits.test, device="cpu", **arguments).to_dict()
    # The noise differs, and with it whether any image has a Pareto k above 0.7, of which other fields tell.
    assert not {name for name in here.keys() ^ there.keys() if not name.startswith(("nll_trusted", "nll_warnings"))}
    for name in ("elbo_nats", "nll_nats", "kl_per_sample", "mse_per_pixel"):
        assert here[name] == pytest.approx(there[name], rel=0.02)


def test_samples_are_scored(digits, device):
    model, _ = trained(SPEC, digits.train, device, epochs=2)
    classifier = in_domain_classifier(digits, device=device, progress=False)
    metrics = evaluate(
        model,
        digits.test,
        metrics=["samples"],
        binarization="threshold",
        extractor=classifier,
        train=digits.train,
        device=device,
    )
    assert metrics.frechet > 0


def test_a_run_folder_goes_from_one_device_to_the_other(device, tmp_path, capsys):
    run = str(tmp_path / "run")
    short = ["--epochs", "2", "--latent-dim", "2", "--hidden", "16", "--binarization", "threshold", "--quiet"]
    assert main(["train", "--dataset", "digits", *short, "--device", str(device), "--out", run]) == 0
    assert main(["evaluate", run, "--metrics", "bounds,codes", "--device", "cpu"]) == 0
    assert main(["evaluate", run, "--metrics", "bounds", "--device", str(device)]) == 0
    assert main(["train", "--resume", "--epochs", "3", "--quiet", "--device", "cpu", "--out", run]) == 0


def test_a_posterior_samples_where_its_parameters_are(device):
    q = DiagonalNormal(3)(torch.zeros(2, 6, device=device))
    assert q.sample().device.type == device.type


def test_an_evaluation_leaves_the_model_where_it_was(device, few):
    model = build(SPEC)
    metrics = evaluate(model, few, metrics=["bounds", "codes"], binarization="threshold", device=device)
    assert metrics.provenance["elbo_nats"]["device"] == device.type
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
