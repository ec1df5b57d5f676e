import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pyro_vae import History, Metrics, Spec, fit_many, load, load_data, plots, save
from pyro_vae._utils.checks import InputError
from pyro_vae.cli.app import main
from pyro_vae.data.sources import DATA_FORMAT
from pyro_vae.experiments.run import add_metrics, check_data, open_model, open_run, read_metrics, run
from pyro_vae.spec import read_spec
from pyro_vae.svi import CompiledSVI

SPEC = Spec(latent_dim=2, hidden=(16,), epochs=2, binarization="threshold")
QUIET = {"progress": False, "device": "cpu"}


def test_a_run_folder_holds_everything_about_the_run(tmp_path):
    folder = tmp_path / "run"
    model, history, images = run(SPEC, folder, **QUIET)
    names = {path.name for path in folder.iterdir()}
    assert names == {"spec.json", "environment.json", "checkpoint", "history.csv", "weights.safetensors"}
    assert read_spec(folder) == replace(SPEC, image_shape=(1, 8, 8), objective="path-gradient") == model.spec
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["images"] == images.train.fingerprint
    assert {"torch", "pyro", "python", "device", "cores"} <= set(environment)
    assert history.column("validation_loss_nats")[-1] is not None
    opened, spec, opened_images = open_run(folder)
    assert spec == model.spec
    assert opened_images.test.fingerprint == images.test.fingerprint
    x = images.test.as_float()
    assert torch.equal(opened.reconstruct(x), model.reconstruct(x))


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    whole = run(SPEC, tmp_path / "whole", **QUIET)[0]
    original, calls = CompiledSVI.step_tensor, []

    def killed(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CompiledSVI, "step_tensor", killed)
        run(SPEC, tmp_path / "killed", **QUIET)
    with pytest.raises(InputError, match=r"a finished run, with weights\.safetensors; `train --resume` resumes"):
        open_model(tmp_path / "killed")
    model, history, _ = run(SPEC, tmp_path / "killed", resume=True, **QUIET)
    assert len(history.epochs) == 2
    for name, value in model.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_a_run_can_be_made_longer(tmp_path):
    run(SPEC, tmp_path, **QUIET)
    longer = replace(SPEC, epochs=3)
    model, history, _ = run(longer, tmp_path, resume=True, **QUIET)
    assert len(history.epochs) == 3
    expected = run(longer, tmp_path / "whole", **QUIET)[0]
    assert torch.equal(model.encoder[1].weight, expected.encoder[1].weight)
    assert read_spec(tmp_path).epochs == 3


def test_a_run_of_before_there_were_backends_goes_on_with_any(tmp_path):
    run(SPEC, tmp_path, **QUIET)
    stored = json.loads((tmp_path / "spec.json").read_text())
    del stored["compile"], stored["precision"]
    (tmp_path / "spec.json").write_text(json.dumps(stored))
    assert read_spec(tmp_path).compile == "auto"
    longer = replace(read_spec(tmp_path), epochs=3, compile="capture")
    assert len(run(longer, tmp_path, resume=True, **QUIET)[1].epochs) == 3
    with pytest.raises(InputError, match="precision: given 'bf16', expected 'fp32', as in the run"):
        run(replace(longer, precision="bf16"), tmp_path, resume=True, **QUIET)


def test_nothing_of_a_shorter_training_outlives_it(tmp_path, monkeypatch):
    run(SPEC, tmp_path, **QUIET)
    add_metrics(tmp_path, Metrics(frechet=1.0))
    run(replace(SPEC, compile="capture"), tmp_path, resume=True, **QUIET)
    run(SPEC, tmp_path, resume=True, **QUIET)
    assert read_metrics(tmp_path) == {"frechet": 1.0, "provenance": {}}  # the same weights
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CompiledSVI, "step_tensor", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(replace(SPEC, epochs=4), tmp_path, resume=True, **QUIET)
    with pytest.raises(InputError, match="a finished run"):
        open_run(tmp_path)
    run(replace(SPEC, epochs=4), tmp_path, resume=True, **QUIET)
    assert read_metrics(tmp_path) == {}
    with pytest.raises(InputError, match="epochs: given 2, expected at least 4"):
        run(SPEC, tmp_path, resume=True, **QUIET)
    assert read_spec(tmp_path).epochs == 4


