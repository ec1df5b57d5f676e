"""Attributes of drawn strokes, directions of constructed codes, and traversals of a linear model."""

import pytest
import torch
from linear_gaussian import linear_gaussian

from pyro_vae import Spec, build
from pyro_vae._utils.checks import InputError
from pyro_vae.latent.directions import mean_difference, orthogonalised, probe_direction, regression_direction
from pyro_vae.uses.attributes import measured_attributes, traverse


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
    "amounts: given": lambda: traverse(SMALL, CODES, torch.ones(3), torch.ones(1, 1)),
    "model: given 'Autoencoder'": lambda: traverse(
        build(Spec(model="autoencoder", latent_dim=3)), CODES, torch.ones(3), torch.ones(1)
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused(message):
    with pytest.raises(InputError, match=message):
        BAD[message]()
