"""Two processes on one machine, as torchrun starts them. Run as a script, this file is what each of them does."""

import contextlib
import dataclasses
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pyro_vae import Images, Spec, build, fit, load_data
from pyro_vae._utils.checks import InputError
from pyro_vae.cli.app import main
from pyro_vae.models.weights import load
from pyro_vae.svi import CompiledSVI
from pyro_vae.training import passes
from pyro_vae.training.distributed import Peers, own_device, peers

ROOT = Path(__file__).parents[2]
AUTOENCODER = Spec(model="autoencoder", latent_dim=2, hidden=(16,))
VAE = Spec(latent_dim=2, hidden=(16,))
QUIET = {"progress": False, "device": "cpu"}
RUNS = {
    # 23 images: parts of 6 and 5, and at the end of each epoch one image, so that a process has none
    "off": (
        AUTOENCODER,
        23,
        {"epochs": 2, "batch_size": 11, "lr": 0.01, "compile": "off", "binarization": "threshold"},
    ),
    "capture": (
        AUTOENCODER,
        23,
        {"epochs": 2, "batch_size": 11, "lr": 0.01, "compile": "capture", "binarization": "threshold"},
    ),
    "weighted": (
        AUTOENCODER,
        23,
        {
            "epochs": 2,
            "batch_size": 11,
            "lr": 0.01,
            "compile": "off",
            "binarization": "threshold",
            "sampler": "latent-density",
        },
    ),
    "vae": (VAE, 1438, {"epochs": 3, "lr": 0.01, "binarization": "threshold"}),
}
RESUMED = {"epochs": 4, "batch_size": 51, "lr": 0.01, "binarization": "dynamic"}
TRAIN = ["train", "--dataset", "digits", "--hidden", "16", "--latent-dim", "2", "--device", "cpu"]
TRAIN_AUTOENCODER = [*TRAIN, "--model", "autoencoder", "--binarization", "threshold", "--batch-size", "300"]
RESUME = ["train", "--resume", "--epochs", "2", "--device", "cpu", "--quiet"]


def images(count: int) -> Images:
    return load_data("digits").train.take(slice(0, count))


