"""Semi-supervised models: the label enumerated where it is unknown, and held where it is known."""

import copy
import dataclasses
import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyro_vae import Images, Spec, build, fit, latent, load, save
from pyro_vae._utils.checks import InputError
from pyro_vae.experiments.figures.of_run import save_run_figures
from pyro_vae.models.base import batch_arguments, evaluated_arguments
from pyro_vae.models.conditional import Conditional
from pyro_vae.models.stacked import StackedSemiSupervised
from pyro_vae.objectives import Terms, objective, resolved

QUIET = {"progress": False, "device": "cpu"}
LABELS = torch.tensor([0, 2, -1, -1, 1])


def spec_of(**options):
    return Spec(
        model={"kind": "semi-supervised", "classes": 3} | options, latent_dim=2, hidden=(8,), binarization="threshold"
    )


def stacked(**options):
    m1 = build(Spec(latent_dim=4, hidden=(8,)))
    torch.manual_seed(0)
    return StackedSemiSupervised(m1, latent_dim=2, hidden=(8,), classes=3, **options)


MODELS = {"m2": lambda **options: build(spec_of(**options)), "stacked": stacked}


def some_images(n=40, classes=3):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(n) % classes, "some")


@pytest.fixture
def x():
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round()


def enumerated(model, x, labels=None, beta=1.0, seed=0):
    """The loss, and the traces behind it, in which y is enumerated."""
    elbo = objective("enumerated")
    traces = []
    watched = copy.copy(elbo)
    watched._get_trace = lambda *args: traces.append(elbo._get_trace(*args)) or traces[-1]
    torch.manual_seed(seed)
    return watched.loss(model.model, model.guide, x, beta, labels), *traces[0]


def by_class(model, x, guide, beta=1.0):
    """log p(x, y, z) - log q(z|x, y), and log q(y|x), of all classes y at the draws of a trace, (classes, N)."""
    bounds, log_q_y = [], []
    for y in range(3):
        values = {"y": torch.full((5,), y)}
        values["z"] = guide.nodes["z"]["value"][y]
        if "features" in guide.nodes:
            values["features"] = guide.nodes["features"]["value"]
        q, p = (
            poutine.trace(poutine.condition(program, values)).get_trace(x, beta)
            for program in (model.guide, model.model)
        )
        for trace in (q, p):
            trace.compute_log_prob()
        log_q = {name: site["log_prob"] for name, site in q.nodes.items() if name in values}
        log_q_y.append(log_q.pop("y"))
        bounds.append(sum(site["log_prob"] for name, site in p.nodes.items() if name in {*values, "x"}))
        bounds[-1] = bounds[-1] - sum(log_q.values())
    return torch.stack(bounds), torch.stack(log_q_y)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("beta", [1.0, 0.5, torch.tensor(0.5), 0.0])
