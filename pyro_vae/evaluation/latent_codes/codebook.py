"""How many of the codes of a vector-quantized model are in use, and how evenly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae._utils import checks


@dataclass(frozen=True)
class CodebookUse:
    r"""The use of K codes by all positions of all images of a set.

    - `used`: the share of the K codes in use, which stand at one position at least.
    - `perplexity`: :math:`\exp(-\sum_k f_k \log f_k)` of their frequencies f, from 1 to K; K where all are used alike.
      Of a batch it would be smaller, the more so the smaller the batch.
    - `counts`: of each code, `(K,)`.
    """

    used: float
    perplexity: float
    counts: Tensor


def codebook_use(codes: Tensor, num_codes: int) -> CodebookUse:
    """The use of `num_codes` codes, of whole numbers of any shape.

    Raises:
        InputError: no whole numbers, or one that is no code.

    >>> use = codebook_use(torch.tensor([[0, 0], [1, 1]]), num_codes=4)
    >>> use.used, round(use.perplexity, 6)
    (0.5, 2.0)
    """
    num_codes = checks.positive_integer("num_codes", num_codes)
    values = checks.tensor("codes", codes).cpu()
    whole = not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
    if not whole or not values.numel() or int(values.min()) < 0 or int(values.max()) >= num_codes:
        raise checks.fail("codes", codes, f"whole numbers from 0 to {num_codes - 1}, at least one")
    counts = torch.bincount(values.flatten().long(), minlength=num_codes)
    frequencies = counts.double() / counts.sum()
    perplexity = torch.special.entr(frequencies).sum().exp().item()
    return CodebookUse((counts > 0).double().mean().item(), perplexity, counts)
