"""Seeding torch's default generators, from which Pyro draws, and restoring their states afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def seeded_rng(device: torch.device, seed: int) -> Iterator[None]:
    """Seeds the default generators of the CPU and of `device` inside, and restores their states afterwards.

    >>> with seeded_rng(torch.device("cpu"), seed=0):
    ...     inside = torch.rand(2)
    """
    with preserved_rng([device]):
        seed_generators(device, seed)
        yield


NOISE_BLOCK = 100  # images (or samples) whose noise is drawn together, so that it doesn't depend on the batch size


def stream_seed(seed: int, stream: str) -> int:
    """A distinct seed for each named stream of noise under a common `seed`: 63 bits of the SHA-256 of both.

    Two estimates whose generators started from the same seed would share their draws: the noise of a posterior sample
    would be the code of a sample from the prior.

    >>> stream_seed(0, "bounds 0") == stream_seed(0, "samples 0")
    False
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {stream}".encode()).digest()[:8], "little") >> 1


@contextmanager
def preserved_rng(devices: Iterable[torch.device]) -> Iterator[None]:
    """Restores the states of the default generators of the CPU and of `devices` on exit."""
    before = [(device, generator_states(device)) for device in {torch.device("cpu"), *devices}]
    try:
        yield
    finally:
        for device, states in before:
            set_generator_states(device, states)


def seed_generators(device: torch.device, seed: int) -> None:
    """Seeds the default generators of the CPU and of `device`."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of the default generators of the CPU and of `device`."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_generator_states(device: torch.device, states: dict[str, Tensor]) -> None:
    """Restores the states of the default generators; states of a device that is not in use now are ignored."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
