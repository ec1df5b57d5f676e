"""Expectations by Gauss-Hermite quadrature in float64: what the students' formulas and draws are compared with."""

import math

import numpy as np
import torch


def log_normal(z, loc, scale):
    """log N(z; loc, scale^2), number by number."""
    loc, scale = (torch.as_tensor(value, dtype=torch.float64) for value in (loc, scale))
    return -0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


def normal_points(loc, scale, nodes=20):
    """Points (M, d) and weights (M,), M = nodes^d, of E[f(z)] = sum weights f(points) for z ~ N(loc, diag(scale^2))."""
    node, weight = (torch.from_numpy(array) for array in np.polynomial.hermite_e.hermegauss(nodes))
    noise = torch.cartesian_prod(*[node] * len(loc)).reshape(-1, len(loc))
    weights = torch.cartesian_prod(*[weight] * len(loc)).reshape(-1, len(loc)).prod(-1)
    return loc.double() + scale.double() * noise, weights / weights.sum()


def log_ratio_moments(loc, scale, nodes=20):
    """Mean and variance of log q(z) - log p(z), z ~ q = N(loc, scale^2), p = N(0, 1), for each number of loc."""
    node, weight = (torch.from_numpy(array) for array in np.polynomial.hermite_e.hermegauss(nodes))
    weight = weight / weight.sum()
    loc, scale = loc.double()[..., None], scale.double()[..., None]
    z = loc + scale * node
    ratio = log_normal(z, loc, scale) - log_normal(z, 0.0, 1.0)
    mean = (ratio * weight).sum(-1)
    return mean, (ratio**2 * weight).sum(-1) - mean**2


def square_grid(half_width=10.0, points=301):
    """A grid (points^2, 2) over the square around 0, and log of the area of one cell."""
    axis = torch.linspace(-half_width, half_width, points, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), 2 * (axis[1] - axis[0]).log()
