"""Exercise 9: two levels. All conditionals are those of one joint normal of z2, z1 and x, by Schur complements."""

import math
from dataclasses import dataclass

import torch
from torch.distributions import MultivariateNormal

from .compare import same, tuple_of
from .programs import expect_sites, same_density
from .quadrature import log_normal
from .submission import AnswerError

D1, D2, PIXELS, POINTS = 3, 2, 4, 7


def inputs(seed):
    """Points x (7, 4), and the parameters of a model with 2 and 3 dimensions."""
    draw = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    parameters = {
        "a": noise(D1, D2),
        "s1": torch.tensor(0.7).double(),
        "b": noise(PIXELS, D1),
        "s2": torch.tensor(0.5 + seed).double(),
    }
    return 2 * noise(POINTS, PIXELS), parameters


PARTS = {"z": range(D2 + D1), "z2": range(D2), "z1": range(D2, D2 + D1), "x": range(D2 + D1, D2 + D1 + PIXELS)}


@dataclass(frozen=True)
class Joint:
    """N(0, covariance) of z2, z1 and x, and its conditionals."""

    covariance: torch.Tensor

    @classmethod
    def of(cls, p):
        """That of the model: with independent noises of z2, z1 and x, as columns of its root."""
        to_z1 = torch.cat([p["a"], p["s1"] * torch.eye(D1)], 1)
        to_x = torch.cat([p["b"] @ to_z1, p["s2"] * torch.eye(PIXELS)], 1)
        above = (torch.eye(D2), to_z1, to_x)
        width = to_x.shape[1]
        root = torch.cat([torch.nn.functional.pad(rows, (0, width - rows.shape[1])) for rows in above]).double()
        return cls(root @ root.T)

    def given(self, name, **values):
        """Mean (N, d) and covariance of a part, given values (N, ...) of other parts."""
        of, on = list(PARTS[name]), [i for other in values for i in PARTS[other]]
        gain = torch.linalg.solve(self.covariance[on][:, on], self.covariance[on][:, of]).T
        covariance = self.covariance[of][:, of] - gain @ self.covariance[on][:, of]
        return torch.cat(list(values.values()), -1) @ gain.T, covariance

    def log_density(self, name, value, **values):
        return MultivariateNormal(*self.given(name, **values)).log_prob(value)


def alone(mean, covariance):
    """log N(value; mean, covariance), with the entries beside the diagonal left out."""
    return lambda value: log_normal(value, mean, covariance.diagonal().sqrt()).sum(-1)


def merged(mean, precision, other_mean, other_precision):
    """Mean and covariance of the normalised product of two normals."""
    covariance = torch.linalg.inv(precision + other_precision)
    return (mean @ precision + other_mean @ other_precision) @ covariance, covariance


def likelihood(x, p):
    """p(x|z1) as a normal of z1: mean and precision."""
    return x @ torch.linalg.pinv(p["b"]).T, p["b"].T @ p["b"] / p["s2"] ** 2


def guide_sites(answer, name, x, p):
    sites = answer.probe("traced", [name], x, p)
    expect_sites(sites, ("z1", "z2"), (), name)
    z1, z2 = sites["z1"]["value"], sites["z2"]["value"]
    if z1.shape != (POINTS, D1) or z2.shape != (POINTS, D2):
        shapes = f"z1 {tuple(z1.shape)}, z2 {tuple(z2.shape)}"
        raise AnswerError(f"{name} draws {shapes}, expected {(POINTS, D1)} and {(POINTS, D2)}")
    return sites, z1, z2


