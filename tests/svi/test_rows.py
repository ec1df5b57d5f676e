"""Rows gathered by our kernel, against torch's indexing."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.svi import backends
from pyro_vae.svi.cpu import kernels, products, rows

pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="a processor without vectors that torch knows"
)


@pytest.mark.parametrize("shape", [(50, 1, 28, 28), (7, 3), (3,)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bool])
@pytest.mark.parametrize("count", [0, 1, 8, 9, 200])
def test_rows_are_those_of_indexing(shape, dtype, count):
    data = torch.rand(shape).mul(255).to(dtype)
    indices = torch.randint(-len(data), len(data), (count,))
    assert torch.equal(torch.ops.pyro_vae.rows(data, indices), data[indices])


@pytest.mark.parametrize("place", [-8, 7, 2**62])
def test_a_place_outside_is_an_error(place):
    with pytest.raises(RuntimeError, match=rf"index {place} is out of bounds for 7"):
        torch.ops.pyro_vae.rows(torch.rand(7, 3), torch.tensor([0, place]))


DATA, PLACES = torch.rand(200, 784), torch.randint(200, (60,))


@pytest.mark.parametrize(
    ("data", "indices", "by_kernel"),
    [
        (DATA, [PLACES], True),
        (DATA.view(-1, 28, 28), [PLACES], True),
        (DATA.view(-1, 8), [PLACES], False),  # short rows
        (DATA.t(), [PLACES], False),
        (DATA, [torch.stack([PLACES, PLACES], 1)[:, 0]], False),
        (DATA, [PLACES.view(6, 10)], False),
        (DATA, [PLACES.int()], False),
        (DATA, [PLACES, PLACES], False),
        (DATA, [None, PLACES], False),
        (DATA, [torch.rand(200) < 0.5], False),
    ],
)
def test_a_graph_takes_rows_by_the_kernel_where_it_can(data, indices, by_kernel):
    tensors = [index for index in indices if index is not None]

    def function(data, *tensors):
        left = iter(tensors)
        return torch.ops.aten.index.Tensor(data, [None if index is None else next(left) for index in indices])

    graph = rows.with_rows(make_fx(function)(data, *tensors))
    assert any(node.target is torch.ops.pyro_vae.rows.default for node in graph.graph.nodes) == by_kernel
    assert torch.equal(graph(data, *tensors), data[tuple(slice(None) if index is None else index for index in indices)])


def test_compiled_rows_are_the_same():
    products.multiplies_bfloat16()  # cached; its first call runs a kernel
    heard = []
    graph = make_fx(lambda data, indices: (data[indices].sin(),))(DATA, PLACES)
    with kernels.with_listener(lambda kernel, arguments: heard.append(kernel)):
        (actual,) = backends.inductor(graph, [DATA, PLACES])(DATA, PLACES)
    torch.testing.assert_close(actual, DATA[PLACES].sin())
    assert heard == [rows._kernel()]
