"""Labels and covariates travel with their images, and reach the model that names them."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import linear_gaussian
from torch import nn

from pyro_vae import VAE, Images, Spec, build, evaluate, evaluation, latent
from pyro_vae._utils.checks import InputError
from pyro_vae.data import binarize
from pyro_vae.models.base import batch_arguments
from pyro_vae.models.vae import weighted

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


class Conditional(VAE):
    """p(x|z, y) = N(Wz + b_y, cI) under p(z|y) = N(m_y, I), y one of three labels; `encode` is the exact posterior."""

    def __init__(self, c=0.1):
        plain, _ = linear_gaussian(c=c)
        super().__init__(plain.encoder, plain.decoder, plain.prior, plain.likelihood, plain.posterior)
        self.register_buffer("offsets", torch.tensor([[0.0] * 4, [0.5, -0.2, 0.1, 0.3], [-0.4, 0.4, 0.2, -0.1]]))
        self.register_buffer("means", torch.tensor([[0.0, 0.0], [1.0, -0.5], [-0.7, 0.2]]))
        self.c = c

    def shift(self, labels):
        """By how much the labels move x: b_y + W m_y."""
        w = self.decoder[0].weight
        return (self.offsets[labels] + self.means[labels] @ w.T).unflatten(-1, (1, 2, 2))

    def prior_of(self, labels):
        return dist.Normal(self.means[labels], 1.0).to_event(1)

    def prior(self, labels):
        return self.prior_of(labels)

    def encode(self, x, labels):
        q = self.posterior(self.encoder(x - self.shift(labels))).base_dist
        return dist.Normal(q.loc + self.means[labels], q.scale).to_event(1)

    def decode(self, z, labels):
        x = super().decode(z).base_dist
        return dist.Normal(x.loc + self.offsets[labels].unflatten(-1, (1, 2, 2)), x.scale).to_event(3)

    def model(self, x, beta=1.0, *, labels):
        self.register("decoder")
        with pyro.plate("data", len(x)):
            with weighted(beta):
                z = pyro.sample("z", self.prior(labels))
            pyro.sample("x", self.decode(z, labels), obs=x)

    def guide(self, x, beta=1.0, *, labels):
        self.register("encoder")
        with pyro.plate("data", len(x)), weighted(beta):
            pyro.sample("z", self.encode(x, labels))

    def log_evidence(self, images):
        w, b = self.decoder[0].weight, self.decoder[0].bias
        of_x = dist.MultivariateNormal(b, w @ w.T + self.c * torch.eye(4))
        return of_x.log_prob((images.as_float() - self.shift(images.labels)).flatten(1)).detach().double()


def labelled(n):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 1, 2, 2), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.randint(0, 3, (n,), generator=generator))


def test_a_model_of_labels_is_evaluated_given_them():
    """With the exact posterior each weight is p(x|y): every estimate of log p(x|y) is it."""
    model, some = Conditional(), labelled(130)
    del model._modules["prior"]  # the method is in its place
    expected = model.log_evidence(some)
    bounds = evaluation.bounds(model, some, device="cpu", batch_size=7)
    torch.testing.assert_close(bounds.per_image["elbo_nats"].mean(), expected.mean(), atol=0.2, rtol=0)
    estimate = evaluation.evidence(model, some, k=5, anneal=3, anneal_temperatures=200, device="cpu")
    torch.testing.assert_close(estimate.log_likelihood, expected, atol=1e-4, rtol=0)
    annealed = estimate.annealed
    torch.testing.assert_close(annealed.annealed.log_likelihood, expected[annealed.index], atol=0.3, rtol=0)
    metrics = evaluate(model, some, metrics=["bounds", "codes", "evidence"], k=30, device="cpu")
    assert metrics.nll_nats == pytest.approx(-expected.mean().item(), abs=1e-4)
    assert metrics.elbo_nats == evaluation.bounds(model, some, device="cpu").elbo_nats
    means = model.encode(some.as_float(), some.labels).base_dist.loc
    torch.testing.assert_close(latent.codes(model, some, device="cpu", batch_size=9), means.detach())
    data = evaluation.to_inference_data(model, some.take(slice(0, 3)), draws=4, k=30, device="cpu")
    assert data.constant_data["log_evidence"].values == pytest.approx(expected[:3].numpy(), abs=1e-4)
    for kind in ("prior", "posterior"):
        check = evaluation.predictive_check(model, some, kind=kind, replicates=9, device="cpu")
        assert check.statistics["mean intensity"].replicated_means.shape == (9,)
    with pytest.raises(InputError, match="Conditional.*`encode` takes the pixels alone"):
        evaluation.inference_gap(model, some, device="cpu")


def test_an_evaluation_leaves_the_model_as_it_was():
    model = build(Spec(latent_dim=2)).train()
    model.decoder.eval()
    modes = [module.training for module in model.modules()]
    some = Images(PIXELS).take(slice(0, 6))
    evaluation.bounds(model, some, binarization="threshold", device="cpu")
    with pytest.raises(InputError):
        evaluation.bounds(model, Images(torch.zeros(3, 1, 5, 5, dtype=torch.uint8)), device="cpu")
    assert [module.training for module in model.modules()] == modes
    assert model.encoder[1].weight.device == torch.device("cpu")
    assert not model.encoder[1].weight.is_inference()


def test_a_model_conditional_on_labels_refuses_unknown_ones():
    with pytest.raises(InputError, match="images: given 'images with unknown labels', expected images whose labels"):
        batch_arguments(Program(lambda x, beta, labels: None), Images(PIXELS, [0, 1, 2, 0, 1, -1]))
