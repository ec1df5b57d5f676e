import csv
import dataclasses
import math
import random
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI, JitTrace_ELBO, ReweightedWakeSleep, Trace_ELBO
from torch import nn
from torch.distributions import kl_divergence

from pyro_vae import History, Spec, build, evaluate, fit, latent, load
from pyro_vae._utils.checks import InputError
from pyro_vae.data import binarize
from pyro_vae.data.batches import batches
from pyro_vae.objectives import Terms, beta_at, objective
from pyro_vae.spec import COMPILERS
from pyro_vae.svi import CompiledSVI, backends
from pyro_vae.svi.backends import BACKENDS
from pyro_vae.svi.optimizers import SharedOptimizer
from pyro_vae.training.checkpoint import read_checkpoint, write_checkpoint

SPEC = Spec(latent_dim=2, hidden=(16,))
QUIET = {"progress": False, "device": "cpu", "batch_size": 5}


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_loss_falls_and_history_tells_of_it(digits, tmp_path):
    model = build(Spec(latent_dim=4))
    history = fit(
        model,
        digits.train,
        validation=digits.test,
        epochs=5,
        objective="elbo",
        binarization="dynamic",
        progress=False,
        device="cpu",
    )
    losses = history.column("train_loss_nats")
    assert losses == sorted(losses, reverse=True)
    assert history.column("validation_loss_nats")[-1] < history.column("validation_loss_nats")[0]
    last = history.epochs[-1]
    # Trace_ELBO's loss is the sum of its parts, sample by sample.
    assert last.train_loss_nats == pytest.approx(last.train_reconstruction_nats + last.train_kl_nats, rel=1e-4)
    assert last.validation_loss_nats == pytest.approx(
        last.validation_reconstruction_nats + last.validation_kl_nats, rel=1e-4
    )
    assert last.images_per_second == pytest.approx(len(digits.train) / last.seconds)
    history.to_csv(tmp_path / "history.csv")
    rows = list(csv.DictReader((tmp_path / "history.csv").read_text().splitlines()))
    assert [float(row["train_loss_nats"]) for row in rows] == losses
    assert not model.training


def test_one_epoch_is_plain_svi_with_one_optimizer(tiny):
    """The same weights as a loop over Pyro's own SVI and Adam, one optimizer a parameter, from the same seed."""
    model, reference = build(SPEC), build(SPEC)
    fit(model, tiny, epochs=2, objective="elbo", binarization="threshold", seed=3, lr=0.01, **QUIET)
    pixels = binarize(tiny, "threshold").pixels
    with torch.random.fork_rng():
        torch.manual_seed(3)
        svi = SVI(reference.model, reference.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        for _ in range(2):
            for x in batches(pixels, 5, torch.device("cpu"), shuffle=True):
                svi.step(x)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, reference.state_dict()[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"objective": "elbo"}, {"beta": 2.0, "beta_warmup": 3}, {"objective": "iwae", "particles": 3}],
)
@pytest.mark.parametrize(("posterior", "compile"), [("normal", "off"), ("normal", "capture"), ("planar", "off")])
def test_resuming_is_bit_identical(tiny, tmp_path, options, posterior, compile):
    spec = dataclasses.replace(SPEC, posterior=posterior)
    options = QUIET | {"binarization": "dynamic", "validation": tiny, "compile": compile} | options
    whole, interrupted = build(spec), build(spec)
    expected = fit(whole, tiny, epochs=4, **options)
    fit(interrupted, tiny, epochs=2, checkpoint=tmp_path, **options)
    fresh = build(spec)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.normal_()
    torch.rand(7)  # the state of the global generator must not matter
    history = fit(fresh, tiny, epochs=4, checkpoint=tmp_path, resume=True, **options)
    assert same(weights(whole), weights(fresh))
    assert history.column("train_loss_nats") == expected.column("train_loss_nats")
    assert history.column("validation_loss_nats") == expected.column("validation_loss_nats")


