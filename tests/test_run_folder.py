import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pyro_vae import Metrics, Spec
from pyro_vae.checks import InputError
from pyro_vae.run_folder import add_metrics, open_model, open_run, read_metrics, run
from pyro_vae.spec import read_spec
from pyro_vae.svi import CompiledSVI

SPEC = Spec(latent_dim=2, hidden=(16,), epochs=2, binarization="threshold")
QUIET = {"progress": False, "device": "cpu"}


def test_a_run_folder_holds_everything_about_the_run(tmp_path):
    folder = tmp_path / "run"
    model, history, images = run(SPEC, folder, **QUIET)
    names = {path.name for path in folder.iterdir()}
    assert names == {"spec.json", "environment.json", "checkpoint", "history.csv", "weights.safetensors"}
    assert read_spec(folder) == replace(SPEC, image_shape=(1, 8, 8)) == model.spec
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["images"] == images.train.fingerprint
    assert {"torch", "pyro", "python", "device", "cores"} <= set(environment)
    assert history.column("validation_loss_nats")[-1] is not None
    opened, spec, again = open_run(folder)
    assert spec == model.spec
    assert again.test.fingerprint == images.test.fingerprint
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
    with pytest.raises(InputError, match=r"a finished run, with weights\.safetensors; `train --resume` goes on"):
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
    with pytest.raises(InputError, match="precision = 'fp32', not 'bf16'"):
        run(replace(longer, precision="bf16"), tmp_path, resume=True, **QUIET)


def test_nothing_of_a_shorter_training_outlives_it(tmp_path, monkeypatch):
    run(SPEC, tmp_path, **QUIET)
    add_metrics(tmp_path, Metrics(frechet=1.0))
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
    found = json.loads(path.read_text())
    assert found["provenance"] == source("bounds", "elbo_nats") | source("samples", "frechet")
    assert (found["elbo_nats"], found["frechet"], "kl_se" in found) == (-3.0, 4.0, False)


def test_folders_that_hold_something_else_are_left_alone(tmp_path):
    folder = tmp_path / "run"
    run(SPEC, folder, **QUIET)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(InputError, match=r"this one holds a run of the same spec \(--resume goes on with it\)"):
        run(SPEC, folder, **QUIET)
    with pytest.raises(InputError, match=r"this one holds a run with beta = 1.0, not 2.0"):
        run(replace(SPEC, beta=2.0), folder, **QUIET)
    with pytest.raises(InputError, match=r"this one holds a run with beta = 1.0, not 2.0"):
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
