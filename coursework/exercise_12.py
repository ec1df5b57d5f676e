"""Exercise 12: a group that no label names, and weights that find it.

`python coursework/grade.py 12` grades this file.

3 % of the training images were changed, all in the same way; the held-out images were not:

    from hidden_group import hidden_group
    train, labels, codes, held_out, held_out_labels = hidden_group()
"""

from torch import Tensor


def weights(codes: Tensor, bins: int, smoothing: float) -> Tensor:
    """Probabilities (N,) of drawing each image, by how rare its code (N, d) is.

    Each dimension has a histogram of bins of equal width from its least to its largest value. With q the share of the
    images in the bin of an image, its weight by this dimension is 1 / (q + smoothing), divided by the sum over images.
    Of its weights the largest counts, and the whole adds up to 1 again.
    """
    raise NotImplementedError


def suspects(train: Tensor, codes: Tensor) -> Tensor:
    """The positions (40,) of training images, no two the same, that are likely to be of the changed ones."""
    raise NotImplementedError


def classify(train: Tensor, labels: Tensor, codes: Tensor, x: Tensor) -> Tensor:
    """Labels (M,) of images x (M, 64), by a classifier that is trained on the training images.

    Half of the changed images should be recognised, and nine of ten of the others.
    """
    raise NotImplementedError
