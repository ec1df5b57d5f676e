"""The command line as a user meets it: files that it writes, exit codes, and one line for each mistake."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pyro_vae import __version__
from pyro_vae._utils import files
from pyro_vae.cli import demo
from pyro_vae.cli.app import main
from pyro_vae.evaluation import metric_groups
from pyro_vae.experiments.study import NAMES
from pyro_vae.experiments.workers import Processes
from pyro_vae.spec import SPEC_FIELDS
from pyro_vae.svi import CompiledSVI

TRAIN = [
    "train",
    "--dataset",
    "digits",
    "--binarization",
    "threshold",
    "--latent-dim",
    "2",
    "--hidden",
    "16",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main([*TRAIN, "--epochs", "2", "--out", str(folder)]) == 0
    return folder


def test_train_fills_a_run_folder(trained):
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert files >= {"spec.json", "environment.json", "history.csv", "weights.safetensors", "metrics.json"}
    pictures = {
        "reconstructions",
        "samples",
        "latent",
        "interpolation",
        "curves",
        "manifold-even",
        "manifold-quantiles",
    }
    assert {path.stem for path in (trained / "figures").glob("*.png")} == pictures
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["elbo_nats"] == pytest.approx(-metrics["reconstruction_nats"] - metrics["kl_per_sample"])
    assert None not in metrics.values()


def test_evaluate_adds_scores_of_samples(trained, capsys):
    before = json.loads((trained / "metrics.json").read_text())
    groups = "bounds,codes,evidence,samples"
    assert main(["evaluate", str(trained), "--metrics", groups, "--n", "100", "--k", "50", "--device", "cpu"]) == 0
    after = json.loads((trained / "metrics.json").read_text())
    assert {"frechet", "inception_score_mean", "inception_score_std", "extractor"} <= set(after) - set(before)
    assert {"nll_nats", "nll_se", "pareto_k", "real_scores", "precision"} <= set(after) - set(before)
    assert after["active_units"] == before["active_units"]
    assert after["provenance"]["nll_nats"]["k"] == 50
    arguments = [
        "evaluate",
        str(trained),
        "--metrics",
        "evidence",
        "--k",
        "5",
        "--evidence-images",
        "20",
        "--device",
        "cpu",
    ]
    assert main(arguments) == 0
    merged = json.loads((trained / "metrics.json").read_text())
    assert "pareto_k" not in merged  # which needs more samples: the one of before is not of these
    assert (merged["provenance"]["nll_nats"]["k"], merged["provenance"]["nll_nats"]["n"]) == (5, 20)
    assert merged["frechet"] == after["frechet"]
    assert after["mse_per_pixel"] == before["mse_per_pixel"]
    out = capsys.readouterr().out
    assert after["extractor"] in " ".join(out.split())
    assert "FID" not in out  # that name belongs to the Inception of 2015-12-05


def test_an_interrupted_evaluation_keeps_what_it_had(tmp_path, monkeypatch, trained):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "metrics.json").unlink()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(metric_groups, "evidence_of", interrupted)
    assert main(["evaluate", str(folder), "--metrics", "bounds,evidence", "--device", "cpu"]) == 1
    metrics = json.loads((folder / "metrics.json").read_text())
    assert "elbo_nats" in metrics
    assert "nll_nats" not in metrics


def test_sample_draws_a_picture(trained, tmp_path, capsys):
    picture = tmp_path / "new" / "samples.png"
    assert main(["sample", str(trained), "--n", "9", "--out", str(picture)]) == 0
    assert str(picture) in capsys.readouterr().out
    with Image.open(picture) as opened:
        assert min(opened.size) > 100


def test_resume_goes_on_with_more_epochs(trained, tmp_path):
    folder = str(tmp_path / "run")
    assert main([*TRAIN, "--epochs", "1", "--out", folder, "--quiet"]) == 0
    assert main(["train", "--resume", "--epochs", "2", "--out", folder, "--device", "cpu", "--quiet"]) == 0
    weights = [(path / "weights.safetensors").read_bytes() for path in (tmp_path / "run", trained)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_run_to_resume(tmp_path, capsys, monkeypatch, number, trained):
    folder = str(tmp_path / "run")
    original, calls = CompiledSVI.step_tensor, []

    def signalled(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 15:
            os.kill(os.getpid(), number)
        return original(self, *args, **kwargs)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(CompiledSVI, "step_tensor", signalled)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        assert main([*TRAIN, "--epochs", "2", "--out", folder, "--quiet"]) == 1
        signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert capsys.readouterr().err.splitlines()[-1].startswith("pyro-vae: stopped; ")
    assert main(["train", "--resume", "--out", folder, "--device", "cpu", "--quiet"]) == 0
    weights = [(path / "weights.safetensors").read_bytes() for path in (tmp_path / "run", trained)]
    assert weights[0] == weights[1]


def test_a_signal_while_the_end_is_reported_changes_nothing(capsys, monkeypatch):
    """torchrun signals the other processes as soon as one has failed, while they say why they fail."""
    said = []

    def signalled(text):
        os.kill(os.getpid(), signal.SIGTERM)
        said.append(text)

    monkeypatch.setattr("pyro_vae.cli.app.say", signalled)
    assert main(["train", "--epochs", "-2"]) == 2
    assert said == ["pyro-vae: Missing option '--out'."]


def test_an_import_that_an_interrupt_breaks_is_an_interrupt(tmp_path, capsys, monkeypatch):
    """numpy, interrupted while it is imported, raises a RecursionError."""

    def broken(*_, **__):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise RecursionError from None

    monkeypatch.setattr("pyro_vae.experiments.run.run", broken)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    assert main([*TRAIN, "--out", str(tmp_path / "run")]) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)
    error = capsys.readouterr().err
    assert error == (
        "pyro-vae: stopped; finished epochs are saved; `pyro-vae train --resume --out RUN` resumes the training\n"
    )


def test_a_nan_is_one_line_and_exit_code_1(tmp_path, capsys):
    assert main([*TRAIN, "--epochs", "2", "--lr", "1e30", "--out", str(tmp_path / "run"), "--quiet"]) == 1
    assert "epoch 1, step" in capsys.readouterr().err.splitlines()[-1]
    assert len(list((tmp_path / "run" / "checkpoint").iterdir())) == 1


@pytest.mark.filterwarnings("default")
def test_a_handful_of_images_is_enough(tmp_path, capsys):
    np.savez(tmp_path / "few.npz", images=np.random.default_rng(0).integers(0, 256, (10, 8, 8), dtype=np.uint8))
    folder = tmp_path / "run"
    arguments = ["--dataset", str(tmp_path / "few.npz"), "--epochs", "1", "--hidden", "8", "--device", "cpu"]
    assert main(["train", *arguments, "--out", str(folder)]) == 0
    assert {path.stem for path in (folder / "figures").iterdir()} == {"reconstructions", "samples", "curves"}
    notes = [line for line in capsys.readouterr().err.splitlines() if "not a log-likelihood" in line]
    assert len(notes) == 1


MINE = """title = "Mine"
[common]
hidden = [8]
epochs = 1
binarization = "threshold"
[models.a]
latent_dim = 2
published = {elbo_nats = -30.0}
[models.b]
model = "autoencoder"
"""


def test_study(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text(MINE)
    out = tmp_path / "study"
    command = ["study", str(tmp_path / "mine.toml"), "--out", str(out), "--device", "cpu"]
    assert main([*command, "--only", "b", "--epochs", "2"]) == 0
    assert json.loads((out / "study.json").read_text())["entries"][1]["spec"]["epochs"] == 2
    assert main([*command, "--epochs", "2", "--jobs", "2", "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "| a |" in printed
    assert "(-30)" in printed
    assert "±" in printed
    stored = json.loads((out / "study.json").read_text())
    assert [entry["status"] for entry in stored["entries"]] == ["done", "done"]
    assert stored["command"].splitlines()[-1].endswith(f"--out {out} --epochs=2 --seeds=2")
    assert main(["report", str(out)]) == 0


def test_a_study_tells_of_failures_at_the_end(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text(MINE + "[models.bad]\nlr = 1e30\n")
    assert main(["study", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "study"), "--quiet"]) == 1
    assert "pyro-vae: bad failed: bad, seed 0: FloatingPointError" in capsys.readouterr().err.splitlines()[-1]
    stored = json.loads((tmp_path / "study" / "study.json").read_text())
    assert [entry["status"] for entry in stored["entries"]] == ["done", "done", "failed"]
    assert len(stored["figures"]) == 3  # of those that are done


def test_a_study_that_is_stopped_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.toml").write_text(MINE)
    command = ["study", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "study"), "--quiet", "--only", "b"]

    def stopped(self, timeout_seconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Processes, "wait", stopped)
        assert main(command) == 1
    assert capsys.readouterr().err == "pyro-vae: stopped; finished work is saved; the same command resumes it\n"
    assert main(command) == 0


def test_studies_are_listed_with_their_cost(capsys):
    assert main(["study", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(NAMES)
    assert all("models; " in line for line in lines)


def test_an_autoencoder_has_all_pictures_but_samples(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*TRAIN, "--model", "autoencoder", "--epochs", "1", "--out", str(folder)]) == 0
    assert main(["evaluate", str(folder), "--extractor", "none"]) == 0
    assert main(["evaluate", str(folder), "--metrics", "evidence"]) == 2
    assert not (folder / "figures" / "samples.png").exists()
    capsys.readouterr()
    assert main(["sample", str(folder), "--out", str(tmp_path / "a.png")]) == 2
    assert "a deterministic autoencoder has none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--out", "OUT", "--dataset", "mnits"],
            "dataset: given 'mnits', expected one of .*did you mean 'mnist'",
        ),
        (
            ["train", "--out", "OUT", "--dataset", "mnist", "--data-root", "OUT"],
            "data file: given .*pyro-vae data fetch mnist",
        ),
        (["train", "--out", "OUT", "--posterior", "plannar"], "posterior: given 'plannar', .*did you mean 'planar'"),
        (["train", "--out", "OUT", "--latent-dim", "0"], "latent_dim: given 0, expected a whole number of at least 1"),
        (["train", "--out", "OUT", "--epochs", "-2"], "epochs: given -2"),
        (["train", "--out", "OUT", "--batch-size", "x"], "batch_size: given 'x', expected a whole number"),
        (["train", "--out", "OUT", "--beta", "-1"], "beta: given -1.0"),
        (
            ["train", "--out", "OUT", "--network", "conv", "--network.channels", "8,8,8,8"],
            "image_shape: given .1, 8, 8., expected at least 16x16",
        ),
        (["train", "--out", "OUT", "--device", "tpu"], "device: given 'tpu'"),
        (["train", "--out", "OUT", "--device", "meta"], "device: given 'meta', expected auto, cpu, or a device that"),
        (
            ["train", "--out", "OUT", "--batch-size", "100000000000000000000000"],
            r"batch_size: given 10+, expected a whole number from 1 to below",
        ),
        (
            ["train", "--out", "OUT", "--hidden", "100000000000000000000000"],
            r"hidden: given 10+, expected a whole number from 1 to below 2\^63",
        ),
        (
            ["sample", "RUN", "--n", "100000000000000000000000"],
            r"'--n': given '10+', expected a whole number below 2\^63",
        ),
        (["train", "--out", "OUT", "--epocs", "2"], "No such option: --epocs .*--epochs"),
        (["train"], "Missing option '--out'"),
        (["train", "--out", "OUT", "--resume"], "--out: given .*expected a run folder to resume"),
        (["train", "--out", "RUN", "--beta", "2"], "out: given .*expected a new folder: this one holds a run with"),
        (["train", "--out", "FILE/run"], "expected a place that can be read and written"),
        (["train", "--out", "FILE"], "out: given .*expected a folder, or a name that is free"),
        (["evaluate", "OUT"], "run: given .*expected a folder that `pyro-vae train` made"),
        (["evaluate", "RUN", "--metrics", "bounds,evidense"], "metrics: given 'evidense', .*did you mean 'evidence'"),
        (["evaluate", "RUN", "--metrics", ","], "metrics: given ','"),
        (["evaluate", "RUN", "--k", "0"], "--k: given 0"),
        (
            ["evaluate", "RUN", "--metrics", "samples", "--extractor", "none"],
            "--metrics: given 'samples', expected a group",
        ),
        (["evaluate", "RUN", "--evidence-images", "0"], "--evidence-images: given 0"),
        (["evaluate", "RUN", "--anneal", "-1"], "--anneal: given -1"),
        (
            ["evaluate", "RUN", "--anneal", "3"],
            "--metrics: given .*, expected evidence among them, of which --anneal is",
        ),
        (["evaluate", "RUN", "--evidence-images", "3"], "of which --evidence-images is an option"),
        (["evaluate", "RUN", "--extractor", "clasifier"], "did you mean 'classifier'"),
        (
            ["evaluate", "RUN", "--extractor", "inception-2015-12-05", "--weights", "OUT"],
            "weights: given .*from https://",
        ),
        (["evaluate", "RUN", "--n", "9"], "--n: given 9, expected a whole number of at least 10"),
        (["train", "--out", "OUT", "--seed", "99999999999999999999"], "seed: given 99999999999999999999"),
        (["sample", "RUN", "--n", "0"], "n: given 0"),
        (["sample", "RUN", "--n", "four"], "'--n': given 'four', expected a whole number"),
        (["sample", "RUN", "--out", "OUT.xyz"], "picture format: given 'xyz'"),
        (["sample", "RUN", "--out", "FILE/a.png"], "expected a place that can be read and written"),
        (["data", "fetch", "mnits"], "name: given 'mnits', .*did you mean 'mnist'"),
        (["study"], "study: given None, expected one of fashion-14"),
        (["study", "fashoin-14", "--out", "OUT"], "study: given 'fashoin-14', .*did you mean 'fashion-14'"),
        (["study", "ablation"], "--out: given None, expected a folder"),
        (["study", "ablation", "--out", "OUT", "--epochs", "0"], "epochs: given 0"),
        (["study", "ablation", "--out", "OUT", "--dataset", "mnits"], "did you mean 'mnist'"),
        (["study", "ablation", "--out", "OUT", "--seeds", "x"], "'--seeds': given 'x', expected a whole number"),
        (["study", "ablation", "--out", "OUT", "--seeds", "0"], "seeds: given 0"),
        (["study", "ablation", "--out", "OUT", "--only", "vae"], "only: given 'vae', .*did you mean 'vae_d2'"),
        (["study", "ablation", "--out", "OUT", "--data-root", "OUT"], "data fetch mnist"),
        (["study", "ablation", "--out", "FILE"], "out: given .*expected a folder, or a name that is free"),
        (["trian"], "No such command 'trian'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(trained, tmp_path, capsys, arguments, message):
    (tmp_path / "file").write_text("mine")
    names = {"OUT": tmp_path / "out", "RUN": trained, "FILE": tmp_path / "file"}
    for name, path in names.items():
        arguments = [argument.replace(name, str(path)) for argument in arguments]
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(message, error), error
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "size", [["--latent-dim", "1000000000000"], ["--hidden", "3000000000,3000000000"], ["--hidden", f"{2**62}"]]
)
def test_a_model_that_does_not_fit_is_one_line(tmp_path, capsys, size):
    assert main(["train", "--dataset", "digits", *size, "--device", "cpu", "--out", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search("can't allocate memory|size calculation overflowed", line)


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(trained, tmp_path, capsys, monkeypatch):
    original = files.Path.write_bytes

    def full(self, content):
        original(self, content[:100])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(files.Path, "write_bytes", full)
    assert main([*TRAIN, "--epochs", "1", "--out", str(tmp_path / "run"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert len(error.splitlines()) == 1
    assert {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()} == {"spec.json", "environment.json"}


def test_a_damaged_checkpoint_is_one_line(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*TRAIN, "--epochs", "1", "--out", str(folder), "--quiet"]) == 0
    (path,) = (folder / "checkpoint").iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    assert main(["train", "--resume", "--epochs", "2", "--out", str(folder), "--quiet"]) == 2
    assert "checkpoint: given" in capsys.readouterr().err


def test_every_field_of_the_spec_is_an_option(capsys):
    assert main(["train", "--help"]) == 0
    printed = capsys.readouterr().out
    for name in SPEC_FIELDS:
        assert f"--{name.replace('_', '-')} " in printed


def test_help_version_and_lists(capsys):
    for arguments in (["--help"], ["-h"], ["demo", "--help"], ["evaluate", "-h"], ["report", "-h"], ["data", "--help"]):
        assert main(arguments) == 0
        assert "Usage" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pyro-vae {__version__}\n"
    assert main(["data", "list"]) == 0
    assert "digits         here: 1,438 training and 359 test images" in capsys.readouterr().out
    assert main([]) == 2
    captured = capsys.readouterr()
    assert "Usage" in captured.out + captured.err


def test_demo(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "SPEC", replace(demo.SPEC, epochs=2))
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    out = capsys.readouterr().out
    assert "Frechet distance" in out
    assert "pyro-vae sample" in out
    assert len(list((tmp_path / "demo" / "figures").glob("*.png"))) == 5
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0  # again: nothing is left to train


def test_help_and_bad_options_need_no_torch():
    code = "import sys; from pyro_vae.cli.app import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    for arguments in (
        ["train", "--help"],
        ["train", "--out", "x", "--beta", "-1"],
        ["data", "fetch", "x"],
        ["report", "--help"],
        ["report", "x"],
        ["study", "--list"],
        ["study", "--help"],
        ["study", "x"],
        ["--version"],
    ):
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=False)
        assert result.returncode == 0, arguments


def test_python_m_pyro_vae():
    result = subprocess.run(
        [sys.executable, "-m", "pyro_vae", "--version"], capture_output=True, text=True, check=False
    )
    assert result.stdout == f"pyro-vae {__version__}\n"
