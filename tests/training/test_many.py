"""Many seeds at once against each of them alone."""

import dataclasses
import math

import pytest
import torch

from pyro_vae import Images, Spec, build, fit, fit_many
from pyro_vae._utils.checks import InputError
from pyro_vae.data.images import train_validation_split
from pyro_vae.experiments.run import open_run
from pyro_vae.svi import backends
from pyro_vae.training import ensemble, ensemble_step
from pyro_vae.training.distributed import Peers

SEEDS = [3, 0]
SPEC = Spec(latent_dim=2, hidden=(16,), epochs=2, batch_size=16, lr=0.01, binarization="threshold")
QUIET = {"progress": False, "device": "cpu"}


def alone(spec, images, seed):
    """The run of one seed, by `fit`."""
    spec = dataclasses.replace(spec, seed=seed, image_shape=images.shape)
    names = ("epochs", "batch_size", "lr", "beta", "beta_warmup", "objective", "particles", "binarization", "seed")
    train, validation = train_validation_split(images, spec.validation_fraction, spec.seed)
    model = build(spec)
    history = fit(model, train, validation=validation, **{name: getattr(spec, name) for name in names}, **QUIET)
    return model, history


def equal(run, other, rtol=1e-4, atol=1e-5):
    (model, history), (reference, expected) = run, other
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=rtol, atol=atol)
    for name in ("epoch", "beta", "train_loss_nats", "train_reconstruction_nats", "train_kl_nats"):
        assert history.column(name) == pytest.approx(expected.column(name), rel=rtol, abs=atol)
    for name in ("validation_loss_nats", "validation_reconstruction_nats", "validation_kl_nats"):
        wanted = expected.column(name)
        if None not in wanted:
            wanted = pytest.approx(wanted, rel=rtol, abs=atol)
        assert history.column(name) == wanted


@pytest.fixture
def few(digits):
    return digits.train.draw(32)  # two batches of 16; the last one is short where some are held out


@pytest.mark.parametrize(
    "options",
    [
        {"validation_fraction": 0.3},
        {"posterior": {"kind": "planar", "layers": 1}, "likelihood": "continuous-bernoulli", "binarization": "none"},
        {"posterior": {"kind": "conditional-planar", "layers": 1}, "likelihood": "gaussian", "binarization": "none"},
        {"likelihood": "gaussian-learned", "binarization": "none", "objective": "mean-field"},
        {"likelihood": {"kind": "discretized-logistic", "components": 2}, "binarization": "none"},
        {"likelihood": "discretized-gaussian", "binarization": "none"},
        {"objective": "iwae", "particles": 3},
        {"particles": 2, "binarization": "static"},
        {"binarization": "dynamic", "beta": 2.0, "beta_warmup": 2, "validation_fraction": 0.3},
        {"beta": 0.0},
        {"model": "autoencoder"},
        {"model": {"kind": "denoising", "noise": "gaussian:0.3"}, "validation_fraction": 0.3},
        {"model": {"kind": "denoising", "noise": "salt-and-pepper:0.2"}, "binarization": "dynamic"},
    ],
    ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items()),
)
def test_each_member_equals_its_run_alone(few, options):
    """Same noise, so to rounding: every posterior, likelihood and objective of a Spec, and the last short batch."""
    spec = dataclasses.replace(SPEC, **({"validation_fraction": 0.0} | options))
    runs = fit_many(spec, few, seeds=SEEDS, **QUIET)
    for seed, run in zip(SEEDS, runs, strict=True):
        equal(run, alone(spec, few, seed))
        assert run[0].spec.seed == seed
        assert not run[0].training
    first, second = (model.encoder[1].weight for model, _ in runs)
    assert not torch.allclose(first, second)


def test_convolutions_too(few):
    """Adam divides by the root of a gradient's square, so that rounding near zero shows: hence the tolerance."""
    spec = dataclasses.replace(SPEC, network={"kind": "conv", "channels": (4, 8)}, validation_fraction=0.0)
    for seed, run in zip(SEEDS, fit_many(spec, few, seeds=SEEDS, **QUIET), strict=True):
        equal(run, alone(spec, few, seed), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("options", "tolerance"), [({"compile": "inductor"}, 1e-3), ({"precision": "bf16"}, 0.05)])
