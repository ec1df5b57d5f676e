"""Answers to the exercises on graphical models and uses, 7 to 12, as `coursework_answers` has those of 1 to 6."""

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


def mixture_model(
    y='dist.Categorical(p["probs"]), infer={"enumerate": "parallel"}',
    z='dist.Normal(p["loc"][y], p["scale"][y]).to_event(1)',
    x='dist.Normal(z @ p["w"].T, p["sigma"]).to_event(1), obs=x',
    plate='pyro.plate("data", len(x))',
):
    return f"""
import contextlib
def model(x, p):
    with {plate}:
        y = pyro.sample("y", {y})
        z = pyro.sample("z", {z})
        pyro.sample("x", {x})"""


def mixture_guide(z='dist.Normal(x @ p["gain"].T, p["spread"]).to_event(1)', y="pass"):
    return f"""
def guide(x, p):
    with pyro.plate("data", len(x)):
        {y}
        pyro.sample("z", {z})"""


def summed(log_prior, result="log_prior + fit - log_q"):
    return f"""
def marginal_elbo(x, z, p):
    each = dist.Normal(p["loc"], p["scale"]).log_prob(z[:, None]).sum(-1)
    log_prior = {log_prior}
    fit = dist.Normal(z @ p["w"].T, p["sigma"]).log_prob(x).sum(-1)
    log_q = dist.Normal(x @ p["gain"].T, p["spread"]).log_prob(z).sum(-1)
    return {result}"""


def responsible(result):
    return f"""
def responsibilities(z, p):
    each = dist.Normal(p["loc"], p["scale"]).log_prob(z[:, None]).sum(-1)
    joint = p["probs"].log() + each
    return {result}"""


def guided(name, first, second, body="pass"):
    """A guide of two levels: both sites as (name, distribution)."""
    return f"""
def {name}(x, p):
    gain, spread2 = _z2_given_z1(p)
    mean1, covariance1 = _z1_given_x(x, p)
    mean2, covariance2 = _z2_given_x(x, p)
    eye = _identity(p["b"])
    likelihood = p["b"].T @ p["b"] / p["s2"]**2
    with pyro.plate("data", len(x)):
        {first[0]} = pyro.sample("{first[0]}", {first[1]})
        {body}
        {second[0]} = pyro.sample("{second[0]}", {second[1]})"""


def from_below(prior="eye", z1="", z2="dist.MultivariateNormal(z1 @ gain.T, spread2)"):
    """bottom_up with another precision for the prior of z1, or other distributions."""
    covariance = f"torch.linalg.inv({prior} + likelihood)"
    z1 = z1 or f"dist.MultivariateNormal(x @ p['b'] @ {covariance} / p['s2']**2, {covariance})"
    return guided("bottom_up", ("z1", z1), ("z2", z2))


def from_above(z2="dist.MultivariateNormal(mean2, covariance2)", mean="", covariance="", z1=""):
    """top_down with other parts of q(z1|z2, x)."""
    covariance = covariance or "torch.linalg.inv(eye / p['s1']**2 + likelihood)"
    mean = mean or "z2 @ p['a'].T / p['s1']**2 + x @ p['b'] / p['s2']**2"
    return guided(
        "top_down", ("z2", z2), ("z1", z1 or f"dist.MultivariateNormal(({mean}) @ c, c)"), f"c = {covariance}"
    )


def per_level(result):
    return f"""
right = kl_per_level
def kl_per_level(x, p):
    up, down = right(x, p)
    return {result}"""


def predicted(result, body="pass"):
    return f"""
right = conditionals
def conditionals(train, codes, k):
    hot = torch.nn.functional.one_hot(train, k).double()
    frequencies = ((hot.sum(0) + 1) / (len(train) + k)).log()
    {body}
    return {result}"""


def nats(
    nats="-log_p.gather(-1, codes[..., None]).mean()", saved="codes.shape[1] * (math.log(log_p.shape[-1]) - nats)"
):
    return f"""
def nats_per_code(log_p, codes):
    nats = -log_p.gather(-1, codes[..., None]).mean()
    return {nats}, {saved}"""


def drawn(result, body="pass"):
    return f"""
right = sample
def sample(train, n, k):
    T = train.shape[1]
    hot = torch.nn.functional.one_hot(train, k).double()
    frequencies = (hot.sum(0) + 1) / (len(train) + k)
    {body}
    return {result}"""


