"""`pyro-vae study` with uses: commands on trained models, their table, and their place in the report."""

import csv
import json
import os

import numpy as np
import pytest

from pyro_vae._utils.checks import InputError
from pyro_vae.cli.app import main
from pyro_vae.cli.provenance import run_name
from pyro_vae.experiments.study import Entry, Study, Use
from pyro_vae.experiments.uses import is_done
from pyro_vae.spec import Spec

STUDY = """
from pyro_vae.experiments.study import Entry, Study, Use
from pyro_vae.spec import Spec

SMALL = Spec(latent_dim=2, hidden=(16,), epochs=1, binarization="threshold")
STUDY = Study(
    "used",
    "A study with uses",
    (Entry("two", SMALL),),
    columns=("kl_per_sample",),
    notes=("`two` has 2 dimensions.",),
    uses=(
        Use("two", "denoise", {"noise": "gaussian:0.3", "n": 6, "draws": 4, "steps": 2}),
        Use("two", "inpaint", {"mask": "MASK", "n": 6, "draws": 4, "steps": 2, "codes": 5}),
        Use("two", "outliers", {"against": "digits", "n": 20, "k": 5, "scores": "elbo"}),
        Use("two", "neighbours", {"k": 3, "n": 10}),
        Use("two", "traverse", {"attribute": ["slant", "width"], "n": 5, "classify": False}),
        Use("two", "debias"),
    ),
)
"""


def write_study(folder, mask):
    path = folder / "used.py"
    path.write_text(STUDY.replace("MASK", mask), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study whose second use fails at first, and is mended then."""
    base = tmp_path_factory.mktemp("study")
    command = ["--out", str(base / "out"), "--metrics", "bounds", "--device", "cpu", "--quiet"]
    assert main(["study", str(write_study(base, "nowhere")), *command]) == 1
    first = {path: path.stat().st_mtime_ns for path in (base / "out").glob("uses/*/*.json")}
    assert main(["report", str(base / "out"), "--out", str(base / "first.html")]) == 0
    (base / "first.md").write_bytes((base / "out" / "uses.md").read_bytes())
    assert main(["study", str(write_study(base, "top")), *command]) == 0
    return base / "out", first


def test_what_failed_is_done_by_the_next_call_and_nothing_else(folder):
    out, first = folder
    now = {path: path.stat().st_mtime_ns for path in out.glob("uses/*/*.json")}
    assert len(first) == 5
    assert len(now) == 6
    assert {path: now[path] for path in first} == first


def test_what_failed_is_told_in_the_report_and_in_the_table(folder):
    out, _ = folder
    for file in ("first.html", "first.md"):
        text = (out.parent / file).read_text(encoding="utf-8")
        assert "two: inpaint --mask nowhere --n 6 --draws 4 --steps 2 --codes 5: failed" in text
        assert text.count("expected top, left, center, random:SHARE") == 1
    states = [use["state"] for use in json.loads((out / "uses.json").read_text(encoding="utf-8"))["uses"]]
    assert states == ["done"] * 6


def test_the_table_has_the_numbers_of_each_command(folder):
    out, _ = folder
    rows = list(csv.DictReader((out / "uses.csv").read_text(encoding="utf-8").splitlines()))
    measured = {(row["command"], row["quantity"]): float(row["value"]) for row in rows}
    (path,) = out.glob("uses/two-inpaint*/*.json")
    means = json.loads(path.read_text(encoding="utf-8"))["means"]
    assert measured["inpaint", "rmse_of_mean"] == means["rmse_of_mean"]["value"]
    assert 0 <= measured["neighbours", "precision by codes"] <= 1
    assert 0 <= measured["outliers", "auroc of elbo"] <= 1
    assert ("denoise", "denoised_psnr_db") in measured
    assert ("traverse", "width: change of slant, sd") in measured
    assert 1 <= measured["debias", "effective images"] <= 1438
    assert "| two | inpaint --mask top" in (out / "uses.md").read_text(encoding="utf-8")


def test_a_model_that_is_trained_further_is_used_again(folder):
    out, _ = folder
    use = Use("two", "debias")
    run = out / "runs" / "two" / "seed-0"
    assert is_done(use, run, out)
    later = (out / "uses" / use.folder / "max-bins-10-smoothing-0.001.json").stat().st_mtime + 1
    os.utime(run / "weights.safetensors", (later, later))
    assert not is_done(use, run, out)


def test_a_mistaken_option_is_told_before_anything_is_trained(tmp_path, capsys):
    path = tmp_path / "mistaken.py"
    path.write_text(STUDY.replace('"mask": "MASK"', '"maks": "top"'), encoding="utf-8")
    assert main(["study", str(path), "--out", str(tmp_path / "out"), "--quiet"]) == 2
    assert "use inpaint of two: given {'maks': 'top'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_outliers_of_another_shape_are_told_before_anything_is_trained(tmp_path, capsys):
    np.savez(tmp_path / "large.npz", images=np.full((20, 9, 9), 200, np.uint8))
    path = tmp_path / "shapes.py"
    path.write_text(STUDY.replace('"against": "digits"', f'"against": "{tmp_path}/large.npz"'), encoding="utf-8")
    assert main(["study", str(path), "--out", str(tmp_path / "out"), "--quiet"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "UserWarning" not in line]
    assert "use outliers of two: --against: given" in line
    assert "large.npz of shape (1, 9, 9)', expected images of shape (1, 8, 8), as those of digits" in line
    assert not (tmp_path / "out").exists()


def test_the_report_has_the_table_and_the_pictures(folder):
    out, _ = folder
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "rmse_of_mean" in page
    assert page.count("Figure of pyro-vae denoise: two: denoise, gaussian-0.3") == 1
    for title in ("two: traverse, slant", "two: traverse, width", "two: traverse, effects"):
        assert page.count(f"<strong>{title}.</strong>") == 1
    assert page.count("traverse --attribute slant --attribute width") == 1  # of many rows
    assert "<code>two</code> has 2 dimensions." in page
    rows = list(csv.DictReader((out / "uses.csv").read_text(encoding="utf-8").splitlines()))
    (effective,) = [float(row["value"]) for row in rows if row["quantity"] == "effective images"]
    assert (f"<td>{effective:,.0f}</td>" if effective >= 1000 else f"<td>{effective:.1f}</td>") in page


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: Use("two", "denois"), "command: .*denoise"),
        (lambda: Study("a", "b", (Entry("two", Spec()),), uses=(Use("three", "denoise"),)), "use denoise: .*two"),
        (lambda: Study("a", "b", (Entry("two", Spec()),), uses=(Use("two", "debias"),) * 2), "name their folders"),
    ],
)
def test_a_use_that_can_not_be_is_refused(use, message):
    with pytest.raises(InputError, match=message):
        use()


def test_titles_have_the_model_of_a_study(tmp_path):
    assert run_name(tmp_path / "out" / "runs" / "two" / "seed-0") == "two"
    assert run_name(tmp_path / "runs" / "mine") == "mine"
    assert run_name(tmp_path / "seed-0") == "seed-0"
