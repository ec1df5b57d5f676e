"""The classifier two-sample test against cases whose answer is known."""

import math

import pytest
import torch

from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import two_sample_test
from pyro_vae.evaluation.latent_codes.two_sample import kl_lower_bound


def samples(d, n, shift=0.0, scale=1.0, seed=0):
    codes, draws = torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed))
    return shift + scale * codes, draws


@pytest.mark.parametrize("d", [1, 2, 20])
def test_samples_of_the_same_distribution_are_not_told_apart(d):
    tests = [two_sample_test(*samples(d, 1000, seed=seed), seed=seed) for seed in range(12)]
    assert sum(test.accuracy for test in tests) / 12 == pytest.approx(0.5, abs=4 / (2 * 12_000**0.5))
    assert 0.2 < sum(test.p_value for test in tests) / 12 < 0.8  # of uniform ones: 0.5 ± 0.083
    assert sum(test.kl_lower_nats for test in tests) / 12 < 0.01
    assert tests[0].n == 1000


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("d", [1, 8])
def test_of_two_normals_both_numbers_are_those_of_the_exact_ratio(d, shift):
    """Of N(m, I) and N(0, I): the best accuracy is Phi(|m| / 2), the KL |m|^2 / 2."""
    test = two_sample_test(*samples(d, 8000, shift / math.sqrt(d)))
    best = 0.5 * (1 + math.erf(shift / 2 / math.sqrt(2)))
    assert best - 0.02 < test.accuracy < best + 3 * test.accuracy_se
    assert 0.7 * shift**2 / 2 < test.kl_lower_nats < shift**2 / 2 + 3 * test.kl_lower_se
    assert test.p_value < 1e-6


@pytest.mark.parametrize(("shift", "n"), [(1.0, 20), (4.0, 100)])
def test_the_bound_on_the_kl_is_none_above_it_on_average_of_few_points(shift, n):
    """By the exact log-odds of N(m, 1) and N(0, 1). The logarithm of a sample mean would be too small on average."""
    torch.manual_seed(0)
    z = torch.randn(3, 3000, n, dtype=torch.float64) + torch.tensor([shift, 0.0, 0.0]).reshape(3, 1, 1)
    log_odds = shift * z - shift**2 / 2
    bounds = torch.tensor([kl_lower_bound(*row)[0] for row in zip(*log_odds, strict=True)])
    errors = torch.tensor([kl_lower_bound(*row)[1] for row in zip(*log_odds, strict=True)])
    assert bounds.mean() < shift**2 / 2 + 3 * bounds.std() / 3000**0.5
    assert bounds.max() < 1 + math.log(n)
    assert errors.square().mean() < 1.2 * bounds.var()  # which the shift, another in each, adds to


def test_the_bound_on_the_kl_is_near_it_for_many_points():
    torch.manual_seed(0)
    codes, draws, others = torch.randn(3, 200_000, dtype=torch.float64) - 0.5  # log-odds are z - 1/2
    bound, se = kl_lower_bound(codes + 1, draws, others)
    assert bound == pytest.approx(0.5, abs=4 * se)
    assert se < 0.01


def test_a_difference_of_spread_or_of_shape_alone_is_noticed():
    narrow, draws = samples(2, 4000, scale=0.7)
    ring = draws / draws.norm(dim=-1, keepdim=True) * 2**0.5  # of the same mean and covariance
    for codes in (narrow, ring):
        assert two_sample_test(codes, draws.flip(0)).accuracy > 0.6


def test_codes_on_top_of_each_other_are_told_apart():
    test = two_sample_test(torch.ones(200, 2), samples(2, 200)[1])
    assert test.accuracy > 0.95
    assert math.isfinite(test.kl_lower_nats)


def test_it_is_deterministic_and_moves_no_generator():
    codes, draws = samples(2, 300, 0.3)
    before = torch.get_rng_state()
    assert two_sample_test(codes, draws) == two_sample_test(codes, draws)
    assert two_sample_test(codes, draws) != two_sample_test(codes, draws, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert two_sample_test(codes, torch.cat([draws, draws])).n == 300


@pytest.mark.parametrize(
    ("codes", "draws", "message"),
    [
        (torch.zeros(30, 2), torch.zeros(30, 3), "draws: given '3 dimensions', expected 2, as codes have"),
        (torch.zeros(19, 2), torch.zeros(30, 2), r"codes: given 'shape \(19, 2\)', expected .* at least 20"),
        (torch.zeros(30, 2), torch.full((30, 2), math.nan), "draws: given 'NaN or infinity', expected finite numbers"),
    ],
)
def test_bad_input_is_named(codes, draws, message):
    with pytest.raises(InputError, match=f"^{message}"):
        two_sample_test(codes, draws)