def test_snapshots_are_the_weights_after_their_epochs(tiny, tmp_path):
    """Also those of epochs before a resume, and each as a training of its own would have it."""
    files = {epoch: tmp_path / f"{epoch}.safetensors" for epoch in (1, 2, 9)}
    options = QUIET | {"binarization": "dynamic", "checkpoint": tmp_path / "checkpoint", "snapshots": files}
    fit(build(SPEC), tiny, epochs=1, **options)
    fit(build(SPEC), tiny, epochs=3, resume=True, **options)
    assert not files[9].exists()
    for epoch in (1, 2):
        alone = build(SPEC)
        fit(alone, tiny, epochs=epoch, binarization="dynamic", **QUIET)
        assert same(weights(load(files[epoch])), weights(alone))


def test_an_interruption_in_mid_epoch_leaves_a_checkpoint_to_resume(tiny, tmp_path, monkeypatch):
    whole, model = build(SPEC), build(SPEC)
    fit(whole, tiny, epochs=3, binarization="dynamic", **QUIET)
    original, calls = CompiledSVI.step_tensor, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:  # the second step of the second epoch
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(CompiledSVI, "step_tensor", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(model, tiny, epochs=3, binarization="dynamic", checkpoint=tmp_path, **QUIET)
    history = fit(model, tiny, epochs=3, binarization="dynamic", checkpoint=tmp_path, resume=True, **QUIET)
    assert len(history.epochs) == 3
    assert same(weights(whole), weights(model))


def test_an_interruption_between_gradient_and_step_leaves_nothing_behind(tiny, tmp_path, monkeypatch):
    whole, model = build(SPEC), build(SPEC)
    fit(whole, tiny, epochs=2, binarization="threshold", **QUIET)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SharedOptimizer, "__call__", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        fit(model, tiny, epochs=2, binarization="threshold", checkpoint=tmp_path, **QUIET)
    fit(model, tiny, epochs=2, binarization="threshold", checkpoint=tmp_path, resume=True, **QUIET)
    assert same(weights(whole), weights(model))


def test_an_interruption_in_the_first_epoch_too(tiny, tmp_path, monkeypatch):
    whole, model = build(SPEC), build(SPEC)
    fit(whole, tiny, epochs=1, binarization="dynamic", **QUIET)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CompiledSVI, "step_tensor", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        fit(model, tiny, epochs=1, binarization="dynamic", checkpoint=tmp_path, **QUIET)
    fit(model, tiny, epochs=1, binarization="dynamic", checkpoint=tmp_path, resume=True, **QUIET)
    assert same(weights(whole), weights(model))


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("weight", [math.nan, 1e38, -1e5])
def test_every_way_to_lose_the_numbers_names_epoch_and_step(digits, weight):
    """Also one NaN among thousands, which torch's message does not show, and scales that underflow to 0."""
    model = build(Spec(latent_dim=20))
    with torch.no_grad():
        model.encoder[3].bias[30] = weight
    with pytest.raises(FloatingPointError, match="at epoch 1, step 1"):
        fit(model, digits.train, epochs=1, binarization="threshold", progress=False, device="cpu")


@pytest.mark.parametrize("validation", [True, False])
def test_nan_in_the_validation_pass_stops_before_the_checkpoint(digits, tmp_path, validation):
    model = build(Spec(latent_dim=20))
    options = {"lr": 1e30, "batch_size": 5000, "binarization": "threshold", "progress": False, "device": "cpu"}
    with pyro.validation_enabled(validation), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FloatingPointError, match="at epoch 1, validation"):
            fit(model, digits.train, validation=digits.test, epochs=1, checkpoint=tmp_path, **options)
    assert [path.name[:11] for path in tmp_path.iterdir()] == ["epoch-00000"]


def with_batch_norm_and_dropout():
    model = build(SPEC)
    model.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
    model.spec = None
    return model


