"""Exercise 10: a prior over codes, and samples of it.

`python coursework/grade.py 10` grades this file.

An image is T = 16 codes from 0 to k - 1 on a grid of 4x4, in the order of reading. `digit_codes` makes those of the
digits, from patches of 2x2 pixels:

    from digit_codes import digit_codes, pictures
    train, held_out, codebook = digit_codes()
"""

from torch import Tensor


def conditionals(train: Tensor, codes: Tensor, k: int) -> Tensor:
    """log p(code at t is j | the codes before t) for codes (N, T): shape (N, T, k).

    The prior is fitted to `train` (M, T), by counting or as a network. Its conditionals at t use no code at t or later.
    """
    raise NotImplementedError


def nats_per_code(log_p: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """-log p of the codes (N, T) under conditionals `log_p` (N, T, k), as a mean over images and positions.

    The second value is what the prior saves per *image*, in nats, compared with uniform codes.
    """
    raise NotImplementedError


def sample(train: Tensor, n: int, k: int) -> Tensor:
    """Codes (n, T) drawn from the prior that is fitted to `train`, position after position."""
    raise NotImplementedError
