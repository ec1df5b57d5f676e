"""
Classes from fifty labels
=========================

A semi-supervised VAE learns the class of an image from few labels and many images without one. Here 50 of 1,437 digits
have a label. The class y is a latent variable of the others: the objective sums over its ten values, with the weights
q(y|x). What is left for z is the style of a digit, so that a style can be drawn in every class.
"""

import torch

from pyro_vae import Spec, build, evaluate, fit, load_data, plots

train, test = load_data("digits")
common = {"latent_dim": 5, "hidden": (128,), "network": {"kind": "mlp", "activation": "relu"}}
common |= {"binarization": "threshold", "epochs": 40, "batch_size": 64, "lr": 2e-3}

# %%
# The labels are drawn by the model: the same number of each class. Those images are repeated, so that each batch has
# some. Evaluation withholds all labels, and then compares.
half_known = {"kind": "semi-supervised", "labels": 50, "alpha": 10.0}
model = build(Spec(model=half_known, **common))
fit(model, train)
accuracy = evaluate(model, test, metrics=["codes"]).label_accuracy
print(f"{accuracy:.1%} of the test images get their label")

# %%
# The same networks with the 50 images alone, all of which have a label: a classifier, and a VAE of little data.
few = model.training_images(train)
few = few.take((few.labels >= 0).nonzero()[:, 0])
alone = build(Spec(model={"kind": "semi-supervised", "alpha": 10.0}, **common))
fit(alone, few, epochs=150)
accuracy = evaluate(alone, test, metrics=["codes"]).label_accuracy
print(f"{accuracy:.1%} without the images that have no label")

# %%
# Style and class. In each row, z is that of the test image on the left, and y is 0 to 9.
x = (test.take(slice(0, 6)).as_float() >= 0.5).float()
with torch.no_grad():
    own = model.classify(x).argmax(1)
    style = model.q_of_z(x, own).mean
    of_classes = model.likelihood_of(torch.arange(10)[:, None], style).mean
rows = torch.cat([x[None], of_classes]).transpose(0, 1).flatten(0, 1)
styles = plots.image_grid(rows, "Test images, and their style in each class", columns=11)

# %%
# Draws of each class: p(z), decoded with the class that is asked for.
with torch.random.fork_rng(), torch.no_grad():
    torch.manual_seed(0)
    z = model.prior_of_z().sample((6, 10))
    drawn = model.likelihood_of(torch.arange(10), z).mean.flatten(0, 1)
samples = plots.image_grid(drawn, "Samples, a column for each class", columns=10)
