"""Between the first and the last step of an epoch, nothing waits for the device."""

import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae import Spec, build, fit
from pyro_vae.training import passes

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class NoNumberReadBack(TorchDispatchMode):
    """Refuses `item`, `float`, `if tensor`: what waits on a GPU, and can be seen on a CPU as well."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a number was read back")
        return operation(*args, **(kwargs or {}))


def synchronization(mode):
    """What CUDA does where the host would wait: nothing (default), or an error."""
    if torch.cuda.is_available():
        with warnings.catch_warnings():  # it is a prototype, and says so
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode(mode)


@pytest.fixture
def waits_are_errors(monkeypatch):
    """From the third epoch on; gives the epochs that were begun."""
    original, epochs = passes.shuffled, []

    def shuffled(*arguments):
        epochs.append(len(epochs) + 1)
        if epochs[-1] <= 2:
            yield from original(*arguments)
            return
        with NoNumberReadBack():
            try:
                synchronization("error")
                yield from original(*arguments)
            finally:
                synchronization("default")

    monkeypatch.setattr("pyro_vae.training.passes.shuffled", shuffled)
    monkeypatch.setattr("pyro_vae.svi.ambient.not_replayable", str)  # steps would run eagerly under the mode
    return epochs


@pytest.mark.parametrize(
    ("device", "compile"),
    [("cpu", "capture"), *(pytest.param("cuda", name, marks=CUDA) for name in ("capture", "inductor", "cudagraph"))],
)
@pytest.mark.parametrize("options", [{}, {"binarization": "dynamic", "beta_warmup": 3}, {"precision": "bf16"}], ids=str)
def test_no_step_waits_for_the_device(digits, waits_are_errors, device, compile, options):
    """Once the steps of whole batches and of the short last one are recorded and were first compared with the program.

    Such a comparison, at calls 1, 10, 100, 1,000 and each 5,000th of either, reads two losses; so does the look at the
    losses each 200 steps. Those of this test come in the first two epochs, and after the last step of each epoch.
    """
    images = digits.train.take(slice(0, 12 * 32 + 5))
    settings = {"binarization": "threshold"} | options
    model = build(Spec(latent_dim=2, hidden=(16,)))
    fit(model, images, epochs=4, batch_size=32, device=device, compile=compile, progress=False, **settings)
    assert waits_are_errors == [1, 2, 3, 4]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_a_wait_is_seen(waits_are_errors, device):
    for _ in range(2):
        assert len(list(passes.shuffled(torch.arange(4, device=device), 2))) == 2
    with pytest.raises(RuntimeError, match="read back|synchronizing"):
        for indices in passes.shuffled(torch.arange(4, device=device), 2):
            indices[0].item()
