"""Denoising against exact posteriors: a linear-Gaussian model, and models whose images can all be listed."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_gaussian import linear_gaussian
from torch import nn

from pyro_vae import VAE, Spec, build, likelihoods, load_data, posteriors, priors
from pyro_vae._utils.checks import InputError
from pyro_vae.models.denoising import Denoising
from pyro_vae.noise import Blur, GaussianNoise, SaltAndPepper, noise_of
from pyro_vae.uses.code_posterior import Ascent
from pyro_vae.uses.denoise import denoise
from pyro_vae.uses.image_quality import peak_signal_to_noise, structural_similarity


def posterior_of_normal(evidence, kernel, sd, y):
    """Mean and covariance of x given y = K x + e, for x ~ `evidence` and e ~ N(0, sd^2 I), of rows of y."""
    prior = evidence.covariance_matrix.double()
    gain = prior @ kernel.T @ torch.linalg.inv(kernel @ prior @ kernel.T + sd**2 * torch.eye(len(kernel)))
    mean = evidence.mean.double() + (y.double() - evidence.mean.double() @ kernel.T) @ gain.T
    return mean, prior - gain @ kernel @ prior


@pytest.mark.parametrize("noise", [GaussianNoise(0.4), GaussianNoise(1.5), Blur(0.6, 0.3), Blur(1.0)])
def test_of_a_linear_gaussian_model_it_is_the_exact_posterior(noise):
    vae, evidence = linear_gaussian()
    torch.manual_seed(0)
    x = evidence.sample((5,)).reshape(5, 1, 2, 2)
    y = noise.corrupt(x)
    kernel = torch.eye(4, dtype=torch.float64)
    if isinstance(noise, Blur):
        kernel = torch.kron(noise._kernel(2), noise._kernel(2))
    mean, covariance = posterior_of_normal(evidence, kernel, noise.sd, y.flatten(1))
    result = denoise(vae, y, noise, draws=20_000, decoded_at_once=100_000)
    log_p = torch.distributions.MultivariateNormal(
        evidence.mean.double() @ kernel.T,
        kernel @ evidence.covariance_matrix.double() @ kernel.T + noise.sd**2 * torch.eye(4),
    ).log_prob(y.flatten(1).double())
    torch.testing.assert_close(result.mean.flatten(1).double(), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(
        result.sd.flatten(1).double(), covariance.diagonal().sqrt().expand(5, 4), atol=0.02, rtol=0
    )
    torch.testing.assert_close(result.log_likelihood_nats, log_p, atol=0.05, rtol=0)


def test_by_an_encoder_that_gives_the_posterior_of_noisy_images_it_is_exact_without_a_fit():
    """That of a linear-Gaussian model whose pixels have the variance of the noise as well."""
    noise = GaussianNoise(0.4)
    (vae, evidence), (of_noisy, _) = linear_gaussian(c=0.1), linear_gaussian(c=0.1 + noise.sd**2)
    wrong = denoise(vae, torch.zeros(1, 1, 2, 2), noise, method="encoder", draws=1000)
    vae.encoder = of_noisy.encoder
    torch.manual_seed(0)
    y = noise.corrupt(evidence.sample((5,)).reshape(5, 1, 2, 2))
    mean, covariance = posterior_of_normal(evidence, torch.eye(4, dtype=torch.float64), noise.sd, y.flatten(1))
    result = denoise(vae, y, noise, method="encoder", draws=20_000, decoded_at_once=100_000)
    torch.testing.assert_close(result.mean.flatten(1).double(), mean, atol=0.02, rtol=0)
    sd = covariance.diagonal().sqrt().expand(5, 4)
    torch.testing.assert_close(result.sd.flatten(1).double(), sd, atol=0.02, rtol=0)
    assert (result.effective_samples > 19_990).all()  # all weights are equal
    assert wrong.effective_samples.item() < 900


@pytest.mark.slow
def test_the_best_encoder_of_noisy_images_is_narrower_than_the_posterior_and_is_weighted():
    """Of a linear-Gaussian model q(z|y) has the mean of p(z|y), and the covariance of p(z|x): the geometric mean."""
    noise = GaussianNoise(0.3)
    (vae, evidence), (of_noisy, _) = linear_gaussian(c=0.1), linear_gaussian(c=0.1 + noise.sd**2)
    torch.manual_seed(0)
    of_clean_variance = vae.encode(torch.zeros(1, 1, 2, 2)).variance.detach()
    parts = (vae.encoder, vae.decoder, vae.prior, vae.likelihood, vae.posterior)
    model = Denoising(*parts, noise=str(noise)).train()
    with torch.no_grad():
        model.encoder[1].weight.mul_(0.8)
        model.encoder[1].bias.add_(0.1)
    adam = torch.optim.Adam(model.encoder.parameters())
    for step in range(800):
        adam.param_groups[0]["lr"] = 0.02 * (1 - step / 800)
        adam.zero_grad()
        x = evidence.sample((500,)).reshape(-1, 1, 2, 2)
        pyro.infer.Trace_ELBO().differentiable_loss(model.model, model.guide, x).div(len(x)).backward()
        adam.step()
    y = noise.corrupt(evidence.sample((5,)).reshape(5, 1, 2, 2))
    with torch.no_grad():
        q, posterior = model.eval().encode(y), of_noisy.encode(y)
    torch.testing.assert_close(q.mean, posterior.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(q.variance, of_clean_variance.expand(5, 2), atol=0, rtol=0.05)
    assert (q.variance < 0.65 * posterior.variance).all()
    mean, covariance = posterior_of_normal(evidence, torch.eye(4, dtype=torch.float64), noise.sd, y.flatten(1))
    result = denoise(model, y, noise, method="encoder", draws=20_000, decoded_at_once=100_000)
    torch.testing.assert_close(result.mean.flatten(1).double(), mean, atol=0.01, rtol=0)
    sd = covariance.diagonal().sqrt().expand(5, 4)
    torch.testing.assert_close(result.sd.flatten(1).double(), sd, atol=0.01, rtol=0)


class OneCode(nn.Module):
    """Logits of four pixels that are linear in a code of one dimension."""

    def __init__(self):
        super().__init__()
        self.register_buffer("slope", torch.tensor([3.0, -3.0, 2.0, 0.5]))

    def forward(self, z):
        return (z * self.slope).reshape(-1, 1, 2, 2)


def of_one_code(likelihood):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    return VAE(encoder, OneCode(), priors.StandardNormal(1), likelihood, posteriors.DiagonalNormal(1))


def listed_posterior(vae, y, log_noise, values):
    """E[x|y], Var[x|y] and log p(y) by listing all pixel values, on a grid of codes; `log_noise(y_i, x_i)`."""
    z = torch.linspace(-8, 8, 801, dtype=torch.float64)[:, None]
    vae = vae.double()
    pixels = vae.decode(z).base_dist
    log_x = torch.stack([pixels.log_prob(torch.full((1, 2, 2), v, dtype=torch.float64)) for v in values])
    log_x = log_x - log_x.logsumexp(0)
    log_y = torch.stack([log_noise(y.double(), v) for v in values])  # (values, N, 1, 2, 2)
    joint = log_x[:, None] + log_y[:, :, None]  # (values, N, codes, 1, 2, 2)
    of_pixel = joint.logsumexp(0)
    log_weight = of_pixel.sum((-3, -2, -1)) + dist.Normal(0.0, 1.0).log_prob(z[:, 0]) + math.log(z[1, 0] - z[0, 0])
    weight = log_weight.softmax(1)[..., None, None, None]
    share = (joint - of_pixel).exp()
    levels = torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1, 1, 1)
    mean = (weight * (share * levels).sum(0)).sum(1)
    return mean, (weight * (share * levels**2).sum(0)).sum(1) - mean**2, log_weight.logsumexp(1)


def log_gaussian(sd):
    return lambda y, x: dist.Normal(float(x), sd).log_prob(y)


def log_salt_and_pepper(share):
    def log_noise(y, x):
        same = ((y - x).abs() < 1e-6).double()
        return ((1 - share) * same + share / 2 * ((y == 0) | (y == 1)).double()).log()

    return log_noise


LEVELS = [level / 255 for level in range(256)]


@pytest.mark.parametrize(
    ("likelihood", "values", "noise", "log_noise"),
    [
        (likelihoods.Bernoulli(), [0, 1], GaussianNoise(0.6), log_gaussian(0.6)),
        (likelihoods.Bernoulli(), [0, 1], SaltAndPepper(0.3), log_salt_and_pepper(0.3)),
        (likelihoods.DiscretizedLogistic(), LEVELS, GaussianNoise(0.2), log_gaussian(0.2)),
        (likelihoods.DiscretizedLogistic(), LEVELS, SaltAndPepper(0.3), log_salt_and_pepper(0.3)),
        (likelihoods.DiscretizedGaussian(), LEVELS, SaltAndPepper(0.3), log_salt_and_pepper(0.3)),
        (likelihoods.ContinuousBernoulli(), LEVELS, GaussianNoise(0.2), log_gaussian(0.2)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_of_independent_pixels_it_is_the_sum_over_all_their_values(likelihood, values, noise, log_noise):
    vae = of_one_code(likelihood)
    torch.manual_seed(1)
    with torch.no_grad():
        x = vae.decode(torch.randn(3, 1)).sample() if values == [0, 1] else torch.randint(0, 256, (3, 1, 2, 2)) / 255
    y = noise.corrupt(x)
    result = denoise(vae, y, noise, draws=2000, ascent=Ascent(steps=100), decoded_at_once=6000)
    mean, variance, log_p = listed_posterior(vae, y, log_noise, values)
    torch.testing.assert_close(result.mean.double(), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(result.sd.double(), variance.clamp(min=0).sqrt(), atol=0.02, rtol=0)
    torch.testing.assert_close(result.log_likelihood_nats, log_p, atol=0.1, rtol=0)


def test_salt_and_pepper_on_normal_pixels_uses_the_mass_around_each_level():
    """The discretized Gaussian with the same scale has the same pixels."""
    normal, discretized = likelihoods.Gaussian(0.01), likelihoods.DiscretizedGaussian(0.1)
    y = SaltAndPepper(0.3).corrupt(
        torch.randint(0, 256, (6, 1, 2, 2), generator=torch.Generator().manual_seed(0)) / 255
    )
    results = [
        denoise(of_one_code(each), y, "salt-and-pepper:0.3", draws=50, ascent=Ascent(steps=20))
        for each in (normal, discretized)
    ]
    torch.testing.assert_close(results[0].mean, results[1].mean, atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def digits():
    """A model of binary digits, barely trained, and ten test images."""
    from pyro_vae import fit
    from pyro_vae.data import binarize

    vae, splits = build(Spec(latent_dim=4, hidden=(32,), binarization="threshold")), load_data("digits")
    fit(vae, splits.train, epochs=10, lr=3e-3, progress=False)
    return vae, binarize(splits.test, "threshold").as_float()[:10]


@pytest.mark.parametrize("name", ["gaussian:0.8", "salt-and-pepper:0.4", "blur:1.5"])
def test_denoised_digits_are_nearer_to_the_true_ones(digits, name):
    vae, x = digits
    torch.manual_seed(0)
    y = noise_of(name).corrupt(x)
    result = denoise(vae, y, name, draws=50, ascent=Ascent(steps=100))
    assert (peak_signal_to_noise(result.mean, x) > peak_signal_to_noise(y, x) + 0.5).all()
    assert ((result.effective_samples >= 1) & (result.effective_samples <= 50)).all()


@pytest.mark.slow
def test_an_encoder_trained_on_noisy_images_is_nearer_to_their_posterior():
    from pyro_vae import fit
    from pyro_vae.data import binarize

    train, test = load_data("digits")
    x = binarize(test, "threshold").as_float()[:60]
    torch.manual_seed(0)
    y = GaussianNoise(0.6).corrupt(x)
    effective = {}
    for kind in ("vae", {"kind": "denoising", "noise": "gaussian:0.6"}):
        model = build(Spec(latent_dim=8, hidden=(200,), binarization="threshold", model=kind))
        fit(model, train, epochs=20, lr=2e-3, progress=False)
        result = denoise(model, y, "gaussian:0.6", method="encoder", draws=50)
        effective[model.kind] = result.effective_samples.mean()
        assert peak_signal_to_noise(result.mean, x).mean() > peak_signal_to_noise(y, x).mean() + 5
    assert effective["denoising"] > 1.5 * effective["vae"]


def test_noise_is_drawn_in_training_alone():
    model, x = build(Spec(model="denoising", latent_dim=2, hidden=(8,))), torch.zeros(3, 1, 8, 8)

    def location_in_guide():
        return pyro.poutine.trace(model.guide).get_trace(x).nodes["z"]["fn"].mean

    model.train()
    assert not torch.equal(location_in_guide(), location_in_guide())
    model.eval()
    assert torch.equal(location_in_guide(), model.encode(x).mean)
    with pytest.raises(InputError, match="noise: given 'gausian', .*did you mean 'gaussian'"):
        build(Spec(model={"kind": "denoising", "noise": "gausian:1"}))


def test_the_same_seed_gives_the_same_images_and_leaves_the_generator(digits):
    vae, x = digits
    state = torch.get_rng_state()
    first, second = (denoise(vae, x, "salt-and-pepper:0.2", draws=10, ascent=Ascent(steps=5), seed=3) for _ in range(2))
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(torch.get_rng_state(), state)
    other = denoise(vae, x, "salt-and-pepper:0.2", draws=10, ascent=Ascent(steps=5), seed=4)
    assert not torch.equal(first.mean, other.mean)
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_draws_that_are_decoded_in_parts_are_the_same_draws(digits):
    vae, x = digits
    whole, parts = (
        denoise(vae, x, "gaussian:0.5", draws=10, ascent=Ascent(steps=5), decoded_at_once=n) for n in (1000, 40)
    )
    torch.testing.assert_close(whole.mean, parts.mean, atol=1e-5, rtol=0)


def test_a_flow_without_an_inverse_scores_its_draws_part_by_part():
    vae, x = build(Spec(latent_dim=2, hidden=(8,), posterior="planar")), torch.zeros(3, 1, 8, 8)
    result = denoise(vae, x, "gaussian:0.5", draws=10, ascent=Ascent(steps=3), decoded_at_once=6)
    assert result.mean.isfinite().all()
    assert (result.effective_samples > 1).all()


SIMILARITIES = [0.83467862, 0.80667119, 0.81019834]


def test_structural_similarity_is_that_of_scikit_image():
    """skimage 0.26, structural_similarity(a, b, data_range=1), of the images of this seed."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, 1, 12, 9, generator=generator)
    b = (a + 0.2 * torch.randn(3, 1, 12, 9, generator=generator)).clamp(0, 1)
    values = structural_similarity(b, a)
    torch.testing.assert_close(values, torch.tensor(SIMILARITIES, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ("gaussian", "noise: given 'gaussian', expected gaussian:SD"),
        ("gaussian:0", "sd of Gaussian noise: given 0.0, expected a finite number above 0"),
        ("gaussian:x", "noise: given 'gaussian:x', expected gaussian:SD"),
        ("gausian:1", "noise: given 'gausian', .*did you mean 'gaussian'"),
        ("salt-and-pepper:1", "share of salt and pepper: given 1.0, expected a number above 0 and below 1"),
        ("blur:nan", "width of the blur: given nan"),
        ("blur:1:2:3", "noise: given 'blur:1:2:3'"),
        (0.3, "noise: given 0.3, expected gaussian:SD"),
    ],
)
def test_noise_that_is_none_is_an_error(noise, message):
    with pytest.raises(InputError, match=message):
        noise_of(noise)


