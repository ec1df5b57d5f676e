"""Labels and covariates travel with the batch."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import Images, fit
from pyro_vae._utils.checks import InputError

QUIET = {"progress": False, "device": "cpu", "batch_size": 5, "epochs": 3, "lr": 0.1}


class MeanOfEachClass(nn.Module):
    """p(x | label, shift): a normal around a mean of the class, moved by the shift of the image."""

    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(torch.zeros(2))

    def model(self, x, beta=1.0, labels=None, shift=None):
        pyro.module("means", self)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.means[labels] + shift, 0.1), obs=x.mean((1, 2, 3)))

    def guide(self, x, beta=1.0, labels=None, shift=None):
        pass


@pytest.fixture
def images(tiny):
    """Class 0 is dark, class 1 bright; the shift is what is left."""
    pixels = (tiny.labels * 200)[:, None, None, None].expand_as(tiny.pixels).to(torch.uint8)
    return Images(pixels, tiny.labels, covariates={"shift": torch.linspace(-0.1, 0.1, 12)})


@pytest.mark.parametrize("compile", ["off", "capture"])
def test_each_image_has_its_own_label_and_covariate(images, compile):
    model = MeanOfEachClass()
    history = fit(
        model, images, validation=images, compile=compile, **QUIET | {"epochs": 200, "batch_size": 12, "lr": 0.02}
    )
    shift = images.covariates["shift"]
    expected = [(200 / 255) * label - shift[images.labels == label].mean() for label in (0, 1)]
    torch.testing.assert_close(model.means.detach(), torch.tensor(expected), atol=0.01, rtol=0)
    x = images.as_float().mean((1, 2, 3))
    loss = -dist.Normal(model.means[images.labels] + shift, 0.1).log_prob(x).mean().item()
    assert history.epochs[-1].validation_loss_nats == pytest.approx(loss, rel=1e-4)


def test_captured_and_streamed_they_are_the_same(images, monkeypatch):
    means = []
    for backend in ("off", "capture"):
        model = MeanOfEachClass()
        fit(model, images, compile=backend, **QUIET)
        means.append(model.means.detach())
    with monkeypatch.context() as patch:
        patch.setattr("pyro_vae.training.passes.Source.is_on_device", False)
        model = MeanOfEachClass()
        fit(model, images, compile="capture", **QUIET)
        means.append(model.means.detach())
    assert torch.equal(means[0], means[1])
    assert torch.equal(means[0], means[2])


def test_images_without_them_are_refused(images):
    class Named(MeanOfEachClass):
        def model(self, x, beta, *, shift):
            raise AssertionError("not reached")

    bare = Images(images.pixels, images.labels)
    with pytest.raises(InputError, match="images: given 'images without shift', expected images with shift"):
        fit(Named(), bare, **QUIET)
