import dataclasses
import io
import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from pyro_vae import History, Spec, build, fit, latent, plots
from pyro_vae._utils.checks import InputError
from pyro_vae.experiments.report import figures
from pyro_vae.plots import curves
from pyro_vae.plots.frame import with_palette
from pyro_vae.training.history import Epoch
from pyro_vae.uses.attributes import Effect


def test_tiles_are_in_reading_order_with_white_between():
    images = torch.stack([torch.full((1, 2, 3), value / 10) for value in range(5)])
    sheet = plots.tile(images, columns=2)
    assert sheet.shape == (3 * 3 - 1, 2 * 4 - 1, 1)
    assert [round(sheet[row, column, 0].item(), 1) for row in (0, 3, 6) for column in (0, 4)] == [
        0,
        0.1,
        0.2,
        0.3,
        0.4,
        1,
    ]
    assert bool((sheet[2] == 1).all() & (sheet[:, 3] == 1).all())


def every_figure(tiny):
    model = build(Spec(latent_dim=2))
    history = fit(model, tiny, validation=tiny, epochs=2, binarization="threshold", progress=False, device="cpu")
    x = tiny.as_float()
    plane = latent.to_plane(latent.codes(model, tiny))
    colours = torch.rand(7, 3, 8, 8)
    return [
        plots.image_grid(x, "grid"),
        plots.image_grid(colours, columns=7),
        plots.reconstructions(x, x, "pairs", columns=5),
        plots.reconstructions(x[:1], x[:1]),
        plots.latent_scatter(plane, tiny.labels, tiny.class_names, "codes"),
        plots.latent_scatter(plane),
        plots.manifold(latent.manifold(model, 4), "even"),
        plots.manifold(latent.manifold(model, 4, spacing="quantiles"), "quantiles"),
        plots.learning_curves(history, "curves"),
        plots.learning_curves(History(history.epochs[:1])),
    ]


def test_every_figure_draws_with_labelled_axes_and_nothing_global(tiny):
    settings = dict(mpl.rcParams)
    for figure in every_figure(tiny):
        assert isinstance(figure, Figure)
        figure.savefig(io.BytesIO(), format="png")
        for axes in figure.axes:
            if len(axes.lines) or len(axes.collections):
                assert axes.get_xlabel()
    assert dict(mpl.rcParams) == settings


def test_scatter_has_a_colour_and_a_marker_for_each_class(tiny):
    plane = latent.Plane(torch.randn(12, 2), ("$z_1$", "$z_2$"))
    figure = plots.latent_scatter(plane, tiny.labels, tiny.class_names)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["even", "odd"]
    even, odd = figure.axes[0].collections
    np.testing.assert_allclose(even.get_offsets(), plane.codes[::2])
    np.testing.assert_allclose(odd.get_offsets(), plane.codes[1::2])
    assert even.get_facecolors().tolist() != odd.get_facecolors().tolist()
    assert len(even.get_paths()[0].vertices) != len(odd.get_paths()[0].vertices)  # a circle and a square
    assert len(set(plots.COLOURS)) == len(set(plots.MARKERS)) == 10


def test_curves_show_what_there_is(tiny):
    history = fit(build(Spec(latent_dim=2)), tiny, epochs=1, binarization="threshold", progress=False, device="cpu")
    assert [len(axes.lines) for axes in plots.learning_curves(history).axes] == [1] * 4


def test_pictures_are_saved_small_and_look_the_same(tmp_path):
    grey = plots.image_grid(torch.rand(100, 1, 28, 28), "noise")
    points = latent.Plane(torch.randn(3000, 2), ("$z_1$", "$z_2$"))
    scatter = plots.latent_scatter(points, torch.arange(3000) % 10)
    for figure, tolerance in ((grey, 0), (scatter, 24)):
        whole = io.BytesIO()
        figure.savefig(whole, dpi=150, format="png")
        small = with_palette(whole.getvalue())
        assert len(small) < 0.75 * len(whole.getvalue())
        before, after = (np.asarray(Image.open(file).convert("RGB"), int) for file in (whole, io.BytesIO(small)))
        assert np.abs(before - after).max() <= tolerance
        with Image.open(plots.save_figure(figure, tmp_path / "small.png")) as saved:
            assert saved.mode == "P"


