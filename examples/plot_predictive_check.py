"""
Predictive checks
=================

Does the model fit the images? Statistics of the data set (here the number of pixels that are on, and how much
neighbours differ) are compared with the same statistics of replicated data sets.
"""

import argparse

from pyro_vae import Spec, build, fit, load_data
from pyro_vae.evaluation import pixels_on, predictive_check, total_variation
from pyro_vae.plots import predictive_panels

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)

vae = build(
    Spec(
        dataset=arguments.dataset,
        latent_dim=4,
        hidden=(100,),
        network={"kind": "mlp", "activation": "relu"},
    )
)
fit(vae, train, epochs=30, batch_size=64, lr=2e-3, binarization="threshold", progress=False)


# %%
# A statistic of your own: of the pixels that are on, the share in the upper half.
def upper_half(x):
    return x[..., : x.shape[-2] // 2, :].flatten(1).sum(1) / x.flatten(1).sum(1).clamp(min=1)


statistics = {"pixels on": pixels_on, "total variation": total_variation, "upper half": upper_half}
images = test.take(slice(0, 300))
for kind in ("prior", "posterior"):
    check = predictive_check(vae, images, statistics, kind=kind, binarization="threshold")
    for name, statistic in check.statistics.items():
        print(
            f"{kind}: {name:15} mean {statistic.observed_mean:6.2f}, p = {statistic.p_mean:.3f}",
            end="; ",
        )
        print(f"sd {statistic.observed_sd:.2f}, p = {statistic.p_sd:.3f}")
figure = predictive_panels(check, title=f"Posterior predictive check, {arguments.dataset}")
