"""What a lecture on VAEs shows: PCA and linear autoencoders, random codes, likelihood variances, a manifold."""

from dataclasses import replace

from pyro_vae.experiments.study import COLUMNS, SCORES, Claim, Entry, Picture, Study
from pyro_vae.spec import Spec

RELU = {"kind": "mlp", "activation": "relu"}
MNIST = Spec(dataset="mnist", hidden=(400,), network=RELU, epochs=20, validation_fraction=0.0, objective="elbo")
GAUSSIAN = replace(MNIST, likelihood="gaussian", latent_dim=10)
OF_VARIANCE = {c: replace(GAUSSIAN, likelihood={"kind": "gaussian", "variance": c}) for c in (0.005, 0.02, 0.1, 2.0)}
# `linear`: the mean of the likelihood is the decoder's output itself, with no sigmoid after it.
LINEAR = replace(MNIST, model="autoencoder", likelihood="gaussian-linear", hidden=(), epochs=60)
CIFAR = Spec(
    dataset="cifar10",
    objective="elbo",
    network={"kind": "conv", "channels": (32, 64, 128)},
    hidden=(256,),
    likelihood={"kind": "gaussian", "variance": 0.02},
    latent_dim=64,
    epochs=10,
    validation_fraction=0.0,
)

STUDY = Study(
    name="lecture",
    title="A lecture on VAEs",
    document="Gardos, “Variational Autoencoders”, DS542 lecture, Boston University, 2025",
    cost="about 25 min of training on one CPU core",
    entries=(
        Entry("linear_z2", replace(LINEAR, latent_dim=2)),
        Entry("linear_z6", replace(LINEAR, latent_dim=6)),
        Entry("autoencoder", replace(GAUSSIAN, model="autoencoder")),
        Entry("vae", GAUSSIAN),
        Entry("c0.005", OF_VARIANCE[0.005]),
        Entry("c0.02", OF_VARIANCE[0.02]),
        Entry("c0.1", OF_VARIANCE[0.1]),
        Entry("c2", OF_VARIANCE[2.0]),
        Entry("manifold", replace(MNIST, latent_dim=2)),
        Entry("cifar10_autoencoder", replace(CIFAR, model="autoencoder"), optional=True),
        Entry("cifar10_vae", CIFAR, optional=True),
    ),
    columns=COLUMNS + SCORES,
    pictures=(
        Picture(
            "pca.png",
            "pca_example",
            (),
            title="PCA of five points",
            caption="The lecture's points A to E, encoded as one number each and decoded again.",
            alt="Five points in the plane, and their projections on a line.",
        ),
        Picture(
            "linear.png",
            "linear_autoencoders",
            ("linear_z2", "linear_z6"),
            title="Linear autoencoders and PCA",
            caption="Principal components, the nearest directions of each decoder, and the angles between the spaces.",
            alt="Rows of component images, and curves of principal angles and of squared errors.",
        ),
        Picture(
            "random-codes.png",
            "random_codes",
            ("autoencoder", "vae"),
            title="Decoding random codes",
            caption="Standard normal codes, decoded by the autoencoder and by the VAE.",
            alt="Rows of images: the autoencoder's are smears, the VAE's look like digits.",
        ),
        Picture(
            "variances.png",
            "likelihood_variances",
            ("c0.005", "c0.02", "c0.1", "vae", "c2"),
            title="The variance c of the likelihood",
            caption="Reconstructions under N(f(z), cI); a small c weighs the squared error by C = 1/(2c).",
            alt="Rows of reconstructions, sharper for smaller c, and curves of sharpness and error against c.",
        ),
        Picture(
            "manifold.png",
            "manifolds",
            ("manifold",),
            {"spacing": "quantiles"},
            title="The unit square, decoded",
            caption="Even points of the unit square through the inverse normal CDF, decoded.",
            alt="A square of 400 small digits that change smoothly from one into another.",
        ),
        Picture(
            "cifar10.png",
            "reconstructions",
            ("cifar10_autoencoder", "cifar10_vae"),
            title="CIFAR-10",
            caption="Test images and their reconstructions.",
            alt="Rows of small colour photographs and their blurred reconstructions.",
        ),
        Picture(
            "cifar10-samples.png",
            "samples",
            ("cifar10_vae",),
            title="CIFAR-10: samples",
            caption="Test images, and decoded draws from the prior.",
            alt="Rows of small colour photographs, then of blurred samples.",
        ),
    ),
    claims=(
        Claim(
            "The variance of the likelihood weighs reconstruction against KL: the error falls with it",
            "mse_per_pixel",
            ("c0.005", "c0.02", "c0.1", "vae", "c2"),
        ),
        Claim("and the KL rises", "kl_per_sample", ("c2", "vae", "c0.1", "c0.02", "c0.005")),
    ),
    notes=("Losses of different variances, and of other likelihoods, are not comparable.",),
)
