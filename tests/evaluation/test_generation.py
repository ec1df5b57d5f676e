"""Frechet distance and inception score against closed forms."""

import math

import pytest
import torch

from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import (
    Features,
    Moments,
    confidence,
    confidence_se,
    frechet_at_infinity,
    frechet_distance,
    frechet_from_features,
    frechet_from_stats,
    frechet_se,
    inception_score,
    jackknife_se,
    kernel_distance_from_features,
)
from pyro_vae.evaluation.samples import frechet
from pyro_vae.evaluation.samples.scores import score_samples


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


def test_merging_in_any_order_is_the_same():
    x = normal(60, 3, 0) + 5
    first, second, third = (Moments.of([part]) for part in (x[:7], x[7:30], x[30:]))
    for merged in (first.merge(second).merge(third), third.merge(first.merge(second))):
        assert merged.count == 60
        torch.testing.assert_close(merged.mean, x.mean(0), rtol=1e-12, atol=0)
        torch.testing.assert_close(merged.covariance, x.T.cov(), rtol=1e-10, atol=1e-12)


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
        (lambda: Moments.of([torch.zeros(2, 3), torch.zeros(2, 4)]), "features: given '4 features'"),
        (lambda: Moments.of([torch.zeros(2, 3)]).merge(Moments.of([torch.zeros(2, 1)])), "other: given '1 features'"),
        (
            lambda: frechet_from_stats(torch.zeros(2), torch.tensor([1.0, -1.0]).diag(), torch.zeros(2), torch.eye(2)),
            "an eigenvalue of -1",
        ),
        (
            lambda: frechet_from_stats(torch.zeros(2), torch.tensor([[1, 0.9], [0, 1]]), torch.zeros(2), torch.eye(2)),
            "covariance_x: given 'NaN, infinity or no symmetry'",
        ),
        (
            lambda: frechet_from_stats(torch.zeros(2), torch.eye(2) * math.nan, torch.zeros(2), torch.eye(2)),
            "covariance_x: given",
        ),
        (
            lambda: frechet_from_stats(torch.tensor([math.nan, 0]), torch.eye(2), torch.zeros(2), torch.eye(2)),
            "mean_x: given",
        ),
        (lambda: inception_score(torch.randn(5, 3), splits=6), "splits: given 6"),
        (lambda: inception_score(torch.randn(5, 3), splits=0), "splits: given 0"),
        (lambda: inception_score(torch.randn(5), splits=1), "logits: given"),
    ],
)
def test_bad_features_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_kernel_distance_is_the_difference_of_moments():
    """For d = 1 the kernel's expectation is a polynomial in moments: of N(0, 1) and N(m, 1) it is known."""
    m = 1.0
    moments_x, moments_y = (1, 0, 1, 0), (1, m, 1 + m**2, 3 * m + m**3)  # E x^k, k = 0 to 3
    binomial = (1, 3, 3, 1)

    def expectation(a, b):
        return sum(c * p * q for c, p, q in zip(binomial, a, b, strict=True))

    expected = (
        expectation(moments_x, moments_x) + expectation(moments_y, moments_y) - 2 * expectation(moments_x, moments_y)
    )
    distance = kernel_distance_from_features(
        normal(20_000, 1, 0), normal(20_000, 1, 1) + m, subsets=100, subset_size=1000
    )
    assert distance.mean == pytest.approx(expected, rel=0.05)
    assert distance.std > 0


def test_kernel_distance_is_unbiased_at_small_samples():
    values = [
        kernel_distance_from_features(normal(20, 3, 2 * i), normal(20, 3, 2 * i + 1), subsets=1, subset_size=20).mean
        for i in range(300)
    ]
    mean, error = sum(values) / 300, torch.tensor(values).std().item() / 300**0.5
    assert abs(mean) < 4 * error
    assert min(values) < 0  # not clipped


def test_kernel_distance_by_hand():
    x, y = normal(4, 2, 0), normal(4, 2, 1)

    def kernel(a, b):
        return (a @ b / 2 + 1).item() ** 3

    pairs = [(i, j) for i in range(4) for j in range(4)]
    within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs if i != j) / 12
    expected = within - 2 * sum(kernel(x[i], y[j]) for i, j in pairs) / 16
    assert kernel_distance_from_features(x, y, subsets=3, subset_size=4).mean == pytest.approx(expected)
    few = kernel_distance_from_features(x, y, subsets=3, subset_size=1000)
    assert few.subset_size == 2


def test_frechet_at_infinity_of_one_distribution_is_within_its_error_of_zero():
    """From N(0, I_128) and 10,000 images a side; half of the bias stays where only the generated side grows."""
    real, generated = normal(10_000, 128, 0), normal(10_000, 128, 1)
    both, half = frechet_at_infinity(real, generated), frechet_at_infinity(Moments.of([real]), generated)
    assert both.distances[-1] == pytest.approx(0.85, abs=0.05)
    assert abs(both.value) < 2 * both.value_se < 0.1
    assert both.informative
    assert (both.real_sizes, half.real_sizes) == (both.sizes, None)
    assert half.value == pytest.approx(0.42, abs=0.06)


