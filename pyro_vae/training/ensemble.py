"""`fit_many`: one model from many seeds, trained side by side in one step, or in turn where that is faster."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae._utils import checks, files
from pyro_vae._utils.device import choose_device
from pyro_vae._utils.environment import environment
from pyro_vae._utils.progress import Progress, duration, say
from pyro_vae._utils.rng import seeded_rng
from pyro_vae.data import Images, binarize
from pyro_vae.data.images import train_validation_split
from pyro_vae.models import Model, build
from pyro_vae.models.base import batch_arguments, check_set, check_training_images, has_batch_norm, warn_if_not_binary
from pyro_vae.models.weights import save
from pyro_vae.objectives import Losses, beta_at, with_objective
from pyro_vae.part_classes import check_trusted
from pyro_vae.spec import FIELDS_FREE_ON_RESUME, WEIGHTS, Spec
from pyro_vae.training.backend import WORTH_COMPILING, backend_on
from pyro_vae.training.checkpoint import read_checkpoint, same_settings, write_checkpoint
from pyro_vae.training.distributed import peers
from pyro_vae.training.ensemble_step import Members
from pyro_vae.training.fit import fit
from pyro_vae.training.history import Epoch, History, epoch_of

_OF_PIXELS = "a model of pixels alone; `fit` trains it, for one seed after another"


def fit_many(
    spec: Spec,
    images: Images,
    *,
    seeds: Sequence[int],
    device: str | torch.device = "auto",
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> list[tuple[Model, History]]:
    """Trains the model of a `Spec` once for each seed, all of them in one step.

    Each member is the run of `replace(spec, seed=seed)`: its split into training and validation images,
    its initial weights, its order of the images and its noise come from its seed. Only the arithmetic is shared: the
    captured step of one member is mapped over all (`torch.vmap`), and Adam steps all parameters at once, element by
    element. Under `inductor` on a CPU :func:`~pyro_vae.fit` trains one member after the other, because its compiled
    step takes less time there than the mapped one does for each member. On a CPU each member draws from its own
    generator, as :func:`~pyro_vae.fit` does, so that its results are those of a single run up to the rounding of
    products. On CUDA the members draw from one generator: they are independent, and equal to single runs in
    distribution.

    All members are in memory at once, and so are the training images of each (uint8) if validation images are held out.

    Args:
        spec: the definition of the runs; its own seed is not used. `compile` may not be `off`; `auto` is `cudagraph` on
            CUDA, else `capture`, and `inductor` from 15,000 steps on, those of all members counted. On other devices
            than a CPU Inductor compiles the step of full batches only.
        images: training images, from which the spec's validation fraction is held out, such as `load_data(...).train`.
        seeds: one for each member.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        out: a new folder, which gets a `checkpoint/` after each epoch, and at the end a run folder for each seed,
            `seed-0` and so on, with everything but a checkpoint.
        resume: resume from the checkpoint in `out`.
        progress: a progress bar where standard error is a terminal; else, in a log or a notebook, a line per epoch.

    Returns:
        For each seed its model, on the CPU, and the losses of each epoch. The seconds are those of all together,
        unless they are trained in turn.

    Raises:
        InputError: a wrong argument, or a checkpoint that is damaged or was written under other settings.
        FloatingPointError: a loss or weight of a member is not finite. The message names its seed, the epoch, and the
            step; it comes at the end of that epoch.

    >>> from pyro_vae import Spec, load_data
    >>> spec = Spec(latent_dim=2, epochs=1, binarization="dynamic")
    >>> runs = fit_many(spec, load_data("digits").train.draw(64), seeds=[0, 1], progress=False)
    >>> [len(history.epochs) for model, history in runs]
    [1, 1]
    """
    check_set("images", images)
    specs = _specs(spec, images, seeds)
    seeds = [member.seed for member in specs]
    spec = specs[0]
    target = _target(spec, device)
    folder = _folder(out, resume)
    begun_in_turn = folder is not None and resume and any((folder / "checkpoint").glob("seed-*"))
    stored = read_checkpoint(folder / "checkpoint") if folder is not None and resume and not begun_in_turn else None
    if stored is not None and spec.objective == "auto":
        objective = {"objective": stored["settings"]["objective"]}
        check_trusted(objective, folder)
        specs = [dataclasses.replace(member, **objective) for member in specs]
    specs = [with_objective(member, images) for member in specs]
    spec = specs[0]
    model = build(spec)
    _check_model(model, images)
    train, held_out = _image_sets(specs, images, model, target)
    steps_per_epoch = math.ceil(train.count / spec.batch_size)
    backend = spec.compile
    if backend == "auto":
        backend = _backend(target, steps=spec.epochs * steps_per_epoch * len(seeds))
    if begun_in_turn or (stored is None and backend == "inductor" and target.type == "cpu"):
        return _in_turn(specs, images, folder, resume, progress)
    settings = {name: value for name, value in spec.to_dict().items() if name not in (*FIELDS_FREE_ON_RESUME, "seed")}
    settings |= {"seeds": list(seeds), "images": images.fingerprint, "precision": spec.precision}
    epochs: list[list[Epoch]] = []  # a row per epoch, an entry per member

    def state(members: Members) -> dict[str, Any]:
        numbers = [[dataclasses.asdict(epoch) for epoch in row] for row in epochs]
        return {"settings": settings, "backend": members.backend, "epochs": numbers, "members": members.state()}

    # CUDA draws from this common generator; on a CPU nothing is drawn from it.
    with seeded_rng(target, hash(tuple(seeds)) % 2**63), pyro.get_param_store().scope():
        members = Members(specs, target, backend)
        if stored is not None:
            epochs += _resumed(members, stored, settings, spec.epochs, target)
        elif folder is not None:
            write_checkpoint(folder / "checkpoint", 0, state(members))
        done = len(epochs) * steps_per_epoch
        total = spec.epochs * steps_per_epoch
        with Progress(total, "step", initial=done, visible=progress, timed=False) as bar:
            for number in range(len(epochs) + 1, spec.epochs + 1):
                started = time.perf_counter()
                losses = []
                for index in train.batches(spec.batch_size, members.generators):
                    members.set_beta(beta_at(done, spec.beta, spec.beta_warmup * steps_per_epoch))
                    losses.append(members.step(train.pixels, index))
                    done += 1
                    bar.update()
                of_train = members.losses(losses, train.count, f"epoch {number}")
                seconds = time.perf_counter() - started
                members.check_weights(number)
                of_held_out: Sequence[Losses | None] = [None] * len(seeds)
                if held_out.count:
                    losses = [members.evaluate(held_out.pixels, i) for i in held_out.batches(spec.batch_size)]
                    of_held_out = members.losses(losses, held_out.count, f"epoch {number}, validation")
                beta = beta_at(done - 1, spec.beta, spec.beta_warmup * steps_per_epoch)
                pairs = zip(of_train, of_held_out, strict=True)
                epochs.append(
                    [epoch_of(number, beta, spec.lr, *of_member, seconds, train.count) for of_member in pairs]
                )
                mean = sum(member.loss for member in of_train) / len(seeds)
                summary = f"{mean:.2f} nats, the mean of {len(seeds)} seeds"
                bar.describe(summary)
                bar.line(f"epoch {number} of {spec.epochs}: {summary}; {duration(seconds)}, {bar.left()}")
                if folder is not None:
                    write_checkpoint(folder / "checkpoint", number, state(members))
        members.give_back()
    runs = [
        (model, History(tuple(rows))) for model, rows in zip(members.models, zip(*epochs, strict=True), strict=True)
    ]
    if folder is not None:
        _write_runs(folder, runs, specs, _surroundings(str(device), images, specs))
    return runs


def _in_turn(
    specs: Sequence[Spec], images: Images, folder: Path | None, resume: bool, progress: bool
) -> list[tuple[Model, History]]:
    """Trains one member after the other by `fit`, whose compiled step has kernels that the mapped one has not."""
    runs = []
    for number, spec in enumerate(specs, start=1):
        if progress:
            say(f"seed {spec.seed}, {number} of {len(specs)}")
        train, validation = train_validation_split(images, spec.validation_fraction, spec.seed)
        model = build(spec)
        checkpoint = None if folder is None else folder / "checkpoint" / f"seed-{spec.seed}"
        begun = checkpoint is not None and checkpoint.exists()
        try:
            history = fit(
                model,
                train,
                validation=validation,
                device="cpu",
                compile="inductor",
                checkpoint=checkpoint,
                resume=resume and begun,
                progress=progress,
            )
        except FloatingPointError as error:
            raise FloatingPointError(f"seed {spec.seed}: {error}") from error
        model.spec = spec
        runs.append((model, history))
    if folder is not None:
        _write_runs(folder, runs, specs, _surroundings("cpu", images, specs))
    return runs


def _check_model(model: Model, images: Images) -> None:
    """Checks that one step can train all members: it takes pixels alone, and no member's batch has statistics."""
    if has_batch_norm(model):
        raise checks.fail("spec", "a model with batch normalization", "one without; fit trains one seed with it")
    names = list(batch_arguments(model, images))
    if names or hasattr(model, "training_images"):
        described = f"{type(model).__name__}{', which takes ' + ', '.join(names) if names else ''}"
        expected = "a model of pixels alone; `fit` trains it, for one seed after another"
        raise checks.fail("spec.model", described, expected)
    check_training_images(model, images)


