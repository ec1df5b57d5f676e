import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pyro_vae._utils.checks import InputError
from pyro_vae.parts import Part
from pyro_vae.spec import SPEC_FIELDS, Spec


def test_json_round_trip_keeps_every_field():
    spec = Spec(
        dataset="mnist",
        image_shape=(1, 28, 28),
        binarization="dynamic",
        network={"kind": "conv", "channels": (8,), "activation": "elu"},
        hidden=(256, 64),
        latent_dim=3,
        likelihood={"kind": "gaussian", "variance": 0.1},
        posterior="planar",
        beta=2,
        seed=7,
    )
    reread = Spec.from_json(spec.to_json())
    assert reread == spec
    assert isinstance(reread.hidden, tuple)
    assert isinstance(reread.beta, float)


def test_text_becomes_the_type_of_the_field():
    parsed = Spec.parse({"hidden": "400,200", "beta": "0.5", "epochs": "3", "dataset": "mnist"})
    assert parsed == {"hidden": (400, 200), "beta": 0.5, "epochs": 3, "dataset": "mnist"}


def test_every_field_has_help():
    assert all(field.metadata["help"] for field in dataclasses.fields(Spec))
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
            "model: given 'vea', expected one of .*, vae, vae-prior-at-start.* .did you mean 'vae'",
        ),
        ({"network": "cnv"}, "network: given 'cnv'"),
        ({"hidden": (400, 0)}, "hidden: given 0, expected a whole number of at least 1"),
        ({"hidden": 400}, "hidden: given 400"),
        ({"latent_dim": 0}, "latent_dim: given 0, expected a whole number of at least 1"),
        ({"latent_dim": True}, "latent_dim: given True"),
        ({"likelihood": "normal"}, "likelihood: given 'normal'"),
        ({"prior": "normal"}, "prior: given 'normal'"),
        ({"posterior": "flow"}, "posterior: given 'flow'"),
        ({"beta": -1}, "beta: given -1, expected a finite number of at least 0"),
        ({"beta": float("nan")}, "beta: given nan"),
        ({"beta_warmup": -1}, "beta_warmup: given -1"),
        ({"beta": 0.0, "beta_warmup": 2}, "beta_warmup: given 2, expected 0 where beta is 0"),
        ({"objective": "elb"}, "objective: given 'elb', .*did you mean 'elbo'"),
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


def test_what_numpy_has_is_kept_as_plain_values():
    fields = {
        "dataset": Path("data") / "mine.npz",
        "image_shape": np.array([1, 8, 8]),
        "binarization": np.str_("dynamic"),
        "validation_fraction": np.float32(0.5),
        "hidden": np.array([16, 8], dtype=np.int32),
        "network": {"kind": np.str_("conv"), "channels": [np.int64(4), np.uint8(8)]},
        "latent_dim": np.int64(2),
        "likelihood": {"kind": "gaussian", "variance": np.int64(1)},
        "beta": np.float64(0.25),
        "seed": np.uint16(3),
    }
    expected = Spec(
        dataset=str(Path("data") / "mine.npz"),
        image_shape=(1, 8, 8),
        binarization="dynamic",
        validation_fraction=0.5,
        hidden=(16, 8),
        network={"kind": "conv", "channels": (4, 8)},
        latent_dim=2,
        likelihood={"kind": "gaussian", "variance": 1},
        beta=0.25,
        seed=3,
    )
    for spec in (Spec(**fields), Spec.from_dict(fields), dataclasses.replace(Spec(), **fields)):
        assert spec == expected
        assert spec.to_json() == expected.to_json()
        assert Spec.from_json(spec.to_json()) == expected
        assert {type(value) for value in vars(spec).values()} <= {bool, int, float, str, tuple, type(None), Part}
        assert {type(size) for size in (*spec.image_shape, *spec.hidden, *spec.network.options["channels"])} == {int}
        assert [type(spec.network.kind), type(spec.likelihood.options["variance"])] == [str, int]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latent_dim": "2"}, "latent_dim: given '2', expected a whole number of at least 1"),
        ({"latent_dim": np.float64(2)}, "latent_dim: given np.float64\\(2.0\\), expected a whole number"),
        ({"latent_dim": np.bool_(True)}, "latent_dim: given np.True_, expected a whole number"),
        ({"latent_dim": np.array([2])}, "latent_dim: given ndarray of int64 and shape \\(1,\\), expected a whole"),
        ({"lr": "0.1"}, "lr: given '0.1', expected a finite number above 0"),
        ({"lr": 10**400}, "lr: given 1000.*, expected a finite number above 0"),
        ({"beta": None}, "beta: given None, expected a finite number of at least 0"),
        ({"hidden": "16,8"}, "hidden: given '16,8', expected a list of whole numbers"),
        ({"hidden": np.zeros((2, 2), int)}, "hidden: given \\[0, 0\\], expected a whole number"),
        ({"hidden": np.array([16.0])}, "hidden: given 16.0, expected a whole number"),
        ({"hidden": {16}}, "hidden: given set, expected a list of whole numbers"),
        ({"image_shape": np.array([8, 8])}, "image_shape: given ndarray .*, expected 3 whole numbers"),
        ({"dataset": 3}, "dataset: given 3, expected a name or a path"),
        (
            {"dataset": np.zeros((3, 8, 8))},
            "dataset: given ndarray of float64 and shape \\(3, 8, 8\\), expected a name",
        ),
        ({"prior": ["laplace"]}, "prior: given \\['laplace'\\], expected one of standard-normal"),
        ({"seed": 2**63}, "seed: given 9223372036854775808, expected a whole number from 0"),
    ],
)
def test_other_types_are_refused_in_one_line(fields, message):
    for make in (Spec, lambda **values: Spec.from_dict(values)):
        with pytest.raises(InputError, match=f"^{message}") as error:
            make(**fields)
        assert "\n" not in str(error.value)


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
    code = "import sys, pyro_vae.spec, pyro_vae.cli.app; sys.exit('torch' in sys.modules or 'pyro' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
