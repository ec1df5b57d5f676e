"""Grades the exercises: `python coursework/grade.py 1` says which checks your exercise_1.py passes, and its points.

Without a number all six are graded; `--solutions` grades the solutions instead. The functions below are the checks:
they call yours and compare with what must be true.
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pyro_vae import Spec, build, evaluate, fit, load_data
from pyro_vae.evaluation import evidence, pareto_smooth

HERE = Path(__file__).parent
CHECKS = {}


def points(exercise, worth):
    """Registers a check: its docstring is what the student reads."""

    def register(check):
        CHECKS.setdefault(exercise, []).append((worth, check))
        return check

    return register


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- 1 · the Kullback-Leibler divergence of two normals -----------------------------------------------------------


@points(1, 4)
def kl_is_torchs(answer):
    """closed_form(loc, scale) is the KL from N(loc, scale^2) to the standard normal, summed over the last dimension"""
    loc, scale = (
        torch.randn(50, 3, generator=generator()),
        torch.rand(50, 3, generator=generator(1)) + 0.1,
    )
    expected = kl_divergence(Normal(loc, scale), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(answer.closed_form(loc, scale), expected, rtol=1e-4, atol=1e-5)


@points(1, 3)
def monte_carlo_agrees(answer):
    """monte_carlo(loc, scale, draws) is within 4 standard errors of the closed form, and the error is right"""
    torch.manual_seed(0)
    loc, scale = torch.tensor([0.5, -1.0]), torch.tensor([0.3, 2.0])
    exact = kl_divergence(Normal(loc, scale), Normal(0.0, 1.0)).sum().item()
    found = [answer.monte_carlo(loc, scale, 4000) for _ in range(30)]
    assert all(abs(float(mean) - exact) < 4 * float(error) for mean, error in found)
    spread = torch.tensor([float(mean) for mean, _ in found]).std().item()
    assert 0.5 < float(found[0][1]) / spread < 2, (
        "the standard error is not the spread of the estimates"
    )


@points(1, 3)
def draws_needed_is_enough(answer):
    """draws_needed(loc, scale, error) gives how many draws bring the standard error down to `error`"""
    torch.manual_seed(0)
    loc, scale = torch.tensor([1.0, 0.0, -2.0]), torch.tensor([0.5, 1.5, 1.0])
    needed = int(answer.draws_needed(loc, scale, 0.02))
    z = loc + scale * torch.randn(100_000, 3)
    terms = (Normal(loc, scale).log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1)
    assert 0.8 < needed / (terms.var().item() / 0.02**2) < 1.25


# --- 2 · break the bound ------------------------------------------------------------------------------------------


def linear_model(seed=0):
    """W (5, 2), the noise's deviation, and one x of the linear model p(z) = N(0, I), p(x|z) = N(W z, sigma^2 I)."""
    w = torch.randn(5, 2, generator=generator(seed), dtype=torch.float64)
    x = w @ torch.randn(2, generator=generator(seed + 1), dtype=torch.float64) + 0.5
    return w, 0.7, x


@points(2, 3)
def evidence_is_exact(answer):
    """evidence(w, sigma, x) is log p(x) of the linear model"""
    for seed in range(3):
        w, sigma, x = linear_model(seed)
        covariance = w @ w.T + sigma**2 * torch.eye(5, dtype=torch.float64)
        expected = MultivariateNormal(torch.zeros_like(x), covariance).log_prob(x)
        torch.testing.assert_close(torch.as_tensor(answer.evidence(w, sigma, x)), expected)


@points(2, 4)
def objective_is_a_bound_at_one(answer):
    """objective(w, sigma, x, loc, scale, beta) is exact: at beta = 1 evidence minus KL(q || posterior)"""
    for seed in range(3):
        w, sigma, x = linear_model(seed)
        precision = w.T @ w / sigma**2 + torch.eye(2, dtype=torch.float64)
        posterior = MultivariateNormal(
            torch.linalg.solve(precision, w.T @ x / sigma**2), precision_matrix=precision
        )
        loc, scale = posterior.mean + 0.1, posterior.stddev * 0.8
        gap = kl_divergence(MultivariateNormal(loc, torch.diag(scale**2)), posterior)
        covariance = w @ w.T + sigma**2 * torch.eye(5, dtype=torch.float64)
        log_p = MultivariateNormal(torch.zeros_like(x), covariance).log_prob(x)
        torch.testing.assert_close(
            torch.as_tensor(answer.objective(w, sigma, x, loc, scale, 1.0)), log_p - gap
        )


@points(2, 3)
def bound_is_broken(answer):
    """breaking_beta(w, sigma, x) gives loc, scale and beta for which the objective is above the evidence"""
    w, sigma, x = linear_model()
    loc, scale, beta = answer.breaking_beta(w, sigma, x)
    assert 0 <= beta < 1
    assert answer.objective(w, sigma, x, loc, scale, beta) > answer.evidence(w, sigma, x)


