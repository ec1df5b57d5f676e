"""`fit`: the one training loop."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import ELBO

from pyro_vae._utils import checks
from pyro_vae._utils.device import choose_device
from pyro_vae._utils.rng import preserved_rng, seeded_rng
from pyro_vae.data import Images, binarize
from pyro_vae.models import Model
from pyro_vae.models.base import (
    batch_arguments,
    check_calls,
    check_model,
    check_set,
    check_training_images,
    device_of,
    evaluating,
    has_batch_norm,
    move,
    warn_if_not_binary,
)
from pyro_vae.models.binding import bound
from pyro_vae.models.weights import save
from pyro_vae.parts import AnyPart, Part
from pyro_vae.spec import PARTS, Spec
from pyro_vae.training import distributed
from pyro_vae.training.averaging import WeightAverage
from pyro_vae.training.checkpoint import read_checkpoint, write_checkpoint
from pyro_vae.training.distributed import Peers
from pyro_vae.training.failures import check_finite_weights
from pyro_vae.training.history import History, epoch_line, epoch_of, summary
from pyro_vae.training.optimizers import Optimizer, described, make_optimizer, sets_rate
from pyro_vae.training.passes import Passes, Source
from pyro_vae.training.sampling import Sampler, make_sampler, weights_of
from pyro_vae.training.schedules import LearningRate, Scheduler
from pyro_vae.training.settings import SETTINGS, Settings
from pyro_vae.training.state import State


def fit(
    model: Model,
    images: Images,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: Optimizer | None = None,
    schedule: Scheduler | None = None,
    sampler: Sampler | None = None,
    clip_norm: float | None = None,
    ema: float | None = None,
    beta: float | None = None,
    beta_warmup: int | None = None,
    objective: AnyPart | ELBO | None = None,
    particles: int | None = None,
    validation: Images | None = None,
    binarization: str | None = None,
    dequantize: bool | None = None,
    device: str | torch.device = "auto",
    compile: str | None = None,
    precision: str | None = None,
    seed: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    snapshots: Mapping[int, str | os.PathLike[str]] | None = None,
    resume: bool = False,
    on_start: Callable[[], object] | None = None,
    callback: Callable[[int, Model, History], object] | None = None,
    progress: bool = True,
) -> History:
    r"""Trains a model/guide pair by stochastic variational inference.

    The model's spec decides: an argument that is a field of :class:`~pyro_vae.Spec` and is not passed is taken from
    `model.spec`, or from the defaults of `Spec` if the model was composed by hand. An argument that is passed holds; if
    it contradicts the spec, a warning says so. `model.spec` is then what the model was trained with, which
    :func:`~pyro_vae.evaluate` goes by and :func:`~pyro_vae.save` stores, as far as a spec can name it: an optimizer, a
    schedule, a sampler or an objective that is a class, a function or an object leaves the spec as it is, while
    `"module:Class"` is recorded; and the seed stays that of the initial weights. A model composed by hand has no spec
    to record it in: pass its `binarization` and `dequantize` to :func:`~pyro_vae.evaluate` as well. Nothing is held out
    of `images`: the spec's `validation_fraction` is for `pyro-vae train`, which splits the training images itself.

    Under `torchrun`, or inside a process group of PyTorch's, all processes are one training: each takes its part of
    each batch, draws the noise of its own part, and steps by the sum of all gradients. So all hold the same weights,
    and these are, up to rounding, those of one process where no noise is drawn; where there is noise it is other noise
    of the same distribution. The first process alone reads and writes the checkpoint, whose training may resume with
    another number of processes. The loss must be a sum over images: a latent variable outside the plate of the images
    would be counted once per process.

    Args:
        model: a module with `model(x, beta)` and `guide(x, beta)`, such as a `VAE`. It is moved to the device and stays
            there. Labels and covariates that the programs name come with the batch.
        images: the training images; a model with a method `training_images` is trained on what that makes of them,
            and validated on what its `validation_images` makes of the others.
        epochs: passes over them, those before a resume counted in.
        batch_size: images per step, of all processes together; the last batch of an epoch may be shorter.
        lr: learning rate of the optimizer, which the schedule starts from.
        optimizer: `adam`, `adamw`, `adamax` or `sgd`, with options as in `{"kind": "adam", "betas": (0.9, 0.99)}`; or a
            class of torch's optimizers, called with the parameters and `lr`; or a function of the parameters, which
            then sets the rate (`lr` may not say another).
        schedule: `constant`, `cosine`, `step` or `warm-up`, with options (see :mod:`pyro_vae.training.schedules`), all
            of which move the learning rate with each step; or a class of torch's schedulers, or a function of the
            optimizer that makes a scheduler. Those move with each epoch, or, where they have an argument
            `steps_per_epoch`, which they are passed then, with each step.
        sampler: which images an epoch has: `shuffle`, each once, or `latent-density` with its options, drawn with
            replacement by :class:`~pyro_vae.uses.debias.LatentDensity`; or a function `(model, images)` that returns a
            weight for each image, or None for each once. It is called once before the training, whose result is not
            used, and at the beginning of each epoch, with the model in evaluation mode. The training losses of an epoch
            are means over its draws.
        clip_norm: largest Euclidean norm of the gradient of a step, that of a sum over the images of the batch; a
            larger gradient is scaled down to it. 0 clips nothing.
        ema: decay of an exponential moving average of the weights (see
            :class:`~pyro_vae.training.averaging.WeightAverage`): the weights of the validation, the callback and the
            snapshots, and those that the model has in the end. 0 averages nothing.
        beta: weight of the KL term; 0 drops it.
        beta_warmup: epochs over which beta rises linearly, step by step; 0 where beta is 0.
        objective: `elbo`, `mean-field`, `path-gradient`, `iwae` or `iwae-dreg` (see
            :func:`pyro_vae.objectives.objective`), or one of Pyro's `Trace..._ELBO` or `RenyiELBO` objects. `auto` is
            `path-gradient` where the posterior takes it, else `mean-field` or `elbo` (see
            :class:`pyro_vae.objectives.Auto`); on resuming, what the checkpoint was trained with.
        particles: posterior samples per image and step, for an objective given by name.
        validation: images on which the loss is estimated after each epoch.
        binarization: `none`, `static`, `threshold`, or `dynamic` (redrawn in each batch).
        dequantize: train on (level + u) / 256 with uniform noise u, redrawn in each batch; for likelihoods that are
            densities on the unit interval.
        device: `auto` is CUDA, else Apple's MPS, else the CPU; of several processes, each takes a GPU of its own.
        compile: how the step runs: `off`, `capture`, `inductor` or `cudagraph`, as in
            :class:`~pyro_vae.svi.CompiledSVI`. `auto` takes `off` below 1,000 steps and one more for each tensor
            operation of the programs (an MLP has 34, one with 32 planar layers 1,282); then `cudagraph` on CUDA, and on
            a CPU `capture`, which gives the same numbers as `off`, and `inductor` from 15,000 steps on.
        precision: `fp32`, or `bf16` for the matrix products and convolutions of the captured step, where the device has
            instructions for bfloat16.
        seed: of the order of the images and of all noise. The global generators are as before afterwards.
        checkpoint: a folder, in which the state is saved after each epoch (and before the first).
        snapshots: files to which the weights are saved after some epochs, by the number of the epoch.
        resume: from the checkpoint there, on the CPU to the very same weights as without the interruption, and
            with `inductor` up to rounding. Functions are compared by name, and a `functools.partial` by its arguments
            as well; lambdas can't be told apart.
        callback: `callback(epoch, model, history)`, called by the first process after each epoch, and once on resuming;
            what it returns stops the training where it is true. The model is in evaluation mode, and what it draws does
            not change the training.
        on_start: called by the first process once everything is checked, before the first step and before any file is
            written.
        progress: a progress bar where standard error is a terminal; else, in a log or a notebook, a line per epoch.

    Returns:
        The losses of each epoch, those before a resume included.

    Raises:
        InputError: a wrong argument, or a checkpoint that is damaged or was written under other settings.
        torch.OutOfMemoryError: the device has no room for a step; the last checkpoint is good.
        FloatingPointError: the loss or a weight is not finite. The message names epoch and step (of several processes
            perhaps the step after, where another process spoke first); the last checkpoint is good.
        PeerStoppedError: another process of the training stopped.

    >>> from pyro_vae import Spec, build, load_data
    >>> model = build(Spec(latent_dim=2, binarization="dynamic", epochs=1))
    >>> history = fit(model, load_data("digits").train, progress=False)
    >>> len(history.epochs)
    1
    """
    told = {name: value for name, value in locals().items() if name in SETTINGS}
    _check_arguments(model, images, callback)
    settings, here = Settings(**bound(model, "fit", **told)), distributed.peers()
    settings.check_model(model)
    objective = settings.resolved_objective(model, images)
    spec = _recorded(model, told)
    checkpoint, snapshots = _files(checkpoint, snapshots, resume, here)
    target = distributed.own_device(choose_device(device))
    distributed.refuse_batch_statistics(model, settings.elbo(objective), here)
    train, held_out = _image_sets(model, images, validation, settings, here)
    steps_per_epoch = math.ceil(len(train) / settings.batch_size)
    refusal, store = _restored_if_refused(model), pyro.get_param_store()
    with refusal, distributed.joined(target), seeded_rng(target, settings.seed), store.scope():
        move(model, target)
        model.train()
        stepping = _optimizer(model, settings, lr, here)
        sampling = make_sampler(settings.sampler)
        weights_of(sampling, model, train)  # which may refuse the model, before any file is written
        rate = LearningRate(stepping, settings.schedule, settings.epochs, steps_per_epoch)
        average = WeightAverage(model, settings.ema) if settings.ema else None
        as_stored = settings.to_dict(model, objective, train, held_out)
        state = State(
            model, stepping, target, settings, as_stored, objective, settings.compile, steps_per_epoch, rate, average
        )
        train_source = Source.of(train, model, target, settings)
        held_out_source = None if held_out is None else Source.of(held_out, model, target, settings)
        stored = here.from_first(partial(_stored, checkpoint)) if resume else None
        if stored is not None:
            state.resume(stored)
        passes = Passes.of(state, train_source, here, visible=progress and here.rank == 0)
        model.spec = spec
        if on_start is not None and here.rank == 0:
            on_start()
        if checkpoint is not None and stored is None:
            write_checkpoint(checkpoint, 0, state.to_dict())  # so that an interrupted first epoch leaves one, too
        with passes.bar as bar:
            while not _is_stopped(callback, state, here) and len(state.epochs) < settings.epochs:
                number = len(state.epochs) + 1
                started = time.perf_counter()
                train_losses = passes.step(number, weights_of(sampling, model, train))
                seconds = time.perf_counter() - started
                check_finite_weights(model, number)
                with state.averaged(number):
                    held_out_losses = None if held_out_source is None else passes.estimate(held_out_source, number)
                    if number in snapshots:  # before the checkpoint, from which it would be lost
                        save(model, snapshots[number])
                beta_now = passes.beta_at(number * steps_per_epoch - 1)
                lr_now = rate.of_last_step
                epoch = epoch_of(number, beta_now, lr_now, train_losses, held_out_losses, seconds, len(train))
                state.epochs.append(epoch)
                rate.after_epoch((held_out_losses or train_losses).loss)
                if checkpoint is not None:
                    write_checkpoint(checkpoint, number, state.to_dict())
                bar.describe(summary(epoch))
                bar.line(epoch_line(epoch, settings.epochs, bar.left()))
    if average is not None:
        average.put(len(state.epochs) * steps_per_epoch)
    model.eval()
    return state.history


def _check_arguments(model: Model, images: Images, callback: object) -> None:
    check_model(model, "model", "guide")
    check_set("images", images)
    check_calls(model, batch_arguments(model, images))
    if callback is None:
        return
    expected = "a function of the epoch, the model and the history"
    if not callable(callback):
        raise checks.fail("callback", callback, expected)
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):  # of a function in C
        return
    try:
        signature.bind(1, None, None)
    except TypeError as error:
        raise checks.fail("callback", f"a function of the arguments {signature}", f"{expected} ({error})") from error


def _optimizer(model: Model, settings: Settings, lr: float | None, here: Peers) -> torch.optim.Optimizer:
    """The optimizer of the model's parameters, which adds the gradients of all processes up before each step."""
    optimizer = make_optimizer(settings.optimizer, model.parameters(), settings.lr)
    _check_rate(lr, settings, optimizer)
    optimizer.zero_grad()  # an interrupted step may have left gradients
    here.add_gradients_up(optimizer, settings.clip_norm)
    return optimizer


