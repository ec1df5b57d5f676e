"""Exercise 6: a planar layer. Log-determinants are those of autograd's Jacobians, the KL is a quadrature."""

import torch
from torch.nn.functional import softplus

from .compare import estimates, same, shaped, tuple_of
from .quadrature import log_normal, normal_points
from .submission import AnswerError


def layer_inputs(seed, d):
    """u, w and b of a layer far from the identity."""
    draw = torch.randn(2 * d + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 2 * draw[:d], 1.2 * draw[d:-1], draw[-1]


def projected(u, w):
    """Solves w . u_hat = -1 + log(1 + exp(w . u)), v . u_hat = v . u for all v orthogonal to w."""
    basis = torch.linalg.qr(torch.cat([w[:, None], torch.eye(len(w), dtype=w.dtype)], 1)).Q
    system = torch.cat([w[None], basis[:, 1:].T])
    return torch.linalg.solve(system, torch.cat([(-1 + softplus(w @ u))[None], basis[:, 1:].T @ u]))


def passed(z, u, w, b):
    """What comes out of a layer for z (N, d), and the log |det| of autograd's Jacobian at each z."""

    def transform(z):
        return z + u * (w @ z + b).tanh()

    return torch.vmap(transform)(z), torch.vmap(torch.func.jacrev(transform))(z).slogdet().logabsdet


def projection_is_right(answer):
    """project(u, w) gives w . u_hat = -1 + log(1 + exp(w . u)), which is above -1, and changes u along w only"""
    for seed in range(5):
        u, w, _ = layer_inputs(seed, 5)
        expected, along, square = projected(u, w), w @ u, w @ w
        change = -1 + softplus(along) - along
        mistakes = {
            "u comes back as it was": u,
            "the change is not divided by ||w||^2": u + change * w,
            "the change is divided by ||w||, expected by ||w||^2": u + change * w / square.sqrt(),
            "the change is subtracted; it must be added": u - change * w / square,
            "the -1 is missing": u + (change + 1) * w / square,
            "the 1 is added, expected -1": u + (change + 2) * w / square,
            "w . u is not subtracted: the change must be m(w . u) - w . u": u + (change + along) * w / square,
            "the change is along u, expected along w": u + change * u / square,
            "this is the change alone; u is missing": change * w / square,
            "log(exp(w . u)) stands where log(1 + exp(w . u)) belongs": u - w / square,
            "this is w . u_hat, expected the vector u_hat": -1 + softplus(along),
        }
        same(answer.project(u, w), expected, mistakes, "project", 1e-6)


def layer_is_right(answer):
    """layer(z, u, w, b) gives the next z and the log-determinant of the Jacobian, for z of shape (N, d)"""
    for seed in range(5):
        raw, w, b = layer_inputs(seed, 3)
        u = projected(raw, w)
        z = torch.randn(7, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        after, log_det = passed(z, u, w, b)
        answered, answered_log_det = tuple_of(answer.layer(z, u, w, b), 2, "layer")
        bend = (z @ w + b).tanh()
        mistakes = {
            "z comes back as it was": z,
            "z is missing: the layer adds to it": bend[:, None] * u,
            "the term is subtracted from z; it must be added": 2 * z - after,
            "w stands where u belongs": z + bend[:, None] * w,
            "b is missing": z + (z @ w).tanh()[:, None] * u,
            "tanh is missing": z + (z @ w + b)[:, None] * u,
            "u is projected once more; it is projected already": passed(z, projected(u, w), w, b)[0],
        }
        same(answered, after, mistakes, "the next z", 1e-6)
        along, slope = w @ u, 1 - bend**2
        mistakes = {
            "the log-determinant is 0": torch.zeros(7),
            "the log-determinant has the wrong sign": -log_det,
            "this is the determinant, expected its logarithm": log_det.exp(),
            "the derivative of tanh is missing in the determinant": (1 + along).abs().log().expand(7),
            "tanh stands where its derivative 1 - tanh^2 belongs": (1 + bend * along).abs().log(),
            "the derivative of tanh is taken as 1 - tanh; it is 1 - tanh^2": (1 + (1 - bend) * along).abs().log(),
            "the derivative of tanh is taken as 1 + tanh^2; it is 1 - tanh^2": (1 + (1 + bend**2) * along).abs().log(),
            "the 1 of the identity is missing in the determinant": (slope * along).abs().log(),
            "log |det| is summed over the images; each has its own": log_det.sum(),
            "log |det| has the mean over the images; each has its own": log_det.mean(),
            "u . u stands where w . u belongs": (1 + slope * (u @ u)).abs().log(),
            "w . w stands where w . u belongs": (1 + slope * (w @ w)).abs().log(),
            "the base of the logarithm is not e": log_det / torch.tensor(10.0).log(),
        }
        same(answered_log_det, log_det, mistakes, "log |det|", 1e-6)


def kl_is_right(answer):
    """kl(loc, scale, layers, draws) estimates the KL of the flow from the standard normal, prior at the last code"""
    loc, scale = torch.tensor([0.5, -0.3]).double(), torch.tensor([0.6, 0.9]).double()
    inputs = [layer_inputs(seed, 2) for seed in (0, 1, 2)]
    for layers in ([(projected(u, w), w, b) for u, w, b in inputs], []):
        expected, error, mistakes = flow_kl(loc, scale, layers, draws := 20_000)
        answered = shaped(answer.kl(loc, scale, layers, draws), (), "kl")
        if abs(answered / draws - expected) <= 5 * error:
            raise AnswerError("the sum over the draws is taken, expected the mean")
        estimates(answered, expected, error, mistakes, "kl")


def flow_kl(loc, scale, layers, draws):
    """The KL, the standard error of `draws` draws, and what known mistakes make of the KL."""
    start, weights = normal_points(loc, scale, nodes=100)
    base, z, log_dets = (
        log_normal(start, loc, scale).sum(-1),
        start,
        [torch.zeros(len(start)).double()],
    )
    for u, w, b in layers:
        z, log_det = passed(z, u, w, b)
        log_dets.append(log_det)
    log_det = torch.stack(log_dets).sum(0)
    at_end, at_start = log_normal(z, 0.0, 1.0).sum(-1), log_normal(start, 0.0, 1.0).sum(-1)

    def average(values):
        return (weights * values).sum()

    terms = base - log_det - at_end
    error = ((average(terms**2) - average(terms) ** 2) / draws).sqrt()
    mistakes = {
        "the layers are left out: this is the KL of the normal that the flow starts from": average(base - at_start),
        "the prior is left at z_0; it belongs at the last code": average(base - log_det - at_start),
        "the log-determinants are missing": average(base - at_end),
        "the log-determinants have the wrong sign: log q falls by log |det|": average(base + log_det - at_end),
        "the log-determinant of the first layer alone is used": average(base - log_dets[min(1, len(layers))] - at_end),
        "the log-determinant of the last layer alone is used": average(base - log_dets[-1] - at_end),
        "this is minus the KL: the sign is flipped": -average(terms),
        "the prior is left at z_0, and the log-determinants have the wrong sign": average(base + log_det - at_start),
        "log q is taken at the last code; the normal is the density of z_0": average(
            log_normal(z, loc, scale).sum(-1) - log_det - at_end
        ),
        "this is log q on average; log p is missing": average(base - log_det),
        "this is -log p on average; log q is missing": -average(at_end),
        "the mean over the dimensions is taken; log q and log p are sums": average((base - at_end) / 2 - log_det),
    }
    return average(terms), error, mistakes


CHECKS = ((3, projection_is_right), (4, layer_is_right), (3, kl_is_right))
