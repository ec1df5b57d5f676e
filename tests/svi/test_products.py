"""Our kernels on the CPU against torch's: the matrix product, Adam, and a graph whose products are replaced."""

import itertools
import math

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.svi import backends
from pyro_vae.svi.cpu import kernels, products, recording
from pyro_vae.svi.cpu.adam import FusedAdam

pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="a processor without vectors that torch knows"
)
BY_KERNEL = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
IN_PAIRS = BY_KERNEL and products.multiplies_bfloat16()


def matrix(rows, columns, transposed):
    return torch.randn(columns, rows).t() if transposed else torch.randn(rows, columns)


SIZES = [
    (1, 1, 1),
    (3, 5, 2),
    (8, 48, 7),
    (9, 49, 33),
    (128, 40, 400),
    (37, 15, 61),
    (61, 37, 133),
    (130, 784, 20),
    (21, 1205, 33),
]
SIZES_IN_PAIRS = [(1, 1, 2), (3, 5, 2), (9, 49, 34), (128, 40, 400), (37, 16, 62), (61, 37, 134), (30, 1205, 62)]


in_pairs = pytest.mark.skipif(not IN_PAIRS, reason="this processor does not multiply pairs of bfloat16")
CASES = [
    *((torch.float32, size) for size in SIZES),
    *(pytest.param(torch.bfloat16, size, marks=in_pairs) for size in SIZES_IN_PAIRS),
]


@pytest.mark.parametrize(("dtype", "size"), CASES, ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_is_torchs(dtype, size, biased):
    """For matrices either way round, and with what is fused: so that each tile, copy and transposed store is met."""
    rows, columns, inner = size
    torch.manual_seed(0)
    bias = torch.randn(columns) if biased else None
    for of_left, of_right, activation in itertools.product((False, True), (False, True), (0, 1, 2)):
        left, right = matrix(rows, inner, of_left).to(dtype), matrix(inner, columns, of_right).to(dtype)
        expected = left.double() @ right.double() + (0 if bias is None else bias)
        expected = [expected, expected.tanh(), expected.relu()][activation]
        actual = torch.ops.pyro_vae.product(left, right, bias, activation)
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5 * inner**0.5)


@in_pairs
def test_a_graph_in_bfloat16_gives_the_same():
    """Products of an odd inner dimension are torch's, as are those whose results stay in bfloat16."""

    def step(x, weight, bias, odd):
        hidden = torch.addmm(bias, x, weight.t()).tanh()
        return hidden, hidden.t() @ x, x.t() @ odd

    torch.manual_seed(0)
    inputs = [torch.randn(6, 16), torch.randn(24, 16), torch.randn(24), torch.randn(6, 3)]
    graph = backends.in_bfloat16(make_fx(step)(*inputs))
    other = products.with_products(graph, inputs)
    targets = [node.target for node in other.graph.nodes]
    assert targets.count(torch.ops.pyro_vae.product.default) == 3
    assert torch.ops.aten.tanh.default not in targets
    for actual, expected in zip(other(*inputs), graph(*inputs), strict=True):
        torch.testing.assert_close(actual, expected, rtol=2e-2, atol=2e-2)
    left, right = torch.randn(4, 5).bfloat16(), torch.randn(5, 6).bfloat16()
    for function in (lambda left, right: ((left @ right).float(),), lambda left, right: (left[:, :4] @ right[:4],)):
        other = products.with_products(make_fx(function)(left, right), [left, right])
        assert torch.ops.pyro_vae.product.default not in [node.target for node in other.graph.nodes]


def test_the_fused_tanh_is_accurate_everywhere():
    x = torch.cat([torch.linspace(-20, 20, 40_001), torch.linspace(-0.7, 0.7, 40_001), torch.tensor([1e-30, 1e30])])
    actual = torch.ops.pyro_vae.product(x[:, None], torch.ones(1, 16), None, 1)[:, 3].double()
    expected = x.double().tanh()
    units = (actual - expected).abs() / expected.abs().clamp(min=1e-38) / 2**-23
    assert units.max() < 3.5
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0])
    actual = torch.ops.pyro_vae.product(odd[:, None], torch.ones(1, 16), None, 1)[:, 0]
    torch.testing.assert_close(actual, odd.tanh(), equal_nan=True)


def test_a_product_keeps_what_is_not_finite():
    left = torch.ones(3, 4)
    left[1, 2] = float("nan")
    for activation in (0, 1, 2):
        actual = torch.ops.pyro_vae.product(left, torch.ones(4, 20), None, activation)
        assert actual[1].isnan().all()
        assert actual[[0, 2]].isfinite().all()