def _check_rate(lr: float | None, settings: Settings, optimizer: torch.optim.Optimizer) -> None:
    """A learning rate that is passed is that of the optimizer; a function may set another."""
    rates = [group.get("lr") for group in optimizer.param_groups]
    if lr is not None and sets_rate(settings.optimizer) and settings.lr not in rates:
        expected = f"None: the optimizer is a function, {described(settings.optimizer)}, which sets the rate itself"
        raise checks.fail("lr", lr, expected)


@contextmanager
def _restored_if_refused(model: Model) -> Iterator[None]:
    """After an input error inside, the model is on its device and in its modes, as before."""
    device, modes = device_of(model), [(module, module.training) for module in model.modules()]
    try:
        yield
    except checks.InputError:
        model.to(device)
        for module, training in modes:
            module.training = training
        raise


def _is_stopped(callback: Callable[[int, Model, History], object] | None, state: State, here: Peers) -> bool:
    """Whether the callback stops the training after the epochs so far; the first process calls it."""
    if callback is None or not state.epochs:
        return False

    def ask() -> bool:
        epochs = len(state.epochs)
        with state.averaged(epochs), evaluating(state.model, gradients=True), preserved_rng([state.device]):
            return bool(callback(epochs, state.model, state.history))

    return bool(here.from_first(ask))


