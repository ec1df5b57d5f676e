"""Gaussian encoder and Bernoulli decoder with tanh layers, 2 to 50 latent dimensions, MNIST."""

from dataclasses import replace

from pyro_vae.experiments.study import COLUMNS, SCORES, Claim, Entry, Picture, Study
from pyro_vae.spec import Spec

COMMON = Spec(
    dataset="mnist",
    network="mlp",
    hidden=(500,),
    likelihood="bernoulli",
    epochs=25,
    validation_fraction=0.0,
    objective="elbo",
)
ALL = ("z2", "z5", "z10", "z50")

STUDY = Study(
    name="latent-dims",
    title="How many latent dimensions?",
    document="Sánchez Salazar, Hernández Antón, Íñiguez Gómez and Cantón Simó, “Variational Autoencoders”, "
    "Universitat de Barcelona, 2024",
    cost="about 10 min of training on one CPU core",
    entries=(
        Entry("z2", replace(COMMON, latent_dim=2)),
        Entry("z5", replace(COMMON, latent_dim=5)),
        Entry("z10", replace(COMMON, latent_dim=10)),
        Entry("z50", replace(COMMON, latent_dim=50)),
    ),
    columns=COLUMNS + SCORES,
    pictures=(
        Picture(
            "reconstructions.png",
            "reconstructions",
            ALL,
            {"per_class": 1},
            title="One image of each digit",
            caption="Test images, and the decoded posterior mean for each number of dimensions.",
            alt="Rows of the ten digits: originals, then reconstructions, better from row to row.",
        ),
        Picture(
            "manifold.png",
            "manifolds",
            ("z2",),
            title="The plane of codes, decoded",
            caption="Codes on an even 20 x 20 grid from -3 to 3.",
            alt="A square of 400 small digits that change smoothly from one into another.",
        ),
        Picture(
            "codes.png",
            "latent_spaces",
            ALL,
            {"per_class": 24},
            title="Codes of 24 images of each digit",
            caption="Posterior means; beyond 2 dimensions their first two principal components.",
            alt="Scatter plots of 240 codes, one panel a model, one colour a digit.",
        ),
        Picture(
            "curves.png",
            "training_curves",
            ALL,
            title="Training",
            caption="Loss, reconstruction and KL over the epochs, on the training images.",
            alt="Curves over the epochs for each number of dimensions.",
        ),
    ),
    claims=(
        Claim("More dimensions reconstruct better", "reconstruction_nats", ("z10", "z5", "z2")),
        Claim("50 dimensions reconstruct better than 10", "reconstruction_nats", ("z50", "z10")),
        Claim("50 dimensions are a worse model than 10 (ELBO)", "elbo_nats", ("z50", "z10")),
    ),
    notes=("Grey pixels under a Bernoulli, as in the document: the loss is a cross-entropy, not a log-likelihood.",),
)
