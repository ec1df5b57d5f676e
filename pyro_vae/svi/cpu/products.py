"""Matrix products of a compiled step on the CPU, by product.cpp, which avoids copying the factors."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.svi.cpu import kernels

_ACTIVATIONS = {torch.ops.aten.tanh.default: 1, torch.ops.aten.relu.default: 2}  # as product.cpp numbers them
_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
_MANY = torch.ops.aten.bmm.default
_VIEWS = (torch.ops.aten.t.default, torch.ops.aten.view.default)

_TO_FLOAT = {"dtype": torch.float32}
LARGEST = 1 << 20  # elements of the factor that is read for each block of rows; beyond this, libraries are faster
# So they are with AVX2 for longer sums down the columns of both factors, each of whose rows is in another page.
LONGEST_AVX2 = 512
NUM_ARGUMENTS = 17  # of the kernel
UPDATE = 6  # 64-bit words of a row of adam.h

_library = torch.library.Library("pyro_vae", "DEF")
# The rows or the columns of each factor are contiguous, and Inductor must keep these strides.
_library.define(
    "product(Tensor left, Tensor right, Tensor? bias, int activation) -> Tensor",
    tags=getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order),
)


def _kernel(half: bool) -> kernels.Kernel:
    """The kernel for float32 or for bfloat16 factors, each compiled for itself, because that takes long."""
    tensors = ["float*", *["const char*"] * 2, "const float*", "const int64_t*", *["char*"] * 2]
    return kernels.load("product", *tensors, *["int64_t"] * 10, prefix=f"#define HALF {str(half).lower()}\n")


@torch.library.impl(_library, "product", "CPU")
def _product(left: Tensor, right: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    out = _product_shape(left, right, bias, activation)
    if out.dim() == 2:
        _multiply(out, left, right, bias, activation)
    else:  # a batch of products, without bias and activation
        for matrices in zip(out, left, right, strict=True):
            _multiply(*matrices, None, 0)
    return out


def _multiply(out: Tensor, left: Tensor, right: Tensor, bias: Tensor | None, activation: int) -> None:
    (rows, inner), columns = left.shape, right.shape[1]
    half = left.dtype == torch.bfloat16
    if half:  # always copies the right factor's pairs, and the left factor unless its rows are contiguous
        direct = right.numel() + (left.stride(1) != 1) * left.numel()
        transposed = direct > left.numel() + (right.stride(0) != 1) * right.numel()
    else:
        transposed = right.stride(1) != 1 and (left.stride(0) == 1 or rows < columns)
    copies = [torch.empty_like(matrix) for matrix in ((right, left) if transposed else (left, right))]
    sizes = (rows, columns, inner, *left.stride(), *right.stride())
    of = out if bias is None else bias
    tensors = (out, left, right, of, torch.zeros(UPDATE, dtype=torch.int64), *copies)
    kernels.call(_kernel(half), *tensors, *sizes, bias is not None, activation, transposed)


@torch.library.impl(_library, "product", "Meta")
def _product_shape(left: Tensor, right: Tensor, bias: Tensor | None, activation: int) -> Tensor:
    return left.new_empty((*left.shape[:-1], right.shape[-1]), dtype=torch.float32)


def update_of(kernel: kernels.Kernel, arguments: Sequence[Any], gradient: Tensor, has_half: bool) -> Tensor | None:
    """The argument that takes a row of adam.h, if this call is the product that computes `gradient`; else None.

    With such a row, the product updates the parameter itself. That requires a whole number of vectors per row, no bias,
    activation or transposition, and bfloat16 factors exactly if the parameter has a bfloat16 copy (`has_half`).
    """
    if len(arguments) != NUM_ARGUMENTS or (has_half and not multiplies_bfloat16()) or kernel is not _kernel(has_half):
        return None
    out, columns, (biased, activation, transposed) = arguments[0], arguments[8], arguments[-3:]
    if out.data_ptr() != gradient.data_ptr() or out.numel() != gradient.numel():
        return None
    return None if columns % 16 or biased or activation or transposed else arguments[4]


def with_products(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> fx.GraphModule:
    """The graph with its products done by this kernel, on processors with AVX2 or AVX-512.

    >>> x, weight = torch.randn(128, 784), torch.randn(400, 784)
    >>> graph = make_fx(lambda x, weight: (x @ weight.t(),))(x, weight)
    >>> _ = with_products(graph, [x, weight])
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in ("AVX2", "AVX512") or any(tensor.device.type != "cpu" for tensor in inputs):
        return graph
    factors = [node.all_input_nodes for node in graph.graph.nodes if node.target in (*_PRODUCTS, _MANY)]
    types = {factor.meta["val"].dtype for factor in itertools.chain(*factors)}
    if not types:
        return graph
    try:
        if torch.float32 in types:
            _kernel(half=False)
        if torch.bfloat16 in types:
            multiplies_bfloat16()  # cached here, because it can't run the kernel while a graph is traced
    except kernels.NotCompilable:
        return graph
    return make_fx(_WithProducts(graph).run, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)


