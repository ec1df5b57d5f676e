"""Kinds and options as the classes say them; a user's own parts by name; code is imported only where it is trusted."""

import copy
import dataclasses
import importlib
import inspect
import json
import math
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import Spec, build, fit, fit_many, load, load_data, parts, save
from pyro_vae._utils.checks import InputError
from pyro_vae.cli.app import main
from pyro_vae.experiments.run import open_model, open_run, run
from pyro_vae.experiments.runner import run_study
from pyro_vae.experiments.study import Entry, Study, named
from pyro_vae.part_classes import check_trusted, construct, resolve
from pyro_vae.parts import Part, kinds, with_option
from pyro_vae.spec import to_options

HOW_TO = Path(__file__).parents[1] / "docs" / "howto"
PINNED = {
    "model": {
        "vae",
        "autoencoder",
        "vae-prior-at-start",
        "adversarial",
        "conditional",
        "denoising",
        "hierarchical",
        "ladder",
        "mixture",
        "miwae",
        "semi-supervised",
        "vector-quantized",
    },
    "network": {"mlp", "conv"},
    "likelihood": {
        "bernoulli",
        "continuous-bernoulli",
        "gaussian",
        "gaussian-learned",
        "gaussian-linear",
        "discretized-logistic",
        "discretized-gaussian",
    },
    "prior": {"standard-normal", "laplace", "uniform", "mixture", "swiss-roll", "generator"},
    "posterior": {"normal", "laplace", "uniform", "planar", "conditional-planar"},
    "optimizer": {"adam", "adamw", "adamax", "sgd"},
    "schedule": {"constant", "cosine", "step", "warm-up"},
    "objective": {"auto", "elbo", "mean-field", "path-gradient", "iwae", "iwae-dreg", "enumerated"},
}
OWN = """
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import transforms
from torch import nn

from pyro_vae import VAE, networks, posteriors

IMPORTED = True


class Radial(nn.Module):
    def __init__(self, latent_dim, layers=2):
        super().__init__()
        self.base = posteriors.DiagonalNormal(latent_dim)
        self.num_parameters = self.base.num_parameters
        self.layers = nn.ModuleList(transforms.Radial(latent_dim) for _ in range(layers))

    def forward(self, parameters):
        return dist.TransformedDistribution(self.base(parameters), list(self.layers))


class Mixture(nn.Module):
    def __init__(self, latent_dim, components=3):
        super().__init__()
        self.loc = nn.Parameter(torch.randn(components, latent_dim))

    def forward(self):
        of = dist.Categorical(logits=torch.zeros(len(self.loc)))
        return dist.MixtureSameFamily(of, dist.Normal(self.loc, 1.0).to_event(1))


class Wide:
    def __init__(self, image_shape, num_outputs, latent_dim, decoded_shape, width):
        self.encoder = networks.mlp_encoder(image_shape, num_outputs, (width,))
        self.decoder = networks.mlp_decoder(latent_dim, decoded_shape, (width,))


class Bounded(nn.Module):
    def __init__(self, latent_dim):
        super().__init__()
        self.latent_dim = latent_dim

    def forward(self):
        return dist.Uniform(torch.zeros(self.latent_dim), 1.0).to_event(1)


class Halved(VAE):
    def guide(self, x, beta=1.0):
        super().guide(x, beta / 2)


def make(spec, encoder, decoder, prior, likelihood, posterior):
    return VAE(encoder, decoder, prior, likelihood, posterior)


number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a module of a user's own, which is the current one; its name is not used again."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN, encoding="utf-8")
    (tmp_path / f"{name}_broken.py").write_text("import nothing_of_the_kind", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield name
    for module in (name, f"{name}_broken"):
        sys.modules.pop(module, None)


def test_the_kinds_are_those_that_are_pinned():
    assert {part: set(kinds(part)) for part in PINNED} == PINNED


@pytest.mark.parametrize("part", PINNED)
def test_the_source_text_says_what_the_class_is(part):
    for name, kind in kinds(part).items():
        owner = getattr(importlib.import_module(kind.module), kind.class_name)
        assert owner is resolve(part, name)
        assert owner.kind == name
        assert inspect.getdoc(owner) == kind.doc
        assert kind.doc.split("\n")[0]
        own = "__init__" in vars(owner) or kind.options
        parameters = inspect.signature(owner).parameters if own else {}
        expected = {
            key: value.default
            for key, value in parameters.items()
            if key not in parts.SUPPLIED[part] and value.kind is not value.VAR_KEYWORD
        }
        assert {key: eval(option.default) for key, option in kind.options.items()} == expected  # noqa: S307


def test_every_option_is_explained():
    """By a line of `Args` in the docstring."""
    for part in PINNED:
        for name, kind in kinds(part).items():
            for option in kind.options:
                assert f"\n    {option}: " in kind.doc, (part, name, option)


@pytest.mark.parametrize("value", ["planar", {"kind": "planar"}, {"kind": "planar", "layers": 4}, Part("planar")])
def test_a_part_that_has_its_defaults_is_the_kind_alone(value):
    spec = Spec(posterior=value)
    assert spec == Spec(posterior="planar")
    assert hash(spec) == hash(Spec(posterior="planar"))
    assert spec.posterior == "planar"
    assert spec.to_dict()["posterior"] == "planar"


def test_a_part_is_equal_to_what_it_may_be_written_as():
    spec = Spec(network={"kind": "conv", "channels": np.array([4, 8])}, posterior={"kind": "planar", "layers": 8})
    assert spec.network == {"kind": "conv", "channels": [4, 8]} == spec.network
    assert spec.network != "conv"
    assert spec.network != Part("conv", {"channels": (4,)})
    assert spec.posterior != 8
    assert str(spec.network) == "conv(channels=4,8)"
    assert eval(repr(spec)) == spec == Spec.from_json(spec.to_json())  # noqa: S307
    assert json.loads(spec.to_json())["network"] == {"kind": "conv", "channels": [4, 8]}


def test_true_is_not_one():
    assert Part("mine:A", {"flag": True}) != Part("mine:A", {"flag": 1})
    assert Part("mine:A", {"flags": [True, 2]}) != Part("mine:A", {"flags": (1, 2)})
    assert Part("mine:A", {"sizes": [[1, 2], 3]}) == Part("mine:A", {"sizes": ((1, 2), 3.0)})
    assert Part("mine:A", {"sizes": ((1, 2),)}).plain() == {"kind": "mine:A", "sizes": [[1, 2]]}


def test_a_part_is_read_only_and_can_be_copied():
    part = Spec(posterior={"kind": "planar", "layers": 8}).posterior
    with pytest.raises(TypeError):
        part.options["layers"] = 3
    for change in (lambda: setattr(part, "kind", "normal"), lambda: delattr(part, "kind")):
        with pytest.raises(AttributeError, match="read-only: kind"):
            change()
    options = {"layers": 8}
    mine = Part("planar", options)
    options["layers"] = 3
    assert mine == part
    for same in (copy.copy(part), copy.deepcopy(part), pickle.loads(pickle.dumps(part))):  # noqa: S301 (made here)
        assert (same, hash(same), repr(same)) == (part, hash(part), repr(part))


def test_a_spec_is_made_of_its_dataclass_fields():
    for spec in (Spec(), Spec(network={"kind": "conv", "channels": (4,)}, prior={"kind": "mine:Prior", "scale": 2.0})):
        assert Spec(**dataclasses.asdict(spec)) == spec == Spec.from_dict(dataclasses.asdict(spec))


def test_a_part_is_formatted_as_its_text():
    part = Part("planar", {"layers": 8})
    assert f"{part:>18}|{part}|{Part('normal'):8}|" == "  planar(layers=8)|planar(layers=8)|normal  |"


def test_options_come_from_texts_and_go_back():
    texts = {"posterior": "planar", "posterior.layers": "8", "network": "conv", "network.channels": "8"}
    spec = Spec(**Spec.parse(texts | {"likelihood": "gaussian", "likelihood.variance": "1e-2"}))
    assert spec.posterior == {"kind": "planar", "layers": 8}
    assert spec.network == {"kind": "conv", "channels": (8,)}
    assert spec.likelihood.options == {"variance": 0.01}
    words = [word.removeprefix("--").split("=") for word in to_options(spec.to_dict())]
    assert Spec(**Spec.parse(dict(words))) == spec
    assert Spec.parse({"optimizer": "adamw", "optimizer.weight-decay": "0.1"})["optimizer"].options == {
        "weight_decay": 0.1
    }
    # An option alone is one of the part that is there.
    assert Spec.parse({"network.activation": "relu"}, spec)["network"].options == {
        "channels": (8,),
        "activation": "relu",
    }
    assert with_option("prior", "my:Prior", "flag", "true").options == {"flag": True}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Spec(posterior="planer"), "posterior: given 'planer', .*did you mean 'planar'.*, or module:Class"),
        (lambda: Spec(posterior=None), "posterior: given None, expected one of normal"),
        (lambda: Spec(posterior={"layers": 2}), "posterior: given {'layers': 2}, expected one of"),
        (lambda: Spec(posterior="a:b:c"), "posterior: given 'a:b:c', expected one of"),
        (lambda: Spec(posterior="../a:b"), "posterior: given '../a:b', expected one of"),
        (
            lambda: Spec(network={"kind": "mlp", "channels": (3,)}),
            r"network.channels: given \(3,\), expected an option of mlp: activation, initialization",
        ),
        (
            lambda: Spec(posterior={"kind": "planar", "layer": 3}),
            r"posterior.layer: given 3, expected an option of planar: layers \(did you mean 'layers'\?\)",
        ),
        (lambda: Spec(prior={"kind": "laplace", "scale": 2}), "prior.scale: given 2, .*: laplace has none"),
        (lambda: Spec(posterior={"kind": "planar", "latent_dim": 3}), "posterior.latent_dim: given 3"),
        (lambda: Spec(posterior={"kind": "planar", "layers": {}}), "posterior.layers: given {}, expected a number"),
        (
            lambda: Spec(likelihood={"kind": "gaussian", "variance": math.inf}),
            "likelihood.variance: given inf, .*finite",
        ),
        (lambda: Spec(prior={"kind": "a:B", "at": [1.0, math.nan]}), "prior.at: given nan, expected a finite number"),
        (
            lambda: fit_many(Spec(schedule={"kind": "step", "every": 3}), load_data("digits").train, seeds=[0]),
            "schedule: given {'kind': 'step', 'every': 3}, expected constant",
        ),
        (lambda: build(Spec(posterior={"kind": "planar", "layers": 0})), "posterior.layers: given 0, expected a whole"),
        (lambda: build(Spec(posterior={"kind": "planar", "layers": "8"})), "posterior.layers: given '8'"),
        (lambda: build(Spec(likelihood={"kind": "gaussian", "variance": 0})), "likelihood.variance: given 0, expected"),
        (lambda: build(Spec(network={"kind": "mlp", "activation": "rel"})), "activation: .*did you mean 'relu'"),
        (lambda: build(Spec(network={"kind": "conv", "channels": 8})), "network.channels: given 8, expected a list"),
        (lambda: build(Spec(network={"kind": "conv", "channels": ()})), r"network.channels: given \(\), expected"),
        (lambda: build(Spec(prior="uniform")), "posterior: given 'normal', expected .* the prior uniform: the KL"),
        (lambda: build(Spec(model="vae-prior-at-start")), "posterior: given 'normal', expected a flow"),
        (lambda: build(Spec(posterior="no_such_module:Radial")), "given 'no_such_module:Radial', expected a module on"),
        (lambda: build(Spec(posterior="no_such.module:Radial")), ": run from the folder of no_such, or .* PYTHONPATH"),
        (
            lambda: Spec(network={"kind": "mlp", "layers": 3}),
            "an option of mlp: activation, initialization, batch_norm$",
        ),
        (
            lambda: Spec(network={"kind": "mlp", "channels": 3}),
            "of mlp: activation, initialization, batch_norm; conv has",
        ),
        (lambda: Spec.parse({"posterio.layers": "3"}), "--posterio.layers: given 'posterio', .*'posterior'"),
        (lambda: kinds("posteriors"), "part: given 'posteriors', .*did you mean 'posterior'"),
        (lambda: Entry("a", Spec(), factory="make"), "factory: given 'make', expected module:function"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"posterior": "{own}:Radail"}, "posterior: given '.*:Radail', .*did you mean 'Radial'"),
        ({"posterior": "{own}.py:Radial"}, "expected a module, without .py .did you mean 'own_.*:Radial'..$"),
        ({"posterior": "{own}:number"}, "posterior: given '.*:number', expected a class or function of own_"),
        ({"posterior": "{own}_broken:Radial"}, "expected a module that can be imported .No module named 'nothing_of"),
        ({"posterior": {"kind": "{own}:Radial", "layer": 2}}, "posterior.layer: given 2, .*did you mean 'layers'"),
        ({"network": "{own}:Wide"}, "network.width: given None, expected a value, for which .* has no default"),
        ({"prior": "{own}:Bounded"}, "posterior: given 'normal', expected one within the support of the prior own_"),
        ({"model": "{own}:Bounded"}, "model: given Bounded, expected"),
    ],
)
def test_what_is_wrong_with_own_parts_is_one_line(own, fields, message):
    def of(value):
        return value.replace("{own}", own) if isinstance(value, str) else value

    fields = {
        name: {key: of(option) for key, option in value.items()} if isinstance(value, dict) else of(value)
        for name, value in fields.items()
    }
    with pytest.raises(InputError, match=message) as error:
        build(Spec(**fields))
    assert "\n" not in str(error.value)


def test_own_parts_are_built_and_sys_path_stays(own):
    before = list(sys.path)
    spec = Spec(
        posterior={"kind": f"{own}:Radial", "layers": 3},
        prior=f"{own}:Mixture",
        network={"kind": f"{own}:Wide", "width": 5},
        latent_dim=2,
    )
    assert own not in sys.modules  # a Spec names code, and imports none
    model = build(spec)
    assert sys.path == before
    assert len(model.posterior.layers) == 3
    assert model.encoder[1].out_features == 5
    assert isinstance(model.prior(), dist.MixtureSameFamily)


def test_another_module_of_the_same_name_is_an_error(own, tmp_path, monkeypatch):
    """And not silently the class of the folder that was the current one before."""
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(there)
    (there / f"{own}.py").write_text(OWN, encoding="utf-8")
    assert resolve("posterior", f"{own}:Radial") is sys.modules[own].Radial
    (there / f"{own}.py").unlink()
    assert resolve("posterior", f"{own}:Radial") is sys.modules[own].Radial  # of whose name there is no other here
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"posterior: given '{own}:Radial', expected that of .*/{own}.py, but this"):
        resolve("posterior", f"{own}:Radial")


def test_own_parts_in_every_command(own, tmp_path, capsys):
    """A prior, a posterior and a network in a user's file: trained, resumed, evaluated, sampled and reported."""
    folder = tmp_path / "run"
    named_parts = ["--posterior", f"{own}:Radial", "--posterior.layers", "3", "--prior", f"{own}:Mixture"]
    named_parts += ["--network", f"{own}:Wide", "--network.width", "8"]
    short = ["--latent-dim", "2", "--epochs", "1", "--binarization", "threshold", "--batch-size", "256", "--quiet"]
    assert main(["train", "--out", str(folder), *named_parts, *short]) == 0, capsys.readouterr().err
    stored = json.loads((folder / "spec.json").read_text())
    assert stored["posterior"] == {"kind": f"{own}:Radial", "layers": 3}

    # What was named again needs no trust; what is only read from the folder does.
    more = ["train", "--resume", "--out", str(folder), "--quiet"]
    assert main([*more, "--epochs", "2"]) == 2
    assert "names code to import; if you trust it, --trust" in capsys.readouterr().err
    assert main([*more, "--epochs", "2", *named_parts]) == 0
    assert main([*more, "--epochs", "3", "--trust"]) == 0
    for command in (["evaluate", str(folder), "--metrics", "bounds", "--quiet"], ["sample", str(folder), "--n", "4"]):
        assert main(command) == 2
        assert f"given '{own}:" in capsys.readouterr().err
        assert main([*command, "--trust"]) == 0
    assert "elbo_nats" in json.loads((folder / "metrics.json").read_text())
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"--posterior={own}:Radial --posterior.layers=3" in page


