"""Exercise 9: two levels, inferred bottom-up and top-down.

`python coursework/grade.py 9` grades this file.

The parameters p are a dictionary of tensors: "a" (d1, d2) and a number "s1" of p(z1|z2) = N(a z2, s1^2 I), "b" (D, d1)
and a number "s2" of p(x|z1) = N(b z1, s2^2 I); p(z2) = N(0, I).
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

Parameters = dict[str, Tensor]


def model(x: Tensor, p: Parameters) -> None:
    """p(z2) p(z1|z2) p(x|z1) for points x (N, D); this one is written already."""
    prior = dist.Normal(torch.zeros_like(p["a"][0]), 1.0).to_event(1)
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", prior)
        z1 = pyro.sample("z1", dist.Normal(z2 @ p["a"].T, p["s1"]).to_event(1))
        pyro.sample("x", dist.Normal(z1 @ p["b"].T, p["s2"]).to_event(1), obs=x)


def bottom_up(x: Tensor, p: Parameters) -> None:
    """A guide with the sites z1, of q(z1|x), and z2, of q(z2|z1): the exact posterior of `model`."""
    raise NotImplementedError


def top_down(x: Tensor, p: Parameters) -> None:
    """A guide with the sites z2, of q(z2|x), and z1, of q(z1|z2, x): the exact posterior of `model`."""
    raise NotImplementedError


def kl_per_level(x: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """E_q[log q(z|...) - log p(z|...)] of the sites z1 and z2 for each point, (N, 2), without draws.

    For `bottom_up` first, then for `top_down`.
    """
    raise NotImplementedError
