"""Exercise 8: a mixture VAE, with its component summed out.

`python coursework/grade.py 8` grades this file.

The parameters p are a dictionary of tensors, for C components, codes of d and points of D dimensions: "probs" (C,) of
p(y); "loc" and "scale" (C, d) of p(z|y) = N(loc_y, diag(scale_y^2)); "w" (D, d) and a number "sigma" of p(x|z) =
N(w z, sigma^2 I); "gain" (d, D) and "spread" (d,) of the guide q(z|x) = N(gain x, diag(spread^2)).
"""

from torch import Tensor

Parameters = dict[str, Tensor]


def model(x: Tensor, p: Parameters) -> None:
    """The sites y, z and x of the points x (N, D), in a plate; `pyro.infer.TraceEnum_ELBO` sums y exactly."""
    raise NotImplementedError


def guide(x: Tensor, p: Parameters) -> None:
    """The site z, in the same plate."""
    raise NotImplementedError


def marginal_elbo(x: Tensor, z: Tensor, p: Parameters) -> Tensor:
    """log sum_y p(y) p(z|y) + log p(x|z) - log q(z|x) for codes z (N, d), of each point: (N,). Without Pyro."""
    raise NotImplementedError


def responsibilities(z: Tensor, p: Parameters) -> Tensor:
    """p(y|z) for codes z (N, d): (N, C)."""
    raise NotImplementedError
