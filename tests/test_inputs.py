"""Arguments of the wrong type, from Python: one line that names argument, given and expected; or they are taken."""

import json
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import VAE, Images, Spec, Splits, build, evaluate, evaluation, fit, fit_many, latent, load, save
from pyro_vae._utils.checks import InputError

SPEC = Spec(latent_dim=2, hidden=(8,), epochs=1, batch_size=5)
QUIET = {"progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def objects():
    pixels = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = Images(pixels, torch.arange(12) % 2, "tiny", ("even", "odd"))
    return {
        "model": build(SPEC),
        "images": images,
        "splits": Splits(images, images),
        "tensor": pixels,
        "array": pixels.numpy(),
        "floats": images.as_float(),
        "dictionary": {"images": pixels},
        "spec": SPEC,
        "class": VAE,
        "network": nn.Linear(2, 2),
        "dictionary of fields": SPEC.to_dict(),
        "distribution": dist.Normal(torch.zeros(3, 2), 1.0).to_event(1),
    }


OF_MODEL_AND_IMAGES = {
    "fit": lambda model, images: fit(model, images, epochs=1, **QUIET),
    "evaluate": evaluate,
    "bounds": evaluation.bounds,
    "evidence": lambda model, images: evaluation.evidence(model, images, k=2),
    "to_inference_data": evaluation.to_inference_data,
    "codes": latent.codes,
    "posterior_means": latent.posterior_means,
    "principal_angles": latent.principal_angles,
}
OF_A_MODEL = {
    "prior_samples": lambda model: latent.prior_samples(model, 2),
    "manifold": lambda model: latent.manifold(model, 2),
    "decode_codes": lambda model: latent.decode_codes(model, torch.zeros(1, 2)),
    "interpolate": lambda model: latent.interpolate(model, torch.zeros(1, 8, 8), torch.ones(1, 8, 8)),
    "annealed": lambda model: evaluation.annealed_log_likelihood(model, torch.zeros(2, 1, 8, 8), temperatures=2),
    "two_sided": lambda model: evaluation.bidirectional_monte_carlo(model, 2, temperatures=2),
}
MODELS = {
    "spec": "Spec",
    "class": "the class VAE",
    "network": "Linear",
    "images": "Images",
    "tensor": r"Tensor of uint8 and shape \(12, 1, 8, 8\)",
}
SETS = {
    "splits": "Splits",
    "tensor": r"Tensor of uint8 and shape \(12, 1, 8, 8\)",
    "array": r"ndarray of uint8 and shape \(12, 1, 8, 8\)",
    "dictionary": "{'images': tensor.*",
    "model": "VAE",
}


def refused(message, call, *args, **kwargs):
    with pytest.raises(InputError, match=message) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize("call", OF_MODEL_AND_IMAGES)
def test_what_is_no_set_of_images_is_named(objects, call):
    for name, described in SETS.items():
        refused(
            f"^images: given {described}, expected Images", OF_MODEL_AND_IMAGES[call], objects["model"], objects[name]
        )


@pytest.mark.parametrize("call", [*OF_MODEL_AND_IMAGES, *OF_A_MODEL])
def test_what_is_no_model_is_named(objects, call):
    for name, described in MODELS.items():
        message = f"^model: given {described}, expected a VAE(, an Autoencoder,)? or another module with `"
        if call in OF_A_MODEL:
            refused(message, OF_A_MODEL[call], objects[name])
        else:
            refused(message, OF_MODEL_AND_IMAGES[call], objects[name], objects["images"])


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (
            "validation: given Splits, expected Images",
            lambda g: fit(g["model"], g["images"], epochs=1, validation=g["splits"]),
        ),
        ("snapshots: given 'a', expected", lambda g: fit(g["model"], g["images"], epochs=1, snapshots="a")),
        ("epochs: given '3', expected a whole number", lambda g: fit(g["model"], g["images"], epochs="3")),
        ("batch_size: given 2.5, expected", lambda g: fit(build(Spec()), g["images"], batch_size=2.5)),
        ("lr: given '1e-3', expected", lambda g: fit(g["model"], g["images"], epochs=1, lr="1e-3")),
        ("seed: given '1', expected", lambda g: fit(g["model"], g["images"], epochs=1, seed="1")),
        ("device: given 'gpu', expected", lambda g: fit(g["model"], g["images"], epochs=1, device="gpu")),
        ("model: given 'Frozen without parameters", lambda g: fit(frozen(), g["images"], epochs=1, **QUIET)),
        ("model: given 'weights of type bfloat16', expected float32 or", lambda g: fit(half(), g["images"], epochs=1)),
        ("checkpoint: given 5, expected a path", lambda g: fit(g["model"], g["images"], epochs=1, checkpoint=5)),
        ("images: given Splits", lambda g: fit_many(SPEC, g["splits"], seeds=[0])),
        ("spec: given dict|spec: given {", lambda g: fit_many(SPEC.to_dict(), g["images"], seeds=[0])),
        ("spec: given VAE, expected a Spec", lambda g: fit_many(g["model"], g["images"], seeds=[0])),
        ("seeds: given '01', expected", lambda g: fit_many(SPEC, g["images"], seeds="01")),
        ("spec: given {.*, expected a Spec", lambda g: build(g["dictionary of fields"])),
        ("spec: given 'mnist', expected a Spec", lambda g: build("mnist")),
        ("model: given 'a.safetensors', expected a model", lambda g: save("a.safetensors", g["model"])),
        ("path: given VAE, expected a path", lambda g: load(g["model"])),
        ("path: given 3, expected a path", lambda g: save(g["model"], 3)),
        ("model: given Spec, expected a model", lambda g: load("a.safetensors", SPEC)),
        ("train: given Splits", lambda g: evaluate(g["model"], g["images"], train=g["splits"])),
        ("metrics: given 'bounds', expected a list of", lambda g: evaluate(g["model"], g["images"], metrics="bounds")),
        ("anneal: given 1.5", lambda g: evaluate(g["model"], g["images"], anneal=1.5)),
        ("metrics: given 5, expected a list of", lambda g: evaluate(g["model"], g["images"], metrics=5)),
        ("metrics: given 3, expected one of", lambda g: evaluate(g["model"], g["images"], metrics=[3])),
        (
            "extractor: given 'classifier', expected",
            lambda g: evaluate(g["model"], g["images"], extractor="classifier"),
        ),
        ("extractor: given .*, expected a feature", lambda g: evaluate(g["model"], g["images"], extractor=print)),
        ("batch_size: given 0", lambda g: latent.codes(g["model"], g["images"], batch_size=0)),
        ("z: given 'a', expected a tensor", lambda g: latent.decode_codes(g["model"], "a")),
        (
            "z: given Tensor of float32 and shape .5, 3., expected codes",
            lambda g: latent.decode_codes(g["model"], torch.zeros(5, 3)),
        ),
        ("z: given Tensor .*, expected codes of shape", lambda g: latent.decode_codes(g["model"], torch.zeros(2))),
        ("start: given Tensor of uint8", lambda g: latent.interpolate(g["model"], g["tensor"][0], g["tensor"][1])),
        ("end: given Tensor", lambda g: latent.interpolate(g["model"], g["floats"][0], g["floats"][:1])),
        ("z: given Tensor .*, expected a matrix", lambda g: latent.to_plane(torch.zeros(3))),
        ("x: given None, expected", lambda g: latent.principal_components(None, 1)),
        (
            "x: given ndarray of float64",
            lambda g: evaluation.annealed_log_likelihood(g["model"], np.zeros((2, 1, 8, 8))),
        ),
        ("x: given Images, expected a tensor", lambda g: evaluation.mse_per_pixel(g["images"], g["floats"])),
        ("log_weights: given 'shape .3,.', expected", lambda g: evaluation.pareto_smooth([1.0, 2.0, 3.0])),
        ("log_weights: given None", lambda g: evaluation.log_mean_weight(None)),
        ("q: given Tensor", lambda g: evaluation.kl_per_image(g["floats"], g["distribution"], None)),
        ("q: given 'Tensor'", lambda g: evaluation.kl_per_dimension(g["floats"], g["distribution"])),
        ("p: given 3, expected a distribution", lambda g: evaluation.divergences(3, dist.Normal(0.0, 1.0))),
        ("q: given 'Tensor'", lambda g: evaluation.aggregate_posterior(g["floats"], g["distribution"])),
        ("means: given Images, expected", lambda g: evaluation.active_units(g["images"])),
        (
            "labels: given Images, expected",
            lambda g: evaluation.probe_accuracy(torch.rand(12, 2), g["images"], torch.rand(2, 2), [0, 1]),
        ),
        ("codes: given 'a', expected an array of numbers", lambda g: evaluation.mutual_information_gap("a", [[1]])),
        (
            "factors: given .*, expected an array of numbers",
            lambda g: evaluation.separated_attribute_predictability(np.ones((2, 1)), [["a"], ["b"]]),
        ),
        ("importance: given", lambda g: evaluation.dci_from_importance(None)),
        ("x: given Images, expected", lambda g: evaluation.frechet_from_features(g["images"], torch.rand(3, 2))),
        ("mean_x: given None, expected", lambda g: evaluation.frechet_from_stats(None, None, None, None)),
        ("logits: given None", lambda g: evaluation.inception_score(None)),
        ("generated_logits: given 'a'", lambda g: evaluation.confidence("a", "b")),
        (
            "images: given Images, expected a tensor",
            lambda g: evaluation.extract(evaluation.ModuleExtractor(nn.Flatten(), "flat", 64), g["images"]),
        ),
        (
            "images: given Tensor",
            lambda g: evaluation.extract_cached(evaluation.ModuleExtractor(nn.Flatten(), "flat", 64), g["tensor"]),
        ),
        ("splits: given Images, expected Splits", lambda g: evaluation.in_domain_classifier(g["images"])),
    ],
)
def test_each_is_refused_in_one_line(objects, message, call):
    refused(f"^{message}", call, objects)


