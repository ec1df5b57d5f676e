"""Studies: skipping, going on, failing, processes and Ray; all with tiny models of the embedded digits."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from pyro_vae import Spec
from pyro_vae._utils.checks import InputError
from pyro_vae.experiments import figures
from pyro_vae.experiments import study as definitions
from pyro_vae.experiments.report.page import report
from pyro_vae.experiments.run import open_model
from pyro_vae.experiments.runner import run_study
from pyro_vae.experiments.study import Claim, Entry, Picture, Study
from pyro_vae.experiments.study_folder import read_study
from pyro_vae.spec import read_spec

SPEC = Spec(latent_dim=2, hidden=(16,), epochs=3, binarization="threshold", batch_size=64)
QUIET = {"progress": False, "device": "cpu", "threads": 1}


def study(*entries, **more):
    return Study("tiny", "A tiny study", tuple(entries) or (Entry("two", SPEC),), **more)


def stored_metrics(folder, model):
    return json.loads((folder / "runs" / model / "seed-0" / "metrics.json").read_text())


def table(folder):
    return (folder / "results.csv").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study left alone: two VAEs and an autoencoder, a picture over epochs, and a claim."""
    folder = tmp_path_factory.mktemp("study") / "whole"
    with pytest.MonkeyPatch.context() as patch:  # as the tests have it, by a fixture that is later than this one
        patch.setenv("PYRO_VAE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        run_study(GRID, folder, command="pyro-vae study tiny", **QUIET)
    return folder


GRID = study(
    Entry("two", SPEC, {"kl_per_sample": 1.0, "reconstruction_nats": 40.0, "frechet": 5.0}),
    Entry("ten", replace(SPEC, latent_dim=10)),
    Entry("autoencoder", replace(SPEC, model="autoencoder")),
    snapshots=(1, 2),
    pictures=(
        Picture("codes.png", "latent_spaces_by_epoch", ("two",), {"epochs": (1, 2, 20)}, "Codes", "Below", "A scatter"),
        Picture("pca.png", "pca_example", ()),
        Picture("confidence.png", "confidence_by_epoch", ("two",), {"n": 50}),
    ),
    claims=(
        Claim("The autoencoder reconstructs better", "reconstruction_nats", ("autoencoder", "two")),
        Claim("It does not", "reconstruction_nats", ("two", "autoencoder")),
        Claim("The share rises", ("kl_share_first_epoch", "kl_share_last_epoch"), ("two", "two")),
    ),
)


def test_a_study_folder_holds_runs_tables_and_figures(whole):
    stored = read_study(whole)
    assert stored["format"] == 1
    assert [entry["status"] for entry in stored["entries"]] == ["done"] * 3
    assert stored["entries"][0]["runs"] == ["runs/two/seed-0"]
    assert stored["figures"][0] == {
        "file": "figures/codes.png",
        "title": "Codes",
        "caption": "Below",
        "alt": "A scatter",
    }
    assert len(stored["figures"]) == 3
    assert all((whole / figure["file"]).stat().st_size > 1000 for figure in stored["figures"])
    assert [claim["verdict"] for claim in stored["claims"]] == ["holds", "does not hold", "not decided"]
    assert stored["claims"][0]["steps"][0]["error_of"] == "images, paired"
    assert {
        (difference["metric"], difference["first"], difference["second"]) for difference in stored["differences"]
    } >= {
        ("elbo_nats", "two", "ten"),
        ("mse_per_pixel", "two", "autoencoder"),
    }
    assert all(
        difference["images"] == 359 for difference in stored["differences"] if difference["metric"] == "elbo_nats"
    )
    assert stored["command"] == "pyro-vae study tiny"
    assert stored["seconds"]["total"] == pytest.approx(sum(stored["seconds"]["training"].values()))
    assert read_spec(whole / "runs" / "two" / "seed-0") == replace(
        SPEC, image_shape=(1, 8, 8), objective="path-gradient"
    )
    assert {path.name for path in (whole / "runs" / "two" / "seed-0" / "snapshots").iterdir()} == {
        "epoch-00001.safetensors",
        "epoch-00002.safetensors",
    }
    open_model(whole / "runs" / "ten" / "seed-0")


def test_the_table_has_published_numbers_and_differences(whole):
    lines = [line.split(",") for line in (whole / "results.csv").read_text().splitlines()]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    two = {name: float(text) for name, text in rows[0].items() if text and name != "model"}
    metrics = json.loads((whole / "runs" / "two" / "seed-0" / "metrics.json").read_text())
    assert two["kl_per_sample"] == metrics["kl_per_sample"]
    assert two["kl_per_sample_difference"] == pytest.approx(metrics["kl_per_sample"] - 1)
    assert two["loss_nats_published"] == 41.0
    assert two["loss_nats"] == pytest.approx(metrics["kl_per_sample"] + metrics["reconstruction_nats"])
    assert two["frechet_published"] == 5.0
    assert "frechet_difference" not in rows[0]  # of another network
    assert not any(name.endswith("_sd") for name in lines[0])  # one seed
    assert rows[2]["kl_per_sample"] == ""  # an autoencoder has none
    table, differences = (whole / "results.md").read_text().split("\nDifferences ± standard error")
    assert table.count("\n") == 5
    assert "| ten | two |" in differences


def test_what_is_done_is_not_done_again(whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.parent.name != "whole"}
    table_before = table(whole)
    run_study(GRID, whole, **QUIET)
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before
    assert table(whole) == table_before


def test_two_jobs_give_the_same_table(whole, tmp_path):
    run_study(GRID, tmp_path / "jobs", jobs=2, **QUIET)
    assert table(tmp_path / "jobs") == table(whole)


def test_only_some_models_and_then_the_others(whole, tmp_path):
    stored = run_study(GRID, tmp_path / "parts", only=["ten"], **QUIET)
    assert [entry["status"] for entry in stored["entries"]] == ["pending", "done", "pending"]
    assert stored["claims"] == []
    stored = run_study(GRID, tmp_path / "parts", **QUIET)
    assert [entry["status"] for entry in stored["entries"]] == ["done"] * 3
    assert table(tmp_path / "parts") == table(whole)


def test_seeds_give_means_and_deviations(tmp_path):
    stored = run_study(study(), tmp_path / "study", seeds=2, **QUIET)
    assert stored["entries"][0]["seeds"] == [0, 1]
    values = [
        json.loads((tmp_path / "study" / "runs" / "two" / f"seed-{seed}" / "metrics.json").read_text())["kl_per_sample"]
        for seed in (0, 1)
    ]
    header, row = [line.split(",") for line in table(tmp_path / "study").decode().splitlines()]
    cells = dict(zip(header, row, strict=True))
    assert float(cells["kl_per_sample"]) == pytest.approx(sum(values) / 2)
    assert float(cells["kl_per_sample_sd"]) == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert "(sd " in (tmp_path / "study" / "results.md").read_text()


def test_seeds_and_commands_of_before_stay_in_the_table(tmp_path):
    grid = study(Entry("two", replace(SPEC, epochs=1)), Entry("other", replace(SPEC, epochs=1, latent_dim=3)))
    run_study(grid, tmp_path / "study", seeds=2, only=["two"], command="first", **QUIET)
    stored = run_study(grid, tmp_path / "study", command="second", **QUIET)
    assert [entry["seeds"] for entry in stored["entries"]] == [[0, 1], [0]]
    assert [entry["status"] for entry in stored["entries"]] == ["done", "done"]
    assert run_study(grid, tmp_path / "study", command="first", **QUIET)["command"] == "first\nsecond"


def test_a_model_that_fails_does_not_stop_the_others(tmp_path):
    grid = study(
        Entry("bad", replace(SPEC, lr=1e30)),
        Entry("two", SPEC),
        Entry("elsewhere", replace(SPEC, dataset="cifar10"), optional=True),
    )
    stored = run_study(grid, tmp_path / "study", data_root=tmp_path, **QUIET)
    assert [entry["status"] for entry in stored["entries"]] == ["failed", "done", "skipped"]
    assert "FloatingPointError" in stored["entries"][0]["error"]
    assert "try a smaller lr" in stored["entries"][0]["error"]
    assert "CIFAR-10" in stored["entries"][2]["error"]
    with pytest.raises(InputError, match="CIFAR-10"):
        run_study(
            study(Entry("elsewhere", replace(SPEC, dataset="cifar10"))), tmp_path / "other", data_root=tmp_path, **QUIET
        )
    assert not (tmp_path / "other").exists()


def test_beta_0_has_no_kl_and_still_a_row(tmp_path):
    long = replace(SPEC, beta=0.0, epochs=1)
    stored = run_study(study(Entry("beta0", long)), tmp_path / "study", **QUIET)
    assert stored["entries"][0]["status"] == "done"
    metrics = json.loads((tmp_path / "study" / "runs" / "beta0" / "seed-0" / "metrics.json").read_text())
    header, row = [line.split(",") for line in table(tmp_path / "study").decode().splitlines()]
    assert float(dict(zip(header, row, strict=True))["loss_nats"]) == pytest.approx(metrics["reconstruction_nats"])


def test_longer_training_goes_on(tmp_path):
    run_study(study(), tmp_path / "study", **QUIET)
    run_study(study().adapted(epochs=5), tmp_path / "study", **QUIET)
    run_study(study().adapted(epochs=5), tmp_path / "whole", **QUIET)
    assert table(tmp_path / "study") == table(tmp_path / "whole")


COMMAND = """
import sys
from pyro_vae import Spec
from pyro_vae.experiments.study import Entry, Study
from pyro_vae.experiments.runner import run_study
spec = Spec(latent_dim=2, hidden=(16,), epochs=15, binarization="threshold", batch_size=32)
grid = Study("tiny", "Tiny", tuple(Entry(f"seed{n}", Spec(**(vars(spec) | {"seed": n}))) for n in range(2)))
if __name__ == "__main__":
    run_study(grid, sys.argv[1], device="cpu", threads=1, progress=False)
"""


def test_killed_three_times_it_ends_with_the_table_of_one_left_alone(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(COMMAND)

    def started(folder):
        return subprocess.Popen([sys.executable, str(script), str(folder)], stderr=subprocess.PIPE)

    alone = started(tmp_path / "alone")
    assert alone.wait() == 0
    alone.stderr.close()
    moments = random.Random(0)  # noqa: S311 (no secret)
    for number in range(3):
        process = started(tmp_path / "killed")
        wanted = 2 + 8 * number + moments.randrange(6)  # epochs after which it is killed, in whatever it does then
        while process.poll() is None and epochs_done(tmp_path / "killed") < wanted:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.001)
        assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    last = started(tmp_path / "killed")
    errors = last.communicate()[1]
    assert last.returncode == 0, errors
    assert table(tmp_path / "killed") == table(tmp_path / "alone")


def epochs_done(folder):
    """Of all runs of a study, from the names of their checkpoints."""
    newest = {}
    for path in folder.glob("runs/*/*/checkpoint/epoch-*.pt"):
        newest[path.parent] = max(newest.get(path.parent, 0), int(path.name.split("-")[1]))
    return sum(newest.values())


def test_two_commands_do_not_work_in_one_folder(tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="folders are locked where there is fcntl")
    (tmp_path / "study").mkdir()
    with (tmp_path / "study" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="no other study is at work"):
            run_study(study(), tmp_path / "study", **QUIET)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": 0}, "seeds: given 0"),
        ({"jobs": 0}, "jobs: given 0"),
        ({"threads": 0}, "threads: given 0"),
        ({"only": ["tow"]}, "only: given 'tow', .*did you mean 'two'"),
        ({"ray_gpus": -1.0}, "ray_gpus: given -1.0"),
        ({"ray_retries": -1}, "ray_retries: given -1"),
        ({"out": "file"}, "out: given .*expected a folder, or a name that is free"),
        ({"out": "full"}, "a new or empty folder, or one of a study"),
        ({"out": "other"}, "this one holds the study another"),
        ({"out": "damaged"}, "a JSON object"),
        ({"out": "listed"}, "a JSON object"),
    ],
)
def test_bad_input_is_named(tmp_path, arguments, message):
    (tmp_path / "file").touch()
    for name, text in {"other": '{"name": "another"}', "damaged": "{", "listed": "[]"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.json").write_text(text)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message):
        run_study(study(), **({"out": "new", **QUIET} | arguments | {"out": tmp_path / arguments.get("out", "new")}))
    assert sorted(tmp_path.rglob("*")) == before


def test_the_grids_are_whole():

    for name in definitions.NAMES:
        grid = definitions.named(name)
        assert grid.name == name
        assert len({picture.file for picture in grid.pictures}) == len(grid.pictures)
        for picture in grid.pictures:
            assert callable(getattr(figures, picture.function))
            assert picture.title
            assert picture.caption
            assert picture.alt
    fashion = definitions.named("fashion-14")
    assert len([entry for entry in fashion.entries if entry.published and entry.spec.model == "vae"]) == 14
    assert all(entry.spec.beta_warmup > 0 for entry in fashion.entries)


# --- Ray --------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_table_and_goes_on_where_a_worker_is_lost(whole, tmp_path, monkeypatch):
    """Two workers on a real local Ray; one is killed in the middle of its training, and its model resumes."""
    pytest.importorskip("ray", reason="ray is an extra")
    from pyro_vae.experiments.workers import RayTasks

    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    longer = replace(SPEC, epochs=24, batch_size=32)
    grid = study(*(Entry(f"seed{n}", replace(longer, seed=n)) for n in range(2)))
    folder, killed = tmp_path / "ray", []
    original = RayTasks.wait

    def wait(self, timeout_seconds):
        if not killed and epochs_done(folder) >= 4:
            mine = [pid for pid in workers_of(os.getpid()) if "_run_on_ray" in cmdline(pid)]
            os.kill(mine[0], signal.SIGKILL)
            killed.append(mine[0])
        return original(self, 0.05)

    monkeypatch.setattr(RayTasks, "wait", wait)
    stored = run_study(grid, folder, jobs=2, ray="local", **QUIET)
    assert killed
    assert [entry["status"] for entry in stored["entries"]] == ["done", "done"]
    run_study(grid, tmp_path / "local", jobs=2, **QUIET)
    assert table(folder) == table(tmp_path / "local")


def cmdline(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def workers_of(pid):
    """All processes below a process."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parents.setdefault(int(file.read().rsplit(")", 1)[1].split()[1]), []).append(int(name))
            except OSError:
                continue
    processes, left = [], [pid]
    while left:
        children = parents.get(left.pop(), [])
        processes += children
        left += children
    return processes


def test_ray_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"ray: given 'local', expected the package ray .*pyro_vae\[ray\]"):
        run_study(study(), tmp_path / "study", ray="local", **QUIET)


# --- a user's own data ------------------------------------------------------------------------------------------------

BRIEF = replace(SPEC, epochs=1, hidden=(8,))


def pixels(n):
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8), dtype=np.uint8)


@pytest.mark.filterwarnings("ignore:scores of samples are left out")
def test_nothing_is_written_beside_the_data(tmp_path):
    """Two data sets of one name, a file and a folder's worth of dots; all figures are in the study's folder."""
    paths = [tmp_path / "data" / "one" / "small.npz", tmp_path / "data" / "two" / "small.npz"]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        np.savez(path, images=pixels(20 + number))
    text = "[common]\nhidden = [8]\nepochs = 1\nlatent_dim = 2\n"
    for name, path in zip("ab", paths, strict=True):
        text += f"[models.{name}]\ndataset = '{path}'\nbinarization = 'threshold'\n"
    (tmp_path / "mine.toml").write_text(text)
    before = sorted((tmp_path / "data").rglob("*"))
    out = tmp_path / "study"
    stored = run_study(definitions.named(str(tmp_path / "mine.toml")), out, **QUIET)
    assert sorted((tmp_path / "data").rglob("*")) == before
    files = [figure["file"] for figure in stored["figures"]]
    assert len(files) == len(set(files)) == 6
    assert files[0] == "figures/small-training-curves.png"
    assert files[3] == "figures/small-2-training-curves.png"
    assert all((out / file).resolve().is_relative_to(out) for file in files)
    assert str(tmp_path) not in json.dumps(stored["figures"])
    resumed = run_study(definitions.named(str(tmp_path / "mine.toml")), out, **QUIET)
    assert [entry["status"] for entry in resumed["entries"]] == ["done", "done"]
    report(out)


@pytest.mark.filterwarnings("ignore:scores of samples are left out")
def test_a_study_does_not_go_on_with_other_data(tmp_path):
    np.savez(tmp_path / "mine.npz", images=pixels(20))
    grid = study(Entry("two", replace(BRIEF, dataset=str(tmp_path / "mine.npz"))))
    run_study(grid, tmp_path / "study", **QUIET)
    (tmp_path / "mine.npz").rename(tmp_path / "moved.npz")
    moved = grid.adapted(dataset=str(tmp_path / "moved.npz"))
    assert run_study(moved, tmp_path / "study", **QUIET)["entries"][0]["status"] == "done"
    np.savez(tmp_path / "moved.npz", images=pixels(25))
    with pytest.raises(InputError, match="23 training images .*expected the 18 training images"):
        run_study(moved, tmp_path / "study", **QUIET)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"images": pixels(30)}, "with labels, which mine lacks"),
        ({"images": pixels(30), "labels": np.arange(30) % 2}, "test images: given 3, expected at least 10"),
        ({"images": pixels(120), "labels": np.zeros(120, int)}, "at least 2 classes"),
    ],
)
def test_scores_that_the_data_do_not_allow_are_left_out(tmp_path, arrays, reason):
    np.savez(tmp_path / "mine.npz", **arrays)
    grid = study(Entry("two", replace(BRIEF, dataset=str(tmp_path / "mine.npz"))))
    with pytest.warns(UserWarning, match=f"scores of samples are left out for mine: .*{reason}"):
        stored = run_study(grid, tmp_path / "study", **QUIET)
    assert stored["entries"][0]["status"] == "done"
    assert "elbo_nats" in (tmp_path / "study" / "results.csv").read_text()


@pytest.mark.filterwarnings("ignore:scores of samples are left out")
def test_a_picture_that_fails_takes_nothing_with_it(tmp_path):
    np.savez(tmp_path / "mine.npz", images=pixels(20))
    spec = replace(BRIEF, dataset=str(tmp_path / "mine.npz"))
    pictures = (Picture("one.png", "confidence_by_epoch", ("two",)), Picture("two.png", "samples", ("two",)))
    with pytest.warns(UserWarning, match="figure one.png is left out: InputError: extractor: given 'classifier'"):
        stored = run_study(study(Entry("two", spec), pictures=pictures), tmp_path / "study", **QUIET)
    assert [figure["file"] for figure in stored["figures"]] == ["figures/two.png"]


@pytest.mark.parametrize("file", ["../a.png", "/a.png", "a/b.png", "", "a", "a\\b.png", ".."])
def test_a_picture_has_a_name_and_no_path(file):
    with pytest.raises(InputError, match="picture: given .*no path"):
        Picture(file, "samples", ())


@pytest.mark.filterwarnings("ignore:scores of samples are left out")
def test_a_study_in_a_log_tells_which_model_and_which_epoch(tmp_path, capfd):
    np.savez(tmp_path / "mine.npz", images=pixels(20))
    spec = replace(BRIEF, dataset=str(tmp_path / "mine.npz"), epochs=2)
    grid = study(Entry("two", spec), Entry("three", replace(spec, latent_dim=3)))
    run_study(grid, tmp_path / "study", **(QUIET | {"progress": True}))
    lines = capfd.readouterr().err.splitlines()
    starts = ["two, seed 0: epoch 1 of 2: ", "two, seed 0: epoch 2 of 2: ", "two, seed 0: done; 1 of 2 runs, "]
    starts += [start.replace("two", "three").replace("1 of 2 runs", "2 of 2 runs") for start in starts]
    assert len(lines) == 6
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))


def test_the_evidence_is_a_group_of_a_study_too(tmp_path):
    """Where a model has a prior; and a call without it leaves it, in the table as well."""
    grid = study(
        Entry("two", replace(SPEC, epochs=1)), Entry("autoencoder", replace(SPEC, epochs=1, model="autoencoder"))
    )
    folder = tmp_path / "study"
    run_study(grid, folder, metrics=("bounds", "evidence"), k=20, evidence_images=30, **QUIET)
    two = stored_metrics(folder, "two")
    assert two["provenance"]["nll_nats"]["k"] == 20
    assert "active_units" not in two
    assert "nll_nats" not in stored_metrics(folder, "autoencoder")
    assert [entry["status"] for entry in read_study(folder)["entries"]] == ["done", "done"]
    assert not list(folder.rglob("*.partial.*"))
    header = (folder / "results.csv").read_text().splitlines()[0]
    assert "nll_nats" in header.split(",")
    run_study(grid, folder, **QUIET)
    assert stored_metrics(folder, "two")["nll_nats"] == two["nll_nats"]
    assert "active_units" in stored_metrics(folder, "two")
    assert "nll_nats" in (folder / "results.csv").read_text().splitlines()[0].split(",")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": ["evidense"]}, "metrics: given 'evidense', .*did you mean 'evidence'"),
        ({"metrics": ["evidence"], "k": 0}, "k: given 0, expected a whole number of at least 1"),
        ({"evidence_images": 5}, "metrics: given 'bounds,codes,samples', expected evidence among them"),
    ],
)
def test_metrics_that_cannot_be_asked_for(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        run_study(study(), tmp_path / "study", **arguments, **QUIET)
    assert not (tmp_path / "study").exists()


@pytest.mark.filterwarnings("ignore:scores of samples are left out")
def test_conditional_models_are_done_with_samples_of_labels_and_without_codes(tmp_path):
    """A model of labels draws given those of the test images; one of a part draws nothing, and may have no codes."""
    half = {"kind": "conditional", "condition": "quadrants-2"}
    kinds = {"label": "conditional", "half": half, "baseline": half | {"deterministic": True}}
    entries = [Entry(name, replace(SPEC, epochs=1, model=kind)) for name, kind in kinds.items()]
    samples = Picture("samples.png", "samples", tuple(kinds))
    folder = tmp_path / "study"
    stored = run_study(study(*entries, pictures=(samples,)), folder, **QUIET)
    assert [entry["status"] for entry in stored["entries"]] == ["done"] * 3
    assert [figure["file"] for figure in stored["figures"]] == ["figures/samples.png"]
    header, *rows = [line.split(",") for line in table(folder).decode().splitlines()]
    by_model = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert [bool(by_model[name]["frechet"]) for name in kinds] == [True, False, False]
    assert "active_units" not in header  # of no model under a condition
    assert all(by_model[name]["elbo_nats"] for name in kinds)
    of_samples = stored_metrics(folder, "label")["provenance"]["frechet"]
    assert of_samples["labels"] == "of the test images"
