"""What `fit` is not told, it takes from the model's spec."""

import dataclasses
import re
import warnings

import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_vae import Spec, build, fit
from pyro_vae.training.checkpoint import read_checkpoint
from pyro_vae.training.settings import SETTINGS

SPEC = Spec(latent_dim=2, hidden=(16,), epochs=3, batch_size=5, binarization="threshold")
QUIET = {"progress": False, "device": "cpu"}
OTHERS = {  # than those of SPEC, in a field or in several of which the first makes no difference alone
    "epochs": {"epochs": 1},
    "batch_size": {"batch_size": 3},
    "lr": {"lr": 0.1},
    "beta": {"beta": 50.0},
    "beta_warmup": {"beta_warmup": 2},
    "objective": {"objective": "elbo"},
    "particles": {"particles": 3},
    "binarization": {"binarization": "dynamic"},
    "dequantize": {"dequantize": True, "binarization": "none", "likelihood": "gaussian"},
    "compile": {"compile": "capture"},
    "precision": {"precision": "bf16"},
    "seed": {"seed": 3},
    "optimizer": {"optimizer": {"kind": "adamw", "weight_decay": 0.5}},
    "schedule": {"schedule": "cosine"},
    "sampler": {"sampler": "latent-density"},
    "clip_norm": {"clip_norm": 0.1},
    "ema": {"ema": 0.9},
}


def trained(model, images, **options):
    history = fit(model, images, **QUIET, **options)
    return history.column("train_loss_nats"), {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return first[0] == second[0] and all(torch.equal(value, second[1][name]) for name, value in first[1].items())


def without_spec(spec):
    model = build(spec)
    model.spec = None
    return model


def test_every_setting_is_tried():
    assert set(OTHERS) == set(SETTINGS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_field_of_the_spec_is_as_good_as_an_argument(tiny, name):
    spec = dataclasses.replace(SPEC, **OTHERS[name])
    told = {name: getattr(spec, name) for name in SETTINGS}
    bound = trained(build(spec), tiny)
    assert same(bound, trained(without_spec(spec), tiny, **told))
    if name not in ("compile", "precision"):  # which change no number, the second on some processors
        others = told | {name: getattr(SPEC, name)}
        assert not same(bound, trained(without_spec(spec), tiny, **others))


def test_beta_of_the_spec_weighs_the_kl(digits):
    kl = {}
    for beta in (1.0, 4.0, 50.0):
        spec = Spec(beta=beta, binarization="dynamic", latent_dim=4, hidden=(32,), epochs=8, lr=5e-3)
        kl[beta] = fit(build(spec), digits.train, **QUIET).epochs[-1].train_kl_nats
    assert kl[1.0] > 1.5 * kl[4.0] > 15 * kl[50.0]


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - {"epochs", "compile", "precision", "dequantize"}))
def test_an_argument_that_contradicts_the_spec_holds_and_is_said(tiny, name):
    spec = dataclasses.replace(SPEC, **OTHERS[name])
    argument = getattr(SPEC, name)
    message = f"fit: {name} {argument!r} instead of {getattr(spec, name)!r}, the model's spec"
    with pytest.warns(UserWarning, match=re.escape(message)) as caught:
        contradicted = trained(build(spec), tiny, **{name: argument})
    assert len(caught) == 1
    told = {name: getattr(spec, name) for name in SETTINGS} | {name: argument}
    assert same(contradicted, trained(without_spec(spec), tiny, **told))


def test_no_contradiction_of_a_default_or_of_how_long_and_how(tiny):
    model = build(dataclasses.replace(SPEC, compile="capture"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, tiny, lr=0.1, epochs=1, compile="off", **QUIET)


def test_the_spec_then_says_how_the_model_was_trained(tiny):
    """But for the seed, which is that of the first weights, and an objective that has no name."""
    model = build(SPEC)
    fit(model, tiny, lr=0.1, beta=2.0, epochs=1, seed=5, objective=Trace_ELBO(), **QUIET)
    assert model.spec == dataclasses.replace(SPEC, lr=0.1, beta=2.0, epochs=1)
    untold = build(SPEC)
    fit(untold, tiny, **QUIET)
    assert untold.spec == SPEC


def test_a_model_that_was_trained_before_resumes(tiny, tmp_path):
    """Its spec has changed by then, and says the same of the model."""
    model, options = build(Spec(latent_dim=2)), {"binarization": "threshold", "lr": 0.1, "checkpoint": tmp_path}
    fit(model, tiny, epochs=1, **options, **QUIET)
    history = fit(model, tiny, epochs=2, resume=True, checkpoint=tmp_path, **QUIET)
    assert len(history.epochs) == 2
    assert read_checkpoint(tmp_path)["settings"]["lr"] == 0.1


def test_a_model_composed_by_hand_has_the_defaults(tiny):
    spec = Spec(latent_dim=2)
    told = {name: getattr(spec, name) for name in SETTINGS} | {"binarization": "threshold", "epochs": 1}
    untold = trained(without_spec(spec), tiny, binarization="threshold", epochs=1)
    assert same(untold, trained(without_spec(spec), tiny, **told))