def frozen():
    class Frozen(VAE):
        pass

    model = build(SPEC)
    return Frozen(model.encoder, model.decoder, model.prior, model.likelihood, model.posterior).requires_grad_(False)


def half():
    return build(SPEC).bfloat16()


@pytest.mark.filterwarnings("ignore:grey pixels")
def test_numbers_of_numpy_are_taken(objects, tmp_path):
    whole, two, five = np.int64(1), np.int32(2), np.uint8(5)
    options = {"epochs": whole, "batch_size": five, "seed": two, "lr": np.float32(0.01), "beta": np.float64(1)}
    options |= {
        "particles": two,
        "objective": np.str_("elbo"),
        "binarization": np.str_("none"),
        "compile": np.str_("off"),
    }
    histories = []
    for _ in range(2):  # the second time from what is stored, in which there is nothing but plain values
        model = build(SPEC)
        histories.append(fit(model, objects["images"], checkpoint=tmp_path, resume=bool(histories), **options, **QUIET))
    assert histories[0] == histories[1]
    metrics = evaluate(
        model,
        objects["images"],
        metrics=["bounds", "evidence"],
        k=two,
        samples=whole,
        batch_size=five,
        seed=two,
        device="cpu",
    )
    assert json.loads(json.dumps(metrics.to_dict()))["provenance"]["nll_nats"]["k"] == 2
    runs = fit_many(SPEC, objects["images"], seeds=np.arange(2), **QUIET)
    assert [model.spec.seed for model, _ in runs] == [0, 1]
    assert latent.prior_samples(model, two).shape == latent.decode_codes(model, np.zeros((2, 2))).shape
    assert evaluation.log_mean_weight(np.zeros((3, 1))).item() == pytest.approx(0)


