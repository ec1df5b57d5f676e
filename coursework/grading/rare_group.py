"""Exercise 12: weights by the density of codes, and a group of images that they find."""

import torch
from hidden_group import changed, hidden_group, members

from .compare import recognise, same, shaped
from .submission import AnswerError

SUSPECTS, FOUND = 40, 0.4  # 3 % by chance
RECALL, RECALL_OF_OTHERS = 0.5, 0.9  # 0.38 and 0.96 by logistic regression without weights


def shares(codes, bins):
    """The share of the images in the bin of each value (N, d), and the width of a bin of each dimension (d,)."""
    least, largest = codes.amin(0), codes.amax(0)
    bin_of = ((codes - least) / (largest - least) * bins).floor().clamp(max=bins - 1)
    return (bin_of[:, None] == bin_of).double().mean(1), (largest - least) / bins


def scaled(values):
    """Divided by the sum over images."""
    return values / values.sum(0)


def small_codes():
    """Codes of 60 images: two dimensions of other scales, and rare values in the second."""
    draw = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draw[:4, 1] += 6
    return draw * torch.tensor([3.0, 0.2], dtype=torch.float64)


def weights_are_right(answer):
    """weights(codes, bins, smoothing) is the largest of the weights of each dimension, and adds up to 1"""
    for codes, bins, smoothing in ((small_codes(), 5, 0.05), (hidden_group()[2], 10, 0.01)):
        q, width = shares(codes, bins)
        rarity = 1 / (q + smoothing)
        right = scaled(scaled(rarity).amax(1))
        mistakes = {
            "they add up to N, expected 1": len(codes) * right,
            "they do not add up to 1 after the largest was taken": scaled(rarity).amax(1),
            "frequent codes have the large weights: 1 / (q + smoothing) is large where q is small": scaled(
                scaled(q + smoothing).amax(1)
            ),
            "the product over dimensions is taken, expected the largest": scaled(scaled(rarity).prod(1)),
            "the mean over dimensions is taken, expected the largest": scaled(rarity).mean(1),
            "the smallest is taken, expected the largest": scaled(scaled(rarity).amin(1)),
            "the weights of each dimension must add up to 1 before the largest is taken": scaled(rarity.amax(1)),
            "the smoothing is left out": scaled(scaled(1 / q).amax(1)),
            "the smoothing is added to the number of images in a bin, expected to their share": scaled(
                scaled(1 / (len(codes) * q + smoothing)).amax(1)
            ),
            "the smoothing is added to a density per unit of the code, expected to the share of a bin": scaled(
                scaled(1 / (q / width + smoothing)).amax(1)
            ),
        }
        same(answer.weights(codes, bins, smoothing), right, mistakes, "weights", 1e-5)


def suspects_are_changed(answer):
    """suspects(train, codes) are 40 training images, of which at least 40 % were changed"""
    train, _, codes, *_ = hidden_group()
    returned = shaped(answer.suspects(train, codes), (SUSPECTS,), "suspects")
    if bool((returned != returned.round()).any()) or returned.min() < 0 or returned.max() >= len(train):
        raise AnswerError(f"suspects has {returned.min():.6g} to {returned.max():.6g}, expected 0 to {len(train) - 1}")
    index = returned.long()
    if len(index.unique()) < SUSPECTS:
        raise AnswerError(f"{len(index.unique())} of the {SUSPECTS} suspects are distinct, expected all")
    found = members()[index].double().mean()
    if found < FOUND:
        q, _ = shares(codes, 10)
        commonest = scaled(1 / (q + 0.01)).amax(1).argsort()[:SUSPECTS]
        mistakes = {"these are the images with the smallest weights": commonest}
        recognise(mistakes, lambda wrong: len(set(index.tolist()) & set(wrong.tolist())) > SUSPECTS / 2)
        raise AnswerError(f"{found:.0%} of the suspects were changed, expected at least {FOUND:.0%}; by chance 3 %")


def classifier_knows_the_group(answer):
    """classify(train, labels, codes, x) is right for half of the changed images, and nine of ten of the others"""
    train, labels, codes, held_out, truth = hidden_group()
    pictures = changed(held_out.view(-1, 1, 8, 8)).flatten(1)
    x = torch.cat([pictures, held_out])
    given = shaped(answer.classify(train, labels, codes, x), (len(x),), "classify")
    recall, of_others = ((part == truth).double().mean() for part in given.split(len(truth)))
    if of_others < RECALL_OF_OTHERS:
        raise AnswerError(
            f"{of_others:.0%} of the unchanged images are recognised, expected at least {RECALL_OF_OTHERS:.0%} (and "
            f"{recall:.0%} of the changed ones): what the majority pays is too much; what does more smoothing do?"
        )
    if recall < RECALL:
        raise AnswerError(
            f"{recall:.0%} of the changed images are recognised, expected at least {RECALL:.0%} (and {of_others:.0%} "
            "of the others): without weights it is 38 %"
        )


CHECKS = ((4, weights_are_right), (3, suspects_are_changed), (3, classifier_knows_the_group))