def test_pictures_of_many_colours_are_saved_as_they_are(tmp_path):
    figure = plots.image_grid(torch.rand(100, 3, 28, 28), "noise")
    with Image.open(plots.save_figure(figure, tmp_path / "colours.png")) as saved:
        assert len(np.unique(np.asarray(saved.convert("RGB")).reshape(-1, 3), axis=0)) > 50_000


def test_other_formats_are_written(tmp_path):
    figure = plots.image_grid(torch.rand(4, 1, 4, 4))
    assert plots.save_figure(figure, tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert plots.save_figure(figure, tmp_path / "a.svg").read_text().startswith("<?xml")


def test_long_titles_are_wrapped():
    title = "an image, encoded once and decoded from so many draws that its title is long " * 2
    figure = plots.image_panels({"one": torch.rand(4, 1, 8, 8)}, 3, 2, title)
    figure.canvas.draw()
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


def test_many_lines_differ_in_colour_or_style():
    curves = [plots.Curve(str(index), [1, 2], [index, index]) for index in range(14)]
    lines = plots.curve_panels([plots.Panel("panel", "epoch", "nats", curves)]).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 14


def test_rows_must_be_as_long_as_each_other():
    with pytest.raises(InputError, match="row 'short': given '2 images', expected 3"):
        plots.image_rows({"long": torch.rand(3, 1, 8, 8), "short": torch.rand(2, 1, 8, 8)})


def test_grey_levels_are_shown_as_grey():
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8).repeat(3).reshape(1, 1, 3, 3)
    for argument in (levels, levels.numpy(), levels / 255, (levels / 255).numpy(), (levels / 255).requires_grad_()):
        (image,) = plots.image_grid(argument).axes[0].images
        np.testing.assert_allclose(image.get_array()[0], [0, 0.2, 1])
    (image,) = plots.manifold(levels[None]).axes[0].images
    np.testing.assert_allclose(image.get_array()[0], [0, 0.2, 1])


def test_pixels_of_a_normal_distribution_are_black_or_white_outside():
    (image,) = plots.image_grid(torch.tensor([-0.5, 0.2, 1.5, 1.0]).reshape(1, 1, 2, 2)).axes[0].images
    np.testing.assert_allclose(image.get_array(), [[0, 0.2], [1, 1]])


def test_labels_are_any_whole_numbers():
    plane = latent.Plane(torch.rand(3, 2), ("$z_1$", "$z_2$"))
    for labels in ([0, 1, 1], np.array([0, 1, 1]), torch.tensor([0, 1, 1])):
        figure = plots.latent_scatter(plane, labels, ("a", "b"))
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


