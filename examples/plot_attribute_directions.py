"""
Changing an image along an attribute direction
==============================================

Document 003 shows faces that are made to smile: encode an image, move its code in the direction of an attribute, and
decode. With digits an attribute is the class, and its direction the difference of the mean codes of two classes; or
what is measured of the strokes, and its direction the covariance of the code with it. The last part samples around a
point of the latent space, as document 001 does with N(1, 0.5).
"""

import argparse

import torch

from pyro_vae import Spec, build, fit, latent, load_data, plots
from pyro_vae.latent.directions import (
    covariance_direction,
    even_amounts,
    orthogonalised,
    regression_direction,
)
from pyro_vae.uses.attributes import effects, measured_along, measured_attributes, traverse

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)
vae = build(
    Spec(
        dataset=arguments.dataset,
        latent_dim=8,
        likelihood={"kind": "gaussian-learned", "variance": 0.05},
        network={"kind": "mlp", "activation": "relu"},
    )
)
fit(vae, train, epochs=60 if arguments.dataset == "digits" else 20, batch_size=64, lr=2e-3)

# %%
# From class 3 towards class 8: the codes of five images of a 3, moved by 0 to 1.5 times the direction.
codes = latent.codes(vae, train)
direction = codes[train.labels == 8].mean(0) - codes[train.labels == 3].mean(0)
starts = latent.codes(vae, test.take((test.labels == 3).nonzero()[:5, 0]))
amounts = torch.linspace(0, 1.5, 8)
moved = starts[:, None] + amounts[:, None] * direction
changed = plots.image_grid(
    latent.decode_codes(vae, moved.flatten(0, 1)), "From 3 towards 8, five images", columns=8
)

# %%
# Slant, measured in the training images. Codes of test images are moved along its direction, and the decoded images are
# measured again; log p(z) tells how far from usual codes the direction leads.
measured = measured_attributes(train.as_float())
slant = covariance_direction(codes, measured["slant"])
some = latent.codes(vae, test.draw(100))
slanted = traverse(vae, some, slant, even_amounts(codes, slant, range_sd=1.5))
below = {
    "slant": measured_along(slanted)["slant"][:4],
    "log p(z) in nats": slanted.log_prior[:4],
}
sd = torch.linspace(-1.5, 1.5, 7).tolist()
along = plots.traversal(slanted.images[:4], sd, below, "Along slant, four images")

# %%
# What else changes along directions: each moves its own attribute, and what the data have along with it. Those in the
# lower half are orthogonal to the linear predictions of the other three. Of thickness and width, which eight by eight
# pixels hardly tell apart, less is then left to change.
names = ("thickness", "slant", "width", "height")
predictions = {name: regression_direction(codes, measured[name]) for name in names}
directions = {name: covariance_direction(codes, measured[name]) for name in names}
for name in names:
    others = [predictions[other] for other in names if other != name]
    covariance = torch.cov(codes.T)
    directions[f"{name}, orthogonal"] = orthogonalised(directions[name], others, covariance)
matrix = {}
for name, direction in directions.items():
    path = traverse(vae, some, direction, even_amounts(codes, direction))
    matrix[name] = effects(path.amounts, measured_along(path), measured)
changes = plots.effect_matrix(matrix, "From -1 to 1 standard deviations of codes, 100 test images")

# %%
# Interpolation between two images, on the straight line between their codes.
first, last = test.as_float()[:2]
line = plots.image_grid(
    latent.interpolate(vae, first, last, steps=10), "Between two images", columns=10
)

# %%
# Around a point: mean 1, standard deviation 0.5 in each dimension.
z = 1 + 0.5 * torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
around = plots.image_grid(
    latent.decode_codes(vae, z), "Codes from N(1, 0.5), the standard deviation", columns=10
)
