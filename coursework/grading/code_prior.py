"""Exercise 10: a prior over codes, compared with frequencies and counts of the codes of the digits."""

import math
from functools import cache

import torch
from digit_codes import CODES, POSITIONS, digit_codes

from .compare import numbers, recognise, same, shaped, tuple_of
from .submission import AnswerError

WIDTH = 4  # of the grid
LIMIT_NATS = 1.5  # per code; the neighbour to the left alone gives 1.4, frequencies of each position 1.6
DRAWS = 500


@cache
def frequencies():
    """p(code) of each position in the training set, (T, k)."""
    train, _, _ = digit_codes()
    counts = torch.nn.functional.one_hot(train, CODES).sum(0)
    return (counts + 1.0) / (len(train) + CODES)


def nats_of_frequencies(codes):
    """Nats per code (N, T) under the frequencies of each position."""
    return -frequencies().log()[torch.arange(POSITIONS), codes].mean()


@cache
def pair_ratios(step):
    """log p(a, b) / (p(a) p(b)) of the codes at t - step and t, by counts in the training set: (t, (k, k))."""
    train, p = digit_codes()[0], frequencies()
    ratios = []
    for t in range(step, POSITIONS):
        if step == 1 and t % WIDTH == 0:  # in the row above
            continue
        joint = 8 * torch.outer(p[t - step], p[t])
        joint.index_put_((train[:, t - step], train[:, t]), torch.ones(len(train)), accumulate=True)
        joint = joint / joint.sum()
        ratios.append((t, (joint / torch.outer(joint.sum(1), joint.sum(0))).log()))
    return ratios


def dependence(codes):
    """How much the neighbours in a grid say of each other, in nats per pair."""
    each = [ratio[codes[:, t - step], codes[:, t]].mean() for step in (1, WIDTH) for t, ratio in pair_ratios(step)]
    return torch.stack(each).mean()


def probes(held_out):
    """A few images, and copies of each with other codes from t on, and after t: (N, T), (t, N, T), (t, N, T)."""
    base = held_out[:6]
    other = (base + torch.randint(1, CODES, base.shape, generator=torch.Generator().manual_seed(0))) % CODES
    position = torch.arange(POSITIONS)
    from_t = torch.stack([torch.where(position >= t, other, base) for t in range(POSITIONS)])
    after_t = torch.stack([torch.where(position > t, other, base) for t in range(POSITIONS)])
    return base, from_t, after_t


def conditionals_are_a_prior(answer):
    """conditionals(train, codes, k) are normalised, see earlier codes only, and predict held-out images"""
    train, held_out, _ = digit_codes()
    base, from_t, after_t = probes(held_out)
    codes = torch.cat([held_out, base, from_t.flatten(0, 1), after_t.flatten(0, 1)])  # one call, one fit
    log_p = numbers(answer.conditionals(train, codes, CODES), "conditionals")
    if bool(log_p.isinf().any()) and not bool(log_p.isnan().any()):
        raise AnswerError(
            "conditionals has a code of probability 0: in a new image it may occur, which costs infinitely many nats; "
            "add to the counts"
        )
    log_p = shaped(log_p, (len(codes), POSITIONS, CODES), "conditionals")
    are_normalised(log_p)
    of_held_out, of_base, *copies = log_p.split(
        [len(held_out), len(base), from_t[..., 0].numel(), after_t[..., 0].numel()]
    )
    of_from, of_after = (values.unflatten(0, (POSITIONS, len(base))) for values in copies)
    for t in range(POSITIONS):
        for values, seen in ((of_after, "codes after it"), (of_from, "the code itself")):
            if (values[t][:, t] - of_base[:, t]).abs().max() > 1e-4:
                raise AnswerError(f"the conditional of position {t} changes with {seen}; it may use earlier codes only")
    nats = -of_held_out.gather(-1, held_out[..., None]).mean()
    if nats > LIMIT_NATS:
        everywhere = frequencies().mean(0).log()[held_out].mean()
        mistakes = {
            "these are uniform codes: nothing is learnt": math.log(CODES),
            "these are the frequencies of each position: the codes before are not used": nats_of_frequencies(held_out),
            "these are the frequencies of all positions: neither the position nor earlier codes are used": -everywhere,
        }
        recognise(mistakes, lambda wrong: abs(nats - wrong) < 0.01)
        raise AnswerError(f"held-out images take {nats:.3f} nats per code, expected below {LIMIT_NATS}")


def are_normalised(log_p):
    totals = {dim: log_p.logsumexp(dim) for dim in (2, 1)}
    if totals[2].abs().max() > 1e-3:
        mistakes = {
            "these are probabilities, expected their logarithms": (log_p.sum(2) - 1).abs().max(),
            "the probabilities of the positions add up to 1; those of the codes must": totals[1].abs().max(),
            "these are probabilities of all codes together: log p is normalised over positions, too": (
                log_p.flatten(1).logsumexp(1).abs().max()
            ),
        }
        recognise(mistakes, lambda off: off < 1e-3)
        raise AnswerError(f"the probabilities of the codes add up to {totals[2].exp().max():.4g} at a position")


