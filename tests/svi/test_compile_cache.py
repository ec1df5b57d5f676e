"""Compiled graphs come from Inductor's cache where they are the same, and only there."""

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import config, cpu_vec_isa
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.svi import backends
from pyro_vae.svi.cpu import kernels


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder of compiled code."""
    tmp_path.chmod(0o755)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    counters.clear()


def shifted(shift):
    constant = torch.full((40,), shift)
    return make_fx(lambda x: ((x + constant).exp().sum(), x.clone()))(torch.zeros(40))


@pytest.mark.slow
def test_the_same_graph_is_compiled_once(cache):
    for hits in range(2):
        run = backends.inductor(shifted(0.5), [torch.zeros(40)])
        torch.testing.assert_close(run(torch.ones(40))[0], torch.full((), 40.0) * torch.tensor(1.5).exp())
        assert counters["inductor"]["fxgraph_cache_hit"] == hits


@pytest.mark.slow
def test_graphs_that_differ_in_a_constant_are_different(cache):
    for shift in (0.5, 1.0, 0.5):
        run = backends.inductor(shifted(shift), [torch.zeros(40)])
        torch.testing.assert_close(run(torch.zeros(40))[0], 40 * torch.tensor(shift).exp())


@pytest.mark.slow
def test_arguments_that_share_memory_are_not_those_that_do_not(cache):
    def written(x, y):
        x.add_(1)
        return (x + y).sum(), x.clone()

    one, other = torch.zeros(40), torch.ones(40)
    graph = make_fx(written)(torch.zeros(40), torch.zeros(40))
    for first, second, expected in ((one, one, 80.0), (torch.zeros(40), other, 80.0), (one, one, 160.0)):
        assert backends.inductor(graph, [first, second])(first, second)[0] == expected


def test_inductor_compiles_no_test_programs_for_vector_instructions():
    tried = []
    kernels.without_probes(lambda: tried.append(config.cpp.vec_isa_ok))
    assert tried == [True]
    assert config.cpp.vec_isa_ok is None  # for what others compile
    assert cpu_vec_isa.valid_vec_isa_list.cache_info().currsize == 0


def test_if_the_compiler_lacks_vector_instructions_they_are_tested():
    tried = []

    def build():
        tried.append(config.cpp.vec_isa_ok)
        if config.cpp.vec_isa_ok:
            raise RuntimeError("unknown instruction")
        return "compiled"

    assert kernels.without_probes(build) == "compiled"
    assert tried == [True, None]


def test_what_the_user_said_of_vector_instructions_is_kept():
    tried = []
    with config.patch({"cpp.vec_isa_ok": False}):
        kernels.without_probes(lambda: tried.append(config.cpp.vec_isa_ok))
    assert tried == [False]
