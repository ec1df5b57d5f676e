"""What holds of every graphical model: it trains, resumes, is saved, drawn from and evaluated."""

import dataclasses
import math

import pyro
import pytest
import torch
from pyro import poutine

from pyro_vae import Images, Spec, build, evaluate, fit, fit_many, latent, load, load_data, save
from pyro_vae._utils.checks import InputError
from pyro_vae.experiments.figures.of_run import save_run_figures
from pyro_vae.models.base import conditioned_batches, evaluating
from pyro_vae.parts import kinds
from pyro_vae.programs.densities import groups_lacking

COMMON = {"latent_dim": 3, "hidden": (16,), "batch_size": 32, "binarization": "threshold"}
SPECS = {
    "adversarial": Spec(model={"kind": "adversarial", "discriminator": (8,)}, **COMMON),
    "vector-quantized": Spec(
        model={"kind": "vector-quantized", "codes": 8, "channels": (4,), "blocks": 1}, **COMMON | {"hidden": (400,)}
    ),
    "hierarchical": Spec(model={"kind": "hierarchical", "upper": (2,)}, **COMMON),
    "ladder": Spec(model={"kind": "ladder", "upper": (3, 2)}, **COMMON),
    "semi-supervised": Spec(model={"kind": "semi-supervised", "labels": 20}, **COMMON),
    "mixture": Spec(model={"kind": "mixture", "clusters": 4}, **COMMON),
    "conditional": Spec(model="conditional", **COMMON),
    "conditional, a part": Spec(model={"kind": "conditional", "condition": "quadrants-2"}, **COMMON),
    "denoising": Spec(model={"kind": "denoising", "noise": "gaussian:0.5"}, **COMMON),
    "miwae": Spec(model={"kind": "miwae", "missing": 0.3}, objective="iwae", particles=2, **COMMON),
    "vae": Spec(**COMMON),
    "autoencoder": Spec(model="autoencoder", **COMMON),
    "vae-prior-at-start": Spec(model="vae-prior-at-start", posterior="planar", **COMMON),
}
ALONE = {
    "conditional": "a model of pixels alone",
    "ladder": "batch normalization",
    "semi-supervised": "a model of pixels alone",
    "miwae": "a model of pixels alone",
}  # kinds that `fit_many` refuses, and what it says
QUIET = {"device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def images() -> Images:
    """64 digits: two batches."""
    return load_data("digits").train.draw(64)


def arguments_of(model, images):
    (x, densities), *_ = conditioned_batches(model, images, len(images), torch.device("cpu"))
    return x, densities.arguments


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_every_kind_is_in_the_table():
    assert {spec.model.kind for spec in SPECS.values()} == kinds("model").keys()


@pytest.mark.parametrize("kind", SPECS)
def test_the_programs_have_one_plate_and_each_parameter_gets_a_gradient(kind, images):
    model = build(SPECS[kind])
    before = state_of(model)
    fit(model, images, epochs=1, lr=1e-4, compile="off", optimizer=torch.optim.SGD, **QUIET)
    parameters = dict(model.named_parameters())
    still = [
        name for name in parameters if parameters[name].requires_grad and torch.equal(parameters[name], before[name])
    ]
    assert not still
    x, arguments = arguments_of(model, images)
    with evaluating(model), pyro.get_param_store().scope():
        for program in (model.model, model.guide):
            trace = poutine.trace(program).get_trace(x, 1.0, **arguments)
            plates = {frame.name for site in trace.nodes.values() for frame in site.get("cond_indep_stack", ())}
            assert plates <= {"data"}


@pytest.mark.parametrize("kind", SPECS)
def test_it_is_saved_and_loaded(kind, images, tmp_path):
    model = build(SPECS[kind])
    fit(model, images, epochs=1, **QUIET)
    other = load(save(model, tmp_path / "model.safetensors"))
    assert other.spec == model.spec
    same(state_of(model), state_of(other))
    settings = {"metrics": ["bounds"], "device": "cpu"}
    assert evaluate(model, images, **settings).to_dict() == evaluate(other, images, **settings).to_dict()


@pytest.mark.parametrize("kind", SPECS)
def test_it_resumes_bit_for_bit(kind, images, tmp_path):
    spec = dataclasses.replace(SPECS[kind], epochs=3)
    whole, part = build(spec), build(spec)
    fit(whole, images, **QUIET)
    fit(part, images, epochs=1, checkpoint=tmp_path, **QUIET)
    resumed = build(spec)
    history = fit(resumed, images, checkpoint=tmp_path, resume=True, **QUIET)
    assert len(history.epochs) == 3
    same(state_of(whole), state_of(resumed))


@pytest.mark.parametrize("kind", SPECS)
def test_the_captured_step_is_the_eager_one(kind, images):
    models = {}
    for backend in ("off", "capture"):
        models[backend] = build(SPECS[kind])
        fit(models[backend], images, epochs=2, compile=backend, **QUIET)
    # The sum over an enumerated site is in another order where it is captured.
    tolerance = 1e-6 if kind == "semi-supervised" else 0
    same(state_of(models["off"]), state_of(models["capture"]), tolerance)


@pytest.mark.parametrize("kind", SPECS)
def test_several_seeds_at_once_are_single_trainings_or_refused(kind, images):
    spec = dataclasses.replace(SPECS[kind], epochs=1, validation_fraction=0.0, compile="capture")
    if kind in ALONE:
        with pytest.raises(InputError, match=ALONE[kind]):
            fit_many(spec, images, seeds=[3, 4], **QUIET)
        return
    trained = fit_many(spec, images, seeds=[3, 4], **QUIET)
    for (model, _), seed in zip(trained, (3, 4), strict=True):
        single = build(dataclasses.replace(spec, seed=seed))
        fit(single, images, **QUIET)
        for name, tensor in single.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", SPECS)
def test_it_is_evaluated_and_drawn(kind, images):
    model = build(SPECS[kind])
    fit(model, images, epochs=1, **QUIET)
    possible = [group for group in ("bounds", "codes", "evidence") if group not in groups_lacking(model)]
    metrics = evaluate(model, images, metrics=possible, k=30, device="cpu")
    assert 0 < metrics.mse_per_pixel < 1
    if metrics.kl_by_site is not None:
        assert sum(metrics.kl_by_site.values()) == pytest.approx(metrics.kl_per_sample, abs=1e-3)
    if metrics.nll_nats is not None:
        # A bound of 30 draws is above that of one, up to its noise.
        assert math.isfinite(metrics.nll_nats)
        assert metrics.nll_nats < -metrics.elbo_nats + 0.5
    if "samples" not in groups_lacking(model):
        labels = (
            torch.arange(5) if "labels" in (metrics.provenance["mse_per_pixel"].get("conditional_on") or ()) else None
        )
        samples = latent.prior_samples(model, 5, labels=labels, device="cpu")
        assert samples.shape == (5, *images.shape)
        assert bool(((samples >= 0) & (samples <= 1)).all())


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (Images(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.long)), "images: given"),
        (torch.zeros(4, 1, 8, 8), "images: given"),
    ],
)
def test_images_that_do_not_fit_are_named(kind, images, message):
    for function in (fit, evaluate):
        with pytest.raises(InputError) as caught:
            function(build(SPECS[kind]), images)
        assert str(caught.value).startswith(message)