def test_a_users_own_images_become_part_of_the_spec(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=pixels)
    spec = replace(SPEC, dataset=str(tmp_path / "mine.npz"), likelihood="gaussian", binarization="none")
    model, _, images = run(spec, tmp_path / "run", **QUIET)
    assert model.spec.image_shape == (3, 6, 5)
    assert open_model(tmp_path / "run").reconstruct(images.test.as_float()).shape == (3, 3, 6, 5)


def test_no_validation_fraction_trains_on_all_images(tmp_path):
    _, history, images = run(replace(SPEC, validation_fraction=0.0), tmp_path, **QUIET)
    epoch = history.epochs[0]
    assert epoch.validation_loss_nats is None
    assert epoch.images_per_second == pytest.approx(len(images.train) / epoch.seconds)


def test_a_group_of_metrics_replaces_itself_and_leaves_the_others(tmp_path):
    def source(group, *names):
        return {name: {"group": group} for name in names}

    add_metrics(tmp_path, Metrics(elbo_nats=-1.0, kl_se=2.0, provenance=source("bounds", "elbo_nats", "kl_se")))
    add_metrics(tmp_path, Metrics(frechet=4.0, provenance=source("samples", "frechet")))
    path = add_metrics(tmp_path, Metrics(elbo_nats=-3.0, provenance=source("bounds", "elbo_nats")))
    stored = json.loads(path.read_text())
    assert stored["provenance"] == source("bounds", "elbo_nats") | source("samples", "frechet")
    assert (stored["elbo_nats"], stored["frechet"], "kl_se" in stored) == (-3.0, 4.0, False)


def test_folders_that_hold_something_else_are_left_alone(tmp_path):
    folder = tmp_path / "run"
    run(SPEC, folder, **QUIET)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(InputError, match=r"this one holds a run of the same spec \(--resume resumes it\)"):
        run(SPEC, folder, **QUIET)
    with pytest.raises(InputError, match=r"this one holds a run with beta = 1.0, not 2.0"):
        run(replace(SPEC, beta=2.0), folder, **QUIET)
    with pytest.raises(InputError, match=r"beta: given 2.0, expected 1.0, as in the run in .*run; to change it"):
        run(replace(SPEC, beta=2.0), folder, resume=True, **QUIET)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(InputError, match="a new or empty folder, or one of a run"):
        run(SPEC, tmp_path / "other", **QUIET)
    with pytest.raises(InputError, match="a folder, or a name that is free"):
        run(SPEC, tmp_path / "other" / "thesis.tex", **QUIET)
    with pytest.raises(InputError, match=r"image_shape: given \(1, 9, 9\)"):
        run(replace(SPEC, image_shape=(1, 9, 9)), tmp_path / "new", **QUIET)
    with pytest.raises(InputError, match="a folder that `pyro-vae train` made"):
        open_run(tmp_path / "other")
    assert not (tmp_path / "new").exists()


def test_a_damaged_spec_is_one_line(tmp_path):
    run(SPEC, tmp_path, **QUIET)
    (tmp_path / "spec.json").write_text('{"dataset": ')
    with pytest.raises(InputError, match="a JSON object"):
        open_run(tmp_path)
    (tmp_path / "spec.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match="a text file in UTF-8"):
        open_run(tmp_path)
    (tmp_path / "metrics.json").write_text("[1, 2")
    with pytest.raises(InputError, match="metrics: given .*a JSON object"):
        add_metrics(tmp_path, Metrics())


@pytest.fixture(scope="module")
def grey():
    return np.random.default_rng(0).integers(0, 256, (25, 8, 8), dtype=np.uint8)


@pytest.fixture
def own(tmp_path, grey):
    """A run on a user's own 20 images, and where these are."""
    path = tmp_path / "mine.npz"
    np.savez(path, images=grey[:20])
    spec = replace(SPEC, dataset=str(path))
    run(spec, tmp_path / "run", **QUIET)
    return spec, path, tmp_path / "run"


def test_images_that_were_added_are_noticed(own, grey):
    spec, path, folder = own
    np.savez(path, images=grey)  # most of the new test images would be ones that were trained on
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    message = (
        r"mine with 23 training images \(.{8}\) and 2 test .*expected the 18 training .* and 2 test .*--dataset PATH"
    )
    with pytest.raises(InputError, match=message):
        open_run(folder)
    with pytest.raises(InputError, match=message):
        run(replace(spec, epochs=3), folder, resume=True, **QUIET)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_other_test_images_are_noticed(tmp_path, grey):
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=grey[:20], x_test=grey[20:])
    run(replace(SPEC, dataset=str(path)), tmp_path / "run", **QUIET)
    np.savez(path, x_train=grey[:20], x_test=grey[21:])
    with pytest.raises(InputError, match="and 4 test images .* expected .* and 5 test images"):
        open_run(tmp_path / "run")


