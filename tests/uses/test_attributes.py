"""Attributes of drawn strokes, directions of constructed codes, and traversals of a linear model."""

import pytest
import torch
from linear_gaussian import linear_gaussian
from scipy.stats import spearmanr
from torch import nn

from pyro_vae import Spec, build
from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation.samples.features import ModuleExtractor
from pyro_vae.latent.directions import (
    attribute_direction,
    covariance_direction,
    even_amounts,
    mean_difference,
    orthogonalised,
    probe_direction,
    regression_direction,
)
from pyro_vae.uses.attributes import (
    class_kept,
    class_probabilities,
    effects,
    measured_along,
    measured_attributes,
    rank_correlation,
    traverse,
)


def bar(width, height, slant=0.0, size=64):
    """A white bar of fractional edges, sheared by `slant` columns per row upwards."""
    centre = torch.arange(size) + 0.5 - size / 2
    column = centre[None, :] + slant * centre[:, None]  # rows count downwards
    return ((width / 2 - column.abs() + 0.5).clamp(0, 1) * (height / 2 - centre.abs()[:, None] + 0.5).clamp(0, 1))[
        None, None
    ]


@pytest.mark.parametrize(("width", "height", "slant"), [(6.0, 40.0, 0.0), (9.0, 30.0, 0.5), (4.0, 40.0, -0.3)])
def test_a_bar_has_its_measures(width, height, slant):
    values = {name: value.item() for name, value in measured_attributes(bar(width, height, slant)).items()}
    assert values["intensity"] == pytest.approx(width * height, rel=0.03)
    assert values["slant"] == pytest.approx(slant, abs=0.02)
    assert values["height"] == pytest.approx(4 * height / 12**0.5, rel=0.03)  # a uniform density
    assert values["width"] == pytest.approx(4 * width / 12**0.5, rel=0.06)


def test_measures_do_not_depend_on_position_and_thickness_is_area_over_edges():
    shifted = measured_attributes(bar(6.0, 30.0, 0.2).roll((5, -7), (2, 3)))
    for name, value in measured_attributes(bar(6.0, 30.0, 0.2)).items():
        assert torch.allclose(shifted[name], value)
    for width in (2.0, 5.0, 9.0):
        thickness = measured_attributes(bar(width, 40.0))["thickness"].item()
        assert thickness == pytest.approx(40 * width / (40 + width), rel=0.03)


def test_black_images_have_no_measures_but_their_intensity():
    values = measured_attributes(torch.zeros(2, 1, 8, 8))
    assert values.pop("intensity").tolist() == [0.0, 0.0]
    assert all(value.isnan().all() for value in values.values())


@pytest.fixture(scope="module")
def correlated():
    """Codes whose first two dimensions are correlated, and an attribute of the first alone."""
    codes = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes[:, 1] = 0.8 * codes[:, 0] + 0.6 * codes[:, 1]
    return codes


def test_regression_and_probe_leave_what_is_correlated(correlated):
    first = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert torch.allclose(regression_direction(correlated, 5 * correlated[:, 0] - 2), first)
    present = correlated[:, 0] > 0
    assert probe_direction(correlated, present)[0] > 0.99
    carried = mean_difference(correlated, present)
    assert carried[0] > 0
    assert carried[1] / carried[0] == pytest.approx(0.8, abs=0.05)  # the regression of the second on the first
    second = regression_direction(correlated, correlated[:, 1])
    assert torch.allclose(orthogonalised(carried, [second])[1], torch.zeros((), dtype=torch.float64), atol=1e-9)


def test_orthogonal_to_others_that_are_dependent():
    v = orthogonalised(torch.tensor([1.0, 1.0, 1.0]), [torch.tensor([1.0, 0, 0]), torch.tensor([2.0, 0, 0])])
    assert torch.allclose(v, torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64) / 2**0.5)


def test_a_linear_model_is_traversed_linearly():
    model, _ = linear_gaussian()
    codes, direction = torch.tensor([[0.5, -1.0], [0.0, 2.0]]), torch.tensor([0.6, 0.8])
    amounts = torch.tensor([-1.0, 0.0, 2.0])
    moved = traverse(model, codes, direction, amounts)
    expected = codes[:, None] + amounts[:, None] * direction
    assert torch.allclose(moved.codes, expected.double())
    log_prior = torch.distributions.Normal(0, 1).log_prob(expected.double()).sum(-1)
    assert torch.allclose(moved.log_prior, log_prior, atol=1e-5)
    step = (moved.images[:, 2] - moved.images[:, 1]).flatten(1)
    assert torch.allclose(step, (2 * model.decoder[0].weight @ direction).expand(2, -1).detach(), atol=1e-5)


def test_covariance_of_a_boolean_is_the_difference_of_means(correlated):
    present = correlated[:, 0] + correlated[:, 2] > 0.3
    assert torch.allclose(covariance_direction(correlated, present), mean_difference(correlated, present))
    values = correlated @ torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    gradient = regression_direction(correlated, values)
    of_gradient = torch.cov(correlated.T) @ gradient
    assert torch.allclose(covariance_direction(correlated, values), of_gradient / of_gradient.norm())


