"""Convolutional autoencoder and VAE on MNIST, of 2 and of 16 latent dimensions."""

from dataclasses import replace

from pyro_vae.experiments.study import COLUMNS, SCORES, Claim, Entry, Picture, Study
from pyro_vae.spec import Spec

COMMON = Spec(
    dataset="mnist", network="conv", epochs=25, batch_size=128, lr=1e-3, validation_fraction=0.0, objective="elbo"
)
VAES = ("vae_d2", "vae_d16")
ALL = ("ae_d2", "vae_d2", "ae_d16", "vae_d16")

STUDY = Study(
    name="ablation",
    title="Latent dimension of a convolutional VAE on MNIST",
    document="Shonia, “Variational Autoencoders on MNIST: latent space structure, sampling, and ablation study”, 2026",
    cost="about 80 min of training on one CPU core",
    entries=(
        Entry("ae_d2", replace(COMMON, model="autoencoder", latent_dim=2, hidden=(256, 256))),
        Entry(
            "vae_d2",
            replace(COMMON, latent_dim=2, hidden=(256, 256)),
            {"reconstruction_nats": 137.0, "kl_per_sample": 6.0, "loss_nats": 143.0},
        ),
        Entry("ae_d16", replace(COMMON, model="autoencoder", latent_dim=16, hidden=(256,))),
        Entry(
            "vae_d16",
            replace(COMMON, latent_dim=16, hidden=(256,)),
            {"reconstruction_nats": 74.99, "kl_per_sample": 22.52, "loss_nats": 97.51},
        ),
    ),
    columns=COLUMNS + SCORES,
    pictures=(
        Picture(
            "curves.png",
            "training_curves",
            ALL,
            title="Training",
            caption="Loss, reconstruction and KL over the epochs, on the training images.",
            alt="Curves over 25 epochs: the losses fall; the KL of d = 16 is above that of d = 2.",
        ),
        Picture(
            "reconstructions.png",
            "reconstructions",
            ALL,
            title="Reconstructions",
            caption="Test images, and the decoded mean of the posterior.",
            alt="Rows of digits: originals, then the reconstructions of each model.",
        ),
        Picture(
            "samples.png",
            "samples",
            VAES,
            title="Samples",
            caption="Decoded draws from the prior.",
            alt="Rows of digits: test images, then samples of each VAE.",
        ),
        Picture(
            "codes.png",
            "latent_spaces",
            ALL,
            title="Codes of the test images",
            caption="Posterior means, coloured by digit; for 16 dimensions their first two principal components.",
            alt="Scatter plots of codes, one panel a model, one colour a digit.",
        ),
        Picture(
            "interpolations.png",
            "interpolations",
            ALL,
            title="Interpolation",
            caption="The line between the codes of two test images, decoded.",
            alt="Rows of digits, each changing step by step from one test image to another.",
        ),
    ),
    claims=(
        Claim("A larger latent dimension improves the reconstruction", "reconstruction_nats", ("vae_d16", "vae_d2")),
        Claim("The KL is larger with more dimensions", "kl_per_sample", ("vae_d2", "vae_d16")),
        Claim("The autoencoder of d = 2 reconstructs better than the VAE", "reconstruction_nats", ("ae_d2", "vae_d2")),
        Claim(
            "The autoencoder of d = 16 reconstructs better than the VAE", "reconstruction_nats", ("ae_d16", "vae_d16")
        ),
    ),
    notes=(
        "Grey pixels under a Bernoulli, as in the document: the loss is a cross-entropy, not a log-likelihood.",
        "Reconstruction and KL are on the test images; the reconstruction decodes one posterior sample.",
    ),
)
