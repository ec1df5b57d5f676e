"""MIWAE: hidden pixels change nothing, the bound is one of the seen pixels, and holes belong to their image."""

import dataclasses

import pytest
import torch
from linear_gaussian import linear_gaussian

from pyro_vae import Images, Spec, build, evaluate, fit, load_data
from pyro_vae._utils.checks import InputError
from pyro_vae.data import binarize
from pyro_vae.models.miwae import MIWAE
from pyro_vae.objectives import objective

QUIET = {"device": "cpu", "progress": False}
SPEC = Spec(model="miwae", latent_dim=2, hidden=(16,), binarization="threshold", epochs=2, batch_size=32)


@pytest.fixture(scope="module")
def images():
    return load_data("digits").train.draw(64)


@pytest.mark.parametrize("options", [{"objective": "elbo"}, {"objective": "iwae", "particles": 3}])
def test_hidden_pixels_have_no_effect_on_training(images, options):
    seen = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.6
    other = torch.where(seen, images.pixels, 255 - images.pixels)
    models = []
    for pixels in (images.pixels, other):
        models.append(build(dataclasses.replace(SPEC, **options)))
        fit(models[-1], Images(pixels, covariates={"seen": seen}), **QUIET)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_bound_tends_to_the_log_density_of_the_seen_pixels():
    """Of a linear-Gaussian model, with the prior as its guide, whose weights are bounded."""
    vae, evidence = linear_gaussian()
    for parameter in vae.encoder.parameters():
        parameter.detach().zero_()
    model = MIWAE(vae.encoder, vae.decoder, vae.prior, vae.likelihood, vae.posterior)
    torch.manual_seed(0)
    x = evidence.sample((50,))
    seen = torch.tensor([True, False, False, True]).reshape(1, 1, 2, 2).expand(50, -1, -1, -1)
    of_seen = torch.distributions.MultivariateNormal(
        evidence.mean[[0, 3]], evidence.covariance_matrix[[0, 3]][:, [0, 3]]
    )
    exact = of_seen.log_prob(x[:, [0, 3]]).mean().item()
    bounds = [
        -objective("iwae", k).loss(model.model, model.guide, x.reshape(50, 1, 2, 2), 1.0, seen) / 50
        for k in (2, 20_000)
    ]
    assert bounds[0] < exact - 0.1
    assert bounds[1] == pytest.approx(exact, abs=0.05)


def test_seen_and_hidden_terms_add_up_to_all(images):
    model, x = build(SPEC), images.as_float()[:4].round()
    z, seen = torch.randn(3, 4, 2), torch.rand(4, 1, 8, 8) < 0.5
    parts = model.decode(z, seen).log_prob(x) + model.decode(z, ~seen).log_prob(x)
    torch.testing.assert_close(parts, model.decode(z).log_prob(x))
    assert torch.equal(model.decode(z, seen).mean, model.decode(z).mean)


def test_holes_belong_to_their_image():
    pixels = torch.randint(0, 256, (200, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = build(dataclasses.replace(SPEC, model={"kind": "miwae", "missing": 0.3}, image_shape=(3, 6, 6)))
    seen = model.training_images(Images(pixels)).covariates["seen"]
    assert seen.shape == (200, 1, 6, 6)
    assert seen.float().mean().item() == pytest.approx(0.7, abs=0.02)
    order = torch.randperm(200)[:50]
    assert torch.equal(model.training_images(Images(pixels[order])).covariates["seen"], seen[order])
    given = torch.ones(200, 1, 6, 6)
    assert model.training_images(Images(pixels, covariates={"seen": given})).covariates["seen"] is given


def test_holes_do_not_depend_on_the_binarized_pixels():
    """Both are drawn from the hash of the image."""
    pixels = torch.full((2000, 1, 4, 4), 128, dtype=torch.uint8)
    pixels[:, 0, 0] = torch.randint(0, 256, (2000, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = build(dataclasses.replace(SPEC, image_shape=(1, 4, 4)))
    holed = binarize(model.training_images(Images(pixels)), "static")
    white = (holed.pixels == 255)[:, :, 1:].flatten().double()
    assert abs(torch.corrcoef(torch.stack([white, holed.covariates["seen"][:, :, 1:].flatten().double()]))[0, 1]) < 0.03


def test_validation_images_have_holes_and_test_images_none(images):
    model = build(SPEC)
    history = fit(model, images, validation=images, lr=1e-9, objective="elbo", **QUIET)
    epoch = history.epochs[-1]
    assert epoch.validation_loss_nats == pytest.approx(epoch.train_loss_nats, rel=0.05)
    whole = evaluate(model, images, metrics=["bounds"], device="cpu")
    assert -whole.elbo_nats == pytest.approx(2 * epoch.train_loss_nats, rel=0.1)  # untrained: half of the pixels
    with_holes = evaluate(model, model.training_images(images), metrics=["bounds"], device="cpu")
    assert -with_holes.elbo_nats == pytest.approx(epoch.train_loss_nats, rel=0.05)


def test_hidden_pixels_have_no_effect_on_metrics(images):
    """Though the images, whose share of seen pixels differs, are here to have an error of the hidden ones."""
    model, shares = build(SPEC), torch.linspace(0.1, 0.9, 64).reshape(64, 1, 1, 1)
    seen = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < shares
    other = torch.where(seen, images.pixels, 255 - images.pixels)
    measured = [
        evaluate(model, Images(pixels, covariates={"seen": seen}), metrics=["bounds", "evidence"], k=30, device="cpu")
        for pixels in (images.pixels, other)
    ]
    for name in ("mse_per_pixel", "mse_per_pixel_sampled", "elbo_nats", "nll_nats"):
        assert getattr(measured[0], name) == pytest.approx(getattr(measured[1], name), rel=1e-6), name
    x = binarize(images, "threshold").as_float()
    with torch.no_grad():
        error = (model.decode(model.encode(x, seen).mean).mean - x).square()
    by_image = [each[mask].mean().item() for each, mask in zip(error, seen, strict=True)]
    assert measured[0].mse_per_pixel == pytest.approx(sum(by_image) / 64, rel=1e-5)


def test_log_p_of_the_seen_pixels_has_no_bits_per_dimension(images):
    model, options = build(SPEC), {"metrics": ["evidence"], "k": 30, "device": "cpu"}
    with_holes = evaluate(model, model.training_images(images), **options)
    assert with_holes.bits_per_dimension is None
    assert "bits" not in with_holes.per_image
    assert "seen pixels alone" in with_holes.provenance["nll_nats"]["bits_per_dimension_absent"]
    assert evaluate(model, images, **options).bits_per_dimension > 0


def test_an_image_without_a_seen_pixel_has_no_error_per_pixel(images):
    seen = torch.ones(64, 1, 8, 8, dtype=torch.bool)
    seen[5] = False
    with pytest.raises(InputError, match="images: given 'no seen pixel in image 5', expected at least one seen pixel"):
        evaluate(build(SPEC), Images(images.pixels, covariates={"seen": seen}), metrics=["bounds"], device="cpu")


@pytest.mark.parametrize("missing", [0, 1, -0.1, "half"])
def test_a_share_out_of_range_is_an_error(missing):
    with pytest.raises(InputError, match="missing: given"):
        build(dataclasses.replace(SPEC, model={"kind": "miwae", "missing": missing}))


def test_a_mask_of_another_size_is_an_error(images):
    with pytest.raises(InputError, match="images: given"):
        fit(build(SPEC), Images(images.pixels, covariates={"seen": torch.ones(64, 1, 7, 8)}), **QUIET)