@pytest.mark.parametrize(
    ("spec", "noisy", "options", "message"),
    [
        ({}, torch.zeros(2, 1, 9, 8), {}, "noisy: given Tensor .* and shape .2, 1, 9, 8., expected images that"),
        ({}, torch.zeros(2, 8, 8), {}, "noisy: given Tensor of float32 and shape .2, 8, 8., expected floats of shape"),
        ({}, torch.full((2, 1, 8, 8), math.nan), {}, "noisy: given 'NaN or infinity'"),
        ({}, torch.zeros(2, 1, 8, 8, dtype=torch.uint8), {}, "noisy: given Tensor of uint8"),
        ({}, torch.full((2, 1, 8, 8), 0.5), {"noise": "salt-and-pepper:0.2"}, "expected pixels that are 0 or 1"),
        ({"likelihood": "discretized-logistic"}, torch.full((2, 1, 8, 8), 0.0131), {"noise": "salt-and-pepper:0.2"},
         "expected pixels of 256 levels"),
        ({"likelihood": "continuous-bernoulli"}, torch.zeros(2, 1, 8, 8), {"noise": "salt-and-pepper:0.2"},
         "noise: given 'salt-and-pepper for ContinuousBernoulliOfLogits pixels'"),
        ({}, torch.zeros(2, 1, 8, 8), {"draws": 0}, "draws: given 0"),
        ({}, torch.zeros(2, 1, 8, 8), {"method": "median"}, "method: given 'median', expected one of importance, enc"),
        ({"model": "autoencoder"}, torch.zeros(2, 1, 8, 8), {}, "model: given 'Autoencoder', expected a model with a"),
        ({"model": "hierarchical"}, torch.zeros(2, 1, 8, 8), {}, "model: given 'Hierarchical', expected a model"),
        ({"model": "conditional", "dataset": "mnist"}, torch.zeros(2, 1, 28, 28), {}, "given 'Conditional', expected"),
    ],
)  # fmt: skip
def test_what_can_not_be_denoised_is_an_error(spec, noisy, options, message):
    model = build(Spec(**{"latent_dim": 2} | spec))
    with pytest.raises(InputError, match=message):
        denoise(model, noisy, **{"noise": "gaussian:0.3"} | options)