X = torch.rand(4, 1, 8, 8)
PLANE = latent.Plane(torch.rand(3, 2), ("$z_1$", "$z_2$"))
SHAPE = r"expected images of shape \(N, C, H, W\)"
PANEL = plots.Panel("p", "x", "y", [plots.Curve("a", [1], [2])])


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (
            "images: given 'whole numbers up to 255', expected .*uint8",
            lambda: plots.image_grid((X * 255).round() * 0 + 255),
        ),
        ("images: given '256 values that are not finite'", lambda: plots.image_grid(X * math.nan)),
        (f"images: given Tensor .*, {SHAPE}", lambda: plots.image_grid(X[0])),
        (f"images: given Tensor .*, {SHAPE}", lambda: plots.image_grid(X[:0])),
        (f"images: given Tensor .*, {SHAPE}", lambda: plots.image_grid(X.expand(4, 2, 8, 8))),
        ("images: given 'a', expected a tensor", lambda: plots.image_grid("a")),
        ("images: given None, expected a tensor", lambda: plots.image_grid(None)),
        ("columns: given 0", lambda: plots.image_grid(X, columns=0)),
        ("columns: given 2.5", lambda: plots.tile(X, 2.5)),
        ("columns: given 0", lambda: plots.reconstructions(X, X, columns=0)),
        (f"reconstructed: given Tensor .*, {SHAPE}", lambda: plots.reconstructions(X, X[0])),
        ("rows: given {}, expected a dictionary", lambda: plots.image_rows({})),
        ("rows: given Tensor .*, expected a dictionary", lambda: plots.image_rows(X)),
        (
            "row 'b': given Tensor .*, expected images of shape .1, 8, 8.,",
            lambda: plots.image_rows({"a": X, "b": X[..., 1:]}),
        ),
        ("column_names: given .'a'., expected 4 names", lambda: plots.image_rows({"a": X}, ["a"])),
        ("captions: given 'abcd', expected 4 texts", lambda: plots.captioned_images(X, "abcd")),
        ("captions: given .'a'., expected 4 texts", lambda: plots.captioned_images(X, ["a"])),
        ("captions: given None, expected 4 texts", lambda: plots.captioned_images(X, None)),
        ("columns: given 0", lambda: plots.captioned_images(X, ["a"] * 4, columns=0)),
        ("curves: given {}", lambda: plots.roc_curves({})),
        ("curve 'a': given .*, expected a pair", lambda: plots.roc_curves({"a": torch.zeros(3)})),
        ("curve 'a': given .*, expected as many", lambda: plots.roc_curves({"a": (torch.zeros(3), torch.zeros(2))})),
        ("weights: given .*at least 0", lambda: plots.sampling_weights(-torch.ones(4), {"a": X})),
        ("weights: given .*at least 0", lambda: plots.sampling_weights(torch.zeros(4), {"a": X})),
        ("weights: given .*shape", lambda: plots.sampling_weights(torch.ones(2, 2), {"a": X})),
        ("rows: given {}", lambda: plots.sampling_weights(torch.ones(4), {})),
        ("shares: given {}", lambda: plots.sampling_weights(torch.ones(4), {"a": X}, {})),
        ("panels: given {}", lambda: plots.image_panels({}, 2, 2)),
        ("tiles: given 0", lambda: plots.image_panels({"a": X}, 2, 0)),
        ("columns: given 0", lambda: plots.image_panels({"a": X}, 0, 2)),
        ("images: given Tensor .*, expected a grid", lambda: plots.manifold(X)),
        ("spacing: given 'evn', .*did you mean 'even'", lambda: plots.manifold(X.reshape(2, 2, 1, 8, 8), "evn")),
        ("grids: given {}", lambda: plots.manifold_panels({})),
        ("plane: given Tensor .*, expected a Plane", lambda: plots.latent_scatter(PLANE.codes)),
        ("codes of the plane: given Tensor", lambda: plots.latent_scatter(PLANE._replace(codes=X[0, 0]))),
        ("labels: given .0, 1., expected 3 whole numbers", lambda: plots.latent_scatter(PLANE, [0, 1])),
        ("labels: given .'a', 'b', 'c'., expected", lambda: plots.latent_scatter(PLANE, ["a", "b", "c"])),
        ("class_names: given .'a'., expected a name for each", lambda: plots.latent_scatter(PLANE, [0, 1, 2], ["a"])),
        ("planes: given {}", lambda: plots.latent_panels({})),
        ("plane 'a': given Tensor", lambda: plots.latent_panels({"a": PLANE.codes})),
        ("columns: given 0", lambda: plots.latent_panels({"a": PLANE}, columns=0)),
        ("densities: given {}", lambda: plots.density_panels({})),
        (
            "density 'a': given Plane|density 'a': given .*, expected a Density",
            lambda: plots.density_panels({"a": PLANE}),
        ),
        (
            "projected: given Tensor .*, expected at least 2",
            lambda: plots.projections(PLANE.codes, PLANE.codes[:2], "abc"),
        ),
        ("histories: given .*, expected a dictionary of Histories", lambda: plots.learning_curves([History()])),
        ("histories: given 'history.csv', expected a dictionary", lambda: plots.learning_curves("history.csv")),
        ("histories: given 3, expected a History", lambda: plots.learning_curves({"a": 3})),
        ("panels: given .*, expected a list", lambda: plots.curve_panels([])),
        ("panels: given .*, expected a list", lambda: plots.curve_panels(PANEL)),
        ("figure: given 'a.png', expected a Figure", lambda: plots.save_figure("a.png", plots.image_grid(X))),
        ("figure: given None, expected a Figure", lambda: plots.save_figure(None, "a.png")),
        ("path: given None, expected a path", lambda: plots.save_figure(plots.image_grid(X), None)),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(message, call):
    with pytest.raises(InputError, match=f"^(?:{message})") as error:
        call()
    assert "\n" not in str(error.value)


