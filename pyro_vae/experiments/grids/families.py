"""One model of each kind on MNIST, with the same networks where the kind takes them, 20 epochs each."""

from dataclasses import replace

from pyro_vae.experiments.study import Claim, Entry, Picture, Study
from pyro_vae.spec import Spec

COMMON = Spec(
    dataset="mnist",
    network={"kind": "mlp", "activation": "relu"},
    hidden=(400,),
    latent_dim=20,
    binarization="dynamic",
    epochs=20,
    validation_fraction=0.0,
)
QUANTIZED = {"kind": "vector-quantized", "codes": 64, "channels": (16, 32), "blocks": 1, "code_prior": "autoregressive"}
DRAWN = ("vae", "adversarial", "hierarchical", "ladder", "vector-quantized", "semi-supervised", "mixture")

STUDY = Study(
    name="families",
    title="One model of each kind",
    document="the papers that the notes name, each of its own networks and many more epochs",
    cost="about 145 min of training on one CPU core that other work shared",
    entries=(
        Entry("vae", COMMON),
        Entry("autoencoder", replace(COMMON, model="autoencoder")),
        Entry("adversarial", replace(COMMON, model="adversarial")),
        Entry("conditional-label", replace(COMMON, model="conditional")),
        Entry("conditional-half", replace(COMMON, model={"kind": "conditional", "condition": "quadrants-2"})),
        Entry("hierarchical", replace(COMMON, model="hierarchical"), {"nll_nats": 84.78}),
        Entry("ladder", replace(COMMON, model="ladder", beta_warmup=10), {"nll_nats": 81.74}),
        Entry("vector-quantized", replace(COMMON, model=QUANTIZED, network="mlp", latent_dim=16)),
        Entry(
            "semi-supervised",
            replace(COMMON, model={"kind": "semi-supervised", "labels": 100}),
            {"label_accuracy": 0.932},
        ),
        Entry("mixture", replace(COMMON, model="mixture")),
    ),
    columns=(
        "reconstruction_nats",
        "kl_per_sample",
        "elbo_nats",
        "nll_nats",
        "active_units",
        "label_accuracy",
        "cluster_accuracy",
        "codes_used",
        "frechet",
    ),
    pictures=(
        Picture(
            "samples.png",
            "samples",
            DRAWN,
            title="Samples",
            caption="Test images, and the decoded means of draws from the prior of each model that draws without a "
            "condition.",
            alt="Rows of digits: test images, then the samples of each kind of model.",
        ),
        Picture(
            "reconstructions.png",
            "reconstructions",
            ("vae", "conditional-half", "ladder", "vector-quantized", "mixture"),
            {"per_class": 1},
            title="Reconstructions",
            caption="Test images, and the decoded means of their codes; of conditional-half the left half is seen.",
            alt="Rows of the ten digits: originals, then reconstructions.",
        ),
        Picture(
            "curves.png",
            "training_curves",
            ("vae", "hierarchical", "ladder", "mixture"),
            title="Training",
            caption="Loss, reconstruction and KL over the epochs, on the training images.",
            alt="Curves over the epochs for four kinds of model.",
        ),
    ),
    claims=(
        Claim(
            "A second stochastic layer improves on the first (Burda et al., 2016)", "elbo_nats", ("vae", "hierarchical")
        ),
        Claim("A learned mixture as the prior improves on a normal", "elbo_nats", ("vae", "mixture")),
    ),
    notes=(
        "Published: hierarchical, Burda et al., 2016, two stochastic layers, 50 draws per image in training (85.33 "
        "with one), https://arxiv.org/abs/1509.00519; ladder, Sønderby et al., 2016, five layers and 2,000 epochs, "
        "https://arxiv.org/abs/1602.02282; semi-supervised, Pyro's example ss_vae_M2, with more epochs. The others "
        "publish no number of this kind.",
        "The ladder differs from the hierarchical model in more than the direction of inference: it has one layer "
        "more, another activation, batch normalization and a warm-up of beta.",
        "ELBO and NLL of conditional models are of log p(x|condition): of conditional-half, of half of the pixels.",
        "The guide of a vector-quantized model is a point, so that its ELBO is all there is; an adversarial model has "
        "neither ELBO nor NLL.",
    ),
)
