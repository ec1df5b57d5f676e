"""The whole path on a slice of the real sets, where they are."""

import pytest
import torch

from pyro_vae import Spec, build, evaluate, fit, load_data
from pyro_vae.data import binarize

pytestmark = pytest.mark.real_data


@pytest.mark.parametrize(
    ("dataset", "network", "likelihood", "binarization"),
    [("mnist", "mlp", "bernoulli", "dynamic"), ("fashion-mnist", "conv", "gaussian", "none")],
)
def test_two_epochs_on_a_slice_beat_the_best_constant_image(real_data, dataset, network, likelihood, binarization):
    images = load_data(dataset, real_data)
    train, test = images.train.take(slice(0, 6000)), images.test.take(slice(0, 1000))
    model = build(Spec(dataset=dataset, network=network, likelihood=likelihood, latent_dim=16))
    mean_image = torch.logit(train.as_float().mean(0).clamp(1e-4, 1 - 1e-4))
    x = binarize(test, "static" if binarization == "dynamic" else binarization).as_float()
    constant = model.likelihood(mean_image).log_prob(x).mean().item()
    fit(model, train, epochs=2, binarization=binarization, device="cpu", progress=False)
    metrics = evaluate(model, test, binarization=binarization, device="cpu")
    assert metrics.elbo_nats > constant + 10 * metrics.elbo_se