@pytest.mark.skipif(not BY_KERNEL, reason="a processor with other vectors, where products are left as they are")
def test_a_graph_with_products_gives_the_same():
    """Also of matrices that are expanded, sliced or used twice, and the activation only where nobody sees the rest."""

    def step(x, weight, bias, square):
        pre = torch.addmm(bias, x, weight.t())
        seen = torch.addmm(bias, x, weight.t())
        hidden = pre.tanh()
        expanded = hidden @ torch.ones(1, 1).expand(24, 5)
        return (
            hidden,
            seen.relu() + seen,
            expanded,
            x[:, ::2] @ square[::2, ::2],
            hidden.t() @ x,
            square.double() @ x.t().double(),
        )

    torch.manual_seed(0)
    inputs = [torch.randn(6, 16), torch.randn(24, 16), torch.randn(24), torch.randn(16, 16)]
    graph = make_fx(step)(*inputs)
    other = products.with_products(graph, inputs)
    targets = [node.target for node in other.graph.nodes]
    assert targets.count(torch.ops.pyro_vae.product.default) == 5
    assert torch.ops.aten.tanh.default not in targets
    assert torch.ops.aten.relu.default in targets
    for actual, expected in zip(other(*inputs), step(*inputs), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.skipif(not BY_KERNEL, reason="a processor with other vectors, where products are left as they are")
def test_products_of_many_are_the_same():
    def step(x, weight):
        return x @ weight.transpose(1, 2), weight.transpose(1, 2) @ weight, x[:, ::2, ::2] @ weight[:, :8]

    torch.manual_seed(0)
    inputs = [torch.randn(3, 6, 16), torch.randn(3, 24, 16)]
    other = products.with_products(make_fx(step)(*inputs), inputs)
    targets = [node.target for node in other.graph.nodes]
    assert targets.count(torch.ops.pyro_vae.product.default) == 3
    for actual, expected in zip(other(*inputs), step(*inputs), strict=True):
        torch.testing.assert_close(actual, expected)


def test_large_matrices_are_left_to_the_library():
    inputs = [torch.randn(2, 1100), torch.randn(1100, 1100)]
    graph = make_fx(lambda x, weight: (x @ weight,))(*inputs)
    other = products.with_products(graph, inputs)
    assert torch.ops.pyro_vae.product.default not in [node.target for node in other.graph.nodes]


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
@pytest.mark.skipif(not BY_KERNEL, reason="a processor with other vectors, where products are left as they are")
def test_long_sums_down_columns_are_left_to_the_library_with_avx2(capability, monkeypatch):
    """Sums along rows are not, however long they are."""
    x, gradient = torch.randn(600, 20), torch.randn(600, 30)
    graph = make_fx(lambda x, gradient: (gradient.t() @ x, gradient.t().contiguous() @ x))(x, gradient)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    targets = [node.target for node in products.with_products(graph, [x, gradient]).graph.nodes]
    ours = targets.count(torch.ops.pyro_vae.product.default)
    assert (ours, targets.count(torch.ops.aten.mm.default)) == ((1, 1) if capability == "AVX2" else (2, 0))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_by_kernel_is_torchs(kind, weight_decay):
    """Of several groups, sizes that fill no vector and more than one part, with a rate that changes."""
    shapes = [(3,), (17, 5), (130, 200), (), (0,)]

    def made():
        torch.manual_seed(0)
        params = [torch.randn(shape, requires_grad=True) for shape in shapes]
        groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.03, "betas": (0.8, 0.99)}]
        optimizer = kind(groups, lr=0.01, weight_decay=weight_decay, fused=True)
        return optimizer, params

    (reference, expected), (other, params) = made(), made()
    adam, halves = FusedAdam([other], params), {param: param.detach().bfloat16() for param in params[1:4]}
    for step in range(5):
        gradients = [torch.randn(shape) for shape in shapes]
        reference.param_groups[0]["lr"] = other.param_groups[0]["lr"] = 0.01 / (step + 1)
        for param, gradient in zip(expected, gradients, strict=True):
            param.grad = gradient.clone()
        reference.step()
        adam.refresh()
        with torch.no_grad():
            assert adam.by_kernel(gradients, halves)
    for a, b in zip(expected, params, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)
        assert b not in halves or torch.equal(halves[b], b.detach().bfloat16())
    for a, b in zip(expected, params, strict=True):
        for name, value in reference.state[a].items():
            torch.testing.assert_close(other.state[b][name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_an_infinite_parameter_stays_where_it_is(kind):
    """As a logit that is minus infinity does."""
    start = torch.tensor([-math.inf, 1.0, math.inf] * 10)
    params = []
    for by_kernel in (False, True):
        param = start.clone().requires_grad_()
        adam = FusedAdam([kind([param], lr=0.1, weight_decay=0.0, fused=True)], [param])
        gradient = torch.where(start.isinf(), 0.0, 1.0)
        with torch.no_grad():
            assert adam.by_kernel([gradient], {}) if by_kernel else adam([gradient]) is None
        params.append(param.detach())
    torch.testing.assert_close(params[1], params[0])
    assert params[1].isinf().equal(start.isinf())


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=in_pairs)])
@pytest.mark.parametrize(
    ("columns", "after", "in_product"),
    [
        (64, None, True),
        (400, None, True),
        (20, None, False),  # no whole vectors
        (64, "gradient", False),
        (64, "param", False),
        (64, "half", False),
        (64, "precision", False),  # a copy in bfloat16 is made by products of such factors
        (64, "decay", False),  # as torch's Adam has it, in the gradient
    ],
)
def test_a_product_does_adams_step_where_nothing_needs_the_gradient(dtype, columns, after, in_product):
    """And the same in either case, as torch's Adam does it."""
    torch.manual_seed(0)
    left, right = torch.randn(34, 18).to(dtype).t(), torch.randn(34, columns).to(dtype)
    fixed = torch.randn(18, columns)
    param, other = (torch.ones(18, columns, requires_grad=True) for _ in range(2))
    kind = torch.optim.Adam if after == "decay" else torch.optim.AdamW
    optimizers = [kind([weight], lr=0.1, weight_decay=0.1, fused=True) for weight in (param, other)]
    adam, half = FusedAdam([optimizers[0]], [param]), torch.ones(18, columns, dtype=torch.bfloat16)
    has_half = after == "half" or (dtype == torch.bfloat16) != (after == "precision")

    def step():
        gradient = torch.ops.pyro_vae.product(left, right, None, 0)
        used = half.float() if after == "half" else {"gradient": gradient, "param": param.detach()}.get(after, fixed)
        loss = torch.ops.pyro_vae.product(used[:1], used[:1].t(), None, 0)
        assert adam.by_kernel([gradient], {param: half} if has_half else {})
        return (loss,)

    seen = []

    def improve(used):
        adam.into_products(used)
        seen.append(adam._done[0][0][:, 7].sum().item())

    recorded = recording.record(step, [], [*adam.written(), half], improve)
    assert seen == [0 if in_product else param.numel()]
    for _ in range(3):
        (loss,) = recorded()
        others = {"param": other, "half": other, "gradient": left.float() @ right.float()}
        expected = others.get(after, fixed).detach()
        torch.testing.assert_close(loss[0, 0], expected[0].square().sum(), rtol=1e-2, atol=0)
        other.grad = left.float() @ right.float()
        optimizers[1].step()
        torch.testing.assert_close(param, other, rtol=1e-4, atol=1e-5)
        assert not has_half or torch.equal(half, param.detach().bfloat16())


