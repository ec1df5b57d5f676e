"""What goes from a study folder into docs/results: tables, figures and texts of a finished one; no weights or paths."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
collected = runpy.run_path(str(ROOT / "docs" / "collect_results.py"))
collect = collected["collect"]
RUN = "runs/two/seed-0"


@pytest.fixture
def study(tmp_path):
    """A finished study of one model, as `pyro-vae study` leaves it."""
    folder = tmp_path / "study"
    entries = [{"name": "two", "status": "done", "runs": [RUN]}, {"name": "other", "status": "skipped", "runs": []}]
    texts = {
        "study.json": json.dumps({"name": "mine", "entries": entries, "figures": [{"file": "figures/samples.png"}]}),
        "results.csv": "model,seeds,elbo_nats\ntwo,1,-1.5\n",
        "results.md": "| two | 1/2 | https://example.org/a and ../data/file |\n",
        "figures/samples.png": "picture /not/a/text",
        **{f"{RUN}/{name}": "{}" for name in ("spec.json", "metrics.json", "environment.json", "history.csv")},
        f"{RUN}/weights.safetensors": "weights",
        f"{RUN}/checkpoint/state": "state",
        ".lock": "",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_tables_figures_and_texts_and_nothing_else(study, tmp_path):
    (tmp_path / "results" / "mine").mkdir(parents=True)
    (tmp_path / "results" / "mine" / "old.png").write_text("of an earlier call", encoding="utf-8")
    collect([study], tmp_path / "results")
    assert files(tmp_path / "results" / "mine") == {
        "study.json",
        "results.csv",
        "results.md",
        "figures/samples.png",
        *(f"{RUN}/{name}" for name in ("spec.json", "metrics.json", "environment.json", "history.csv")),
    }


@pytest.mark.parametrize("status", ["pending", "failed"])
def test_an_unfinished_study_is_refused(study, tmp_path, status):
    path = study / "study.json"
    path.write_text(path.read_text(encoding="utf-8").replace("skipped", status), encoding="utf-8")
    with pytest.raises(SystemExit, match="not finished: other"):
        collect([study], tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("text", ["/home/me/data", '{"a": "/data"}', "--out=/data/x", "C:\\data", "given '/a/b.c'"])
def test_a_path_of_a_machine_is_refused(study, tmp_path, text):
    (study / RUN / "environment.json").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"environment\.json, line 1: given the path"):
        collect([study], tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_missing_file_is_named(study, tmp_path):
    (study / "figures" / "samples.png").unlink()
    with pytest.raises(SystemExit, match=r"samples\.png: given no file"):
        collect([study], tmp_path / "results")


def test_the_claims_of_the_committed_studies_are_decided_by_their_numbers(tmp_path):
    """The verdicts on the pages are those that the stored runs give, as `--decide` writes them."""
    here = ROOT / "docs" / "results"
    names = [path.parent.name for path in here.glob("*/study.json")]
    for path in here.rglob("*"):
        if path.suffix in (".json", ".csv", ".md"):
            (tmp_path / path.relative_to(here)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(here)).write_bytes(path.read_bytes())
    collected["decide"](tmp_path)
    for name in names:
        stored, decided = (json.loads((folder / name / "study.json").read_text()) for folder in (here, tmp_path))
        assert [(claim["text"], claim["verdict"]) for claim in stored["claims"]] == [
            (claim["text"], claim["verdict"]) for claim in decided["claims"]
        ]
        assert len(stored["differences"]) == len(decided["differences"])
    verdicts = {
        claim["text"]: claim["verdict"]
        for claim in json.loads((here / "fashion-14" / "study.json").read_text())["claims"]
    }
    assert verdicts["4 flow layers reconstruct better than none, z = 32"] == "not decided"
