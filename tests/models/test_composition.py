"""What is wrong with a part of a user's own is a line that names the part, when the model is built."""

import json
import sys

import pyro
import pytest
import torch
from torch import nn

from pyro_vae import Spec, build, fit, load, load_data, save
from pyro_vae._utils.checks import InputError
from pyro_vae.cli.app import main

OWN = """
import pyro.distributions as dist
import torch
from torch import nn

from pyro_vae import VAE, likelihoods, networks, posteriors, priors


class Independent(nn.Module):
    def __init__(self, latent_dim):
        super().__init__()
        self.loc = torch.zeros(latent_dim)

    def forward(self):
        return dist.Normal(self.loc, 1.0)


class StudentT(Independent):
    def __init__(self, latent_dim, df=3.0):
        super().__init__(latent_dim)
        self.df = df

    def forward(self):
        return dist.StudentT(self.df, self.loc, 1.0).to_event(1)


class Refusing:
    def __init__(self, latent_dim, df=3.0):
        raise ValueError("df must be positive")


class Silent(nn.Module):
    def forward(self, parameters):
        return dist.Normal(parameters, 1.0).to_event(1)


class Flat(nn.Module):
    def __init__(self, latent_dim):
        super().__init__()
        self.num_parameters = latent_dim

    def forward(self, parameters):
        return dist.Normal(parameters, 1.0)


class Broken(Flat):
    def forward(self, parameters):
        return parameters + torch.zeros(77)


class Number(Flat):
    def forward(self, parameters):
        return 3


class Network:
    def __init__(self, image_shape, num_outputs, latent_dim, decoded_shape, more=0, less=0, taken=0):
        self.encoder = networks.mlp_encoder(image_shape, num_outputs + more, ())
        self.decoder = networks.mlp_decoder(latent_dim + taken, (*decoded_shape[:-1], decoded_shape[-1] - less), ())


class Half:
    def __init__(self, image_shape, num_outputs):
        self.encoder = networks.mlp_encoder(image_shape, num_outputs)


class Noisy(Network):
    def __init__(self, image_shape, num_outputs, latent_dim, decoded_shape):
        super().__init__(image_shape, num_outputs, latent_dim, decoded_shape)
        self.encoder = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, num_outputs))


def linear(image_shape, latent_dim):
    q = posteriors.DiagonalNormal(latent_dim)
    parts = networks.mlp_encoder(image_shape, 2 * latent_dim, ()), networks.mlp_decoder(latent_dim, image_shape, ())
    return VAE(*parts, priors.StandardNormal(latent_dim), likelihoods.Bernoulli(), q)


def of_spec(spec, image_shape, latent_dim):
    return linear(image_shape, latent_dim)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    name = f"composed_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def spec_of(own, part, kind, **options):
    return Spec(**{"latent_dim": 2, part: {"kind": f"{own}:{kind}", **options}})


@pytest.mark.parametrize(
    ("part", "kind", "options", "message"),
    [
        ("prior", "Independent", {}, r":Independent with event shape \(\)', expected event shape \(2,\), as .to_event"),
        ("prior", "StudentT", {"df": -2}, r":StudentT\(df=-2\)', expected one whose `forward` runs \(ValueError: Exp"),
        ("prior", "Refusing", {"df": -2}, r":Refusing\(df=-2\)', expected options that it takes \(ValueError: df must"),
        ("prior", "StudentT", {"df": "x"}, r":StudentT\(df=x\)', expected"),
        ("posterior", "Silent", {}, ":Silent with num_parameters None', expected an attribute `num_parameters`"),
        ("posterior", "Flat", {}, r":Flat with event shape \(\)', expected event shape \(2,\)"),
        ("posterior", "Broken", {}, r":Broken', expected one whose `forward` runs \(RuntimeError"),
        ("posterior", "Number", {}, r":Number with no distribution, but int', expected event shape \(2,\)"),
        ("network", "Network", {"more": 1}, r", whose encoder gives 5 numbers for an image .*', expected 4 numbers"),
        (
            "network",
            "Network",
            {"less": 1},
            r", whose decoder gives shape \(1, 8, 7\) for .*, expected shape \(1, 8, 8",
        ),
        ("network", "Network", {"taken": 1}, "expected a network whose decoder takes a code of 2 dimensions .Runtime"),
        ("network", "Half", {}, ":Half', expected an attribute `decoder`, a module"),
    ],
)
def test_what_is_wrong_with_a_part_is_one_line(own, part, kind, options, message):
    with pytest.raises(InputError, match=f"^{part}: given .*{message}") as error:
        build(spec_of(own, part, kind, **options))
    assert "\n" not in str(error.value)


def test_the_command_line_says_it_so(own, tmp_path, capsys):
    assert main(["train", "--prior", f"{own}:StudentT", "--prior.df", "-2", "--out", "RUN"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pyro-vae: prior: given '{own}:StudentT(df=-2)', expected one whose")
    assert not (tmp_path / "RUN").exists()


def test_a_part_that_is_tried_is_as_it_was(own):
    """In training mode, with the running averages of its first day; the weights are those of the seed."""
    model = build(spec_of(own, "network", "Noisy"))
    assert model.encoder.training
    assert model.encoder[1].num_batches_tracked == 0
    assert torch.equal(model.encoder[3].weight, build(spec_of(own, "network", "Noisy")).encoder[3].weight)


def test_parts_that_a_model_does_not_take_are_named(own, tmp_path):
    spec = Spec(model=f"{own}:linear", latent_dim=2, posterior={"kind": "planar", "layers": 9}, likelihood="gaussian")
    message = (
        r":linear takes image_shape, latent_dim, so that this has no effect: likelihood gaussian, posterior planar"
    )
    with pytest.warns(UserWarning, match=message):
        model = build(spec)
    load(save(model, tmp_path / "a.safetensors"), trust=True)  # said once, when it is made
    build(spec_of(own, "model", "linear"))
    build(Spec(model=f"{own}:of_spec", latent_dim=2, posterior="planar"))  # which it may read itself


class Swapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(64))

    def model(self, x, labels, beta=1.0):
        with pyro.plate("data", len(x)):
            pyro.sample("x", pyro.distributions.Bernoulli(logits=self.weight.reshape(1, 8, 8)).to_event(3), obs=x)

    def guide(self, x, beta=1.0, labels=None):
        pass


def test_programs_of_another_order_are_named():
    message = r"^model: given 'Swapped with model\(x, labels, beta\)', expected model\(x, beta, labels\), called with"
    with pytest.raises(InputError, match=message) as error:
        fit(Swapped(), load_data("digits").train, binarization="threshold", epochs=1, device="cpu", progress=False)
    assert "\n" not in str(error.value)


PAIR = """
import pyro
import pyro.distributions as dist
import torch
from torch import nn


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(64, 2), nn.Linear(2, 64)

    def model(self, x, beta=1.0):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = self.decoder(z).unflatten(-1, (1, 8, 8))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def guide(self, x, beta=1.0):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x.flatten(1)), 1.0).to_event(1))


