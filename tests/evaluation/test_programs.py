"""Evaluations compose `encode`, `prior` and `decode`; a pair whose programs say something else is refused."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_vae import VAE, Autoencoder, Images, Spec, build, evaluate, evaluation, fit, latent
from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation.programs import check_programs
from pyro_vae.models.vae import weighted

SPEC = Spec(latent_dim=2, hidden=(8,))


class TwoLatents(VAE):
    """A second latent variable, of which encode, prior and decode know nothing."""

    def model(self, x, beta=1.0):
        with pyro.plate("data", len(x)):
            with weighted(beta):
                a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                z = pyro.sample("z", self.prior())
            pyro.sample("x", self.decode(z + a), obs=x)

    def guide(self, x, beta=1.0):
        with pyro.plate("data", len(x)), weighted(beta):
            pyro.sample("z", self.encode(x))
            pyro.sample("a", dist.Normal(torch.zeros(2), 0.1).to_event(1))


class OtherPrior(VAE):
    def model(self, x, beta=1.0):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.ones(2), 1.0).to_event(1))
            pyro.sample("x", self.decode(z), obs=x)


class OtherGuide(VAE):
    def guide(self, x, beta=1.0):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 0.1).to_event(1))


class OtherLikelihood(VAE):
    def model(self, x, beta=1.0):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            with poutine.scale(scale=0.5):
                pyro.sample("x", self.decode(z), obs=x)


class WithFactor(VAE):
    def model(self, x, beta=1.0):
        super().model(x, beta)
        pyro.factor("penalty", torch.tensor(-3.0))


class WithFactorInTheGuide(VAE):
    def guide(self, x, beta=1.0):
        super().guide(x, beta)
        pyro.factor("bonus", torch.tensor(3.0), has_rsample=True)


class SamplingDecoder(VAE):
    """The programs are a VAE's, and have a site more by what they call."""

    def decode(self, z):
        return super().decode(z * pyro.sample("gain", dist.LogNormal(0.0, 1.0)))


class LabelsFirst(VAE):
    def model(self, x, labels, beta=1.0):
        super().model(x, beta)


class WithCovariate(VAE):
    def model(self, x, beta, more):
        super().model(x, beta)


class Noisy(Autoencoder):
    def model(self, x, beta=1.0):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.encoder(x), 1.0).to_event(1))
            pyro.sample("x", self.decode(z), obs=x)

    def guide(self, x, beta=1.0):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


class Same(VAE):
    """Programs of their own that say the same."""

    def model(self, x, beta=1.0):
        pyro.module("decoder", self.decoder)
        with pyro.plate("images", len(x)):
            with weighted(beta):
                z = pyro.sample("z", self.prior())
            pyro.deterministic("mean", self.decode(z).mean)
            pyro.sample("x", self.decode(z), obs=x)

    def guide(self, x, beta=1.0):
        pyro.module("encoder", self.encoder)
        with pyro.plate("images", len(x)), weighted(beta):
            return pyro.sample("z", self.encode(x))


def with_programs_of(kind, **fields):
    model = build(Spec(latent_dim=2, hidden=(8,), **fields))
    parts = ("encoder", "decoder", "likelihood") if issubclass(kind, Autoencoder) else model._modules
    return kind(**{name: getattr(model, name) for name in parts})


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (TwoLatents, "the latent sites a, z in `model`"),
        (OtherPrior, r"log p\(z\) in `model` of .* on 2 images, where its parts give"),
        (OtherGuide, r"log q\(z\|x\) in `guide` of"),
        (OtherLikelihood, r"log p\(x\|z\) in `model` of"),
        (WithFactor, "the observed sites penalty, x in `model`"),
        (WithFactorInTheGuide, "the sites bonus, z in `guide`"),
        (SamplingDecoder, "the latent sites gain, z in `model`"),
        (Noisy, "the latent sites z in `model`"),
    ],
)
def test_other_programs_are_refused_by_all_estimators(tiny, kind, what):
    model = with_programs_of(kind, **({"model": "autoencoder"} if kind is Noisy else {}))
    estimates = [
        lambda: evaluate(model, tiny, binarization="threshold"),
        lambda: evaluation.bounds(model, tiny, binarization="threshold"),
    ]
    if kind is not Noisy:
        estimates += [
            lambda: evaluation.evidence(model, tiny, k=2, binarization="threshold"),
            lambda: evaluation.annealed_log_likelihood(model, tiny.as_float().round(), temperatures=2),
            lambda: evaluation.bidirectional_monte_carlo(model, 2, temperatures=2),
            lambda: evaluation.to_inference_data(model, tiny, draws=2, k=30, binarization="threshold"),
        ]
    for estimate in estimates:
        with pytest.raises(InputError, match=f"model: given '{kind.__name__} with {what}") as error:
            estimate()
        assert "\n" not in str(error.value)


def test_programs_that_take_what_is_not_there_are_refused(tiny):
    images, covariate = Images(tiny.pixels, torch.zeros(len(tiny), dtype=torch.long)), with_programs_of(WithCovariate)
    x = tiny.as_float().round()
    with pytest.raises(InputError, match=r"LabelsFirst with a `model` that does not take \(x, beta, labels\)"):
        evaluation.bounds(with_programs_of(LabelsFirst), images, binarization="threshold")
    for estimate in (evaluate, evaluation.bounds, evaluation.evidence, evaluation.to_inference_data, latent.codes):
        with pytest.raises(InputError, match="images: given 'images without more', expected images with more, which"):
            estimate(covariate, images)
    for simulate in (
        lambda: evaluation.annealed_log_likelihood(covariate, x, temperatures=2),
        lambda: evaluation.bidirectional_monte_carlo(covariate, 2, temperatures=2),
        lambda: evaluation.simulation_based_calibration(covariate),
        lambda: latent.prior_samples(covariate, 3),
    ):
        with pytest.raises(InputError, match="model: given 'WithCovariate, which takes more', expected one with"):
            simulate()


@pytest.mark.parametrize("posterior", ["normal", "planar", "conditional-planar", "laplace"])
def test_programs_that_say_the_same_are_evaluated(tiny, posterior):
    model = with_programs_of(Same, posterior=posterior)
    fit(model, tiny, epochs=1, beta=0.5, binarization="threshold", device="cpu", progress=False)
    expected = evaluate(with_parts_of(model), tiny, metrics=["bounds", "evidence"], k=30, binarization="threshold")
    metrics = evaluate(model, tiny, metrics=["bounds", "evidence"], k=30, binarization="threshold")
    assert (metrics.elbo_nats, metrics.nll_nats) == (expected.elbo_nats, expected.nll_nats)


def with_parts_of(model):
    return VAE(**model._modules)


def test_a_program_set_on_a_model_itself_is_seen(tiny):
    model = build(SPEC)
    model.guide = OtherGuide.guide.__get__(model)
    with pytest.raises(InputError, match=r"log q\(z\|x\) in `guide`"):
        evaluate(model, tiny, binarization="threshold")


def test_the_check_leaves_no_trace(tiny):
    model = build(SPEC).train()
    before = torch.get_rng_state()
    check_programs(model, tiny.as_float()[:2].round())
    assert torch.equal(torch.get_rng_state(), before)
    assert not list(pyro.get_param_store())
    assert model.training
