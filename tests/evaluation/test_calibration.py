"""Simulation-based calibration of guides whose error is known."""

import math

import pytest
import torch
from linear_gaussian import linear_gaussian
from torch.distributions import Normal

from pyro_vae import Spec, build
from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import simulation_based_calibration
from pyro_vae.plots import calibration_panels

CPU = {"device": "cpu"}


def off_by(shift=0.0, width=1.0):
    """The exact posterior, moved by so many of its deviations, and with another width."""
    vae, _ = linear_gaussian()
    with torch.no_grad():
        loc, log_variance = vae.encoder[1].bias.chunk(2)
        loc += shift * (log_variance / 2).exp()
        log_variance += 2 * math.log(width)
    return vae


def test_the_exact_posterior_is_calibrated():
    calibration = simulation_based_calibration(off_by(), 3000, **CPU)
    assert calibration.ranks.shape == (3000, 3)
    assert (calibration.ranks.min(), calibration.ranks.max()) == (0, 199)
    assert min(calibration.p_values.values()) > 0.005
    assert calibration.p_value == pytest.approx(min(1, 3 * min(calibration.p_values.values())))
    assert max(map(abs, [*calibration.location_z.values(), *calibration.dispersion_z.values()])) < 3.5
    assert [interval.level for interval in calibration.coverage] == pytest.approx([0.5, 0.8, 0.95])
    for interval in calibration.coverage:
        assert list(interval.observed.values()) == pytest.approx([interval.level] * 3, abs=4 * interval.se)
    assert calibration.counts.sum(0).tolist() == [3000] * 3


def test_p_values_and_scores_of_a_calibrated_guide_have_their_own_distributions():
    """Uniform on (0, 1), and standard normal."""
    runs = [simulation_based_calibration(off_by(), 200, bins=10, seed=seed, **CPU) for seed in range(60)]
    p_values = torch.tensor([run.p_values["z_1"] for run in runs])
    assert p_values.mean().item() == pytest.approx(0.5, abs=0.15)
    for name in ("location_z", "dispersion_z"):
        scores = torch.tensor([[getattr(run, name)[z] for z in ("z_1", "z_2")] for run in runs])
        assert scores.mean().item() == pytest.approx(0, abs=0.35)
        assert scores.std().item() == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize(("shift", "width"), [(0.0, 0.5), (0.0, 2.0), (1.0, 1.0), (-0.5, 1.0)])
def test_coverage_of_a_wrong_guide_is_that_of_the_closed_form(shift, width):
    """The truth is N(0, 1) beside an interval of N(shift, width^2)."""
    calibration = simulation_based_calibration(off_by(shift, width), 3000, draws=999, **CPU)
    normal = Normal(0.0, 1.0)
    for interval in calibration.coverage:
        half = width * normal.icdf(torch.tensor(0.5 + interval.level / 2))
        expected = (normal.cdf(shift + half) - normal.cdf(shift - half)).item()
        for name in ("z_1", "z_2"):
            assert interval.observed[name] == pytest.approx(expected, abs=0.04)
    assert calibration.p_value < 1e-6


def test_too_narrow_is_a_u_too_wide_a_hill_and_a_bias_a_slope():
    narrow, wide, low = (
        simulation_based_calibration(off_by(*how), 1000, **CPU) for how in ((0, 0.5), (0, 2.0), (-0.5, 1.0))
    )
    for name in ("z_1", "z_2"):
        first, middle, last = (narrow.counts[at, narrow.names.index(name)].item() for at in (0, 10, -1))
        assert min(first, last) > 2 * middle
        assert narrow.dispersion_z[name] > 8
        assert wide.dispersion_z[name] < -8
        assert low.location_z[name] > 8
        assert abs(narrow.location_z[name]) < 4
    assert narrow.p_values["log p(x, z)"] < 1e-6


@pytest.mark.parametrize(
    "options",
    [{"posterior": "conditional-planar"}, {"posterior": "planar"}, {"posterior": "uniform", "prior": "uniform"}],
    ids=str,
)
def test_any_posterior_that_can_be_drawn_from(options):
    model = build(Spec(latent_dim=2, hidden=(16,), **options)).train()
    before = torch.get_rng_state()
    calibration = simulation_based_calibration(model, 130, bins=10, **CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert torch.equal(
        calibration.ranks, simulation_based_calibration(model, 130, bins=10, decoded_at_once=300, **CPU).ranks
    )
    assert not torch.equal(calibration.ranks, simulation_based_calibration(model, 130, bins=10, seed=1, **CPU).ranks)
    assert bool(((calibration.ranks >= 0) & (calibration.ranks <= 199)).all())


def test_equal_values_are_in_random_order():
    """A decoder and a prior under which all draws are alike in their log p(x, z): its ranks are uniform."""
    model = build(Spec(latent_dim=1, prior="uniform", posterior="uniform"))
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
    calibration = simulation_based_calibration(model, 1000, **CPU)
    assert calibration.p_values["log p(x, z)"] > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 99}, "n: given 99, expected at least 100, 5 for each of 20 bins"),
        ({"n": 0}, "n: given 0"),
        ({"draws": 200}, "draws: given 200, expected one less than a multiple of bins, 20"),
        ({"draws": 0}, "draws: given 0"),
        ({"bins": 1}, "draws: given 199, expected one less than a multiple of bins, 1, which are at least 2"),
        ({"decoded_at_once": 0}, "decoded_at_once: given 0"),
        ({"seed": -1}, "seed: given -1"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(InputError, match=message):
        simulation_based_calibration(off_by(), **options, **CPU)


def test_other_models_and_values_are_refused():
    with pytest.raises(InputError, match="model: given"):
        simulation_based_calibration(build(Spec(model="autoencoder", latent_dim=2)), **CPU)
    calibration = simulation_based_calibration(off_by(), 100, **CPU)
    for value in (0, 1, 1.5):
        with pytest.raises(InputError, match="probability: given"):
            calibration.band(value)
    with pytest.raises(InputError, match="calibration: given"):
        calibration_panels(calibration.ranks)


def test_its_figure_has_a_panel_for_each_quantity_and_the_band():
    calibration = simulation_based_calibration(build(Spec(latent_dim=9, hidden=(16,))), 200, bins=10, **CPU)
    figure = calibration_panels(calibration, most=4)
    assert len(figure.axes) == 5
    assert figure.axes[3].get_title().startswith("log p(x, z): p = ")
    worst = sorted(calibration.names[:-1], key=calibration.p_values.get)[:3]
    assert {axes.get_title().split(":")[0] for axes in figure.axes[:3]} == set(worst)
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    low, high = calibration.band()
    assert low < 20 < high
    bars, (band,) = figure.axes[0].patches[:10], figure.axes[0].patches[10:]
    assert band.get_zorder() < min(bar.get_zorder() for bar in bars)  # over them it would give bars two colours


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_weights_that_are_not_finite_are_named(part):
    model = build(Spec(latent_dim=2))
    with torch.no_grad():
        next(getattr(model, part).parameters()).fill_(math.nan)
    with pytest.raises(InputError, match=f"model: given 'weights that are not finite, in {part}"):
        simulation_based_calibration(model, **CPU)
