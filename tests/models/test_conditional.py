"""A conditional VAE of a user's own: trained, evaluated, drawn and sampled given its labels."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from matplotlib import image as picture

from pyro_vae import Images, Spec, build, evaluate, evaluation, latent, load_data
from pyro_vae._utils.checks import InputError
from pyro_vae.cli.app import main
from pyro_vae.experiments.figures import image_rows, trained_runs
from pyro_vae.experiments.figures.of_run import save_run_figures
from pyro_vae.experiments.figures.trained_runs import Fitted
from pyro_vae.latent.encode import labels_of_samples

SOURCE = """
import pyro
import pyro.distributions as dist
import torch
from torch import nn

from pyro_vae.models.vae import weighted


class CVAE(nn.Module):
    def __init__(self, image_shape=(1, 8, 8), latent_dim=2):
        super().__init__()
        self.shape, self.latent_dim = image_shape, latent_dim
        pixels = image_shape[0] * image_shape[1] * image_shape[2]
        self.encoder = nn.Linear(pixels + 10, 2 * latent_dim)
        self.decoder = nn.Linear(latent_dim + 10, pixels)

    def prior(self):
        return dist.Normal(torch.zeros(self.latent_dim), 1.0).to_event(1)

    def encode(self, x, labels):
        loc, log_scale = self.encoder(torch.cat([x.flatten(1), one_hot(labels)], -1)).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def decode(self, z, labels):
        y = one_hot(labels).expand(*z.shape[:-1], 10)
        logits = self.decoder(torch.cat([z, y], -1)).unflatten(-1, self.shape)
        return dist.Bernoulli(logits=logits, validate_args=False).to_event(3)

    def reconstruct(self, x, labels):
        return self.decode(self.encode(x, labels).mean, labels).mean

    def model(self, x=None, beta=1.0, labels=None):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(labels)):
            with weighted(beta):
                z = pyro.sample("z", self.prior())
            pyro.sample("x", self.decode(z, labels), obs=x)

    def guide(self, x, beta=1.0, labels=None):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(labels)), weighted(beta):
            pyro.sample("z", self.encode(x, labels))


class Covariate(CVAE):
    def decode(self, z, age):
        return super().decode(z, age.long())


def one_hot(labels):
    return nn.functional.one_hot(labels, 10).float()
"""
OWN: dict = {}
exec(compile(SOURCE, "cvae", "exec"), OWN)  # noqa: S102 (the text of the command line's tests, below)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return OWN["CVAE"]().eval()


def digits(n=40):
    return load_data("digits").test.take(slice(0, n))


def test_its_evidence_needs_no_part_named_likelihood(model):
    metrics = evaluate(model, digits(), metrics=["bounds", "evidence"], k=30, binarization="threshold", device="cpu")
    assert metrics.nll_nats <= -metrics.elbo_nats
    assert "likelihood" not in metrics.provenance["nll_nats"]
    assert evaluation.evidence(model, digits(5), k=5, binarization="threshold", device="cpu").likelihood is None


def test_reconstructions_are_given_the_labels(model):
    some = digits()
    expected = model.reconstruct(some.as_float(), some.labels).detach()
    figure = image_rows.reconstructions({"cvae": Fitted(model)}, some, n=5)
    assert figure.axes
    torch.testing.assert_close(image_rows.reconstruct(model, some), expected)


def test_the_figures_of_a_run_are_given_the_labels(model, tmp_path):
    """Interpolation and manifold are of codes without a label; they are none of this model's, as of no autoencoder."""
    names = {path.stem for path in save_run_figures(model, digits(), None, tmp_path)}
    assert names == {"reconstructions", "latent", "samples"}


def test_a_style_is_its_code_with_each_label(model):
    some = digits(4)
    with torch.no_grad():
        z = model.encode(some.as_float(), some.labels).mean
        expected = torch.stack([model.decode(z, torch.full((4,), label)).mean for label in (3, 8)], 1)
    torch.testing.assert_close(latent.style_grid(model, some, [3, 8], device="cpu"), expected)