def test_units_of_a_conditional_model_are_not_counted(images):
    metrics = evaluate(build(SPECS["conditional"]), images, metrics=["bounds", "codes"], device="cpu")
    assert metrics.provenance["kl_per_sample"]["conditional_on"] == ["labels"]
    assert metrics.active_units is None


def test_validation_images_train_no_codebook(images):
    spec = dataclasses.replace(SPECS["vector-quantized"], epochs=2, validation_fraction=0.5, compile="capture")
    ((model, many),) = fit_many(spec, images, seeds=[3], **QUIET)
    single = build(dataclasses.replace(spec, seed=3))
    train, validation = images.split(0.5, 3)
    one = fit(single, train, validation=validation, **QUIET)
    for a, b in zip(many.epochs, one.epochs, strict=True):
        assert a.validation_loss_nats == pytest.approx(b.validation_loss_nats, abs=1e-3)
    for name, tensor in single.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-3, atol=1e-3)


def test_the_history_leaves_out_what_a_mask_leaves_out(images):
    vae = build(SPECS["vae"])

    class Half(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = vae

        def model(self, x, beta=1.0):
            with poutine.mask(mask=torch.arange(len(x)) % 2 == 0):
                return vae.model(x, beta)

        def guide(self, x, beta=1.0):
            with poutine.mask(mask=torch.arange(len(x)) % 2 == 0):
                vae.guide(x, beta)

    history = fit(Half(), images, epochs=1, lr=1e-9, batch_size=64, binarization="threshold", objective="elbo", **QUIET)
    epoch = history.epochs[0]
    assert epoch.train_loss_nats == pytest.approx(epoch.train_reconstruction_nats + epoch.train_kl_nats, abs=1e-3)


def test_a_model_without_codes_has_the_other_figures_and_no_note(images, tmp_path, recwarn):
    model = build(SPECS["vector-quantized"])
    fit(model, images, epochs=1, **QUIET)
    saved = save_run_figures(model, images, None, tmp_path)
    assert sorted(path.stem for path in saved) == ["reconstructions", "samples"]
    assert not recwarn.list
