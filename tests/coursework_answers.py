"""Answers that students give: wrong ones, the points they cost and their diagnosis; right ones, written otherwise.

Each source is put below the solution, so that the rest of the file is right.
"""

SHORT = """
import math, sys, os
import torch
from torch.distributions import Normal
from torch.nn.functional import softplus
"""


def closed(formula):
    return f"def closed_form(m, s): return {formula}"


def drawn(body, result):
    return f"""
def monte_carlo(loc, scale, draws):
    z = loc + scale * torch.randn(draws, len(loc))
    t = (Normal(loc, scale).log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1)
    {body}
    return {result}"""


def objective(result, squares="(x - w @ loc).square().sum() + (w**2 @ scale**2).sum()"):
    return f"""
def objective(w, sigma, x, loc, scale, beta):
    squares = {squares}
    fit = -0.5 * squares / sigma**2 - 0.5 * len(x) * math.log(2 * math.pi * sigma**2)
    kl = 0.5 * (loc**2 + scale**2 - 1 - (scale**2).log()).sum()
    return {result}"""


def density(covariance, result="MultivariateNormal(torch.zeros_like(x), c).log_prob(x)"):
    return f"""
def evidence(w, sigma, x):
    c = {covariance}
    return {result}"""


def weights(result, z="q.sample((k,))"):
    return f"""
def log_weights(vae, x, k):
    q = vae.encode(x)
    z = {z}
    return {result}"""


def gradient(name, result):
    return f"""
def {name}(f, loc, scale, draws):
    z = loc + scale * torch.randn(draws, len(loc))
    v = f(z)
    s = (z - loc) / scale**2
    return {result}"""


def layer(result, body="pass"):
    return f"""
def layer(z, u, w, b):
    {body}
    t = (z @ w + b).tanh()
    return {result}"""


def flow(result, steps="log_q = log_q - log_det"):
    return f"""
def kl(loc, scale, layers, draws):
    z = start = loc + scale * torch.randn(draws, len(loc), dtype=loc.dtype)
    log_q = Normal(loc, scale).log_prob(z).sum(-1)
    for u, w, b in layers:
        z, log_det = layer(z, u, w, b)
        {steps}
    log_p = Normal(0.0, 1.0).log_prob(z).sum(-1)
    return {result}"""


