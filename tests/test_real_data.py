"""The whole path on a slice of the real sets, where they are."""

import pytest

from pyro_vae import Spec, build, evaluate, fit, load_data

pytestmark = pytest.mark.real_data


@pytest.mark.parametrize(
    ("dataset", "network", "likelihood", "binarization", "worst_nats"),
    [
        ("mnist", "mlp", "bernoulli", "dynamic", 215.0),  # the best constant image scores 206 at KL 0, on all of them
        ("fashion-mnist", "conv", "gaussian", "none", 515.0),
    ],
)
def test_two_epochs_on_a_slice_beat_no_training_by_far(real_data, dataset, network, likelihood, binarization, worst_nats):
    images = load_data(dataset, real_data)
    train, test = images.train.take(slice(0, 6000)), images.test.take(slice(0, 1000))
    model = build(Spec(dataset=dataset, network=network, likelihood=likelihood, latent_dim=16))
    before = evaluate(model, test, binarization=binarization, device="cpu")
    fit(model, train, epochs=2, binarization=binarization, device="cpu", progress=False)
    after = evaluate(model, test, binarization=binarization, device="cpu")
    assert -after.elbo_nats < worst_nats
    assert after.elbo_nats > before.elbo_nats + 10 * after.elbo_se
