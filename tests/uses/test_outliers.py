"""Outlier scores where they are known in closed form, and cases that fool some of them."""

import math

import pytest
import torch
from linear_gaussian import linear_gaussian

from pyro_vae import Images, Spec, build, latent
from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import bounds, evidence
from pyro_vae.uses import outliers
from pyro_vae.uses.detection import detection
from pyro_vae.uses.outlier_table import SCORES, outlier_table, usual_scores

GREY = {"binarization": "none", "device": "cpu"}
BLACK = {"binarization": "threshold", "device": "cpu"}


@pytest.fixture(scope="module")
def exact():
    """A linear model whose guide is the exact posterior, images, and their log p(x)."""
    model, marginal = linear_gaussian()
    pixels = torch.randint(0, 256, (12, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = Images(pixels)
    return model, images, marginal.log_prob(images.as_float().flatten(1)).double()


def test_likelihoods_are_exact_where_the_posterior_is(exact):
    model, images, log_evidence = exact
    nll = outliers.negative_log_likelihood(model, images, k=2, **GREY)
    assert torch.allclose(nll, -log_evidence, atol=1e-4)
    noisy = outliers.negative_elbo(model, images, samples=500, **GREY)
    assert torch.allclose(noisy, -log_evidence, atol=0.3)  # 0.06 of Monte Carlo error each
    assert (noisy + log_evidence).mean().abs() < 0.08


def test_regret_is_nothing_at_the_exact_posterior(exact):
    model, images, _ = exact
    regret = outliers.likelihood_regret(model, images, samples=2000, **GREY)  # with few, noise chooses the best q
    assert regret.abs().max() < 1e-3


def test_regret_is_the_divergence_of_a_guide_that_is_off(exact):
    """Each image's best q is the exact posterior: the regret is KL(q || p(z|x)), here of a shifted mean."""
    _, images, _ = exact
    model, _ = linear_gaussian()
    shift = torch.tensor([0.3, -0.2])
    with torch.no_grad():
        model.encoder[1].bias[:2] += shift
        variance = model.encoder[1].bias[2:].exp()
    regret = outliers.likelihood_regret(model, images, lr=0.05, tolerance_nats=0.001, samples=400, **GREY)
    expected = (shift.square() / (2 * variance)).sum().item()
    assert torch.allclose(regret, torch.full_like(regret, expected), atol=0.25 * expected)
    assert regret.mean().item() == pytest.approx(expected, rel=0.1)


def test_typicality_flags_what_the_likelihood_prefers():
    """In 64 dimensions the mode of a normal distribution is no typical draw of it."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(3, 200, 64, generator=generator, dtype=torch.float64)
    held_out, inliers, near_mode = (0.5 * each.square().sum(1) for each in (draws[0], draws[1], draws[2] / 2))
    assert detection(inliers, near_mode, resamples=2).auroc < 0.01
    scores = [outliers.typicality(nll, held_out) for nll in (inliers, near_mode)]
    assert detection(*scores, resamples=2).auroc > 0.99


def test_complexity_flags_what_the_likelihood_prefers():
    """Pixels that are white with probability 0.3: a black image is the most probable, and no draw of it."""
    generator = torch.Generator().manual_seed(0)
    noise = (torch.rand(50, 1, 28, 28, generator=generator) < 0.3).to(torch.uint8) * 255
    inliers, black = Images(noise), Images(torch.zeros(50, 1, 28, 28, dtype=torch.uint8))

    def nll(images):
        white = (images.pixels > 0).flatten(1).double().sum(1)
        return -(white * math.log(0.3) + (784 - white) * math.log(0.7))

    assert detection(nll(inliers), nll(black), resamples=2).auroc == 0.0
    scores = [outliers.input_complexity(nll(images), images) for images in (inliers, black)]
    assert detection(*scores, resamples=2).auroc == 1.0


def test_the_ratio_cancels_what_both_models_know():
    """A background that knows the brightness but not the direction: only the direction is left in the ratio."""
    direction = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    brightness = torch.tensor([10.0, 0.0, 90.0, 50.0], dtype=torch.float64)
    ratio = outliers.likelihood_ratio(direction + brightness, brightness)
    assert torch.equal(ratio, direction)


def test_waic_is_the_variance_of_log_p_minus_its_mean():
    log_p = -torch.rand(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(outliers.waic(-log_p), log_p.var(0, correction=0) - log_p.mean(0))


def test_code_distance_is_mahalanobis_and_ignores_collapsed_dimensions():
    generator = torch.Generator().manual_seed(0)
    training, codes = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (500, 20))
    mixing = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 3.0]], dtype=torch.float64)
    training, codes = training @ mixing, codes @ mixing
    precision = torch.linalg.inv(training.T.cov())
    centred = codes - training.mean(0)
    expected = (centred @ precision * centred).sum(1).sqrt()
    assert torch.allclose(outliers.code_distance(codes, training), expected)
    with_noise = [
        torch.cat([each, 1e-6 * torch.randn(len(each), 1, generator=generator)], 1) for each in (codes, training)
    ]
    assert torch.allclose(outliers.code_distance(*with_noise), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["vae", "autoencoder", "hierarchical"])
def test_terms_of_pixels_add_up_to_the_reconstruction_term(kind, digits):
    model = build(Spec(model=kind, latent_dim=2, hidden=(16,)))
    some = digits.test.take(slice(0, 8))
    terms = outliers.pixel_terms(model, some, samples=60, **BLACK)
    assert terms.shape == some.pixels.shape
    whole = outliers.reconstruction_error(model, some, samples=60, **BLACK)
    assert torch.allclose(terms.flatten(1).sum(1), whole, rtol=1e-5 if kind == "autoencoder" else 0.05)


def test_perturbed_pixels_are_uniform_where_they_are_replaced():
    images = Images(torch.full((2, 1, 100, 100), 7, dtype=torch.uint8), torch.tensor([0, 1]))
    replaced = outliers.perturbed(images, 0.3, seed=1)
    assert (replaced.pixels != 7).double().mean().item() == pytest.approx(0.3, abs=0.02)
    assert replaced.pixels[replaced.pixels != 7].double().mean().item() == pytest.approx(128, abs=4)
    assert torch.equal(replaced.pixels, outliers.perturbed(images, 0.3, seed=1).pixels)
    assert torch.equal(outliers.perturbed(images, 0.0).pixels, images.pixels)


def test_a_table_has_each_score_of_each_set(digits):
    models = [build(Spec(latent_dim=2, hidden=(16,), binarization="dynamic", seed=seed)) for seed in range(3)]
    sets = {name: digits.test.take(slice(start, start + 12)) for name, start in (("seen", 0), ("unseen", 12))}
    names = [name for name in SCORES if name != "regret"]
    options = {"k": 20, "samples": 2, "device": "cpu"}
    more = {"background": models[1], "ensemble": models[2:]}
    table = outlier_table(models[0], sets, names, held_out="seen", train=digits.train, **more, **options)
    assert list(table.scores) == names == list(usual_scores(models[0], models[1], models[2:]))
    assert all(values[name].shape == (12,) for values in table.scores.values() for name in sets)
    nll = [-evidence(model, sets["unseen"], k=20, device="cpu").log_likelihood for model in models]
    assert torch.equal(table.scores["nll"]["unseen"], nll[0])
    assert torch.equal(table.scores["ratio"]["unseen"], nll[0] - nll[1])
    assert torch.equal(table.scores["waic"]["unseen"], outliers.waic(torch.stack([nll[0], nll[2]])))
    elbo = bounds(models[0], sets["unseen"], samples=2, device="cpu").per_image["elbo_nats"]
    assert torch.equal(table.scores["elbo"]["unseen"], -elbo)
    repeated = outlier_table(models[0], sets, ["codes"], held_out="seen", train=digits.train, **options)
    assert torch.equal(repeated.scores["codes"]["seen"], table.scores["codes"]["seen"])


def test_an_autoencoder_has_two_scores(digits):
    model = build(Spec(model="autoencoder", latent_dim=2, hidden=(16,), binarization="threshold"))
    some = {"test": digits.test.take(slice(0, 5))}
    names = usual_scores(model)
    table = outlier_table(model, some, names, held_out="test", train=digits.train, device="cpu")
    assert list(table.scores) == ["reconstruction", "codes"]
    with pytest.raises(InputError, match="model: given 'Autoencoder'"):
        outlier_table(model, some, ["nll"], held_out="test")
    with pytest.raises(InputError, match="model: given 'Autoencoder', expected a model with an ELBO"):
        outliers.negative_elbo(model, some["test"], **BLACK)


IMAGES = Images(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
SMALL = build(Spec(latent_dim=2, hidden=(4,), binarization="threshold"))
ONE = {"a": IMAGES}
BAD = {
    "background_nll_nats: given .*expected a value for each of 2": lambda: outliers.likelihood_ratio(
        torch.zeros(2), torch.zeros(3)
    ),
    "nll_nats: given 'NaN": lambda: outliers.typicality(torch.tensor([float("inf")]), torch.zeros(2)),
    "nll_nats: given '1 model'": lambda: outliers.waic(torch.zeros(1, 4)),
    "nll_nats: given .*each of 3 images": lambda: outliers.input_complexity(torch.zeros(2), IMAGES),
    "images: given .*expected Images": lambda: outliers.png_bits(torch.zeros(2)),
    "images: given '2 channels'": lambda: outliers.png_bits(Images(torch.zeros(1, 2, 8, 8, dtype=torch.uint8))),
    "rate: given 1.5": lambda: outliers.perturbed(IMAGES, 1.5),
    "training_codes: given .*2 dimensions": lambda: outliers.code_distance(torch.zeros(3, 2), torch.zeros(3, 1)),
    "samples: given 0": lambda: outliers.pixel_terms(SMALL, IMAGES, samples=0),
    "names: given 'elbos'.*did you mean 'elbo'": lambda: outlier_table(SMALL, ONE, ["elbos"], held_out="a"),
    "names: given 'elbo', expected a list": lambda: outlier_table(SMALL, ONE, "elbo", held_out="a"),
    "held_out: given 'b'": lambda: outlier_table(SMALL, ONE, ["elbo"], held_out="b"),
    "train: given None": lambda: outlier_table(SMALL, ONE, ["codes"], held_out="a"),
    "background: given None": lambda: outlier_table(SMALL, ONE, ["ratio"], held_out="a"),
    "ensemble: given None": lambda: outlier_table(SMALL, ONE, ["waic"], held_out="a"),
    "sets: given .*shape": lambda: outlier_table(
        SMALL, ONE | {"b": Images(torch.zeros(3, 1, 9, 9, dtype=torch.uint8))}, ["elbo"], held_out="a"
    ),
    "model: given 'Conditional": lambda: outlier_table(
        build(Spec(model="conditional", latent_dim=2)), ONE, ["elbo"], held_out="a"
    ),
    "model: given 'Mixture.*product over pixels": lambda: outliers.pixel_terms(
        build(Spec(model="mixture", latent_dim=2)), IMAGES, binarization="threshold"
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused(message):
    with pytest.raises(InputError, match=message):
        BAD[message]()


def test_codes_are_those_of_the_library(digits):
    table = outlier_table(SMALL, {"a": digits.test}, ["codes"], held_out="a", train=digits.test, device="cpu")
    black = [latent.codes(SMALL, Images((digits.test.pixels >= 128).to(torch.uint8) * 255))] * 2
    assert torch.allclose(table.scores["codes"]["a"], outliers.code_distance(*black), rtol=1e-5)
