"""Minibatches of a compiled step on the CPU: rows of the data, gathered and prefetched by the kernel rows.cpp.

Inductor fuses the gather with its first use, and then waits for each row where the data do not fit into the caches; and
because it checks indices inside a parallel loop, an index out of range aborts the process instead of raising.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from pyro_vae.svi.cpu import kernels

LONG = 64  # bytes; shorter rows are left to Inductor

_index = torch.ops.aten.index.Tensor
_library = torch.library.Library("pyro_vae", "FRAGMENT")
_library.define("rows(Tensor data, Tensor indices) -> Tensor")


def _kernel() -> kernels.Kernel:
    return kernels.load("rows", "char*", "const char*", "const int64_t*", *["int64_t"] * 3)


@torch.library.impl(_library, "rows", "Meta")
def _rows_shape(data: Tensor, indices: Tensor) -> Tensor:
    return data.new_empty((len(indices), *data.shape[1:]))


@torch.library.impl(_library, "rows", "CPU")
def _rows(data: Tensor, indices: Tensor) -> Tensor:
    out = _rows_shape(data, indices)
    kernels.call(_kernel(), out, data, indices, len(indices), len(data), data[:1].nbytes)
    return out


def with_rows(graph: fx.GraphModule) -> fx.GraphModule:
    """The same graph, changed in place: `data[indices]` is computed by the kernel.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> data, indices = torch.rand(10, 784), torch.tensor([3, 5])
    >>> graph = make_fx(lambda data, indices: data[indices])(data, indices)
    >>> torch.equal(with_rows(graph)(data, indices), data[indices])
    True
    """
    gathers = [node for node in graph.graph.find_nodes(op="call_function", target=_index) if _fits(node)]
    if gathers:
        try:
            _kernel()
        except kernels.NotCompilable:
            return graph
    for node in gathers:
        arguments: Any = node.args
        node.target, node.args = torch.ops.pyro_vae.rows.default, (arguments[0], *arguments[1])
    graph.recompile()
    return graph


def _fits(node: fx.Node) -> bool:
    arguments: Any = node.args
    values: list[Any] = [getattr(argument, "meta", {}).get("val") for argument in (arguments[0], *arguments[1])]
    if len(values) != 2 or not all(isinstance(value, Tensor) for value in values):
        return False
    data, indices = values
    if data.device.type != "cpu" or indices.dtype != torch.int64 or indices.dim() != 1:
        return False
    return data[:1].nbytes >= LONG and data.is_contiguous() and indices.is_contiguous()
