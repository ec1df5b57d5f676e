"""Exercise 6: a planar layer of your own, and the right KL.

`python coursework/grade.py 6` grades this file."""

from torch import Tensor


def project(u: Tensor, w: Tensor) -> Tensor:
    """u_hat of shape (d,) that makes the layer invertible: w . u_hat = -1 + log(1 + exp(w . u))."""
    raise NotImplementedError


def layer(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """z + u tanh(w . z + b) and its log |det|, for z (N, d) and u that is projected already: (N, d), (N,)."""
    raise NotImplementedError


def kl(
    loc: Tensor, scale: Tensor, layers: list[tuple[Tensor, Tensor, Tensor]], draws: int
) -> float:
    """KL of the flow that starts at N(loc, diag(scale^2)), through layers (u, w, b), from N(0, I); by Monte Carlo.

    Each u is projected already.
    """
    raise NotImplementedError
