"""Draws docs/_static/what-comes-out.png from two runs of benchmarks/readme_numbers.py.

`python docs/picture.py RUNS --data-root DATA`
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from pyro_vae import latent, load, load_data, plots

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("runs", type=Path)
parser.add_argument("--data-root")
arguments = parser.parse_args()

figure = plt.figure(figsize=(10, 4.3), layout="constrained")
left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 0.95])
columns = 9
for axes, name, run in (
    (left, "fashion-mnist", "fashion-beta0.25"),
    (middle, "mnist", "mnist-d16"),
):
    test = load_data(name, arguments.data_root).test
    model = load(arguments.runs / run)
    originals = test.as_float()[: 3 * columns]
    rows = []
    for three in originals.split(columns):
        rows += [three, model.reconstruct(three).detach()]
    rows += list(latent.prior_samples(model, 3 * columns).split(columns))
    for position, sheet in enumerate(rows):
        place = axes.inset_axes([0, 1 - (position + 1) / len(rows), 1, 0.98 / len(rows)])
        place.imshow(
            plots.tile(sheet, columns).squeeze(-1), cmap="gray", vmin=0, vmax=1, aspect="auto"
        )
        place.set_xticks([])
        place.set_yticks([])
        place.spines[:].set_visible(False)
    axes.set_title({"fashion-mnist": "Fashion-MNIST", "mnist": "MNIST"}[name], fontsize=11)
    axes.set_axis_off()
left.set_axis_on()
left.spines[:].set_visible(False)
left.set_xticks([])
positions = [1 - (index + 0.5) / 9 for index in range(9)]
left.set_yticks(positions, [*["image", "reconstruction"] * 3, *["sample"] * 3], fontsize=9)
left.tick_params(length=0)
images = latent.manifold(load(arguments.runs / "mnist-d2"), size=14, spacing="quantiles")
right.imshow(
    plots.tile(images.flatten(0, 1), 14, gap=0).squeeze(-1), cmap="gray", vmin=0, vmax=1
)
right.set_axis_off()
right.set_anchor("N")
right.set_title("MNIST, a 2-d latent space", fontsize=11)
figure.savefig(
    Path(__file__).parent / "_static" / "what-comes-out.png", dpi=110, facecolor="white"
)
