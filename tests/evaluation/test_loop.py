"""What an evaluation is not told, it takes from the model's spec; what contradicts that is said."""

import warnings

import pytest
import torch

from pyro_vae import Images, Spec, build, evaluate, evaluation
from pyro_vae._utils.checks import InputError

CPU = {"device": "cpu"}
GREY = Images(torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))

ESTIMATES = {
    "bounds": lambda model, **told: evaluation.bounds(model, GREY, **told, **CPU).elbo_nats,
    "evaluate": lambda model, **told: evaluate(model, GREY, metrics=["bounds"], **told, **CPU).elbo_nats,
    "evidence": lambda model, **told: evaluation.evidence(model, GREY, k=5, **told, **CPU).nll_nats,
    "inference_gap": lambda model, **told: (
        evaluation.inference_gap(
            model, GREY, k=2, samples=2, steps=1, rounds=1, tolerance_nats=1e6, **told, **CPU
        ).elbo_nats
    ),
    "predictive_check": lambda model, **told: (
        evaluation.predictive_check(model, GREY, replicates=2, **told, **CPU).statistics["mean intensity"].observed_mean
    ),
    "to_inference_data": lambda model, **told: (
        evaluation.to_inference_data(model, GREY, k=30, draws=2, **told, **CPU).observed_data["x"].values.sum().item()
    ),
}


@pytest.mark.filterwarnings("ignore:inference_gap")
@pytest.mark.parametrize("name", ESTIMATES)
@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"binarization": "threshold"}, {"binarization": "threshold"}),
        ({"binarization": "static"}, {"binarization": "static"}),
        ({"binarization": "dynamic"}, {"binarization": "static"}),
        ({"likelihood": "gaussian", "dequantize": True}, {"dequantize": True}),
    ],
)
def test_the_spec_binds(name, fields, told):
    bound, free = build(Spec(latent_dim=2, hidden=(8,), **fields)), build(Spec(latent_dim=2, hidden=(8,), **fields))
    free.spec = None  # as of a model composed by hand
    estimate = ESTIMATES[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "grey pixels")
        assert estimate(bound) == estimate(bound, **told) == estimate(free, **told) != estimate(free)


@pytest.mark.parametrize(
    ("fields", "told", "message"),
    [
        ({"binarization": "dynamic"}, {"binarization": "threshold"}, "binarization 'threshold' instead of 'dynamic'"),
        (
            {"likelihood": "gaussian", "dequantize": True},
            {"dequantize": False},
            "dequantize False instead of True, the model's spec",
        ),
    ],
)
def test_what_contradicts_the_spec_is_said_once_where_it_is_called(fields, told, message):
    model = build(Spec(latent_dim=2, hidden=(8,), **fields))
    for name in ("bounds", "evaluate"):
        with pytest.warns(UserWarning, match=f"{name}: {message}") as caught:
            ESTIMATES[name](model, **told)
        assert len(caught) == 1
        assert caught[0].filename == __file__


def test_bad_settings_are_named():
    model = build(Spec(latent_dim=2, hidden=(8,), binarization="dynamic"))
    with pytest.raises(InputError, match="binarization: given 'dinamic'.*did you mean 'dynamic'"):
        evaluation.bounds(model, GREY, binarization="dinamic", **CPU)
    with pytest.raises(InputError, match="dequantize: given True"):
        evaluation.bounds(model, GREY, dequantize=True, **CPU)


def test_provenance_has_the_binarization_of_training():
    model = build(Spec(latent_dim=2, hidden=(8,), binarization="dynamic"))
    for told in ({}, {"binarization": "static"}, {"binarization": "dynamic"}):
        source = evaluate(model, GREY, metrics=["bounds"], **told, **CPU).provenance["elbo_nats"]
        assert (source["binarization"], source["trained_with"]) == ("static", "dynamic")
