import io
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import norm
from torch import nn

from pyro_vae import VAE, Autoencoder, History, Images, Spec, build, fit, latent, plots, priors, save
from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation.samples.features import ModuleExtractor
from pyro_vae.experiments import figures
from pyro_vae.experiments.figures import Fitted
from pyro_vae.experiments.figures.image_rows import sharpness


class Identity(nn.Module):
    """A normal around what the decoder puts out, as it is."""

    data_range = "unit interval"

    def forward(self, parameters):
        return dist.Normal(parameters, 0.5**0.5).to_event(3)


class Recorder(nn.Module):
    """A decoder that keeps the codes that it was given."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder
        self.codes = []

    def forward(self, z):
        self.codes.append(z.clone())
        return self.decoder(z)


class Symmetric(nn.Module):
    """q(z|x) of a location-scale family, as a posterior."""

    num_parameters = 4

    def __init__(self, family):
        super().__init__()
        self.family = family

    def forward(self, parameters):
        loc, log_scale = parameters.chunk(2, -1)
        return self.family(loc, log_scale.exp()).to_event(1)


def small(**fields):
    return Spec(**{"latent_dim": 2, "hidden": (16,), "epochs": 2, "likelihood": "continuous-bernoulli"} | fields)


def untrained(**fields):
    return Fitted(build(small(**fields)))


def linear(columns, mean):
    """The linear autoencoder whose decoder is `columns @ z + mean`, and whose encoder is its pseudoinverse."""
    shape = (1, 8, 8)
    d = columns.shape[1]
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, d))
    decoder = nn.Sequential(nn.Linear(d, 64), nn.Unflatten(-1, shape))
    inverse = torch.linalg.pinv(columns)
    with torch.no_grad():
        encoder[1].weight.copy_(inverse)
        encoder[1].bias.copy_(-inverse @ mean)
        decoder[0].weight.copy_(columns)
        decoder[0].bias.copy_(mean)
    return Autoencoder(encoder, decoder, Identity())


def without_loss():
    """The autoencoder that gives back what it gets."""
    return linear(torch.eye(64), torch.zeros(64))


def recording(latent_dim=2):
    model = build(small(latent_dim=latent_dim))
    recorder = Recorder(model.decoder)
    return VAE(model.encoder, recorder, model.prior, model.likelihood, model.posterior), recorder


class Toy(nn.Module):
    """Ten classes by a random linear map."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 10, generator=torch.Generator().manual_seed(1)))

    def forward(self, x):
        logits = x.flatten(1) @ self.weight
        return logits, logits


def toy_classifier():
    return ModuleExtractor(Toy(), "toy", 10)


def sheet(axes):
    """The picture that axes show."""
    return torch.from_numpy(np.asarray(axes.images[0].get_array()))


