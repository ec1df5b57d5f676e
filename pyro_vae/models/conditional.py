"""The conditional variational autoencoder, of a label or of a part of the image, as a Pyro model/guide pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae import part_classes
from pyro_vae._utils import checks
from pyro_vae.models.base import PyroPair, batch_size_of, check_images, decode
from pyro_vae.models.vae import weighted
from pyro_vae.posteriors import DiagonalNormal
from pyro_vae.spec import SPEC_FIELDS, Spec

CONDITIONS = ("label", "quadrants-1", "quadrants-2", "quadrants-3")

Networks = Callable[..., Any]  #: (num_outputs, latent_dim) -> an encoder and a decoder of the spec's kind


class Conditional(PyroPair):
    r"""A VAE of images given a condition c: the label of each, or some quadrants of its pixels.

    .. math:: p(x, z|c) = p(z|c)\, p(x|z, c), \qquad q(z|x, c)
    .. math:: \mathcal L_\beta(x|c) = \mathbb E_{q(z|x, c)}[\log p(x|z, c)]
              - \beta\, \mathrm{KL}(q(z|x, c) \,\|\, p(z|c))

    `condition="label"`: p(z|c) is a normal distribution for each label, the standard normal at first; the decoder takes
    z and the label, the encoder the image plus a learned image of the label. `model(labels=y)` draws images of these
    labels.

    `condition="quadrants-1"`, `-2`, `-3`: the lower left quadrant of the image is seen, its left half, or all but its
    lower right quadrant. Only the other pixels are random, so that log p(x|c) sums over them alone. A baseline network
    guesses the image from what is seen; p(z|c) is computed from the image completed by the guess, and what the decoder
    gives for z is added to what the baseline network gave. No image is drawn without a part of it: given images,
    :meth:`complete` draws the pixels that are not seen, as does `pyro.poutine.uncondition(model)(x)`.

    All networks are of the spec's kind, and are trained together.

    Args:
        spec: its `network` and `hidden` say what the networks are.
        image_shape: `(C, H, W)`.
        latent_dim: dimension d of z.
        likelihood: parameters -> p(x|z, c).
        posterior: parameters -> q(z|x, c).
        condition: `label`, `quadrants-1`, `quadrants-2` or `quadrants-3`.
        classes: number of labels, which are 0 to classes - 1.
        deterministic: the baseline network alone, p(x|c), without z; only of quadrants.

    Source: Sohn et al., "Learning structured output representation using deep conditional generative models", 2015,
    https://papers.nips.cc/paper/5775

    >>> from pyro_vae import Spec, build
    >>> by_label = build(Spec(model="conditional", latent_dim=2))
    >>> by_label.model(labels=torch.tensor([3, 3, 7])).shape
    torch.Size([3, 1, 8, 8])
    >>> by_half = build(Spec(model={"kind": "conditional", "condition": "quadrants-2"}, latent_dim=2))
    >>> by_half.complete(torch.zeros(3, 1, 8, 8), draws=4).shape
    torch.Size([4, 3, 1, 8, 8])
    """

    kind = "conditional"
    default_objective = "mean-field"
    spec: Spec | None = None  #: what :func:`~pyro_vae.build` made it from

    def __init__(
        self,
        spec: Spec,
        image_shape: Sequence[int],
        latent_dim: int,
        likelihood: nn.Module,
        posterior: nn.Module,
        condition: str = "label",
        classes: int = 10,
        deterministic: bool = False,
    ) -> None:
        super().__init__()
        is_label = checks.one_of("condition", condition, CONDITIONS) == "label"
        if spec.prior != SPEC_FIELDS["prior"].default:
            raise checks.fail("prior", str(spec.prior), f"{SPEC_FIELDS['prior'].default}, for which p(z|c) is learned")
        if checks.boolean("deterministic", deterministic) and is_label:
            raise checks.fail("deterministic", True, f"False, or the condition {', '.join(CONDITIONS[1:])}")
        self.classes = checks.positive_integer("classes", classes)
        self.takes = ("labels",) if is_label else ()  #: what both programs take besides x
        self.condition = None if is_label else condition  #: which part of x they are conditional on
        self.lacks = () if is_label else ("samples",)  #: groups of metrics: no image is drawn without a part of it
        shape = tuple(image_shape)
        networks = _networks(spec, shape, getattr(likelihood, "parameters_per_pixel", 1))
        self.given: Any  # OnLabel or OnPart
        self.label_image: nn.Module | None = None
        if is_label:
            self.given = OnLabel(networks, likelihood, latent_dim, self.classes)
            flat = nn.Linear(self.classes, math.prod(shape), bias=False)
            self.label_image = nn.Sequential(flat, nn.Unflatten(-1, shape))
        else:
            width = max((latent_dim, *spec.hidden))
            seen = quadrants_seen(shape, int(condition[-1]))
            self.given = OnPart(networks, likelihood, seen, width, None if deterministic else latent_dim)
        #: values of an image that log p(x|c) is the probability of, by which bits per dimension divide
        self.dimensions_scored = math.prod(shape) if is_label else shape[0] * int((~self.given.seen).sum())
        self.posterior = None if deterministic else posterior
        self.encoder: nn.Module | None = None
        if not deterministic:
            self.encoder = networks(num_outputs=posterior.num_parameters, latent_dim=latent_dim).encoder

    @property
    def scored(self) -> Tensor | None:
        """Which pixels log p(x|z, c) is of, `(H, W)`; None for all, where c is the label."""
        return None if self.condition is None else ~self.given.seen

    @property
    def likelihood(self) -> nn.Module:
        """Parameters -> p(x|z, c)."""
        likelihood: nn.Module = self.given.likelihood
        return likelihood

    def model(
        self,
        x: Tensor | None = None,
        beta: float | Tensor = 1.0,
        *,
        labels: Tensor | None = None,
        size: int | None = None,
    ) -> Tensor:
        """p(x, z|c), with log p(z|c) weighted by `beta`; x is `(N, C, H, W)`, and None draws images of the labels.

        Raises:
            InputError: the condition is missing: `labels`, or `x` where c is a part of it.
        """
        self.register("given")
        c = self.given.condition(x, labels)
        with pyro.plate("data", batch_size_of(x, size, labels if self.takes else None)):
            z = None
            if self.encoder is not None:
                with weighted(beta):  # beta log p(z|c) (eq. 12.2)
                    z = pyro.sample("z", self.given.codes(c))
            return pyro.sample("x", self.given.images(z, c), obs=x)  # log p(x|z, c) (eq. 12.2)

    def guide(self, x: Tensor, beta: float | Tensor = 1.0, *, labels: Tensor | None = None) -> None:
        """q(z|x, c), with log q weighted by `beta`, and so the whole KL term; empty where there is no z."""
        if self.encoder is None or self.posterior is None:
            return
        self.register("encoder", "posterior")
        if self.label_image is not None:
            self.register("label_image")
            x = check_images(x) + self.label_image(self.given.condition(x, labels))
        with pyro.plate("data", x.shape[0]), weighted(beta):
            pyro.sample("z", self.posterior(self.encoder(check_images(x))))  # beta log q(z|x, c) (eq. 12.2)

    @torch.no_grad()
    def complete(self, x: Tensor, draws: int = 1) -> Tensor:
        """Images with the seen pixels of x, the others the means of p(x|z, c) at draws z of p(z|c).

        Args:
            x: `(N, C, H, W)`; its pixels that are not seen have no effect.
            draws: completions of each image.

        Returns:
            `(draws, N, C, H, W)`.

        Raises:
            InputError: the condition is no part of the image.
        """
        checks.positive_integer("draws", draws)
        if self.takes:
            raise checks.fail("model", "one of labels", "one of a part of the image, which can be completed")
        c = self.given.condition(check_images(x), None)
        z = None if self.encoder is None else self.given.codes(c).sample((draws,))
        return self.given.images(z, c).mean.expand(draws, *x.shape)


class OnLabel(nn.Module):
    """p(z|y) and p(x|z, y) of a label y, which is a row of the unit matrix."""

    rows: Tensor

    def __init__(self, networks: Networks, likelihood: nn.Module, latent_dim: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.eye(classes), persistent=False)
        normal = DiagonalNormal(latent_dim)
        self.prior_of_label = nn.Linear(classes, normal.num_parameters, bias=False)
        nn.init.zeros_(self.prior_of_label.weight)  # mean 0, log variance 0
        self.normal, self.likelihood = normal, likelihood
        self.decoder = networks(num_outputs=latent_dim, latent_dim=latent_dim + classes).decoder

    def condition(self, x: Tensor | None, labels: Tensor | None) -> Tensor:
        """y, `(N, classes)`, of labels `(N,)`."""
        if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
            raise checks.fail("labels", labels, "the label of each image, whole numbers of shape (N,)")
        if x is not None and len(labels) != len(x):
            raise checks.fail("labels", labels, f"{len(x)}, a label for each of the images x")
        try:
            return nn.functional.embedding(labels, self.rows)
        except IndexError as error:
            outside = labels[(labels < 0) | (labels >= len(self.rows))]
            raise checks.fail("labels", outside[0].item(), f"labels from 0 to {len(self.rows) - 1}") from error

    def codes(self, y: Tensor) -> dist.TorchDistribution:
        """p(z|y): batch shape `(N,)`, event shape `(d,)`."""
        return self.normal(self.prior_of_label(y))  # (eq. 12.3)

    def images(self, z: Tensor, y: Tensor) -> dist.TorchDistribution:
        """p(x|z, y) for codes `(..., N, d)`: batch shape `(..., N)`, event shape `(C, H, W)`."""
        return decode(self.decoder, self.likelihood, torch.cat([z, y.expand(*z.shape[:-1], y.shape[-1])], -1))


class Part(NamedTuple):
    """Images whose pixels are seen in part, and what the baseline network makes of that part."""

    x: Tensor
    baseline: Tensor  #: parameters of the likelihood, `(N, P C, H, W)`


class OnPart(nn.Module):
    """p(z|c) and p(x|z, c) of the pixels c that are seen, by a network that guesses the others.

    Without `latent_dim` there is no z, and p(x|c) is that of the guess.
    """

    seen: Tensor

    def __init__(
        self, networks: Networks, likelihood: nn.Module, seen: Tensor, width: int, latent_dim: int | None
    ) -> None:
        super().__init__()
        self.register_buffer("seen", seen, persistent=False)
        guessing = networks(num_outputs=width, latent_dim=width)
        self.baseline = nn.Sequential(guessing.encoder, guessing.decoder)
        self.likelihood = likelihood
        if latent_dim is not None:
            self.normal = DiagonalNormal(latent_dim)
            self.prior_of_image = networks(num_outputs=self.normal.num_parameters, latent_dim=latent_dim).encoder
            self.decoder = networks(num_outputs=latent_dim, latent_dim=latent_dim).decoder

    def condition(self, x: Tensor | None, labels: Tensor | None) -> Part:
        """c of images `(N, C, H, W)`; labels have no effect."""
        if x is None:
            raise checks.fail("x", None, "images, of which a part is seen: it is what this model is conditional on")
        return Part(x, self.baseline(torch.where(self.seen, check_images(x), 0.0)))

    def codes(self, c: Part) -> dist.TorchDistribution:
        """p(z|c): batch shape `(N,)`, event shape `(d,)`."""
        guess = torch.where(self.seen, c.x, self.likelihood(c.baseline).mean)
        return self.normal(self.prior_of_image(guess))  # (eq. 12.7)

    def images(self, z: Tensor | None, c: Part) -> dist.TorchDistribution:
        """p(x|z, c) for codes `(..., N, d)`: batch shape `(..., N)`, event shape `(C, H, W)`."""
        if z is None:
            return Completed(self.likelihood(c.baseline), c.x, self.seen)  # (eq. 12.6)
        correction = self.decoder(z.flatten(0, -2)).unflatten(0, z.shape[:-1])
        return Completed(self.likelihood(c.baseline + correction), c.x, self.seen)  # (eq. 12.8)


class Completed(dist.TorchDistribution):
    """Images whose seen pixels are those of x, and whose others are drawn independently: log p(unseen|seen).

    Args:
        pixels: all pixels, batch shape `(..., N)`, event shape `(C, H, W)`, of independent pixels.
        x: `(N, C, H, W)`.
        seen: which pixels are seen, `(H, W)`.
    """

    arg_constraints = {}  # noqa: RUF012 (as torch's distributions have it)

    def __init__(self, pixels: dist.TorchDistribution, x: Tensor, seen: Tensor) -> None:
        self.pixels, self.x, self.seen = pixels, x, seen
        super().__init__(pixels.batch_shape, pixels.event_shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> Completed:
        return Completed(self.pixels.expand(torch.Size(batch_shape)), self.x, self.seen)

    @property
    def support(self) -> Any:
        return self.pixels.support

    @property
    def mean(self) -> Tensor:
        return torch.where(self.seen, self.x, self.pixels.mean)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return torch.where(self.seen, self.x, self.pixels.sample(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        of_pixels = self.pixels.base_dist.log_prob(value)
        return torch.where(self.seen, 0.0, of_pixels).sum((-3, -2, -1))  # (eq. 12.5)


def quadrants_seen(shape: Sequence[int], number: int) -> Tensor:
    """Which pixels `(H, W)` are seen: the lower left quadrant, then the upper left, then the upper right as well.

    >>> quadrants_seen((1, 2, 2), 1).int()
    tensor([[0, 0],
            [1, 0]], dtype=torch.int32)
    """
    height, width = shape[1:]
    if min(height, width) < 2:
        raise checks.fail("image_shape", tuple(shape), "at least 2 pixels of height and of width, to have quadrants")
    seen = torch.zeros(height, width, dtype=torch.bool)
    lower, left = slice(height // 2, None), slice(width // 2)
    seen[lower, left] = True
    if number >= 2:
        seen[:, left] = True
    if number == 3:
        seen[: height // 2] = True
    return seen


def _networks(spec: Spec, shape: tuple[int, ...], parameters_per_pixel: int) -> Networks:
    decoded_shape = (parameters_per_pixel * shape[0], *shape[1:])
    sizes = {"image_shape": shape, "decoded_shape": decoded_shape, "hidden": spec.hidden}
    return partial(part_classes.construct, "network", spec.network, **sizes)
