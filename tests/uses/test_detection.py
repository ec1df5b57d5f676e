"""Areas, thresholds and rates of outlier scores, against scikit-learn, closed forms and simulation."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from pyro_vae._utils.checks import InputError
from pyro_vae.uses.detection import _areas, detection, flagged_share, roc, threshold


def normal(n, seed, shift=0.0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


@pytest.mark.parametrize("digits", [0, 6], ids=["ties", "hardly any ties"])
def test_areas_are_those_of_scikit_learn(digits):
    inliers, outliers = normal(60, 0).numpy().round(digits), normal(90, 1, 0.7).numpy().round(digits)
    values, truth = np.concatenate([inliers, outliers]), np.repeat([0, 1], [60, 90])
    group = np.unique(-values, return_inverse=True)[1]
    counts = [np.bincount(group[truth == each], minlength=group.max() + 1) for each in (0, 1)]
    fpr, tpr, _ = roc_curve(truth, values, drop_intermediate=False)
    expected = roc_auc_score(truth, values), average_precision_score(truth, values), fpr[tpr >= 0.95].min()
    assert _areas(*counts) == pytest.approx(expected, abs=1e-12)
    result = detection(torch.tensor(inliers), torch.tensor(outliers), resamples=20)
    assert (result.auroc, result.auprc, result.fpr_at_95) == pytest.approx(expected, abs=1e-12)
    ours = roc(torch.tensor(inliers), torch.tensor(outliers))
    assert np.allclose(ours[0], fpr)
    assert np.allclose(ours[1], tpr)


@pytest.mark.parametrize("n", [3, 7, 49, 1000])
def test_areas_of_sets_that_are_told_apart_are_1_without_rounding(n):
    result = detection(normal(n, 0), normal(n + 4, 1, 100.0), resamples=50)
    assert (result.auroc, result.auprc, result.auroc_interval, result.auprc_interval) == (1, 1, (1, 1), (1, 1))
    assert detection(normal(n, 0, 100.0), normal(n + 4, 1), resamples=2).auroc == 0


def test_sets_of_one_distribution_are_not_told_apart():
    result = detection(normal(400, 0), normal(400, 1), resamples=400)
    low, high = result.auroc_interval
    assert low < 0.5 < high
    # Under equality of the distributions the AUROC has the variance (n + m + 1) / (12 n m).
    assert (high - low) / 3.92 == pytest.approx((801 / (12 * 400 * 400)) ** 0.5, rel=0.15)
    assert abs(result.fpr_at_95 - 0.95) < 0.05


def test_a_normal_shift_has_its_known_area():
    result = detection(normal(4000, 0), normal(4000, 1, 1.0), resamples=50)
    known = 0.5 * (1 + torch.erf(torch.tensor(0.5)).item())  # Phi(1 / sqrt 2)
    assert result.auroc_interval[0] - 0.01 < known < result.auroc_interval[1] + 0.01
    assert result.auroc == pytest.approx(known, abs=0.015)


def test_the_same_seed_gives_the_same_intervals():
    sets = normal(30, 0), normal(30, 1, 1.0)
    assert detection(*sets, resamples=30, seed=1) == detection(*sets, resamples=30, seed=1)
    assert detection(*sets, resamples=30, seed=1) != detection(*sets, resamples=30, seed=2)


@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (99, 0.05), (50, 0.1)])
def test_a_threshold_has_its_rate_on_average(n, rate):
    """Of uniform scores the rate above a threshold t is 1 - t: its mean over sets is 1 - rank / (n + 1)."""
    generator = torch.Generator().manual_seed(0)
    above = [1 - threshold(torch.rand(n, generator=generator), rate).value for _ in range(2000)]
    mean, se = np.mean(above), np.std(above) / 2000**0.5
    assert mean < rate + 3 * se
    assert mean > rate - 1 / (n + 1) - 3 * se


def test_flags_are_above_the_threshold():
    limit = threshold(torch.arange(19.0), 0.05)
    assert limit.value == 18.0
    assert limit.flags(torch.tensor([18.0, 18.5])).tolist() == [False, True]
    shares = flagged_share(torch.tensor([True] * 5 + [False] * 95))
    assert shares.share == 0.05
    assert shares.interval == pytest.approx((0.01643, 0.11284), abs=1e-5)  # Clopper and Pearson


BAD = {
    "inlier_scores: given 'NaN or infinity'": lambda: detection(torch.tensor([0.0, float("nan")]), torch.zeros(2)),
    "outlier_scores: given .*expected a number for each image": lambda: detection(torch.zeros(2), torch.zeros(0)),
    "resamples: given 0": lambda: detection(torch.zeros(2), torch.ones(2), resamples=0),
    "inlier_scores: given .*shape": lambda: roc(torch.zeros(2, 2), torch.zeros(2)),
    "false_positive_rate: given 0.05, expected .* at least 19 held-out": lambda: threshold(torch.zeros(18), 0.05),
    "false_positive_rate: given 0,": lambda: threshold(torch.zeros(18), 0),
    "false_positive_rate: given 1.0, expected a share below 1": lambda: threshold(torch.zeros(18), 1.0),
    "image_scores: given": lambda: threshold(torch.zeros(30)).flags(torch.zeros(2, 2)),
    "flags: given": lambda: flagged_share(torch.zeros(3)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused(message):
    with pytest.raises(InputError, match=message):
        BAD[message]()
