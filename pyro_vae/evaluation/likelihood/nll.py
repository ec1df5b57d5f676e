"""The negative log-likelihood of a set of images: its errors, its dependence on K, and reasons to doubt it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from pyro_vae.evaluation.likelihood.annealing import Annealed
from pyro_vae.evaluation.likelihood.importance_weights import ParetoSmoothed


@dataclass(frozen=True)
class NLLAtK:
    """The NLL of the same draws, cut into blocks of k: the estimate as a function of k.

    `drop_nats` is how much lower the NLL is than at half as many samples, and `drop_se` the standard error of that over
    images; None at the smallest k. The drop is 1 / (2 k) times the variance of w / p(x) where that is finite, which is
    also what is left to the limit; where it is not, more is left.
    """

    k: int
    nll_nats: float
    drop_nats: float | None
    drop_se: float | None


@dataclass(frozen=True)
class NLLOfSome:
    """The NLL of n of the images: standard error over them, and Monte Carlo standard error of their mean, nats."""

    n: int
    nll_nats: float
    nll_se: float | None
    nll_mcse: float | None


@dataclass(frozen=True, eq=False)
class AnnealedCheck:
    """Distrusted images under importance sampling and under annealed importance sampling.

    - `index`: which of the images.
    - `importance`, `annealed_nll`: the NLL of these images by either.
    - `drop_nats`, `drop_se`: by how much the annealed NLL is lower, and the standard error over images. Both are upper
      bounds in expectation, so a drop that is large beside its error is what importance sampling lacks.
    - `annealed`: per image, in the order of `index`.
    """

    index: Tensor
    importance: NLLOfSome
    annealed_nll: NLLOfSome
    drop_nats: float
    drop_se: float | None
    annealed: Annealed


def nll_of(log_likelihood: Tensor, mcse: Tensor | None, chosen: Tensor | slice = slice(None)) -> NLLOfSome:
    log_likelihood, mcse = log_likelihood[chosen], None if mcse is None else mcse[chosen]
    n = len(log_likelihood)
    return NLLOfSome(
        n=n,
        nll_nats=-log_likelihood.mean().item(),
        nll_se=log_likelihood.std().item() / n**0.5 if n > 1 else None,
        nll_mcse=None if mcse is None else mcse.square().sum().sqrt().item() / n,
    )


def nll_curve(k: int, by_k: Tensor) -> tuple[NLLAtK, ...]:
    """From log p(x) at k, k/2, ... of each image, `(n, J)`."""
    drops = by_k[:, :-1] - by_k[:, 1:]
    n = len(by_k)
    points = []
    for j, log_likelihood in enumerate(by_k.T.contiguous()):
        has_drop = j < drops.shape[1]
        points.append(
            NLLAtK(
                k=k // 2**j,
                nll_nats=-log_likelihood.mean().item(),
                drop_nats=drops[:, j].mean().item() if has_drop else None,
                drop_se=drops[:, j].std().item() / n**0.5 if has_drop and n > 1 else None,
            )
        )
    return tuple(points)


def reasons_for_doubt(
    whole: NLLOfSome, curve: tuple[NLLAtK, ...], pareto: ParetoSmoothed | None, check: AnnealedCheck | None
) -> Iterator[str]:
    """The limits are conventions: where none is passed, the NLL of normal guides, too narrow or too wide, was found
    within its Monte Carlo error (tests/evaluation/test_evidence.py).
    """
    if pareto is None:
        yield f"K = {curve[0].k} is too few for Pareto k, without which nothing says whether the NLL is near -log p(x)"
    elif (distrusted := 1 - pareto.trusted.double().mean().item()) > 0.1:
        yield (
            f"{distrusted:.0%} of the images have a Pareto k above {pareto.threshold:.2f}: "
            "their values are upper bounds on -log p(x), and the errors do not hold for them"
            + ("; nor may those of the others, chosen by the same draws" if distrusted > 0.5 else "")
        )
    drop, mcse = curve[0].drop_nats, whole.nll_mcse
    # Two digits are printed; a smaller bias does not matter, however small the error.
    if drop is not None and mcse is not None and drop > max(mcse, 0.01):
        yield f"the NLL fell by {drop:.2f} nats when K was doubled to {curve[0].k:,}: it is above its limit"
    if mcse is not None and whole.nll_se is not None and mcse > whole.nll_se / 4:
        yield f"the Monte Carlo standard error, {mcse:.3f} nats, is over a quarter of that over images"
    if check is not None and check.drop_nats > 2 * (check.drop_se or check.annealed_nll.nll_mcse or 0):
        n, lower = check.importance.n, check.drop_nats
        yield f"annealed importance sampling finds the NLL of {n} such images {lower:.2f} nats lower"
    if check is not None:
        effective, chains = check.annealed.effective_samples.median().item(), check.annealed.chains
        if effective < chains / 2:
            yield (
                f"annealed importance sampling has {effective:.1f} effective chains of {chains}, from which its own "
                "error is too small, and its NLL too high: give `evidence` a larger anneal_temperatures"
            )


def annealed_check(index: Tensor, log_likelihood: Tensor, mcse: Tensor | None, annealed: Annealed) -> AnnealedCheck:
    drops = annealed.log_likelihood - log_likelihood[index]
    n = len(index)
    return AnnealedCheck(
        index=index,
        importance=nll_of(log_likelihood, mcse, index),
        annealed_nll=nll_of(annealed.log_likelihood, annealed.log_likelihood_mcse),
        drop_nats=drops.mean().item(),
        drop_se=drops.std().item() / n**0.5 if n > 1 else None,
        annealed=annealed,
    )