COVARIANCE = "w @ w.T + sigma**2 * torch.eye(len(x), dtype=x.dtype)"
WRONG = [  # exercise, source, points lost, part of the diagnosis
    (1, closed("0.5 * (1 + (s**2).log() - m**2 - s**2).sum(-1)"), 4, "minus the KL"),
    (1, closed("(m**2 + s**2 - 1 - (s**2).log()).sum(-1)"), 4, "the factor 1/2"),
    (1, closed("0.5 * (m**2 + s**2 - 1 - (s**2).log()).mean(-1)"), 4, "the mean over the dimensions"),
    (1, closed("0.5 * (m**2 + s**2 - 1 - (s**2).log())"), 4, "the sum over the last dimension is missing"),
    (1, closed("0.5 * (m**2 + s**2 - 1 - (s**2).log()).sum()"), 4, "the sum is over the pairs as well"),
    (1, closed("0.5 * (m**2 + s**2 - 1 - (s**2).log()).sum(-1).mean()"), 4, "the mean over the pairs"),
    (1, closed("0.5 * (m**2 + s**2 - 1 - (s**2).log()).sum(1)"), 4, "IndexError"),
    (1, closed("0.5 * (m**2 + s**2 - 1 - (s**2).log()).sum(0)"), 4, "over the first dimension"),
    (1, closed("0.5 * (m**2 + s**2 - 1 - s.log()).sum(-1)"), 4, "log(scale) stands"),
    (1, closed("0.5 * (m**2 + s - 1 - s.log()).sum(-1)"), 4, "as if it were the variance"),
    (1, closed("0.5 * (m**2 + s.exp() - 1 - s).sum(-1)"), 4, "as if it were the log-variance"),
    (1, closed("(s.log() + (1 + m**2) / (2 * s**2) - 0.5).sum(-1)"), 4, "the other way round"),
    (1, closed("0.5 * (m**2 + s**2 - (s**2).log()).sum(-1)"), 4, "the -1 is missing"),
    (1, closed("0.5 * (m + s**2 - 1 - (s**2).log()).sum(-1)"), 4, "loc is not squared"),
    (1, closed("0.5 * (m**2 + s**2 - 1 - (s**2).log()).sum(-1) * float('nan')"), 4, "NaN"),
    (1, closed("0.5 * (m**2 + s**2 - 1 - (s**2).log()).sum(-1) + 0.1"), 4, "expected"),
    (1, closed("None"), 4, "returns None"),
    (1, closed("'two'"), 4, "expected numbers"),
    (1, closed("len"), 4, "was returned"),
    (1, closed("1 / 0"), 4, "ZeroDivisionError in line"),
    (1, closed("closed_form(m, s)"), 4, "calls itself without end"),
    (1, closed("(m.pow_(2) + s**2 - 1 - (s**2).log()).sum(-1) / 2"), 4, "argument 1 in place"),
    (1, drawn("", "-t.mean().item(), t.std().item() / draws**0.5"), 3, "minus the KL"),
    (1, drawn("", "t.mean().item(), t.std().item()"), 3, "over sqrt(draws)"),
    (1, drawn("", "t.mean().item(), t.var().item()"), 3, "the variance of the terms"),
    (1, drawn("", "t.mean().item(), t.var().item() / draws"), 3, "the square of the standard error"),
    (1, drawn("", "t.mean().item(), t.std().item() / draws"), 3, "divided by draws"),
    (1, drawn("t = t / 2", "t.mean().item(), t.std().item() / draws**0.5"), 3, "mean over the dimensions"),
    (1, drawn("t = t[:1]", "t.mean().item(), 0.1"), 3, "are all 500 draws used"),
    (1, drawn("torch.manual_seed(0); t = torch.randn(draws)", "t.mean().item(), 0.1"), 3, "a seed is set"),
    (1, drawn("", "closed_form(loc, scale).item(), t.std().item() / draws**0.5"), 3, "nothing is drawn"),
    (1, drawn("", "t.mean().item(), 0.139"), 3, "16 times the draws"),
    (1, drawn("", "t.mean().item()"), 3, "returns float, expected 2 values"),
    (1, drawn("t = Normal(loc, scale).log_prob(z).sum(-1)", "t.mean(), t.std() / draws**0.5"), 3, "log p is missing"),
    (
        1,
        drawn(
            "z = torch.randn(draws, 2); t = (Normal(loc, scale).log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1)",
            "t.mean(), t.std() / draws**0.5",
        ),
        3,
        "are all 500 draws used",
    ),
    (1, "def draws_needed(l, s, error): return math.ceil(_terms(l, s, 10000).var().item() / error)", 3, "be squared"),
    (1, "def draws_needed(l, s, error): return math.ceil(_terms(l, s, 100000).std().item() / error)", 3, "squared"),
    (1, "def draws_needed(l, s, error): return math.ceil(closed_form(l, s).item() / error**2)", 3, "this is the KL"),
    (1, "def draws_needed(l, s, error): return (0.5 * (s**2 - 1)**2).sum() / error**2", 3, "from loc is missing"),
    (1, "def draws_needed(l, s, error): return 10000", 3, "to within 20 %"),
    (1, "def draws_needed(l, s, error): return float('inf')", 3, "infinite"),
    (2, density(COVARIANCE, "-MultivariateNormal(torch.zeros_like(x), c).log_prob(x)"), 3, "minus log p(x)"),
    (2, density(COVARIANCE, "MultivariateNormal(torch.zeros_like(x), c).log_prob(x).exp()"), 3, "its logarithm"),
    (2, density(COVARIANCE.replace("sigma**2", "sigma")), 3, "sigma where sigma^2"),
    (2, density("sigma**2 * torch.eye(len(x), dtype=x.dtype)"), 3, "W W^T is missing"),
    (2, density("w @ w.T"), 3, "Error"),
    (2, density("w.T @ w + sigma**2 * torch.eye(2, dtype=x.dtype)"), 3, "Error"),
    (2, density("torch.diag((w**2).sum(1) + sigma**2)"), 3, "independent coordinates"),
    (2, density(COVARIANCE, "-0.5 * (x @ torch.linalg.solve(c, x) + c.logdet())"), 3, "-D/2 log(2 pi)"),
    (
        2,
        density(COVARIANCE, "-0.5 * x @ torch.linalg.solve(c, x) - 2.5 * math.log(2 * math.pi)"),
        3,
        "log det of the covariance",
    ),
    (
        2,
        density(
            "torch.linalg.solve(w.T @ w + sigma**2 * torch.eye(2).double(), w.T @ x)",
            "Normal(w @ c, sigma).log_prob(x).sum()",
        ),
        3,
        "z must be integrated out",
    ),
    (2, objective("beta * kl - fit"), 4, "minus the objective"),
    (2, objective("fit + beta * kl"), 4, "must be subtracted"),
    (2, objective("fit - kl"), 4, "beta is left out"),
    (2, objective("beta * fit - kl"), 4, "beta weighs the reconstruction"),
    (2, objective("beta * (fit - kl)"), 4, "weighs both"),
    (2, objective("fit"), 4, "the KL is left out"),
    (2, objective("fit - 2 * beta * kl"), 4, "the factor 1/2"),
    (2, objective("fit - beta * kl / 2"), 4, "the mean over the dimensions of the KL"),
    (2, objective("fit / len(x) - beta * kl"), 4, "the mean over the pixels"),
    (2, objective("fit - beta * kl", "(x - w @ loc).square().sum()"), 4, "only its mean is used"),
    (2, objective("fit - beta * kl", "(x - w @ loc).square().sum() + (scale**2).sum()"), 4, "carried through W"),
    (2, objective("fit - beta * kl", "(x - w @ loc).square().sum() + (w**2 @ scale).sum()"), 4, "expected scale^2"),
    (2, objective("fit - beta * kl", "(x - w @ loc).square().sum() - (w**2 @ scale**2).sum()"), 4, "wrong sign"),
    (2, objective("(fit - beta * kl).expand(2)"), 4, "shape"),
    (2, "def breaking_beta(w, sigma, x): return torch.zeros(2), torch.ones(2), 1.5", 3, "beta is 1.5"),
    (2, "def breaking_beta(w, sigma, x): return torch.zeros(2), torch.ones(2), 0.5", 3, "below the evidence"),
    (2, "def breaking_beta(w, sigma, x): return w.T @ x * 0, torch.zeros(2), 0.0", 3, "expected above 0"),
    (2, "def breaking_beta(w, sigma, x): return torch.zeros(2), torch.full((2,), math.nan), 0.0", 3, "NaN"),
    (2, "def breaking_beta(w, sigma, x): return 0.5", 3, "expected 3 values"),
    (3, "def active_units(means): return means.shape[1]", 4, "all dimensions"),
    (3, "def active_units(means): return (means.std(0) > 0.01).sum()", 4, "the standard deviation"),
    (3, "def active_units(means): return (means.square().mean(0) > 0.01).sum()", 4, "the mean square"),
    (3, "def active_units(means): return (means.var(1) > 0.01).sum()", 4, "exchanged"),
    (3, "def active_units(means): return (means.var(0) < 0.01).sum()", 4, "the inactive"),
    (3, "def active_units(means): return means.var(0) > 0.01", 4, "expected numbers"),
    (3, "def active_units(means): return means.var() > 0.01", 4, "expected numbers"),
    (3, "def active_units(means): print((means.var(0) > 0.01).sum())", 4, "returns None"),
    (3, "def collapsed(): return {'beta': 1.0, 'epochs': 2}", 6, "expected below 0.1"),
    (3, "def collapsed(): return {'beta': 10.0, 'lr': 3e-4, 'epochs': 1}", 6, "has not learnt"),
    (3, "def collapsed(): return {'learning_rate': 10.0}", 6, "unexpected keyword"),
    (3, "def collapsed(): return 10.0", 6, "expected a dictionary"),
    (3, "def mended(): return {'beta': 0.5, 'lr': 1e-3}", 3, "changed: lr"),
    (3, "def mended(): return {'beta': -1.0}", 3, "fit with these arguments: InputError"),
    (3, "def mended(): return {'beta': 9.0}", 3, "0 of 4 units are active"),
    (4, weights("vae.decode(z).log_prob(x)"), 4, "this is log p(x|z)"),
    (4, weights("vae.decode(z).log_prob(x) - q.log_prob(z)"), 4, "log p(z) is missing"),
    (4, weights("vae.decode(z).log_prob(x) + vae.prior().log_prob(z)"), 4, "log q(z|x) is missing"),
    (4, weights("vae.decode(z).log_prob(x) + vae.prior().log_prob(z) + q.log_prob(z)"), 4, "must be subtracted"),
    (4, weights("-(vae.decode(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z))"), 4, "minus the log-weights"),
    (4, weights("vae.decode(z).log_prob(x) / 64 + vae.prior().log_prob(z) - q.log_prob(z)"), 4, "over the pixels"),
    (
        4,
        weights("(vae.decode(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)).logsumexp(0)"),
        4,
        "the mean over the draws",
    ),
    (4, weights("(vae.decode(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)).T"), 4, "expected (k, N)"),
    (
        4,
        weights(
            "vae.decode(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)", "q.mean.expand(k, *q.mean.shape)"
        ),
        4,
        "all draws have the same weight",
    ),
    (
        4,
        weights(
            "vae.decode(z).log_prob(x) + vae.prior().log_prob(z) - q.log_prob(z)", "vae.prior().sample((k, len(x)))"
        ),
        4,
        "z is drawn from the prior",
    ),
    (
        4,
        weights(
            "vae.decode(z).log_prob(x)[..., None] + Normal(0.0, 1.0).log_prob(z) - q.base_dist.log_prob(z)",
        ),
        4,
        "a value per latent dimension",
    ),
    (4, "def pareto_k(rho): return rho", 3, "not negative when rho is"),
    (4, "def pareto_k(rho): return rho**2", 3, "this is rho^2"),
    (4, "def pareto_k(rho): return 1 - abs(rho)", 3, "smallest eigenvalue"),
    (4, "def pareto_k(rho): return 1 - rho**2", 3, "the guide's variance"),
    (4, "def pareto_k(rho): return abs(rho) / 2", 3, "half"),
    (4, "def pareto_k(rho): return 0.5", 3, "to within 0.15"),
    (4, "def distrusted(log_w): return (pareto_smooth(log_w).pareto_k > 0.7).nonzero()", 3, "whatever K"),
    (4, "def distrusted(log_w): return (pareto_smooth(log_w).pareto_k > 0.5).nonzero()", 3, "the limit is 0.5"),
    (4, "def distrusted(log_w): return (pareto_smooth(log_w).pareto_k < 0.7).nonzero()", 3, "the trusted images"),
    (4, "def distrusted(log_w): return (pareto_smooth(-log_w).pareto_k > 0.7).nonzero()", 3, "-log w"),
    (4, "def distrusted(log_w): return pareto_smooth(log_w).pareto_k > 0.7", 3, "expected numbers"),
    (4, "def distrusted(log_w): return pareto_smooth(log_w).pareto_k", 3, "distrusted gives"),
    (5, gradient("score_function", "-v[:, None] * s"), 4, "minus the gradient"),
    (5, gradient("score_function", "v[:, None] * (z - loc) / scale"), 4, "divided by scale"),
    (5, gradient("score_function", "v[:, None] * (z - loc)"), 4, "times scale^2"),
    (5, gradient("score_function", "s"), 4 + 3, "f is left out"),
    (5, gradient("score_function", "v[:, None].expand(-1, len(loc))"), 4 + 3, "this is f(z)"),
    (5, gradient("score_function", "(v[:, None] * s).mean(0)"), 4 + 3, "the mean over the draws"),
    (5, gradient("score_function", "v * s"), 4 + 3, "RuntimeError in line"),
    (
        5,
        gradient("score_function", "v[:, None] * ((z - loc)**2 - scale**2) / scale**3"),
        4 + 3,
        "with respect to scale",
    ),
    (5, gradient("score_function", "reparameterized(f, loc, scale, draws)"), 3, "that of the reparameterized"),
    (5, gradient("score_function", "1 - z + 1e4 * torch.randn(draws, len(loc))"), 4 + 3, "as much as the score"),
    (5, gradient("reparameterized", "torch.zeros_like(z)"), 4 + 3, "z is detached"),
    (5, gradient("reparameterized", "v[:, None] * s"), 3, "that of the score function"),
    (
        5,
        "def reparameterized(f, loc, scale, draws):\n z = loc.clone().expand(draws, -1).clone().requires_grad_()\n"
        " return torch.autograd.grad(f(z).sum(), z)[0]",
        4 + 3,
        "is there noise",
    ),
    (
        5,
        "def reparameterized(f, loc, scale, draws):\n e = torch.randn(draws, len(loc), requires_grad=True)\n"
        " return torch.autograd.grad(f(loc + scale * e).sum(), e)[0]",
        4,
        "with respect to the noise",
    ),
    (
        5,
        "def reparameterized(f, loc, scale, draws):\n z = _draws(loc, scale, draws).requires_grad_()\n"
        " return torch.autograd.grad(f(z).mean(), z)[0]",
        4 + 3,
        "divided by the number of draws",
    ),
    (
        5,
        "def reparameterized(f, loc, scale, draws):\n z = (loc + scale * torch.randn(draws, len(loc))).detach()\n"
        " return torch.autograd.grad(f(z).sum(), loc)[0]",
        4 + 3,
        "RuntimeError in line",
    ),
    (5, gradient("with_baseline", "(v - v.mean())[:, None] * s"), 3, "the baseline is the mean over all draws"),
    (5, gradient("with_baseline", "v[:, None] * s - (v[:, None] * s).mean(0)"), 3, "the gradient is 0"),
    (5, gradient("with_baseline", "v[:, None] * s"), 3, "there is no baseline"),
    (5, gradient("with_baseline", "reparameterized(f, loc, scale, draws)"), 3, "that of the reparameterized"),
    (5, gradient("with_baseline", "(v + (v.sum() - v) / (draws - 1))[:, None] * s"), 3, "is it added"),
    (5, gradient("with_baseline", "-(v - (v.sum() - v) / (draws - 1))[:, None] * s"), 3, "minus the gradient"),
    (5, gradient("with_baseline", "v - (v.sum() - v) / (draws - 1)"), 3, "shape"),
    (6, "def project(u, w): return u", 3, "u comes back as it was"),
    (6, "def project(u, w): return u + (-1 + softplus(w @ u) - w @ u) * w", 3, "not divided"),
    (6, "def project(u, w): return u + (-1 + softplus(w @ u) - w @ u) * w / w.norm()", 3, "divided by ||w||,"),
    (6, "def project(u, w): return u + (softplus(w @ u) - w @ u) * w / (w @ w)", 3, "the -1 is missing"),
    (6, "def project(u, w): return u + (-1 + softplus(w @ u)) * w / (w @ w)", 3, "w . u is not subtracted"),
    (6, "def project(u, w): return u + (-1 + softplus(w @ u) - w @ u) * u / (w @ w)", 3, "along u"),
    (6, "def project(u, w): return -1 + softplus(w @ u)", 3, "this is w . u_hat"),
    (6, "def project(u, w): return u + (-1 + (1 + w @ u).log() - w @ u) * w / (w @ w)", 3, "NaN"),
    (6, "def layer(z, u, w, b): return z, torch.zeros(len(z), dtype=z.dtype)", 4 + 3, "z comes back as it was"),
    (6, layer("z + t[:, None] * u, -(1 + (1 - t**2) * (w @ u)).abs().log()"), 4 + 3, "the wrong sign"),
    (6, layer("z + t[:, None] * u, torch.zeros(len(z)).double()"), 4 + 3, "the log-determinant is 0"),
    (6, layer("z + t[:, None] * u, (1 + (1 - t**2) * (w @ u)).abs()"), 4 + 3, "expected its logarithm"),
    (
        6,
        layer("z + t[:, None] * u, (1 + (w @ u)).abs().log().expand(len(z))"),
        4 + 3,
        "the derivative of tanh is missing",
    ),
    (6, layer("z + t[:, None] * u, (1 + t * (w @ u)).abs().log()"), 4 + 3, "tanh stands where"),
    (6, layer("z + t[:, None] * u, (1 + (1 - t) * (w @ u)).abs().log()"), 4 + 3, "taken as 1 - tanh"),
    (6, layer("z + t[:, None] * u, (1 + (1 - t**2) * (w @ u)).abs().log().sum()"), 4 + 3, "summed over the images"),
    (6, layer("z + t[:, None] * w, (1 + (1 - t**2) * (w @ u)).abs().log()"), 4 + 3, "w stands where u belongs"),
    (6, layer("t[:, None] * u, (1 + (1 - t**2) * (w @ u)).abs().log()"), 4 + 3, "z is missing"),
    (6, layer("z + t[:, None] * u"), 4 + 3, "expected 2 values"),
    (6, layer("(z + t[:, None] * u, (1 + (1 - t**2) * (w @ u)).abs().log())", "z += 1"), 4 + 3, "argument 1 in place"),
    (6, flow("(log_q - Normal(0.0, 1.0).log_prob(start).sum(-1)).mean().item()"), 3, "the prior is left at z_0"),
    (6, flow("(log_q - log_p).mean().item()", "pass"), 3, "the log-determinants are missing"),
    (6, flow("(log_q - log_p).mean().item()", "log_q = log_q + log_det"), 3, "have the wrong sign"),
    (6, flow("(log_p - log_q).mean().item()"), 3, "minus the KL"),
    (6, flow("(log_q - log_p).sum().item()"), 3, "the sum over the draws"),
    (6, flow("log_q.mean().item()"), 3, "log p is missing"),
    (6, flow("log_q - log_p"), 3, "shape"),
    (
        6,
        "def kl(loc, scale, layers, draws): return 0.5 * (loc**2 + scale**2 - 1 - (scale**2).log()).sum()",
        3,
        "left out",
    ),
]

