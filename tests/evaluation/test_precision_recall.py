import pytest
import torch

from pyro_vae import evaluation
from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import precision_recall_from_features, precision_recall_se
from pyro_vae.evaluation.samples import precision_recall


def normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def by_definition(real, generated, k):
    between = torch.cdist(real.double(), generated.double())
    reach_real = torch.cdist(real.double(), real.double()).sort(1).values[:, k]
    reach_generated = torch.cdist(generated.double(), generated.double()).sort(1).values[:, k]
    inside = between < reach_real[:, None]
    return (
        (between <= reach_real[:, None]).any(0).double().mean().item(),
        (between <= reach_generated[None]).any(1).double().mean().item(),
        inside.double().sum(0).mean().item() / k,
        (between.min(1).values < reach_real).double().mean().item(),
    )


@pytest.mark.parametrize("chunk", [1000, 7])
def test_definition_in_any_chunks(chunk):
    real, generated = normal(60, 4, 0), normal(50, 4, 1) * 0.8
    scores = precision_recall_from_features(real, generated, k=3, chunk=chunk)
    expected = by_definition(real, generated, 3)
    assert (scores.precision, scores.recall, scores.density, scores.coverage) == pytest.approx(expected)
    assert (scores.k, scores.n, scores.m) == (3, 60, 50)


@pytest.mark.parametrize("chunk", [1000, 7])
def test_definition_with_ties_on_the_edge_of_each_ball(chunk):
    """On a grid, whose distances are exact, and shifted, where they are not: closed or open makes a difference."""
    real, generated = (normal(60, 2, seed).double().mul(2).round() for seed in (0, 1))
    scores = precision_recall_from_features(real, generated, k=3, chunk=chunk)
    expected = by_definition(real, generated, 3)
    assert (scores.precision, scores.recall, scores.density, scores.coverage) == pytest.approx(expected)
    shifted = precision_recall_from_features(real * 0.7 + 100.3, generated * 0.7 + 100.3, k=3, chunk=chunk)
    assert shifted == scores


def test_ten_real_images_copied_are_recalled_and_cover_as_the_papers_define_it():
    """A copy is at distance 0, which the closed ball of Kynkaanniemi et al. holds, and the open one does not."""
    real = normal(200, 64, 0) + 3
    scores = precision_recall_from_features(real, real[:10].repeat(20, 1))
    assert (scores.precision, scores.recall) == (1.0, 0.05)
    swapped = precision_recall_from_features(real[:10].repeat(20, 1), real)
    assert (swapped.precision, swapped.recall) == (0.05, 1.0)
    assert (swapped.density, swapped.coverage) == (0.0, 0.0)


@pytest.mark.parametrize(("shift", "scale", "d"), [(0.5, 1.0, 16), (0.0, 1.0, 64), (0.0, 1.3, 16)])
def test_standard_errors_are_the_spread_over_samples(shift, scale, d):
    """Of 40 pairs of samples; that of a share alone, sqrt(p (1 - p) / n), is too small by a third to a half."""
    pairs = [(normal(400, d, i), normal(400, d, 1000 + i) * scale + shift) for i in range(40)]
    results = [precision_recall_from_features(*pair) for pair in pairs]
    errors = [precision_recall_se(*pair) for pair in pairs[:20]]
    for name in ("precision", "recall", "density", "coverage"):
        values = torch.tensor([getattr(result, name) for result in results])
        stated = torch.tensor([error[name] for error in errors]).square().mean().sqrt().item()
        if 0.02 < values.mean().item() < 0.98 or name == "density":
            assert values.std().item() / 1.5 < stated < 1.5 * values.std().item(), name


def test_standard_errors_of_many_images_are_from_some_of_them():
    """They go as one over the root of n."""
    few, many = (precision_recall_se(normal(n, 8, 0), normal(n, 8, 1) + 0.5) for n in (1500, 6000))
    for name in ("precision", "recall", "coverage"):
        assert few[name] / 3.5 < many[name] < few[name] / 1.25, name


def test_equal_distributions_score_as_published():
    """Naeem et al.: two samples of N(0, I), here in the dimension where chance overlap is known to be high."""
    scores = precision_recall_from_features(normal(2000, 64, 0), normal(2000, 64, 1), k=5)
    assert scores.density == pytest.approx(1, abs=0.08)
    assert scores.coverage == pytest.approx(0.97, abs=0.03)
    assert scores.precision == pytest.approx(scores.recall, abs=0.03)


def test_mode_collapse_lowers_recall_and_coverage_not_precision():
    real = torch.cat([normal(200, 2, 0), normal(200, 2, 1) + 100])
    collapsed = normal(400, 2, 2)
    scores = precision_recall_from_features(real, collapsed)
    assert scores.precision > 0.9
    assert scores.recall < 0.6
    assert scores.coverage < 0.6
    swapped = precision_recall_from_features(collapsed, real)
    assert swapped.recall > 0.9
    assert swapped.precision < 0.6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: precision_recall_from_features(normal(5, 2, 0), normal(9, 2, 1)), "real: given .*at least 6"),
        (lambda: precision_recall_from_features(normal(9, 2, 0), normal(9, 3, 1)), "generated: given '3 features'"),
        (lambda: precision_recall_from_features(normal(9, 2, 0), normal(9, 2, 1), k=0), "k: given 0"),
        (lambda: precision_recall_se(normal(11, 2, 0), normal(50, 2, 1)), "real: given .*at least 12"),
        (lambda: precision_recall_se(normal(50, 2, 0), normal(50, 2, 1), halves=1), "halves: given 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("columns", [5, 6, 119, 120, 141, 1000])
def test_the_kth_smallest_of_a_row_is_that_of_a_sorted_row(columns):
    """Also with ties, and where the row has no whole number of groups."""
    values = normal(7, columns, 0)
    values[3:] = values[3:].round()
    for k in (1, 2, 5):
        assert torch.equal(precision_recall._smallest(values, k), values.sort(1).values[:, k - 1])


def test_old_names_still_work_and_say_the_new_ones():
    for old, new in evaluation._RENAMED.items():
        with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
            assert getattr(evaluation, old) is getattr(evaluation, new)
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = evaluation.nothing_such
