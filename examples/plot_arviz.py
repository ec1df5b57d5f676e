"""
Is the guide any good? ArviZ's answer
=====================================

A VAE's posterior q(z|x) is an approximation, and importance sampling can say for each image how good it is. ArviZ
draws the rest: what z may be for an image, and what images the model would have expected.
"""

import warnings

from pyro_vae import Spec, build, fit, load_data
from pyro_vae.evaluation import to_inference_data

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ announces its next major version on import
    import arviz as az

# %%
# A small VAE with a 2-d latent space, on binary digits.
train, test = load_data("digits")
vae = build(Spec(latent_dim=2, activation="relu"))
fit(vae, train, epochs=40, batch_size=64, lr=2e-3, binarization="threshold")

# %%
# Thirty test images as ArviZ sees them: draws from q(z|x), resampled by importance weights, so that they follow p(z|x).
data = to_inference_data(vae, test.take(slice(0, 30)), binarization="threshold", draws=400, k=2000)
print(data)

# %%
# Pareto k of each image: above 0.7 the guide misses so much of the posterior that its estimates are not to be believed.
khat = az.plot_khat(data.constant_data.pareto_k, threshold=0.7).figure

# %%
# The posterior of one image, and what the summary says of it. R-hat and a chain's effective sample size would mean
# nothing here: the draws are independent, so `kind="stats"`.
pair = az.plot_pair(data, var_names=["z"], coords={"image": 0}).figure
print(az.summary(data, var_names=["z"], coords={"image": [0, 1]}, kind="stats"))

# %%
# Pixels that the model predicts, beside those it was given.
predicted = az.plot_ppc(data, num_pp_samples=50).figure
