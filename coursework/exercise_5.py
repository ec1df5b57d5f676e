"""Exercise 5: two gradients of the same expectation.

`python coursework/grade.py 5` grades this file.

Each function estimates the gradient with respect to loc of E[f(z)], z ~ N(loc, diag(scale^2)), from each of `draws`
draws: shape (draws, d). f takes (draws, d) and returns (draws,).
"""

from collections.abc import Callable

from torch import Tensor

Function = Callable[[Tensor], Tensor]


def score_function(f: Function, loc: Tensor, scale: Tensor, draws: int) -> Tensor:
    """f(z) times the gradient of log q(z)."""
    raise NotImplementedError


def reparameterized(f: Function, loc: Tensor, scale: Tensor, draws: int) -> Tensor:
    """The gradient of f(loc + scale epsilon)."""
    raise NotImplementedError


def with_baseline(f: Function, loc: Tensor, scale: Tensor, draws: int) -> Tensor:
    """The score function with a baseline from the *other* draws, so that it stays unbiased."""
    raise NotImplementedError
