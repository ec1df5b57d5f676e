"""Exercise 8: a mixture VAE. The component is summed here by a loop over its values, in float64."""

import math

import torch

from .compare import same
from .programs import expect_sites, same_density
from .quadrature import log_normal
from .submission import AnswerError

POINTS, COMPONENTS = 9, 3


def inputs(seed):
    """Points x (9, 4), codes z (9, 2) and the parameters of a pair of 3 components."""
    draw = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    parameters = {
        "probs": noise(COMPONENTS).softmax(-1),
        "loc": 2 * noise(COMPONENTS, 2),
        "scale": 0.3 + noise(COMPONENTS, 2).abs(),
        "w": noise(4, 2),
        "sigma": torch.tensor(0.8, dtype=torch.float64),
        "gain": 0.4 * noise(2, 4),
        "spread": 0.3 + noise(2).abs(),
    }
    return 2 * noise(POINTS, 4), 2 * noise(POINTS, 2), parameters


def of_component(z, p):
    """log p(z|y) of each component, (N, C)."""
    return torch.stack([log_normal(z, *pair).sum(-1) for pair in zip(p["loc"], p["scale"], strict=True)], 1)


def log_prior(z, p):
    """log p(z), the component summed."""
    return (p["probs"] * of_component(z, p).exp()).sum(1).log()


def log_likelihood(x, z, p):
    return log_normal(x, z @ p["w"].T, p["sigma"]).sum(-1)


def log_guide(x, z, p):
    return log_normal(z, x @ p["gain"].T, p["spread"]).sum(-1)


def program_sums_the_component(answer):
    """model and guide are Pyro programs, whose ELBO by TraceEnum_ELBO has y summed exactly, to 1e-5"""
    for seed in range(3):
        x, _, p = inputs(seed)
        sites = answer.probe("traced", ["model"], x, p)
        expect_sites(sites, ("y", "z"), ("x",), "model")
        densities_are_right(sites, x, p)
        if sites["y"]["enumerate"] != "parallel":
            raise AnswerError(
                f"y is drawn, expected summed: infer['enumerate'] of its site is {sites['y']['enumerate']}, "
                "expected 'parallel'"
            )
        of_guide = answer.probe("traced", ["guide"], x, p)
        if "y" in of_guide:
            raise AnswerError("the guide has the site y; where the model alone has it, it is summed exactly")
        expect_sites(of_guide, ("z",), (), "guide")
        z = of_guide["z"]["value"]
        off = (z - x @ p["gain"].T) / p["spread"]
        mistakes = {
            "spread is used as the variance in q(z|x); it is the standard deviation": log_normal(
                z, x @ p["gain"].T, p["spread"].sqrt()
            ).sum(-1),
            "this is the prior; the guide depends on x": log_normal(z, 0.0, 1.0).sum(-1),
            "the guide has deviation 1, expected spread": log_normal(off * p["spread"], 0.0, 1.0).sum(-1),
        }
        same_density(of_guide["z"], log_guide(x, z, p), mistakes, "q(z|x)")
        both = answer.probe("enumerated_elbo", ["model", "guide"], x, p)
        z = both["drawn"]["z"]
        expected = (log_prior(z, p) + log_likelihood(x, z, p) - log_guide(x, z, p)).sum()
        same(both["elbo"], expected, {}, "TraceEnum_ELBO", 1e-5)


