"""The command line on a user's own machine: their files, names, shells and settings."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest

from pyro_vae import Spec, evaluation, load_data
from pyro_vae._utils.checks import InputError
from pyro_vae.cli.app import main
from pyro_vae.evaluation.samples import classifier
from pyro_vae.experiments import run
from pyro_vae.experiments.figures import of_run as run_figures

SMALL = ["--latent-dim", "2", "--hidden", "8", "--binarization", "threshold", "--epochs", "1", "--device", "cpu"]


def images(path, n=20, labels=None, **more):
    pixels = np.random.default_rng(0).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    np.savez(path, images=pixels, **({} if labels is None else {"labels": np.arange(n) % labels}), **more)
    return path


def trained(folder, dataset, **fields):
    spec = Spec(dataset=str(dataset), latent_dim=2, hidden=(8,), binarization="threshold", epochs=1)
    run.run(replace(spec, **fields), folder, device="cpu", progress=False)
    return folder


def stored(folder):
    return set(json.loads((folder / "metrics.json").read_text()))


# --- data that changed, or moved ------------------------------------------------------------------------------------


def test_data_that_changed_are_refused_in_one_line(tmp_path, capsys):
    run = trained(tmp_path / "run", images(tmp_path / "mine.npz"))
    images(tmp_path / "mine.npz", 25)
    for command in (["evaluate", str(run)], ["train", "--resume", "--epochs", "2", "--out", str(run)]):
        assert main([*command, "--device", "cpu"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "23 training images" in line
        assert "expected the 18 training images" in line
    assert not (run / "metrics.json").exists()


def test_data_that_moved_are_named_by_an_option(tmp_path, capsys):
    path = images(tmp_path / "mine.npz")
    run = trained(tmp_path / "run", path)
    path.rename(tmp_path / "moved.npz")
    longer = ["train", "--resume", "--epochs", "2", "--out", str(run), "--quiet"]
    for command in (["evaluate", str(run)], longer):
        assert main([*command, "--device", "cpu"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "--dataset PATH says where they are" in line
    here = ["--dataset", str(tmp_path / "moved.npz"), "--device", "cpu"]
    assert main(["evaluate", str(run), "--metrics", "bounds", *here]) == 0
    assert "elbo_nats" in stored(run)
    assert main([*longer, *here]) == 0
    images(tmp_path / "other.npz", 21)
    for command in (["evaluate", str(run)], longer):
        assert main([*command, "--dataset", str(tmp_path / "other.npz"), "--device", "cpu"]) == 2
        assert "the data have changed" in capsys.readouterr().err


def test_a_run_that_does_not_tell_its_images_says_so(tmp_path, capsys):
    run = trained(tmp_path / "run", images(tmp_path / "mine.npz"))
    (run / "environment.json").write_text("{}")
    assert main(["evaluate", str(run), "--metrics", "bounds", "--device", "cpu"]) == 0
    assert "note: whether these are the images" in capsys.readouterr().err


# --- one part that can't be done takes no other with it --------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "labels", "reason"),
    [
        (120, None, "samples: extractor: given 'classifier', expected a data set with labels, which mine lacks"),
        (30, 3, "samples: test images: given 3, expected at least 10"),
        (200, 1, "samples: extractor: given 'classifier', expected training images of at least 2 classes"),
        (10, 2, "codes: test images: given 1, expected at least 2"),
    ],
)
def test_groups_that_can_be_done_are_done(tmp_path, capsys, n, labels, reason):
    run = trained(tmp_path / "run", images(tmp_path / "mine.npz", n, labels))
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith(f"pyro-vae: left out: {reason}") for line in lines)
    assert "elbo_nats" in stored(run)
    assert ("active_units" in stored(run)) == (n > 10)
    assert main(["evaluate", str(run), "--metrics", reason.split(":")[0], "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pyro-vae: {reason}")


def test_a_mistake_in_one_group_comes_after_the_others(tmp_path, monkeypatch):
    run = trained(tmp_path / "run", images(tmp_path / "mine.npz"))
    original = evaluation.evaluate

    def measured(*args, metrics, **options):
        if metrics == ["bounds"]:
            raise RuntimeError("a mistake of ours")
        return original(*args, metrics=metrics, **options)

    monkeypatch.setattr(evaluation, "evaluate", measured)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main(["evaluate", str(run), "--metrics", "bounds,codes", "--device", "cpu"])
    assert "active_units" in stored(run)


def test_an_autoencoder_has_the_groups_without_a_prior(tmp_path, capsys):
    run = trained(tmp_path / "run", images(tmp_path / "mine.npz"), model="autoencoder")
    assert main(["evaluate", str(run), "--metrics", "bounds,evidence,samples", "--device", "cpu"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert [line.split(": ")[2] for line in lines] == ["evidence", "samples"]
    assert "mse_per_pixel" in stored(run)


@pytest.mark.filterwarnings("default")
def test_the_cache_is_optional(tmp_path, capsys, monkeypatch):
    run = trained(tmp_path / "run", images(tmp_path / "mine.npz", 120, 2))
    monkeypatch.setattr(classifier, "_train_classifier", lambda *_: None)
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYRO_VAE_CACHE", str(tmp_path / "file" / "cache"))
    assert main(["evaluate", str(run), "--metrics", "samples", "--device", "cpu"]) == 0
    assert "frechet" in stored(run)
    notes = [line for line in capsys.readouterr().err.splitlines() if "nothing is kept in the cache" in line]
    assert len(notes) == 1  # of the classifier, features and scores together


@pytest.mark.filterwarnings("default")
def test_a_figure_that_fails_takes_nothing_with_it(tmp_path, capsys, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("cannot be drawn")

    monkeypatch.setattr(run_figures, "latent_scatter", failing)
    path = images(tmp_path / "mine.npz")
    assert main(["train", "--dataset", str(path), *SMALL, "--out", str(tmp_path / "run")]) == 0
    assert {"elbo_nats", "active_units"} <= stored(tmp_path / "run")
    figures = {file.stem for file in (tmp_path / "run" / "figures").iterdir()}
    assert figures >= {"reconstructions", "samples", "curves", "interpolation"}
    assert "note: figure latent.png is left out: RuntimeError: cannot be drawn" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("arrays", "options"),
    [
        ({"x_train": np.zeros((12, 8, 8), np.uint8), "x_test": np.zeros((12, 8, 8), np.uint8)}, {}),
        ({"x_train": np.ones((12, 8, 8)), "x_test": np.zeros((1, 8, 8), np.uint8)}, {"latent_dim": 1}),
    ],
    ids=["black", "one test image"],
)
def test_odd_data_are_trained_and_evaluated(tmp_path, arrays, options):
    np.savez(tmp_path / "odd.npz", **arrays)
    run = trained(tmp_path / "run", tmp_path / "odd.npz", **options)
    assert (
        main(["evaluate", str(run), "--metrics", "bounds,codes,evidence,samples", "--k", "5", "--device", "cpu"]) == 0
    )
    assert "elbo_nats" in stored(run)
    assert main(["report", str(run)]) == 0


# --- names, shells, settings ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["e[/b]<i>&", "a$b $\\frac$", "-x\ny", "日本 ü :smile:", "n" * 200])
def test_names_are_data(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    images(tmp_path / f"{name.replace('/', '')}.npz", 24, 2)
    dataset = f"--dataset={name.replace('/', '')}.npz"
    assert main(["train", dataset, *SMALL, f"--out={name}", "--quiet"]) == 0
    assert main(["evaluate", "--metrics", "bounds", "--device", "cpu", "--", name]) == 0
    assert main(["sample", "--n", "4", f"--out={name}/a.png", "--", name]) == 0
    assert main(["report", "--", name]) == 0
    captured = capsys.readouterr()
    assert "left out" not in captured.err
    assert len(list((tmp_path / name / "figures").iterdir())) == 7
    assert "<i>&" not in (tmp_path / name / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_an_output_cannot_encode_is_spelled(tmp_path, monkeypatch, encoding):
    run = trained(tmp_path / "run", images(tmp_path / "mine.npz"))
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["evaluate", str(run), "--metrics", "bounds", "--device", "cpu"]) == 0
    assert ("+-" if encoding == "ascii" else "±") in stream.buffer.getvalue().decode(encoding)


def test_a_reader_that_has_gone_stops_nothing(tmp_path, monkeypatch, capsys):
    class Pipe(io.TextIOWrapper):
        def write(self, text):
            raise BrokenPipeError

    run = trained(tmp_path / "run", images(tmp_path / "mine.npz"))
    monkeypatch.setattr(sys, "stdout", Pipe(io.BytesIO()))
    assert main(["evaluate", str(run), "--metrics", "bounds,codes", "--device", "cpu"]) == 0
    assert {"elbo_nats", "active_units"} <= stored(run)
    assert main(["study", "--list"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_streams_that_are_not_there(tmp_path, monkeypatch, stream):
    path = images(tmp_path / "mine.npz")
    monkeypatch.setattr(sys, stream, None)
    assert main(["train", "--dataset", str(path), *SMALL, "--out", str(tmp_path / "run")]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--metrics", "evidence", "--k", "5", "--device", "cpu"]) == 0
    assert main(["evaluate", str(tmp_path / "no")]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--out="],
        ["train", "--out", " "],
        ["train", "--out=x", "--data-root="],
        ["study", "ablation", "--out="],
        ["evaluate", ""],
        ["evaluate", "x", "--weights="],
        ["sample", "x", "--out="],
        ["report", "x", "--out="],
        ["demo", "--out="],
    ],
)
def test_an_empty_path_is_no_path(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "given '" in line
    assert "expected a path" in line
    assert not list(tmp_path.iterdir())


def test_a_home_folder_is_found_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    images(tmp_path / "mine.npz")
    assert main(["train", "--dataset=~/mine.npz", *SMALL, "--out=~/run", "--quiet"]) == 0
    assert run.read_spec(tmp_path / "run").dataset == str(tmp_path / "mine.npz")
    assert main(["evaluate", "~/run", "--metrics=codes", "--dataset=~/mine.npz", "--device=cpu", "--quiet"]) == 0
    assert main(["sample", "~/run", "--out=~/a.png"]) == 0
    assert main(["report", "~/run", "--out=~/a.html"]) == 0
    assert not list((tmp_path / "work").iterdir())
    assert {"a.png", "a.html", "run"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("backend", ["module://not_there.backend", "tkagg", "nonsense"])
def test_an_inherited_plotting_backend_need_not_be_there(tmp_path, backend):
    """As a notebook leaves it to the commands that it starts; a report has figures and needs no torch."""
    (tmp_path / "spec.json").write_text("{}")
    epochs = "epoch,train_loss_nats\n1,3.0\n2,2.0\n"
    (tmp_path / "history.csv").write_text(epochs)
    code = (
        "import os, sys; from pyro_vae.cli import main; sys.exit(main(sys.argv[1:]) or os.environ['MPLBACKEND'] == '')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "report", str(tmp_path)],
        env=os.environ | {"MPLBACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "image/svg+xml" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("action", ["error", "ignore"])
def test_inherited_filters_of_warnings_leave_notes_as_they_are(tmp_path, capsys, action):
    path = images(tmp_path / "mine.npz")
    grey = ["--latent-dim", "2", "--hidden", "8", "--epochs", "1", "--device", "cpu", "--quiet"]
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        filters = list(warnings.filters)
        assert main(["train", "--dataset", str(path), *grey, "--out", str(tmp_path / "run")]) == 0
        assert warnings.filters == filters
    assert "pyro-vae: note: grey pixels" in capsys.readouterr().err


def test_a_training_that_is_stopped_says_what_to_do(tmp_path, capsys, monkeypatch):
    run = trained(tmp_path / "run", images(tmp_path / "mine.npz"))

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate", stopped)
    assert main(["evaluate", str(run), "--device", "cpu"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("the same command resumes it")


def test_quiet_says_nothing(tmp_path, capsys):
    path = images(tmp_path / "mine.npz")
    assert main(["train", "--dataset", str(path), *SMALL, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--metrics", "bounds", "--device", "cpu", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    shutil.rmtree(tmp_path / "run")
    assert main(["train", "--dataset", str(path), *SMALL, "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err.startswith("epoch 1 of 1: ")


# --- what is refused before the work ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "18446744073709551616"], "seed.*given '18446744073709551616', expected a whole number"),
        (["--seed", "-1"], "seed.*given -1"),
        (["--dataset", ""], "dataset: given '', expected a name or a path"),
        (["--dataset", "~nobody-of-that-name/x.npz"], "dataset: given '~nobody-of-that-name/x.npz', expected"),
    ],
)
def test_evaluate_refuses_in_one_line(tmp_path, capsys, monkeypatch, options, message):
    run = trained(tmp_path / "run", "digits")
    if "--seed" in options:
        monkeypatch.setattr("pyro_vae.experiments.run.open_run", lambda *_, **__: pytest.fail("the work was begun"))
    assert main(["evaluate", str(run), "--metrics", "bounds", "--device", "cpu", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line
    assert not (run / "metrics.json").exists()


def test_the_home_of_nobody_is_refused_in_one_line(tmp_path, capsys):
    assert main(["train", "--dataset", "~nobody-of-that-name/x.npz", "--out", str(tmp_path / "run")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    for name in ("", "~nobody-of-that-name/x.npz"):
        with pytest.raises(InputError, match="dataset: given"):
            load_data(name)


def test_odd_metrics_are_noticed_before_the_work(tmp_path, capsys, monkeypatch):
    run = trained(tmp_path / "run", "digits")
    (run / "metrics.json").write_text('{"elbo_nats": 1, "provenance": 5}')
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: pytest.fail("the work was begun"))
    assert main(["evaluate", str(run), "--metrics", "bounds", "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "metrics: given" in line