def test_untrusted_code_is_not_imported(own, tmp_path):
    spec = Spec(posterior=f"{own}:Radial", latent_dim=2, epochs=1, binarization="threshold", batch_size=512)
    run(spec, tmp_path / "run", progress=False)
    del sys.modules[own]
    for call in (load, open_model, open_run):
        with pytest.raises(InputError, match=f"posterior: given '{own}:Radial', expected parts of pyro_vae alone"):
            call(tmp_path / "run")
    for command in (["evaluate", "run"], ["sample", "run"], ["train", "--resume", "--out", "run"]):
        assert main(command) == 2
    assert main(["report", "run"]) == 0
    assert own not in sys.modules
    assert load(tmp_path / "run", trust=True).spec.posterior == f"{own}:Radial"
    assert own in sys.modules
    assert open_run(tmp_path / "run", trust=True)[1] == open_model(tmp_path / "run", trust=True).spec
    check_trusted(Spec().to_dict(), "a spec of built-in parts")


def test_a_study_of_own_parts_and_a_factory(own, tmp_path):
    """In a folder that is not the current one, by workers of their own, and again after it is done."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (tmp_path / f"{own}.py").rename(folder / f"{own}.py")
    (folder / "mine.toml").write_text(
        f"""
        [common]
        latent_dim = 2
        epochs = 1
        batch_size = 512
        binarization = "threshold"
        [models.radial]
        posterior = {{kind = "{own}:Radial", layers = 1}}
        prior = "{own}:Mixture"
        network = {{kind = "{own}:Wide", width = 8}}
        [models.made]
        factory = "{own}:make"
        """,
        encoding="utf-8",
    )
    study = named(str(folder / "mine.toml"))
    assert [entry.spec.model for entry in study.entries] == ["vae", f"{own}:make"]
    for _ in range(2):
        stored = run_study(study, tmp_path / "out", threads=1, progress=False)
        assert [(entry["status"], entry["error"]) for entry in stored["entries"]] == [("done", None)] * 2
    assert stored["entries"][0]["spec"]["posterior"] == {"kind": f"{own}:Radial", "layers": 1}
    made = tmp_path / "out" / "runs" / "made" / "seed-0"
    assert json.loads((made / "spec.json").read_text())["model"] == f"{own}:make"
    with pytest.raises(InputError, match=f"model: given '{own}:make', expected parts of pyro_vae alone"):
        load(made)


def test_parts_that_do_not_go_together_are_refused_before_a_study_starts(tmp_path):
    study = Study("bad", "bad", (Entry("fine", Spec(epochs=1)), Entry("wrong", Spec(epochs=1, prior="uniform"))))
    with pytest.raises(InputError, match="model wrong: posterior: given 'normal', expected one within the support"):
        run_study(study, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_factory_is_trained_as_the_model_that_it_makes(own, digits):
    images = digits.train.take(slice(0, 64))
    losses = []
    for model in ("vae", f"{own}:make", f"{own}:Halved"):
        built = build(Spec(model=model, latent_dim=2, objective="elbo"))
        history = fit(built, images, epochs=1, binarization="threshold", device="cpu", progress=False)
        losses.append(history.column("train_loss_nats")[0])
    assert losses[0] == losses[1] != losses[2]


def test_options_that_nobody_checks_reach_the_class(own):
    with pytest.raises(InputError, match=r"network: given '.*:Wide\(width=x\)', expected options that it takes \(Type"):
        construct("network", {"kind": f"{own}:Wide", "width": "x"}, **SIZES)
    assert construct("network", {"kind": f"{own}:Wide", "width": 3}, **SIZES).encoder[1].out_features == 3


SIZES = {"image_shape": (1, 8, 8), "num_outputs": 4, "latent_dim": 2, "decoded_shape": (1, 8, 8)}


def test_the_command_lists_kinds_and_explains_them(capsys):
    assert main(["parts"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for part in PINNED for name in PINNED[part])
    assert main(["parts", "posterior", "planar"]) == 0
    text = capsys.readouterr().out
    assert "--posterior.layers  int, default 4" in text
    assert "https://arxiv.org/abs/1505.05770" in text
    assert r"\hat u_l" in text
    assert main(["parts", "network"]) == 0
    assert "mlp" in capsys.readouterr().out
    for words, message in (
        (["parts", "posterio"], "part: given 'posterio', .*did you mean 'posterior'"),
        (["parts", "posterior", "planr"], "posterior: given 'planr', .*did you mean 'planar'"),
        (["parts", "posterior", "my:Radial"], "posterior: given 'my:Radial'"),
        (["train", "--out", "RUN", "--posterior.layers"], "--posterior.layers: given None, expected a value"),
        (
            ["train", "--out", "RUN", "--posterior.layers", "3"],
            "posterior.layers: given 3, .*: normal has none; planar and conditional-planar have layers",
        ),
        (
            ["train", "--out", "RUN", "--posterior", "planar", "--posterior.", "2"],
            "--posterior.: given '2', expected a name",
        ),
        (["train", "--out", "RUN", "--posterior=planar", "--posterior.=2"], "--posterior.: given '2', expected a name"),
        (["train", "--out", "RUN", "--latent_dim", "x"], "latent_dim: given 'x', expected a whole number"),
        (["train", "--out", "RUN", "--latent_dim=x"], "latent_dim: given 'x', expected a whole number"),
        (["train", "--out", "RUN", "--no_dequantize", "--beta_warmup=x"], "beta_warmup: given 'x'"),
        (["train", "--out", "RUN", "--latent_dime=2"], "No such option: --latent_dime"),
    ):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(message, line), line
    listed_lines = listed.splitlines() + text.splitlines()
    assert max(len(line) for line in listed_lines if "\\" not in line) < 80


def test_the_page_about_own_parts_runs_from_end_to_end(tmp_path, monkeypatch, capsys):
    """Its module, its study and its commands, in their order."""
    page = HOW_TO / "own-parts.md"
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    shutil.copy(HOW_TO / "my_parts.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    (study,) = (text for kind, text in blocks if kind == "toml")
    (tmp_path / "mine.toml").write_text(study, encoding="utf-8")
    commands = [line for kind, text in blocks if kind == "console" for line in text.splitlines()]
    assert len(commands) == 10
    try:
        for line in commands:
            assert main(shlex.split(line.removeprefix("$ pyro-vae "))) == 0, (line, capsys.readouterr().err)
    finally:
        sys.modules.pop("my_parts", None)
    for made in ("RUN/report.html", "FLOW/weights.safetensors", "OTHER/metrics.json", "STUDY/results.md"):
        assert (tmp_path / made).is_file()


def test_all_of_it_without_torch():
    """Specs with options, the list of parts, and the command's errors come at once."""
    code = (
        "import sys; from pyro_vae.cli import main; from pyro_vae import Spec; from pyro_vae.experiments import study;"
        "Spec(posterior={'kind': 'planar', 'layers': 8}); study.named('fashion-14');"
        "assert main(['parts', 'posterior', 'planar']) == 0;"
        "assert main(['train', '--out', 'RUN', '--posterior.layers', '3']) == 2;"
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_committed_specs_are_of_this_format():
    folders = Path(__file__).parents[1] / "docs" / "results"
    paths = sorted(folders.glob("*/runs/**/spec.json"))
    assert paths
    for path in paths:
        stored = json.loads(path.read_text(encoding="utf-8"))
        read = Spec.from_dict(stored).to_dict()
        assert {name: read[name] for name in stored} == stored


def test_saved_weights_have_the_parts(tmp_path):
    model = build(Spec(posterior={"kind": "planar", "layers": 2}, latent_dim=2))
    loaded = load(save(model, tmp_path / "a.safetensors"))
    assert loaded.spec == model.spec
    assert torch.equal(loaded.posterior.layers[1].u, model.posterior.layers[1].u)
    assert dataclasses.replace(loaded.spec, posterior="planar").posterior.options == {}


def test_a_spec_of_another_format_is_one_line(tmp_path):
    old = Spec().to_dict() | {"flow_layers": 4}
    (tmp_path / "spec.json").write_text(json.dumps(old))
    with pytest.raises(InputError, match="spec: given 'flow_layers', expected one of dataset") as error:
        open_run(tmp_path)
    assert "\n" not in str(error.value)