# --- 3 · posterior collapse ---------------------------------------------------------------------------------------


def trained(fields, **arguments):
    vae = build(Spec(**{**fields, "dataset": "digits", "model": "vae"}))
    settings = {
        "epochs": 20,
        "batch_size": 64,
        "lr": 2e-3,
        "binarization": "threshold",
        "device": "cpu",
    }
    fit(vae, load_data("digits").train, **{**settings, **arguments}, progress=False)
    return vae


@points(3, 4)
def units_are_counted(answer):
    """active_units(means) counts the dimensions whose posterior means vary by more than 0.01 over the images"""
    means = torch.randn(500, 4, generator=generator()) * torch.tensor([1.0, 0.05, 0.5, 0.0])
    assert int(answer.active_units(means)) == 2


@points(3, 3)
def collapse_happens(answer):
    """collapsed() gives arguments of fit under which the KL falls below 0.1 nats"""
    vae = trained({"latent_dim": 4, "activation": "relu"}, **answer.collapsed())
    found = evaluate(vae, load_data("digits").test, binarization="threshold", device="cpu")
    assert found.kl_per_sample < 0.1, f"the KL is {found.kl_per_sample:.2f}"


@points(3, 3)
def collapse_is_mended(answer):
    """mended() differs from collapsed() in the beta's warm-up or value only, and keeps at least 2 units active"""
    arguments = answer.mended()
    kept = [
        {name: value for name, value in one.items() if "beta" not in name}
        for one in (arguments, answer.collapsed())
    ]
    assert kept[0] == kept[1], "something other than beta was changed"
    vae = trained({"latent_dim": 4, "activation": "relu"}, **arguments)
    test = load_data("digits").test
    with torch.no_grad():
        means = vae.encode((test.as_float() >= 0.5).float()).mean
    assert int(answer.active_units(means)) >= 2


# --- 4 · where the mean-field posterior fails ---------------------------------------------------------------------


@points(4, 4)
def weights_give_the_evidence(answer):
    """log_weights(vae, x, k) has shape (k, N); the log of its mean is log p(x), its mean the ELBO"""
    vae = trained({"latent_dim": 2, "activation": "relu"}, epochs=5)
    test = load_data("digits").test.take(slice(0, 10))
    x = (test.as_float() >= 0.5).float()
    torch.manual_seed(0)
    with torch.no_grad():
        found = answer.log_weights(vae, x, 4000)
    assert found.shape == (4000, 10)
    expected = evidence(vae, test, k=4000, binarization="threshold", device="cpu")
    log_p = found.double().logsumexp(0) - torch.tensor(4000.0).log()
    believable = expected.pareto.pareto_k < 0.7
    torch.testing.assert_close(
        log_p[believable], expected.log_likelihood[believable], rtol=0, atol=0.3
    )


@points(4, 3)
def pareto_k_of_a_correlated_posterior(answer):
    """pareto_k(rho) is the shape for the best mean-field guide of a 2-d normal posterior with correlation rho"""
    for rho in (-0.8, 0.3, 0.6):
        z = torch.randn(50_000, 4, 2, generator=generator(), dtype=torch.float64)
        precision = torch.tensor(
            [[1.0, -rho], [-rho, 1.0]], dtype=torch.float64
        )  # the guide has variances of 1 here
        log_w = -0.5 * torch.einsum("kni,ij,knj->kn", z, precision, z) + 0.5 * z.square().sum(-1)
        assert abs(float(answer.pareto_k(rho)) - pareto_smooth(log_w).pareto_k.mean().item()) < 0.12


@points(4, 3)
def failures_are_found(answer):
    """distrusted(log_weights) gives the positions of the images whose Pareto k is above the limit for this K"""
    tail = torch.distributions.Exponential(1.0)
    torch.manual_seed(0)
    log_w = tail.sample((4000, 6)) * torch.tensor([0.1, 1.2, 0.3, 1.0, 0.2, 1.5])
    assert sorted(int(index) for index in answer.distrusted(log_w)) == [1, 3, 5]


# --- 5 · two gradients --------------------------------------------------------------------------------------------


def quadratic(z):
    return -0.5 * (z - 1).square().sum(-1)


@points(5, 4)
def both_are_unbiased(answer):
    """score_function and reparameterized (f, loc, scale, draws) give single-draw gradients with the right mean"""
    torch.manual_seed(0)
    loc, scale = torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.5])
    for estimator in (answer.score_function, answer.reparameterized):
        found = estimator(quadratic, loc, scale, 100_000)
        assert found.shape == (100_000, 2)
        error = found.std(0) / 100_000**0.5
        assert bool(((found.mean(0) - (1 - loc)).abs() < 5 * error).all())