def test_the_objective_is_the_sum_over_classes(x, name, beta):
    """U(x) = sum_y q(y|x) (L(x, y) - log q(y|x)) where the label is unknown, L(x, y) where it is known."""
    model = MODELS[name](alpha=0)
    for labels in (None, LABELS):
        loss, _, guide = enumerated(model, x, labels, beta)
        bounds, weighted = by_class(model, x, guide, beta)
        log_q = by_class(model, x, guide)[1]
        torch.testing.assert_close(log_q.exp().sum(0), torch.ones(5))
        expected = (log_q.exp() * (bounds - weighted)).sum(0)
        if labels is not None:
            expected = torch.where(labels >= 0, bounds.gather(0, labels.clamp(min=0)[None])[0], expected)
        assert loss == pytest.approx(-expected.sum().item(), rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_the_classification_loss_is_that_of_the_known_labels(x, name):
    model = MODELS[name](alpha=3.0)
    loss, _, guide = enumerated(model, x, LABELS)
    _, log_q = by_class(model, x, guide)
    model.alpha = 0.0
    known = LABELS >= 0
    expected = -3.0 * log_q[LABELS[known], known].sum().item()
    assert loss - enumerated(model, x, LABELS)[0] == pytest.approx(expected, rel=1e-3)
    # Evaluation withholds the labels, and with them this term: no site of the model or the guide is of it.
    for program in (model.model, model.guide):
        assert "classification" not in poutine.trace(program).get_trace(x).nodes


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("beta", [1.0, 0.5, torch.tensor(0.5), 0.0])
def test_terms_are_those_of_the_sum(x, name, beta):
    """Reconstruction and KL are expectations over y, and add up to the loss, without the classification loss."""
    for labels in (None, LABELS):
        model = MODELS[name](alpha=0)
        terms = Terms(torch.device("cpu"))
        torch.manual_seed(0)
        loss = terms.watch(objective("enumerated")).loss(model.model, model.guide, x, beta, labels)
        log_likelihood, kl = terms.totals().tolist()
        assert float(beta) * kl - log_likelihood == pytest.approx(loss, rel=1e-5)
        assert all(map(math.isfinite, (log_likelihood, kl)))
        with_loss = Terms(torch.device("cpu"))
        model.alpha = 5.0
        torch.manual_seed(0)
        with_loss.watch(objective("enumerated")).loss(model.model, model.guide, x, beta, labels)
        assert torch.equal(with_loss.totals(), terms.totals())


@pytest.mark.parametrize("name", MODELS)
def test_each_parameter_gets_a_gradient(x, name):
    model = MODELS[name]()
    objective("enumerated").loss_and_grads(model.model, model.guide, x, labels=LABELS)
    for parameter, value in model.named_parameters():
        if value.requires_grad:
            assert value.grad is not None, parameter
            assert bool(value.grad.isfinite().all()), parameter
            assert value.grad.abs().sum() > 0, parameter
        else:
            assert parameter.startswith("m1.")
            assert value.grad is None, parameter


@pytest.mark.parametrize("name", MODELS)
def test_without_enumeration_the_programs_are_those_of_any_guide(x, name):
    model = MODELS[name]()
    with pytest.warns(UserWarning, match="TraceEnum_ELBO"):
        assert math.isfinite(Trace_ELBO().loss(model.model, model.guide, x))
    draws = pyro.infer.Predictive(model.model, guide=model.guide, num_samples=4)(x)
    assert draws["y"].shape == (4, 5)
    assert draws["z"].shape == (4, 5, 2)


@pytest.mark.parametrize("name", MODELS)
def test_draws_are_of_the_classes_that_are_asked_for(name):
    model = MODELS[name]()
    labels = torch.tensor([0, 1, 2, 2])
    trace = poutine.trace(model.model).get_trace(None, labels=labels, size=4)
    assert torch.equal(trace.nodes["y"]["value"], labels)
    assert trace.nodes["x"]["value"].shape == (4, 1, 8, 8)
    y = torch.cat([pyro.infer.Predictive(model.model, num_samples=200)(size=10)["y"]])
    assert bool(((y.flatten().bincount() / 2000 - 1 / 3).abs() < 0.05).all())


@pytest.mark.parametrize("name", MODELS)
def test_labels_say_how_many_images_are_drawn(name):
    model = MODELS[name]()
    assert model.model(labels=torch.tensor([0, 1, 2, 2])).shape == (4, 1, 8, 8)
    with pytest.raises(InputError, match="size: given 5, expected None, or 3, the number of labels"):
        model.model(labels=torch.arange(3), size=5)


@pytest.mark.parametrize("labels", [[0, 12], [-1, 2]])
@pytest.mark.parametrize("model", [*MODELS.values(), lambda: build(spec_of(kind="conditional"))])
def test_labels_of_no_class_are_one_line(model, labels):
    message = f"^labels: given 'labels from {labels[0]} to {labels[1]}', expected labels from 0 to 2[^\n]*$"
    with pytest.raises(InputError, match=message):
        latent.prior_samples(model(), 2, labels=torch.tensor(labels))
    if not isinstance(model(), Conditional):
        with pytest.raises(InputError, match=message):
            model().model(labels=torch.tensor(labels))


def test_codes_without_a_class_make_no_image(tmp_path):
    """p(x|y, z) is not of z alone; the codes of a stacked model are features, which tell the whole image."""
    images, message = some_images(4), "model: given 'SemiSupervised, whose images depend on the discrete y besides z'"
    model, x = MODELS["m2"](), images.as_float()
    for refused in (
        lambda: latent.decode_codes(model, torch.zeros(1, 2)),
        lambda: latent.interpolate(model, x[0], x[1]),
        lambda: latent.manifold(model, 2),
    ):
        with pytest.raises(InputError, match=message):
            refused()
    assert latent.interpolate(MODELS["stacked"](), x[0], x[1], 3).shape == (3, 1, 8, 8)
    mixture = build(Spec(model="mixture", latent_dim=2, hidden=(8,)))
    expected = mixture.likelihood_of(torch.zeros(1, 2)).mean
    torch.testing.assert_close(latent.decode_codes(mixture, torch.zeros(1, 2)), expected.detach())
    drawn = {path.stem for path in save_run_figures(model, images, None, tmp_path)}
    assert drawn == {"reconstructions", "latent", "samples"}


def test_the_vae_below_a_stacked_model_stays_as_it_is(x):
    spec = Spec(latent_dim=4, network={"kind": "mlp", "batch_norm": True}, binarization="threshold")
    m1 = build(spec)
    before = {name: value.clone() for name, value in m1.state_dict().items()}
    model = StackedSemiSupervised(m1, latent_dim=2, hidden=(8,), classes=3)
    fit(model, some_images(), epochs=1, batch_size=16, binarization="threshold", **QUIET)
    assert before.keys() == model.m1.state_dict().keys()
    for name, value in model.m1.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(module.training for module in model.train().m1.modules())
    assert model.classifier.training
    assert all(parameter.requires_grad for parameter in m1.parameters())


@pytest.mark.parametrize("kind", ["ladder", "mixture", "conditional"])
def test_another_model_than_a_vae_cannot_be_stacked_on(kind):
    with pytest.raises(InputError, match="m1: given .*, expected a VAE, with `encode`, `decode` and `prior`"):
        StackedSemiSupervised(build(Spec(model=kind, latent_dim=4)))


def test_evaluation_withholds_the_labels_and_training_does_not():
    model, images = build(spec_of()), some_images()
    assert evaluated_arguments(model, images) == {}
    assert torch.equal(batch_arguments(model, images)["labels"], images.labels)
    assert resolved("auto", model, images) == "enumerated"


def test_training_knows_some_labels_and_repeats_those_images():
    images = some_images(90)
    train = build(spec_of(labels=6, share=0.25)).training_images(images)
    known = train.labels >= 0
    assert train.labels[:90][known[:90]].bincount().tolist() == [2, 2, 2]
    assert 0.25 <= known.double().mean() < 0.3
    assert torch.equal(train.pixels[:90], images.pixels)
    originals = {pixels.numpy().tobytes() for pixels in images.pixels[(train.labels[:90] >= 0)]}
    assert {pixels.numpy().tobytes() for pixels in train.pixels[90:]} == originals
    other_seed = build(dataclasses.replace(spec_of(labels=6), seed=1)).training_images(images)
    assert not torch.equal(other_seed.labels[:90], train.labels[:90])
    assert build(spec_of()).training_images(images).labels.tolist() == images.labels.tolist()


@pytest.mark.parametrize(
    ("options", "images", "message"),
    [
        ({}, Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8)), "images: given 'images without a known label'"),
        ({}, some_images().with_known_labels(0), "expected images of which some have a label"),
        ({"labels": 60}, some_images(), "model.labels: given 60, expected at most 40, the labels of some"),
        ({}, some_images(classes=4), "model.classes: given 3, expected at least 4"),
    ],
)
def test_images_that_it_cannot_be_trained_on(options, images, message):
    with pytest.raises(InputError, match=message):
        fit(build(spec_of(**options)), images, epochs=1, **QUIET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "model.classes: given 0, expected a whole number of at least 1"),
        ({"labels": -1}, "labels: given -1"),
        ({"share": 1.0}, "share: given 1.0, expected a share from 0 to below 1"),
        ({"alpha": -1.0}, "alpha: given -1.0"),
        ({"labelled": 3}, "model.labelled: given 3, expected an option of semi-supervised: .*labels"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        build(spec_of(**options))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("labels", [torch.tensor([2]), torch.zeros(5), torch.zeros(5, 1, dtype=torch.long), 1])
def test_the_guide_takes_a_label_for_each_image(x, name, labels):
    with pytest.raises(InputError, match=r"labels: given .*, expected the label of each image, .* of shape \(5,\)"):
        MODELS[name]().guide(x, labels=labels)


@pytest.mark.parametrize("name", MODELS)
def test_it_trains_the_same_captured_and_resumed(tmp_path, name):
    def trained(epochs, compile="off", **more):
        model, images = MODELS[name](labels=6), some_images(42)  # of which 6 are repeated: 48
        settings = {"batch_size": 16, "binarization": "threshold", "validation": some_images(16)} | QUIET
        return model, fit(model, images, epochs=epochs, compile=compile, **settings, **more)

    model, history = trained(2)
    captured, _ = trained(2, "capture")
    trained(1, checkpoint=tmp_path)
    resumed, _ = trained(2, checkpoint=tmp_path, resume=True)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(captured.state_dict()[key], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(resumed.state_dict()[key], value), key
    assert all(math.isfinite(epoch.validation_loss_nats) for epoch in history.epochs)


def test_it_is_saved_and_loaded(tmp_path, x):
    model = build(spec_of(labels=6, alpha=2.0))
    loaded = load(save(model, tmp_path / "model.safetensors"))
    assert loaded.spec == model.spec
    assert torch.equal(loaded.classify(x), model.classify(x))
    m1m2 = stacked()
    other = load(save(m1m2, tmp_path / "stacked.safetensors"), stacked())
    assert torch.equal(other.classify(x), m1m2.classify(x))


def test_it_learns_the_class_from_few_labels(digits):
    spec = Spec(
        model={"kind": "semi-supervised", "labels": 50, "alpha": 10.0},
        latent_dim=5,
        hidden=(64,),
        binarization="threshold",
        epochs=8,
        lr=3e-3,
    )
    model = build(spec)
    fit(model, digits.train, compile="capture", **QUIET)
    with torch.no_grad():
        right = model.classify((digits.test.as_float() > 0.5).float()).argmax(1) == digits.test.labels
    assert right.double().mean() > 0.7
