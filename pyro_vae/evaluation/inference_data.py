"""A trained VAE as ArviZ sees one: draws from the posterior of each image, predictions, and diagnostics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.arviz_versions import inference_data
from pyro_vae._utils.rng import seeded_rng
from pyro_vae.data import Images
from pyro_vae.evaluation.likelihood.importance_weights import log_mean_weight, log_mean_weight_mcse, smooth_log_weights
from pyro_vae.evaluation.likelihood.weighted_draws import weighted_draws
from pyro_vae.evaluation.loop import evaluation_of
from pyro_vae.models import Model, require_prior
from pyro_vae.programs.densities import Densities


def to_inference_data(
    model: Model,
    images: Images,
    *,
    draws: int = 500,
    k: int = 2000,
    binarization: str | None = None,
    dequantize: bool | None = None,
    decoded_at_once: int = 2000,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> Any:
    """ArviZ groups for a handful of images: an `InferenceData` of ArviZ 0.x, an `xarray.DataTree` of ArviZ 1.x.

    - `posterior`: `z` `(chain, draw, image, latent)`, drawn from q(z|x) and resampled by the Pareto-smoothed weights,
      so that it follows the exact posterior p(z|x) as far as Pareto k allows.
    - `log_likelihood`: `log_p_x` `(chain, draw, image)`, the marginal log p(x) of each image by importance sampling,
      nats, the same for every draw. z is of one image alone, and the decoder is fixed, so nothing else predicts an
      image: `az.loo`, `az.waic` and `az.compare` then give the sum of log p(x). (Equal weights have no tail: `az.loo`
      of ArviZ 0.x warns of an infinite k, that of ArviZ 1.x takes weights and k, as docs/howto/arviz.md shows. What
      tells here is `constant_data.pareto_k`.)
    - `sample_stats`: `log_p_x_given_z` `(chain, draw, image)`, log p(x|z) of the image given its own draw. It has seen
      the image through z, so it is no predictive density: `az.loo` of it is far too high.
    - `posterior_predictive`: `x` `(chain, draw, image, channel, row, column)`, drawn from p(x|z): draws x images x
      pixels numbers, so take few images.
    - `observed_data`: `x`, as the likelihood saw it.
    - `constant_data`: `label`, `pareto_k` (-inf where the guide is exact) and `log_evidence`, again log p(x), with its
      Monte Carlo standard error `log_evidence_mcse`, of each image.

    The draws are independent, not a Markov chain: R-hat and a chain's effective sample size say nothing here. Trust
    Pareto k: `az.plot_khat(data.constant_data.pareto_k)`, or of ArviZ 1.x `az.plot_khat(data.constant_data)`.

    Args:
        model: a `VAE`.
        images: the images, as many as memory allows.
        draws: resampled draws per image.
        k: importance samples per image that they are drawn from, at least 25.
        binarization: as in training, by default what the model's spec says; `dynamic` is `static` here: each image is
            drawn once, the same for all models.
        dequantize: as in training, by default what the model's spec says; the noise of each image is drawn once, the
            same for all models (:func:`pyro_vae.data.dequantize`).
        decoded_at_once: codes in one pass of the decoder.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        seed: of all draws. The global generators are as before afterwards.
    """
    draws, k = checks.positive_integer("draws", draws), checks.positive_integer("k", k)
    decoded_at_once = checks.positive_integer("decoded_at_once", decoded_at_once)
    seed = checks.seed("seed", seed)
    vae = require_prior(model)
    with evaluation_of(
        vae, images, "to_inference_data", binarization=binarization, dequantize=dequantize, device=device
    ) as evaluation:
        seen = evaluation.as_floats(evaluation.images.pixels, torch.float32)
        with seeded_rng(evaluation.device, seed):
            parts = [_of_one_image(densities, x, draws, k, decoded_at_once) for x, densities in evaluation.batches(1)]
    z, log_p_x_given_z, predicted, pareto_k, log_evidence, mcse = (
        torch.cat(column, dim=-1) for column in zip(*parts, strict=True)
    )
    z, predicted = z.movedim(-1, 1), predicted.movedim(-1, 1)
    labels = {} if images.labels is None else {"label": images.labels.numpy()}
    image = ["image"]
    pixel = ["channel", "row", "column"]
    n, d = z.shape[1:]
    coords = {"image": np.arange(n), "latent": np.arange(d)}
    coords |= {name: np.arange(size) for name, size in zip(pixel, images.shape, strict=True)}
    groups = {
        "posterior": {"z": z.numpy()[None]},
        "log_likelihood": {"log_p_x": log_evidence.expand(draws, -1).numpy()[None]},
        "sample_stats": {"log_p_x_given_z": log_p_x_given_z.numpy()[None]},
        "posterior_predictive": {"x": predicted.numpy()[None]},
        "observed_data": {"x": seen.cpu().numpy()},
        "constant_data": labels
        | {"pareto_k": pareto_k.numpy(), "log_evidence": log_evidence.numpy(), "log_evidence_mcse": mcse.numpy()},
    }
    of_each_image = ("log_p_x", "log_p_x_given_z", "label", "pareto_k", "log_evidence", "log_evidence_mcse")
    dims = {"z": [*image, "latent"], "x": [*image, *pixel]} | dict.fromkeys(of_each_image, image)
    return inference_data(groups, coords, dims)


def _of_one_image(densities: Densities, x: Tensor, draws: int, k: int, decoded_at_once: int) -> tuple[Tensor, ...]:
    """Of one image: z `(draws, d, 1)`, log p(x|z) `(draws, 1)`, x `(draws, C, H, W, 1)`, and k, log p(x) and its
    Monte Carlo standard error, `(1,)` each.
    """
    z, log_weights, resolution = weighted_draws(densities, x, k, decoded_at_once)
    smoothed, pareto_k, _, _ = smooth_log_weights(log_weights, resolution)
    chosen = z[smoothed[:, 0].softmax(0).multinomial(draws, replacement=True).to(z.device), 0]
    p_x = [densities.decode(part[:, None]) for part in chosen.split(decoded_at_once)]
    log_p_x_given_z = torch.cat([p.log_prob(x).cpu() for p in p_x])[:, 0]
    predicted = torch.cat([p.sample().cpu() for p in p_x])[:, 0]
    log_evidence, mcse = log_mean_weight(log_weights), log_mean_weight_mcse(log_weights)
    return chosen.cpu()[..., None], log_p_x_given_z[:, None], predicted[..., None], pareto_k, log_evidence, mcse
