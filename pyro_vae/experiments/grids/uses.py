"""What people do with a trained VAE, on MNIST and Fashion-MNIST: four models, and the commands of each."""

from dataclasses import replace

from pyro_vae.experiments.study import Entry, Study, Use
from pyro_vae.spec import Spec

COMMON = Spec(
    dataset="mnist",
    network={"kind": "mlp", "activation": "relu"},
    hidden=(500, 500),
    latent_dim=32,
    schedule="cosine",
    epochs=20,
    validation_fraction=0.0,
)
LEVELS = {"kind": "discretized-logistic", "components": 3}
SCORES = "elbo,nll,reconstruction,complexity,typicality,codes"

STUDY = Study(
    name="uses",
    title="What a trained VAE is good for",
    document="the papers that each use names in its own page",
    cost="about 70 min of training and half an hour of its commands on one CPU core that other work shared",
    entries=(
        Entry("mnist", replace(COMMON, binarization="threshold")),
        Entry("fashion", replace(COMMON, dataset="fashion-mnist", likelihood=LEVELS)),
        Entry("mnist-dynamic", replace(COMMON, binarization="dynamic")),
        Entry("fashion-dynamic", replace(COMMON, dataset="fashion-mnist", binarization="dynamic")),
    ),
    columns=(
        "reconstruction_nats",
        "kl_per_sample",
        "elbo_nats",
        "bits_per_dimension",
        "mse_per_pixel",
        "active_units",
    ),
    uses=(
        *(
            Use(model, "denoise", {"noise": noise, "n": n_images})
            for model, n_images, noises in (
                ("mnist", 200, ("gaussian:0.2", "gaussian:0.4", "gaussian:0.8", "salt-and-pepper:0.3")),
                ("fashion", 20, ("gaussian:0.2", "salt-and-pepper:0.3")),
            )
            for noise in noises
        ),
        *(
            Use("mnist", "inpaint", {"mask": mask, "method": method, "n": 200})
            for mask in ("top", "center", "random:0.5")
            for method in ("importance", "adaptive-importance", "metropolis", "collapsed-metropolis", "pseudo-gibbs")
        ),
        *(
            Use(model, "outliers", {"against": other, "scores": scores, "n": 250, "k": 100})
            for model, other, scores in (
                ("mnist-dynamic", "fashion-mnist", f"{SCORES},regret"),
                ("fashion-dynamic", "mnist", f"{SCORES},regret"),
                ("fashion", "mnist", SCORES),
            )
        ),
        Use("mnist-dynamic", "traverse", {"attribute": ["thickness", "slant", "width"]}),
        Use("mnist-dynamic", "debias"),
        Use("mnist-dynamic", "neighbours"),
        Use("fashion-dynamic", "neighbours"),
    ),
    notes=(
        "The models mnist and mnist-dynamic have Bernoulli pixels, of images that are black and white at a "
        "threshold of 1/2 or drawn anew in each batch; fashion a discretized likelihood of the 256 grey levels.",
        "Regret ascends for each image, which takes long with 256 grey levels: fashion is without, the page on "
        "outliers has it.",
        "uses.csv has the numbers of the commands, which pyro-vae report shows with their figures. Baselines of "
        "other libraries are not among them: the pages of the uses have these.",
    ),
)
