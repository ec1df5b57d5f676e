"""`pyro-vae neighbours`: its files, and one line for each mistake."""

import csv
import json

import numpy as np
import pytest
import torch

from pyro_vae import Spec, load_data, plots
from pyro_vae.cli.app import main
from pyro_vae.experiments import run as runs

SPEC = {"latent_dim": 2, "hidden": (8,), "binarization": "threshold", "epochs": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("neighbours")
    runs.run(Spec(**SPEC), folder / "run", device="cpu", progress=False)
    np.savez(folder / "plain.npz", images=load_data("digits").test.pixels.numpy())
    runs.run(Spec(**SPEC, dataset=str(folder / "plain.npz")), folder / "plain", device="cpu", progress=False)
    return folder


def neighbours(folders, *options, run="run"):
    return main(["neighbours", str(folders / run), "--n", "20", "--k", "3", "--device", "cpu", *options])


def test_the_files(folders, capsys):
    assert neighbours(folders) == 0
    out = folders / "run" / "neighbours"
    assert {path.name for path in out.iterdir()} == {"k-3.csv", "k-3.json", "k-3.png"}
    with (out / "k-3.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 20 * 3 * 3
    train, test = load_data("digits")
    for row in table[::7]:
        assert row["class"] == str(test.labels[int(row["test_index"])].item())
        assert row["train_class"] == str(train.labels[int(row["train_index"])].item())
    of_pixels = [row for row in table if row["space"] == "pixels"]
    black = [(each.pixels >= 128).flatten(1).float() for each in (train, test)]
    for row in of_pixels[::7]:
        distance = torch.dist(black[1][int(row["test_index"])], black[0][int(row["train_index"])]).item()
        assert float(row["distance"]) == pytest.approx(distance, abs=1e-5)
    stored = json.loads((out / "k-3.json").read_text())
    shares = [row["class"] == row["train_class"] for row in of_pixels]
    assert stored["retrieval"]["pixels"]["precision"] == pytest.approx(np.mean(shares))
    assert set(stored["retrieval"]) == {"codes", "pixels", "PCA"}
    assert "precision" in capsys.readouterr().out


def test_images_without_labels_have_neighbours(folders, capsys):
    assert neighbours(folders, "--quiet", run="plain") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "has no labels, and so no precision" in captured.err
    assert json.loads((folders / "plain" / "neighbours" / "k-3.json").read_text())["retrieval"] == {}


def test_the_rows_of_the_picture_are_those_of_the_table(folders, monkeypatch):
    drawn = {}
    image_rows = plots.image_rows
    monkeypatch.setattr(plots, "image_rows", lambda rows, *rest: drawn.update(rows) or image_rows(rows, *rest))
    assert neighbours(folders, "--out", str(folders / "named"), "--quiet") == 0
    with (folders / "named" / "k-3.csv").open() as file:
        table = list(csv.DictReader(file))
    first = dict.fromkeys(f"test image {row['test_index']} ({row['class']})" for row in table)
    assert list(drawn) == list(first)[:8]


def test_another_k_leaves_the_files_of_the_first(folders):
    out = folders / "two"
    assert neighbours(folders, "--out", str(out), "--quiet") == 0
    assert neighbours(folders, "--k", "5", "--out", str(out), "--quiet") == 0
    assert {path.name for path in out.glob("*.json")} == {"k-3.json", "k-5.json"}


@pytest.mark.parametrize(
    ("options", "run", "message"),
    [
        (["--k", "0"], "run", "--k: given 0"),
        (["--k", "5000"], "run", "--k: given 5000, expected at most 1438"),
        (["--n", "0"], "run", "--n: given 0"),
        ([], "nothing", "run: given"),
    ],
)
def test_bad_input_is_one_line(folders, capsys, options, run, message):
    assert neighbours(folders, *options, "--out", str(folders / "refused"), run=run) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (folders / "refused").exists()