def test_validation_is_in_evaluation_mode(tiny):
    """The held-out images move no running mean, and draw no dropout mask."""
    torch.manual_seed(0)
    model = with_batch_norm_and_dropout()
    state = torch.get_rng_state()
    fit(model, tiny, validation=tiny, epochs=2, binarization="threshold", progress=False, device="cpu", batch_size=6)
    assert int(model.encoder[2].num_batches_tracked) == 4
    assert torch.equal(torch.get_rng_state(), state)
    model.train()
    first, second = (evaluate(model, tiny, binarization="threshold", device="cpu") for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    assert model.encoder[3].training
    assert torch.equal(latent.codes(model, tiny, device="cpu"), latent.codes(model, tiny, device="cpu"))


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("validation", [True, False])
def test_nan_stops_training_and_keeps_the_last_good_checkpoint(tiny, tmp_path, monkeypatch, validation):
    model = build(SPEC)
    fit(model, tiny, epochs=1, binarization="threshold", checkpoint=tmp_path, **QUIET)
    good = weights(model)
    original, calls = CompiledSVI.step_tensor, []

    def poisoned(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == 2:
            next(model.parameters()).data.fill_(math.nan)
        return loss

    monkeypatch.setattr(CompiledSVI, "step_tensor", poisoned)
    with pyro.validation_enabled(validation), pytest.raises(FloatingPointError, match="at epoch 2, step 3; try"):
        fit(model, tiny, epochs=3, binarization="threshold", checkpoint=tmp_path, resume=True, **QUIET)
    monkeypatch.undo()
    resumed = build(SPEC)
    history = fit(resumed, tiny, epochs=1, binarization="threshold", checkpoint=tmp_path, resume=True, **QUIET)
    assert len(history.epochs) == 1
    assert same(weights(resumed), good)


def test_a_weight_lost_in_the_last_step_is_not_checkpointed(tiny, tmp_path, monkeypatch):
    model = build(SPEC)
    original, calls = CompiledSVI.step_tensor, []

    def poisoned(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == 3:
            next(model.parameters()).data.fill_(math.inf)
        return loss

    monkeypatch.setattr(CompiledSVI, "step_tensor", poisoned)
    with pytest.raises(FloatingPointError, match=r"encoder.1.weight is not finite after the last step of epoch 1"):
        fit(model, tiny, epochs=1, binarization="threshold", checkpoint=tmp_path, **QUIET)
    assert [path.name[:11] for path in tmp_path.iterdir()] == ["epoch-00000"]


def test_nothing_global_is_touched(tiny):
    pyro.param("mine", torch.tensor(1.0))
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    fit(build(SPEC), tiny, epochs=1, binarization="dynamic", **QUIET)
    assert list(pyro.get_param_store()) == ["mine"]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)
    assert pyro.settings.get("validate_poutine")
    assert not torch.is_inference_mode_enabled()


def test_grey_pixels_under_a_bernoulli_warn_once(tiny):
    with pytest.warns(UserWarning, match="not a log-likelihood of the data") as caught:
        fit(build(SPEC), tiny, epochs=2, **QUIET)
    assert len(caught) == 1


def test_grey_pixels_under_a_density_do_not_warn(tiny):
    fit(build(dataclasses.replace(SPEC, likelihood="gaussian")), tiny, epochs=1, **QUIET)


def test_objectives_estimate_the_same_elbo(digits):
    model = build(SPEC)
    x = digits.train.as_float()[:200].round()
    losses = {}
    for name in ("elbo", "mean-field"):
        elbo = objective(name, particles=200)
        losses[name] = elbo.loss(model.model, model.guide, x)
    assert losses["elbo"] == pytest.approx(losses["mean-field"], rel=1e-3)
    # The importance-weighted bound is tighter.
    assert objective("iwae", particles=200).loss(model.model, model.guide, x) < losses["elbo"]


@pytest.mark.parametrize(("name", "particles"), [("elbo", 1), ("elbo", 4), ("mean-field", 1), ("iwae", 4)])
@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
def test_terms_are_the_parts_of_the_loss_whatever_beta(tiny, name, particles, beta):
    """Of a guide far from the prior, N(3, e^-2) in each of 2 dimensions: 10.1 nats."""
    model = build(SPEC)
    with torch.no_grad():
        model.encoder[-1].weight.zero_()
        model.encoder[-1].bias.copy_(torch.tensor([3.0, 3.0, -2.0, -2.0]))
        x = tiny.as_float().round()
        exact_kl = 9 + math.exp(-2) - 1 + 2  # twice half of mean^2 + variance - 1 - log variance
        z = model.encode(x).sample((2000,))
        exact_log_likelihood = model.decode(z).log_prob(x).mean().item()
    terms = Terms(torch.device("cpu"))
    watched = terms.watch(objective(name, particles))
    losses = [watched.loss(model.model, model.guide, x, beta) / 12 for _ in range(100)]
    log_likelihood, kl = (terms.totals() / 12 / 100).tolist()
    loss = sum(losses) / 100
    assert kl == pytest.approx(exact_kl, abs=0.3)  # 6 standard errors of 1200 draws
    assert log_likelihood == pytest.approx(exact_log_likelihood, abs=0.1)
    if name == "elbo":
        assert loss == pytest.approx(-log_likelihood + beta * kl, rel=1e-4)
    if name == "mean-field":
        assert loss == pytest.approx(-log_likelihood + beta * exact_kl, rel=1e-4)
    if name == "iwae":
        assert loss < -log_likelihood + beta * kl


def test_watching_leaves_the_objective_as_it_was():
    elbo = Trace_ELBO()
    Terms(torch.device("cpu")).watch(elbo)
    assert "_get_trace" not in vars(elbo)


def test_warmup_is_linear_in_steps():
    assert [beta_at(step, 2.0, 4) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert beta_at(0, 2.0, 0) == 2.0
    assert beta_at(3, 0.0, 10) == 0.0


def test_bfloat16_is_never_left_out_silently(tiny):
    """Also where a capture would not be worth its time."""
    models = {precision: build(SPEC) for precision in ("fp32", "bf16")}
    for precision, model in models.items():
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            fit(model, tiny, epochs=2, precision=precision, binarization="threshold", **QUIET)
    assert [each.filename for each in warned] == [__file__] * (not backends.processor_multiplies_bfloat16())
    for first, second in zip(*(model.parameters() for model in models.values()), strict=True):
        torch.testing.assert_close(first, second, rtol=0.1, atol=0.02)
    assert same(*(weights(model) for model in models.values())) == bool(warned)


def test_a_spec_knows_the_backends():
    assert ("auto", *BACKENDS) == COMPILERS


def test_warmup_reaches_the_step(tiny):
    history = fit(build(SPEC), tiny, epochs=3, beta=2.0, beta_warmup=2, binarization="threshold", **QUIET)
    assert history.column("beta") == [1.0, 2.0, 2.0]


def test_validation_is_the_mean_loss_of_the_held_out_images_at_the_same_beta(tiny):
    held_out = tiny.take(slice(0, 5))
    x = binarize(held_out, "threshold").as_float()
    options = QUIET | {"validation": held_out, "epochs": 2, "lr": 0.01, "binarization": "threshold"}
    autoencoder = build(dataclasses.replace(SPEC, model="autoencoder"))
    last = fit(autoencoder, tiny, **options).epochs[-1]
    with torch.no_grad():
        expected = -autoencoder.decode(autoencoder.encode(x).mean).log_prob(x).mean().item()
    assert last.validation_loss_nats == pytest.approx(expected, rel=1e-5)
    model = build(SPEC)
    last = fit(model, tiny, objective="mean-field", beta=3.0, **options).epochs[-1]
    with torch.no_grad():
        kl = kl_divergence(model.encode(x), model.prior()).mean().item()
    assert last.validation_loss_nats == pytest.approx(last.validation_reconstruction_nats + 3 * kl, rel=1e-5)


def test_an_elbo_of_pyros_may_be_given(tiny):
    """And is what is minimised: the same as by its name, with two particles."""
    elbo = Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    losses = [
        fit(build(SPEC), tiny, epochs=2, objective=objective, binarization="threshold", **options, **QUIET).epochs
        for objective, options in ((elbo, {}), ("elbo", {"particles": 2}), ("elbo", {}))
    ]
    by_object, by_name, of_one = ([epoch.train_loss_nats for epoch in epochs] for epochs in losses)
    assert by_object == by_name != of_one


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs: given 0"),
        ({"batch_size": 0}, "batch_size: given 0"),
        ({"lr": -1.0}, "lr: given -1.0"),
        ({"beta": -0.5}, "beta: given -0.5, expected a finite number of at least 0"),
        ({"beta_warmup": 0.5}, "beta_warmup: given 0.5"),
        ({"objective": "elbow"}, "did you mean 'elbo'"),
        ({"objective": 3}, "objective: given 'int', expected a name, or one of Pyro's Trace_ELBO"),
        ({"objective": JitTrace_ELBO()}, "objective: given 'JitTrace_ELBO'"),
        ({"objective": ReweightedWakeSleep()}, "objective: given 'ReweightedWakeSleep'"),
        ({"seed": 2**63}, "seed: given 9223372036854775808"),
        ({"objective": "iwae"}, "particles: given 1, expected at least 2"),
        ({"particles": 0}, "particles: given 0"),
        ({"binarization": "grey"}, "binarization: given 'grey'"),
        ({"device": "tpu9"}, "device: given 'tpu9'"),
        ({"compile": "fast"}, "compile: given 'fast'"),
        ({"precision": "fp16"}, "precision: given 'fp16'"),
        ({"precision": "bf16", "compile": "off"}, "precision: given 'bf16', expected fp32 where compile is off"),
        ({"seed": -1}, "seed: given -1"),
        ({"resume": True}, "checkpoint: given None, expected the folder to resume from"),
    ],
)
def test_bad_arguments_are_named(tiny, options, message):
    with pytest.raises(InputError, match=message):
        fit(build(SPEC), tiny, **({"epochs": 1} | QUIET | options))


def test_images_of_another_size_are_refused_before_any_work(tiny, tmp_path):
    with pytest.raises(InputError, match=r"images: given 'shape \(1, 8, 8\)'"):
        fit(build(Spec(dataset="mnist")), tiny, epochs=1, checkpoint=tmp_path, **QUIET)
    assert not list(tmp_path.iterdir())


def test_column_names_are_checked():
    with pytest.raises(InputError, match="did you mean 'train_kl_nats'"):
        History().column("train_kl")


@pytest.mark.parametrize(
    ("options", "steps", "expected"),
    [
        ({}, 1000, "off"),
        ({}, 1100, "capture"),
        ({}, 15_000, "inductor"),
        ({"posterior": "planar"}, 1300, "capture"),
        ({"posterior": {"kind": "planar", "layers": 32}}, 1300, "off"),  # its captures take longer than they would save
        ({"posterior": {"kind": "planar", "layers": 32}}, 4000, "capture"),
        ({"precision": "bf16"}, 1, "capture"),
    ],
)
def test_auto_captures_where_the_steps_earn_it_back(tiny, monkeypatch, options, steps, expected):
    """By a count of operations, not by a clock: the same training takes the same backend each time."""

    def chosen(*_, compile, **__):
        raise RuntimeError(compile)

    monkeypatch.setattr("pyro_vae.training.passes.CompiledSVI", chosen)
    spec = dataclasses.replace(SPEC, **options)
    how = QUIET | {"batch_size": len(tiny), "precision": spec.precision, "binarization": "threshold"}
    with pytest.raises(RuntimeError, match=f"^{expected}$"):
        fit(build(spec), tiny, epochs=steps, **how)


def test_auto_resumes_with_the_backend_of_its_checkpoint(tiny, tmp_path, monkeypatch):
    """Another may be worth it now, but its rounding would be another."""
    options = QUIET | {"checkpoint": tmp_path, "binarization": "threshold"}
    fit(build(SPEC), tiny, epochs=1, **options)
    monkeypatch.setattr("pyro_vae.training.backend.WORTH_CAPTURING", -1000)
    fit(build(SPEC), tiny, epochs=2, resume=True, **options)
    assert read_checkpoint(tmp_path)["backend"] == "off"


def test_a_run_of_cuda_resumes_without_it(tiny, tmp_path):
    options = QUIET | {"checkpoint": tmp_path, "binarization": "threshold"}
    fit(build(SPEC), tiny, epochs=1, **options)
    write_checkpoint(tmp_path, 1, read_checkpoint(tmp_path) | {"backend": "cudagraph"})
    fit(build(SPEC), tiny, epochs=2, resume=True, **options)
    assert read_checkpoint(tmp_path)["backend"] == "capture"
