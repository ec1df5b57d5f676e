"""Exercise 1: derive the Kullback-Leibler divergence, and verify it.

`python coursework/grade.py 1` grades this file."""

from torch import Tensor


def closed_form(loc: Tensor, scale: Tensor) -> Tensor:
    """KL from N(loc, diag(scale^2)) to N(0, I), by your formula; shapes (..., d) -> (...)."""
    raise NotImplementedError


def monte_carlo(loc: Tensor, scale: Tensor, draws: int) -> tuple[float, float]:
    """The same from `draws` draws, for one pair of shape (d,): the estimate and its standard error."""
    raise NotImplementedError


def draws_needed(loc: Tensor, scale: Tensor, error: float) -> int:
    """How many draws bring the standard error of `monte_carlo` down to `error`."""
    raise NotImplementedError