def test_bad_input_is_named(tmp_path):
    with pytest.raises(InputError, match="picture format: given 'pgn', .*did you mean 'png'"):
        plots.save_figure(plots.image_grid(torch.rand(1, 1, 4, 4)), tmp_path / "a.pgn")
    with pytest.raises(InputError, match="reconstructed: given"):
        plots.reconstructions(torch.rand(2, 1, 4, 4), torch.rand(1, 1, 4, 4))
    assert not list(tmp_path.iterdir())


def test_a_collapsed_code_is_a_point_not_a_cloud_of_rounding(caplog):
    plane = latent.Plane(1e-4 * torch.randn(50, 2), ("$z_1$", "$z_2$"))
    axes = plots.latent_scatter(plane).axes[0]
    assert all(high - low >= 1 for low, high in (axes.get_xlim(), axes.get_ylim()))
    axes.figure.canvas.draw()
    assert all(high - low >= 1 for low, high in (axes.get_xlim(), axes.get_ylim()))
    assert not caplog.records  # of limits that matplotlib ignores


def history_of(reconstructions):
    epochs = [
        Epoch(i + 1, 1.0, value + 2, value, 2.0, value + 2, value, 2.0, 1.0, 1.0)
        for i, value in enumerate(reconstructions)
    ]
    return History(epochs)


def test_a_reconstruction_that_goes_below_zero_has_no_share_of_the_kl():
    """A density may be above one: the quotient then runs to 1, to infinity, and back from below."""
    positive, negative = history_of([3.0, 2.0, 1.0]), history_of([3.0, 0.1, -5.0])

    def panels(histories):
        return {axes.get_title(): axes.lines for axes in plots.learning_curves(histories).axes}

    assert "share of the KL" in panels(positive)
    assert list(panels(negative)) == ["loss", "reconstruction", "KL"]
    both = panels({"Bernoulli": positive, "Gaussian": negative})
    assert (len(both["loss"]), len(both["share of the KL"])) == (4, 2)  # a training and a validation curve each
    assert all(0 <= y <= 1 for line in both["share of the KL"] for y in line.get_ydata())
    assert curves._share(3.0, 1.0, 2.0) == 0.4
    assert math.isnan(curves._share(0.0, 0.0, 1.0))


STYLE = {
    "text.usetex": True,
    "figure.facecolor": "black",
    "axes.facecolor": "red",
    "savefig.facecolor": "blue",
    "savefig.dpi": 20,
    "savefig.bbox": "tight",
    "savefig.transparent": True,
    "image.origin": "lower",
    "axes.grid": True,
    "font.size": 30.0,
    "lines.linewidth": 9.0,
    "axes.titlesize": 40.0,
    "figure.autolayout": True,
    "svg.fonttype": "none",
}


