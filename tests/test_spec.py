import dataclasses
import subprocess
import sys

import pytest

from pyro_vae.checks import InputError
from pyro_vae.spec import SPEC_FIELDS, Spec


def test_json_round_trip_keeps_every_field():
    spec = Spec(
        dataset="mnist",
        image_shape=(1, 28, 28),
        binarization="dynamic",
        network="conv",
        hidden=(256, 64),
        channels=(8,),
        activation="elu",
        latent_dim=3,
        likelihood="gaussian",
        variance=0.1,
        posterior="planar",
        beta=2,
        seed=7,
    )
    again = Spec.from_json(spec.to_json())
    assert again == spec
    assert isinstance(again.hidden, tuple)
    assert isinstance(again.beta, float)


def test_text_becomes_the_type_of_the_field():
    parsed = Spec.parse({"hidden": "400,200", "beta": "0.5", "epochs": "3", "dataset": "mnist"})
    assert parsed == {"hidden": (400, 200), "beta": 0.5, "epochs": 3, "dataset": "mnist"}


def test_every_field_has_help():
    assert all(one.metadata["help"] for one in dataclasses.fields(Spec))
    assert "epochs" in SPEC_FIELDS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": ""}, "dataset: given '', expected a name or a path"),
        ({"image_shape": (28, 28)}, "image_shape: given .*, expected 3 whole numbers"),
        ({"image_shape": (1, 0, 28)}, "image_shape: given 0"),
        ({"binarization": "dynamo"}, "binarization: given 'dynamo', .*did you mean 'dynamic'"),
        ({"validation_fraction": 1}, "validation_fraction: given 1.0"),
        ({"validation_fraction": -0.1}, "validation_fraction: given -0.1"),
        (
            {"model": "vea"},
            "model: given 'vea', expected one of vae, autoencoder, vae-prior-at-start .did you mean 'vae'",
        ),
        ({"network": "cnv"}, "network: given 'cnv'"),
        ({"hidden": (400, 0)}, "hidden: given 0, expected a whole number of at least 1"),
        ({"hidden": 400}, "hidden: given 400"),
        ({"channels": (1.5,)}, "channels: given 1.5"),
        ({"activation": "than"}, "activation: given 'than', .*did you mean 'tanh'"),
        ({"latent_dim": 0}, "latent_dim: given 0, expected a whole number of at least 1"),
        ({"latent_dim": True}, "latent_dim: given True"),
        ({"likelihood": "normal"}, "likelihood: given 'normal'"),
        ({"variance": 0}, "variance: given 0.0, expected a finite number above 0"),
        ({"prior": "normal"}, "prior: given 'normal'"),
        ({"posterior": "flow"}, "posterior: given 'flow'"),
        ({"flow_layers": 0}, "flow_layers: given 0"),
        ({"beta": -1}, "beta: given -1.0, expected a finite number of at least 0"),
        ({"beta": float("nan")}, "beta: given nan"),
        ({"beta_warmup": -1}, "beta_warmup: given -1"),
        ({"objective": "elb"}, "objective: given 'elb', .*did you mean 'elbo'"),
        ({"objective": "mean-field", "posterior": "planar"}, "a planar posterior has no analytic KL"),
        ({"objective": "mean-field", "posterior": "laplace"}, "a laplace posterior has no analytic KL to a standard"),
        ({"prior": "uniform"}, "posterior: given 'normal', expected uniform"),
        ({"model": "vae-prior-at-start"}, "posterior: given 'normal', expected a flow"),
        ({"objective": "iwae"}, "particles: given 1, expected at least 2"),
        ({"particles": 0}, "particles: given 0"),
        ({"epochs": 0}, "epochs: given 0"),
        ({"epochs": 2.0}, "epochs: given 2.0"),
        ({"batch_size": -1}, "batch_size: given -1"),
        ({"lr": float("inf")}, "lr: given inf"),
        ({"seed": -1}, "seed: given -1"),
        ({"compile": "jit"}, "compile: given 'jit'"),
        ({"precision": "fp16"}, "precision: given 'fp16'"),
        ({"precision": "bf16", "compile": "off"}, "precision: given 'bf16', expected fp32 where compile is off"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        Spec(**fields)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Spec.from_json("{"), "a JSON object"),
        (lambda: Spec.from_json("[]"), "an object with the fields of Spec"),
        (lambda: Spec.from_dict({"latent_dims": 2}), "did you mean 'latent_dim'"),
        (lambda: Spec.parse({"epochs": "many"}), "epochs: given 'many', expected a whole number"),
        (lambda: Spec.parse({"beta": "x"}), "beta: given 'x', expected a number"),
        (lambda: Spec.parse({"hidden": "4;4"}), "hidden: given '4;4', expected whole numbers with commas"),
    ],
)
def test_bad_text_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_needs_no_torch():
    code = "import sys, pyro_vae.spec, pyro_vae.cli; sys.exit('torch' in sys.modules or 'pyro' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
