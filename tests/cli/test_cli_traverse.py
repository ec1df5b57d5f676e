"""`pyro-vae traverse`: its files, and one line for each mistake."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae import Spec, latent, load_data
from pyro_vae.cli import traverse_files
from pyro_vae.cli.app import main
from pyro_vae.data import binarize
from pyro_vae.evaluation.samples import classifier
from pyro_vae.experiments import run as runs
from pyro_vae.uses.attributes import measured_attributes

OTHERS = ("slant", "height", "thickness", "intensity")
SPEC = {"latent_dim": 4, "hidden": (16,), "binarization": "threshold", "epochs": 3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traverse")
    runs.run(Spec(**SPEC), folder / "run", device="cpu", progress=False)
    runs.run(Spec(**SPEC, model="autoencoder"), folder / "autoencoder", device="cpu", progress=False)
    runs.run(Spec(**SPEC, model="hierarchical"), folder / "two-layers", device="cpu", progress=False)
    pixels = load_data("digits").test.pixels[:60, 0].numpy()
    np.savez(folder / "plain.npz", images=pixels)
    runs.run(Spec(**SPEC, dataset=str(folder / "plain.npz")), folder / "plain", device="cpu", progress=False)
    (folder / "faces").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / "faces" / f"{number:06}.png")
    runs.run(Spec(**SPEC, dataset=str(folder / "faces")), folder / "of-faces", device="cpu", progress=False)
    lines = "".join(f"{i:06}.jpg {1 if pixels[i].mean() > 80 else -1} 1\n" for i in range(60))
    (folder / "attributes.txt").write_text(f"60\nBright Same\n{lines}")
    return folder


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Small pictures, and a classifier that is not trained."""
    monkeypatch.setattr(traverse_files, "PICTURED", 2)
    monkeypatch.setattr(classifier, "_train_classifier", lambda *_: None)
    monkeypatch.setattr(classifier, "_warn_if_at_chance", lambda *_: None)


def traverse(folders, *options, run="run"):
    return main(["traverse", str(folders / run), "--n", "8", "--steps", "5", "--device", "cpu", *options])


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_files(folders, capsys):
    options = ["--attribute", "thickness", "--attribute", "label:3", "--orthogonal-to", "slant", "--range", "1.5"]
    assert traverse(folders, *options) == 0
    out = folders / "run" / "traverse"
    stems = {"thickness", "thickness-orthogonal", "label_3", "label_3-orthogonal"}
    pairs = {f"{stem}.{suffix}" for stem in stems for suffix in ("csv", "png")}
    assert {path.name for path in out.iterdir()} == pairs | {"effects.json", "effects.png"}
    stored = json.loads((out / "effects.json").read_text())
    assert set(stored["directions"]) == {"thickness", "thickness, orthogonal", "label:3", "label:3, orthogonal"}
    direction = stored["directions"]["thickness, orthogonal"]
    assert direction["orthogonal_to"] == ["slant"]
    table = rows_of(out / "thickness-orthogonal.csv")
    assert len(table) == 8 * 5
    # The images of the table are those that the model decodes on the line through the code.
    model, (_, test) = runs.open_model(folders / "run"), load_data("digits")
    row = table[6]
    index, step = int(row["test_index"]), int(row["step"])
    assert (row["class"], step, row["amount_sd"]) == (str(test.labels[index].item()), 1, "-0.75")
    start = latent.codes(model, binarize(test.take(torch.tensor([index])), "threshold"), device="cpu")
    z = start + direction["amounts"][step] * torch.tensor([direction["vector"]])
    image = latent.decode_codes(model, z.float())
    for name, values in measured_attributes(image).items():
        assert float(row[name]) == pytest.approx(values.item(), rel=1e-3, abs=1e-4)
    log_prior = torch.distributions.Normal(0, 1).log_prob(z).sum().item()
    assert float(row["log_prior_nats"]) == pytest.approx(log_prior, rel=1e-4)
    # The summary is that of the table.
    kept = [row["class"] == row["predicted_class"] for row in table if row["step"] == "4"]
    assert direction["class_kept"][4] == pytest.approx(np.mean(kept))
    widths = np.array([float(row["width"]) for row in table]).reshape(8, 5)
    sign = np.sign((widths[:, -1] - widths[:, 0]).mean())
    assert np.sign(direction["effects"]["width"]["change_sd"]) == sign
    assert "label:3" in direction["effects"]
    kept = direction["class_kept"]
    printed = capsys.readouterr().out
    assert "class kept" in printed
    assert f"{kept[2]:.0%}, at the ends {min(kept[0], kept[4]):.0%}" in " ".join(printed.split())


