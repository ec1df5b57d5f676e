"""Autoencoder and beta-VAEs with a 2-d code on MNIST, watched over 20 epochs; Laplace and uniform codes beside them.

The document prints neither its layers nor its loss. Here it is the cross-entropy of a Bernoulli + beta KL, both summed.
"""

from dataclasses import replace

from pyro_vae.experiments.study import COLUMNS, SCORES, Claim, Entry, Picture, Study
from pyro_vae.spec import Spec

COMMON = Spec(
    dataset="mnist",
    network={"kind": "mlp", "activation": "relu"},
    hidden=(400, 100),
    latent_dim=2,
    epochs=20,
    validation_fraction=0.0,
    objective="elbo",
)
BETAS = ("beta0", "beta1", "beta5", "beta50", "beta200")
EPOCHS = {"epochs": (1, 5, 10, 20)}

STUDY = Study(
    name="elbo-beta",
    title="The two terms of the ELBO",
    document="Baklazhenko, Conner, Vallmanya and Wielath, “Understanding the ELBO in VAEs and beta-VAEs”, 2023",
    cost="about 15 min of training on one CPU core",
    entries=(
        Entry("autoencoder", replace(COMMON, model="autoencoder")),
        Entry("beta0", replace(COMMON, beta=0.0)),
        Entry("beta1", replace(COMMON, beta=1.0)),
        Entry("beta5", replace(COMMON, beta=5.0)),
        Entry("beta50", replace(COMMON, beta=50.0)),
        Entry("beta200", replace(COMMON, beta=200.0)),
        Entry("laplace", replace(COMMON, prior="laplace", posterior="laplace")),
        Entry("uniform", replace(COMMON, prior="uniform", posterior="uniform")),
    ),
    columns=(*COLUMNS, "active_units", "confidence", *SCORES[1:]),
    snapshots=(1, 5, 10),
    pictures=(
        Picture(
            "codes.png",
            "latent_spaces",
            ("autoencoder", "beta1"),
            title="Codes of the 10,000 test images",
            caption="Codes of the autoencoder, and posterior means of the VAE, coloured by digit.",
            alt="Two scatter plots; the autoencoder's codes spread widely, the VAE's lie around the origin.",
        ),
        Picture(
            "many-times.png",
            "decoded_many_times",
            ("beta1",),
            title="One digit, encoded and decoded many times",
            caption="The original first; then the decoded draws from its posterior.",
            alt="A grid of nearly identical digits.",
        ),
        Picture(
            "posterior.png",
            "posterior_density",
            ("beta1", "laplace", "uniform"),
            title="The posterior of one image",
            caption="Density of q(z|x) over the plane of codes, and one draw from it.",
            alt="Maps of the density of q(z|x): an ellipse, a Laplace diamond and a box, with one point each.",
        ),
        Picture(
            "codes-by-epoch.png",
            "latent_spaces_by_epoch",
            BETAS,
            EPOCHS,
            title="Codes over the epochs",
            caption="Posterior means of test images after 1, 5, 10 and 20 epochs, for each beta.",
            alt="A grid of scatter plots, one row a beta, one column an epoch.",
        ),
        Picture(
            "reconstructions-by-epoch.png",
            "reconstructions_by_epoch",
            BETAS,
            EPOCHS,
            title="Reconstructions over the epochs",
            caption="Originals over reconstructions after 1, 5, 10 and 20 epochs, for each beta.",
            alt="A grid of digits with their reconstructions, one row a beta, one column an epoch.",
        ),
        Picture(
            "samples-by-epoch.png",
            "samples_by_epoch",
            BETAS,
            EPOCHS,
            title="Samples over the epochs",
            caption="Decoded draws from the prior after 1, 5, 10 and 20 epochs, for each beta.",
            alt="A grid of sampled digits, one row a beta, one column an epoch.",
        ),
        Picture(
            "curves.png",
            "training_curves",
            BETAS,
            title="The parts of the loss",
            caption="Loss, reconstruction, beta KL, and the share of beta KL in the loss, over the epochs.",
            alt="Curves over 20 epochs for each beta.",
        ),
        Picture(
            "confidence.png",
            "confidence_by_epoch",
            BETAS,
            EPOCHS,
            title="How sure a classifier is",
            caption="Mean top-class probability of samples and of reconstructions, over that of real test images.",
            alt="Curves of the relative confidence over the epochs for each beta.",
        ),
        Picture(
            "samples-around.png",
            "samples_around",
            ("beta0", "beta5"),
            {"mean": 1.0, "sd": 0.5},
            title="Samples around a point",
            caption="Decoded draws from N(1, 0.5), 0.5 being the standard deviation, as in the document.",
            alt="Two grids of decoded digits.",
        ),
        Picture(
            "other-codes.png",
            "latent_spaces",
            ("beta1", "laplace", "uniform"),
            title="Normal, Laplace and uniform codes",
            caption="Posterior means of the test images under three priors.",
            alt="Three scatter plots: round, diamond-shaped, and filling a square.",
        ),
        Picture(
            "other-samples.png",
            "samples",
            ("beta1", "laplace", "uniform"),
            title="Samples of the normal, the Laplace and the uniform VAE",
            caption="Test images, then decoded draws from each prior.",
            alt="Rows of digits.",
        ),
    ),
    claims=(
        Claim("Samples of beta = 5 are more recognizable than those of beta = 0", "confidence", ("beta0", "beta5")),
        Claim("The KL falls with beta", "kl_per_sample", ("beta50", "beta5", "beta1")),
        *(
            Claim(
                f"The share of the KL in the loss rises over the epochs, beta = {beta}",
                ("kl_share_first_epoch", "kl_share_last_epoch"),
                (f"beta{beta}", f"beta{beta}"),
            )
            for beta in (1, 5, 50)
        ),
        Claim("The reconstruction error rises with beta", "mse_per_pixel", ("beta0", "beta1", "beta5", "beta200")),
    ),
    notes=(
        "Grey pixels under a Bernoulli: the loss is a cross-entropy, not a log-likelihood of the data.",
        "Without its weight the posterior of beta = 0 shrinks to a point, whose KL is infinite: it has none here.",
        "From beta = 50 on the code is ignored (no active unit, KL 0); so it was with the summed squared error. "
        "The document's beta = 50 still tells digits apart: its two terms must have been scaled otherwise than here.",
        "The document says of 200 to 500 that the reconstructions are inadequate; 200 is here.",
        "The scores are by this project's own classifier of MNIST, not by the document's.",
    ),
)
