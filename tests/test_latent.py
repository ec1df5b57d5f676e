import pytest
import torch
from linear_gaussian import linear_gaussian
from scipy.stats import norm

from pyro_vae import Spec, build, latent
from pyro_vae._utils.checks import InputError


def test_codes_are_the_posterior_means(tiny):
    model = build(Spec(latent_dim=3))
    codes = latent.codes(model, tiny, batch_size=5, device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(codes, model.encode(tiny.as_float()).mean)


def test_posterior_means_tend_to_the_mean_and_differ_by_seed(tiny):
    model = build(Spec(latent_dim=3))
    means = latent.posterior_means(model, tiny, draws=2000, device="cpu")
    torch.testing.assert_close(means, latent.codes(model, tiny, device="cpu"), atol=0.15, rtol=0)
    assert not torch.equal(means, latent.posterior_means(model, tiny, draws=2000, device="cpu", seed=1))


def test_samples_are_reproducible_and_leave_the_generator_alone():
    model = build(Spec(latent_dim=3))
    state = torch.get_rng_state()
    first = latent.prior_samples(model, 7, batch_size=3, device="cpu", seed=1)
    assert first.shape == (7, 1, 8, 8)
    assert torch.equal(first, latent.prior_samples(model, 7, batch_size=3, device="cpu", seed=1))
    assert not torch.equal(first, latent.prior_samples(model, 7, batch_size=3, device="cpu", seed=2))
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_are_decoded_draws_from_the_prior():
    """Of the linear model, whose decoded draws have the mean b and the covariance W W^T."""
    vae, evidence = linear_gaussian()
    covariance = evidence.covariance_matrix - 0.1 * torch.eye(4)
    torch.manual_seed(0)
    for x in (vae.sample(20_000), latent.prior_samples(vae, 20_000, device="cpu")):
        torch.testing.assert_close(x.flatten(1).mean(0), evidence.mean, atol=0.04, rtol=0)
        torch.testing.assert_close(x.flatten(1).T.cov(), covariance, atol=0.05, rtol=0)


def test_interpolation_ends_at_the_reconstructions(tiny):
    model = build(Spec(latent_dim=3))
    x = tiny.as_float()
    line = latent.interpolate(model, x[0], x[1], steps=5)
    with torch.no_grad():
        torch.testing.assert_close(line[[0, -1]], model.reconstruct(x[:2]))


@pytest.mark.parametrize(
    ("spacing", "axis"), [("even", [-2.0, 0.0, 2.0]), ("quantiles", norm.ppf([1 / 6, 0.5, 5 / 6]))]
)
def test_manifold_has_z1_to_the_right_and_z2_upwards(spacing, axis):
    vae, _ = linear_gaussian()
    grid = latent.manifold(vae, 3, spacing=spacing, limit=2.0)
    assert grid.shape == (3, 3, 1, 2, 2)
    for row, second in enumerate(reversed(axis)):
        for column, first in enumerate(axis):
            expected = latent.decode_codes(vae, torch.tensor([[first, second]], dtype=torch.float32))
            torch.testing.assert_close(grid[row, column], expected[0])


def test_plane():
    z = torch.randn(50, 5)
    assert torch.equal(latent.to_plane(z[:, :2]).codes, z[:, :2])
    assert latent.to_plane(z[:, :1]).codes.shape == (50, 2)
    plane = latent.to_plane(z)
    centred = z - z.mean(0)
    expected = (torch.linalg.svd(centred, full_matrices=False).S[:2]).square()
    torch.testing.assert_close(plane.codes.square().sum(0), expected, rtol=1e-4, atol=1e-4)
    assert "first principal component" in plane.axes[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: latent.prior_samples(model, 0), "n: given 0"),
        (lambda model: latent.manifold(model, 0), "size: given 0"),
        (lambda model: latent.manifold(model, spacing="evne"), "did you mean 'even'"),
        (lambda model: latent.interpolate(model, torch.rand(1, 8, 8), torch.rand(1, 8, 8), steps=0), "steps: given 0"),
        (lambda _: latent.prior_samples(build(Spec(model="autoencoder")), 3), "model: given 'Autoencoder'"),
        (lambda _: latent.manifold(build(Spec(latent_dim=3))), "model: given .*a model with a 2-d latent space"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(build(Spec(latent_dim=2)))


def test_samples_depend_neither_on_the_batch_size_nor_on_their_number():
    model = build(Spec(latent_dim=3))
    expected = latent.prior_samples(model, 230, batch_size=500, device="cpu")
    torch.testing.assert_close(latent.prior_samples(model, 230, batch_size=7, device="cpu"), expected)
    torch.testing.assert_close(latent.prior_samples(model, 130, device="cpu"), expected[:130])
    assert len(expected.flatten(1).unique(dim=0)) == 230  # no block repeats another