class _WithProducts(fx.Interpreter):
    """Runs a graph with its products replaced; each includes the cast and the activation that alone use it."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self._includes_user: set[fx.Node] = set()
        self._factors = {factor for node in graph.graph.nodes if node.target in _PRODUCTS for factor in _factors(node)}

    def run_node(self, n: fx.Node) -> Any:
        aten = torch.ops.aten
        first: Any = n.args[0] if n.args else None
        if first in self._includes_user:
            return self.env[first]
        if n.target is _MANY:
            return self._run_many(n)
        if n.target not in _PRODUCTS or n.kwargs:
            value = super().run_node(n)
            return _once(value) if n in self._factors else value
        arguments: Any = self.map_nodes_to_values(n.args, n)
        *bias, left, right = arguments
        users = _single_users(n)
        half = left.dtype == torch.bfloat16 and multiplies_bfloat16()
        if half:
            half = bool(users) and users[0].target is aten._to_copy.default and users[0].kwargs == _TO_FLOAT
        fits = half or left.dtype == torch.float32
        fits &= all(matrix.dtype == left.dtype and matrix.device.type == "cpu" for matrix in (*bias, left, right))
        fits &= (right if right.stride(1) == 1 else min(left, right, key=Tensor.numel)).numel() <= LARGEST
        if not fits or _is_long(left) or (bias and bias[0].shape != right.shape[1:]):
            return super().run_node(n)
        left, right = (matrix if 1 in matrix.stride() else matrix.contiguous() for matrix in (left, right))
        if half and not (_in_pairs(left) and _in_pairs(right.t())):
            return super().run_node(n)
        included = users[:1] if half else []
        activation: Any = users[len(included)].target if len(users) > len(included) else None
        if activation in _ACTIVATIONS:
            included.append(users[len(included)])
        self._includes_user |= {n, *included[:-1]} if included else set()
        of = bias[0].float() if bias else None
        return torch.ops.pyro_vae.product(left, right, of, _ACTIVATIONS.get(activation, 0))

    def _run_many(self, n: fx.Node) -> Any:
        arguments: Any = self.map_nodes_to_values(n.args, n)
        fits = all(batch.dtype == torch.float32 and batch.device.type == "cpu" for batch in arguments)
        if not fits or min(batch[0].numel() for batch in arguments) > LARGEST:
            return super().run_node(n)
        left, right = (batch if 1 in batch.stride()[1:] else batch.contiguous() for batch in arguments)
        return torch.ops.pyro_vae.product(left, right, None, 0)


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether the processor has AVX512-BF16 but not AMX, with which libraries are faster."""
    if not torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return False
    try:  # an old compiler lacks the instructions
        torch.ops.pyro_vae.product(*(torch.ones(2, 2, dtype=torch.bfloat16) for _ in range(2)), None, 0)
    except (kernels.NotCompilable, RuntimeError):
        return False
    return True


def _once(value: Tensor) -> Tensor:
    """The value, marked so that Inductor computes it once and not for each use."""
    from torch._inductor import inductor_prims

    if not torch.ops.aten.is_non_overlapping_and_dense(value):
        return value
    return inductor_prims.force_stride_order(value, value.stride())


def _factors(product: fx.Node) -> Iterator[fx.Node]:
    """The factors of a product, before transposition and before rounding to bfloat16."""
    for factor in product.all_input_nodes:
        while factor.op == "call_function":
            if factor.target not in _VIEWS:
                yield factor
            if factor.target not in (*_VIEWS, torch.ops.aten._to_copy.default):
                break
            factor = factor.all_input_nodes[0]


def _is_long(left: Tensor) -> bool:
    on_avx2 = torch.backends.cpu.get_cpu_capability() == "AVX2"
    return on_avx2 and left.stride(1) != 1 and left.shape[1] > LONGEST_AVX2


def _in_pairs(matrix: Tensor) -> bool:
    """Whether each row is a whole number of pairs that are aligned to four bytes."""
    return matrix.shape[1] % 2 == 0 and (matrix.stride(1) != 1 or matrix.stride(0) % 2 == 0)


def _single_users(node: fx.Node) -> list[fx.Node]:
    """The chain of single users: the only user of the node, the only user of that, and so on."""
    users: list[fx.Node] = []
    while len(node.users) == 1:
        node = next(iter(node.users))
        users.append(node)
    return users
