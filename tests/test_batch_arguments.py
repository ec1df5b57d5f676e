"""Labels and covariates travel with their images, and reach the model that names them."""

import numpy as np
import pytest
import torch
from torch import nn

from pyro_vae import Images, Spec, build
from pyro_vae._utils.checks import InputError
from pyro_vae.data import binarize
from pyro_vae.models.base import batch_arguments

PIXELS = (torch.arange(6 * 64).reshape(6, 1, 8, 8) % 256).to(torch.uint8)
AGE = torch.arange(6, dtype=torch.float64)


def images(**changes):
    return Images(PIXELS, torch.tensor([0, 1, 2, 0, 1, 2]), covariates={"age": AGE, "pose": np.eye(6)} | changes)


def test_covariates_follow_their_images():
    some = images()
    parts = [some.take(slice(1, 4)), some.take(torch.tensor([5, 0])), *some.split(0.4), some.draw(3)]
    for part in [*parts, binarize(some, "static"), binarize(some, "threshold")]:
        assert torch.equal(part.covariates["pose"].argmax(1).double(), part.covariates["age"])
        assert torch.equal(part.labels.double(), part.covariates["age"] % 3)
        assert len(part.covariates["age"]) == len(part)
    for part in parts:
        assert torch.equal(part.pixels, PIXELS[part.covariates["age"].long()])


def test_the_fingerprint_has_the_covariates_and_is_unchanged_without():
    plain = Images(PIXELS)
    assert plain.fingerprint == Images(PIXELS, covariates={}).fingerprint
    made = [plain, Images(PIXELS, covariates={"age": AGE}), Images(PIXELS, covariates={"year": AGE})]
    made += [Images(PIXELS, covariates={"age": AGE + 1}), Images(PIXELS, covariates={"age": AGE[:, None]})]
    assert len({part.fingerprint for part in made}) == len(made)


@pytest.mark.parametrize(
    ("covariates", "message"),
    [
        ([AGE], "covariates: given .*, expected numbers of each image by name, a dictionary"),
        ({"age": AGE[:5]}, r"covariates: given 'age with torch.float64 of shape \(5,\)', expected .* shape \(6, ...\)"),
        ({"age": torch.tensor(1.0)}, r"shape \(\)"),
        ({"age": AGE.log()}, "covariates: given 'age with NaN or infinity'"),
        ({"age": "old"}, "covariates: given 'str'"),
        ({"beta": AGE}, "covariates: given 'beta', expected the name of a model's argument, other than x, beta"),
        ({"labels": AGE}, "given 'labels'"),
        ({"two words": AGE}, "given 'two words'"),
        ({3: AGE}, "given 3"),
    ],
)
def test_bad_covariates_are_named(covariates, message):
    with pytest.raises(InputError, match=message):
        Images(PIXELS, covariates=covariates)


class Program(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.model = model


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (lambda x, beta=1.0: None, []),
        (lambda x=None, beta=1.0, *, size=None: None, []),
        (lambda x, beta, labels: None, ["labels"]),
        (lambda x, beta=1.0, labels=None: None, ["labels"]),
        (lambda x, beta=1.0, *, age, labels: None, ["age", "labels"]),
        (lambda x, beta=1.0, pose=None, unknown=2, *rest, **more: None, ["pose"]),
    ],
)
def test_a_model_gets_what_it_names(model, names):
    arguments = batch_arguments(Program(model), images())
    assert sorted(arguments) == names
    for name, values in arguments.items():
        expected = images().labels if name == "labels" else images().covariates[name].float()
        assert torch.equal(values, expected)
        assert values.dtype == expected.dtype


def test_a_model_that_names_nothing_more_gets_nothing_more():
    assert batch_arguments(build(Spec(latent_dim=2)), images()) == {}
    assert batch_arguments(build(Spec(model="autoencoder", latent_dim=2)), images()) == {}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x, beta, labels: None, r"images: given 'images without labels', .* labels, .* Images\(pixels, labels"),
        (lambda x, beta, year: None, r"images without year.* covariates=\{'year': ...\}"),
    ],
)
def test_an_argument_that_the_images_lack_is_named(model, message):
    with pytest.raises(InputError, match=message):
        batch_arguments(Program(model), Images(PIXELS))