def test_inductor_and_bf16(few, options, tolerance):
    spec = dataclasses.replace(SPEC, validation_fraction=0.0)
    plain = fit_many(spec, few, seeds=SEEDS, **QUIET)
    for run, other in zip(
        fit_many(dataclasses.replace(spec, **options), few, seeds=SEEDS, **QUIET), plain, strict=True
    ):
        equal(run, other, rtol=tolerance, atol=tolerance)
        in_bfloat16 = "precision" in options and backends.processor_multiplies_bfloat16()
        assert not (in_bfloat16 and torch.equal(run[0].encoder[1].weight, other[0].encoder[1].weight))


def test_where_bfloat16_is_not_multiplied_it_is_said_once(few, monkeypatch):
    """At the line that calls it, however many graphs there are: of steps, of a last batch, of validation."""
    monkeypatch.setattr(backends, "processor_multiplies_bfloat16", lambda: False)
    with pytest.warns(UserWarning, match="fit_many: precision='bf16': this processor") as warned:
        fit_many(dataclasses.replace(SPEC, precision="bf16", epochs=1), few, seeds=SEEDS, **QUIET)
    assert [each.filename for each in warned] == [__file__]


def test_a_member_does_not_depend_on_the_others(few):
    spec = dataclasses.replace(SPEC, validation_fraction=0.0)
    equal(fit_many(spec, few, seeds=[5, 3], **QUIET)[1], fit_many(spec, few, seeds=[3], **QUIET)[0])


def test_nothing_global_is_touched(few):
    before = torch.get_rng_state()
    fit_many(dataclasses.replace(SPEC, epochs=1), few, seeds=SEEDS, **QUIET)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("batch_size", [16, 64])
def test_a_lost_number_names_its_seed(few, batch_size, monkeypatch):
    """By a loss where a step follows, by a weight after the last one."""

    def one_is_lost(spec):
        model = build(spec)
        if spec.seed == 7:
            with torch.no_grad():
                model.decoder[0].bias.fill_(math.nan)
        return model

    monkeypatch.setattr(ensemble_step, "build", one_is_lost)
    spec = dataclasses.replace(SPEC, batch_size=batch_size)
    with pytest.raises(FloatingPointError, match="loss of seed 7 is nan at epoch 1, step 1; try a smaller lr"):
        fit_many(spec, few, seeds=[3, 7, 8], **QUIET)


def test_a_weight_lost_in_the_last_step_names_its_seed(few, monkeypatch):
    def lose(params, *moments, **options):
        params[2][1].fill_(math.inf)

    monkeypatch.setattr(ensemble_step, "adam", lose)
    spec = dataclasses.replace(SPEC, batch_size=64)
    with pytest.raises(FloatingPointError, match="encoder.3.weight of seed 0 is not finite after the last step of ep"):
        fit_many(spec, few, seeds=SEEDS, **QUIET)


def test_run_folders_and_resume(few, tmp_path):
    """Stopped after one epoch of two and gone on with: the very same weights."""
    spec = dataclasses.replace(SPEC, binarization="dynamic", beta_warmup=2)
    whole = fit_many(spec, few, seeds=SEEDS, **QUIET)
    fit_many(dataclasses.replace(spec, epochs=1), few, seeds=SEEDS, out=tmp_path / "runs", **QUIET)
    runs = fit_many(spec, few, seeds=SEEDS, out=tmp_path / "runs", resume=True, **QUIET)
    for seed, (model, history), (expected, losses) in zip(SEEDS, runs, whole, strict=True):
        opened, stored, _ = open_run(tmp_path / "runs" / f"seed-{seed}")
        assert stored == dataclasses.replace(spec, seed=seed, image_shape=(1, 8, 8), objective="path-gradient")
        for name, value in expected.state_dict().items():
            assert torch.equal(model.state_dict()[name], value)
            assert torch.equal(opened.state_dict()[name], value)
        assert history.column("train_loss_nats") == losses.column("train_loss_nats")
        table = (tmp_path / "runs" / f"seed-{seed}" / "history.csv").read_text().splitlines()
        assert len(table) == 3
    for options, message in [
        ({"seeds": [0, 3]}, r"seeds: given \[0, 3\], expected \[3, 0\], as in the checkpoint"),
        ({"spec": dataclasses.replace(spec, epochs=1)}, "epochs: given 1, expected at least 2"),
        ({"spec": dataclasses.replace(spec, lr=0.1)}, "lr: given 0.1, expected 0.01"),
        ({"resume": False}, "out: given .*expected a new or empty folder"),
    ]:
        arguments = {"spec": spec, "images": few, "seeds": SEEDS, "out": tmp_path / "runs", "resume": True} | options
        with pytest.raises(InputError, match=message):
            fit_many(**arguments, **QUIET)