def double():
    return build(SPEC).double()


def built_under_float64():
    return build(SPEC)


@pytest.mark.parametrize("make", [double, built_under_float64])
@pytest.mark.parametrize("compile", ["off", "capture"])
@pytest.mark.filterwarnings("ignore:grey pixels")
@pytest.mark.filterwarnings("ignore:the classifier of tiny")  # 12 images don't tell much from chance
def test_models_and_defaults_of_float64(objects, tmp_path, make, compile):
    """Images follow the model; what is trained and measured is what it is in float32, up to noise."""
    expected = evaluate(
        build(SPEC), objects["images"], metrics=["bounds", "evidence"], k=100, samples=100, device="cpu"
    )
    if make is built_under_float64:
        torch.set_default_dtype(torch.float64)
    try:
        model = make()
        assert next(model.parameters()).dtype == torch.float64
        groups = ["bounds", "codes", "evidence", "samples"]
        extractor = evaluation.in_domain_classifier(objects["splits"], device="cpu", progress=False)
        metrics = evaluate(
            model, objects["images"], metrics=groups, k=100, samples=100, extractor=extractor, device="cpu"
        )
        latent.interpolate(model, *objects["floats"][:2])
        latent.manifold(model, 2)
        latent.posterior_means(model, objects["images"])
        evaluation.annealed_log_likelihood(model, objects["floats"], temperatures=2, chains=2)
        evaluation.to_inference_data(model, objects["images"], draws=2, k=30)
        options = {"validation": objects["images"], "beta_warmup": 1, "binarization": "dynamic", "compile": compile}
        history = fit(
            model, objects["images"], epochs=2, batch_size=5, checkpoint=tmp_path / "state", **options, **QUIET
        )
        resumed = fit(
            make(),
            objects["images"],
            epochs=3,
            batch_size=5,
            checkpoint=tmp_path / "state",
            resume=True,
            **options,
            **QUIET,
        )
        assert resumed.epochs[:2] == history.epochs
        if make is built_under_float64:
            fit_many(SPEC, objects["images"], seeds=[0, 1], **QUIET)
        loaded = load(save(model, tmp_path / "a.safetensors"), make())
        assert torch.equal(loaded.encoder[1].weight, model.encoder[1].weight)
    finally:
        torch.set_default_dtype(torch.float32)
    assert math.isclose(metrics.mse_per_pixel, expected.mse_per_pixel, rel_tol=0.1)
    assert math.isclose(metrics.elbo_nats, expected.elbo_nats, rel_tol=0.1)
    assert metrics.provenance["elbo_nats"]["dtype"] == "float64"
    assert history.epochs[-1].train_loss_nats > 0
    assert load(tmp_path / "a.safetensors").encoder[1].weight.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:grey pixels")
def test_a_training_in_float64_is_that_in_float32(objects):
    """Where no noise is drawn."""
    losses = []
    for dtype in (torch.float32, torch.float64):
        model = build(Spec(model="autoencoder", latent_dim=2, hidden=(8,))).to(dtype)
        losses.append(fit(model, objects["images"], epochs=2, batch_size=5, **QUIET).epochs[-1].train_loss_nats)
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_pair_that_has_nothing_but_its_programs_is_trained(objects):
    import pyro

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.logit = nn.Parameter(torch.zeros(()))

        def model(self, x, beta=1.0):
            pyro.module("pair", self)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Bernoulli(logits=self.logit.expand(x.shape[1:])).to_event(3), obs=x)

        def guide(self, x, beta=1.0):
            pass

    model = Pair()
    history = fit(model, objects["images"], epochs=2, binarization="threshold", batch_size=5, **QUIET)
    assert history.epochs[1].train_loss_nats < history.epochs[0].train_loss_nats
    metrics = evaluate(model, objects["images"], binarization="threshold", metrics=["bounds", "evidence"], k=2)
    assert metrics.kl_per_sample == 0
    assert metrics.nll_nats == pytest.approx(-metrics.elbo_nats)  # exact, as there is nothing to infer