@points(5, 3)
def reparameterization_is_quieter(answer):
    """the variance of the reparameterized gradient stays the same in 20 dimensions; that of the other does not"""
    torch.manual_seed(0)
    loc, scale = torch.zeros(20), torch.ones(20)
    noisy = answer.score_function(quadratic, loc, scale, 20_000).var(0).mean()
    quiet = answer.reparameterized(quadratic, loc, scale, 20_000).var(0).mean()
    assert abs(quiet - 1) < 0.1
    assert noisy > 100


@points(5, 3)
def baseline_helps_without_bias(answer):
    """with_baseline is unbiased for as few as 4 draws at a time, and has less than half the variance"""
    torch.manual_seed(0)
    loc, scale = torch.zeros(5), torch.ones(5)
    few = torch.stack([answer.with_baseline(quadratic, loc, scale, 4).mean(0) for _ in range(4000)])
    assert bool(((few.mean(0) - 1).abs() < 5 * few.std(0) / 4000**0.5).all())
    plain = answer.score_function(quadratic, loc, scale, 20_000).var(0).mean()
    assert answer.with_baseline(quadratic, loc, scale, 20_000).var(0).mean() < 0.5 * plain


# --- 6 · a planar layer -------------------------------------------------------------------------------------------


def layer_inputs(seed=0):
    draw = torch.randn(11, generator=generator(seed), dtype=torch.float64)
    return draw[:5] * 2, draw[5:10], draw[10]


@points(6, 3)
def u_is_projected(answer):
    """project(u, w) gives w . u_hat = -1 + log(1 + exp(w . u)), which is above -1, and changes u along w only"""
    for seed in range(5):
        u, w, _ = layer_inputs(seed)
        u_hat = answer.project(u, w)
        torch.testing.assert_close(w @ u_hat, -1 + torch.nn.functional.softplus(w @ u))
        change = u_hat - u
        torch.testing.assert_close(change, (change @ w) * w / (w @ w))


@points(6, 4)
def log_det_is_autograds(answer):
    """layer(z, u, w, b) gives the next z and the log-determinant, for z of shape (N, d)"""
    for seed in range(5):
        u, w, b = layer_inputs(seed)
        u = answer.project(u, w)
        z = torch.randn(7, 5, generator=generator(seed), dtype=torch.float64)
        after, log_det = answer.layer(z, u, w, b)
        assert after.shape == (7, 5)
        assert log_det.shape == (7,)
        for one, expected in zip(z, log_det, strict=True):
            jacobian = torch.autograd.functional.jacobian(
                lambda z, u=u, w=w, b=b: answer.layer(z[None], u, w, b)[0][0], one
            )
            torch.testing.assert_close(jacobian.slogdet().logabsdet, expected)


@points(6, 3)
def kl_is_right(answer):
    """kl(loc, scale, layers, draws) estimates the KL of the flow from the standard normal, prior at the last code"""
    torch.manual_seed(0)
    zero, one = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    assert (
        abs(
            float(answer.kl(zero + 0.5, one * 0.5, [], 50_000))
            - 5 * 0.5 * (0.25 + 0.25 - 1 + 1.386294)
        )
        < 0.05
    )
    layers = [(answer.project(u, w), w, b) for u, w, b in map(layer_inputs, range(4))]
    assert float(answer.kl(zero, one, layers, 50_000)) > 0


# --- the command --------------------------------------------------------------------------------------------------


def open_answer(path: Path) -> ModuleType:
    """The student's file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def grade(exercise: int, path: Path) -> int:
    """Prints a line for each check of an exercise; the points that `path` earns."""
    earned = 0
    answer = open_answer(path)
    for worth, check in CHECKS[exercise]:
        try:
            check(answer)
            verdict, got = "passed", worth
        except NotImplementedError:
            verdict, got = "not done yet", 0
        except Exception as error:
            reason = str(error).strip().splitlines()
            verdict, got = f"failed: {type(error).__name__}{': ' + reason[0] if reason else ''}", 0
        earned += got
        print(f"  {got}/{worth}  {check.__doc__}\n        {verdict}")
    print(
        f"exercise {exercise}: {earned} of {sum(worth for worth, _ in CHECKS[exercise])} points\n"
    )
    return earned


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "exercise",
        nargs="*",
        type=int,
        choices=sorted(CHECKS),
        help="1 to 6; all where none is given",
    )
    parser.add_argument("--solutions", action="store_true", help="grade the solutions")
    chosen = parser.parse_args()
    folder = HERE / "solutions" if chosen.solutions else HERE
    exercises = chosen.exercise or sorted(CHECKS)
    earned = sum(grade(number, folder / f"exercise_{number}.py") for number in exercises)
    total = sum(worth for number in exercises for worth, _ in CHECKS[number])
    print(f"{earned} of {total} points")
    return 0 if earned == total else 1


if __name__ == "__main__":
    sys.exit(main())
