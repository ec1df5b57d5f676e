"""Answers to the exercises on graphical models, 7 to 10, as `coursework_answers` has those of 1 to 6."""

IN_CLOSED_FORM = """
def trained(x, full, beta):
    # Each coordinate is scaled to variance 1; a beta-VAE of variance c is a VAE of variance beta c.
    covariance = x.T @ x / len(x)
    if full:
        return torch.zeros(2), covariance, torch.zeros(2), torch.tensor(1.0)
    scale = covariance.diagonal().sqrt()
    rho = covariance[0, 1] / scale.prod()
    top, c = 1 + rho.abs(), (1 - rho.abs()) / (2 - beta)
    direction = torch.stack([torch.ones_like(rho), rho.sign()]) / math.sqrt(2)
    w = (top - beta * c).sqrt() * direction
    return scale * w, torch.diag(c * scale**2), w / top / scale, (beta * c / top).sqrt()
"""


def terms(
    fit="at_mean - 0.5 * s**2 * (w @ torch.linalg.solve(noise, w))",
    kl="(0.5 * (loc**2 + s**2 - 1) - s.log()).mean()",
    evidence="MultivariateNormal(torch.zeros_like(w), torch.outer(w, w) + noise).log_prob(x).mean()",
):
    return f"""{IN_CLOSED_FORM}
def terms(x, w, noise, a, s):
    loc = x @ a
    at_mean = MultivariateNormal(loc[:, None] * w, noise).log_prob(x).mean()
    fit = {fit}
    kl = {kl}
    return fit, kl, {evidence}"""


def trained(arguments="x, full, beta", result="w, noise, a, s"):
    return f"""{IN_CLOSED_FORM}
right = trained
def trained(x, full, beta):
    w, noise, a, s = right({arguments})
    return {result}"""


def smallest(formula):
    return f"def smallest_kl(rho, full): return {formula}"


WYNER = "0.5 * math.log((1 + abs(rho)) / (1 - abs(rho)))"

WRONG = [  # exercise, source, points lost, part of the diagnosis
    (7, terms("at_mean"), 4, "the noise of z is not carried"),
    (7, terms("at_mean - 0.5 * s * (w @ torch.linalg.solve(noise, w))"), 4, "enters with s, expected s^2"),
    (7, terms("at_mean + 0.5 * s**2 * (w @ torch.linalg.solve(noise, w))"), 4, "has the wrong sign"),
    (7, terms("len(x) * (at_mean - 0.5 * s**2 * (w @ torch.linalg.solve(noise, w)))"), 4, "the sum over the points"),
    (
        7,
        f"right = terms{IN_CLOSED_FORM}def terms(x, w, *rest): return right(x, w, rest[0] * torch.eye(2), *rest[1:])",
        4,
        "beside the diagonal of `noise`",
    ),
    (7, terms(kl="-(0.5 * (loc**2 + s**2 - 1) - s.log()).mean()"), 4, "minus the KL"),
    (7, terms(kl="(loc**2 + s**2 - 1 - (s**2).log()).mean()"), 4, "the factor 1/2"),
    (7, terms(kl="0.5 * (loc**2 + s**2 - 1 - s.log()).mean()"), 4, "log s stands where"),
    (7, terms(kl="0.5 * (s**2 - 1) - s.log()"), 4, "each point has its own KL"),
    (7, terms(evidence="MultivariateNormal(torch.zeros_like(w), noise).log_prob(x).mean()"), 4, "w w^T is missing"),
    (7, terms(evidence="fit - kl"), 4, "does not depend on the guide"),
    (7, terms(evidence="at_mean"), 4, "z must be integrated out"),
    (7, "def terms(x, w, noise, a, s): return 0.0" + IN_CLOSED_FORM, 4, "expected 3 values"),
    (7, trained("x, full, 1.0"), 3, "beta is left out"),
    (7, trained("x, False, beta"), 3, "is its noise free beside the diagonal?"),
    (7, trained("x, True, beta"), 3, "where the model is factorised"),
    (
        7,
        trained(result="0 * w, torch.diag(noise.diagonal()), 0 * a, 1.0"),
        3,
        "nats per point after training, expected",
    ),
    (7, trained(result="w, noise, a, s.log()"), 3, "expected above 0"),
    (7, trained(result="w, noise.diagonal(), a, s"), 3, "expected (2, 2)"),
    (7, trained(result="w, -noise, a, s"), 3, "expected a covariance"),
    (7, smallest(WYNER), 3, "without z: its smallest KL is 0"),
    (7, smallest("0.0"), 3, "the two coordinates of a factorised model are independent"),
    (7, smallest("0.0 if full else -0.5 * math.log(1 - rho**2)"), 3, "the mutual information"),
    (7, smallest(f"0.0 if full else 2 * {WYNER}"), 3, "the factor 1/2 is missing"),
    (7, smallest("0.0 if full else 0.5 * math.log((1 + rho) / (1 - rho))"), 3, "this is minus the KL"),
    (7, smallest("0.0 if full else math.inf"), 3, "smallest_kl is infinite"),
]

# Right, but not as the solutions have it.
RIGHT = {
    7: f"""{IN_CLOSED_FORM}
def terms(x, w, noise, a, s):
    evidence, fit = [], []
    precision = torch.linalg.inv(noise)
    spread = 1 / (1 + w @ precision @ w)  # the posterior's variance
    zero = torch.zeros_like(w)
    for point in x:
        off = point - w * (a @ point)
        squares = off @ precision @ off + s**2 * (w @ precision @ w)
        fit.append(-0.5 * squares - 0.5 * noise.det().log() - math.log(2 * math.pi))
        mean = spread * (w @ precision @ point)
        log_prior = Normal(0.0, 1.0).log_prob(mean) - Normal(mean, spread.sqrt()).log_prob(mean)
        evidence.append(MultivariateNormal(w * mean, noise).log_prob(point) + log_prior)
    q, p = Normal(x @ a, s), Normal(torch.zeros_like(x[:, 0]), 1.0)
    return sum(fit) / len(x), torch.distributions.kl_divergence(q, p).mean(), torch.stack(evidence).mean()

def smallest_kl(rho, full):
    # z gives the coordinates the weights b and rho / b
    b = torch.linspace(abs(rho), 1, 100001, dtype=torch.float64)[1:-1].sqrt()
    variances = (1 - b**2) * (1 - (rho / b) ** 2)
    return 0.0 if full else 0.5 * torch.log((1 - rho**2) / variances).min()
""",
}