def test_attributes_of_a_file(folders, capsys):
    options = ["--attribute", "Bright", "--attributes", str(folders / "attributes.txt")]
    assert traverse(folders, *options, run="of-faces") == 0
    captured = capsys.readouterr()
    # The pictures have no labels.
    assert "classes are left out, as with --no-classify: a classifier takes a data set with labels" in captured.err
    assert "extractor" not in captured.err
    assert "class kept" not in captured.out
    stored = json.loads((folders / "of-faces" / "traverse" / "effects.json").read_text())["directions"]["Bright"]
    assert stored["effects"]["intensity"]["change_sd"] > 0
    assert "class_kept" not in stored
    assert rows_of(folders / "of-faces" / "traverse" / "Bright.csv")[0]["class"] == ""


def test_without_a_classifier(folders, capsys):
    out = folders / "quiet"
    assert traverse(folders, "--attribute", "label:3", "--no-classify", "--quiet", "--out", str(out)) == 0
    assert capsys.readouterr().out == ""
    stored = json.loads((out / "effects.json").read_text())["directions"]["label:3"]
    assert set(stored["effects"]) == {"intensity", "thickness", "slant", "width", "height"}
    assert "class_kept" not in stored


def test_a_file_of_another_program_is_left_as_it_is(folders, capsys):
    out = folders / "foreign"
    out.mkdir()
    (out / "effects.json").write_text('{"directions": ["north"]}')
    assert traverse(folders, "--attribute", "slant", "--no-classify", "--out", str(out)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--out: given" in line
    assert [path.name for path in out.iterdir()] == ["effects.json"]


def test_a_collapsed_model_has_a_note(folders, capsys):
    runs.run(Spec(**SPEC | {"beta": 1000.0, "lr": 1e-2}), folders / "collapsed", device="cpu", progress=False)
    assert traverse(folders, "--attribute", "slant", "--no-classify", run="collapsed") == 0
    err = capsys.readouterr().err
    assert "note: no dimension of the code of" in err
    assert "images hardly change, and rank correlations say nothing" in err


def test_the_folder_has_the_files_of_one_call(folders):
    out = folders / "twice"
    options = ["--no-classify", "--quiet", "--out", str(out)]
    assert traverse(folders, "--attribute", "thickness", "--orthogonal-to", "width", *options) == 0
    (out / "notes.txt").write_text("mine")
    assert traverse(folders, "--attribute", "slant", *options) == 0
    written = {"slant.csv", "slant.png", "effects.json", "effects.png"}
    assert {path.name for path in out.iterdir()} == written | {"notes.txt"}


LONG = "x" * 60


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (
            "width Same",
            ["--attribute", "width"],
            "--attributes: given \"the attribute 'width'\", expected names other than intensity",
        ),
        (
            "Bright width",
            ["--attribute", "Bright"],
            "given \"the attribute 'width'\"",
        ),  # which would be the measured one
        ("label:3 Same", ["--attribute", "label:3"], "given \"the attribute 'label:3'\""),
        ("effects Same", ["--attribute", "effects"], "--attribute: given 'effects', expected a name whose files"),
        (f"{LONG}1 {LONG}2", ["--attribute", f"{LONG}1", "--attribute", f"{LONG}2"], f"{LONG}.csv, are its alone"),
        ("A+ a*", ["--attribute", "A+", "--attribute", "a*"], "--attribute: given 'a*', expected a name whose files"),
        (
            "A A-orthogonal",
            ["--attribute", "A-orthogonal", "--attribute", "A", "--orthogonal-to", "width"],
            "--attribute: given 'A', expected a name whose files, such as A-orthogonal.csv, are its alone",
        ),
    ],
)
def test_names_in_a_file_that_would_replace_others(folders, capsys, tmp_path, names, options, message):
    lines = "".join(f"{i:06}.jpg {1 if i % 2 else -1} {1 if i % 3 else -1}\n" for i in range(60))
    (tmp_path / "attributes.txt").write_text(f"60\n{names}\n{lines}")
    options = ["--attributes", str(tmp_path / "attributes.txt"), *options, "--no-classify"]
    assert traverse(folders, *options, "--out", str(tmp_path / "refused"), run="of-faces") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "refused").exists()


