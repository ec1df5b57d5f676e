"""`pyro-vae denoise`: its files, and one line for each mistake."""

import csv
import json

import pytest
from PIL import Image

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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--noise", "gaussian:-1"], "sd of Gaussian noise: given -1.0"),
        (["--noise", "speckle:0.1"], "noise: given 'speckle', expected one of gaussian, salt-and-pepper, blur"),
        (["--n", "0"], "--n: given 0"),
        (["--draws", "0"], "--draws: given 0"),
        (["--out", "FILE"], "expected a place that can be read and written"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(trained, tmp_path, capsys, options, message):
    (tmp_path / "file").write_text("mine")
    options = [option.replace("FILE", str(tmp_path / "file")) for option in options]
    assert main(["denoise", str(trained), "--steps", "1", "--device", "cpu", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
