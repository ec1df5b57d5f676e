"""Rate and distortion of linear-Gaussian models whose best guide is known for each beta."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from linear_gaussian import linear_gaussian

from pyro_vae import Images, Spec
from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import RateDistortion, RatePoint, bounds, rate_distortion
from pyro_vae.plots import rate_distortion_plane

RESULTS = Path(__file__).parents[2] / "docs" / "results"
BETAS = (0.25, 0.5, 1.0, 2.0, 4.0)
C = 0.1


def optimal(beta):
    """With the decoder as it is, q that minimises D + beta R is proportional to p(z) p(x|z)^(1 / beta)."""
    vae, truth = linear_gaussian(c=C)
    w, b = vae.decoder[0].weight.detach(), vae.decoder[0].bias.detach()
    c = C * beta
    variance = c / (w.square().sum(0) + c)
    gain = (variance / c)[:, None] * w.T
    with torch.no_grad():
        vae.encoder[1].weight.copy_(torch.cat([gain, torch.zeros(2, 4)]))
        vae.encoder[1].bias.copy_(torch.cat([-gain @ b, variance.log()]))
    return vae, truth, w, b, gain, variance


def in_closed_form(beta, x):
    """R and D, means over the images x `(n, 4)`."""
    _, _, w, b, gain, variance = optimal(beta)
    loc = (x - b) @ gain.T
    rate = 0.5 * (loc.square() + variance - 1 - variance.log()).sum(1)
    squares = (x - b - loc @ w.T).square().sum(1) + (w.square() * variance).sum()
    distortion = squares / (2 * C) + 2 * math.log(2 * math.pi * C)
    return rate.mean().item(), distortion.mean().item()


def images(n=400):
    generator = torch.Generator().manual_seed(0)
    return Images(torch.randint(0, 256, (n, 1, 2, 2), dtype=torch.uint8, generator=generator), name="random")


def write_run(folder, spec, numbers, **source):
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(spec.to_json())
    provenance = {"kl_per_sample": {"images_sha256": "ab", "n": 400} | source}
    (folder / "metrics.json").write_text(json.dumps(numbers | {"provenance": provenance}))


def numbers(rate, distortion, rate_se=0.1, distortion_se=0.2):
    return {
        "kl_per_sample": rate,
        "kl_se": rate_se,
        "reconstruction_nats": distortion,
        "reconstruction_se": distortion_se,
    }


def test_the_curve_of_a_linear_gaussian_model_is_that_of_the_closed_form(tmp_path):
    """Evaluated as runs are, written as runs are, and read back."""
    some = images()
    for beta in BETAS:
        result = bounds(optimal(beta)[0], some, samples=500, device="cpu")
        of_run = numbers(result.kl_per_sample, result.reconstruction_nats, result.kl_se, result.reconstruction_se)
        write_run(tmp_path / f"beta{beta}" / "seed-0", Spec(beta=beta, latent_dim=2), of_run)
    (curve,) = rate_distortion(tmp_path)
    assert tuple(point.beta for point in curve.points) == BETAS
    x = some.as_float().flatten(1)
    for point in curve.points:
        rate, distortion = in_closed_form(point.beta, x)
        assert point.rate_nats == pytest.approx(rate, rel=1e-4)
        assert point.distortion_nats == pytest.approx(distortion, abs=0.03)
        assert point.elbo_nats == pytest.approx(-(rate + distortion), abs=0.03)
        assert point.seeds == 1
    # D + beta R has its minimum at the point of beta, so no other is below its line, and the curve is convex.
    for point, other in itertools.product(curve.points, repeat=2):
        assert other.distortion_nats > point.distortion_nats - point.beta * (other.rate_nats - point.rate_nats) - 0.03
        assert curve.least_rate_nats(other.distortion_nats) <= other.rate_nats + 0.03
    assert all(secant.fits for secant in curve.secants)
    assert curve.is_convex
    # At beta = 1 the guide is the posterior: R + D = -log p(x), the least that there is.
    log_p = optimal(1.0)[1].log_prob(x).mean().item()
    assert curve.points[2].elbo_nats == pytest.approx(log_p, abs=0.03)
    assert max(curve.points, key=lambda point: point.elbo_nats).beta == 1.0


def test_the_slope_at_a_point_is_minus_beta():
    x = images().as_float().flatten(1)
    for beta in BETAS:
        (rate_low, low), (rate_high, high) = (in_closed_form(beta * factor, x) for factor in (0.98, 1.02))
        pair = RatePoint(0.98 * beta, rate_low, low), RatePoint(1.02 * beta, rate_high, high)
        (secant,) = RateDistortion(pair).secants
        assert secant.slope == pytest.approx(-beta, rel=0.01)
        assert secant.fits
        assert secant.slope_se is None


def test_errors_of_slopes_and_what_is_beyond_them():
    steep = RateDistortion((RatePoint(1.0, 4.0, 10.0, 0.3, 0.4), RatePoint(2.0, 2.0, 15.0, 0.4, 0.3)))
    (secant,) = steep.secants
    assert secant.slope == -2.5  # below -2
    assert secant.slope_se == pytest.approx(math.hypot(0.5, 2.5 * 0.5) / 2)
    assert secant.fits  # within two of these
    exact = RateDistortion(tuple(dataclasses.replace(point, rate_se=0.0, distortion_se=0.0) for point in steep.points))
    assert not exact.secants[0].fits
    bent = RateDistortion((RatePoint(1.0, 6.0, 5.0), RatePoint(2.0, 4.0, 9.0), RatePoint(4.0, 2.0, 10.0)))
    assert not bent.is_convex
    assert steep.is_convex
    collapsed = RateDistortion((RatePoint(50.0, 0.0, 9.0, 1e-9, 0.1), RatePoint(200.0, 1e-10, 9.0, 1e-9, 0.1)))
    assert collapsed.secants == ()


def test_seeds_are_averaged_and_other_settings_are_other_curves(tmp_path):
    for dim, (beta, seed) in itertools.product((2, 8), ((1.0, 0), (1.0, 1), (1.0, 2), (4.0, 0))):
        spec = Spec(latent_dim=dim, beta=beta, seed=seed)
        write_run(tmp_path / f"{dim}-{beta}" / f"seed-{seed}", spec, numbers(dim / beta + seed, 10 + beta + 2 * seed))
    write_run(tmp_path / "alone", Spec(latent_dim=3), numbers(1.0, 2.0))
    write_run(tmp_path / "autoencoder", Spec(model="autoencoder", latent_dim=2), {"reconstruction_nats": 3.0})
    write_run(tmp_path / "others", Spec(latent_dim=2, beta=3.0), numbers(1.0, 2.0), images_sha256="cd")
    two, eight = rate_distortion(tmp_path)
    assert (two.name, eight.name) == ("latent_dim 2", "latent_dim 8")
    first, last = two.points
    assert (first.beta, first.rate_nats, first.distortion_nats, first.seeds) == (1.0, 3.0, 13.0, 3)
    assert first.rate_se == pytest.approx(1 / 3**0.5)  # over seeds
    assert first.distortion_se == pytest.approx(2 / 3**0.5)
    assert (last.rate_se, last.distortion_se, last.seeds) == (0.1, 0.2, 1)  # over images
    (of_two,) = rate_distortion([tmp_path / "2-1.0", tmp_path / "2-4.0", tmp_path / "2-4.0" / "seed-0"])
    assert of_two.points == two.points
    assert of_two.name == ""


def test_the_committed_study_has_the_slopes_of_its_betas():
    curves = rate_distortion(RESULTS / "fashion-14")
    assert [curve.name for curve in curves] == ["latent_dim 32", "latent_dim 64"]
    for curve in curves:
        assert [point.beta for point in curve.points] == [0.25, 1.0, 2.0, 4.0]
        assert all(secant.fits for secant in curve.secants)
        assert curve.is_convex


def test_bad_input_is_named(tmp_path):
    with pytest.raises(InputError, match="runs: given .*expected a folder of runs"):
        rate_distortion(tmp_path / "missing")
    with pytest.raises(InputError, match=r"expected evaluated runs that differ in beta \(and seed\) alone"):
        rate_distortion([tmp_path])
    for name, beta in (("a", 1.0), ("b", 2.0)):
        write_run(tmp_path / name, Spec(beta=beta), numbers("much", 1.0))
    with pytest.raises(InputError, match="kl_per_sample: given 'much', expected a number, in metrics.json"):
        rate_distortion(tmp_path)
    with pytest.raises(InputError, match="points: given .*expected at least two betas, one point of each"):
        RateDistortion((RatePoint(1.0, 1.0, 1.0), RatePoint(1.0, 2.0, 1.0)))
    with pytest.raises(InputError, match="points: given .*expected RatePoints"):
        RateDistortion((1.0, 2.0))
    with pytest.raises(InputError, match="beta: given -1"):
        RatePoint(-1.0, 1.0, 1.0)
    with pytest.raises(InputError, match="rate_nats: given inf, expected a finite number of nats"):
        RatePoint(1.0, math.inf, 1.0)
    for value in ([], "curve", [1]):
        with pytest.raises(InputError, match="curves: given"):
            rate_distortion_plane(value)


def test_its_figure_has_a_line_of_slope_minus_beta_at_each_point():
    x = images().as_float().flatten(1)
    curve = RateDistortion(tuple(RatePoint(beta, *in_closed_form(beta, x), 0.1, 0.1) for beta in BETAS))
    figure = rate_distortion_plane(curve, title="linear Gaussian", entropy_nats=1.0)
    (axes,) = figure.axes
    assert "rate" in axes.get_xlabel()
    assert "distortion" in axes.get_ylabel()
    slopes = []
    for line in axes.lines:
        across, down = line.get_xdata(), line.get_ydata()
        if len(across) == 2 and line.get_linestyle() == "-" and across[0] != across[1]:
            slopes.append((down[1] - down[0]) / (across[1] - across[0]))
    assert slopes == pytest.approx([-beta for beta in BETAS])
    texts = [text.get_text() for text in axes.texts]
    assert texts[:5] == [rf"$\beta$ = {beta:g}" for beta in BETAS]
    levels = sorted(float(text) for text in texts[5:] if text.lstrip("-").replace(".", "").isdigit())
    steps = [above - below for below, above in itertools.pairwise(levels)]
    assert len(levels) > 2
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert f"{steps[0]:.2e}"[:4] in ("1.00", "2.00", "5.00")  # the lines are of round ELBOs
    assert f"{levels[0] / steps[0]:.6g}".lstrip("-").isdigit()
    explained = [text.get_text() for legend in (*figure.legends, axes.get_legend()) if legend for text in legend.texts]
    assert "± 2 SE" in explained
