"""
PCA and a linear autoencoder
============================

Document 003 starts with five points and their first principal component, and says that a linear autoencoder need not
converge to PCA. It does converge to PCA's *subspace*; only its basis of the subspace differs.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn

from pyro_vae import load_data

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)

# %%
# The five points.
points = np.array([(-0.5, -0.4), (-0.4, -0.1), (0.1, 0.0), (0.3, 0.3), (0.5, 0.2)])
pca = PCA(1).fit(points)
codes = pca.transform(points)
codes, direction = (
    codes * np.sign(pca.components_[0, 0]),
    pca.components_ * np.sign(pca.components_[0, 0]),
)
decoded = codes @ direction + pca.mean_
for name, point, code, back in zip("ABCDE", points, codes[:, 0], decoded, strict=True):
    print(f"{name} {point} -> {code:5.2f} -> ({back[0]:.2f}, {back[1]:.2f})")

figure, axes = plt.subplots(figsize=(5.5, 4.2), layout="constrained")
axes.axline(pca.mean_, pca.mean_ + direction[0], color="#999999", label="first principal component")
axes.plot(*points.T, "o", color="#0072B2", label="points")
axes.plot(*decoded.T, "s", color="#D55E00", label="decoded")
for name, point, back in zip("ABCDE", points, decoded, strict=True):
    axes.plot(*np.stack([point, back]).T, color="#D55E00", linewidth=1)
    axes.annotate(name, point, textcoords="offset points", xytext=(6, 6))
axes.set_xlabel("$x_1$")
axes.set_ylabel("$x_2$")
axes.set_aspect("equal")
axes.legend()

# %%
# A linear autoencoder with 8 dimensions, trained on the images, and the angles between its subspace and PCA's.
x = train.as_float().flatten(1)
x = x - x.mean(0)
torch.manual_seed(0)
encoder, decoder = nn.Linear(x.shape[1], 8, bias=False), nn.Linear(8, x.shape[1], bias=False)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-2)
subspace = torch.linalg.svd(x, full_matrices=False).Vh[:8].T
angles, steps = [], range(0, 1501, 50)
for step in range(1501):
    if step % 50 == 0:
        q = torch.linalg.qr(decoder.weight.detach()).Q
        cosines = torch.linalg.svdvals(subspace.T @ q).clamp(max=1)
        angles.append(torch.rad2deg(cosines.acos()).numpy())
    loss = (decoder(encoder(x)) - x).square().sum(1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

approach, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
axes.semilogy(steps, np.maximum(np.array(angles), 1e-2))
axes.set_xlabel("step")
axes.set_ylabel("principal angles to PCA's subspace, degrees")
axes.grid(alpha=0.3)
print(f"largest angle at the end: {angles[-1].max():.2f} degrees")