def launch(*arguments, processes=2):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [sys.executable, *launcher, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def spoken(result):
    return [line for line in result.stderr.splitlines() if line.startswith("pyro-vae:")]


# --- what each of the two processes does ----------------------------------------------------------------------------


def work(folder: Path) -> int:
    """All that succeeds, in one launch; and a mistake at its end, because a process says one alone."""
    train_several(folder)
    assert main([*TRAIN_AUTOENCODER, "--epochs", "1", "--out", str(folder / "two")]) == 0
    assert main([*RESUME, "--out", str(folder / "one-then-two")]) == 0
    return main([*TRAIN, "--epochs", "-2", "--out", str(folder / "never")])


def train_several(folder: Path) -> None:
    """All runs through `fit`; each process keeps what it had at the end."""
    results = {}
    for name, (spec, count, options) in RUNS.items():
        model = build(dataclasses.replace(spec, seed=peers().rank))  # only the first one's initial weights count
        history = fit(model, images(count), validation=images(3), **options, **QUIET)
        results[name] = {
            "weights": model.state_dict(),
            "epochs": [dataclasses.asdict(epoch) for epoch in history.epochs],
        }
    checkpoint = folder / f"checkpoint-{peers().rank}"
    for name, epochs, resume, keep in (
        ("whole", 4, False, None),
        ("half", 2, False, checkpoint),
        ("resumed", 4, True, checkpoint),
    ):
        model = build(VAE)
        fit(model, images(120), **(RESUMED | {"epochs": epochs}), checkpoint=keep, resume=resume, **QUIET)
        results[name] = {"weights": model.state_dict()}
    results["drawn"] = drawn()
    torch.save(results, folder / f"{peers().rank}.pt")


def drawn() -> torch.Tensor:
    """What dynamic binarization makes, in this process, of an image that both have."""
    seen, original = [], passes.gather

    def gather(*args, **kwargs):
        seen.append(original(*args, **kwargs))
        return seen[-1]

    passes.gather = gather
    twice = images(2).take(torch.tensor([0, 0]))
    fit(build(VAE), twice, epochs=2, binarization="dynamic", batch_size=2, **QUIET)
    passes.gather = original
    return torch.cat(seen)


def train_and_fail(how: str, arguments: list[str]) -> int:
    """The command line, where something happens to the second process in its fifteenth step."""
    original, calls = CompiledSVI.step_tensor, []

    def step(self, *args, **kwargs):
        calls.append(1)
        if peers().rank == 1 and len(calls) == 15:
            if how == "exit":
                os._exit(7)
            if how == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            if how == "nan":
                self.optimizer.optimizer.param_groups[0]["params"][0].data.fill_(math.nan)
        return original(self, *args, **kwargs)

    CompiledSVI.step_tensor = step
    return main(arguments)


# --- tests ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_one(tmp_path_factory):
    """Two runs of the command line by one process: one is complete, one has the first of its two epochs."""
    folder = tmp_path_factory.mktemp("parallel")
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        assert main([*TRAIN_AUTOENCODER, "--epochs", "2", "--out", str(folder / "one"), "--quiet"]) == 0
        assert main([*TRAIN_AUTOENCODER, "--epochs", "1", "--out", str(folder / "one-then-two"), "--quiet"]) == 0
    assert not errors.getvalue()
    return folder


@pytest.fixture(scope="module")
def launched(by_one):
    """What the launch of `work` said, and the folder in which it was done."""
    result = launch(__file__, "work", by_one)
    assert "exitcode  : 2" in result.stderr, result.stderr  # that of the mistake, in the launcher's own report
    return result, by_one


@pytest.fixture(scope="module")
def of_both(launched):
    """What the two processes had at the end of their runs."""
    _, folder = launched
    names = {path.name for path in folder.iterdir()}
    assert names == {"0.pt", "1.pt", "checkpoint-0", "one", "two", "one-then-two"}
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone():
    """The same runs by one process."""
    results = {}
    for name, (spec, count, options) in RUNS.items():
        model = build(spec)
        history = fit(model, images(count), validation=images(3), **options, **QUIET)
        results[name] = {
            "weights": model.state_dict(),
            "epochs": [dataclasses.asdict(epoch) for epoch in history.epochs],
        }
    return results


@pytest.mark.parametrize("name", [*RUNS, "whole", "resumed"])
def test_all_processes_hold_the_same_weights(of_both, name):
    first, second = (of_process[name]["weights"] for of_process in of_both)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["off", "capture", "weighted"])
def test_without_noise_two_processes_are_one_with_the_whole_batch(of_both, alone, name):
    """Also with uneven parts, and with none; and the losses are those of all images."""
    for key, value in alone[name]["weights"].items():
        torch.testing.assert_close(of_both[0][name]["weights"][key], value, rtol=1e-5, atol=1e-6)
    for epoch, expected in zip(of_both[1][name]["epochs"], alone[name]["epochs"], strict=True):
        for key in expected:
            if key not in ("seconds", "images_per_second"):
                assert epoch[key] == pytest.approx(expected[key], rel=1e-5), key


def test_with_noise_the_losses_are_as_good(of_both, alone):
    for epoch, expected in zip(of_both[0]["vae"]["epochs"], alone["vae"]["epochs"], strict=True):
        assert epoch["train_loss_nats"] == pytest.approx(expected["train_loss_nats"], rel=0.01)
        # Of one process and five seeds of its noise, the KL of the last epoch is 0.37 to 0.45 nats, with an sd of 0.03.
        assert epoch["train_kl_nats"] == pytest.approx(expected["train_kl_nats"], abs=4 * 0.03 * 2**0.5)


def test_noise_is_of_ones_own_in_each_process_and_epoch(of_both):
    images_drawn = torch.cat([of_process["drawn"] for of_process in of_both]).flatten(1)
    assert len(images_drawn) == 4
    assert len(images_drawn.unique(dim=0)) == 4


