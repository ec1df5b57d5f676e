"""A file names code, and no command imports it unless the user named it too, or said so."""

import json
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from pyro_vae import Spec, fit_many, load, load_data
from pyro_vae._utils.checks import InputError
from pyro_vae.cli.app import main
from pyro_vae.experiments import figures
from pyro_vae.experiments.run import open_model, open_run, run
from pyro_vae.experiments.runner import run_study
from pyro_vae.experiments.study import Entry, Picture, Study
from pyro_vae.training.checkpoint import read_checkpoint, write_checkpoint

SHORT = {"latent_dim": 2, "epochs": 1, "hidden": (8,), "batch_size": 512, "binarization": "threshold"}
SPEC = Spec(**SHORT)
NEW = ("--latent-dim", "2", "--epochs", "1", "--hidden", "8", "--batch-size", "512", "--binarization", "threshold")
IMAGES = load_data("digits").train.take(slice(0, 64))
IN_STUDY = {"threads": 1, "device": "cpu", "metrics": ("bounds",), "progress": False}


class Evil(NamedTuple):
    kind: str  # module:Class
    mark: Path  # there if the module was imported
    folder: Path


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A class in a module of the current folder, which leaves a mark when it is imported."""
    name = f"evil_{tmp_path.name.replace('-', '_')}"
    mark = tmp_path / f"{name}.mark"
    text = f"import pathlib\nfrom pyro_vae.objectives import SampledELBO as Boom\npathlib.Path({str(mark)!r}).touch()\n"
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield Evil(f"{name}:Boom", mark, tmp_path)
    sys.modules.pop(name, None)


def in_spec(folder, **fields):
    path = Path(folder) / "spec.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else SPEC.to_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stored | fields), encoding="utf-8")


def in_weights(folder, **fields):
    path = Path(folder) / "weights.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
    metadata["spec"] = json.dumps(json.loads(metadata["spec"]) | fields)
    save_file(state, path, metadata)


def in_checkpoint(folder, **fields):
    stored = read_checkpoint(folder)
    stored["settings"] |= fields
    write_checkpoint(folder, len(stored["epochs"]), stored)


def a_study():
    pictures = (Picture("rows.png", "reconstructions", ("a",)),)
    return run_study(Study("small", "small", (Entry("a", SPEC),), pictures=pictures), "study", **IN_STUDY)


def named_in_a_folder(kind):
    in_spec("run", objective=kind)


def named_in_a_run(kind, part="objective"):
    run(SPEC, "run", progress=False)
    in_spec("run", **{part: kind})
    in_weights("run", **{part: kind})


def named_in_the_weights_alone(kind):
    run(SPEC, "run", progress=False)
    in_weights("run", prior=kind)


def named_in_the_checkpoint(kind):
    run(SPEC, "run", progress=False)
    in_checkpoint(Path("run") / "checkpoint", objective=kind)


def named_in_a_run_of_a_study(kind):
    a_study()
    in_spec(Path("study") / "runs" / "a" / "seed-0", objective=kind)


def named_in_weights_of_a_study(kind):
    a_study()
    in_weights(Path("study") / "runs" / "a" / "seed-0", prior=kind)
    (Path("study") / "figures" / "rows.png").unlink()


def named_in_the_checkpoint_of_seeds(kind):
    fit_many(SPEC, IMAGES, seeds=[0], out="run", device="cpu", progress=False)
    in_checkpoint(Path("run") / "checkpoint", objective=kind)


def train(*options):
    command = ["train", "--out", "run", "--device", "cpu", "--quiet", *options]
    if (code := main(command)) != 0:
        raise InputError(str(code))


RESUMES = ("--resume", "--epochs", "2")
DOORS = {
    "train, into a folder from elsewhere": (named_in_a_folder, lambda: train(*NEW)),
    "train --resume": (named_in_a_run, lambda: train(*RESUMES)),
    "train --resume, auto typed": (named_in_a_run, lambda: train(*RESUMES, "--objective", "auto")),
    "train --resume, the checkpoint": (named_in_the_checkpoint, lambda: train(*RESUMES, "--objective", "auto")),
    "train --resume, an option typed": (
        lambda kind: named_in_a_run(kind, "posterior"),
        lambda: train(*RESUMES, "--posterior.layers", "3"),
    ),
    "run": (named_in_a_run, lambda: run(SPEC, "run", resume=True, progress=False)),
    "load": (named_in_a_run, lambda: load("run")),
    "load, trusting a spec without it": (named_in_a_run, lambda: load("run", trust=SPEC)),
    "load, the weights": (named_in_the_weights_alone, lambda: load("run")),
    "open_model": (named_in_a_run, lambda: open_model("run")),
    "open_run": (named_in_a_run, lambda: open_run("run")),
    "open_run, trusting a spec without it": (named_in_a_run, lambda: open_run("run", trust=SPEC)),
    "open_run, the weights": (named_in_the_weights_alone, lambda: open_run("run", trust=SPEC)),
    "figures.open_run": (named_in_a_run, lambda: figures.open_run("run")),
    "a study, a run": (named_in_a_run_of_a_study, a_study),
    "a study, the weights of a run": (named_in_weights_of_a_study, a_study),
    "fit_many": (
        named_in_the_checkpoint_of_seeds,
        lambda: fit_many(SPEC, IMAGES, seeds=[0], out="run", resume=True, device="cpu", progress=False),
    ),
}


@pytest.mark.filterwarnings("ignore:figure rows.png is left out")
@pytest.mark.parametrize("door", DOORS)
def test_code_that_only_a_file_names_is_not_imported(evil, door):
    prepare, call = DOORS[door]
    prepare(evil.kind)
    with suppress(InputError) if door == "a study, the weights of a run" else pytest.raises(InputError):
        call()
    assert not evil.mark.exists()


def test_code_that_is_trusted_or_named_is_imported(evil):
    """As the doors above, with the trust that they lack: their marks are made where code is imported."""
    spec = replace(SPEC, objective=evil.kind)
    run(spec, "run", progress=False)
    assert evil.mark.exists()
    assert load("run", trust=spec).spec == open_run("run", trust=spec)[1] == load("run", trust=True).spec
    train(*RESUMES, "--trust")
    train("--resume", "--epochs", "3", "--objective", evil.kind)
    train("--resume", "--epochs", "4", "--objective", "auto", "--trust")
    stored = run(replace(SPEC, epochs=5), "run", resume=True, progress=False, trust=True)[0].spec
    assert stored == replace(spec, epochs=5, image_shape=stored.image_shape)


def test_the_message_says_what_to_do(evil, capsys):
    named_in_a_folder(evil.kind)
    assert main(["train", "--out", "run", "--device", "cpu", "--quiet", *NEW]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"objective: given '{evil.kind}', expected parts of pyro_vae alone: run names code to import" in line