OFF_DIAGONAL = "dist.Normal(mean{0}, covariance{0}.diagonal().sqrt()).to_event(1)"
SUM = '(p["probs"].log() + each).logsumexp(-1)'
WYNER = "0.5 * math.log((1 + abs(rho)) / (1 - abs(rho)))"


def likelihood(formula):
    return f"""
right = negative_log_likelihood
def negative_log_likelihood(x, model):
    return {formula}"""


def score(formula):
    return f"def repaired(x, train, model): return {formula}"


def weighted(formula):
    return f"""
def weights(codes, bins, smoothing):
    least, width = codes.amin(0), (codes.amax(0) - codes.amin(0)) / bins
    bin_of = ((codes - least) / width).floor().clamp(max=bins - 1)
    q = (bin_of[:, None] == bin_of).double().mean(1)
    w = 1 / (q + smoothing)
    w = w / w.sum(0)
    largest = w.amax(1) / w.amax(1).sum()
    w = {formula}
    return w"""


LOGISTIC = """
from sklearn.linear_model import LogisticRegression
def classify(train, labels, codes, x):
    w = {0}
    model = LogisticRegression(max_iter=300).fit(train.numpy(), labels.numpy(), w)
    return torch.from_numpy(model.predict(x.numpy()))"""


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
    (8, mixture_model(y='dist.Categorical(p["probs"])'), 4, "y is drawn, expected summed"),
    (
        8,
        mixture_model(y='dist.Categorical(p["probs"]), infer={"enumerate": "sequential"}'),
        4,
        "is sequential, expected 'parallel'",
    ),
    (
        8,
        mixture_model(y='dist.Categorical(torch.ones(3).double()), infer={"enumerate": "parallel"}'),
        4,
        "p(y) is uniform",
    ),
    (8, mixture_model(z='dist.Normal(p["loc"][y], p["scale"][y])'), 4, "ValueError in line"),
    (8, mixture_model(z='dist.Normal(p["loc"][y], p["scale"][y].sqrt()).to_event(1)'), 4, "used as the variance"),
    (8, mixture_model(z='dist.Normal(torch.zeros_like(p["loc"])[y], 1.0).to_event(1)'), 4, "a standard normal, as in"),
    (8, mixture_model(x='dist.Normal(z @ p["w"].T, p["sigma"]).to_event(1)'), 4, "is drawn, expected obs"),
    (8, mixture_model(x='dist.Normal(p["loc"][y] @ p["w"].T, p["sigma"]).to_event(1), obs=x'), 4, "at the code z"),
    (8, mixture_model(x='dist.Normal(z @ p["w"].T, p["sigma"] ** 2).to_event(1), obs=x'), 4, "sigma^2, expected sigma"),
    (8, mixture_model(plate="contextlib.nullcontext()"), 4, "outside of a plate"),
    (
        8,
        mixture_guide(y='pyro.sample("y", dist.Categorical(p["probs"]), infer={"enumerate": "parallel"})'),
        4,
        "the guide has the site y",
    ),
    (8, mixture_guide('dist.Normal(x @ p["gain"].T, p["spread"].sqrt()).to_event(1)'), 4, "spread is used as the var"),
    (8, mixture_guide("dist.Normal(torch.zeros(len(x), 2).double(), 1.0).to_event(1)"), 4, "the guide depends on x"),
    (8, "def guide(x, p): pass", 4, "z is missing"),
    (8, summed("each.logsumexp(-1)"), 3, "p(y) is missing"),
    (8, summed("each.logsumexp(-1) - math.log(3)"), 3, "p(y) is uniform"),
    (8, summed('(p["probs"] * each).sum(-1)'), 3, "the logarithm must be outside"),
    (8, summed('(p["probs"].log() + each).sum(-1)'), 3, "their densities must be"),
    (8, summed('(p["probs"].log() + each).max(-1).values'), 3, "the most probable component alone"),
    (8, summed("Normal(0.0, 1.0).log_prob(z).sum(-1)"), 3, "it must be the mixture"),
    (8, summed(SUM, "log_prior + fit"), 3, "log q(z|x) is missing"),
    (8, summed(SUM, "fit - log_q"), 3, "log p(z) is missing"),
    (8, summed(SUM, "log_prior + fit + log_q"), 3, "must be subtracted"),
    (8, summed(SUM, "(log_prior + fit - log_q).sum()"), 3, "the sum over the points"),
    (8, summed(SUM, "log_q - fit - log_prior"), 3, "the loss"),
    (8, responsible("each.softmax(-1)"), 3, "p(y) is missing"),
    (8, responsible("joint.exp()"), 3, "divided by its sum over y"),
    (8, responsible("joint.exp() / joint.exp().sum(-1, keepdim=True)"), 3, "NaNs far from all"),
    (8, responsible("joint.softmax(0)"), 3, "the sum over the points is 1"),
    (8, responsible("joint.log_softmax(-1)"), 3, "this is log p(y|z)"),
    (8, responsible("joint.argmax(-1)"), 3, "expected the probability of each"),
    (8, responsible("torch.nn.functional.one_hot(joint.argmax(-1), 3)"), 3, "this is 1 for the most"),
    (8, responsible("joint.softmax(-1).T"), 3, "expected (N, C)"),
    (9, from_below("eye / p['s1']**2"), 4, "lacks the variance that z2 gives it"),
    (9, from_below("eye"), 4, "taken as N(0, I)"),
    (9, from_below("0 * eye"), 4, "the likelihood alone"),
    (9, from_below(z1=OFF_DIAGONAL.format(1)), 4, "beside the diagonal"),
    (9, from_below(z1="dist.MultivariateNormal(mean1, scale_tril=covariance1.tril())"), 4, "used as scale_tril"),
    (9, from_below(z1="dist.Normal(mean1, 1.0)"), 4, "ValueError in line"),
    (
        9,
        from_below(z1="dist.MultivariateNormal(mean1, covariance1)", z2="dist.MultivariateNormal(mean2, covariance2)"),
        4,
        "as if independent of z1",
    ),
    (
        9,
        from_below(
            z1="dist.MultivariateNormal(mean1, covariance1)", z2="dist.MultivariateNormal(mean1 @ gain.T, spread2)"
        ),
        4,
        "expected at its draw",
    ),
    (
        9,
        from_below(z1="dist.MultivariateNormal(mean1, covariance1)", z2="dist.Normal(0 * mean2, 1.0).to_event(1)"),
        4,
        "z2 is drawn from its prior",
    ),
    (9, "bottom_up = top_down", 4, "that is top-down"),
    (
        9,
        guided(
            "bottom_up",
            ("z1", OFF_DIAGONAL.format(1)),
            ("z2", OFF_DIAGONAL.format(2)),
            'pyro.sample("noise", dist.Normal(0.0, 1.0))',
        ),
        4,
        "a site noise too many",
    ),
    (
        9,
        guided("top_down", ("z2", OFF_DIAGONAL.format(2)), ("z3", "dist.Normal(mean1, 1.0).to_event(1)")),
        3,
        "z1 is missing",
    ),
    (9, "top_down = bottom_up", 3, "that is bottom-up"),
    (9, from_above(z2=OFF_DIAGONAL.format(2)), 3, "beside the diagonal"),
    (
        9,
        """
right = _z2_given_x
def _z2_given_x(x, p):
    b_a = p["b"] @ p["a"]
    covariance = torch.linalg.inv(_identity(p["a"]) + b_a.T @ b_a / p["s2"] ** 2)
    return x @ b_a @ covariance / p["s2"] ** 2, covariance
levels = kl_per_level
def kl_per_level(x, p):
    global _z2_given_x
    _z2_given_x = right
    return levels(x, p)""",
        3,
        "the noise of z1 is not carried to x",
    ),
    (9, from_above(z1="dist.Normal(z2 @ p['a'].T, p['s1']).to_event(1)"), 3, "x is not used"),
    (9, from_above(z1="dist.MultivariateNormal(mean1, covariance1)"), 3, "as if independent of z2"),
    (
        9,
        from_above(
            covariance="torch.linalg.inv(eye / p['s1']**2 + torch.linalg.inv(covariance1))",
            mean="z2 @ p['a'].T / p['s1']**2 + torch.linalg.solve(covariance1, mean1.T).T",
        ),
        3,
        "a prior of z1 in it already",
    ),
    (9, from_above(mean="mean2 @ p['a'].T / p['s1']**2 + x @ p['b'] / p['s2']**2"), 3, "at the mean of z2"),
    (9, from_above(mean="x @ p['b'] / p['s2']**2", covariance="torch.linalg.inv(likelihood)"), 3, "z2 says more"),
    (9, per_level("up.flip(-1), down.flip(-1)"), 3, "the columns are exchanged"),
    (9, per_level("down, up"), 3, "of the other guide"),
    (9, per_level("-up, -down"), 3, "minus the terms"),
    (9, per_level("up.sum(-1), down.sum(-1)"), 3, "the sums over the levels"),
    (9, per_level("up.mean(0), down.mean(0)"), 3, "the means over the points"),
    (9, per_level("up"), 3, "expected 2 values"),
    (
        9,
        """
right = _expected_log_normal
def _expected_log_normal(mean, covariance, scale):
    return right(mean, covariance * 0 if len(covariance) == 3 else covariance, scale)""",
        3,
        "is taken at the means",
    ),
    (
        9,
        """
right = kl_per_level
def kl_per_level(x, p):
    up, down = right(x, p)
    prior = dist.MultivariateNormal(torch.zeros(3).double(), p["a"] @ p["a"].T + p["s1"]**2 * torch.eye(3))
    wrong = torch.distributions.kl_divergence(dist.MultivariateNormal(*_z1_given_x(x, p)), prior)
    return torch.stack([wrong, up[:, 1]], -1), down""",
        3,
        "the model has p(z1|z2)",
    ),
    (10, predicted("right(train, codes, k).exp()"), 4, "these are probabilities, expected their logarithms"),
    (10, predicted("right(train, codes, k).log_softmax(1)"), 4, "the probabilities of the positions"),
    (10, predicted("2 * right(train, codes, k)"), 4, "add up to"),
    (10, predicted("right(train, codes, k)[:, -1]"), 4, "expected (557, 16, 16)"),
    (10, predicted("right(train, codes, k)[:, list(range(1, 16)) + [0]]"), 4, "changes with the code itself"),
    (
        10,
        predicted("right(train, codes.roll(-2, 1), k)"),
        4,
        "changes with codes after it",
    ),
    (10, predicted("right(train.flip(1), codes.flip(1), k).flip(1)"), 4, "position 0 changes with codes after it"),
    (
        10,
        predicted("(1e6 * torch.nn.functional.one_hot(codes, k).double()).log_softmax(-1)"),
        4,
        "position 0 changes with the code itself",
    ),
    (10, predicted("torch.full((*codes.shape, k), -math.log(k))"), 4, "nothing is learnt"),
    (10, predicted("frequencies.expand(len(codes), -1, -1)"), 4, "the codes before are not used"),
    (
        10,
        predicted("frequencies.exp().mean(0).log().expand(*codes.shape, k)"),
        4,
        "neither the position nor earlier codes",
    ),
    (10, predicted("hot.mean(0).log().expand(len(codes), -1, -1)"), 4, "a code of probability 0"),
    (
        10,
        predicted(
            "torch.cat([frequencies[:1].expand(len(codes), -1, -1), counts.log()[codes[:, :-1]]], 1)",
            "counts = torch.einsum('nti,ntj->ij', hot[:, :-1], hot[:, 1:]) + 1; counts /= counts.sum(1, keepdim=True)",
        ),
        4,
        "nats per code, expected below 1.5",
    ),
    (10, nats("-nats"), 3, "the sign is flipped"),
    (10, nats("16 * nats"), 3, "expected"),
    (10, nats("codes.shape[1] * nats"), 3, "this is per image"),
    (10, nats("nats / math.log(2)"), 3, "these are bits"),
    (10, nats("-(log_p.exp() * log_p).sum(-1).mean()"), 3, "the entropy of the conditionals"),
    (10, nats("-log_p.mean()"), 3, "the mean over all k codes"),
    (10, nats("nats.exp()"), 3, "this is the perplexity"),
    (10, nats(saved="math.log(log_p.shape[-1]) - nats"), 3, "the saving per code"),
    (10, nats(saved="codes.shape[1] * (nats - math.log(log_p.shape[-1]))"), 3, "minus the saving"),
    (10, nats(saved="codes.shape[1] * nats"), 3, "not what it saves"),
    (10, "def nats_per_code(log_p, codes): return -log_p.gather(-1, codes[..., None]).mean()", 3, "expected 2 values"),
    (10, drawn("torch.randint(k, (n, T))"), 3, "the codes are drawn uniformly"),
    (10, drawn("frequencies.multinomial(n, replacement=True).T"), 3, "drawn independently"),
    (10, drawn("train[torch.randint(len(train), (n,))]"), 3, "images of the training set"),
    (
        10,
        drawn(
            "codes",
            "codes = torch.zeros(n, T, dtype=torch.long)\n"
            "    for t in range(T): codes[:, t] = _conditional(train, codes, t, k).argmax(-1)",
        ),
        3,
        "is the most probable code taken",
    ),
    (
        10,
        drawn(
            "conditionals(train, torch.zeros(n, T, dtype=torch.long), k).exp().flatten(0, 1).multinomial(1).view(n, T)"
        ),
        3,
        "or not given those",
    ),
    (10, drawn("right(train, n, k).view(n, 4, 4).transpose(1, 2).flatten(1)"), 3, "the grid is transposed"),
    (10, drawn("right(train, n, k).flip(1)"), 3, "the reverse order"),
    (10, drawn("right(train, n, k) + 1"), 3, "expected 0 to 15"),
    (10, drawn("right(train, n, k).T"), 3, "expected (500, 16)"),
    (10, drawn("conditionals(train, right(train, n, k), k)"), 3, "expected (500, 16)"),
    (11, likelihood("-right(x, model)"), 4, "the sign is flipped"),
    (11, likelihood("right(x, model) / math.log(2)"), 4, "this is in bits"),
    (11, likelihood("right(x, model) / x.shape[1]"), 4, "this is per pixel"),
    (11, likelihood("right(x, model) - x.shape[1] / 2 * math.log(2 * math.pi)"), 4, "log 2 pi is missing"),
    (11, likelihood("right(x, model | {'noise': model['noise'].sqrt()})"), 4, "its square is the variance"),
    (11, likelihood("right(x, model | {'w': 0 * model['w']})"), 7, "not integrated out"),
    (11, likelihood("right(x + model['mean'], model)"), 7, "the mean is not subtracted"),
    (11, likelihood("right(x, model).mean()"), 7, "expected a value for each"),
    (11, "def fooling(digits): return torch.rand_like(digits)", 3, "expected at most 0.1"),
    (11, "def fooling(digits): return 0.98 * digits", 3, "is still a digit"),
    (11, "def fooling(digits): return digits - 1", 3, "expected 0 to 1"),
    (11, "def fooling(digits): return digits[:3]", 3, "expected (359, 64)"),
    (11, score("negative_log_likelihood(x, model)"), 3, "what is to be repaired"),
    (11, score("-negative_log_likelihood(x, model)"), 3, "noise has the lowest score"),
    (11, score("x.mean(-1)"), 3, "of all: faded digits"),
    (11, score("x"), 3, "repaired has the shape"),
    (12, weighted("len(q) * largest"), 4, "they add up to N"),
    (12, weighted("w.amax(1)"), 4, "after the largest was taken"),
    (12, weighted("(q + smoothing).div((q + smoothing).sum(0)).amax(1); w = w / w.sum()"), 10, "frequent codes have"),
    (12, weighted("w.prod(1) / w.prod(1).sum()"), 7, "the product over dimensions"),
    (12, weighted("w.mean(1)"), 4, "the mean over dimensions"),
    (12, weighted("w.amin(1) / w.amin(1).sum()"), 7, "the smallest is taken"),
    (12, weighted("1 / (q + smoothing); w = w.amax(1) / w.amax(1).sum()"), 4, "before the largest is taken"),
    (12, weighted("(1 / q) / (1 / q).sum(0); w = w.amax(1) / w.amax(1).sum()"), 4, "the smoothing is left out"),
    (
        12,
        weighted("1 / (len(q) * q + smoothing); w = (w / w.sum(0)).amax(1); w = w / w.sum()"),
        4,
        "added to the number of images",
    ),
    (
        12,
        weighted("1 / (q / width + smoothing); w = (w / w.sum(0)).amax(1); w = w / w.sum()"),
        4,
        "a density per unit of the code",
    ),
    (12, weighted("codes"), 10, "weights has the shape"),
    (12, "def suspects(train, codes): return torch.arange(40)", 3, "by chance 3 %"),
    (12, "def suspects(train, codes): return torch.zeros(40)", 3, "1 of the 40 suspects are distinct"),
    (12, "def suspects(train, codes): return torch.arange(40) + 1400", 3, "expected 0 to 1437"),
    (12, "def suspects(train, codes): return torch.arange(3)", 3, "expected (40,)"),
    (
        12,
        "def suspects(train, codes): return weights(codes, 10, 0.01).topk(40, largest=False).indices",
        3,
        "the smallest weights",
    ),
    (12, LOGISTIC.format("None"), 3, "without weights it is 38 %"),
    (
        12,
        LOGISTIC.format(
            "len(train) * (weights(codes, 10, 0.001) ** 4).div((weights(codes, 10, 0.001) ** 4).sum()).numpy()"
        ),
        3,
        "what the majority pays",
    ),
    (12, "def classify(train, labels, codes, x): return labels[:3]", 3, "classify has the shape"),
]

