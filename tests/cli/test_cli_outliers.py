"""`pyro-vae outliers`: its files, and one line for each mistake."""

import csv
import json

import numpy as np
import pytest

from pyro_vae import Spec, load_data
from pyro_vae.cli.app import main
from pyro_vae.experiments import run as runs
from pyro_vae.uses.detection import detection

SPEC = {"latent_dim": 2, "hidden": (8,), "binarization": "threshold", "epochs": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run, one of another seed, an autoencoder, and two data sets, of which one has another shape."""
    folder = tmp_path_factory.mktemp("outliers")
    for name, fields in {"run": {}, "seed-1": {"seed": 1}, "autoencoder": {"model": "autoencoder"}}.items():
        runs.run(Spec(**SPEC | fields), folder / name, device="cpu", progress=False)
    flipped = load_data("digits").test.pixels.flip(2).numpy()
    np.savez(folder / "flipped.npz", x_train=flipped[:5], x_test=flipped)
    np.savez(folder / "large.npz", images=np.full((20, 9, 9), 200, np.uint8))
    return folder


def outliers(folders, *options, run="run", against="flipped.npz"):
    there = [str(folders / run), "--against", str(folders / against)]
    return main(["outliers", *there, "--n", "40", "--k", "5", "--device", "cpu", *options])


def test_the_files(folders, capsys):
    scores = ["elbo", "nll", "complexity", "codes", "ratio", "waic"]
    models = ["--background", str(folders / "seed-1"), "--ensemble", str(folders / "seed-1")]
    assert outliers(folders, "--scores", ",".join(scores), *models) == 0
    out = folders / "run" / "outliers"
    assert {path.name for path in out.iterdir()} == {
        "flipped.csv",
        "flipped.json",
        "flipped-roc.png",
        "flipped-most-outlying.png",
        "flipped-pixels.png",
    }
    with (out / "flipped.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["set"] for row in rows] == ["held out"] * 40 + ["inliers"] * 40 + ["outliers"] * 40
    assert list(rows[0]) == ["set", "index", "class", *scores]
    assert not {row["index"] for row in rows[:40]} & {row["index"] for row in rows[40:80]}
    labels = load_data("digits").test.labels
    assert all(row["class"] == str(labels[int(row["index"])].item()) for row in rows[:80])
    stored = json.loads((out / "flipped.json").read_text())
    assert list(stored["scores"]) == scores
    inlying, outlying = ([float(row["nll"]) for row in rows if row["set"] == name] for name in ("inliers", "outliers"))
    assert stored["scores"]["nll"]["auroc"] == detection(inlying, outlying, resamples=2).auroc
    limit = stored["scores"]["nll"]["threshold"]
    assert stored["scores"]["nll"]["true_positive_rate"] == np.mean(np.array(outlying) > limit)
    assert stored["provenance"]["images"]["outliers"]["n"] == 40
    assert "AUROC" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_scores(folders):
    for name in ("a", "b"):
        assert outliers(folders, "--scores", "elbo", "--out", str(folders / name), "--quiet") == 0
    assert (folders / "a" / "flipped.csv").read_bytes() == (folders / "b" / "flipped.csv").read_bytes()


def test_another_set_leaves_the_files_of_the_first(folders):
    out = folders / "two-sets"
    options = ["--scores", "codes", "--out", str(out), "--quiet"]
    assert outliers(folders, *options) == 0
    first = (out / "flipped.json").read_bytes()
    np.savez(folders / "also.npz", images=load_data("digits").test.pixels.flip(3).numpy())
    assert outliers(folders, *options, against="also.npz") == 0
    assert (out / "flipped.json").read_bytes() == first
    assert len(list(out.iterdir())) == 10


def test_outliers_that_are_the_test_images_have_a_note(folders, capsys):
    there = [str(folders / "run"), "--against", "digits", "--out", str(folders / "same")]
    assert main(["outliers", *there, "--scores", "codes", "--n", "20", "--device", "cpu", "--quiet"]) == 0
    assert "note: --against digits has the test images of" in capsys.readouterr().err


def test_an_autoencoder_has_its_scores(folders, capsys):
    assert outliers(folders, "--quiet", run="autoencoder") == 0
    stored = json.loads((folders / "autoencoder" / "outliers" / "flipped.json").read_text())
    assert list(stored["scores"]) == ["reconstruction", "codes"]
    assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("options", "names", "message"),
    [
        ([], {"against": "large.npz"}, "--against: given '.*large.npz of shape (1, 9, 9)', expected images of shape"),
        ([], {"against": "nothing"}, "--against: given '.*nothing', expected digits"),
        ([], {"against": "nothing.npz"}, "--against: given '.*nothing.npz', expected digits"),
        ([], {"run": "nothing"}, "run: given"),
        (["--scores", "elbos"], {}, "--scores: given 'elbos', expected one of"),
        (["--scores", ","], {}, "--scores: given ','"),
        (["--scores", "nll,nll"], {}, "--scores: given 'nll,nll', expected each score once"),
        (["--scores", "ratio"], {}, "--background: given None"),
        (["--scores", "waic"], {}, "--ensemble: given None"),
        (["--scores", "nll"], {"run": "autoencoder"}, "model: given 'Autoencoder'"),
        (["--background", "RUN"], {}, "--background: given '.*run', expected another run"),
        (["--ensemble", "RUN"], {}, "--ensemble: given '.*run', expected runs of other seeds than"),
        (["--ensemble", "SEED", "--ensemble", "SEED"], {}, "--ensemble: given '.*seed-1', expected runs of other"),
        (["--n", "1"], {}, "--n: given 1"),
        (["--k", "0"], {}, "--k: given 0"),
        (["--rate", "1"], {}, "--rate: given 1.0"),
        (["--rate", "0.01"], {}, "--rate: given 0.01, expected a rate that 40 held-out test images can tell"),
    ],
)
def test_bad_input_is_one_line(folders, capsys, options, names, message):
    there = {"RUN": str(folders / "run"), "SEED": str(folders / "seed-1")}
    options = [there.get(option, option) for option in options]
    assert outliers(folders, *options, "--out", str(folders / "refused"), **names) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "note:" not in line]
    assert len(lines) == 1
    start, _, end = message.partition(".*")
    assert start in lines[0]
    assert end in lines[0]
    assert not (folders / "refused").exists()
