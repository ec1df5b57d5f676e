"""Progress where standard error is a terminal, a file, closed, or not there at all."""

import io
import re
import sys

import pytest

from pyro_vae import Spec, build, fit, fit_many
from pyro_vae._utils import progress
from pyro_vae._utils.progress import Progress, duration, say, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


def train(images, **options):
    model = build(Spec(latent_dim=2, hidden=(8,)))
    return fit(model, images, epochs=2, validation=images, binarization="threshold", device="cpu", **options)


def test_a_training_in_a_log_is_a_line_per_epoch(tiny, capsys):
    history = train(tiny)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for line, epoch in zip(lines, history.epochs, strict=True):
        assert line.startswith(f"epoch {epoch.epoch} of 2: {epoch.train_loss_nats:.2f} nats (reconstruction ")
        assert f"KL {epoch.train_kl_nats:.2f}), validation {epoch.validation_loss_nats:.2f}; " in line
        assert re.search(r"; \d+\.\d s, \d+\.\d s left$", line)


def test_many_seeds_in_a_log_are_a_line_per_epoch(tiny, capsys):
    fit_many(Spec(latent_dim=2, hidden=(8,), epochs=2, binarization="threshold"), tiny, seeds=[0, 1], device="cpu")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert "the mean of 2 seeds" in lines[0]


def test_nothing_is_said_unasked(tiny, capsys):
    train(tiny, progress=False)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar_and_no_lines(tiny, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    train(tiny)
    assert "step/s" in terminal.getvalue()
    assert "epoch 1 of 2" not in terminal.getvalue()


@pytest.mark.parametrize("stderr", [None, Broken(), "closed"])
def test_without_a_standard_error_the_work_goes_on(tiny, monkeypatch, stderr):
    if stderr == "closed":
        stderr = io.StringIO()
        stderr.close()
    monkeypatch.setattr(sys, "stderr", stderr)
    say("nobody hears")
    assert len(train(tiny).epochs) == 2


def test_something_long_tells_how_far_it_is(capsys, monkeypatch):
    assert list(track(range(3), 3, "batch", "ELBO", visible=True)) == [0, 1, 2]
    assert capsys.readouterr().err == ""  # it was short
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert list(track(range(2), 2, "batch", "ELBO", visible=True)) == [0, 1]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(", ")[0] for line in lines] == ["ELBO: 1 of 2 batches", "ELBO: 2 of 2 batches"]
    list(track(range(2), 2, "batch", "ELBO", visible=False))
    assert capsys.readouterr().err == ""


def test_time_left_counts_what_was_done_now_only(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    bar = Progress(10, "epoch", initial=4)
    assert bar.left() == "time left unknown"
    clock[0] += 20
    bar.update(2)
    assert bar.left() == "40.0 s left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min 0 s"), (3599.6, "1 h 0 min"), (90_000, "25 h 0 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
