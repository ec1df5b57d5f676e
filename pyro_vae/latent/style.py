"""The style of an image drawn with other labels, by a model that is conditional on labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.data import Images
from pyro_vae.latent.encode import check_encodes
from pyro_vae.models import Model
from pyro_vae.models.base import check_fits, condition_of, conditioned_batches, evaluating_on
from pyro_vae.programs.traces import Traces


def style_grid(
    model: Model, images: Images, labels: Sequence[int] | None = None, *, device: str | torch.device = "auto"
) -> Tensor:
    r"""Each image drawn with each label, `(N, L, C, H, W)`: what z keeps of it where the label changes.

    .. math:: u = \frac{z - m(y)}{s(y)}, \qquad z' = m(y') + s(y')\, u, \qquad x' = \mathbb E[x | z', y']

    z is the location of q(z|x, y), y the image's own label, and m(y) and s(y) are the mean and the standard deviation
    of p(z|y). So an image that is typical of its own label becomes one that is as typical of the other. Where the prior
    does not depend on the label, :math:`z' = z`.

    Args:
        model: with one latent site, conditional on labels and on nothing else, such as a
            :class:`~pyro_vae.models.conditional.Conditional`.
        images: with labels.
        labels: y' of each column; by default all from 0 to the largest of the images.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.

    Raises:
        InputError: the model is not conditional on labels alone, or the images have none.

    >>> from pyro_vae import Spec, build, load_data
    >>> digits = load_data("digits").test.take(slice(0, 3))
    >>> style_grid(build(Spec(model="conditional", latent_dim=2)), digits, range(10)).shape
    torch.Size([3, 10, 1, 8, 8])
    """
    check_encodes(model, images, 1)
    if condition_of(model) != ["labels"]:
        raise checks.fail("model", type(model).__name__, "a model that is conditional on labels alone")
    if images.labels is None:
        raise checks.fail("images", "images without labels", "images with labels")
    columns = range(int(images.labels.max()) + 1) if labels is None else labels
    with evaluating_on(model, device) as target:
        check_fits(model, images)
        x, densities = next(conditioned_batches(model, images, len(images), target))
        own = Traces(model, densities.arguments)
        locations = own.locations(x)
        if len(locations) != 1:
            raise checks.fail("model", f"latent sites {', '.join(locations) or 'none'}", "a single one, z")
        ((site, z),) = locations.items()
        p: Any = own.model_at(x, locations).nodes[site]["fn"]
        u = (z - p.mean) / p.stddev
        return torch.stack([_with_label(model, x, site, u, label) for label in columns], 1).cpu()


def _with_label(model: Model, x: Tensor, site: str, u: Tensor, label: int) -> Tensor:
    labels = torch.full((len(x),), checks.non_negative_integer("labels", label), device=x.device)
    traces = Traces(model, {"labels": labels})
    p: Any = traces.model_at(x, {site: u}).nodes[site]["fn"]
    images: Any = traces.model_at(x, {site: p.mean + p.stddev * u}).nodes["x"]["fn"]  # (eq. 12.4)
    return torch.as_tensor(images.mean)