def densities_are_right(sites, x, p):
    """Those of the model, at the values that it drew."""
    y, z = sites["y"]["value"], sites["z"]["value"]
    if y.shape != (POINTS,) or z.shape != (POINTS, 2):
        shapes = f"y has the shape {tuple(y.shape)}, z {tuple(z.shape)}"
        raise AnswerError(f"{shapes}, expected ({POINTS},) and ({POINTS}, 2): each point has its own")
    uniform = torch.full((POINTS,), -math.log(COMPONENTS)).double()
    same_density(sites["y"], p["probs"].log()[y], {"p(y) is uniform, expected probs": uniform}, "p(y)")
    loc, scale = p["loc"][y], p["scale"][y]
    mean, spread = p["probs"] @ p["loc"], p["probs"] @ p["scale"]
    mistakes = {
        "p(z|y) is a standard normal, as in a VAE; it must depend on y": log_normal(z, 0.0, 1.0).sum(-1),
        "scale is used as the variance in p(z|y); it is the standard deviation": log_normal(z, loc, scale.sqrt()).sum(
            -1
        ),
        "p(z|y) has deviation 1, expected scale of the component": log_normal(z, loc, 1.0).sum(-1),
        "p(z|y) has the average mean and deviation; each component has its own": log_normal(z, mean, spread).sum(-1),
    }
    same_density(sites["z"], of_component(z, p).gather(1, y[:, None])[:, 0], mistakes, "p(z|y)")
    mistakes = {
        "sigma is used as the variance in p(x|z); it is the standard deviation": log_normal(
            x, z @ p["w"].T, p["sigma"].sqrt()
        ).sum(-1),
        "p(x|z) has the deviation sigma^2, expected sigma": log_normal(x, z @ p["w"].T, p["sigma"] ** 2).sum(-1),
        "p(x|z) is at the mean of the component, expected at the code z": log_likelihood(x, loc, p),
    }
    same_density(sites["x"], log_likelihood(x, z, p), mistakes, "p(x|z)")


def sum_by_hand_is_right(answer):
    """marginal_elbo(x, z, p) is log sum_y p(y) p(z|y) + log p(x|z) - log q(z|x) of each point"""
    for seed in range(3):
        x, z, p = inputs(seed)
        each, fit, log_q = of_component(z, p), log_likelihood(x, z, p), log_guide(x, z, p)
        rest = fit - log_q
        joint = p["probs"].log() + each
        expected = log_prior(z, p) + rest
        mistakes = {
            "p(y) is missing in the sum over y": each.logsumexp(1) + rest,
            "p(y) is uniform, expected probs": each.logsumexp(1) - math.log(COMPONENTS) + rest,
            "this is sum_y p(y) log p(z|y), a lower bound; the logarithm must be outside of the sum": (
                p["probs"] * each
            ).sum(1)
            + rest,
            "the logarithms of the components are added; their densities must be": joint.sum(1) + rest,
            "the most probable component alone is used; all must be summed": joint.max(1).values + rest,
            "log p(z) is missing": rest,
            "log q(z|x) is missing": log_prior(z, p) + fit,
            "log q(z|x) is added; it must be subtracted": log_prior(z, p) + fit + log_q,
            "log p(x|z) is missing": log_prior(z, p) - log_q,
            "this is minus the ELBO, the loss": -expected,
            "this is the sum over the points; each has its own": expected.sum(),
            "this is the mean over the points; each has its own": expected.mean(),
            "the prior is a standard normal, as in a VAE; it must be the mixture": log_normal(z, 0.0, 1.0).sum(-1)
            + rest,
        }
        same(answer.marginal_elbo(x, z, p), expected, mistakes, "marginal_elbo", 1e-6)


def responsibilities_are_right(answer):
    """responsibilities(z, p) is p(y|z), also for codes that are far from all components"""
    for seed, times in ((0, 1.0), (1, 1.0), (2, 40.0)):
        _, z, p = inputs(seed)
        z = times * z
        each = of_component(z, p)
        joint = p["probs"].log() + each
        mistakes = {
            "p(y) is missing: the components are not equally frequent": each.softmax(1),
            "this is p(y) p(z|y), which must be divided by its sum over y": joint.exp(),
            "this is p(z|y), not p(y|z)": each.exp(),
            "the sum over the points is 1; that over y must be": joint.softmax(0),
            "this is log p(y|z), expected p(y|z)": joint.log_softmax(1),
            "this is 1 for the most probable component, expected the probability of each": torch.nn.functional.one_hot(
                joint.argmax(1), COMPONENTS
            ).double(),
            "this is the prior p(y), which does not depend on z": p["probs"].expand(POINTS, -1),
            "this has the shape (C, N), expected (N, C)": joint.softmax(1).T,
            "this is the most probable component, expected the probability of each": joint.argmax(1).double(),
        }
        returned = answer.responsibilities(z, p)
        if times > 1 and isinstance(returned, torch.Tensor) and bool(returned.isnan().any()):
            raise AnswerError(
                "responsibilities has NaNs far from all components, where p(z|y) is 0 in floating point: "
                "normalise the logarithms"
            )
        same(returned, joint.softmax(1), mistakes, "responsibilities", 1e-6)


CHECKS = ((4, program_sums_the_component), (3, sum_by_hand_is_right), (3, responsibilities_are_right))
