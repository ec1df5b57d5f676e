"""
How good is the guide? Diagnostics with ArviZ
=============================================

A VAE's q(z|x) only approximates the posterior; importance sampling says for each image how well. ArviZ draws the
diagnostics, the posterior of z of an image, and the posterior predictive distribution of its pixels.
"""

import warnings

import matplotlib.pyplot as plt

from pyro_vae import Spec, build, fit, load_data
from pyro_vae.evaluation import to_inference_data

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ announces its next major version on import
    import arviz as az
ARVIZ_1 = int(az.__version__.split(".")[0]) >= 1  # two of its plots changed

# %%
# A small VAE with a 2-d latent space, on binary digits.
train, test = load_data("digits")
vae = build(Spec(latent_dim=2, network={"kind": "mlp", "activation": "relu"}))
fit(vae, train, epochs=40, batch_size=64, lr=2e-3, binarization="threshold")

# %%
# Thirty test images as ArviZ's InferenceData: draws from q(z|x), resampled by importance weights towards p(z|x).
data = to_inference_data(vae, test.take(slice(0, 30)), binarization="threshold", draws=400, k=2000)
print(data)

# %%
# Pareto k of each image: above 0.7 the guide misses so much of the posterior that the estimates are unreliable.
az.plot_khat(data.constant_data if ARVIZ_1 else data.constant_data.pareto_k, threshold=0.7)
khat = plt.gcf()

# %%
# The posterior of an image, and its summary. R-hat and effective sample sizes are for Markov chains; these draws are
# independent, so `kind="stats"`.
az.plot_pair(data, var_names=["z"], coords={"image": 0})
pair = plt.gcf()
print(az.summary(data, var_names=["z"], coords={"image": [0, 1]}, kind="stats"))

# %%
# The posterior predictive distribution of pixels, with the observed pixels.
if ARVIZ_1:
    az.plot_ppc_dist(data, num_samples=50)
else:
    az.plot_ppc(data, num_pp_samples=50)
predicted = plt.gcf()