def test_a_collapsed_dimension_draws_the_gradient_and_not_the_covariance():
    noise = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes = torch.stack([noise[:, 0], 0.01 * (noise[:, 0] + noise[:, 1])], 1)
    values = noise[:, 0] + 0.3 * noise[:, 1]
    assert regression_direction(codes, values)[1] > 0.99
    assert covariance_direction(codes, values)[0] > 0.99


def test_orthogonalised_by_covariance_leaves_predictions_at_the_least_distance(correlated):
    covariance = torch.cov(correlated.T)
    v = torch.tensor([1.0, 0.5, -0.3], dtype=torch.float64)
    w = torch.tensor([[0.2, 1.0, 0.0], [0.4, 2.0, 0.0]], dtype=torch.float64)  # dependent
    result = orthogonalised(v, list(w), covariance)
    assert torch.allclose(w @ result, torch.zeros(2, dtype=torch.float64), atol=1e-9)
    change = v - result * (v @ torch.linalg.solve(covariance, result)) / (
        result @ torch.linalg.solve(covariance, result)
    )
    # The least change in standard deviations is a multiple of covariance @ w.
    assert torch.allclose(torch.cosine_similarity(change, covariance @ w[0], dim=0).abs(), torch.ones(()).double())


@pytest.mark.parametrize("method", ["covariance", "mean-difference", "probe", "regression"])
def test_each_method_finds_the_direction_of_a_linear_attribute(method):
    codes = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    true = torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64)
    for values in (3 * codes @ true + 7, codes @ true > 0.4):
        assert attribute_direction(codes, values, method) @ true > 0.99


def test_even_amounts_are_in_standard_deviations():
    codes = torch.randn(100, 2, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([5.0, 1.0])
    amounts = even_amounts(codes, torch.tensor([1.0, 0.0]), 1.5, 5)
    assert amounts[2] == 0
    assert torch.allclose(amounts, torch.linspace(-1.5, 1.5, 5, dtype=torch.float64) * codes[:, 0].std())


def test_effects_of_a_linear_decoder_are_exact():
    """Moved by t along v, the image is moved by t W v: what is measured along it rises, and across it stays."""
    model, _ = linear_gaussian()
    v = torch.tensor([0.6, 0.8], dtype=torch.float64)
    along = (model.decoder[0].weight.detach().double() @ v).float()
    across = torch.linalg.svd(along[None]).Vh[1]

    def measure(images):
        flat = images.flatten(1).double()
        return {name: flat @ vector.double() for name, vector in (("along", along), ("across", across))}

    codes = torch.randn(7, 2, generator=torch.Generator().manual_seed(1))
    moved = traverse(model, codes, v, torch.linspace(-2, 2, 9))
    usual = {name: torch.tensor([-3.0, 3.0, 0.0]) for name in ("along", "across")}  # of standard deviation 3
    row = effects(moved.amounts, measured_along(moved, measure), usual)
    assert row["along"].spearman == pytest.approx(1)
    assert row["along"].change_sd == pytest.approx(4 * along.double().square().sum().item() / 3, rel=1e-5)
    assert row["across"].spearman == 0
    assert row["across"].change_sd == pytest.approx(0, abs=1e-6)
    reverse = effects(moved.amounts, measured_along(traverse(model, codes, -v, moved.amounts), measure), usual)
    assert reverse["along"].spearman == pytest.approx(-1)
    assert reverse["along"].change_sd == pytest.approx(-row["along"].change_sd, rel=1e-5)


def test_rank_correlation_is_that_of_scipy_with_ties():
    rows = torch.randint(0, 4, (50, 7), generator=torch.Generator().manual_seed(0)).double()
    x = torch.randn(7, generator=torch.Generator().manual_seed(1))
    expected = [0.0 if len(set(row)) == 1 else spearmanr(x, row).statistic for row in rows.tolist()]
    assert torch.allclose(rank_correlation(x, rows), torch.tensor(expected, dtype=torch.float64))


def test_images_without_an_attribute_are_left_out():
    values = torch.tensor([[1.0, 2.0], [torch.nan, 5.0], [3.0, 2.0], [1.0, 7.0]])
    effect = effects(torch.tensor([-1.0, 1.0]), {"a": values}, {"a": torch.tensor([1.0, torch.nan, 3.0])})["a"]
    assert effect.n == 3
    assert effect.spearman == pytest.approx(1 / 3)
    assert effect.spearman_se == pytest.approx(torch.tensor([1.0, -1.0, 1.0]).std().item() / 3**0.5)
    assert effect.change_sd == pytest.approx((1 - 1 + 6) / 3 / 2**0.5)


def test_classes_are_those_of_the_logits():
    class Brightness(nn.Module):
        def forward(self, images):
            mean = images.mean((1, 2, 3))
            return mean[:, None], torch.stack([1 - 2 * mean, torch.zeros_like(mean)], 1)  # class 1 from 1/2

    levels = torch.tensor([[0.1, 0.7], [0.2, 0.3]])
    images = levels[..., None, None, None].expand(2, 2, 1, 4, 4)
    probabilities = class_probabilities(ModuleExtractor(Brightness(), "brightness", 1), images, device="cpu")
    assert torch.allclose(probabilities[..., 1], (2 * levels - 1).double().sigmoid(), atol=1e-6)
    kept = class_kept(torch.tensor([1, 0]), probabilities.argmax(-1))
    assert kept.tolist() == [0.5, 1.0]


def test_outside_a_uniform_prior_the_density_is_0():
    model = build(Spec(prior="uniform", posterior="uniform", latent_dim=2, hidden=(4,)))
    moved = traverse(model, torch.zeros(1, 2), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 5.0]))
    assert moved.log_prior[0, 0].isfinite()
    assert moved.log_prior[0, 1] == -torch.inf


