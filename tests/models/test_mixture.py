"""The mixture VAE: the component summed over exactly, against closed forms, and clusters that begin at codes."""

import dataclasses
import math

import pytest
import torch
from linear_gaussian import linear_gaussian
from pyro import poutine

from pyro_vae import Images, Spec, build, fit, load, save
from pyro_vae._utils.checks import InputError
from pyro_vae.data import binarize
from pyro_vae.data.binarization import fixed_binarization
from pyro_vae.models.mixture import Mixture
from pyro_vae.objectives import Terms, objective, resolved

QUIET = {"progress": False, "device": "cpu"}
SPEC = Spec(model={"kind": "mixture", "clusters": 3}, latent_dim=2, hidden=(8,), binarization="threshold")


@pytest.fixture
def x():
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round()


def linear_mixture(clusters):
    """A mixture of linear Gaussians: log p(x) is that of a mixture of normals in the space of pixels."""
    vae, _ = linear_gaussian()
    mixture = Mixture(2, vae.encoder, vae.decoder, vae.likelihood, vae.posterior, clusters=clusters)
    with torch.no_grad():
        mixture.clusters.logits.copy_(torch.randn(clusters))
        mixture.clusters.log_scales.copy_(0.3 * torch.randn(clusters, 2))
    w, b = vae.decoder[0].weight, vae.decoder[0].bias
    locs, scales = mixture.clusters.locs, mixture.clusters.log_scales.exp()
    covariances = w @ torch.diag_embed(scales**2) @ w.T + 0.1 * torch.eye(4)
    return mixture, torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=mixture.clusters.logits),
        torch.distributions.MultivariateNormal(locs @ w.T + b, covariances),
    )


def test_the_elbo_and_the_kl_to_the_posterior_are_the_evidence():
    """For one cluster, whose posterior the guide can be; for more, of which the evidence is estimated by the bound."""
    mixture, evidence = linear_mixture(clusters=1)
    images = evidence.sample((6,)).reshape(6, 1, 2, 2)
    w, b = mixture.decoder[0].weight, mixture.decoder[0].bias
    loc, scale = mixture.clusters.locs[0], mixture.clusters.log_scales[0].exp()
    with torch.no_grad():  # p(z|x), diagonal as w has orthogonal columns
        variance = 1 / (scale**-2 + w.square().sum(0) / 0.1)
        gain = variance[:, None] * w.T / 0.1
        mixture.encoder[1].weight[:2] = gain
        mixture.encoder[1].bias[:2] = variance * loc / scale**2 - gain @ b
        mixture.encoder[1].bias[2:] = variance.log()
    loss = objective("enumerated").loss(mixture.model, mixture.guide, images)
    assert loss == pytest.approx(-evidence.log_prob(images.flatten(1)).sum().item(), rel=1e-5)


def test_the_importance_weighted_mean_is_the_evidence():
    mixture, evidence = linear_mixture(clusters=3)
    with torch.no_grad():
        mixture.encoder[1].bias[2:] = 0.0  # a q(z|x) that is wide enough to cover the posterior
    images = evidence.sample((4,)).reshape(4, 1, 2, 2)
    elbo, n = objective("enumerated"), 20_000
    torch.manual_seed(0)
    guide = poutine.trace(mixture.guide).get_trace(images.repeat(n, 1, 1, 1))
    model = poutine.trace(poutine.replay(mixture.model, trace=guide)).get_trace(images.repeat(n, 1, 1, 1))
    z = guide.nodes["z"]["value"]
    marginal = torch.distributions.MixtureSameFamily(
        mixture.clusters.weights(), mixture.clusters(torch.arange(3))
    ).log_prob(z)
    log_w = marginal + model.nodes["x"]["fn"].log_prob(images.repeat(n, 1, 1, 1)) - guide.nodes["z"]["fn"].log_prob(z)
    estimate = log_w.reshape(n, 4).logsumexp(0) - math.log(n)
    torch.testing.assert_close(estimate, evidence.log_prob(images.flatten(1)), atol=0.05, rtol=0)
    # The objective is the mean of the same log weights.
    torch.manual_seed(0)
    loss = elbo.loss(mixture.model, mixture.guide, images.repeat(n, 1, 1, 1))
    assert loss == pytest.approx(-log_w.sum().item(), rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, torch.tensor(0.5)])
def test_beta_weighs_the_whole_kl(x, beta):
    model, terms = build(SPEC), Terms(torch.device("cpu"))
    loss = terms.watch(objective("enumerated")).loss(model.model, model.guide, x, beta)
    log_likelihood, kl = terms.totals().tolist()
    assert loss == pytest.approx(float(beta) * kl - log_likelihood, rel=1e-5)


def test_the_terms_have_the_responsibilities(x):
    """KL = log q(z|x) - log p(z), of the p(z) with y summed over."""
    model, terms, elbo = build(SPEC), Terms(torch.device("cpu")), objective("enumerated")
    with torch.no_grad():
        model.clusters.logits.copy_(torch.tensor([0.0, 1.0, -2.0]))
    torch.manual_seed(0)
    terms.watch(elbo).loss(model.model, model.guide, x)
    torch.manual_seed(0)
    q = model.q_of_z(x)
    z = q.rsample()
    p = torch.distributions.MixtureSameFamily(model.clusters.weights(), model.clusters(torch.arange(3)))
    assert terms.totals()[1].item() == pytest.approx((q.log_prob(z) - p.log_prob(z)).sum().item(), rel=1e-5)
    joint = torch.stack([model.clusters(torch.tensor(y)).log_prob(z) + model.clusters.logits[y] for y in range(3)], -1)
    torch.testing.assert_close(model.clusters.responsibilities(z), joint.softmax(-1))


