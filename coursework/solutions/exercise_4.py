"""Exercise 4, solved."""

import math

from torch import Tensor

from pyro_vae import VAE
from pyro_vae.evaluation import pareto_smooth


def log_weights(vae: VAE, x: Tensor, k: int) -> Tensor:
    q = vae.encode(x)
    z = q.sample((k,))
    return vae.decode(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)


def pareto_k(rho: float) -> float:
    # In units of the guide, the posterior's precision has ones on its diagonal and -rho beside it: eigenvalues
    # 1 - |rho| and 1 + |rho|. Along the first, log w = |rho| e^2 / 2 with e ~ N(0, 1), whose tail has the shape |rho|.
    return abs(rho)


def distrusted(log_w: Tensor) -> list[int]:
    k = pareto_smooth(log_w).pareto_k
    limit = min(1 - 1 / math.log10(len(log_w)), 0.7)
    return (k > limit).nonzero().flatten().tolist()