def test_members_in_turn_are_those_of_fit(few, tmp_path):
    """As `inductor` trains them on a CPU: to the last bit; one was stopped and resumed, the other is a further seed."""
    spec = dataclasses.replace(SPEC, compile="inductor", validation_fraction=0.3)
    out = tmp_path / "runs"
    fit_many(dataclasses.replace(spec, epochs=1), few, seeds=[3], out=out, **QUIET)
    runs = fit_many(spec, few, seeds=SEEDS, out=out, resume=True, **QUIET)
    for seed, (model, history) in zip(SEEDS, runs, strict=True):
        member = dataclasses.replace(spec, seed=seed, image_shape=few.shape)
        train, validation = train_validation_split(few, member.validation_fraction, seed)
        expected = build(member)
        losses = fit(expected, train, validation=validation, **QUIET)
        opened, stored, _ = open_run(out / f"seed-{seed}")
        assert stored == model.spec == dataclasses.replace(member, objective="path-gradient")
        equal((model, history), (expected, losses))
        equal((opened, history), (expected, losses))
        if seed != 3:
            for name, value in expected.state_dict().items():
                assert torch.equal(model.state_dict()[name], value), name
    with pytest.raises(FloatingPointError, match="^seed 3: .*try a smaller lr"):
        fit_many(dataclasses.replace(spec, lr=1e30), few, seeds=SEEDS, **QUIET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": []}, r"seeds: given \[\], expected one or more whole numbers, each of them once"),
        ({"seeds": [1, 1]}, r"seeds: given \[1, 1\]"),
        ({"seeds": 3}, "seeds: given 3"),
        ({"seeds": None}, "seeds: given None"),
        ({"seeds": "12"}, "seeds: given '12'"),
        ({"seeds": [0, -1]}, "seeds: given -1, expected a whole number from 0"),
        ({"seeds": [[0]]}, r"seeds: given \[0\], expected a whole number"),
        ({"spec": "digits"}, "spec: given 'digits', expected a Spec"),
        ({"spec": dataclasses.replace(SPEC, image_shape=(1, 28, 28))}, r"image_shape: given \(1, 28, 28\)"),
        ({"images": Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8)), "spec": Spec(network="conv")}, "image_shape"),
        ({"spec": dataclasses.replace(SPEC, compile="off")}, "compile: given 'off', expected auto or a backend"),
        (
            {"spec": dataclasses.replace(SPEC, compile="cudagraph")},
            "given 'cudagraph', expected another backend for cpu",
        ),
        ({"device": "tpu9"}, "device: given 'tpu9'"),
        ({"resume": True}, "out: given None, expected the folder to resume from"),
        ({"out": "file"}, "out: given .*expected a folder, or a name that is free"),
    ],
)
def test_bad_arguments_are_named(tiny, tmp_path, monkeypatch, options, message):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        fit_many(**({"spec": SPEC, "images": tiny, "seeds": SEEDS} | QUIET | options))


def test_several_processes_are_refused(tiny, monkeypatch):
    monkeypatch.setattr(ensemble, "peers", lambda: Peers(rank=1, size=2))
    with pytest.raises(InputError, match="processes: given 2, expected one"):
        fit_many(SPEC, tiny, seeds=SEEDS, **QUIET)


def test_draws_of_another_kind_are_refused(few, monkeypatch):
    """Rather than given the same noise to all; no Spec has such a network."""

    def with_dropout(spec):
        model = build(spec)
        model.encoder.append(torch.nn.Dropout())
        return model

    monkeypatch.setattr(ensemble_step, "build", with_dropout)
    with pytest.raises(InputError, match="`fit` trains others .it draws by aten.bernoulli_.float, which is not known"):
        fit_many(SPEC, few, seeds=SEEDS, **QUIET)
