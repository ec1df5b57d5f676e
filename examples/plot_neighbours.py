"""
Nearest neighbours
==================

Which training images are nearest to a test image: by its code, and by its pixels? And how many of the ten
nearest are of the same class, for codes, pixels, and as many principal components as the code has dimensions?
"""

import argparse

import matplotlib.pyplot as plt
import torch

from pyro_vae import Spec, build, fit, load_data, plots
from pyro_vae.uses.neighbours import nearest, retrieval, spaces

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)
vae = build(
    Spec(dataset=arguments.dataset, latent_dim=8, network={"kind": "mlp", "activation": "relu"})
)
fit(
    vae,
    train,
    epochs=60 if arguments.dataset == "digits" else 20,
    batch_size=64,
    lr=2e-3,
    binarization="dynamic",
)

# %%
# The ten nearest training images of each test image, in each space.
queries = test.draw(300)
near = {name: nearest(*rows, k=10) for name, rows in spaces(vae, queries, train).items()}
results = {name: retrieval(each, train.labels, queries.labels) for name, each in near.items()}
for name, result in results.items():
    print(f"{name:8} precision at 10: {result.precision:.3f} ± {result.precision_se:.3f}")

# %%
# Some test images, the first column, and their five nearest by codes and by pixels.
gap = torch.ones(1, *train.shape)
rows = {}
for query in range(6):
    parts = [queries.as_float()[query : query + 1]]
    for space in ("codes", "pixels"):
        parts += [gap, train.pixels[near[space].index[query, :5]] / 255]
    rows[f"test image {query + 1}"] = torch.cat(parts)
columns = ["image", "", "codes", "", "", "", "", "", "pixels", "", "", "", ""]
pictures = plots.image_rows(rows, columns, "Nearest training images")

# %%
# By class.
figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
width = 0.8 / len(results)
for index, (name, result) in enumerate(results.items()):
    labels = torch.tensor(list(result.by_class))
    position = labels + (index - 1) * width
    axes.bar(position, result.by_class.values(), width, color=plots.COLOURS[index], label=name)
axes.set_xticks(range(len(train.class_names)), train.class_names)
axes.set_xlabel("class of the test image")
axes.set_ylabel("precision at 10")
figure.legend(loc="outside right center")