def nats_are_right(answer):
    """nats_per_code(log_p, codes) is the mean of -log p, and what the prior saves per image against uniform codes"""
    for n, positions, k in ((7, 5, 4), (3, 16, 16)):
        draw = torch.Generator().manual_seed(k)
        log_p = (2 * torch.randn(n, positions, k, generator=draw, dtype=torch.float64)).log_softmax(-1)
        codes = torch.randint(k, (n, positions), generator=draw)
        each = -torch.nn.functional.one_hot(codes, k).double().mul(log_p).sum(-1)
        nats, uniform = each.mean(), math.log(k)
        returned = tuple_of(answer.nats_per_code(log_p, codes), 2, "nats_per_code")
        mistakes = (
            {
                "this is the mean of log p: the sign is flipped": -nats,
                "this is per image: the sum over the positions is taken, expected their mean": positions * nats,
                "this is per position of all images: the sum over the images is taken": n * nats,
                "this is the sum over images and positions, expected their mean": each.sum(),
                "these are bits, expected nats": nats / math.log(2),
                "this is the entropy of the conditionals, expected -log p of the codes": -(log_p.exp() * log_p)
                .sum(-1)
                .mean(),
                "this is the mean of -p, without the logarithm": -(-each).exp().mean(),
                "this is the mean over all k codes, expected that of the codes in the image": -log_p.mean(),
                "each image has a value here, expected their mean": each.mean(1),
                "this is the perplexity, expected its logarithm": nats.exp(),
            },
            {
                "this is the saving per code, expected per image": uniform - nats,
                "this is minus the saving": positions * (nats - uniform),
                "this is in bits, expected nats": positions * (uniform - nats) / math.log(2),
                "this is what an image costs, not what it saves": positions * nats,
                "this is the cost under uniform codes, not the difference": torch.tensor(positions * uniform).double(),
                "uniform codes cost log k each; log(1/k) stands here": positions * (-uniform - nats),
                "uniform codes cost log k each; k stands here": positions * (k - nats),
            },
        )
        names = ("the nats per code", "the saving per image")
        for value, right, wrong, name in zip(
            returned, (nats, positions * (uniform - nats)), mistakes, names, strict=True
        ):
            same(value, right, wrong, name, 1e-4)


def samples_are_of_the_prior(answer):
    """sample(train, n, k) draws new codes whose frequencies and neighbours are as those of the images"""
    train, held_out, _ = digit_codes()
    drawn = shaped(answer.sample(train, DRAWS, CODES), (DRAWS, POSITIONS), "sample")
    if bool((drawn != drawn.round()).any()) or drawn.min() < 0 or drawn.max() >= CODES:
        raise AnswerError(
            f"sample has values such as {drawn.min():.3g} and {drawn.max():.3g}, expected 0 to {CODES - 1}"
        )
    codes = drawn.long()
    distinct = len(codes.unique(dim=0)) / DRAWS
    if distinct < 0.5:
        raise AnswerError(
            f"{distinct:.0%} of the samples are distinct: is the most probable code taken, where one must be drawn?"
        )
    known = set(map(tuple, train.tolist()))
    copies = sum(tuple(row) in known for row in codes.tolist()) / DRAWS
    if copies > 0.5:
        raise AnswerError(f"{copies:.0%} of the samples are images of the training set; a prior makes new ones")
    nats, expected = nats_of_frequencies(codes), nats_of_frequencies(held_out)
    if (nats - expected).abs() > 0.3:
        turned = codes.unflatten(1, (WIDTH, WIDTH)).transpose(1, 2).flatten(1)
        mistakes = {
            "the codes are drawn uniformly": -frequencies().log().mean() - nats,
            "the grid is transposed: positions go row by row": nats_of_frequencies(turned) - expected,
            "the positions are in the reverse order": nats_of_frequencies(codes.flip(1)) - expected,
        }
        recognise(mistakes, lambda off: abs(off) < 0.3)
        raise AnswerError(
            f"the codes take {nats:.2f} nats each under the frequencies of their positions, expected {expected:.2f}: "
            "is each code drawn given those drawn before it?"
        )
    shared, expected = dependence(codes), dependence(held_out)
    if shared < -0.3:
        raise AnswerError(
            f"neighbours say {shared:.2f} nats of each other, {expected:.2f} in images: the codes are drawn "
            "independently, or not given those that were drawn before"
        )


CHECKS = ((4, conditionals_are_a_prior), (3, nats_are_right), (3, samples_are_of_the_prior))