# Right, but not as the solutions have it.
RIGHT = {
    12: """
import numpy
def weights(codes, bins, smoothing):
    largest = numpy.zeros(len(codes))
    for column in codes.numpy().T:
        counts, edges = numpy.histogram(column, bins)
        w = 1 / (counts[numpy.digitize(column, edges[1:-1])] / len(codes) + smoothing)
        largest = numpy.maximum(largest, w / w.sum())
    return torch.from_numpy(largest / largest.sum())

def suspects(train, codes):
    # by the product over dimensions, of which the density is that of independent ones
    log_w = [weights(column[:, None], 10, 0.01).log() for column in codes.T]
    return sum(log_w).argsort(descending=True)[:40]

def classify(train, labels, codes, x):
    # the nearest training image: a few changed ones are enough
    return labels[torch.cdist(x, train).argmin(1)]
""",
    11: """
def negative_log_likelihood(x, model):
    # log p(x) = log p(x|z) + log p(z) - log p(z|x), at z = 0
    w, variance, off = model["w"], model["noise"] ** 2, x - model["mean"]
    precision = torch.eye(w.shape[1]) + w.T @ w / variance
    loc = torch.linalg.solve(precision, w.T @ off.T / variance).T
    at_zero = Normal(0.0, model["noise"]).log_prob(off).sum(-1)
    prior = w.shape[1] / 2 * math.log(2 * math.pi)
    posterior = 0.5 * (loc @ precision * loc).sum(-1) + prior - 0.5 * precision.logdet()
    return -(at_zero - prior + posterior)

def fooling(digits):
    return digits.mean(0).expand_as(digits)

def repaired(x, train, model):
    return torch.cdist(x, train).min(1).values
""",
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
    8: """
@pyro.infer.config_enumerate
def model(x, p):
    data = pyro.plate("points", x.shape[0], dim=-1)
    with data:
        y = pyro.sample("y", dist.Categorical(logits=p["probs"].log()))
    with data:
        components = dist.MultivariateNormal(p["loc"], torch.diag_embed(p["scale"] ** 2))
        z = pyro.sample("z", dist.MultivariateNormal(components.loc[y], components.covariance_matrix[y]))
        mean = (p["w"] @ z[..., None])[..., 0]
        pyro.sample("x", dist.Independent(dist.Normal(mean, p["sigma"]), 1), obs=x)

def guide(x, p):
    with pyro.plate("points", x.shape[0], dim=-1):
        pyro.sample("z", dist.MultivariateNormal(x @ p["gain"].T, torch.diag(p["spread"] ** 2)))

def marginal_elbo(x, z, p):
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(p["probs"]),
        torch.distributions.Independent(Normal(p["loc"], p["scale"]), 1),
    )
    rows = []
    for point, code in zip(x, z):
        log_q = Normal(p["gain"] @ point, p["spread"]).log_prob(code).sum()
        rows.append(mixture.log_prob(code) + Normal(p["w"] @ code, p["sigma"]).log_prob(point).sum() - log_q)
    return rows

def responsibilities(z, p):
    off = (z.unsqueeze(1) - p["loc"]) / p["scale"]
    joint = p["probs"].log() - p["scale"].log().sum(1) - 0.5 * (off**2).sum(2)
    joint = joint - joint.max(1, keepdim=True).values
    return joint.exp() / joint.exp().sum(1, keepdim=True)
""",
    9: """
def _joint(p):
    # precision matrix of (z2, z1) given x
    d2 = p["a"].shape[1]
    root = torch.cat([-p["a"], _identity(p["b"])], 1) / p["s1"]
    precision = root.T @ root
    precision[:d2, :d2] += _identity(p["a"])
    precision[d2:, d2:] += p["b"].T @ p["b"] / p["s2"] ** 2
    return d2, precision, torch.linalg.inv(precision)

def _means(x, p):
    d2, _, covariance = _joint(p)
    return x @ p["b"] / p["s2"] ** 2 @ covariance[d2:]

def bottom_up(x, p):
    d2, precision, covariance = _joint(p)
    with pyro.plate("data", len(x)):
        mean = _means(x, p)
        z1 = pyro.sample("z1", dist.MultivariateNormal(mean[:, d2:], covariance[d2:, d2:]))
        gain = covariance[:d2, d2:] @ torch.inverse(covariance[d2:, d2:])
        rest = mean[:, :d2] + (z1 - mean[:, d2:]) @ gain.T
        pyro.sample("z2", dist.MultivariateNormal(rest, precision_matrix=precision[:d2, :d2]))

def top_down(x, p):
    d2, precision, covariance = _joint(p)
    with pyro.plate("data", len(x)):
        mean = _means(x, p)
        root = torch.linalg.cholesky(covariance[:d2, :d2])
        z2 = pyro.sample("z2", dist.MultivariateNormal(mean[:, :d2], scale_tril=root))
        gain = torch.linalg.solve(precision[d2:, d2:], -precision[d2:, :d2])
        rest = mean[:, d2:] + (z2 - mean[:, :d2]) @ gain.T
        pyro.sample("z1", dist.MultivariateNormal(rest, precision_matrix=precision[d2:, d2:]))

def kl_per_level(x, p):
    # both have the same sum, the KL of the joint posterior from the joint prior, and E log p; the KLs of normals
    d2, precision, covariance = _joint(p)
    mean = _means(x, p)
    kl = torch.distributions.kl_divergence
    prior2 = torch.distributions.MultivariateNormal(torch.zeros(d2).double(), _identity(p["a"]))
    top2 = kl(torch.distributions.MultivariateNormal(mean[:, :d2], covariance[:d2, :d2]), prior2)
    root = torch.cat([-p["a"], _identity(p["b"])], 1) / p["s1"]
    prior = root.T @ root
    prior[:d2, :d2] += _identity(p["a"])
    joint = torch.distributions.MultivariateNormal(torch.zeros(len(prior)).double(), precision_matrix=prior)
    total = kl(torch.distributions.MultivariateNormal(mean, covariance), joint)
    bottom2 = top2 + 0.5 * (covariance[:d2, :d2].logdet() + precision[:d2, :d2].logdet())
    return torch.stack([total - bottom2, bottom2], 1).numpy(), torch.stack([total - top2, top2], 1)
""",
    10: """
from functools import cache

class Masked(torch.nn.Module):
    # logistic regression on all earlier codes, its weights masked
    def __init__(self, positions, k):
        super().__init__()
        earlier = torch.ones(positions, positions).triu(1)
        self.mask = earlier.repeat_interleave(k, 0).repeat_interleave(k, 1)
        self.weight = torch.nn.Parameter(torch.zeros(positions * k, positions * k))
        self.bias = torch.nn.Parameter(torch.zeros(positions * k))
        self.shape = positions, k

    def forward(self, codes):
        hot = torch.nn.functional.one_hot(codes, self.shape[1]).float().flatten(1)
        return (hot @ (self.weight * self.mask) + self.bias).unflatten(1, self.shape).log_softmax(-1)

@cache
def network(train, k):
    train = torch.tensor(train)
    masked = Masked(train.shape[1], k)
    optimizer = torch.optim.Adam(masked.parameters(), lr=0.05)
    for _ in range(60):
        loss = -masked(train).gather(-1, train[..., None]).sum(1).mean() + 2e-3 * masked.weight.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return masked

def conditionals(train, codes, k):
    return network(tuple(map(tuple, train.tolist())), k)(codes)

def nats_per_code(log_p, codes):
    total = 0.0
    for image, row in zip(log_p, codes):
        for at, code in zip(image, row):
            total -= at[code].item() / codes.numel()
    return total, codes.shape[1] * (math.log(log_p.shape[2]) - total)

def sample(train, n, k):
    codes = torch.full((n, train.shape[1]), k - 1)
    for t in range(train.shape[1]):
        codes[:, t] = torch.distributions.Categorical(logits=conditionals(train, codes, k)[:, t]).sample()
    return codes.double()
""",
}