def test_samples_are_given_labels(model):
    labels = torch.tensor([3, 1, 3]).repeat(50)
    drawn = latent.prior_samples(model, 150, labels=labels, batch_size=60, device="cpu")
    assert drawn.shape == (150, 1, 8, 8)
    torch.testing.assert_close(drawn, latent.prior_samples(model, 150, labels=labels, device="cpu"))
    others = latent.prior_samples(model, 150, labels=labels.where(labels == 1, 4), device="cpu")
    same = (drawn == others).flatten(1).all(1)
    assert torch.equal(same, labels == 1)


def test_samples_in_a_figure_or_for_scores_are_given_the_labels_of_images(model):
    some = digits(4)
    assert torch.equal(labels_of_samples(model, some, 10), torch.cat([some.labels, some.labels, some.labels[:2]]))
    drawn = trained_runs.sample(model, 6, 0, some)
    labels = labels_of_samples(model, some, 6)
    torch.testing.assert_close(drawn, latent.prior_samples(model, 6, labels=labels, device="cpu"))
    assert labels_of_samples(build(Spec(latent_dim=2)), some, 3) is None
    with pytest.raises(InputError, match="images: given 'images', expected images with labels, on which CVAE is cond"):
        labels_of_samples(model, Images(some.pixels), 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "labels: given None, expected a label for each sample, on which CVAE is conditional"),
        (torch.zeros(3, dtype=torch.long), r"labels: given .*\(3,\), expected 4 whole numbers"),
        (torch.zeros(4), "expected 4 whole numbers"),
        (torch.full((4,), 10), r"labels: given \[10\], expected labels that `decode` takes"),
    ],
)
def test_labels_of_samples_are_checked(model, labels, message):
    with pytest.raises(InputError, match=message):
        latent.prior_samples(model, 4, labels=labels, device="cpu")


def test_a_model_of_pixels_alone_takes_no_labels():
    with pytest.raises(InputError, match="labels: given .*, expected None: neither `prior` nor `decode` of VAE"):
        latent.prior_samples(build(Spec(latent_dim=2)), 4, labels=torch.zeros(4, dtype=torch.long))


def test_another_condition_is_named():
    with pytest.raises(InputError, match="model: given 'Covariate, which takes age'"):
        latent.prior_samples(OWN["Covariate"](), 4)


def test_the_command_line_takes_it_from_training_to_samples(tmp_path, monkeypatch, capsys):
    (tmp_path / "cvae_of_labels.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    small = ["--latent-dim", "2", "--binarization", "threshold", "--epochs", "1", "--device", "cpu", "--quiet"]
    assert main(["train", "--model", "cvae_of_labels:CVAE", *small, "--out", "RUN"]) == 0
    assert "left out" not in capsys.readouterr().err
    assert "elbo_nats" in json.loads((tmp_path / "RUN" / "metrics.json").read_text())
    assert main(["evaluate", "RUN", "--trust", "--metrics", "evidence", "--k", "5", "--device", "cpu", "--quiet"]) == 0
    assert main(["sample", "RUN", "--trust", "--labels", "0,1,2", "--n", "6", "--out", "six.png"]) == 0
    assert picture.imread(tmp_path / "six.png").ndim == 3
    capsys.readouterr()
    for options, message in (
        ([], "--labels: given None, expected labels to draw, as 0,1,2: CVAE is conditional on them"),
        (["--labels", "a"], "--labels: given 'a', expected whole numbers"),
        (["--labels", "10"], "expected labels that `decode` takes"),
    ):
        assert main(["sample", "RUN", "--trust", *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_the_page_about_it_has_commands_that_run(tmp_path, monkeypatch, capsys):
    page = Path(__file__).parents[2] / "docs" / "howto" / "conditional.md"
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (own,) = (text for _, text in blocks if "class CVAE" in text)
    (tmp_path / "my_cvae.py").write_text(own, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    commands = [line for kind, text in blocks if kind == "console" for line in text.splitlines()]
    assert len(commands) == 7
    try:
        for line in commands:
            assert main(shlex.split(line.removeprefix("$ pyro-vae "))) == 0, (line, capsys.readouterr().err)
    finally:
        sys.modules.pop("my_cvae", None)
    assert (tmp_path / "CVAE" / "figures" / "samples.png").is_file()
    assert (tmp_path / "samples.png").is_file()