def test_the_files_of_a_long_name_and_its_orthogonal_direction(folders, tmp_path):
    lines = "".join(f"{i:06}.jpg {1 if i % 2 else -1}\n" for i in range(60))
    (tmp_path / "attributes.txt").write_text(f"60\n{LONG}\n{lines}")
    options = ["--attribute", LONG, "--orthogonal-to", "width", "--attributes", str(tmp_path / "attributes.txt")]
    assert traverse(folders, *options, "--no-classify", "--out", str(tmp_path / "out"), run="of-faces") == 0
    assert {path.stem for path in (tmp_path / "out").glob("*.csv")} == {LONG, f"{LONG}-orthogonal"}


@pytest.mark.parametrize(
    ("options", "run", "message"),
    [
        (["--attribute", "thicknes"], "run", "--attribute: given 'thicknes', expected one of intensity, thickness"),
        (["--attribute", "label:11"], "run", "--attribute: given 'label:11', expected one of label:0"),
        (["--attribute", "label:11"], "run", "label:8, label:9\n"),
        (["--attribute", "label:3"], "plain", "--attribute: given 'label:3', expected another attribute than a label"),
        (["--attribute", "Bright"], "of-faces", "or a name in the file that --attributes names"),
        (["--attribute", "Bright", "--attributes", "FILE"], "run", "dataset: given 'digits', expected a folder"),
        (["--attribute", "Dark", "--attributes", "FILE"], "of-faces", "expected one of intensity"),
        (
            ["--attribute", "Same", "--attributes", "FILE"],
            "of-faces",
            "--attribute: given 'Same', expected one that differs",
        ),
        (["--attribute", "width", "--attributes", "nowhere"], "of-faces", "attribute file: given 'nowhere'"),
        (
            ["--attribute", "width", "--orthogonal-to", "depth"],
            "run",
            "--orthogonal-to: given 'depth', expected one of",
        ),
        (
            ["--attribute", "width", "--orthogonal-to", "width"],
            "run",
            "--orthogonal-to: given 'width', expected another attribute than the one that is to change",
        ),
        (["--attribute", "width"], "two-layers", "expected a VAE or another module with `encode`"),
        (["--attribute", "width", "--method", "pca"], "run", "--method: given 'pca'"),
        (["--attribute", "width", "--steps", "4"], "run", "--steps: given 4"),
        (["--attribute", "width", "--range", "0"], "run", "--range: given 0"),
        (["--attribute", "width", "--n", "0"], "run", "--n: given 0"),
        (["--attribute", "width"], "autoencoder", "model: given 'Autoencoder', expected a model with a prior"),
        (["--attribute", "width"], "nothing", "run: given"),
        ([], "run", "attribute"),
        (
            ["--attribute", "width", *(f"--orthogonal-to={name}" for name in OTHERS)],
            "run",
            "--orthogonal-to: given 'slant, height, thickness, intensity', expected fewer than the 4",
        ),
    ],
)
def test_bad_input_is_one_line(folders, capsys, options, run, message):
    options = [str(folders / "attributes.txt") if option == "FILE" else option for option in options]
    assert traverse(folders, *options, "--no-classify", "--out", str(folders / "refused"), run=run) == 2
    (line,) = capsys.readouterr().err.splitlines(keepends=True)
    assert message in line
    assert not (folders / "refused").exists()
