"""Semi-supervised classification: the label is a latent variable that some images come with."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

from pyro_vae._utils import checks
from pyro_vae.data import Images
from pyro_vae.models.base import PyroPair, batch_size_of, check_classes, check_images, decode
from pyro_vae.models.vae import weighted
from pyro_vae.part_classes import construct
from pyro_vae.spec import Spec

_LOG_OF_NOTHING = -1e4  # exp of it is 0 in any precision, and 0 times it is 0 and not NaN, as 0 times -inf would be


class SemiSupervised(PyroPair):
    r"""A VAE whose images have a class y, which is known of a few of them and latent in the others: "M2".

    .. math:: p(x, y, z) = p(y)\, p(z)\, p(x|y, z), \qquad q(y, z|x) = q(y|x)\, q(z|x, y)
    .. math:: \mathcal L(x, y) = \mathbb E_{q(z|x, y)}\big[\log p(x|y, z) + \log p(y) + \log p(z) - \log q(z|x, y)\big]
    .. math:: \mathcal U(x) = \sum_y q(y|x) \big(\mathcal L(x, y) - \log q(y|x)\big)

    Training maximises :math:`\mathcal L` on images with a label, plus :math:`\alpha \log q(y|x)`, and
    :math:`\mathcal U` on the others. The sum over y is Pyro's enumeration, so it needs the objective `enumerated`; of
    an image with a label, q(y|x) is a point mass. Evaluation withholds all labels.

    Args:
        spec: whose network, with its hidden layers, the classifier, the encoder and the decoder are.
        image_shape: `(C, H, W)`.
        latent_dim: dimension of z.
        prior: `()` -> p(z).
        likelihood: parameters -> p(x|y, z).
        posterior: parameters -> q(z|x, y).
        classes: the number of them; p(y) is uniform.
        labels: how many labels training knows, the same number of each class where that divides it, drawn by the
            spec's seed; 0: those that the images have.
        share: of the training images that labelled ones make up, at least: they are repeated until they do, so that
            each batch has some.
        alpha: weight of log q(y|x) of labelled images; 0 leaves this classification loss out. (With n of N images
            labelled, each counts about `share * N / n` times in an epoch. The paper weighs each by 0.1 N / n, which is
            alpha = 1 here.)

    Source: Kingma et al., "Semi-supervised learning with deep generative models", 2014,
    https://arxiv.org/abs/1406.5298

    >>> from pyro_vae import Spec, build
    >>> model = build(Spec(model={"kind": "semi-supervised", "labels": 100}, latent_dim=2))
    >>> model.classify(torch.rand(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    >>> model.model(labels=torch.arange(10)).shape  # draws of each class
    torch.Size([10, 1, 8, 8])
    """

    kind = "semi-supervised"
    default_objective = "enumerated"
    withheld = ("labels",)  #: from evaluation: the label is what the model infers
    spec: Spec | None = None  #: what :func:`~pyro_vae.build` made it from
    class_logits: Tensor

    def __init__(
        self,
        spec: Spec,
        image_shape: tuple[int, ...],
        latent_dim: int,
        prior: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        classes: int = 10,
        labels: int = 0,
        share: float = 0.1,
        alpha: float = 1.0,
    ) -> None:
        super().__init__()
        self._set(classes, labels, share, alpha, spec.seed)
        channels = image_shape[0] * int(likelihood.parameters_per_pixel)  # type: ignore[arg-type]
        sizes = {"image_shape": image_shape, "latent_dim": latent_dim + classes, "hidden": spec.hidden}
        sizes |= {"decoded_shape": (channels, *image_shape[1:])}
        units = spec.hidden[-1] if spec.hidden else classes
        network = construct("network", spec.network, num_outputs=units, **sizes)
        self.classifier = construct("network", spec.network, num_outputs=classes, **sizes).encoder
        self.encoder = EncoderGivenClass(network.encoder, units, classes, int(posterior.num_parameters))  # type: ignore[arg-type]
        self.decoder = network.decoder
        self.prior_of_z = prior
        self.likelihood = likelihood
        self.posterior = posterior

    def _set(self, classes: int, labels: int, share: float, alpha: float, seed: int) -> None:
        """The options, checked."""
        self.classes = checks.positive_integer("classes", classes)
        self.labels = checks.non_negative_integer("labels", labels)
        self.share = checks.non_negative("share", share)
        if self.share >= 1:
            raise checks.fail("share", share, "a share from 0 to below 1")
        self.alpha = checks.non_negative("alpha", alpha)
        self.seed = seed
        self.register_buffer("class_logits", torch.zeros(classes), persistent=False)

    def model(
        self,
        x: Tensor | None = None,
        beta: float | Tensor = 1.0,
        labels: Tensor | None = None,
        *,
        size: int | None = None,
    ) -> Tensor:
        """p(x, y, z), with log p(y) and log p(z) weighted by `beta`.

        Without x it draws an image of each of the classes `labels`, `(N,)`, or `size` images of any class. The labels
        of x are for the guide.
        """
        self.register("prior_of_z", "decoder", "likelihood")
        asked = self.asked_for(x, labels)
        with pyro.plate("data", batch_size_of(x, size, asked)):
            with weighted(beta):
                y = pyro.sample("y", self.prior_of_y(), obs=asked)  # log p(y) (eq. 16.1)
                z = pyro.sample("z", self.prior_of_z())  # log p(z)
            return pyro.sample("x", self.likelihood_of(y, z), obs=x)  # log p(x|y, z)

    def guide(self, x: Tensor, beta: float | Tensor = 1.0, labels: Tensor | None = None) -> None:
        """q(y|x) q(z|x, y), weighted by `beta`; labels `(N,)`, -1 where unknown, hold q(y|x) at the label."""
        self.register("classifier", "encoder", "posterior")
        check_labels(x, labels)
        with pyro.plate("data", x.shape[0]):
            self.infer(check_images(x), beta, labels)

    def infer(self, x: Tensor, beta: float | Tensor, labels: Tensor | None) -> None:
        """The sites of the guide, within its plate."""
        q = self.q_of_y(x)
        if labels is not None:
            loss = _classification_loss(q, labels)  # a guide's factor is subtracted from the bound
            pyro.factor("classification", self.alpha * loss, has_rsample=True)  # alpha log q(y|x) (eq. 16.7)
            q = _held(q, labels)  # (eq. 16.5)
        with weighted(beta):
            y = pyro.sample("y", q, infer={"enumerate": "parallel"})  # the sum over y, and log q(y|x) (eq. 16.4)
            pyro.sample("z", self.q_of_z(x, y))  # log q(z|x, y) (eq. 16.3)

    def asked_for(self, x: Tensor | None, labels: Tensor | None) -> Tensor | None:
        """The classes of the images to draw, checked; the labels of images x are not the model's."""
        if x is not None or labels is None:
            return None
        check_classes("labels", self, labels)
        return labels

    def prior_of_y(self) -> dist.Categorical:
        """p(y), uniform, batch shape `()`."""
        return dist.Categorical(logits=self.class_logits)

    def likelihood_of(self, y: Tensor, z: Tensor) -> dist.TorchDistribution:
        """p(x|y, z) for classes `(...)` and codes `(..., d)`, which broadcast."""
        return decode(self.decoder, self.likelihood, self.with_class(y, z))

    def with_class(self, y: Tensor, z: Tensor) -> Tensor:
        """z and the indicators of y, `(..., d + classes)`."""
        shape = torch.broadcast_shapes(y.shape, z.shape[:-1])
        parts = z, functional.one_hot(y, self.classes).to(z.dtype)
        return torch.cat([part.expand(*shape, -1) for part in parts], -1)

    def q_of_y(self, x: Tensor) -> dist.Categorical:
        """q(y|x) for images `(N, C, H, W)`: batch shape `(N,)`."""
        return dist.Categorical(logits=self.classifier(x))

    def q_of_z(self, x: Tensor, y: Tensor) -> dist.TorchDistribution:
        """q(z|x, y) for images `(N, C, H, W)` and classes `(..., N)`, or `(K, 1)`: event shape `(d,)`."""
        return self.posterior(self.encoder(x, y))

    def classify(self, x: Tensor) -> Tensor:
        """q(y|x), the probability of each class, `(N, classes)`, for images `(N, C, H, W)`."""
        return self.q_of_y(check_images(x)).probs

    def training_images(self, images: Images) -> Images:
        """What :func:`~pyro_vae.fit` trains on: `images` with `labels` known labels, those with a label repeated.

        Raises:
            InputError: no label is known, fewer are than `labels`, or one is of no class of this model.
        """
        labels = images.labels
        if labels is None or not bool((labels >= 0).any()):
            expected = "images of which some have a label: Images(pixels, labels), with -1 where it is unknown"
            raise checks.fail("images", f"{images.name} without a known label", expected)
        if (highest := int(labels.max())) >= self.classes:
            raise checks.fail("model.classes", self.classes, f"at least {highest + 1}, for the labels of the images")
        if self.labels > (known := int((labels >= 0).sum())):
            raise checks.fail("model.labels", self.labels, f"at most {known}, the labels of {images.name}")
        partly = images.with_known_labels(self.labels, self.seed) if self.labels else images
        labelled = (labels if partly.labels is None else partly.labels).ge(0).nonzero()[:, 0]
        unlabelled = len(partly) - len(labelled)
        times = math.ceil(self.share * unlabelled / ((1 - self.share) * len(labelled)))
        every = torch.arange(len(partly), device=labelled.device)
        return partly.take(torch.cat([every, labelled.repeat(max(times - 1, 0))]))


class EncoderGivenClass(nn.Module):
    r"""Images and classes -> parameters of q(z|x, y), in which the network of the image runs once for all classes.

    .. math:: \text{parameters} = W\, \mathrm{relu}(f(x) + e_y) + b

    Args:
        features: f, images `(N, C, H, W)` -> `(N, units)`.
        units: the size of the vectors :math:`e_y`, which are parameters.
        classes: the number of them.
        num_outputs: the number of parameters of q.
    """

    def __init__(self, features: nn.Module, units: int, classes: int, num_outputs: int) -> None:
        super().__init__()
        self.features = features
        self.of_class = nn.Embedding(classes, units)
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(units, num_outputs))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Parameters `(..., N, num_outputs)` for classes `(..., N)`, or `(K, 1)`."""
        return self.head(self.features(x) + self.of_class(y))


def check_labels(x: Tensor, labels: Tensor | None) -> None:
    """Checks that there is one label for each image, if there are any; what they are, a captured step can't check."""
    if labels is None:
        return
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.shape != x.shape[:1]:
        raise checks.fail("labels", labels, f"the label of each image, whole numbers of shape ({len(x)},)")


def _classification_loss(q: dist.Categorical, labels: Tensor) -> Tensor:
    """-log q(y|x) of each image with a label, `(N,)`; 0 of the others."""
    return torch.where(labels >= 0, -q.log_prob(labels.clamp(min=0)), 0.0)


def _held(q: dist.Categorical, labels: Tensor) -> dist.Categorical:
    """q(y|x), and a point mass at the label of each image that has one."""
    is_other = torch.arange(q.logits.shape[-1], device=labels.device) != labels[:, None]
    at_label = is_other.to(q.logits.dtype) * _LOG_OF_NOTHING
    return dist.Categorical(logits=torch.where(labels[:, None] >= 0, at_label, q.logits))