def _target(spec: Spec, device: str | torch.device) -> torch.device:
    """The device, where the spec can be trained on it, and in this process alone."""
    target = choose_device(device)
    if spec.compile == "cudagraph" and target.type != "cuda":
        raise checks.fail("compile", spec.compile, f"another backend for {target}: it is of CUDA")
    if (size := peers().size) > 1:
        raise checks.fail("processes", size, "one: fit_many trains in a single process")
    return target


def _resumed(
    members: Members, stored: dict[str, Any], settings: dict[str, Any], num_epochs: int, device: torch.device
) -> list[list[Epoch]]:
    """Puts a checkpoint's state into the members; the epochs that they have had."""
    # Fields that are newer than the checkpoint have their defaults.
    defaults = {name: value for name, value in Spec().to_dict().items() if name in settings}
    same_settings(defaults | stored["settings"], settings)
    epochs = [[Epoch(**epoch) for epoch in row] for row in stored["epochs"]]
    if len(epochs) > num_epochs:
        raise checks.fail("epochs", num_epochs, f"at least {len(epochs)}, which the checkpoint has already")
    members.load(stored["members"])
    members.backend = backend_on(device, stored["backend"])  # another backend would round differently
    return epochs


def _image_sets(specs: list[Spec], images: Images, model: Model, device: torch.device) -> tuple[_Pixels, _Pixels]:
    """The training images of all members, and those held out, each split by its member's seed."""
    spec = specs[0]
    splits = [
        train_validation_split(images, member.validation_fraction, member.seed)
        for member in (specs if spec.validation_fraction else specs[:1])
    ]
    train = [binarize(part, spec.binarization) for part, _ in splits]
    warn_if_not_binary(model, train[0], spec.binarization)
    held_out = [binarize(part, spec.binarization) for _, part in splits if part is not None]
    return _on_device(train, device, len(specs)), _on_device(held_out, device, len(specs))


