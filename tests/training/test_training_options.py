"""Optimizers, schedules, clipping, the average of the weights, free bits, and the callback of `fit`."""

import dataclasses
import math
import warnings
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch.optim import lr_scheduler

from pyro_vae import History, Spec, build, fit, fit_many, load, save
from pyro_vae._utils.checks import InputError
from pyro_vae.data import binarize
from pyro_vae.evaluation import kl_per_dimension
from pyro_vae.objectives import MeanFieldELBO
from pyro_vae.training.averaging import WeightAverage
from pyro_vae.training.checkpoint import read_checkpoint, write_checkpoint

SPEC = Spec(latent_dim=2, hidden=(16,), epochs=4, batch_size=5, binarization="threshold")
QUIET = {"progress": False, "device": "cpu"}
OPTIONS = {
    "adam": {"optimizer": {"kind": "adam", "betas": (0.8, 0.99)}},
    "adamw": {"optimizer": {"kind": "adamw", "weight_decay": 0.1}},
    "adamax": {"optimizer": "adamax"},
    "sgd": {"optimizer": {"kind": "sgd", "momentum": 0.9, "nesterov": True}},
    "class of torch": {"optimizer": torch.optim.RMSprop},
    "function": {"optimizer": partial(torch.optim.Adagrad, lr=0.01)},
    "cosine": {"schedule": {"kind": "cosine", "warmup_epochs": 1}},
    "step": {"schedule": {"kind": "step", "every": 1}},
    "warm-up": {"schedule": {"kind": "warm-up", "warmup_epochs": 2.5}},
    "scheduler of torch": {"schedule": partial(lr_scheduler.ExponentialLR, gamma=0.5)},
    "with each step": {"schedule": partial(lr_scheduler.OneCycleLR, max_lr=0.02)},
    "by the loss": {
        "schedule": partial(lr_scheduler.ReduceLROnPlateau, patience=0, threshold=1e9, threshold_mode="abs")
    },
    "clip_norm": {"clip_norm": 1.0},
    "ema": {"ema": 0.9},
    "free bits": {"objective": {"kind": "mean-field", "free_bits": 0.5}},
    "all": {"optimizer": "adamw", "schedule": "cosine", "clip_norm": 2.0, "ema": 0.5},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def weights(model):
    return torch.cat([param.detach().flatten() for param in model.parameters()])


def trained(images, spec=SPEC, **options):
    model = build(spec)
    return model, fit(model, images, **QUIET, **options)


def same_history(first, second):
    def numbers(history):
        return [dataclasses.replace(epoch, seconds=0, images_per_second=0) for epoch in history.epochs]

    return numbers(first) == numbers(second)


@every_option
def test_resuming_is_bit_identical(tiny, tmp_path, options):
    """With the other settings of the training, such as the number of epochs that a cosine takes."""
    whole, expected = trained(tiny, validation=tiny, **options)
    stopped = {"checkpoint": tmp_path, "callback": lambda epoch, *_: epoch == 2}
    _, short = trained(tiny, validation=tiny, **stopped, **options)
    assert len(short.epochs) == 2
    resumed, history = trained(tiny, validation=tiny, checkpoint=tmp_path, resume=True, **options)
    assert torch.equal(weights(resumed), weights(whole))
    assert same_history(history, expected)


@every_option
def test_a_captured_training_is_the_eager_one(tiny, options):
    eager, expected = trained(tiny, compile="off", validation=tiny, **options)
    captured, history = trained(tiny, compile="capture", validation=tiny, **options)
    assert torch.equal(weights(captured), weights(eager))
    for name in ("train_loss_nats", "validation_loss_nats", "lr"):  # the losses in float32 or, eagerly, float64
        assert history.column(name) == pytest.approx(expected.column(name), rel=1e-6)


@pytest.mark.parametrize("name", ["all", "clip_norm", "free bits", "sgd"])
def test_compiled_it_is_the_same_up_to_rounding(tiny, name):
    eager, _ = trained(tiny, compile="off", **OPTIONS[name])
    compiled, _ = trained(tiny, compile="inductor", **OPTIONS[name])
    torch.testing.assert_close(weights(compiled), weights(eager), rtol=1e-3, atol=1e-4)


@every_option
def test_each_option_makes_a_difference(tiny, options):
    assert not torch.equal(weights(trained(tiny, **options)[0]), weights(trained(tiny)[0]))


@pytest.mark.parametrize(
    ("optimizer", "reference"),
    [
        ("adam", partial(torch.optim.Adam, fused=True)),
        ({"kind": "adam", "betas": [0.8, 0.99]}, partial(torch.optim.Adam, betas=(0.8, 0.99), fused=True)),
        ({"kind": "adamw", "weight_decay": 0.1}, partial(torch.optim.AdamW, weight_decay=0.1, fused=True)),
        ("adamax", torch.optim.Adamax),
        ({"kind": "sgd", "momentum": 0.9}, partial(torch.optim.SGD, momentum=0.9)),
    ],
)
def test_a_kind_is_torchs_optimizer(tiny, optimizer, reference):
    model, _ = trained(tiny, optimizer=optimizer, lr=0.003)
    expected, _ = trained(tiny, optimizer=lambda params: reference(params, lr=0.003))
    assert torch.equal(weights(model), weights(expected))


def test_a_schedule_moves_the_rate_with_each_step_or_with_each_epoch(tiny):
    """12 images in batches of 5 are 3 steps per epoch; the history has the rate of an epoch's last step."""

    def rates(schedule, epochs=4):
        return trained(tiny, schedule=schedule, lr=0.1, epochs=epochs)[1].column("lr")

    cosine = [0.05 * (1 + math.cos(math.pi * step / 12)) for step in (2, 5, 8, 11)]
    assert rates("constant") == [0.1] * 4
    assert rates("cosine") == pytest.approx(cosine)
    assert rates({"kind": "cosine", "warmup_epochs": 2, "final": 0.5}) == pytest.approx(
        [0.05, 0.1, *(0.05 + 0.025 * (1 + math.cos(math.pi * step / 6)) for step in (2, 5))]
    )
    assert rates({"kind": "step", "every": 2, "factor": 0.5}) == pytest.approx([0.1, 0.1, 0.05, 0.05])
    assert rates({"kind": "warm-up", "warmup_epochs": 2}) == pytest.approx([0.05, 0.1, 0.1, 0.1])
    assert rates(partial(lr_scheduler.ExponentialLR, gamma=0.5)) == pytest.approx([0.1, 0.05, 0.025, 0.0125])
    assert rates(lambda optimizer: lr_scheduler.StepLR(optimizer, 3)) == pytest.approx([0.1, 0.1, 0.1, 0.01])
    assert rates(lambda optimizer, steps_per_epoch: lr_scheduler.StepLR(optimizer, 2 * steps_per_epoch)) == (
        pytest.approx([0.1, 0.1, 0.01, 0.01])
    )
    plateau = partial(
        lr_scheduler.ReduceLROnPlateau, patience=0, threshold=1e9, threshold_mode="abs"
    )  # which no loss gets below
    assert rates(plateau) == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_the_gradient_of_a_step_is_clipped_as_torch_does_it(tiny):
    """A step of stochastic gradient descent with all images: the gradient has the norm, and its direction."""
    options = {"optimizer": "sgd", "lr": 1.0, "epochs": 1}
    model, reference = (build(dataclasses.replace(SPEC, batch_size=12)) for _ in range(2))
    before = weights(model)
    fit(model, tiny, objective="mean-field", clip_norm=0.3, **options, **QUIET)
    assert torch.linalg.vector_norm(weights(model) - before).item() == pytest.approx(0.3, rel=1e-4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = binarize(tiny, "threshold").as_float()[torch.randperm(12)]
        optim = pyro.optim.SGD({"lr": 1.0})
        svi = SVI(reference.model, reference.guide, optim, TraceMeanField_ELBO())
        svi.loss_and_grads(reference.model, reference.guide, x)
    torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.3)
    expected = before - torch.cat([param.grad.flatten() for param in reference.parameters()])
    torch.testing.assert_close(weights(model), expected, rtol=1e-5, atol=1e-6)


def test_a_gradient_within_the_norm_stays(tiny):
    assert torch.equal(weights(trained(tiny, clip_norm=1e9)[0]), weights(trained(tiny)[0]))


@pytest.mark.parametrize("compile", ["off", "capture"])
def test_the_average_weighs_the_last_weights_most(tiny, compile):
    """Against the weights after each of three steps, one per epoch, by the formula."""
    options = {"spec": dataclasses.replace(SPEC, batch_size=12), "compile": compile, "lr": 0.05}
    path = [weights(build(SPEC))] + [weights(trained(tiny, **options | {"epochs": epochs})[0]) for epochs in (1, 2, 3)]
    shares = torch.tensor([0.8**3, 0.8**2, 0.8, 1.0])
    expected = (torch.stack(path) * (shares / shares.sum())[:, None]).sum(0)
    seen = []
    model, _ = trained(tiny, ema=0.8, epochs=3, callback=lambda epoch, model, _: seen.append(weights(model)), **options)
    torch.testing.assert_close(weights(model), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(seen[-1], weights(model))
    torch.testing.assert_close(seen[0], (path[0] * 0.8 + path[1]) / 1.8, rtol=1e-4, atol=1e-6)


def test_validation_and_snapshots_are_of_the_average(tiny, tmp_path):
    options = {"objective": "mean-field", "validation": tiny, "epochs": 2}
    model, history = trained(tiny, ema=0.9, snapshots={2: tmp_path / "weights.safetensors"}, **options)
    assert torch.equal(weights(load(tmp_path / "weights.safetensors")), weights(model))
    _, plain = trained(tiny, **options)
    assert history.column("train_loss_nats") == plain.column("train_loss_nats")
    assert history.column("validation_loss_nats") != plain.column("validation_loss_nats")


def test_an_average_of_equal_weights_is_these():
    model = torch.nn.Linear(3, 2)
    average, before = WeightAverage(model, 0.999), model.weight.detach().clone()
    for steps in range(4):
        with average.applied(steps):
            torch.testing.assert_close(model.weight.detach(), before)
        average.add()


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
def test_free_bits_are_the_maximum_of_each_dimensions_mean(tiny, particles, beta):
    model, x = build(SPEC), binarize(tiny, "threshold").as_float()
    options = {"num_particles": particles, "vectorize_particles": particles > 1, "max_plate_nesting": 1}
    with torch.no_grad():
        kl = kl_per_dimension(model.encode(x), model.prior())
    threshold = float(kl.mean())  # one dimension is below
    assert (kl < threshold).sum() == 1
    losses = []
    for free_bits in (threshold, 0.0):
        torch.manual_seed(0)
        losses.append(MeanFieldELBO(**options, free_bits=free_bits).loss(model.model, model.guide, x, beta))
    expected = beta * len(x) * float(kl.clamp(min=threshold).sum() - kl.sum())
    assert losses[0] - losses[1] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_a_dimension_within_its_free_bits_has_no_gradient_of_its_kl():
    loc = torch.tensor([0.1, 2.0], requires_grad=True)

    def program(mean):
        with pyro.plate("data", 4):
            pyro.sample("z", pyro.distributions.Normal(mean, 1.0).to_event(1))

    def guide():
        program(pyro.param("loc", loc))

    MeanFieldELBO(free_bits=0.5).loss_and_grads(partial(program, torch.zeros(2)), guide)
    assert pyro.get_param_store()._params["loc"].grad.tolist() == [0.0, 8.0]  # of 4 z_2^2 / 2


@pytest.mark.parametrize("free_bits", [0.0, 1e-9, 0.5])
def test_free_bits_leave_the_factors_and_auxiliary_sites_of_the_guide(free_bits):
    """The KL of three images is 3 (0 + 2), of which the first dimension counts as the free bits."""

    def z(mean):
        pyro.sample("z", pyro.distributions.Normal(mean, 1.0).to_event(1))

    def model():
        with pyro.plate("data", 3):
            z(torch.zeros(2))

    def guide():
        with pyro.plate("data", 3):
            pyro.factor("penalty", torch.tensor(10.0), has_rsample=True)
            pyro.sample("a", pyro.distributions.Uniform(0.0, math.exp(-1)), infer={"is_auxiliary": True})  # log q = 1
            z(torch.tensor([0.0, 2.0]))

    loss = MeanFieldELBO(free_bits=free_bits).loss(model, guide)
    assert loss == pytest.approx(3 * (free_bits + 2 + 10 + 1), rel=1e-5)


def test_free_bits_keep_the_kl_of_each_dimension(digits):
    kl = {}
    for free_bits in (0.0, 1.0):
        model = build(Spec(latent_dim=6, hidden=(32,), beta=8.0, binarization="threshold", epochs=15, lr=5e-3))
        fit(model, digits.train, objective={"kind": "mean-field", "free_bits": free_bits}, **QUIET)
        with torch.no_grad():
            x = binarize(digits.train, "threshold").as_float()
            kl[free_bits] = kl_per_dimension(model.encode(x), model.prior())
    assert kl[0.0].min() < 0.1
    assert kl[1.0].min() > 0.6


def early_stopping(patience):
    def callback(epoch, model, history):
        losses = history.column("validation_loss_nats")
        return epoch - 1 - losses.index(min(losses)) >= patience

    return callback


def test_a_callback_stops_the_training(tiny, tmp_path):
    options = {"validation": tiny.take(slice(0, 4)), "lr": 0.5, "epochs": 30, "checkpoint": tmp_path}
    model, history = trained(tiny, callback=early_stopping(2), **options)
    losses = history.column("validation_loss_nats")
    assert len(losses) < 30
    assert len(losses) == losses.index(min(losses)) + 1 + 2
    resumed, stays = trained(tiny, callback=early_stopping(2), resume=True, **options)
    assert same_history(stays, history)
    assert torch.equal(weights(resumed), weights(model))


def test_a_callback_changes_nothing_and_sees_all(tiny):
    seen = []

    def callback(epoch, model, history):
        seen.append((epoch, model.training, len(history.epochs), isinstance(history, History)))
        torch.rand(3)

    model, _ = trained(tiny, callback=callback)
    assert seen == [(epoch, False, epoch, True) for epoch in (1, 2, 3, 4)]
    assert torch.equal(weights(model), weights(trained(tiny)[0]))


def test_a_checkpoint_from_before_there_were_options_resumes(tiny, tmp_path):
    whole, _ = trained(tiny)
    trained(tiny, checkpoint=tmp_path, callback=lambda epoch, *_: epoch == 2)
    state = read_checkpoint(tmp_path)
    for name in ("optimizer", "schedule", "clip_norm", "ema"):
        del state["settings"][name]
    for epoch in state["epochs"]:
        del epoch["lr"]
    del state["schedule"], state["average"]
    write_checkpoint(tmp_path, 2, state)
    resumed, history = trained(tiny, checkpoint=tmp_path, resume=True)
    assert torch.equal(weights(resumed), weights(whole))
    assert history.column("lr") == [None, None, 0.001, 0.001]


def test_a_checkpoint_of_another_optimizer_is_refused(tiny, tmp_path):
    trained(tiny, checkpoint=tmp_path, optimizer="sgd", callback=lambda *_: True)
    with pytest.raises(InputError, match='optimizer: given .adam., expected "sgd", as in the checkpoint'):
        trained(tiny, checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("options", "same_options"),
    [
        ({"optimizer": {"kind": "sgd", "momentum": np.float64(0.9)}}, {"optimizer": {"kind": "sgd", "momentum": 0.9}}),
        (
            {"optimizer": {"kind": "adam", "betas": np.array([0.8, 0.9])}},
            {"optimizer": {"kind": "adam", "betas": (0.8, 0.9)}},
        ),
        ({"schedule": {"kind": "step", "every": np.int64(1)}}, {"schedule": {"kind": "step", "every": 1}}),
        ({"optimizer": {"kind": "adamw", "weight_decay": 0.01}}, {"optimizer": "adamw"}),
        (
            {"objective": {"kind": "mean-field", "free_bits": np.float64(0.5)}},
            {"objective": OPTIONS["free bits"]["objective"]},
        ),
    ],
    ids=str,
)
def test_options_that_mean_the_same_resume_each_other(tiny, tmp_path, options, same_options):
    """NumPy's numbers and arrays are plain values in the checkpoint; a default is as if it was not there."""
    trained(tiny, checkpoint=tmp_path / "first", callback=lambda *_: True, **options)
    resumed, _ = trained(tiny, checkpoint=tmp_path / "first", resume=True, **same_options)
    trained(tiny, checkpoint=tmp_path / "second", callback=lambda *_: True, **same_options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a contradiction
        spec = dataclasses.replace(SPEC, **same_options)
        opposite, _ = trained(tiny, spec, checkpoint=tmp_path / "second", resume=True, **options)
    assert torch.equal(weights(resumed), weights(opposite))


@pytest.mark.parametrize(
    ("options", "others"),
    [
        ({"optimizer": partial(torch.optim.SGD, lr=0.1)}, {"optimizer": partial(torch.optim.SGD, lr=0.2)}),
        ({"optimizer": partial(torch.optim.SGD, lr=0.1)}, {"optimizer": partial(torch.optim.Adagrad, lr=0.1)}),
        (
            {"schedule": partial(lr_scheduler.StepLR, step_size=1)},
            {"schedule": partial(lr_scheduler.StepLR, step_size=2)},
        ),
    ],
)
def test_a_partial_with_other_arguments_is_refused_on_resuming(tiny, tmp_path, options, others):
    trained(tiny, checkpoint=tmp_path, callback=lambda *_: True, **options)
    with pytest.raises(InputError, match="as in the checkpoint that is to be resumed"):
        trained(tiny, checkpoint=tmp_path, resume=True, **others)


def test_one_cycle_is_not_resumed_with_more_epochs(tiny, tmp_path):
    options = {"schedule": partial(lr_scheduler.OneCycleLR, max_lr=0.02), "checkpoint": tmp_path}
    trained(tiny, epochs=2, **options)
    with pytest.raises(
        InputError, match=r"epochs: given 3, expected as many as before: .*OneCycleLR ends after 6 steps"
    ):
        trained(tiny, epochs=3, resume=True, **options)


def test_a_class_named_by_text_is_recorded_in_the_spec(tiny, tmp_path):
    model, _ = trained(tiny, optimizer="torch.optim:RMSprop")
    assert torch.equal(weights(model), weights(trained(tiny, optimizer=torch.optim.RMSprop)[0]))
    save(model, tmp_path / "weights.safetensors")
    assert load(tmp_path / "weights.safetensors", trust=True).spec.optimizer == "torch.optim:RMSprop"


@pytest.mark.parametrize("resume", [False, True])
def test_a_refused_fit_leaves_the_model_as_it_was(tiny, tmp_path, resume):
    """Also where it is refused late: by the optimizer, or by the checkpoint."""
    options = {"optimizer": {"kind": "sgd", "momentum": -1.0}}
    if resume:
        options = {"checkpoint": tmp_path, "resume": True, "lr": 0.5}
        trained(tiny, checkpoint=tmp_path, callback=lambda *_: True)
    model = build(SPEC).eval()
    before, spec = weights(model).clone(), model.spec
    with pytest.raises(InputError):
        fit(model, tiny, **options, **QUIET)
    assert not any(module.training for module in model.modules())
    assert torch.equal(weights(model), before)
    assert model.spec == spec


def test_clipping_is_by_the_norm_of_what_the_optimizer_steps(tiny):
    """The gradient of the rest, here of the encoder, is not stepped and does not count."""
    model = build(dataclasses.replace(SPEC, batch_size=12))
    before = weights(model.decoder).clone()

    def of_decoder(params):
        return torch.optim.SGD(model.decoder.parameters(), lr=1.0)

    fit(model, tiny, objective="mean-field", optimizer=of_decoder, clip_norm=0.3, epochs=1, **QUIET)
    assert torch.linalg.vector_norm(weights(model.decoder) - before).item() == pytest.approx(0.3, rel=1e-4)


def test_grey_pixels_are_warned_of_where_fit_is_called(tiny):
    with pytest.warns(UserWarning, match="grey pixels") as caught:
        trained(tiny, dataclasses.replace(SPEC, binarization="none", epochs=1))
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adamm"}, "optimizer: given 'adamm', expected one of .*did you mean 'adam'"),
        ({"optimizer": {"kind": "sgd", "betas": 1}}, r"optimizer.betas: given 1, expected an option of sgd: momentum"),
        ({"optimizer": {"kind": "adam", "betas": (2.0, 0.9)}}, r"optimizer.betas: given \(2.0, 0.9\), expected two"),
        (
            {"optimizer": {"kind": "adam", "betas": (0.9, 0.9, 0.9)}},
            r"optimizer.betas: given \(0.9, 0.9, 0.9\), expected",
        ),
        ({"optimizer": {"kind": "adamw", "betas": (0.9,)}}, r"optimizer.betas: given \(0.9,\), expected two numbers"),
        ({"optimizer": {"kind": "adamax", "betas": 0.9}}, "optimizer.betas: given 0.9, expected two numbers"),
        ({"optimizer": {"kind": "adam", "betas": ("a", 0.9)}}, "optimizer.betas: given 'a', expected a finite"),
        ({"optimizer": {"kind": "adam", "eps": math.inf}}, "optimizer.eps: given inf, expected a finite number"),
        (
            {"optimizer": {"kind": "adam", "weight_decay": True}},
            "optimizer.weight_decay: given True, expected a finite",
        ),
        ({"optimizer": {"kind": "sgd", "momentum": "high"}}, "optimizer.momentum: given 'high', expected a finite"),
        ({"optimizer": {"kind": "sgd", "nesterov": "false"}}, "optimizer.nesterov: given 'false', expected True or"),
        ({"optimizer": {"kind": "sgd", "nesterov": True}}, "optimizer.nesterov: given True, expected False where"),
        (
            {"optimizer": torch.optim.Adam([torch.zeros(1, requires_grad=True)])},
            "optimizer: given 'an instance of torch",
        ),
        ({"optimizer": lambda _: torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)}, "of other parameters"),
        ({"optimizer": pyro.optim.Adam({"lr": 0.1})}, 'optimizer: given .pyro.optim.Adam., expected "adam", or torch'),
        ({"optimizer": pyro.optim.RMSprop({"lr": 0.1})}, "given 'pyro.optim.RMSprop', expected torch.optim.RMSprop"),
        ({"optimizer": pyro.optim.Adam}, 'optimizer: given .pyro.optim.Adam., expected "adam", or torch'),
        ({"optimizer": torch.optim.LBFGS}, "optimizer: given .*LBFGS', expected an optimizer that steps by the"),
        ({"optimizer": torch.optim.SparseAdam}, "optimizer: given .*SparseAdam', expected an optimizer of dense"),
        ({"optimizer": partial(torch.optim.AdamW, lr=3e-3), "lr": 0.1}, "lr: given 0.1, expected None: the optimizer"),
        ({"beta": 0.0, "beta_warmup": 1}, "beta_warmup: given 1, expected 0 where beta is 0"),
        ({"optimizer": lambda params: 3}, "optimizer: given 'builtins.int', expected a kind with options"),
        ({"optimizer": 3}, "optimizer: given 'builtins.int', expected a kind with options"),
        ({"schedule": "cosin"}, "schedule: given 'cosin', expected one of .*did you mean 'cosine'"),
        ({"schedule": {"kind": "step", "every": 0}}, r"schedule.every: given 0, expected a whole number"),
        (
            {"schedule": {"kind": "constant", "every": 1}},
            "schedule.every: given 1, expected no option: constant has none; step has",
        ),
        ({"schedule": {"kind": "cosine", "warmup_epochs": 4}}, "warmup_epochs: given 4, expected less than the 4"),
        ({"schedule": lr_scheduler.StepLR}, "schedule: given 'torch.optim.lr_scheduler.StepLR', expected arguments"),
        ({"schedule": lambda optimizer: None}, "schedule: given 'builtins.NoneType', expected a kind with options"),
        ({"schedule": 3}, "schedule: given 3, expected a kind with options"),
        ({"clip_norm": -1.0}, "clip_norm: given -1.0, expected a finite number of at least 0"),
        ({"ema": 1.0}, "ema: given 1.0, expected a decay from 0 to below 1"),
        ({"objective": {"kind": "elbo", "free_bits": 1.0}}, "objective.free_bits: given 1.0"),
        (
            {"objective": {"kind": "mean-field", "free_bits": -1.0}},
            "objective.free_bits: given -1.0, expected a finite",
        ),
        ({"callback": 3}, "callback: given 3, expected a function"),
        (
            {"callback": lambda epoch: None},
            r"callback: given 'a function of the arguments \(epoch\)', expected a function",
        ),
    ],
)
def test_bad_options_are_named(tiny, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        trained(tiny, checkpoint=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_free_bits_without_a_kl_of_each_dimension_are_refused(tiny):
    model = build(dataclasses.replace(SPEC, posterior="planar"))
    with pytest.raises(InputError, match="no analytic KL"):
        fit(model, tiny, objective={"kind": "mean-field", "free_bits": 1.0}, **QUIET)


@pytest.mark.parametrize(
    "options", [{"optimizer": "sgd"}, {"schedule": "cosine"}, {"clip_norm": 1.0}, {"ema": 0.9}], ids=str
)
def test_fit_many_refuses_what_it_has_not(tiny, options):
    (name,) = options
    with pytest.raises(InputError, match=f"{name}: given .*: fit_many has no other; fit trains one seed with it"):
        fit_many(dataclasses.replace(SPEC, **options), tiny, seeds=[0], **QUIET)


def test_fit_many_has_free_bits(tiny):
    spec = dataclasses.replace(SPEC, objective={"kind": "mean-field", "free_bits": 1.0}, validation_fraction=0.0)
    ((model, _),) = fit_many(spec, tiny, seeds=[0], **QUIET)
    torch.testing.assert_close(weights(model), weights(trained(tiny, spec)[0]), rtol=1e-4, atol=1e-5)