@pytest.mark.parametrize(
    ("param", "gradient", "by_kernel"),
    [
        (torch.ones(4, 4), torch.ones(4, 4), True),
        (torch.ones(4, 4).double(), torch.ones(4, 4).double(), False),
        (torch.ones(4, 4), torch.ones(4, 4).t(), False),  # its elements in another order
        (torch.ones(4, 2), torch.ones(4, 4)[:, ::2], False),  # with gaps between them
    ],
)
def test_adam_is_left_to_torch_where_the_kernel_has_no_say(param, gradient, by_kernel):
    param = param.clone().requires_grad_()
    adam = FusedAdam([torch.optim.Adam([param], lr=0.1, fused=True)], [param])
    assert adam.by_kernel([gradient], {}) is by_kernel
    torch.testing.assert_close(param, torch.full_like(param, 0.9 if by_kernel else 1.0))  # the first step is lr


def test_adam_notices_a_state_that_was_cleared():
    param = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.Adam([param], fused=True)
    adam = FusedAdam([optimizer], [param])
    assert adam.is_current([optimizer])
    optimizer.state.clear()
    assert not adam.is_current([optimizer])


def test_listeners_hear_of_calls_and_no_longer():
    heard = []
    left, right = torch.ones(2, 3), torch.ones(3, 4)
    with kernels.with_listener(lambda kernel, arguments: heard.append(arguments[0])):
        product = torch.ops.pyro_vae.product(left, right, None, 0)
    torch.ops.pyro_vae.product(left, right, None, 0)
    assert [out.data_ptr() for out in heard] == [product.data_ptr()]


def test_of_a_graph_without_products_no_kernel_is_compiled(monkeypatch):
    monkeypatch.setattr(products, "_kernel", lambda half: pytest.fail("compiled"))
    x = torch.ones(3, 3)
    graph = make_fx(lambda x: (x + x.t(),))(x)
    assert products.with_products(graph, [x]) is graph