def _backend(device: torch.device, steps: int) -> str:
    """What `auto` is, for so many steps, those of all members counted."""
    if device.type == "cuda":
        return "cudagraph"
    return "inductor" if steps >= WORTH_COMPILING and device.type == "cpu" else "capture"


def _surroundings(device: str, images: Images, specs: Sequence[Spec]) -> dict[str, Any]:
    of_images = {"images": images.fingerprint, "num_images": len(images)}
    return environment(device) | of_images | {"processes": 1, "seeds": [spec.seed for spec in specs]}


def _write_runs(
    folder: Path, runs: Sequence[tuple[Model, History]], specs: Sequence[Spec], surroundings: dict[str, Any]
) -> None:
    """A run folder for each member."""
    for (model, history), member in zip(runs, specs, strict=True):
        run_folder = folder / f"seed-{member.seed}"
        files.write(run_folder / "spec.json", member.to_json() + "\n")
        files.write_json(run_folder / "environment.json", surroundings)
        history.to_csv(run_folder / "history.csv")
        save(model, run_folder / WEIGHTS)


def _specs(spec: Spec, images: Images, seeds: Sequence[int]) -> list[Spec]:
    """The spec of each member, checked."""
    if not isinstance(spec, Spec):
        raise checks.fail("spec", spec, "a Spec")
    if spec.compile == "off":
        raise checks.fail("compile", spec.compile, "auto or a backend: the step of many seeds is a captured one")
    parts = (("optimizer", "adam"), ("schedule", "constant"), ("sampler", "shuffle"))
    for name, only in (*parts, ("clip_norm", 0.0), ("ema", 0.0)):
        if getattr(spec, name) != only:
            raise checks.fail(name, getattr(spec, name), f"{only}: fit_many has no other; fit trains one seed with it")
    if spec.image_shape not in (None, images.shape):
        raise checks.fail("image_shape", spec.image_shape, f"{images.shape}, as the images have")
    if hasattr(seeds, "tolist"):  # an array
        seeds = seeds.tolist()
    if not isinstance(seeds, Sequence) or isinstance(seeds, str) or not seeds:
        raise checks.fail("seeds", seeds, "one or more whole numbers, each of them once")
    seeds = [checks.seed("seeds", seed) for seed in seeds]
    if len({*seeds}) < len(seeds):
        raise checks.fail("seeds", seeds, "each seed once")
    return [dataclasses.replace(spec, image_shape=images.shape, seed=seed) for seed in seeds]