def test_a_users_matplotlibrc_changes_no_figure(tmp_path):
    plane = latent.Plane(torch.arange(24.0).reshape(12, 2), ("$z_1$", "$z_2$"))
    panel = plots.Panel("loss", "epoch", "nats", [plots.Curve("a", [1, 2], [3, 4]), plots.Curve("b", [1, 2], [1, 2])])

    def pictures():
        return [
            plots.image_grid(torch.linspace(0, 1, 64).reshape(4, 1, 4, 4), "title"),
            plots.image_rows({"row": torch.rand(3, 1, 4, 4).round() * 0}, ["a", "b", "c"]),
            plots.latent_scatter(plane, torch.arange(12) % 2, ("even", "odd"), "codes"),
            plots.curve_panels([panel]),
        ]

    expected = [plots.save_figure(figure, tmp_path / "a.png").read_bytes() for figure in pictures()]
    with mpl.rc_context(STYLE):
        settings = dict(mpl.rcParams)
        actual = [plots.save_figure(figure, tmp_path / "a.png").read_bytes() for figure in pictures()]
        assert dict(mpl.rcParams) == settings
        for part in figures.curves([("a", "train", [{"epoch": 1, "train_loss_nats": 2.0}])])["panels"]:
            assert part["source"].startswith("data:image/svg+xml")
    assert actual == expected


@pytest.mark.parametrize("name", ["a$b$", r"$\frac$", "_hidden", "日本", "n" * 300, "two\nlines"])
def test_names_in_figures_are_shown_as_they_are(tmp_path, name):
    plane = latent.Plane(torch.randn(12, 2), ("$z_1$", "$z_2$"))
    labels = torch.arange(12) % 2
    panel = plots.Panel(name, "epoch", "nats", [plots.Curve(name, [1, 2], [3, 4]), plots.Curve("b", [1, 2], [1, 2])])
    x = torch.rand(4, 1, 8, 8)
    scatter = plots.latent_scatter(plane, labels, (name, "other"), name)
    figures = [
        scatter,
        plots.latent_panels({name: plane}, labels, (name, "other"), title=name),
        plots.image_grid(x, name),
        plots.image_rows({name: x, "b": x}, [name] * 4, name),
        plots.image_panels({name: x}, 3, 2, name),
        plots.reconstructions(x, x, name),
        plots.captioned_images(x, [name] * 4, name),
        plots.roc_curves({name: (torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))}, name),
        plots.curve_panels([panel], title=name),
        plots.sampling_weights(
            torch.tensor([0.0, 1.0, 2.0, 900.0]), {name: x}, {name: (0.2, 0.8), "b": (0.8, 0.2)}, name
        ),
    ]
    for index, figure in enumerate(figures):
        assert plots.save_figure(figure, tmp_path / f"{index}.png").stat().st_size > 500
    texts = [text.get_text() for text in scatter.legends[0].get_texts()]
    assert texts == [name if len(name) < 30 else "n" * 27 + "...", "other"]


def test_sampling_weights_show_multiples_of_the_mean_and_shares_of_classes():
    weights = torch.tensor([0.0, 1.0, 1.0, 6.0])  # 0, 1/2, 1/2 and 3 times the mean
    shares = {"a": (0.75, 0.25), "b": (0.25, 0.75)}
    figure = plots.sampling_weights(weights, {"largest": X}, shares)
    histogram, bars = figure.axes[1:]
    edges = [(patch.get_x(), patch.get_x() + patch.get_width(), patch.get_height()) for patch in histogram.patches]
    assert sum(height for *_, height in edges) == 4
    for value, count in ((1e-12, 1), (0.5, 2), (3.0, 1)):
        assert sum(height for low, high, height in edges if low <= value < high) == count
    assert [patch.get_height() for patch in bars.patches] == [0.75, 0.25, 0.25, 0.75]
    assert [label.get_text() for label in bars.get_xticklabels()] == ["a", "b"]
    figure.draw_without_rendering()
    assert bars.get_legend().get_window_extent().y0 >= bars.get_window_extent().y1  # over no bar
    assert len(plots.sampling_weights(weights, {"largest": X}).axes) == 2