def bottom_up_is_exact(answer):
    """bottom_up is the exact posterior q(z1|x) q(z2|z1): with it the ELBO of each draw is log p(x)"""
    for seed in range(2):
        x, p = inputs(seed)
        joint = Joint.of(p)
        sites, z1, z2 = guide_sites(answer, "bottom_up", x, p)
        fit, precision = likelihood(x, p)
        eye = torch.eye(D1).double()
        scaled = MultivariateNormal(joint.given("z1", x=x)[0], scale_tril=joint.given("z1", x=x)[1].tril())
        mistakes = {
            "the prior of z1 lacks the variance that z2 gives it: it is a a^T + s1^2 I": MultivariateNormal(
                *merged(0 * z1, eye / p["s1"] ** 2, fit, precision)
            ).log_prob(z1),
            "the prior of z1 is taken as N(0, I); it is N(0, a a^T + s1^2 I)": MultivariateNormal(
                *merged(0 * z1, eye, fit, precision)
            ).log_prob(z1),
            "the prior of z1 is left out: this is the likelihood alone": MultivariateNormal(
                fit, precision_matrix=precision
            ).log_prob(z1),
            "the entries beside the diagonal of the covariance are left out": alone(*joint.given("z1", x=x))(z1),
            "the covariance is used as scale_tril": scaled.log_prob(z1),
            "z1 is drawn given z2: that is top-down": joint.log_density("z1", z1, z2=z2, x=x),
        }
        same_density(sites["z1"], joint.log_density("z1", z1, x=x), mistakes, "q(z1|x)")
        mean, covariance = joint.given("z2", z1=z1)
        mistakes = {
            "z2 is drawn from q(z2|x), as if independent of z1: then q is not the posterior": joint.log_density(
                "z2", z2, x=x
            ),
            "z2 is drawn from its prior; z1 says where it is": log_normal(z2, 0.0, 1.0).sum(-1),
            "the entries beside the diagonal of the covariance are left out": alone(mean, covariance)(z2),
            "the mean of q(z2|z1) is at the mean of z1, expected at its draw": MultivariateNormal(
                joint.given("z2", z1=joint.given("z1", x=x)[0])[0], covariance
            ).log_prob(z2),
        }
        same_density(sites["z2"], joint.log_density("z2", z2, z1=z1), mistakes, "q(z2|z1)")


def top_down_is_exact(answer):
    """top_down is the exact posterior q(z2|x) q(z1|z2, x): with it the ELBO of each draw is log p(x)"""
    for seed in range(2):
        x, p = inputs(seed)
        joint = Joint.of(p)
        sites, z1, z2 = guide_sites(answer, "top_down", x, p)
        b_a = p["b"] @ p["a"]
        quiet = b_a.T @ b_a / p["s2"] ** 2
        fit2 = x @ b_a / p["s2"] ** 2
        without_noise = torch.linalg.inv(torch.eye(D2).double() + quiet)
        mistakes = {
            "the noise of z1 is not carried to x: p(x|z2) has the covariance s1^2 b b^T + s2^2 I": MultivariateNormal(
                fit2 @ without_noise, without_noise
            ).log_prob(z2),
            "z2 is drawn from its prior; x says where it is": log_normal(z2, 0.0, 1.0).sum(-1),
            "the entries beside the diagonal of the covariance are left out": alone(*joint.given("z2", x=x))(z2),
            "z2 is drawn given z1: that is bottom-up": joint.log_density("z2", z2, z1=z1),
        }
        same_density(sites["z2"], joint.log_density("z2", z2, x=x), mistakes, "q(z2|x)")
        fit, precision = likelihood(x, p)
        above = z2 @ p["a"].T
        mean, covariance = joint.given("z1", x=x)
        from_above = torch.eye(D1).double() / p["s1"] ** 2
        mistakes = {
            "z1 is drawn from p(z1|z2): x is not used": log_normal(z1, above, p["s1"]).sum(-1),
            "z1 is drawn from q(z1|x), as if independent of z2: then q is not the posterior": joint.log_density(
                "z1", z1, x=x
            ),
            "p(z1|z2) is merged with q(z1|x), which has a prior of z1 in it already; merge it with the likelihood": (
                MultivariateNormal(*merged(above, from_above, mean, torch.linalg.inv(covariance))).log_prob(z1)
            ),
            "the likelihood alone is used; z2 says more": MultivariateNormal(fit, precision_matrix=precision).log_prob(
                z1
            ),
            "the mean of p(z1|z2) is at the mean of z2, expected at its draw": MultivariateNormal(
                *merged(joint.given("z2", x=x)[0] @ p["a"].T, from_above, fit, precision)
            ).log_prob(z1),
            "the entries beside the diagonal of the covariance are left out": alone(*joint.given("z1", z2=z2, x=x))(z1),
        }
        same_density(sites["z1"], joint.log_density("z1", z1, z2=z2, x=x), mistakes, "q(z1|z2, x)")