def _folder(out: str | os.PathLike[str] | None, resume: bool) -> Path | None:
    if out is None:
        if resume:
            raise checks.fail("out", None, "the folder to resume from")
        return None
    folder = checks.path("out", out)
    if folder.exists() and not folder.is_dir():
        raise checks.fail("out", str(folder), "a folder, or a name that is free")
    if not resume and folder.is_dir() and any(folder.iterdir()):
        raise checks.fail("out", str(folder), "a new or empty folder (resume=True resumes the training in it)")
    return folder


@dataclasses.dataclass(frozen=True)
class _Pixels:
    """The images of all members, one set after the other; a single set if all have the same."""

    pixels: Tensor
    count: int  # images of a member
    starts: Tensor  # where each member's begin, (S, 1)

    def batches(self, batch_size: int, generators: Sequence[torch.Generator] = ()) -> Iterator[Tensor]:
        """Indices into `pixels`, (S, B), in an order of each member if there are generators."""
        device = self.pixels.device
        if generators:
            order = torch.stack(
                [torch.randperm(self.count, generator=generator, device=device) for generator in generators]
            )
        else:
            order = torch.arange(self.count, device=device).expand(len(self.starts), -1)
        yield from (order + self.starts).split(batch_size, dim=1)


def _on_device(parts: list[Images], device: torch.device, members: int) -> _Pixels:
    if not parts:
        return _Pixels(torch.empty(0), 0, torch.empty(0))
    count = len(parts[0])
    pixels = torch.cat([part.pixels.to(device) for part in parts])
    starts = torch.arange(members, device=device) * (count if len(parts) > 1 else 0)
    return _Pixels(pixels, count, starts[:, None])