@pytest.fixture(scope="module")
def test_images(digits):
    return digits.test.take(slice(0, 60))


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """Three runs of two epochs, each with a snapshot after the first."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {}
    images = digits.train.take(slice(0, 64))
    specs = {
        "autoencoder": small(model="autoencoder"),
        "beta 1": small(),
        "beta 5": small(beta=5.0),
    }
    for name, spec in specs.items():
        model = build(spec)
        fit(model, images, epochs=1, beta=spec.beta, progress=False, device="cpu")
        path = save(model, folder / f"{name}.safetensors")
        history = fit(model, images, epochs=2, beta=spec.beta, progress=False, device="cpu", validation=images)
        runs[name] = Fitted(model, history, {1: path})
    return runs


FIGURES = {
    "reconstructions": (lambda runs, images: figures.reconstructions(runs, images), 1),
    "one of each class": (lambda runs, images: figures.reconstructions(runs, images, per_class=1), 1),
    "samples": (lambda runs, images: figures.samples(runs, images), 1),
    "random codes": (lambda runs, images: figures.random_codes(runs, images), 1),
    "samples around": (lambda runs, images: figures.samples_around(runs, images, n=7), 3),
    "decoded many times": (lambda runs, images: figures.decoded_many_times(runs, images, n=9), 3),
    "interpolations": (lambda runs, images: figures.interpolations(runs, images), 1),
    "latent spaces": (lambda runs, images: figures.latent_spaces(runs, images), 3),
    "manifolds": (lambda runs, images: figures.manifolds(runs, images, size=3), 3),
    "quantiles": (lambda runs, images: figures.manifolds(runs, images, size=3, spacing="quantiles"), 3),
    "training curves": (lambda runs, images: figures.training_curves(runs), 4),
    "latent spaces by epoch": (lambda runs, images: figures.latent_spaces_by_epoch(runs, images, epochs=(1, 2)), 6),
    "reconstructions by epoch": (
        lambda runs, images: figures.reconstructions_by_epoch(runs, images, epochs=(1, 2)),
        6,
    ),
    "confidence": (
        lambda runs, images: figures.confidence_by_epoch(runs, images, classifier=toy_classifier()),
        2,
    ),
    "five points": (lambda runs, images: figures.pca_example(runs, images), 1),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_with_labels_and_nothing_global(name, trained, test_images):
    draw, axes_count = FIGURES[name]
    settings, state = dict(mpl.rcParams), torch.get_rng_state()
    figure = draw(trained, test_images)
    assert isinstance(figure, Figure)
    figure.savefig(io.BytesIO(), format="png")
    assert len(figure.axes) == axes_count
    for axes in figure.axes:
        if len(axes.lines) or len(axes.collections):
            assert axes.get_xlabel()
            assert axes.get_ylabel()
    assert dict(mpl.rcParams) == settings
    assert plt.get_fignums() == []
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "draw",
    [
        figures.reconstructions,
        figures.samples,
        figures.random_codes,
        figures.samples_around,
        figures.decoded_many_times,
        figures.interpolations,
    ],
)
def test_the_seed_decides(draw, test_images):
    runs = {"vae": untrained()}
    first, repeated, other = (sheet(draw(runs, test_images, seed=seed).axes[0]) for seed in (0, 0, 1))
    assert torch.equal(first, repeated)
    assert not torch.equal(first, other)


def test_colour_images_keep_their_colours():
    pixels = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = Images(pixels, torch.arange(12) % 2, "colours", ("even", "odd"))
    runs = {"vae": untrained(dataset="colours", image_shape=(3, 8, 8))}
    for draw in (figures.reconstructions, figures.samples, figures.samples_around, figures.decoded_many_times):
        figure = draw(runs, images)
        assert sheet(figure.axes[0]).shape[2] == 3
        figure.savefig(io.BytesIO(), format="png")
    assert sheet(figures.manifolds(runs, images, size=2).axes[0]).shape == (16, 16, 3)


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_run_is_opened_with_its_history_and_its_snapshots(tmp_path, test_images):
    model, early = build(small()), build(small(seed=1))
    history = fit(model, test_images, epochs=2, validation=test_images, progress=False, device="cpu")
    save(model, tmp_path / "run" / "weights.safetensors")
    history.to_csv(tmp_path / "run" / "history.csv")
    save(early, tmp_path / "run" / "snapshots" / "epoch-00001.safetensors")
    (tmp_path / "run" / "snapshots" / "notes.txt").write_text("not a snapshot")
    opened = figures.open_run(tmp_path / "run")
    assert opened.spec.latent_dim == 2
    assert opened.history == history
    assert opened.epochs == [1, 2]
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(opened.at(2).reconstruct(x), model.reconstruct(x))
    torch.testing.assert_close(opened.at(1).reconstruct(x), early.reconstruct(x))
    assert opened.at(1).encoder is not opened.model.encoder
    with pytest.raises(InputError, match="epochs: given 5, expected epochs with a snapshot: 1, 2"):
        opened.at(5)


# --- what the pictures show -----------------------------------------------------------------------------------------


def test_rows_are_the_originals_and_what_each_model_makes_of_them(test_images):
    figure = figures.reconstructions({"exact": Fitted(without_loss()), "vae": untrained()}, test_images, n=4, seed=3)
    originals = test_images.draw(4, 3).as_float()
    rows = sheet(figure.axes[0])
    torch.testing.assert_close(rows[:8], plots.tile(originals, 4).squeeze(-1))
    torch.testing.assert_close(rows[9:17], rows[:8], atol=1e-5, rtol=0)
    assert not torch.allclose(rows[18:], rows[:8], atol=0.1)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["original", "exact", "vae"]


def test_one_of_each_class_comes_in_order_under_its_name(test_images):
    figure = figures.reconstructions({"exact": Fitted(without_loss())}, test_images, per_class=1)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == [str(digit) for digit in range(10)]
    columns = sheet(figure.axes[0])[:8]
    for digit in range(10):
        of_class = test_images.as_float()[test_images.labels == digit][:, 0]
        assert any(torch.allclose(columns[:, 9 * digit : 9 * digit + 8], image) for image in of_class)


def test_models_without_a_prior_have_no_samples(trained, test_images):
    figure = figures.samples(trained, test_images)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["original", "beta 1", "beta 5"]


def test_so_many_codes_of_each_class_are_scattered(digits):
    figure = figures.latent_spaces({"vae": untrained()}, digits.test, per_class=24)
    groups = figure.axes[0].collections
    assert [len(group.get_offsets()) for group in groups] == [24] * 10
    chosen = latent.codes(untrained().model, digits.test, device="cpu")[digits.test.labels == 3]
    assert all(
        (chosen - torch.tensor(np.asarray(offset))).abs().sum(1).min() < 1e-5 for offset in groups[3].get_offsets()
    )


def test_codes_of_more_dimensions_are_shown_by_pca_with_its_variance(test_images):
    figure = figures.latent_spaces({"two": untrained(), "five": untrained(latent_dim=5)}, test_images)
    assert figure.axes[0].get_xlabel() == "$z_1$"
    z = latent.codes(build(small(latent_dim=5)), test_images, device="cpu").double()
    shares = torch.linalg.svdvals(z - z.mean(0)).square()
    assert figure.axes[1].get_xlabel() == f"first principal component ({shares[0] / shares.sum():.0%} of variance)"


def test_many_points_are_drawn_as_they_come():
    """Small points of one shape: no class covers the others, and none looks heavier."""
    labels = torch.arange(3000) % 10
    plane = latent.Plane(torch.randn(3000, 2), ("$z_1$", "$z_2$"))
    (points,) = plots.latent_panels({"many": plane}, labels).axes[0].collections
    assert [mpl.colors.to_hex(colour).upper() for colour in points.get_facecolors()[:10]] == list(plots.COLOURS)


def test_draws_are_those_of_the_posterior(test_images):
    model, recorder = recording()
    figures.decoded_many_times({"vae": Fitted(model)}, test_images, index=7, n=4001)
    z = recorder.codes[-1]
    with torch.no_grad():
        q = model.encode(test_images.take(slice(7, 8)).as_float())
    assert len(z) == 4000
    torch.testing.assert_close(z.mean(0), q.mean[0], atol=0.06, rtol=0)
    torch.testing.assert_close(z.std(0), q.stddev[0], atol=0.06, rtol=0)


def test_samples_around_a_point_have_that_sd(test_images):
    model, recorder = recording(3)
    figure = figures.samples_around({"vae": Fitted(model)}, test_images, mean=1.0, sd=0.5, n=5000)
    assert "mean 1 and sd 0.5" in figure.get_suptitle()
    z = recorder.codes[-1]
    torch.testing.assert_close(z.mean(0), torch.ones(3), atol=0.04, rtol=0)
    torch.testing.assert_close(z.std(0), torch.full((3,), 0.5), atol=0.03, rtol=0)


def test_random_codes_are_standard_normal_and_like_the_codes(digits):
    model, recorder = recording()
    with torch.no_grad():
        model.encoder[-1].bias += torch.tensor([3.0, -2.0, 0.0, 0.0])
    expected = latent.codes(model, digits.test, device="cpu")
    figures.random_codes({"vae": Fitted(model)}, digits.test, n=5000)
    plain, fitting = recorder.codes[-2:]
    torch.testing.assert_close(plain.T.cov(), torch.eye(2), atol=0.06, rtol=0)
    torch.testing.assert_close(fitting.mean(0), expected.mean(0), atol=0.02, rtol=0.02)
    torch.testing.assert_close(fitting.T.cov(), expected.T.cov(), atol=0.005, rtol=0.06)


def test_random_codes_of_a_collapsed_latent_space_are_drawn(digits):
    model, _ = recording()
    with torch.no_grad():
        model.encoder[-1].weight.zero_()
    figures.random_codes({"vae": Fitted(model)}, digits.test)


@pytest.mark.parametrize(
    ("spacing", "axis"), [("even", np.linspace(-3, 3, 20)), ("quantiles", norm.ppf((np.arange(20) + 0.5) / 20))]
)
def test_manifolds_are_decoded_on_their_grid(spacing, axis, test_images):
    model, recorder = recording()
    figures.manifolds({"vae": Fitted(model)}, test_images, spacing=spacing)
    z = recorder.codes[-1].reshape(20, 20, 2).double().numpy()
    np.testing.assert_allclose(z[:, :, 0], np.tile(axis, (20, 1)), atol=1e-5)
    np.testing.assert_allclose(z[::-1, :, 1], np.tile(axis, (20, 1)).T, atol=1e-5)


def test_interpolation_goes_from_one_original_to_the_other(test_images):
    figure = figures.interpolations({"exact": Fitted(without_loss())}, test_images, pair=(4, 9), steps=5)
    x = test_images.as_float()[[4, 9], 0]
    tiles = sheet(figure.axes[0]).unfold(1, 8, 9).permute(1, 0, 2)
    expected = torch.stack([x[0], *((1 - w) * x[0] + w * x[1] for w in (0, 0.25, 0.5, 0.75, 1)), x[1]])
    torch.testing.assert_close(tiles, expected, atol=1e-5, rtol=0)


def test_two_images_of_different_classes_are_chosen(digits):
    for seed in range(5):
        first, second = figures.trained_runs.two_of(digits.test, seed)
        assert digits.test.labels[first] != digits.test.labels[second]


# --- densities ------------------------------------------------------------------------------------------------------


def with_posterior(posterior):
    vae = build(small())
    return Fitted(VAE(vae.encoder, vae.decoder, priors.StandardNormal(2), vae.likelihood, posterior))


def test_density_is_that_of_the_posterior(test_images):
    run = untrained()
    figure = figures.posterior_density({"vae": run}, test_images, index=3)
    mesh = figure.axes[0].collections[0]
    values = np.asarray(mesh.get_array()).reshape(201, 201)
    corners = np.asarray(mesh.get_coordinates())
    area = (corners[0, 1, 0] - corners[0, 0, 0]) * (corners[1, 0, 1] - corners[0, 0, 1])
    assert values.sum() * area == pytest.approx(1, abs=0.01)
    mean, draw = (line.get_xydata()[0] for line in figure.axes[0].lines)
    with torch.no_grad():
        q = run.model.encode(test_images.take(slice(3, 4)).as_float())
    np.testing.assert_allclose(mean, q.mean[0], rtol=1e-5)
    row, column = np.unravel_index(values.argmax(), values.shape)
    np.testing.assert_allclose((corners[row, column] + corners[row + 1, column + 1]) / 2, mean, atol=0.02)
    assert q.log_prob(torch.tensor(draw[None]).float()).exp().item() > 0.01 * values.max()
    assert values.max() == pytest.approx(q.log_prob(q.mean).exp().item(), rel=0.01)


@pytest.mark.parametrize(
    "family", [dist.Laplace, lambda loc, scale: dist.Uniform(loc - scale, loc + scale)], ids=["laplace", "uniform"]
)
def test_density_of_other_families(family, test_images):
    figure = figures.posterior_density({"vae": with_posterior(Symmetric(family))}, test_images)
    mesh = figure.axes[0].collections[0]
    corners = np.asarray(mesh.get_coordinates())
    area = (corners[0, 1, 0] - corners[0, 0, 0]) * (corners[1, 0, 1] - corners[0, 0, 1])
    assert np.asarray(mesh.get_array()).sum() * area == pytest.approx(1, abs=0.03)
    figure.savefig(io.BytesIO(), format="png")


# --- over the epochs ------------------------------------------------------------------------------------------------


def test_curves_are_those_of_the_histories(trained):
    figure = figures.training_curves(trained)
    last = trained["beta 5"].history.epochs[-1]
    expected = [
        last.train_loss_nats,
        last.train_reconstruction_nats,
        last.train_kl_nats,
        5 * last.train_kl_nats / (last.train_reconstruction_nats + 5 * last.train_kl_nats),
    ]
    solid = [[line for line in axes.lines if line.get_linestyle() != "--"] for axes in figure.axes]
    # The autoencoder has no KL. Its reconstruction, a continuous Bernoulli's, goes below 0: there is no share of it.
    assert min(trained["autoencoder"].history.column("train_reconstruction_nats")) < 0
    assert [len(lines) for lines in solid] == [3, 3, 2, 2]
    assert [lines[-1].get_ydata()[-1] for lines in solid] == pytest.approx(expected)
    unweighted = figures.training_curves(trained, weighted=False).axes[3].lines[2].get_ydata()[-1]
    assert unweighted == pytest.approx(last.train_kl_nats / (last.train_reconstruction_nats + last.train_kl_nats))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["autoencoder", "beta 1", "beta 5", "training", "validation"]


def test_snapshots_are_shown_in_the_column_of_their_epoch(trained, test_images):
    figure = figures.latent_spaces_by_epoch(trained, test_images, epochs=(2, 1))
    assert [axes.get_title() for axes in figure.axes][2:4] == ["beta 1, epoch 2", "beta 1, epoch 1"]
    for axes, epoch in zip(figure.axes[2:4], (2, 1), strict=True):
        offsets = np.concatenate([np.asarray(group.get_offsets()) for group in axes.collections])
        codes = latent.codes(trained["beta 1"].at(epoch), test_images, device="cpu").numpy()
        np.testing.assert_allclose(np.sort(offsets, 0), np.sort(codes, 0), rtol=1e-5)


def test_samples_by_epoch(trained, test_images):
    runs = {name: run for name, run in trained.items() if name != "autoencoder"}
    figure = figures.samples_by_epoch(runs, test_images, epochs=(1, 2), n=5, seed=4)
    expected = latent.prior_samples(trained["beta 5"].at(1), 5, device="cpu", seed=4)
    torch.testing.assert_close(sheet(figure.axes[2]), plots.tile(expected, 5).squeeze(-1))


def test_confidence_of_real_images_is_one(test_images):
    exact = Fitted(without_loss(), snapshots={})
    exact = replace(exact, history=History((fit_once(test_images),)))
    (result,) = figures.confidences({"exact": exact}, test_images, classifier=toy_classifier())
    assert result.reconstructions == pytest.approx(1, abs=1e-5)
    assert result.samples is None


def fit_once(images):
    return fit(build(small()), images, epochs=1, progress=False, device="cpu").epochs[0]


def test_confidences_are_ratios_of_mean_top_class_probabilities(trained, test_images):
    classifier = toy_classifier()
    results = figures.confidences(trained, test_images, classifier=classifier, n=40, seed=2)
    assert [(result.name, result.epoch) for result in results] == [
        (name, epoch) for name in trained for epoch in (1, 2)
    ]

    def top(pixels):
        with torch.no_grad():
            return classifier(pixels).logits.double().softmax(1).max(1).values.mean().item()

    originals = test_images.draw(40, 2).as_float()
    model = trained["beta 5"].at(1)
    with torch.no_grad():
        expected = top(model.reconstruct(originals)) / top(originals)
    assert results[4].reconstructions == pytest.approx(expected, rel=1e-5)
    samples = latent.prior_samples(model, 40, device="cpu", seed=2)
    assert results[4].samples == pytest.approx(top(samples) / top(originals), rel=1e-5)
    panels = figures.confidence_by_epoch(trained, test_images, classifier=classifier).axes
    assert [len(axes.lines) for axes in panels] == [3 + 1, 2 + 1]  # and the line of the real images
    whole = figures.confidences(trained, test_images, classifier=classifier)
    assert panels[1].lines[1].get_xydata().tolist() == [[result.epoch, result.samples] for result in whole[4:]]


# --- principal components and likelihoods ---------------------------------------------------------------------------


def test_five_points_have_the_codes_of_the_lecture():
    figure = figures.pca_example()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["A: -0.63", "B: -0.39", "C: 0.09", "D: 0.41", "E: 0.53"]
    decoded = figure.axes[0].lines[-1].get_xydata()
    expected = [(-0.54, -0.33), (-0.34, -0.20), (0.07, 0.04), (0.35, 0.21), (0.46, 0.27)]
    np.testing.assert_allclose(decoded, expected, atol=0.0051)


def principal(images, d):
    x = images.as_float().flatten(1).double()
    components = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh
    return components[:d].T, components[d : 2 * d].T, x.mean(0)


def test_linear_autoencoder_in_the_space_of_the_components_has_no_angle_to_them(digits):
    columns, others, mean = principal(digits.train, 4)
    mixed = columns @ torch.randn(4, 4, dtype=torch.float64)
    angles = latent.principal_angles(linear(mixed.float(), mean.float()), digits.train)
    torch.testing.assert_close(angles, torch.zeros(4, dtype=torch.float64), atol=1e-3, rtol=0)
    angles = latent.principal_angles(linear(others.float(), mean.float()), digits.train)
    torch.testing.assert_close(angles, torch.full((4,), 90.0, dtype=torch.float64), atol=1e-3, rtol=0)
    tilted = columns.clone()
    tilted[:, 3] = np.cos(0.3) * columns[:, 3] + np.sin(0.3) * others[:, 0]
    angles = latent.principal_angles(linear(tilted.float(), mean.float()), digits.train)
    assert angles.tolist() == pytest.approx([np.degrees(0.3), 0, 0, 0], abs=1e-3)


def test_linear_autoencoders_beside_pca(digits):
    columns, _, mean = principal(digits.train, 5)
    runs = {"d = 3": Fitted(linear(columns[:, :3].float(), mean.float()))}
    runs["d = 5"] = Fitted(linear(-columns.float(), mean.float()))
    figure = figures.linear_autoencoders(runs, digits.test, train=digits.train)
    rows = sheet(figure.axes[0])
    torch.testing.assert_close(rows[9:17], rows[:8], atol=1e-5, rtol=0)  # the direction, whatever its sign
    torch.testing.assert_close(rows[18:], rows[:8], atol=1e-5, rtol=0)
    assert [len(line.get_xdata()) for line in figure.axes[1].lines] == [3, 5]
    assert max(abs(line.get_ydata()).max() for line in figure.axes[1].lines) < 1e-3
    tilted = columns.clone()
    tilted[:, 4] = np.cos(0.3) * columns[:, 4] + np.sin(0.3) * principal(digits.train, 6)[0][:, 5]
    runs["tilted"] = Fitted(linear(tilted.float(), mean.float()))
    line = figures.linear_autoencoders(runs, digits.test, train=digits.train).axes[1].lines[2]
    assert line.get_xydata()[-1].tolist() == pytest.approx([5, np.degrees(0.3)], abs=1e-3)
    least, *ours = figure.axes[2].lines
    assert least.get_xdata().tolist() == [3, 5]
    assert [line.get_ydata()[0] for line in ours] == pytest.approx(least.get_ydata().tolist(), rel=1e-4)


def test_sharpness():
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    assert sharpness(board.float().expand(2, 1, 8, 8)) == 1
    assert sharpness(torch.full((2, 1, 8, 8), 0.3)) == 0


def test_likelihood_variances_are_in_order_with_error_and_sharpness(test_images):
    runs = {f"{c:g}": untrained(likelihood={"kind": "gaussian", "variance": c}) for c in (0.5, 0.1)}
    figure = figures.likelihood_variances(runs, test_images)
    error, ratio = (axes.lines[0] for axes in figure.axes[1:])
    assert error.get_xdata().tolist() == pytest.approx([0.1, 0.5])
    x = test_images.as_float()
    with torch.no_grad():
        reconstructed = runs["0.1"].model.reconstruct(x)
    assert error.get_ydata()[0] == pytest.approx((x - reconstructed).square().mean().item(), rel=1e-5)
    assert ratio.get_ydata()[0] == pytest.approx(sharpness(reconstructed) / sharpness(x), rel=1e-5)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda runs, images: figures.reconstructions({}, images), "runs: given .*at least one run"),
        (lambda runs, images: figures.reconstructions(runs, images, n=0), "n: given 0"),
        (lambda runs, images: figures.reconstructions(runs, images, per_class=0), "per_class: given 0"),
        (
            lambda runs, images: figures.reconstructions(runs, replace(images, labels=None), per_class=1),
            "per_class: given 1, expected images with labels",
        ),
        (lambda runs, images: figures.reconstructions({"m": untrained(dataset="mnist")}, images), "images: given"),
        (
            lambda runs, images: figures.samples({"a": untrained(model="autoencoder")}, images),
            "one model with a prior",
        ),
        (lambda runs, images: figures.manifolds({"d": untrained(latent_dim=3)}, images), "'d of 3 latent dimensions'"),
        (lambda runs, images: figures.posterior_density({"d": untrained(latent_dim=3)}, images), "2-d latent space"),
        (
            lambda runs, images: figures.posterior_density({"a": untrained(model="autoencoder")}, images),
            "runs: given 'a', expected models with a posterior",
        ),
        (
            lambda runs, images: figures.posterior_density({"flow": untrained(posterior="planar")}, images),
            "runs: given 'flow', expected posteriors with a density at every point",
        ),
        (lambda runs, images: figures.posterior_density(runs, images, index=60), "index: given 60, .* 0 to 59"),
        (lambda runs, images: figures.decoded_many_times(runs, images, n=1), "n: given 1"),
        (lambda runs, images: figures.samples_around(runs, images, sd=0), "sd: given 0"),
        (lambda runs, images: figures.interpolations(runs, images, pair=(0, 60)), "index: given 60"),
        (lambda runs, images: figures.interpolations(runs, images.take(slice(0, 1))), "at least 2 images"),
        (lambda runs, images: figures.random_codes(runs, images.take(slice(0, 1))), "at least 2 images"),
        (lambda runs, images: figures.training_curves(runs), "runs: given 'vae', expected runs with a history"),
        (lambda runs, images: figures.samples_by_epoch(runs, images), "epochs: given 1, .*with a snapshot: 2"),
        (lambda runs, images: figures.samples_by_epoch(runs, images, epochs=()), "epochs: given"),
        (
            lambda runs, images: figures.confidences(
                runs, images, classifier=ModuleExtractor(nn.Flatten(), "plain", 64), epochs=(2,)
            ),
            "classifier: given 'plain.*an extractor that has logits",
        ),
        (lambda runs, images: figures.linear_autoencoders(runs, images), "model: given 'VAE', .*linear"),
        (lambda runs, images: figures.likelihood_variances(runs, images), "a Gaussian likelihood"),
    ],
)
def test_bad_input_is_named(call, message, test_images):
    with pytest.raises(InputError, match=message):
        call({"vae": untrained()}, test_images)


def test_a_history_that_is_none_is_named(tmp_path):
    for text in ("epoch\n1\n", "epoch,beta\n1,one\n", ""):
        path = Path(tmp_path / "history.csv")
        path.write_text(text)
        if text:
            with pytest.raises(InputError, match="history: given .*a history.csv that a training wrote"):
                History.from_csv(path)
        else:
            assert History.from_csv(path) == History()
    with pytest.raises(InputError, match="history: given"):
        History.from_csv(tmp_path / "absent.csv")
