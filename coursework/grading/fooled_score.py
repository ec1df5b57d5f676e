"""Exercise 11: scores of outliers under a linear-Gaussian model of the digits."""

import math

import torch
from digit_density import PIXELS, digit_density
from torch.distributions import MultivariateNormal

from .compare import recognise, same, shaped
from .submission import AnswerError

FOOLED, REPAIRED, FAR = 0.1, 0.75, 0.75  # areas under ROC curves


def area(inliers, outliers):
    """The probability that an outlier has the higher score, ties counted half."""
    above = (outliers[:, None] > inliers).double().mean()
    return above + (outliers[:, None] == inliers).double().mean() / 2


def exact(x, model):
    """-log p(x) by the covariance of the pixels."""
    covariance = model["w"] @ model["w"].T + model["noise"] ** 2 * torch.eye(len(model["mean"]))
    return -MultivariateNormal(model["mean"], covariance).log_prob(x)


def distance(x, train):
    """To the nearest training image: a score that knows nothing of the model."""
    return torch.cdist(x, train).min(1).values


def small_model():
    """Five points, and a model of 4 pixels and 2 dimensions."""
    draw = torch.Generator().manual_seed(0)
    mean, w, x = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((4,), (4, 2), (5, 4)))
    return x, {"mean": mean, "w": w, "noise": torch.tensor(0.4).double()}


def likelihood_is_right(answer):
    """negative_log_likelihood(x, model) is -log p(x), with z integrated out"""
    for x, model in (small_model(), digit_density()[1:]):
        right, size = exact(x, model), x.shape[1]
        covariance = model["w"] @ model["w"].T + model["noise"] ** 2 * torch.eye(size)
        off = x - model["mean"]
        mistakes = {
            "this is log p(x): the sign is flipped": -right,
            "this is in bits, expected nats": right / math.log(2),
            "this is per pixel, expected per image": right / size,
            "the constant d/2 log 2 pi is missing": right - size / 2 * math.log(2 * math.pi),
            "the mean is not subtracted": exact(x, model | {"mean": torch.zeros_like(model["mean"])}),
            "`noise` is a standard deviation; its square is the variance": exact(
                x, model | {"noise": model["noise"].sqrt()}
            ),
            "z is set to 0, not integrated out": exact(x, model | {"w": torch.zeros_like(model["w"])}),
            "this is the quadratic form alone; the determinant is missing": 0.5
            * (off * torch.linalg.solve(covariance, off.T).T).sum(-1),
            "this is the mean over the images, expected a value for each": right.mean(),
        }
        value = answer.negative_log_likelihood(x, model)
        same(value, right, mistakes, "negative_log_likelihood", 1e-4)


def digits_are_beaten(answer):
    """fooling(digits) are images in [0, 1], none a digit, that have a higher likelihood than digits"""
    train, held_out, model = digit_density()
    images = shaped(answer.fooling(held_out), held_out.shape, "fooling")
    if images.min() < 0 or images.max() > 1:
        raise AnswerError(f"fooling has pixels from {images.min():.3g} to {images.max():.3g}, expected 0 to 1")
    far = area(distance(held_out, train), distance(images, train))
    if far < FAR:
        raise AnswerError(
            f"the images of fooling are as near to training images as digits are (area {far:.2f}, expected at least "
            f"{FAR}): a small change of a digit is still a digit"
        )
    fooled = area(exact(held_out, model), exact(images, model))
    if fooled > FOOLED:
        raise AnswerError(
            f"-log p(x) tells these images from digits with an area of {fooled:.2f}, expected at most {FOOLED}: it is "
            "lowest near the mean, and for images without sharp edges"
        )


def outliers(held_out, model):
    """Four kinds that are no digits: two that fool -log p(x), and two that do not."""
    draw = torch.Generator().manual_seed(1)
    pictures = held_out.view(-1, 1, 8, 8)
    return {
        "faded digits": model["mean"] + 0.3 * (held_out - model["mean"]),
        "blurred digits": torch.nn.functional.avg_pool2d(pictures, 3, stride=1, padding=1).flatten(1),
        "digits whose rows are shuffled": pictures[:, :, torch.randperm(8, generator=draw)].flatten(1),
        "noise": torch.rand(len(held_out), PIXELS, generator=draw, dtype=torch.float64),
    }


def repair_holds(answer):
    """repaired(x, train, model) tells digits from faded, blurred and shuffled digits, and from noise"""
    train, held_out, model = digit_density()
    kinds = outliers(held_out, model)
    x = torch.cat([held_out, *kinds.values()])  # one call
    scores = shaped(answer.repaired(x, train, model), (len(x),), "repaired").split(len(held_out))
    areas = {name: area(scores[0], values) for name, values in zip(kinds, scores[1:], strict=True)}
    if min(areas.values()) < REPAIRED:
        recognise(
            {
                "this is -log p(x), which is what is to be repaired": exact(held_out, model),
                "this is log p(x): noise has the lowest score of all": -exact(held_out, model),
            },
            lambda wrong: torch.allclose(scores[0], wrong, rtol=1e-3),
        )
        worst = min(areas, key=areas.get)
        raise AnswerError(
            f"the area of digits against {worst} is {areas[worst]:.2f}, expected at least {REPAIRED}; of all: "
            + ", ".join(f"{name} {value:.2f}" for name, value in areas.items())
        )


CHECKS = ((4, likelihood_is_right), (3, digits_are_beaten), (3, repair_holds))