def test_images_that_moved_are_found_by_a_new_path(own, grey):
    spec, path, folder = own
    add_metrics(folder, Metrics(frechet=1.0))
    moved = str(path.rename(path.with_name("moved.npz")))
    for opened in (lambda: open_run(folder), lambda: open_run(str(folder))):
        with pytest.raises(InputError, match="dataset: given .*mine.npz', expected .*--dataset PATH says where"):
            opened()
    assert open_run(folder, dataset=moved)[1] == read_spec(folder)
    weights = open_model(folder).state_dict()
    run(replace(spec, dataset=moved), folder, resume=True, **QUIET)
    assert read_spec(folder).dataset == moved  # from now on it is found there
    assert read_metrics(folder)["frechet"] == 1.0
    open_run(folder)
    assert all(torch.equal(value, weights[name]) for name, value in open_model(folder).state_dict().items())
    assert len(run(replace(spec, dataset=moved, epochs=3), folder, resume=True, **QUIET)[1].epochs) == 3
    np.savez(path, images=grey[1:21])
    with pytest.raises(InputError, match="the data have changed"):
        open_run(folder, dataset=str(path))
    with pytest.raises(InputError, match="the data have changed"):
        run(replace(spec, dataset=str(path), epochs=4), folder, resume=True, **QUIET)
    with pytest.raises(InputError, match="a new folder: this one holds a run with dataset"):
        run(replace(spec, epochs=3), folder, **QUIET)


def test_what_an_older_run_does_not_tell_is_said(own, digits, tmp_path):
    _, path, folder = own
    images = load_data(str(path))
    assert check_data(folder, images) == ""
    assert check_data(tmp_path / "none", images) == ""
    recorded = json.loads((folder / "environment.json").read_text())
    del recorded["test_images"], recorded["num_test_images"], recorded["num_images"]
    (folder / "environment.json").write_text(json.dumps(recorded))
    assert "it records its training images only" in check_data(folder, images)
    with pytest.raises(InputError, match=r"expected the \? training images"):
        check_data(folder, digits)
    (folder / "environment.json").write_text("{}")
    assert "can't be checked: it does not say" in check_data(folder, digits)
    (folder / "environment.json").unlink()
    assert "can't be checked: it does not say" in check_data(folder, digits)


def test_a_run_of_an_earlier_version_is_not_told_that_its_data_changed(own, grey):
    spec, path, folder = own
    recorded = json.loads((folder / "environment.json").read_text())
    assert recorded.pop("data_format") == DATA_FORMAT
    (folder / "environment.json").write_text(json.dumps(recorded))
    open_run(folder)  # read as before
    np.savez(path, images=grey[1:21])  # as if read otherwise
    for refused in (lambda: open_run(folder), lambda: run(replace(spec, epochs=3), folder, resume=True, **QUIET)):
        with pytest.raises(InputError, match="earlier version .* may have read these files otherwise") as caught:
            refused()
        assert "the data have changed" not in str(caught.value)
        assert "train a new run" in str(caught.value)
        assert "that version" in str(caught.value)
        assert "\n" not in str(caught.value)
    (folder / "environment.json").write_text(json.dumps(recorded | {"data_format": DATA_FORMAT + 1}))
    with pytest.raises(InputError, match="another version"):
        open_run(folder)


