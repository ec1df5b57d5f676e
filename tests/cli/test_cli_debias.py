"""`pyro-vae debias`: its files, and one line for each mistake; `train --sampler`."""

import csv
import json

import numpy as np
import pytest
import torch

from pyro_vae import Spec, load_data
from pyro_vae.cli.app import main
from pyro_vae.data import binarize
from pyro_vae.experiments import run as runs
from pyro_vae.latent import codes
from pyro_vae.uses.debias import density_weights

SPEC = {"latent_dim": 2, "hidden": (8,), "binarization": "threshold", "epochs": 3, "batch_size": 50}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("debias")
    runs.run(Spec(**SPEC), folder / "run", device="cpu", progress=False)
    np.savez(folder / "plain.npz", images=load_data("digits").test.pixels.numpy())
    collapsed = {"beta": 1000.0, "lr": 1e-2, "dataset": str(folder / "plain.npz")}
    runs.run(Spec(**SPEC | collapsed), folder / "collapsed", device="cpu", progress=False)
    return folder


def debias(folders, *options, run="run"):
    return main(["debias", str(folders / run), "--device", "cpu", *options])


def test_the_files(folders, capsys):
    assert debias(folders, "--bins", "5", "--smoothing", "0.01") == 0
    out = folders / "run" / "debias"
    stem = "max-bins-5-smoothing-0.01"
    assert {path.name for path in out.iterdir()} == {f"{stem}.csv", f"{stem}.json", f"{stem}.png"}
    train = load_data("digits").train
    with (out / f"{stem}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(1438))
    assert [row["class"] for row in rows] == [str(label) for label in train.labels.tolist()]
    weights = torch.tensor([float(row["weight"]) for row in rows], dtype=torch.float64)
    model = runs.open_model(folders / "run")
    expected = density_weights(codes(model, binarize(train, "threshold"), device="cpu"), 5, 0.01)
    torch.testing.assert_close(weights, expected)
    stored = json.loads((out / f"{stem}.json").read_text())
    assert stored["effective_images"] == pytest.approx(1 / weights.square().sum().item())
    seven = stored["by_class"]["7"]
    assert seven["share"] == pytest.approx((train.labels == 7).double().mean().item())
    assert seven["share_of_draws"] == pytest.approx(weights[train.labels == 7].sum().item())
    assert seven["relative_weight"] == pytest.approx(seven["share_of_draws"] / seven["share"])
    assert sum(share["share_of_draws"] for share in stored["by_class"].values()) == pytest.approx(1)
    assert stored["provenance"]["bins"] == 5
    printed = capsys.readouterr().out
    assert "share of draws" in printed
    assert f"{stored['effective_images']:,.0f} effective of 1,438" in printed


def test_without_labels_and_without_active_dimensions(folders, capsys):
    assert debias(folders, run="collapsed") == 0
    captured = capsys.readouterr()
    assert "note: no dimension of the code" in captured.err
    assert "all weights are equal" in captured.err
    with (folders / "collapsed" / "debias" / "max-bins-10-smoothing-0.001.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} == {""}
    assert len({row["weight"] for row in rows}) == 1
    n = len(rows)
    assert f"{n} effective of {n} training images, by 0 of 2 dimensions" in captured.out
    assert (
        json.loads((folders / "collapsed" / "debias" / "max-bins-10-smoothing-0.001.json").read_text())["by_class"]
        == {}
    )


def test_other_options_leave_the_files_of_the_first(folders):
    out = folders / "two"
    for combine in ("max", "product"):
        assert debias(folders, "--combine", combine, "--out", str(out), "--quiet") == 0
    combined = {json.loads(path.read_text())["provenance"]["combine"] for path in out.glob("*.json")}
    assert combined == {"max", "product"}


def test_the_report_of_the_run_shows_the_picture(folders):
    assert debias(folders, "--quiet") == 0
    assert main(["report", str(folders / "run")]) == 0
    assert "Figure of pyro-vae debias" in (folders / "run" / "report.html").read_text()


def test_train_draws_with_weights(folders, tmp_path, capsys):
    command = ["train", "--latent-dim", "2", "--hidden", "8", "--epochs", "1", "--binarization", "threshold"]
    command += ["--out", str(tmp_path / "run"), "--quiet", "--device", "cpu"]
    assert main([*command, "--sampler", "latent-density", "--sampler.bins", "5"]) == 0
    stored = json.loads((tmp_path / "run" / "spec.json").read_text())
    assert stored["sampler"] == {"kind": "latent-density", "bins": 5}
    assert main([*command, "--sampler", "latent-densty"]) == 2
    assert "did you mean 'latent-density'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "run", "message"),
    [
        (["--bins", "0"], "run", "--bins: given 0"),
        (["--bins", "ten"], "run", "given 'ten', expected a whole number"),
        (["--smoothing", "-1"], "run", "--smoothing: given -1.0"),
        (["--smoothing", "nan"], "run", "--smoothing: given nan"),
        (["--combine", "sum"], "run", "--combine: given 'sum', expected one of max, product"),
        ([], "nothing", "run: given"),
    ],
)
def test_bad_input_is_one_line(folders, capsys, options, run, message):
    assert debias(folders, *options, "--out", str(folders / "refused"), run=run) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (folders / "refused").exists()
