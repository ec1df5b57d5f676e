"""`pyro-vae denoise` and `pyro-vae inpaint`: their files, and one line for each mistake."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from pyro_vae import load_data
from pyro_vae.cli.app import main

TRAIN = "train --dataset digits --binarization threshold --latent-dim 2 --hidden 16 --epochs 1 --device cpu --quiet"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main([*TRAIN.split(), "--out", str(folder)]) == 0
    return folder


def test_denoise_writes_a_table_a_picture_and_a_summary(trained, capsys):
    options = ["--noise", "salt-and-pepper:0.3", "--n", "12", "--draws", "5", "--steps", "3", "--device", "cpu"]
    assert main(["denoise", str(trained), *options]) == 0
    assert "PSNR, denoised" in capsys.readouterr().out
    base = trained / "denoise" / "salt-and-pepper-0.3"
    rows = list(csv.DictReader(base.with_name(f"{base.name}.csv").read_text().splitlines()))
    summary = json.loads(base.with_name(f"{base.name}.json").read_text())
    assert len(rows) == 12
    for column, mean in summary["means"].items():
        assert mean["value"] == pytest.approx(sum(float(row[column]) for row in rows) / 12, rel=1e-4)
    assert summary["provenance"]["noise"] == "salt-and-pepper:0.3"
    with Image.open(base.with_name(f"{base.name}.png")) as picture:
        assert picture.size[0] > 100


def test_the_noise_is_that_of_the_models_training_unless_another_is_asked_for(tmp_path, capsys):
    options = ["--model", "denoising", "--model.noise", "salt-and-pepper:0.2", "--out", str(tmp_path / "run")]
    assert main([*TRAIN.split(), *options]) == 0
    denoise = ["denoise", str(tmp_path / "run"), "--n", "3", "--draws", "5", "--steps", "2", "--device", "cpu"]
    capsys.readouterr()
    assert main([*denoise, "--method", "encoder"]) == 0
    assert capsys.readouterr().err == ""
    summary = json.loads((tmp_path / "run" / "denoise" / "salt-and-pepper-0.2-encoder.json").read_text())
    assert summary["provenance"]["noise"] == "salt-and-pepper:0.2"
    assert main([*denoise, "--method", "encoder", "--noise", "gaussian:0.5"]) == 0
    (note,) = capsys.readouterr().err.splitlines()
    assert "note: the encoder was trained on salt-and-pepper:0.2, not on noise gaussian:0.5: " in note
    assert main([*denoise, "--noise", "gaussian:0.5"]) == 0  # a fitted q is of any noise
    assert capsys.readouterr().err == ""


def test_images_that_the_noise_leaves_as_they_are_have_a_note(trained, capsys):
    few = ["--draws", "3", "--steps", "2", "--device", "cpu"]
    assert main(["denoise", str(trained), "--noise", "salt-and-pepper:0.0001", "--n", "4", *few]) == 0
    captured = capsys.readouterr()
    assert "note: the noise left 4 of 4 images as they were: the PSNR of these counts as 100 decibels" in captured.err
    assert "100.000 ± 0.000" in captured.out


def test_an_encoder_of_clean_images_has_a_note(trained, capsys):
    options = ["--method", "encoder", "--n", "3", "--draws", "5", "--device", "cpu"]
    assert main(["denoise", str(trained), *options]) == 0
    (note,) = capsys.readouterr().err.splitlines()
    assert "note: the encoder was trained on clean images, not on noise gaussian:0.3: " in note
    assert (trained / "denoise" / "gaussian-0.3-encoder.csv").is_file()


@pytest.mark.parametrize(
    ("method", "measure"),
    [
        ("importance", "effective_samples"),
        ("adaptive-importance", "effective_samples"),
        ("metropolis", "acceptance"),
        ("collapsed-metropolis", "acceptance"),
    ],
)
def test_inpaint_writes_a_table_a_picture_and_a_summary(trained, capsys, method, measure):
    options = ["--mask", "random:0.4", "--method", method, "--n", "12", "--draws", "3", "--steps", "3"]
    assert main(["inpaint", str(trained), *options, "--codes", "9", "--device", "cpu"]) == 0
    assert "RMSE of the mean" in capsys.readouterr().out
    files = {path.suffix: path for path in (trained / "inpaint").glob(f"random-0.4-{method}.*")}
    rows = list(csv.DictReader(files[".csv"].read_text().splitlines()))
    assert list(rows[0]) == ["index", "class", "rmse_of_mean", "rmse_of_draw", measure]
    test = load_data("digits").test
    assert [int(row["index"]) for row in rows] == test.draw_index(12).tolist()
    assert all(row["class"] == str(test.labels[int(row["index"])].item()) for row in rows)
    assert len(rows) == 12
    summary = json.loads(files[".json"].read_text())
    assert summary["provenance"]["mask"] == "random:0.4"
    assert 0 < summary["means"]["rmse_of_mean"]["value"] < summary["means"]["rmse_of_draw"]["value"] < 1
    with Image.open(files[".png"]) as picture:
        assert picture.size[0] > 100


def test_inpaint_estimates_the_log_score_if_asked(trained, tmp_path, capsys):
    options = ["--log-score", "--n", "6", "--draws", "2", "--steps", "3", "--codes", "9", "--device", "cpu"]
    assert main(["inpaint", str(trained), *options, "--out", str(tmp_path)]) == 0
    assert "log-score, nats" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "top-importance.csv").read_text().splitlines()))
    assert all(float(row["log_score_nats"]) < 0 < float(row["log_score_mcse_nats"]) for row in rows)


def test_files_are_named_after_the_file_of_a_mask(trained, tmp_path):
    np.save(tmp_path / "corner.npy", np.eye(8))
    options = ["--mask", str(tmp_path / "corner.npy"), "--n", "2", "--draws", "2", "--steps", "2", "--codes", "4"]
    assert main(["inpaint", str(trained), *options, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"corner-importance.{suffix}" for suffix in ("csv", "json", "png")}


def test_a_model_that_can_not_denoise_is_refused_before_any_note(tmp_path, capsys):
    """A Bernoulli likelihood of grey pixels has a note."""
    options = ["--model", "autoencoder", "--binarization", "none", "--out", str(tmp_path / "run")]
    assert main([*TRAIN.split(), *options]) == 0
    capsys.readouterr()
    assert main(["denoise", str(tmp_path / "run"), "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model: given 'Autoencoder'" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--noise", "gaussian:-1"], "--noise: given 'gaussian:-1', expected numbers in their range (sd of Gaussian"),
        (["--noise", "blur:100"], "--noise: given 'blur:100:0.05', expected a blur of at most 8 pixels"),
        (["--noise", "speckle:0.1"], "--noise: given 'speckle', expected one of gaussian, salt-and-pepper, blur"),
        (["--n", "0"], "--n: given 0"),
        (["--draws", "0"], "--draws: given 0"),
        (["--method", "median"], "--method: given 'median', expected one of importance, encoder"),
        (["--out", "FILE"], "expected a place that can be read and written"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(trained, tmp_path, capsys, options, message):
    (tmp_path / "file").write_text("mine")
    options = [option.replace("FILE", str(tmp_path / "file")) for option in options]
    assert main(["denoise", str(trained), "--steps", "1", "--device", "cpu", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mask", "bottom"], "--mask: given 'bottom', expected top, left, center"),
        (["--mask", "random:0"], "--mask: given 'random:0', expected random:SHARE"),
        (["--mask", "SMALL"], "(4, 4)', expected (8, 8), the height and width of the images"),
        (["--mask", "EMPTY"], "--mask: given 'a mask that hides no pixel'"),
        (["--mask", "missing.npy"], "--mask: given 'missing.npy', expected an existing file with a mask"),
        (
            ["--method", "gibbs"],
            "--method: given 'gibbs', expected one of importance, adaptive-importance, metropolis",
        ),
        (["--mask", "NAN"], "NAN.npy with NaN or infinity', expected finite numbers"),
        (["--codes", "0"], "--codes: given 0"),
        (["--codes", "1", "--log-score"], "--codes: given 1, expected a whole number of at least 2, for the log-score"),
    ],
)
def test_bad_input_of_inpaint_is_one_line_and_exit_code_2(trained, tmp_path, capsys, options, message):
    for name, array in {"SMALL": np.ones((4, 4)), "EMPTY": np.ones((8, 8)), "NAN": np.diag([np.nan] * 8)}.items():
        np.save(tmp_path / f"{name}.npy", array)
        options = [option.replace(name, str(tmp_path / f"{name}.npy")) for option in options]
    assert main(["inpaint", str(trained), "--steps", "1", "--device", "cpu", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
