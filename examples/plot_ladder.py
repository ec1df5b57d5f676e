"""
Several stochastic layers: which of them are used
=================================================

Two posteriors for the same generative model of three layers: inferred from the image upwards, and as a ladder, from the
top down. The theory is in the chapter on several stochastic layers.
"""

import torch
from pyro import poutine

from pyro_vae import Spec, build, fit, latent, load_data, plots
from pyro_vae.evaluation import bounds

train, test = load_data("digits")
fields = {
    "latent_dim": 16,
    "hidden": (128,),
    "network": {"kind": "mlp", "activation": "leaky-relu", "batch_norm": True},
    "binarization": "threshold",
    "batch_size": 64,
    "lr": 3e-3,
    "epochs": 40,
    "beta_warmup": 10,
}
layers = {"upper": (8, 4), "upper_hidden": (64, 32), "activation": "leaky-relu", "batch_norm": True}

# %%
# Both are trained alike. After every fourth epoch: the KL of each layer on the test images, which is
# what the layer tells of an image, in nats.
models = {
    kind: build(Spec(model={"kind": kind, **layers}, **fields))
    for kind in ("hierarchical", "ladder")
}
kl = {kind: {} for kind in models}


def measure(epoch, model, history):
    if epoch % 4 == 0:
        kl[model.kind][epoch] = bounds(model, test).kl_by_site


for model in models.values():
    fit(model, train, callback=measure)

# %%
# All layers of the ladder carry information to the end. The top layer that is inferred upwards hardly
# carries any.
panels = [
    plots.Panel(
        kind,
        "epoch",
        "KL, nats per image",
        [
            plots.Curve(site, list(of), [values[site] for values in of.values()])
            for site in ("z1", "z2", "z3")
        ],
    )
    for kind, of in kl.items()
]
used = plots.curve_panels(panels, title="KL of each layer")

# %%
# What does each layer of the ladder decide? The upper layers are those of an image, by the posterior,
# and the rest are drawn from the prior given these: `poutine.condition` fixes sites of the model.
ladder = models["ladder"].eval()
x = (test.as_float()[:12] >= 0.5).float()
rows = {"image": x}
with torch.no_grad():
    torch.manual_seed(0)
    posterior = poutine.trace(ladder.guide).get_trace(x)
    for sites in (["z3"], ["z3", "z2"], ["z3", "z2", "z1"]):
        fixed = {name: posterior.nodes[name]["value"] for name in sites}
        drawn = poutine.trace(poutine.condition(ladder.model, data=fixed)).get_trace(size=len(x))
        rows[", ".join(sites)] = drawn.nodes["x"]["fn"].mean
decided = plots.image_rows(
    rows, title="Layers of the image's posterior; the others drawn from the prior"
)

# %%
# Samples from the prior of the ladder.
samples = plots.image_grid(latent.prior_samples(ladder, 24), "Samples of the ladder", columns=12)
