"""Matrix products of a compiled step on the CPU, by a kernel of our own that copies next to nothing: product.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import kernels

_ACTIVATIONS = {torch.ops.aten.tanh.default: 1, torch.ops.aten.relu.default: 2}  # as product.cpp numbers them

LARGEST = 1 << 20  # numbers that are multiplied by all rows of the other matrix; of more, libraries make better use

_library = torch.library.Library("pyro_vae", "DEF")
# Rows or columns of both are contiguous.
_library.define(
    "product(Tensor left, Tensor right, Tensor? bias, int activation) -> Tensor", tags=torch.Tag.needs_exact_strides
)


def _kernel() -> kernels.Kernel:
    return kernels.load("product", "float*", *["const float*"] * 3, "float*", *["int64_t"] * 11)


@torch.library.impl(_library, "product", "CPU")
def _product(left: Tensor, right: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    (rows, inner), columns = left.shape, right.shape[1]
    fits, fits_transposed = right.stride(1) == 1, left.stride(0) == 1
    transposed = not fits and (fits_transposed or rows < columns)
    to_copy = None if fits or fits_transposed else left if transposed else right
    out = left.new_empty(rows, columns)
    copy = out if to_copy is None else torch.empty_like(to_copy)
    copied = 0 if to_copy is None else 1 + transposed
    sizes = (rows, columns, inner, *left.stride(), *right.stride())
    of = out if bias is None else bias
    kernels.call(_kernel(), out, left, right, of, copy, *sizes, bias is not None, activation, transposed, copied)
    return out


@torch.library.impl(_library, "product", "Meta")
def _product_shape(left: Tensor, right: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[1])


def with_products(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> fx.GraphModule:
    """The same, with its float32 products done by this kernel, where the processor has the registers for it (AVX-512).

    >>> x, weight = torch.randn(128, 784), torch.randn(400, 784)
    >>> graph = make_fx(lambda x, weight: (x @ weight.t(),))(x, weight)
    >>> _ = with_products(graph, [x, weight])
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return graph
    try:
        _kernel()
    except kernels.NoKernelError:
        return graph
    return make_fx(_WithProducts(graph).run, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)


class _WithProducts(fx.Interpreter):
    """Runs a graph with other products; an activation that alone uses one is done with it."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self._activated: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        aten = torch.ops.aten
        first: Any = n.args[0] if n.args else None
        if first in self._activated:
            return self.env[first]
        if n.target not in (aten.mm.default, aten.addmm.default) or n.kwargs:
            return super().run_node(n)
        arguments: Any = self.map_nodes_to_values(n.args, n)
        *bias, left, right = arguments
        fits = all(one.dtype == torch.float32 and one.device.type == "cpu" for one in (*bias, left, right))
        fits &= (right if right.stride(1) == 1 else min(left, right, key=Tensor.numel)).numel() <= LARGEST
        if not fits or (bias and bias[0].shape != right.shape[1:]):
            return super().run_node(n)
        left, right = (one if 1 in one.stride() else one.contiguous() for one in (left, right))
        user: Any = next(iter(n.users), n)
        activation = _ACTIVATIONS.get(user.target, 0) if len(n.users) == 1 else 0
        if activation:
            self._activated.add(n)
        return torch.ops.pyro_vae.product(left, right, *bias or [None], activation)