class WithoutPrior(Pair):
    def encode(self, x):
        return dist.Normal(self.encoder(x.flatten(1)), 1.0).to_event(1)

    def decode(self, z):
        return dist.Bernoulli(logits=self.decoder(z).unflatten(-1, (1, 8, 8))).to_event(3)
"""


@pytest.fixture
def pair(tmp_path, monkeypatch):
    name = f"pair_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(PAIR, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize("kind", ["Pair", "WithoutPrior"])
def test_a_pair_of_programs_alone_is_trained_and_evaluated_by_its_traces(pair, kind, tmp_path, capsys):
    options = ["--binarization", "threshold", "--epochs", "1", "--batch-size", "512", "--device", "cpu"]
    assert main(["train", "--model", f"{pair}:{kind}", *options, "--quiet", "--out", "RUN"]) == 0
    assert capsys.readouterr().err == ""
    drawn = {path.stem for path in (tmp_path / "RUN" / "figures").iterdir()}
    assert drawn == {"curves", "reconstructions", "latent"}  # `model` takes no `size`, and so draws no images
    assert main(["evaluate", "RUN", "--trust", "--metrics", "evidence", "--k", "50", "--quiet"]) == 0
    metrics = json.loads((tmp_path / "RUN" / "metrics.json").read_text())
    assert metrics["active_units_by_site"].keys() == metrics["kl_by_site"].keys() == {"z"}
    assert metrics["kl_by_site"]["z"] == pytest.approx(metrics["kl_per_sample"])
    assert metrics["nll_nats"] < -metrics["elbo_nats"]
    assert main(["evaluate", "RUN", "--trust", "--metrics", "samples", "--quiet"]) == 2
    assert "expected a model with a prior" in capsys.readouterr().err


def test_a_study_trains_and_evaluates_it(pair, tmp_path, capsys):
    (tmp_path / "mine.toml").write_text(
        f"""
        [common]
        epochs = 1
        batch_size = 512
        binarization = "threshold"
        [models.pair]
        factory = "{pair}:Pair"
        """,
        encoding="utf-8",
    )
    assert main(["study", "mine.toml", "--out", "STUDY", "--device", "cpu", "--threads", "1"]) == 0
    assert "| pair |" in (tmp_path / "STUDY" / "results.md").read_text()
    assert json.loads((tmp_path / "STUDY" / "runs" / "pair" / "seed-0" / "metrics.json").read_text())["elbo_nats"] < 0


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"model": "ladder", "posterior": "planar"}, "posterior planar"),
        ({"model": "mixture", "prior": "laplace"}, "prior laplace"),
        ({"model": "vector-quantized", "network": "conv", "hidden": (8,)}, "network conv, hidden"),
        ({"model": "autoencoder", "prior": "laplace"}, "prior laplace"),
    ],
)
def test_a_part_that_a_kind_does_not_take_is_warned_of(fields, part):
    with pytest.warns(UserWarning, match=f"has no effect: {part}"):
        build(Spec(**fields))


def test_no_kind_warns_of_what_it_takes():
    for model in ("semi-supervised", "conditional", "hierarchical"):
        build(Spec(model=model, hidden=(8,), network={"kind": "mlp", "activation": "relu"}))