def negative_entropy(covariance):
    return -0.5 * torch.logdet(2 * math.pi * math.e * covariance)


def expected_log_normal(mean, covariance, scale):
    """E[log N(r; 0, scale^2 I)] for r ~ N(mean, covariance)."""
    squares = mean.square().sum(-1) + covariance.trace()
    return -0.5 * (squares / scale**2 + len(covariance) * (2 * math.pi * scale**2).log())


def kl_terms(x, p):
    """The terms of both guides (N, 2), and what mistakes make of them."""
    joint, one = Joint.of(p), torch.tensor(1.0).double()
    mean, covariance = joint.given("z", x=x)
    off = torch.cat([-p["a"], torch.eye(D1).double()], 1)  # z1 - a z2
    log_p1 = expected_log_normal(mean @ off.T, off @ covariance @ off.T, p["s1"])
    log_p2 = expected_log_normal(mean[:, :D2], covariance[:D2, :D2], one)
    inner1, inner2 = covariance[D2:, D2:], covariance[:D2, :D2]
    given1, given2 = joint.given("z1", z2=mean[:, :D2], x=x)[1], joint.given("z2", z1=mean[:, D2:])[1]

    def pair(q1, q2, p1=log_p1, p2=log_p2):
        return torch.stack([negative_entropy(q1) - p1, negative_entropy(q2) - p2], -1)

    up, down = pair(inner1, given2), pair(given1, inner2)
    at_mean = expected_log_normal(mean @ off.T, 0 * off @ covariance @ off.T, p["s1"])
    independent = torch.zeros_like(covariance)
    independent[:D2, :D2], independent[D2:, D2:] = inner2, inner1
    uncorrelated = expected_log_normal(mean @ off.T, off @ independent @ off.T, p["s1"])
    of_z1 = joint.covariance[D2 : D2 + D1, D2 : D2 + D1]
    prior1 = MultivariateNormal(torch.zeros(D1).double(), of_z1)
    marginal = torch.distributions.kl_divergence(MultivariateNormal(mean[:, D2:], inner1), prior1)

    def mistakes(right, other, q1, q2):
        return {
            "the columns are exchanged: that of z1 comes first": right.flip(-1),
            "these are the terms of the other guide": other,
            "these are minus the terms": -right,
            "E log p(z1|z2) is taken at the means; the covariance of z1 - a z2 counts, too": pair(q1, q2, at_mean),
            "E log p(z1|z2) lacks the covariance of z1 and z2": pair(q1, q2, uncorrelated),
            "these are the sums over the levels; each has its own": right.sum(-1),
            "these are the means over the points; each has its own": right.mean(0),
            "the term of z1 is the KL from p(z1), with z2 integrated out; the model has p(z1|z2)": torch.stack(
                [marginal, right[:, 1]], -1
            ),
            "both q(z1|x) and q(z2|x) are used; of one of them the other site must be the condition": pair(
                inner1, inner2
            ),
        }

    return (up, mistakes(up, down, inner1, given2)), (down, mistakes(down, up, given1, inner2))


def kl_of_each_level_is_right(answer):
    """kl_per_level(x, p) gives E_q[log q - log p] of z1 and z2: different for both guides, with the same sum"""
    for seed in range(2):
        x, p = inputs(seed)
        returned = tuple_of(answer.kl_per_level(x, p), 2, "kl_per_level")
        for value, name, (expected, mistakes) in zip(returned, ("bottom-up", "top-down"), kl_terms(x, p), strict=True):
            same(value, expected, mistakes, f"kl_per_level, {name},", 1e-6)


CHECKS = ((4, bottom_up_is_exact), (3, top_down_is_exact), (3, kl_of_each_level_is_right))