def test_more_classes_than_a_legend_holds_are_counted(tmp_path):
    plane = latent.Plane(torch.randn(900, 2), ("$z_1$", "$z_2$"))
    figure = plots.latent_scatter(plane, torch.arange(900) % 300, title="many")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:2] + texts[-1:] == ["0", "1", "and 277 more"]
    plots.save_figure(figure, tmp_path / "many.png")  # the layout has room for it: no warning


def test_a_history_without_a_kl_has_no_curve_of_it():
    """As of an autoencoder or an adversarial model; the panel of the KL is left out where no history has one."""
    epoch = Epoch(1, 1.0, 3.0, 3.0, 0.0, 3.5, 3.5, 0.0, 1.0, 10.0)
    without = History((epoch, dataclasses.replace(epoch, epoch=2)))
    alone = {axes.get_title(): axes.lines for axes in plots.learning_curves(without).axes}
    assert list(alone) == ["loss", "reconstruction"]
    having = History((dataclasses.replace(epoch, train_kl_nats=1.0, validation_kl_nats=1.0),))
    both = {axes.get_title(): axes.lines for axes in plots.learning_curves({"a": without, "b": having}).axes}
    assert [len(both[name]) for name in ("loss", "KL", "share of the KL")] == [4, 2, 2]


def test_the_columns_of_a_sheet_have_names():
    (axes,) = plots.image_grid(torch.rand(6, 1, 4, 4), "Two", 3, ["0", "4", "$1"]).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "4", "$1"]
    assert list(axes.get_xticks()) == [1.5, 6.5, 11.5]
    with pytest.raises(InputError, match="column_names: given .*, expected 3 names, one for each column"):
        plots.image_grid(torch.rand(6, 1, 4, 4), "Two", 3, ["0"])


def test_a_traversal_has_its_numbers_below_and_its_amounts_above():
    values = torch.arange(6.0).reshape(2, 3)
    figure = plots.traversal(torch.rand(2, 3, 1, 4, 4), [-1.0, 0.0, 1.0], {"thickness": values, "log p": -values}, "t")
    figure.savefig(io.BytesIO(), format="png")
    assert [axes.get_xlabel() for axes in figure.axes] == [f"{i}\n{-i}" if i else "0\n-0" for i in range(6)]
    assert [axes.get_title() for axes in figure.axes] == ["-1 sd", "0", "+1 sd", "", "", ""]
    assert " ".join(figure.get_suptitle().split()) == "t; under each image: thickness, log p"


def test_the_matrix_of_effects_is_in_rows_of_directions():
    effects = {
        f"direction {row}": {
            f"attribute {column}": Effect(9, 0.1 * (row - column), None, float(row + column)) for column in range(3)
        }
        for row in range(2)
    }
    figure = plots.effect_matrix(effects, "effects")
    figure.savefig(io.BytesIO(), format="png")
    rho, change = figure.axes
    assert [text.get_text() for text in rho.texts] == ["+0.00", "-0.10", "-0.20", "+0.10", "+0.00", "-0.10"]
    assert [text.get_text() for text in change.texts] == ["+0.00", "+1.00", "+2.00", "+1.00", "+2.00", "+3.00"]
    assert [label.get_text() for label in rho.get_yticklabels()] == ["direction 0", "direction 1"]
    assert [label.get_text() for label in change.get_xticklabels()] == [f"attribute {column}" for column in range(3)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.traversal(torch.rand(2, 1, 4, 4), [0.0], {}), "images: given"),
        (lambda: plots.traversal(torch.rand(2, 3, 1, 4, 4), [0.0], {}), "amounts_sd: given"),
        (lambda: plots.traversal(torch.rand(2, 1, 1, 4, 4), [0.0], {"a": torch.rand(2, 2)}), "values 'a': given"),
        (lambda: plots.effect_matrix({}), "effects: given"),
        (
            lambda: plots.effect_matrix({"x": {"a": Effect(1, 0.0, None, 0.0)}, "y": {}}),
            r"effects 'y': given \[\], expected a",
        ),
    ],
)
def test_traversals_that_do_not_fit_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