def _image_sets(
    model: Model, images: Images, validation: Images | None, settings: Settings, here: Peers
) -> tuple[Images, Images | None]:
    """The training and the validation images, checked, and binarized if that is done once."""
    if validation is not None:
        check_set("validation", validation)
    check_training_images(model, images, validation)
    chosen: Any = getattr(model, "training_images", None)
    if chosen is not None:  # with some labels hidden, say; validation is without any
        images = chosen(images)
        held_out_of: Any = getattr(model, "validation_images", None) or (lambda each: each.with_known_labels(0))
        validation = None if validation is None else held_out_of(validation)
    train = binarize(images, settings.binarization)
    held_out = None if validation is None else binarize(validation, settings.binarization)
    if has_batch_norm(model) and len(train) % settings.batch_size == 1:
        expected = f"one that leaves no batch of a single image of {len(train)}: batch normalization needs a variance"
        raise checks.fail("batch_size", settings.batch_size, expected)
    if here.rank == 0:
        warn_if_not_binary(model, train, settings.binarization, stacklevel=4)
    return train, held_out


def _files(
    checkpoint: Any, snapshots: Any, resume: bool, here: Peers
) -> tuple[Path | None, Mapping[int, str | os.PathLike[str]]]:
    """The folder of checkpoints and the files of snapshots, checked; none in other processes than the first."""
    if snapshots is not None and not isinstance(snapshots, Mapping):
        raise checks.fail("snapshots", snapshots, "files by the number of the epoch, a dictionary")
    if resume and checkpoint is None:
        raise checks.fail("checkpoint", None, "the folder to resume from")
    folder = None if checkpoint is None else checks.path("checkpoint", checkpoint)
    if here.rank > 0:
        return None, {}
    if folder is not None and not resume and read_checkpoint(folder) is not None:
        raise checks.fail("checkpoint", str(folder), "a folder without one; resume=True resumes from it")
    return folder, snapshots or {}


def _recorded(model: Model, told: Mapping[str, Any]) -> Spec | None:
    """The model's spec updated with the arguments of `fit`, as far as specs have them; its seed remains."""
    spec = getattr(model, "spec", None)
    if not isinstance(spec, Spec):
        return spec
    said = {name: value for name, value in told.items() if value is not None and name != "seed"}
    plain = {
        name: value for name, value in said.items() if name not in PARTS or isinstance(value, str | Mapping | Part)
    }
    return dataclasses.replace(spec, **plain)


def _stored(checkpoint: Path | None) -> dict[str, Any] | None:
    return None if checkpoint is None else read_checkpoint(checkpoint)
