"""Several outlier scores of several sets of images at once, each likelihood computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.data import Images, binarize, fixed_binarization
from pyro_vae.latent import codes
from pyro_vae.models import Model, check_evaluable, require_prior
from pyro_vae.models.base import check_set, check_unconditional
from pyro_vae.programs.densities import groups_lacking
from pyro_vae.uses import outliers

SCORES = ("elbo", "nll", "reconstruction", "complexity", "typicality", "codes", "regret", "ratio", "waic")
OF_LIKELIHOOD = ("nll", "complexity", "typicality", "ratio", "waic")  # what needs -log p(x)
MOST_CODES = 5000  # training images whose codes have the normal distribution of the score `codes`


@dataclass(frozen=True, eq=False)
class OutlierTable:
    """Scores of each image, higher for outliers: `scores[name][set]`, float64 `(N,)`; -log p(x) or -ELBO in nats.

    - `binarized`: the images that were scored, by set, as the model is evaluated on them.
    """

    scores: Mapping[str, Mapping[str, Tensor]]
    binarized: Mapping[str, Images]


def usual_scores(model: Model, background: Model | None = None, ensemble: Sequence[Model] = ()) -> tuple[str, ...]:
    """The scores that a model has: all but `regret`, which takes long, and those whose further models are not passed.

    >>> from pyro_vae import Spec, build
    >>> usual_scores(build(Spec(model="autoencoder")))
    ('reconstruction', 'codes')
    """
    if "evidence" in groups_lacking(model):
        return ("reconstruction", "codes")
    left_out = {"regret", *(() if background is not None else ("ratio",)), *(() if ensemble else ("waic",))}
    return tuple(name for name in SCORES if name not in left_out)


def outlier_table(
    model: Model,
    sets: Mapping[str, Images],
    names: Sequence[str],
    *,
    held_out: str,
    train: Images | None = None,
    background: Model | None = None,
    ensemble: Sequence[Model] = (),
    binarization: str | None = None,
    dequantize: bool | None = None,
    k: int = 500,
    samples: int = 8,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = False,
) -> OutlierTable:
    """Scores of several sets of images, of which one is known to hold inliers.

    Args:
        model: of the inliers.
        sets: images to score, by name, all of one shape.
        names: among `elbo`, `nll`, `reconstruction`, `complexity`, `typicality`, `codes`, `regret`, `ratio`, `waic`:
            :func:`~pyro_vae.uses.outliers.negative_elbo` and so on, one after the other in `uses/outliers.py`.
        held_out: the set of inliers whose mean -log p(x) `typicality` compares with.
        train: training images, of which up to 5,000 give the distribution of the score `codes`.
        background: the model of perturbed images that `ratio` needs.
        ensemble: further models of the same images, such as other seeds, that `waic` needs.
        binarization: as in training, by default what the model's spec says.
        dequantize: as in training, by default what the model's spec says.
        k: importance samples of -log p(x).
        samples: draws of the ELBO and of its reconstruction term.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        seed: of all draws.
        progress: a progress bar where standard error is a terminal; else a line every half minute.

    Raises:
        InputError: an unknown score, one that the model lacks, or whose models or images are missing; sets of
            different shapes.

    >>> from pyro_vae import Spec, build, load_data
    >>> train, test = load_data("digits")
    >>> sets = {"held out": test.take(slice(0, 20)), "upside down": test.take(slice(20, 40))}
    >>> model = build(Spec(latent_dim=2, binarization="threshold"))
    >>> table = outlier_table(model, sets, ["elbo", "codes"], held_out="held out", train=train)
    >>> {name: sorted(values) for name, values in table.scores.items()}
    {'elbo': ['held out', 'upside down'], 'codes': ['held out', 'upside down']}
    """
    _check(model, sets, names, held_out, train, background, ensemble)
    spec = getattr(model, "spec", None)
    how = fixed_binarization(binarization or ("none" if spec is None else spec.binarization))
    options: dict[str, Any] = {"device": device, "seed": seed, "progress": progress}
    options |= {"binarization": binarization, "dequantize": dequantize}
    # Once for all; binarized images stay as they are where each score binarizes them.
    binarized = {of_set: binarize(images, how) for of_set, images in sets.items()}
    training_codes = torch.empty(0)
    if train is not None and "codes" in names:
        training_codes = codes(model, binarize(train.draw(MOST_CODES, seed), how), device=device)

    def nll_under(judge: Model) -> dict[str, Tensor]:
        return {
            of_set: outliers.negative_log_likelihood(judge, images, k=k, **options)
            for of_set, images in binarized.items()
        }

    nll = nll_under(model) if set(names) & set(OF_LIKELIHOOD) else {}
    background_nll = nll_under(background) if background is not None and "ratio" in names else {}
    of_others = [nll_under(judge) for judge in ensemble] if "waic" in names else []

    def score(name: str, of_set: str) -> Tensor:
        images = binarized[of_set]
        match name:
            case "elbo":
                return outliers.negative_elbo(model, images, samples=samples, **options)
            case "reconstruction":
                return outliers.reconstruction_error(model, images, samples=samples, **options)
            case "regret":
                return outliers.likelihood_regret(require_prior(model), images, **options)
            case "codes":
                return outliers.code_distance(codes(model, images, device=device), training_codes)
            case "complexity":
                return outliers.input_complexity(nll[of_set], images)
            case "typicality":
                return outliers.typicality(nll[of_set], nll[held_out])
            case "ratio":
                return outliers.likelihood_ratio(nll[of_set], background_nll[of_set])
            case "waic":
                return outliers.waic(torch.stack([nll[of_set], *(other[of_set] for other in of_others)]))
        return nll[of_set]

    return OutlierTable({name: {of_set: score(name, of_set) for of_set in sets} for name in names}, binarized)


def _check(
    model: Model,
    sets: Mapping[str, Images],
    names: Sequence[str],
    held_out: str,
    train: Images | None,
    background: Model | None,
    ensemble: Sequence[Model],
) -> None:
    """Checks what can be checked before the work, which may take long."""
    check_evaluable(model)
    check_unconditional(model, "outlier_table")
    if not isinstance(sets, Mapping) or not sets:
        raise checks.fail("sets", sets, "images by the name of their set")
    checks.one_of("held_out", held_out, sets)
    for images in (*sets.values(), *(() if train is None else (train,))):
        check_set("sets", images)
        if images.shape != sets[held_out].shape:
            expected = f"images of shape {sets[held_out].shape}, as {sets[held_out].name} has"
            raise checks.fail("sets", f"{images.name} of shape {images.shape}", expected)
    if isinstance(names, str) or not names:
        raise checks.fail("names", names, f"a list of scores, among {', '.join(SCORES)}")
    for name in names:
        checks.one_of("names", name, SCORES)
    needed = {"codes": (train, "train"), "ratio": (background, "background"), "waic": (ensemble or None, "ensemble")}
    for name, (value, argument) in needed.items():
        if name in names and value is None:
            raise checks.fail(argument, None, f"what the score {name} needs, or names without it")
    if set(names) & {"elbo", "regret", *OF_LIKELIHOOD}:
        check_evaluable(model, "evidence")
    if "regret" in names:
        require_prior(model)