def test_resuming_is_bit_identical(of_both):
    whole, resumed = (of_both[0][name]["weights"] for name in ("whole", "resumed"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_train_by_two_processes_is_that_by_one(launched, tmp_path, capsys):
    """One process writes, and prints; and the run goes on by any number of them."""
    result, folder = launched
    assert result.stdout.count("MSE per pixel") == 1, result.stdout
    assert json.loads((folder / "two" / "environment.json").read_text())["processes"] == 2
    shutil.copytree(folder / "two", tmp_path / "two")
    assert main([*RESUME, "--out", str(tmp_path / "two")]) == 0
    assert not capsys.readouterr().err
    files = [{str(path.relative_to(run)) for path in run.rglob("*.*")} for run in (folder / "one", tmp_path / "two")]
    assert {name for name in files[0] if "epoch" not in name} == {name for name in files[1] if "epoch" not in name}
    the_same_weights(folder / "one", tmp_path / "two")


def test_a_run_of_one_process_goes_on_by_two(launched):
    _, folder = launched
    the_same_weights(folder / "one", folder / "one-then-two")


def the_same_weights(run, other):
    weights, weights_of_two = (load(folder).state_dict() for folder in (run, other))
    for key in weights:
        torch.testing.assert_close(weights_of_two[key], weights[key], rtol=1e-5, atol=1e-6)


def test_bad_input_is_one_line_and_exit_code_2(launched):
    """Which both processes see; and nothing was said before."""
    result, folder = launched
    assert result.returncode != 0
    assert spoken(result) == ["pyro-vae: epochs: given -2, expected a whole number of at least 1"]
    assert not (folder / "never").exists()


def test_bad_input_that_one_process_sees_stops_all(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    result = launch("-m", "pyro_vae", *TRAIN, "--out", tmp_path)
    assert result.returncode != 0
    assert spoken(result) == [f"pyro-vae: out: given '{tmp_path}', expected a new or empty folder, or one of a run"]
    assert "exitcode  : 2" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "at epoch 2, step 4; try a smaller lr"),
        ("signal", "stopped; finished epochs are saved"),
        ("exit", "another process stopped"),
    ],
)
def test_where_one_process_fails_all_stop(tmp_path, how, message):
    """With one line that says why, and the last checkpoint."""
    arguments = [*TRAIN, "--binarization", "threshold", "--epochs", "3", "--quiet", "--out", tmp_path / "run"]
    result = launch(__file__, how, *arguments)
    assert result.returncode != 0
    (line,) = spoken(result)
    assert message in line
    assert result.stderr.count("Traceback") == 1, result.stderr  # the launcher's
    assert [path.name[:11] for path in (tmp_path / "run" / "checkpoint").iterdir()] == ["epoch-00001"]
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_parts_are_all_rows_once():
    for rows in range(8):
        parts = [Peers(rank, 3).part(torch.arange(rows)) for rank in range(3)]
        assert torch.equal(torch.cat(parts), torch.arange(rows))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_seeds_of_noise_are_all_different():
    seeds = {Peers(rank, 4).seed(seed, epoch) for rank in range(4) for seed in range(3) for epoch in range(5)}
    assert len(seeds) == 4 * 3 * 5


@pytest.fixture
def second_of_two(monkeypatch):
    for name, value in {
        "RANK": 1,
        "LOCAL_RANK": 1,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": 1,
    }.items():
        monkeypatch.setenv(name, str(value))


def test_each_process_has_its_own_gpu(second_of_two, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device(torch.device("cuda")) == torch.device("cuda", 1)
    assert own_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(InputError, match="each process takes a GPU of its own"):
        own_device(torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="which has 1"):
        own_device(torch.device("cuda"))


def test_batch_statistics_are_refused(second_of_two, tiny):
    model = build(VAE)
    model.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4))
    with pytest.raises(InputError, match="model: given 'one with BatchNorm'"):
        fit(model, tiny, epochs=1, **QUIET)
    objective = {"kind": "mean-field", "free_bits": 0.5}
    with pytest.raises(InputError, match="free_bits: given 0.5, expected 0, where the batch is divided"):
        fit(build(VAE), tiny, epochs=1, objective=objective, **QUIET)
    with pytest.raises(InputError, match="quantizer: given 'vector', expected finite-scalar"):
        fit(build(Spec(model="vector-quantized")), tiny, epochs=1, **QUIET)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    sys.exit(work(Path(*rest)) if what == "work" else train_and_fail(what, rest))
