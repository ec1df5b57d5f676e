"""Frechet distance and inception score against closed forms."""

import math

import pytest
import torch

from pyro_vae.checks import InputError
from pyro_vae.evaluation import (
    Moments,
    frechet_distance,
    frechet_from_features,
    frechet_from_stats,
    inception_score,
)


def random_covariance(d, seed=0):
    x = torch.randn(2 * d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.T @ x / (2 * d)


def normal(n, d, seed):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_equal_covariances_leave_the_means():
    s = random_covariance(6)
    shift = torch.arange(6, dtype=torch.float64)
    assert frechet_from_stats(torch.zeros(6), s, shift, s) == pytest.approx(55, rel=1e-9)


def test_diagonal_covariances():
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 4.0, 1.0])
    distance = frechet_from_stats(torch.zeros(3), a.diag(), torch.zeros(3), b.diag())
    assert distance == pytest.approx((a.sqrt() - b.sqrt()).square().sum().item(), rel=1e-9)


def test_against_the_matrix_square_root():
    from scipy.linalg import sqrtm

    s, t = random_covariance(8, 1), random_covariance(8, 2)
    expected = (s.trace() + t.trace()).item() - 2 * sqrtm((s @ t).numpy()).real.trace()
    assert frechet_from_stats(torch.zeros(8), s, torch.zeros(8), t) == pytest.approx(expected, rel=1e-9)


def test_symmetric_and_unmoved_by_rotation():
    x, y = normal(200, 5, 0) * 2, normal(150, 5, 1) + 1
    rotation = torch.linalg.qr(normal(5, 5, 2)).Q
    distance = frechet_from_features(x, y)
    assert frechet_from_features(y, x) == pytest.approx(distance, rel=1e-9)
    assert frechet_from_features(x @ rotation, y @ rotation) == pytest.approx(distance, rel=1e-9)
    assert frechet_from_features(x[torch.randperm(200)], y) == pytest.approx(distance, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(100, 5), (20, 60)])
def test_a_sample_has_no_distance_to_itself(n, d):
    x = normal(n, d, 0)
    assert frechet_from_features(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(Moments.of([x]), Moments.of([x])) == pytest.approx(0, abs=1e-9)


def test_fewer_images_than_features_takes_the_short_way_to_the_same():
    x, y = normal(20, 60, 0), normal(30, 60, 1) * 1.5 + 0.2
    # The long way takes square roots of eigenvalues that are 0 but for rounding, so it is good to 1e-8 only.
    expected = frechet_distance(Moments.of([x]), Moments.of([y]))
    assert frechet_from_features(x, y) == pytest.approx(expected, rel=1e-7)


def test_finite_samples_are_biased_as_the_formula_says():
    d, n = 10, 400
    distances = [frechet_from_features(normal(n, d, 2 * i), normal(n, d, 2 * i + 1)) for i in range(20)]
    assert sum(distances) / 20 == pytest.approx(2 * d / n + d * (d + 1) / (2 * n), rel=0.1)


def test_moments_of_parts_are_those_of_the_whole_even_far_from_zero():
    x = normal(101, 4, 0) + 1e6
    whole = Moments.of([x])
    for parts in (x.split(7), x[:1].split(1) + x[1:].split(50)):
        merged = Moments.of(parts)
        assert merged.count == 101
        torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(merged.covariance, x.T.cov(), rtol=1e-6, atol=1e-8)


def test_score_of_sure_and_balanced_answers_is_the_number_of_classes():
    score = inception_score(torch.eye(7).repeat(30, 1) * 1000, splits=1)
    assert (score.mean, score.std, score.overall) == (pytest.approx(7), 0, pytest.approx(7))


def test_score_of_one_answer_for_all_is_one():
    score = inception_score(torch.randn(1, 7).expand(50, -1))
    assert (score.mean, score.std, score.overall) == (pytest.approx(1), pytest.approx(0, abs=1e-9), pytest.approx(1))


def test_sorted_images_are_shuffled_before_they_are_split():
    logits = (torch.eye(10) * 1000).repeat_interleave(100, 0)
    assert inception_score(logits, splits=10).mean > 9  # one class a split would give 1


def test_score_by_hand():
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    marginal = p.mean(0)
    expected = math.exp((p * (p / marginal).log()).sum(1).mean().item())
    assert inception_score(p.log(), splits=1).mean == pytest.approx(expected, rel=1e-12)


def test_splits_cover_all_images():
    logits = torch.randn(23, 4)
    score = inception_score(logits, splits=5)
    assert (score.n, score.splits) == (23, 5)
    assert 1 <= score.mean <= 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frechet_from_features(torch.randn(1, 3), torch.randn(5, 3)), r"x: given 'shape \(1, 3\)'.*at least 2"),
        (lambda: frechet_from_features(torch.randn(5, 3), torch.randn(5, 4)), "y: given '4 features'"),
        (lambda: frechet_from_features(torch.full((5, 3), math.nan), torch.randn(5, 3)), "x: given 'NaN or infinity'"),
        (lambda: frechet_from_features(torch.randn(5), torch.randn(5, 4)), "x: given"),
        (lambda: frechet_from_stats(torch.zeros(3), torch.eye(2), torch.zeros(3), torch.eye(3)), "covariance_x: given"),
        (lambda: frechet_from_stats(torch.zeros(3), torch.eye(3), torch.zeros(3), torch.eye(2)), "covariance_y: given"),
        (
            lambda: frechet_distance(Moments.of([torch.zeros(1, 2)]), Moments.of([torch.zeros(3, 2)])),
            "at least 2 images",
        ),
        (lambda: Moments.of([]), "features: given 'no batches'"),
        (lambda: inception_score(torch.randn(5, 3), splits=6), "splits: given 6"),
        (lambda: inception_score(torch.randn(5, 3), splits=0), "splits: given 0"),
        (lambda: inception_score(torch.randn(5), splits=1), "logits: given"),
    ],
)
def test_bad_features_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
