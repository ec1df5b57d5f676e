"""Exercise 11: an outlier score that is fooled, and its repair.

`python coursework/grade.py 11` grades this file.

The model is that of `digit_density`, x = mean + W z + noise e, of digits with 64 pixels in [0, 1]:

    from digit_density import digit_density
    train, held_out, model = digit_density()

The higher a score, the more outlying is the image.
"""

from torch import Tensor


def negative_log_likelihood(x: Tensor, model: dict[str, Tensor]) -> Tensor:
    """-log p(x) in nats of each image (N, 64), with z integrated out: shape (N,)."""
    raise NotImplementedError


def fooling(digits: Tensor) -> Tensor:
    """As many images (N, 64) in [0, 1] as there are digits, made of them or not, that are no digits.

    Yet nine of ten have a lower -log p(x) than the digits.
    """
    raise NotImplementedError


def repaired(x: Tensor, train: Tensor, model: dict[str, Tensor]) -> Tensor:
    """A score (N,) of the images x that the images of `fooling` do not fool, and which finds noise, too."""
    raise NotImplementedError