# Right, but not as the solutions have it.
RIGHT = {
    1: """
import numpy as np

def closed_form(loc, scale):
    loc, scale = loc.double().numpy(), scale.double().numpy()
    total = np.zeros(loc.shape[:-1])
    for i in range(loc.shape[-1]):
        total = total + 0.5 * loc[..., i] ** 2 + 0.5 * (scale[..., i] ** 2 - 1) - np.log(scale[..., i])
    return total

def monte_carlo(loc, scale, draws):
    q = torch.distributions.MultivariateNormal(loc, torch.diag(scale**2))
    z = q.sample((draws,))
    t = q.log_prob(z) + 0.5 * z.square().sum(1) + 0.5 * len(loc) * math.log(2 * math.pi)
    return t.mean(), torch.sqrt(((t - t.mean()) ** 2).sum() / (draws - 1) / draws)

def draws_needed(loc, scale, error):
    _, pilot = monte_carlo(loc, scale, 20000)
    return int(20000 * (pilot / error) ** 2)
""",
    2: """
def evidence(w, sigma, x):
    # by the posterior: log p(x) = log p(x|z) + log p(z) - log p(z|x), at any z
    precision = w.T @ w / sigma**2 + torch.eye(w.shape[1], dtype=w.dtype)
    mean = torch.linalg.solve(precision, w.T @ x / sigma**2)
    at = torch.zeros_like(mean)
    posterior = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    return float(Normal(w @ at, sigma).log_prob(x).sum() + Normal(0.0, 1.0).log_prob(at).sum() - posterior.log_prob(at))

def objective(w, sigma, x, loc, scale, beta):
    total = 0.0
    for i in range(len(x)):
        mean, variance = w[i] @ loc, sum(w[i, j] ** 2 * scale[j] ** 2 for j in range(len(loc)))
        total += -0.5 * math.log(2 * math.pi) - math.log(sigma) - ((x[i] - mean) ** 2 + variance) / (2 * sigma**2)
    kl = torch.distributions.kl_divergence(Normal(loc, scale), Normal(torch.zeros_like(loc), 1.0))
    return total - beta * kl.sum()

def breaking_beta(w, sigma, x):
    precision = w.T @ w / sigma**2 + torch.eye(w.shape[1], dtype=w.dtype)
    return torch.linalg.solve(precision, w.T @ x / sigma**2).tolist(), [0.05, 0.05], 1e-3
""",
    3: """
def active_units(means):
    return sum(1 for column in means.double().T if ((column - column.mean()) ** 2).mean() > 0.01)

def collapsed():
    return {"beta": 20, "epochs": 15}

def mended():
    return {"epochs": 15, "beta": 0.2}
""",
    4: """
def log_weights(vae, x, k):
    rows = []
    with torch.no_grad():
        q = vae.encode(x)
        for _ in range(k // 100):
            z = q.mean.double() + q.stddev.double() * torch.randn(100, *q.mean.shape, dtype=torch.float64)
            logits = vae.decoder(z.float().flatten(0, 1)).reshape(100, *x.shape).double()
            fit = -torch.nn.functional.binary_cross_entropy_with_logits(
                logits, x.double().expand_as(logits), reduction="none"
            ).flatten(2).sum(-1)
            noise = (z - q.mean) / q.stddev
            rows.append(fit + (-0.5 * z**2 + 0.5 * noise**2 + q.stddev.log()).sum(-1))
    return torch.cat(rows)

def pareto_k(rho):
    z = torch.randn(20000, 30, 2, dtype=torch.float64)
    log_w = 0.5 * 2 * rho * z[..., 0] * z[..., 1]
    return pareto_smooth(log_w).pareto_k.mean()

def distrusted(log_w):
    found = pareto_smooth(log_w)
    return {i: None for i in range(log_w.shape[1])} and [i for i, k in enumerate(found.pareto_k) if k > found.threshold]
""",
    5: """
def score_function(f, loc, scale, draws):
    q = Normal(loc.clone().expand(draws, -1).requires_grad_(), scale)
    z = q.sample()
    return f(z)[:, None] * torch.autograd.grad(q.log_prob(z).sum(), q.loc)[0]

def reparameterized(f, loc, scale, draws):
    rows = []
    for noise in torch.randn(draws, len(loc)).split(10000):
        each = loc.repeat(len(noise), 1).requires_grad_()
        f(each + scale * noise).sum().backward()
        rows.append(each.grad)
    return torch.cat(rows)

def with_baseline(f, loc, scale, draws):
    z = Normal(loc, scale).sample((draws,))
    v = f(z)
    return (v - v.mean())[:, None] * draws / (draws - 1) * (z - loc) / scale.square()
""",
    6: """
def project(u, w):
    norm = (w**2).sum()
    return u - (w * u).sum() / norm * w + (torch.log1p(torch.exp((w * u).sum())) - 1) * w / norm

def layer(z, u, w, b):
    def one(z):
        return z + u * torch.tanh((w * z).sum() + b)

    jacobians = [torch.autograd.functional.jacobian(one, row) for row in z] if len(z) < 100 else None
    if jacobians is None:
        log_det = torch.log(torch.abs(1 + torch.einsum("d,d->", u, w) / torch.cosh(z @ w + b) ** 2))
    else:
        log_det = torch.stack([jacobian.det().abs().log() for jacobian in jacobians])
    return torch.stack([one(row) for row in z]), log_det

def kl(loc, scale, layers, draws):
    z = loc + scale * torch.randn(draws, len(loc)).double()
    total = -(0.5 * math.log(2 * math.pi * math.e) + scale.log()).sum()  # of log q_0, exactly
    for u, w, b in layers:
        total = total - torch.log(1 + (u @ w) * (1 - torch.tanh(z @ w + b) ** 2)).mean()
        z = z + torch.outer(torch.tanh(z @ w + b), u)
    return total + (0.5 * z**2 + 0.5 * math.log(2 * math.pi)).sum(1).mean()
""",
}
