"""Minibatches of a compiled step on the CPU: rows of the data, gathered by a kernel of our own: rows.cpp.

Inductor gathers them while it uses them, and then waits for each where the data does not fit into the caches; and as it
checks places in several threads at a time, one that is outside ends the process.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from pyro_vae.svi.cpu import kernels

LONG = 64  # bytes of a row; others are left to Inductor

_index = torch.ops.aten.index.Tensor
_library = torch.library.Library("pyro_vae", "FRAGMENT")
_library.define("rows(Tensor data, Tensor places) -> Tensor")


def _kernel() -> kernels.Kernel:
    return kernels.load("rows", "char*", "const char*", "const int64_t*", *["int64_t"] * 3)


@torch.library.impl(_library, "rows", "Meta")
def _rows_shape(data: Tensor, places: Tensor) -> Tensor:
    return data.new_empty((len(places), *data.shape[1:]))


@torch.library.impl(_library, "rows", "CPU")
def _rows(data: Tensor, places: Tensor) -> Tensor:
    out = _rows_shape(data, places)
    kernels.call(_kernel(), out, data, places, len(places), len(data), data[:1].nbytes)
    return out


def with_rows(graph: fx.GraphModule) -> fx.GraphModule:
    """The same graph, changed: `data[places]` is done by the kernel.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> data, places = torch.rand(10, 784), torch.tensor([3, 5])
    >>> graph = make_fx(lambda data, places: data[places])(data, places)
    >>> torch.equal(with_rows(graph)(data, places), data[places])
    True
    """
    found = [node for node in graph.graph.find_nodes(op="call_function", target=_index) if _fits(node)]
    if found:
        try:
            _kernel()
        except kernels.NoKernelError:
            return graph
    for node in found:
        arguments: Any = node.args
        node.target, node.args = torch.ops.pyro_vae.rows.default, (arguments[0], *arguments[1])
    graph.recompile()
    return graph


def _fits(node: fx.Node) -> bool:
    arguments: Any = node.args
    values: list[Any] = [getattr(one, "meta", {}).get("val") for one in (arguments[0], *arguments[1])]
    if len(values) != 2 or not all(isinstance(one, Tensor) for one in values):
        return False
    data, places = values
    if data.device.type != "cpu" or places.dtype != torch.int64 or places.dim() != 1:
        return False
    return data[:1].nbytes >= LONG and data.is_contiguous() and places.is_contiguous()
