"""Importance weights whose mean, error and tail are known."""

import math

import pytest
import torch

from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import (
    effective_sample_size,
    log_mean_weight,
    log_mean_weight_by_k,
    log_mean_weight_mcse,
    pareto_smooth,
)


def narrow(s, k, n, d=1, seed=0):
    """log w of p = N(0, I_d) by q = N(0, s^2 I_d): their mean is 1, so log p(x) = 0; k = 1 - s^2 for s < 1."""
    z = s * torch.randn(k, n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ((z / s).square() / 2 - z.square() / 2).sum(-1) + d * math.log(s)


def test_the_monte_carlo_error_is_that_of_repetition():
    log_weights = narrow(1.1, 400, 2000)
    claimed = log_mean_weight_mcse(log_weights)
    assert log_mean_weight(log_weights).std().item() == pytest.approx(claimed.mean().item(), rel=0.06)
    covered = log_mean_weight(log_weights).abs() <= 2 * claimed
    assert covered.double().mean().item() == pytest.approx(0.954, abs=0.02)


@pytest.mark.parametrize("shift", [-1e6, 0.0, 1e5])
def test_error_and_effective_samples_of_shifted_weights(shift):
    log_weights = torch.tensor([[0.0], [math.log(3.0)], [math.log(2.0)]], dtype=torch.float64) + shift
    assert log_mean_weight_mcse(log_weights).item() == pytest.approx(1 / 2 / 3**0.5, rel=1e-6)  # sd 1, mean 2
    assert effective_sample_size(log_weights).item() == pytest.approx(36 / 14, rel=1e-6)


def test_effective_samples_and_error_say_the_same():
    log_weights = narrow(0.8, 300, 20)
    effective, k = effective_sample_size(log_weights), 300
    torch.testing.assert_close(log_mean_weight_mcse(log_weights), ((k / effective - 1) / (k - 1)).sqrt())


def test_the_mean_rises_with_k_from_the_same_draws_and_its_gap_is_var_w_over_2k():
    log_weights = narrow(1.3, 6400, 400, d=2)
    curve = log_mean_weight_by_k(log_weights)
    assert list(curve) == [6400, 3200, 1600, 800, 400, 200, 100]
    values = torch.stack(list(curve.values()))
    assert bool((values[:-1] >= values[1:]).all())
    assert torch.equal(values[0], log_mean_weight(log_weights))
    variance = (log_weights.exp().var(0)).mean().item()
    assert -values[-1].mean().item() * 2 * 100 == pytest.approx(variance, rel=0.1)
    assert list(log_mean_weight_by_k(log_weights[:3])) == [3, 1]  # all three draws at K = 1, too
    torch.testing.assert_close(log_mean_weight_by_k(log_weights[:2])[1], log_weights[:2].mean(0))


def exponential(seed=0, k=4000, n=20):
    generator = torch.Generator().manual_seed(seed)
    return -torch.rand(k, n, generator=generator, dtype=torch.float64).log()


@pytest.mark.parametrize("shift", [-1e6, 1e5])
@pytest.mark.parametrize("scale", [0.9, 0.2, 1e-3])
def test_pareto_k_does_not_change_with_a_constant(shift, scale):
    log_weights = scale * exponential()
    smoothed, shifted = pareto_smooth(log_weights), pareto_smooth(log_weights + shift)
    assert not bool(shifted.exact.any())
    torch.testing.assert_close(shifted.pareto_k, smoothed.pareto_k, rtol=0, atol=1e-5)
    assert shifted.shares() == smoothed.shares()
    torch.testing.assert_close(shifted.log_likelihood - shift, smoothed.log_likelihood, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shift", [-1e6, 0.0, 1e5])
@pytest.mark.parametrize("share", [0.01, 0.0235, 0.1, 0.5])
def test_bounded_weights_whose_largest_are_tied_have_no_tail(shift, share):
    log_weights = torch.zeros(4000, 3, dtype=torch.float64)
    log_weights[: int(4000 * share)] = 1.0  # fewer, and more, than the 190 of the tail
    smoothed = pareto_smooth(log_weights + shift)
    assert smoothed.pareto_k.tolist() == [-math.inf] * 3
    assert bool(smoothed.tied.all())
    assert not bool(smoothed.exact.any())
    expected = math.log(1 + share * (math.e - 1))
    torch.testing.assert_close(
        smoothed.log_likelihood, torch.full((3,), expected + shift, dtype=torch.float64), rtol=1e-9, atol=1e-3
    )
    equal = pareto_smooth(torch.full((4000, 2), shift))
    assert bool(equal.exact.all())
    assert not bool(equal.tied.any())


@pytest.mark.parametrize("outliers", [1, 3])
def test_a_few_weights_above_a_tied_bulk_are_not_believed(outliers):
    log_weights = torch.zeros(1000, 1, dtype=torch.float64)
    log_weights[:outliers] = 10.0
    smoothed = pareto_smooth(log_weights)
    assert smoothed.pareto_k.tolist() == [math.inf]
    assert not bool(smoothed.trusted.any())


def test_what_counts_as_equal_is_the_precision_of_the_weights():
    """float32 numbers near a million are 0.06 apart; sums of rounded terms say themselves how far to trust them."""
    rounded = (1e-3 * exponential(n=2) + 1e6).float()
    assert bool(pareto_smooth(rounded).exact.all())
    assert not bool(pareto_smooth(rounded.double() + exponential(n=2)).exact.any())
    log_weights = 1e-3 * torch.rand(4000, 2, dtype=torch.float64)
    assert pareto_smooth(log_weights, torch.tensor([1e-2, 1e-6])).exact.tolist() == [True, False]
    assert pareto_smooth(log_weights, 1e-2).exact.tolist() == [True, True]


@pytest.mark.parametrize("k", [0.2, 0.5, 0.7, 1.0])
def test_pareto_k_of_known_tails(k):
    """log w = k Exp(1) has the tail k exactly; a flipped sign gives about -1.6 instead."""
    weights = k * torch.distributions.Exponential(torch.ones(4000, 40, dtype=torch.float64)).sample()
    pareto_k = pareto_smooth(weights).pareto_k
    assert pareto_k.mean().item() == pytest.approx(k, abs=4 * 0.1 / 40**0.5 + 0.02)


def test_pareto_k_of_a_narrow_proposal():
    """p = N(0, 1) by q = N(0, s^2) with s < 1 has k = 1 - s^2."""
    s = 0.6
    z = s * torch.randn(20_000, 20, dtype=torch.float64)
    log_weights = -z.square() / 2 + z.square() / (2 * s**2) + math.log(s)
    assert pareto_smooth(log_weights).pareto_k.mean().item() == pytest.approx(1 - s**2, abs=0.1)


def test_the_threshold_and_the_bands():
    assert pareto_smooth(torch.randn(1000, 2)).threshold == pytest.approx(2 / 3)
    assert pareto_smooth(torch.randn(5000, 2)).threshold == 0.7
    tails = torch.tensor([0.1, 0.6, 0.85, 2.5], dtype=torch.float64).repeat_interleave(50)
    weights = tails * torch.distributions.Exponential(torch.ones(20_000, 200, dtype=torch.float64)).sample()
    shares = pareto_smooth(weights).shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert [round(shares[name], 1) for name in ("good", "ok", "bad", "very bad")] == pytest.approx([0.25] * 4, abs=0.11)


def test_effective_samples():
    uneven = torch.cat([torch.full((50, 1), 0.0), torch.full((50, 1), -1000.0)]) + torch.randn(100, 1) * 1e-3
    assert pareto_smooth(uneven).effective_samples.item() == pytest.approx(50, rel=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_mean_weight(torch.tensor([[math.nan]])), "log_weights: given 'NaN or infinity'"),
        (lambda: pareto_smooth(torch.full((30, 2), -math.inf)), "log_weights: given 'NaN or infinity'"),
        (lambda: pareto_smooth(torch.randn(24, 2)), "24 samples', expected at least 25"),
        (lambda: pareto_smooth(torch.randn(30, 2), -1.0), "resolution_nats: given -1.0"),
        (lambda: pareto_smooth(torch.randn(30, 2), torch.zeros(3)), "resolution_nats: given .*one number or 2"),
        (lambda: log_mean_weight(torch.randn(3)), r"shape \(K, N\)"),
        (lambda: log_mean_weight_mcse(torch.randn(1, 3)), "log_weights: given '1 sample', expected at least 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