def test_frechet_at_infinity_says_when_it_says_nothing():
    assert not frechet_at_infinity(normal(300, 128, 0), normal(300, 128, 1)).informative  # too few images
    far = frechet_at_infinity(normal(1000, 3, 0), normal(1000, 3, 1) * 2 + 9)
    assert far.r_squared < 0.5  # the bias is nothing beside the distance and its noise
    assert not far.informative


def test_scores_hold_no_frechet_at_infinity_that_says_nothing():
    def scores(n, d):
        return score_samples(Features(normal(n, d, 0), None), Features(normal(n, d, 1), None), 10, 0)

    few, many = scores(300, 128), scores(2000, 16)
    assert "frechet_infinity" not in few
    assert abs(many["frechet_infinity"]) < 2 * many["frechet_infinity_se"] < many["frechet"]
    assert 0 < few["frechet_se"] < few["frechet"]


def test_frechet_at_infinity_has_the_error_that_it_states():
    """Against the spread of its values over 60 pairs of samples."""
    for shift in (0.0, 0.5):
        lines = [frechet_at_infinity(normal(600, 8, i), normal(600, 8, 100 + i) + shift, seed=i) for i in range(60)]
        values = torch.tensor([line.value for line in lines], dtype=torch.float64)
        stated = torch.tensor([line.value_se for line in lines]).mean().item()
        assert values.std().item() / 1.5 < stated < 1.5 * values.std().item()
        assert abs(values.mean().item() - 8 * shift**2) < 4 * values.std().item() / 60**0.5


def test_frechet_at_infinity_takes_the_bias_of_samples_against_exact_moments_away():
    d, n = 10, 4000
    real = Moments(2, torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))  # N(0, I), exactly
    lines = [frechet_at_infinity(real, normal(n, d, seed), smallest=1000, seed=seed) for seed in range(20)]
    bias = d / n + d * (d + 1) / (4 * n)
    assert sum(line.distances[-1] for line in lines) / 20 == pytest.approx(bias, rel=0.15)
    values = torch.tensor([line.value for line in lines])
    assert abs(values.mean().item()) < min(bias / 4, 4 * values.std().item() / 20**0.5)
    assert len(lines[0].sizes) == 15
    assert (lines[0].sizes[0], lines[0].sizes[-1]) == (1000, n)


def test_frechet_at_infinity_is_the_intercept_of_its_points():
    extrapolated = frechet_at_infinity(normal(300, 3, 0), normal(400, 3, 1), points=4)
    x = torch.tensor([[1, 1 / size] for size in extrapolated.sizes], dtype=torch.float64)
    line = torch.linalg.lstsq(x, torch.tensor(extrapolated.distances, dtype=torch.float64)[:, None]).solution.flatten()
    assert (extrapolated.value, extrapolated.slope) == pytest.approx(tuple(line.tolist()), rel=1e-6)
    assert (extrapolated.sizes, extrapolated.real_sizes) == ((200, 267, 333, 400), (150, 200, 250, 300))


@pytest.mark.parametrize(("shift", "exact_real"), [(0.0, False), (0.7, False), (0.7, True)])
def test_the_standard_error_of_a_frechet_distance_is_its_spread_over_samples(shift, exact_real):
    def real(seed):
        sample = normal(300, 5, seed)
        return Moments(300, torch.zeros(5).double(), 299 * torch.eye(5).double()) if exact_real else sample

    pairs = [(real(i), normal(400, 5, 100 + i) + shift) for i in range(60)]
    values = torch.tensor([frechet._distance(*pair) for pair in pairs])
    stated = torch.tensor([frechet_se(*pair) for pair in pairs]).mean().item()
    assert values.std().item() / 1.5 < stated < 1.5 * values.std().item()


def test_the_standard_error_of_a_kernel_distance_does_not_see_the_order_of_the_images():
    x = torch.cat([normal(5500, 6, 0), normal(500, 6, 1) + 2])  # sorted by class, as a folder is
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    y, options = normal(1000, 6, 2), {"subsets": 20, "subset_size": 500}
    sorted_se, se = (kernel_distance_from_features(part, y, **options).se for part in (x, shuffled))
    assert 0.7 < sorted_se / se < 1.4


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize("n", [200, 1500])
def test_the_standard_error_of_a_kernel_distance_is_its_spread_over_samples(shift, n):
    """Not the deviation over subsets, which is several times that of their mean."""
    options = {"subsets": 20, "subset_size": 300}
    scores = [
        kernel_distance_from_features(normal(n, 6, i), normal(n, 6, 100 + i) + shift, **options) for i in range(40)
    ]
    spread = torch.tensor([score.mean for score in scores]).std().item()
    stated = torch.tensor([score.se for score in scores]).square().mean().sqrt().item()
    assert spread / 1.5 < stated < 1.5 * spread


