"""Draws of a guide with the log-probabilities of both programs: importance weights, and the KL of each latent site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """Draws in which each enumerated site has one of its values; log-probabilities are `(K, N)`, in nats.

    - `values`: of each latent site, `(K, N, ...)`.
    - `log_p`, `log_q`: of each latent site, under the model and under the guide.
    - `log_likelihood`: of all observed sites, and of the model's factors, if it has any.
    - `mean`: of p(x|z), `(K, N, C, H, W)`; None where the site of the images has no mean.
    - `points`: the latent sites whose guide is a point in a continuum, without a density.
    - `certain`: whether the guide draws nothing, as it is a point at every site.
    - `continuous`: the latent sites that are drawn from a continuum, and no function of the others.
    """

    values: Mapping[str, Tensor]
    log_p: Mapping[str, Tensor]
    log_q: Mapping[str, Tensor]
    log_likelihood: Tensor
    mean: Tensor | None
    points: tuple[str, ...] = ()
    certain: bool = False
    continuous: tuple[str, ...] = ()

    @property
    def log_joint(self) -> Tensor:
        """log p(x, z)."""
        return self.log_likelihood + sum(self.log_p.values())


@dataclass(frozen=True)
class Draws:
    r"""K draws of the guide for each of N images, and the log-probabilities of both programs.

    A site that is enumerated in the guide, y, has the weight q(y|x); one that is enumerated in the model alone, c, has
    the weight p(c|x, z), as it is summed out: both are exact.

    Args:
        cases: one for each combination of the values of the enumerated sites; those of the model alone vary fastest.
        in_guide: the enumerated sites of the guide.
        in_model: the enumerated sites of the model alone.
        sizes: the number of values of each enumerated site.
    """

    cases: tuple[Case, ...]
    in_guide: tuple[str, ...]
    in_model: tuple[str, ...]
    sizes: Mapping[str, int]

    @property
    def drawn(self) -> tuple[str, ...]:
        """The latent sites that are not enumerated, in the order of the guide."""
        return tuple(name for name in self.cases[0].log_q if name not in self.in_guide)

    @property
    def continuous(self) -> tuple[str, ...]:
        """Those of them that are continuous, and no function of the others."""
        return self.cases[0].continuous

    @property
    def has_density(self) -> bool:
        """Whether the guide has a density, or probabilities: else there is no KL and no bound on log p(x)."""
        return not self.cases[0].points

    @property
    def is_certain(self) -> bool:
        """Whether the guide is a point: its weight is p(x, z) at one z, a bound on p(x), and all draws are the same."""
        return self.cases[0].certain

    def log_weights(self) -> Tensor:
        r""":math:`\log \sum_y p(x, y, z_y) / q(z_y|x, y)`, float64, `(K, N)`; its exponential has the mean p(x).

        >>> case = Case({}, {"z": torch.zeros(1, 2)}, {"z": torch.ones(1, 2)}, torch.zeros(1, 2), None)
        >>> Draws((case,), (), (), {}).log_weights()
        tensor([[-1., -1.]], dtype=torch.float64)
        """
        # Summed in float64: the terms are large beside their sum.
        rows = []
        for case in self.cases:
            terms = [case.log_likelihood, *case.log_p.values(), *(-case.log_q[name] for name in self.drawn)]
            rows.append(torch.stack([term.cpu().double() for term in terms]).sum(0))
        return torch.stack(rows).logsumexp(0)

    def magnitude(self) -> Tensor:
        """The sum of the sizes of the terms of :meth:`log_weights`, float64, `(K, N)`, by which its rounding goes."""
        terms = [
            term.abs().cpu().double()
            for case in self.cases
            for term in (case.log_likelihood, *case.log_p.values(), *(case.log_q[name] for name in self.drawn))
        ]
        return torch.stack(terms).sum(0) / len(self.cases)

    def log_case_weights(self) -> Tensor:
        """The log-weight of each case, `(cases, K, N)`; the weights of each draw sum to 1."""
        joint = torch.stack([case.log_joint for case in self.cases])
        groups = joint.unflatten(0, (-1, _product(self.sizes[name] for name in self.in_model)))
        given_draw = groups.log_softmax(1).flatten(0, 1)  # p(c|x, z)
        of_guide = [sum(case.log_q[name] for name in self.in_guide) for case in self.cases]
        return given_draw + torch.stack([given_draw.new_zeros(joint.shape[1:]) + term for term in of_guide])

    def reconstruction(self) -> Tensor:
        """-log p(x|z) in nats, `(K, N)`; enumerated sites are summed out."""
        return -self._expected([case.log_likelihood for case in self.cases])

    def kl(self) -> dict[str, Tensor]:
        r""":math:`\log q(z_s|\cdot) - \log p(z_s|\cdot)` of each latent site s, `(K, N)`; its mean is the site's KL.

        The sites add up to the whole KL. Those that only the model enumerates are one entry, such as `y`, or `a+b`.
        """
        named = {
            name: self._expected([case.log_q[name] - case.log_p[name] for case in self.cases])
            for name in self.cases[0].log_q
        }
        if self.in_model:
            weights = self.log_case_weights()
            log_posterior = [
                weights[number] - sum(case.log_q[name] for name in self.in_guide)
                for number, case in enumerate(self.cases)
            ]
            log_prior = [sum(case.log_p[name] for name in self.in_model) for case in self.cases]
            terms = [q - p for q, p in zip(log_posterior, log_prior, strict=True)]
            named["+".join(self.in_model)] = self._expected(terms)
        return named

    def squared_error(self, x: Tensor, scored: Tensor | None = None) -> Tensor | None:
        """Of the decoded mean, per pixel that is `scored`, `(K, N)`; None where there is no mean."""
        means = [case.mean for case in self.cases if case.mean is not None]
        if len(means) < len(self.cases):
            return None
        return self._expected([squared_error(x, mean, scored) for mean in means])

    def probabilities(self, site: str) -> Tensor:
        """The posterior probabilities of the values of an enumerated site, averaged over the draws, `(N, values)`."""
        names = (*self.in_guide, *self.in_model)
        shape = tuple(self.sizes[name] for name in names)
        weights = self.log_case_weights().exp().mean(1).unflatten(0, shape)
        others = [axis for axis, name in enumerate(names) if name != site]
        return (weights.sum(others) if others else weights).T

    def _expected(self, values: list[Tensor]) -> Tensor:
        """The mean over the cases; a case without weight adds nothing, whatever its value."""
        if len(values) == 1 and not self.in_guide:
            return values[0]
        weights = self.log_case_weights().exp()
        stacked = torch.stack(values)
        return torch.where(weights > 0, weights * stacked, torch.zeros_like(stacked)).sum(0)


def squared_error(x: Tensor, reconstruction: Tensor, scored: Tensor | None = None) -> Tensor:
    """Of each image, the mean over its pixels, or over those that are scored.

    >>> x, reconstruction = torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.5, 0.0], [0.0, 0.0]]]])
    >>> squared_error(x, reconstruction), squared_error(x, reconstruction, torch.tensor([[True, True], [False, False]]))
    (tensor([0.0625]), tensor([0.1250]))
    """
    squares = (x - reconstruction).square()
    if scored is None:
        return squares.flatten(-3).mean(-1)
    weights = scored.bool().expand_as(squares).to(squares.dtype)
    return (weights * squares).flatten(-3).sum(-1) / weights.flatten(-3).sum(-1)


def _product(sizes: Iterable[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