def test_each_parameter_gets_a_gradient(x):
    model = build(SPEC)
    objective("enumerated").loss_and_grads(model.model, model.guide, x)
    for name, value in model.named_parameters():
        assert bool(value.grad.isfinite().all()), name
        assert value.grad.abs().sum() > 0, name


def test_the_prior_predictive_has_the_moments_of_the_evidence():
    mixture, evidence = linear_mixture(clusters=3)
    torch.manual_seed(0)
    n = 40_000
    trace = poutine.trace(mixture.model).get_trace(None, size=n)
    share = trace.nodes["y"]["value"].bincount() / n
    torch.testing.assert_close(share, mixture.clusters.weights().probs, atol=0.015, rtol=0)
    error = (evidence.variance / n).sqrt()
    assert bool(((trace.nodes["x"]["value"].flatten(1).mean(0) - evidence.mean).abs() < 4.5 * error).all())


def test_it_trains_the_same_captured_and_resumed(tmp_path, digits):
    def trained(epochs, compile="off", **more):
        model = build(SPEC)
        images = digits.train.draw(48)
        settings = {"batch_size": 16, "beta_warmup": 2, "validation": digits.test.draw(16)} | QUIET
        return model, fit(model, images, epochs=epochs, compile=compile, **settings, **more)

    model, history = trained(2)
    captured, _ = trained(2, "capture")
    trained(1, checkpoint=tmp_path)
    resumed, _ = trained(2, checkpoint=tmp_path, resume=True)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(captured.state_dict()[key], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(resumed.state_dict()[key], value), key
    assert all(math.isfinite(epoch.validation_loss_nats) for epoch in history.epochs)
    assert resolved("auto", model, digits.test) == "enumerated"


def test_it_is_saved_and_loaded(tmp_path, x):
    model = build(SPEC)
    loaded = load(save(model, tmp_path / "model.safetensors"))
    assert loaded.spec == model.spec
    assert torch.equal(loaded.classify(x), model.classify(x))


def test_clusters_start_at_the_codes_of_a_vae():
    """Two kinds of images, black and white: each gets a cluster of its own, with the networks of the VAE."""
    pixels = torch.zeros(60, 1, 8, 8, dtype=torch.uint8)
    pixels[30:] = 255
    images = Images(pixels)
    spec = Spec(latent_dim=2, hidden=(8,), beta=0.1, epochs=20, lr=0.01, binarization="threshold")
    vae = build(spec)
    fit(vae, images, **QUIET)
    mixture = build(Spec(model={"kind": "mixture", "clusters": 2}, latent_dim=2, hidden=(8,)))
    mixture.start_at(vae, images)
    with torch.no_grad():
        clusters = mixture.classify(images.as_float()).argmax(1)
    assert clusters[:30].unique().numel() == clusters[30:].unique().numel() == 1
    assert clusters[0] != clusters[-1]
    assert torch.equal(mixture.encoder.state_dict()["1.weight"], vae.encoder.state_dict()["1.weight"])
    torch.testing.assert_close(mixture.clusters.weights().probs, torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize(
    ("vae", "images", "message"),
    [
        (
            Spec(latent_dim=3, hidden=(8,)),
            20,
            "vae: given 'VAE, whose encoder is another', expected a VAE with the same",
        ),
        (Spec(latent_dim=2, hidden=(8,), network={"kind": "mlp", "activation": "elu"}), 20, "whose encoder is another"),
        (Spec(model="ladder", latent_dim=2), 20, "vae: given 'Ladder, whose encoder is another'"),
        (Spec(latent_dim=2, hidden=(8,)), 2, "images: given 2, expected at least 3 images, one for each cluster"),
        (Spec(latent_dim=2, hidden=(8,)), None, "images: given"),
    ],
)
def test_what_clusters_cannot_start_at(vae, images, message):
    mixture = build(SPEC)
    before = {name: value.clone() for name, value in mixture.state_dict().items()}
    pixels = torch.zeros(images or 20, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(InputError, match=message):
        mixture.start_at(build(vae), Images(pixels) if images else pixels)
    assert all(torch.equal(value, before[name]) for name, value in mixture.state_dict().items())


@pytest.mark.parametrize("binarization", ["threshold", "static", "dynamic"])
def test_clusters_start_at_codes_of_the_images_that_the_vae_was_trained_on(digits, binarization):
    images = digits.train.draw(40)
    vae = build(Spec(latent_dim=2, hidden=(8,), binarization=binarization))
    grey, binary = build(SPEC), build(SPEC)
    grey.start_at(vae, images)
    vae.spec = dataclasses.replace(vae.spec, binarization="none")
    binary.start_at(vae, binarize(images, fixed_binarization(binarization)))
    assert torch.equal(grey.clusters.locs, binary.clusters.locs)
    binary.start_at(vae, images)
    assert not torch.equal(grey.clusters.locs, binary.clusters.locs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 0}, "clusters: given 0, expected a whole number of at least 1"),
        ({"spread": -1.0}, "spread: given -1.0"),
        ({"components": 3}, "model.components: given 3, expected an option of mixture: clusters, spread"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        build(Spec(model={"kind": "mixture"} | options))