def test_the_standard_errors_of_scores_of_logits_are_their_spread_over_samples():
    def logits(seed, scale):
        return normal(500, 10, seed) * scale

    for statistic, error in (
        (lambda a, b: inception_score(a).mean, lambda a, b: inception_score(a).se),
        (confidence, confidence_se),
    ):
        pairs = [(logits(i, 2.0), logits(100 + i, 3.0)) for i in range(60)]
        spread = torch.tensor([statistic(*pair) for pair in pairs]).std().item()
        stated = torch.tensor([error(*pair) for pair in pairs]).mean().item()
        assert spread / 1.3 < stated < 1.3 * spread


def test_jackknife_of_a_mean_and_of_two_samples():
    x, y = normal(200, 1, 0)[:, 0], normal(100, 1, 1)[:, 0] * 3
    one_by_one = jackknife_se(lambda x: x.mean().item(), x, groups=200)
    assert one_by_one == pytest.approx(x.std().item() / 200**0.5)
    expected = (x.var() / 200 + y.var() / 100).sqrt().item()
    errors = [jackknife_se(lambda x, y: (x.mean() - y.mean()).item(), x, y, seed=seed) for seed in range(20)]
    assert sum(errors) / 20 == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_distance_from_features(torch.randn(5, 3), torch.randn(5, 2)), "y: given '2 features'"),
        (
            lambda: kernel_distance_from_features(torch.randn(5, 3), torch.randn(5, 3), subset_size=1),
            "subset_size: given 1",
        ),
        (lambda: kernel_distance_from_features(torch.randn(5, 3), torch.randn(5, 3), subsets=0), "subsets: given 0"),
        (lambda: frechet_at_infinity(Moments.of([torch.randn(9, 2)]), torch.randn(9, 2), points=2), "points: given 2"),
        (
            lambda: frechet_at_infinity(Moments.of([torch.randn(9, 2)]), torch.randn(9, 2), smallest=9),
            "smallest: given 9",
        ),
        (lambda: frechet_at_infinity(torch.randn(9), torch.randn(9, 2)), "real: given 'shape"),
        (lambda: frechet_at_infinity(torch.randn(9, 3), torch.randn(9, 2)), "y: given '2 features'"),
        (lambda: frechet_se(torch.randn(2, 2), torch.randn(9, 2)), "real: given 'shape"),
        (lambda: jackknife_se(len, torch.randn(9), groups=10), "groups: given 10, .* from 2 to 9"),
        (lambda: jackknife_se(len), "samples: given"),
    ],
)
def test_bad_arguments_of_the_others_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def shared_extractor(d=32):
    """Random features of random images: what both we and the peers are given."""
    return normal(300, d, 5), normal(280, d, 6) * 1.2 + 0.1


def test_agreement_with_torch_fidelity():
    pytest.importorskip("torch_fidelity", reason="the extra fid is not installed")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = shared_extractor()
    statistics = [fid_features_to_statistics(part) for part in (x, y)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_from_features(x, y) == pytest.approx(expected, rel=1e-6)
    ours = inception_score(x, splits=1)
    theirs = isc_features_to_metric(x, splits=1)
    assert ours.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    options = {"kid_subset_size": 280, "kid_degree": 3, "kid_gamma": None, "kid_coef0": 1, "kid_kernel": "poly"}
    kid = kid_features_to_metric(x[:280], y, kid_subsets=1, verbose=False, **options)  # one subset: all of them
    ours = kernel_distance_from_features(x[:280], y, subsets=1, subset_size=280).mean
    assert ours == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-9)


def test_agreement_with_torchmetrics():
    torchmetrics = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics is not installed")

    class Pixels(torch.nn.Module):
        num_features = 32

        def forward(self, x):
            return x.flatten(1)

    x, y = shared_extractor()
    peer = torchmetrics.FrechetInceptionDistance(feature=Pixels(), normalize=False).set_dtype(torch.float64)
    peer.inception.num_features = 32
    for part, real in ((x, True), (y, False)):
        peer.update(part, real=real)
    assert frechet_from_features(x, y) == pytest.approx(peer.compute().item(), rel=1e-6)


def test_kernel_distance_in_blocks_is_that_of_the_whole_matrices():
    """Of more rows than are multiplied at once, and with a rest."""
    x, y = normal(230, 7, 0), normal(230, 7, 1) * 1.3
    k_xx, k_yy, k_xy = ((a @ b.T / 7 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (k_xx.sum() - k_xx.trace() + k_yy.sum() - k_yy.trace()) / (230 * 229)
    expected = (within - 2 * k_xy.mean()).item()
    assert kernel_distance_from_features(x, y, subsets=1, subset_size=230).mean == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("d", [16, 512])
def test_rounding_of_float32_features_is_nothing_beside_the_spread_of_subsets(d):
    x, y = normal(1000, d, 0).relu().float(), (normal(1000, d, 1) * 1.1).relu().float()
    single, double = (
        kernel_distance_from_features(*pair, subsets=10, subset_size=400) for pair in ((x, y), (x.double(), y.double()))
    )
    assert abs(single.mean - double.mean) < 1e-3 * double.std / 10**0.5
