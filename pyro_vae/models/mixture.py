"""A VAE whose prior is a mixture with a latent component: clustering without labels."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae._utils import checks
from pyro_vae.data import Images, binarize
from pyro_vae.data.batches import batches
from pyro_vae.data.binarization import fixed_binarization
from pyro_vae.models.base import (
    PyroPair,
    batch_size_of,
    check_images,
    check_set,
    decode,
    device_of,
    dtype_of,
    evaluating,
)
from pyro_vae.models.vae import VAE, weighted
from pyro_vae.posteriors import location
from pyro_vae.spec import Spec


class Mixture(PyroPair):
    r"""A VAE whose images fall into K clusters, of which none is labelled.

    .. math:: p(x, y, z) = p(y)\, p(z|y)\, p(x|z), \qquad p(y) = \pi_y, \quad
              p(z|y) = \mathcal N(z; \mu_y, \mathrm{diag}\, \sigma_y^2), \qquad q(z|x)
    .. math:: \mathcal L(x) = \mathbb E_{q(z|x)}\Big[\log p(x|z) + \log \sum_y \pi_y\, p(z|y) - \log q(z|x)\Big]

    The sum over y is Pyro's enumeration in the model, so it needs the objective `enumerated`; the guide has no y, whose
    posterior given z is exact, :math:`r_y(z) \propto \pi_y\, p(z|y)`. Weights, means and scales of the clusters are
    learned with the networks. From a random start they settle on few, or on poor clusters: :meth:`start_at` begins at
    the codes of a VAE that was trained before.

    Args:
        latent_dim: dimension of z.
        encoder: images `(N, C, H, W)` -> parameters of q, `(N, posterior.num_parameters)`.
        decoder: codes `(N, d)` -> parameters of the likelihood.
        likelihood: parameters -> p(x|z).
        posterior: parameters -> q(z|x).
        clusters: K.
        spread: standard deviation of the means of the clusters around 0, from which they start.

    Source: Jiang et al., "Variational deep embedding", 2017, https://arxiv.org/abs/1611.05148; there y is in the guide,
    with the same r

    >>> from pyro_vae import Spec, build
    >>> model = build(Spec(model={"kind": "mixture", "clusters": 3}, latent_dim=2))
    >>> model.classify(torch.rand(5, 1, 8, 8)).shape
    torch.Size([5, 3])
    """

    kind = "mixture"
    default_objective = "enumerated"
    spec: Spec | None = None  #: what :func:`~pyro_vae.build` made it from

    def __init__(
        self,
        latent_dim: int,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: nn.Module,
        posterior: nn.Module,
        clusters: int = 10,
        spread: float = 1.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.posterior = posterior
        self.clusters = Clusters(clusters, latent_dim, spread)

    def model(self, x: Tensor | None = None, beta: float | Tensor = 1.0, *, size: int | None = None) -> Tensor:
        """p(x, y, z), with log p(y) + log p(z|y) weighted by `beta`; x is `(N, C, H, W)`, or None to draw `size`."""
        self.register("clusters", "decoder", "likelihood")
        with pyro.plate("data", batch_size_of(x, size)):
            with weighted(beta):
                y = pyro.sample("y", self.clusters.weights(), infer={"enumerate": "parallel"})
                z = pyro.sample("z", self.clusters(y))  # log sum_y p(y) p(z|y) (eq. 17.3)
            return pyro.sample("x", self.likelihood_of(z), obs=x)  # log p(x|z)

    def guide(self, x: Tensor, beta: float | Tensor = 1.0) -> None:
        """q(z|x), weighted by `beta`."""
        self.register("encoder", "posterior")
        with pyro.plate("data", x.shape[0]), weighted(beta):
            pyro.sample("z", self.q_of_z(x))  # log q(z|x) (eq. 17.3)

    def likelihood_of(self, z: Tensor) -> dist.TorchDistribution:
        """p(x|z) for codes `(..., d)`: batch shape `(...)`, event shape `(C, H, W)`."""
        return decode(self.decoder, self.likelihood, z)

    def q_of_z(self, x: Tensor) -> dist.TorchDistribution:
        """q(z|x) for images `(N, C, H, W)`: batch shape `(N,)`, event shape `(d,)`."""
        return self.posterior(self.encoder(check_images(x)))

    def classify(self, x: Tensor) -> Tensor:
        """p(y|z) at the location of q(z|x), the probability of each cluster, `(N, clusters)`."""
        return self.clusters.responsibilities(location(self.q_of_z(x)))

    def start_at(self, vae: VAE, images: Images, seed: int = 0) -> None:
        """Takes over the networks of a trained VAE, and fits the clusters to its codes of these images.

        That is expectation-maximisation, started by k-means, as in scikit-learn's `GaussianMixture`. The codes of a VAE
        with the usual KL term fill the prior without gaps: train it with a small beta, such as 0.1.

        Args:
            vae: with the same networks, as the same `Spec` but for `model` and `beta` makes them.
            images: whose codes are clustered, binarized as the spec of the VAE says; of `dynamic` it is one draw.
            seed: of the k-means.

        Raises:
            InputError: the networks differ, or there are fewer images than clusters.
        """
        from sklearn.mixture import GaussianMixture

        check_set("images", images)
        clusters = self.clusters.logits.numel()
        if len(images) < clusters:
            raise checks.fail("images", len(images), f"at least {clusters} images, one for each cluster")
        self._take_networks(vae)
        binarization = vae.spec.binarization if isinstance(vae.spec, Spec) else "none"
        pixels = binarize(images, fixed_binarization(binarization)).pixels
        with evaluating(self):
            inputs = batches(pixels, 500, device_of(self), dtype=dtype_of(self))
            codes = torch.cat([location(self.q_of_z(x)).double().cpu() for x in inputs])
        fitted = GaussianMixture(clusters, covariance_type="diag", random_state=checks.seed("seed", seed))
        fitted.fit(codes.numpy())
        starts = {
            "logits": torch.from_numpy(fitted.weights_).log(),
            "locs": torch.from_numpy(fitted.means_),
            "log_scales": torch.from_numpy(fitted.covariances_).log() / 2,
        }
        self.clusters.load_state_dict({name: value.to(dtype_of(self)) for name, value in starts.items()})

    def _take_networks(self, vae: VAE) -> None:
        """The weights of the VAE, whose networks have the same layers, activations included."""
        expected = "a VAE with the same networks as this model"
        names = ("encoder", "decoder", "likelihood", "posterior")
        for name in names:
            if repr(getattr(vae, name, None)) != repr(getattr(self, name)):
                raise checks.fail("vae", f"{type(vae).__name__}, whose {name} is another", expected)
        try:
            for name in names:
                getattr(self, name).load_state_dict(getattr(vae, name).state_dict())
        except RuntimeError as error:
            raise checks.fail("vae", f"{type(vae).__name__} ({error})", expected) from error


class Clusters(nn.Module):
    r"""p(y) and p(z|y): weights :math:`\pi`, means :math:`\mu` and scales :math:`\sigma`.

    Args:
        clusters: K.
        latent_dim: dimension d of z.
        spread: standard deviation of the means at the start.
    """

    def __init__(self, clusters: int, latent_dim: int, spread: float = 1.0) -> None:
        super().__init__()
        checks.positive_integer("clusters", clusters)
        checks.non_negative("spread", spread)
        self.logits = nn.Parameter(torch.zeros(clusters))
        self.locs = nn.Parameter(spread * torch.randn(clusters, latent_dim))
        self.log_scales = nn.Parameter(torch.zeros(clusters, latent_dim))

    def weights(self) -> dist.Categorical:
        """p(y), batch shape `()`."""
        return dist.Categorical(logits=self.logits)

    def forward(self, y: Tensor) -> dist.TorchDistribution:
        """p(z|y) for clusters `(...)`: batch shape `(...)`, event shape `(d,)`."""
        return dist.Normal(self.locs[y], self.log_scales[y].exp()).to_event(1)

    def responsibilities(self, z: Tensor) -> Tensor:
        """p(y|z) for codes `(..., d)`: `(..., K)`."""
        every = torch.arange(len(self.logits), device=z.device)
        return (self.weights().logits + self(every).log_prob(z.unsqueeze(-2))).softmax(-1)  # (eq. 17.2)