CODES, SOME = torch.eye(3), torch.tensor([True, False, False])
SMALL = build(Spec(latent_dim=3, hidden=(4,)))
BAD = {
    "images: given": lambda: measured_attributes(torch.zeros(3, 8, 8)),
    "codes: given": lambda: mean_difference(torch.zeros(3), SOME),
    "present: given .*boolean": lambda: mean_difference(CODES, torch.tensor([1, 0, 0])),
    "present: given .*some without": lambda: probe_direction(CODES, torch.ones(3, dtype=torch.bool)),
    "present: given 'an attribute that no": lambda: mean_difference(torch.ones(3, 2), SOME),
    "penalty: given 0": lambda: probe_direction(CODES, SOME, penalty=0),
    "values: given .*each of 3": lambda: regression_direction(CODES, torch.zeros(2)),
    "values: given 'an attribute that no": lambda: regression_direction(CODES, torch.ones(3)),
    "others: given .*at least one": lambda: orthogonalised(torch.ones(3), []),
    "others: given .*shape": lambda: orthogonalised(torch.ones(3), [torch.ones(2)]),
    "direction: given .*combination": lambda: orthogonalised(torch.ones(3), [torch.ones(3)]),
    "direction: given .*shape": lambda: traverse(SMALL, CODES, torch.ones(2), torch.ones(1)),
    "covariance: given": lambda: orthogonalised(torch.ones(3), [torch.eye(3)[0]], torch.eye(2)),
    "method: given 'mean'": lambda: attribute_direction(CODES, SOME, "mean"),
    "values: given .*of 3 codes": lambda: covariance_direction(CODES, torch.zeros(2)),
    "steps: given 4": lambda: even_amounts(CODES, torch.ones(3), steps=4),
    "range_sd: given -1": lambda: even_amounts(CODES, torch.ones(3), range_sd=-1),
    "direction: given 'one along which all": lambda: even_amounts(torch.ones(3, 2), torch.ones(2)),
    "direction: given .*as codes have": lambda: even_amounts(CODES, torch.ones(2)),
    "amounts: given .*increasing": lambda: effects(torch.zeros(2), {}, {}),
    "of_images: given .*expected a as well": lambda: effects(torch.arange(2), {"a": torch.ones(1, 2)}, {}),
    "measured 'a': given": lambda: effects(torch.arange(2), {"a": torch.ones(1, 3)}, {"a": torch.arange(2)}),
    "measured 'a': .*has the attribute": lambda: effects(
        torch.arange(2), {"a": torch.full((1, 2), torch.nan)}, {"a": torch.arange(2)}
    ),
    "of_images 'a': given": lambda: effects(torch.arange(2), {"a": torch.ones(1, 2)}, {"a": torch.ones(2)}),
    "traversal: given": lambda: measured_along(CODES),
    "y: given": lambda: rank_correlation(torch.arange(2), torch.tensor([[0.0, torch.nan]])),
    "x: given": lambda: rank_correlation(torch.arange(3), torch.ones(1, 2)),
    "images: given .*(..., C, H, W)": lambda: class_probabilities(None, CODES),
    "classifier: given": lambda: class_probabilities(
        ModuleExtractor(nn.Flatten(), "none", 4), torch.zeros(1, 1, 2, 2), device="cpu"
    ),
    "predicted: given": lambda: class_kept(torch.zeros(2), torch.zeros(2)),
    "labels: given": lambda: class_kept(torch.zeros(3), torch.zeros(2, 1)),
    "amounts: given": lambda: traverse(SMALL, CODES, torch.ones(3), torch.ones(1, 1)),
    "model: given 'Autoencoder'": lambda: traverse(
        build(Spec(model="autoencoder", latent_dim=3)), CODES, torch.ones(3), torch.ones(1)
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused(message):
    with pytest.raises(InputError, match=message):
        BAD[message]()
