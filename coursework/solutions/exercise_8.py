"""Exercise 8, solved."""

import pyro
import pyro.distributions as dist
from torch import Tensor

Parameters = dict[str, Tensor]


def model(x: Tensor, p: Parameters) -> None:
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(p["probs"]), infer={"enumerate": "parallel"})
        # y has the shape (N,), or (C, 1) where all its values are tried at once.
        z = pyro.sample("z", dist.Normal(p["loc"][y], p["scale"][y]).to_event(1))
        pyro.sample("x", dist.Normal(z @ p["w"].T, p["sigma"]).to_event(1), obs=x)


def guide(x: Tensor, p: Parameters) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ p["gain"].T, p["spread"]).to_event(1))


def _log_joint(z: Tensor, p: Parameters) -> Tensor:
    """log p(y) + log p(z|y), (N, C)."""
    return p["probs"].log() + dist.Normal(p["loc"], p["scale"]).log_prob(z[:, None]).sum(-1)


def marginal_elbo(x: Tensor, z: Tensor, p: Parameters) -> Tensor:
    log_prior = _log_joint(z, p).logsumexp(-1)
    log_likelihood = dist.Normal(z @ p["w"].T, p["sigma"]).log_prob(x).sum(-1)
    log_q = dist.Normal(x @ p["gain"].T, p["spread"]).log_prob(z).sum(-1)
    return log_prior + log_likelihood - log_q


def responsibilities(z: Tensor, p: Parameters) -> Tensor:
    return _log_joint(z, p).softmax(
        -1
    )  # of logarithms, as far from all components p(z|y) underflows