def test_members_trained_on_some_of_the_images_are_opened(digits, tmp_path):
    fit_many(replace(SPEC, epochs=1), digits.train.draw(40), seeds=[1], out=tmp_path, **QUIET)
    open_run(tmp_path / "seed-1")
    assert "on other images than digits's" in check_data(tmp_path / "seed-1", digits)


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def changed_spec(folder, **fields):
    stored = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps(stored | fields))


@pytest.mark.parametrize(
    ("damage", "fields", "message"),
    [
        ("cudagraph", {"compile": "cudagraph"}, "compile: given 'cudagraph', expected another backend"),
        ("truncated", {}, "checkpoint: given .*expected an undamaged file"),
        ("lr", {"lr": 0.5}, "lr: given 0.5, expected 0.001, with which the weights"),
        ("latent_dim", {"latent_dim": 3}, "latent_dim: given 3, expected 2, with which the weights"),
        ("lost", {}, "out: given .*expected a run with a checkpoint to resume from"),
        ("lost", {"epochs": 2}, "out: given .*expected a run with a checkpoint to resume from"),
    ],
)
def test_a_refused_resume_changes_nothing(tmp_path, monkeypatch, damage, fields, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run(SPEC, tmp_path, **QUIET)
    add_metrics(tmp_path, Metrics(frechet=1.0))
    (checkpoint,) = (tmp_path / "checkpoint").iterdir()
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    elif damage == "lost":
        checkpoint.unlink()
    elif damage != "cudagraph":
        changed_spec(tmp_path, **fields)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=message):
        run(replace(SPEC, **{"epochs": 3} | fields), tmp_path, resume=True, **QUIET)
    assert contents(tmp_path) == before


def test_a_refused_training_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="compile: given 'cudagraph'"):
        run(replace(SPEC, compile="cudagraph"), tmp_path / "new", **QUIET)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"latent_dim": 3},
        {"likelihood": "gaussian"},
        {"image_shape": [1, 4, 16]},
        {"binarization": "dynamic"},
        {"beta": 2.0},
    ],
)
def test_a_spec_that_was_changed_is_not_believed(tmp_path, capsys, fields):
    folder = tmp_path / "run"
    run(SPEC, folder, **QUIET)
    changed_spec(folder, **fields)
    ((name, _),) = fields.items()
    for opened in (open_model, open_run):
        with pytest.raises(InputError, match=f"{name}: given .*with which the weights beside it were trained"):
            opened(folder)
    assert main(["report", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name}: given" in line
    assert not (folder / "report.html").exists()


def test_a_spec_may_tell_of_more_or_another_way_of_training(tmp_path):
    run(SPEC, tmp_path, **QUIET)
    changed_spec(tmp_path, compile="capture", epochs=3)
    open_run(tmp_path)


@pytest.mark.parametrize(
    "text", ['{"elbo_nats": 1, "provenance": 5}', '{"provenance": {"elbo_nats": 5}}', '[["elbo_nats", 1]]']
)
def test_odd_metrics_are_one_line(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(InputError, match="metrics: given .*metrics.json', expected "):
        read_metrics(tmp_path)


def test_an_error_in_a_spec_names_the_file(tmp_path):
    (tmp_path / "spec.json").write_text('{"latent_dim": 0}')
    with pytest.raises(InputError, match=r"spec\.json: latent_dim: given 0"):
        read_spec(tmp_path)


def test_the_folder_of_a_user_is_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    model, history, _ = run(SPEC, "~/run", **QUIET)
    assert open_run("~/run")[1] == model.spec
    run(replace(SPEC, epochs=3), "~/run", resume=True, **QUIET)
    add_metrics("~/run", Metrics(frechet=1.0))
    assert read_metrics("~/run")["frechet"] == 1.0
    save(model, "~/weights.safetensors")
    load("~/weights.safetensors")
    history.to_csv("~/history.csv")
    assert History.from_csv("~/history.csv") == history
    plots.save_figure(plots.image_grid(torch.rand(1, 1, 8, 8), "one"), "~/one.png")
    assert {path.name for path in tmp_path.iterdir()} == {
        "here",
        "run",
        "weights.safetensors",
        "history.csv",
        "one.png",
    }
    assert not list((tmp_path / "here").iterdir())
