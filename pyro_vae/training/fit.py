"""`fit`: the one training loop."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.checks import InputError
from pyro_vae._utils.device import choose_device, resident
from pyro_vae._utils.progress import Progress
from pyro_vae._utils.rng import generator_states, seed_generators, seeded_rng, set_generator_states
from pyro_vae.data import Images, binarize
from pyro_vae.data.batches import batches, binarized, dequantized, gather, shuffled, to_unit
from pyro_vae.models import Model
from pyro_vae.models.base import (
    check_dequantize,
    check_fits,
    check_model,
    check_set,
    dtype_of,
    evaluating,
    move,
    warn_if_not_binary,
)
from pyro_vae.models.weights import save
from pyro_vae.objectives import JITTED, TRACED, Losses, Terms, beta_at, resolved
from pyro_vae.objectives import objective as objective_by_name
from pyro_vae.spec import BINARIZATIONS, HOW_LONG_AND_HOW, OBJECTIVES, PRECISIONS, Spec
from pyro_vae.svi import CompiledSVI, NotFiniteError
from pyro_vae.svi.backends import BACKENDS
from pyro_vae.svi.capture import Operations
from pyro_vae.training import distributed
from pyro_vae.training.checkpoint import read_checkpoint, same_settings, write_checkpoint
from pyro_vae.training.distributed import Peers
from pyro_vae.training.history import Epoch, History, epoch_line, epoch_of, summary

# Steps from which on the seconds of the captures are earned back, with one more for each operation of the programs, and
# those of the compiler on a CPU. benchmarks/README.md has the measurements.
WORTH_CAPTURING, WORTH_COMPILING = 1_000, 15_000


def fit(
    model: Model,
    images: Images,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    beta: float = 1.0,
    beta_warmup: int = 0,
    objective: str | ELBO = "auto",
    particles: int = 1,
    validation: Images | None = None,
    binarization: str = "none",
    dequantize: bool = False,
    device: str | torch.device = "auto",
    compile: str = "auto",
    precision: str = "fp32",
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    snapshots: Mapping[int, str | os.PathLike[str]] | None = None,
    resume: bool = False,
    on_start: Callable[[], object] | None = None,
    progress: bool = True,
) -> History:
    r"""Trains a model/guide pair by stochastic variational inference with Adam.

    Under `torchrun`, or inside a process group of PyTorch's, all processes are one training: each takes its part of
    each batch, draws the noise of its own part, and steps by the sum of all gradients. So all hold the same weights,
    and these are, up to rounding, those of one process where no noise is drawn; where there is noise it is other noise
    of the same distribution. The first process alone reads and writes the checkpoint, whose training may go on with
    another number of processes. The loss must be a sum over images: a latent variable outside the plate of the images
    would be counted once a process.

    Args:
        model: a module with `model(x, beta)` and `guide(x, beta)`, such as a `VAE`. It is moved to the device and stays
            there.
        images: the training images.
        epochs: passes over them, those before a resume counted in.
        batch_size: images per step, of all processes together; the last batch of an epoch may be shorter.
        lr: Adam's learning rate.
        beta: weight of the KL term; 0 drops it.
        beta_warmup: epochs over which beta rises linearly, step by step.
        objective: `elbo`, `mean-field`, `path-gradient`, `iwae` or `iwae-dreg` (see
            :func:`pyro_vae.objectives.objective`), or one of Pyro's `Trace..._ELBO` or `RenyiELBO` objects. `auto` is
            `path-gradient` where the posterior takes it, else `mean-field` or `elbo` (see
            :func:`pyro_vae.spec.automatic_objective`); on resuming, what the checkpoint was trained with.
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
        precision: `fp32`, or `bf16` for the matrix products and convolutions of the captured step.
        seed: of the order of the images and of all noise. The global generators are as before afterwards.
        checkpoint: a folder, in which the state is kept after each epoch (and before the first).
        snapshots: files to which the weights are saved after some epochs, by the number of the epoch.
        resume: go on from the checkpoint there, on the CPU to the very same weights as without the interruption.
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
    >>> model = build(Spec(latent_dim=2))
    >>> history = fit(model, load_data("digits").train, epochs=1, binarization="dynamic", progress=False)
    >>> len(history.epochs)
    1
    """
    check_model(model, "model", "guide")
    check_set("images", images)
    if validation is not None:
        check_set("validation", validation)
    epochs = checks.positive_integer("epochs", epochs)
    batch_size = checks.positive_integer("batch_size", batch_size)
    lr = checks.positive("lr", lr)
    beta = checks.non_negative("beta", beta)
    beta_warmup = checks.non_negative_integer("beta_warmup", beta_warmup)
    seed = checks.seed("seed", seed)
    if not any(one.requires_grad for one in model.parameters()):
        raise checks.fail("model", f"{type(model).__name__} without parameters to train", "a model with some")
    if snapshots is not None and not isinstance(snapshots, Mapping):
        raise checks.fail("snapshots", snapshots, "files by the number of the epoch, a dictionary")
    checks.one_of("compile", compile, ("auto", *BACKENDS))
    precision = checks.one_of("precision", precision, PRECISIONS)
    binarization = checks.one_of("binarization", binarization, BINARIZATIONS)
    dequantize = check_dequantize(model, dequantize, binarization)
    if precision == "bf16" and compile == "off":
        raise checks.fail(
            "precision", precision, "fp32 where compile is off: only a captured step has bfloat16 products"
        )
    name = resolved(objective, model, images) if isinstance(objective, str) else ""
    elbo = objective_by_name(name, particles) if isinstance(objective, str) else objective
    if not isinstance(elbo, TRACED) or isinstance(elbo, JITTED):
        names = ", ".join(kind.__name__ for kind in TRACED)
        raise checks.fail("objective", type(elbo).__name__, f"a name, or one of Pyro's {names}")
    if checkpoint is not None:
        checkpoint = checks.path("checkpoint", checkpoint)
    if resume and checkpoint is None:
        raise checks.fail("checkpoint", None, "the folder to resume from")
    here = distributed.peers()
    if here.rank > 0:
        checkpoint = snapshots = on_start = None  # the first process keeps them
    if checkpoint is not None:
        checkpoint = checks.path("checkpoint", checkpoint)
    if checkpoint is not None and not resume and read_checkpoint(checkpoint) is not None:
        raise checks.fail("checkpoint", str(checkpoint), "a folder without one; resume=True goes on with it")
    target = distributed.own_device(choose_device(device))
    distributed.refuse_batch_norm(model, here)
    train = binarize(images, binarization)
    held_out = None if validation is None else binarize(validation, binarization)
    for part in (train, held_out):
        if part is not None and hasattr(model, "reconstruct"):
            check_fits(model, part)
    if here.rank == 0:
        warn_if_not_binary(model, train, binarization)

    settings = {
        "model": _description(model),
        "objective": name or _attributes(elbo),
        "particles": elbo.num_particles,
        "batch_size": batch_size,
        "lr": lr,
        "beta": beta,
        "beta_warmup": beta_warmup,
        "binarization": binarization,
        "dequantize": dequantize,
        "seed": seed,
        "images": train.fingerprint,
        "validation": None if held_out is None else held_out.fingerprint,
    }
    move(model, target)
    model.train()
    dtype = dtype_of(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    here.add_gradients_up(optimizer)
    optimizer.zero_grad()  # an interrupted step may have left gradients
    history: list[Epoch] = []
    train_pixels = resident(train.pixels, target)
    held_out_pixels = None if held_out is None else resident(held_out.pixels, target)
    steps_per_epoch = math.ceil(len(train) / batch_size)
    as_floats = dequantized if dequantize else binarized if binarization == "dynamic" else to_unit
    backend = str(compile)

    def state() -> dict[str, Any]:
        return {
            "settings": settings,
            "backend": backend,
            "epochs": [dataclasses.asdict(epoch) for epoch in history],
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "generators": generator_states(target),
        }

    with distributed.joined(target), seeded_rng(target, seed), pyro.get_param_store().scope():
        stored = here.from_first(partial(_stored, checkpoint)) if resume else None
        if stored is not None:
            before = _as_now(stored["settings"])
            if objective == "auto" and before["objective"] in OBJECTIVES:
                settings["objective"] = before["objective"]
            same_settings(before, settings)
            if objective == "auto":
                elbo = objective_by_name(settings["objective"], particles)
            history += [Epoch(**epoch) for epoch in stored["epochs"]]
            if len(history) > epochs:
                raise checks.fail("epochs", epochs, f"at least {len(history)}, which the checkpoint has already")
            try:
                model.load_state_dict(stored["model"])
            except RuntimeError as error:
                raise checks.fail("checkpoint", str(checkpoint), f"one of this model ({error})") from error
            optimizer.load_state_dict(stored["optimizer"])
            set_generator_states(target, stored["generators"])
        with evaluating(model, gradients=True):
            operations = _register(model, train_pixels[:1], target, beta)
        if compile == "auto" and stored is not None:  # with another, rounding would be another
            backend = backend_on(target, stored.get("backend", "off"))
        elif compile == "auto":
            backend = _worth_it(epochs * steps_per_epoch, operations, target, precision)
        here.broadcast(list(model.state_dict().values()))
        terms = Terms(target, dtype)
        gathered = partial(gather, train_pixels, device=target, as_floats=as_floats, dtype=dtype)
        on_device = train_pixels.device == target  # else they stream from the host

        def batch(images: Tensor, beta: Any) -> tuple[Tensor, Any]:
            """Training images come by their places, so that the step gathers them; other images come as they are."""
            return images if images.is_floating_point() else gathered(images), beta

        svi = CompiledSVI(
            model.model,
            model.guide,
            optimizer,
            terms.watch(elbo),
            prepare=batch,
            compile=backend,
            precision=precision,
        )
        svi.ready = True
        if on_start is not None:
            on_start()
        if checkpoint is not None and stored is None:
            write_checkpoint(checkpoint, 0, state())  # so that an interrupted first epoch leaves one, too
        first_step = len(history) * steps_per_epoch

        def name_of(step: int) -> str:
            epoch, index = divmod(first_step + step - 1, steps_per_epoch)
            return f"epoch {epoch + 1}, step {index + 1}"

        total, shown = epochs * steps_per_epoch, progress and here.rank == 0
        bar = Progress(total, "step", initial=first_step, visible=shown, timed=False)
        beta_now = torch.tensor(beta, dtype=dtype, device=target) if beta_warmup else beta
        with bar, _where_it_failed(svi, name_of):
            for number in range(len(history) + 1, epochs + 1):
                started = time.perf_counter()
                terms.reset()
                losses: list[Tensor] = []
                if here.rank > 0:  # noise of its own; where the first stands is in the checkpoint
                    seed_generators(target, here.seed(seed, number))

                def arguments(number: int = number, losses: list[Tensor] = losses) -> Iterator[tuple[Tensor, Any]]:
                    for index, places in enumerate(shuffled(train_pixels, batch_size, here)):
                        if isinstance(beta_now, Tensor):
                            step = (number - 1) * steps_per_epoch + index
                            beta_now.fill_(beta_at(step, beta, beta_warmup * steps_per_epoch))
                        if len(places):
                            yield places if on_device else gathered(places), beta_now
                        else:
                            losses.append(_step_of_the_others(svi, optimizer, places))
                        bar.update()

                losses.extend(svi.steps(arguments()))
                svi.check_finite()
                seconds = time.perf_counter() - started
                train_losses = _over_all(here, terms, losses, len(train))
                _check_weights(model, number)
                held_out_losses = None
                if held_out_pixels is not None:
                    terms.reset()
                    validation_of = f"epoch {number}, validation"
                    # `svi` takes no gradients here.
                    with evaluating(model, gradients=True), _where_it_failed(svi, partial(str.format, validation_of)):
                        losses = [
                            svi.evaluate_tensor(x, beta_now) if len(x) else x.sum()
                            for x in batches(
                                held_out_pixels, batch_size, target, as_floats=as_floats, peers=here, dtype=dtype
                            )
                        ]
                    held_out_losses = _over_all(here, terms, losses, len(held_out_pixels))
                    if not math.isfinite(held_out_losses.loss):
                        raise FloatingPointError(
                            f"the loss is {held_out_losses.loss} at {validation_of}; try a smaller lr"
                        )
                last_beta = beta_at(number * steps_per_epoch - 1, beta, beta_warmup * steps_per_epoch)
                history.append(epoch_of(number, last_beta, train_losses, held_out_losses, seconds, len(train)))
                if snapshots is not None and number in snapshots:  # before the checkpoint, from which it would be lost
                    save(model, snapshots[number])
                if checkpoint is not None:
                    write_checkpoint(checkpoint, number, state())
                bar.describe(summary(history[-1]))
                bar.line(epoch_line(history[-1], epochs, bar.left()))
    model.eval()
    return History(tuple(history))


def _register(model: Model, pixels: Tensor, device: torch.device, beta: float) -> int:
    """Lets Pyro meet the parameters before the first step, which is then like all others, after a resume as well.

    Returns:
        How many tensor operations the programs are made of.
    """
    (x,) = batches(pixels, 1, device, dtype=dtype_of(model))
    with seeded_rng(device, 0), torch.no_grad(), pyro.validation_enabled(False), Operations() as operations:
        model.guide(x, beta)
        model.model(x, beta)
    return operations.count


def backend_on(device: torch.device, stored: str) -> str:
    """The backend of a checkpoint, where it is resumed: CUDA graphs are of CUDA alone."""
    return "capture" if stored == "cudagraph" and device.type != "cuda" else stored


def _worth_it(steps: int, operations: int, device: torch.device, precision: str) -> str:
    """The backend that `auto` takes; by a count and not by a clock, so that a training can be repeated."""
    if steps < WORTH_CAPTURING + operations and precision == "fp32":
        return "off"
    if device.type == "cuda":
        return "cudagraph"
    return "inductor" if steps >= WORTH_COMPILING and device.type == "cpu" else "capture"


@contextmanager
def _where_it_failed(svi: CompiledSVI, where: Callable[[int], str]) -> Iterator[None]:
    """Tells epoch and step of a number that is lost; `where` names a step by its number."""
    try:
        try:
            yield
        except ValueError:  # the validation of distributions meets a NaN, perhaps one of an earlier step
            svi.check_finite()
            raise
    except NotFiniteError as error:
        raise FloatingPointError(f"the loss is {error.loss} at {where(error.step)}; try a smaller lr") from error
    except ValueError as error:
        if isinstance(error, InputError) or not re.search("satisfy the constraint|within the support", str(error)):
            raise
        reason = str(error).splitlines()[0][:160]
        place = where(svi.num_steps)
        raise FloatingPointError(f"not a number, or out of range, at {place}; try a smaller lr ({reason})") from error
    except RuntimeError as error:
        if not re.search("out of memory|can't allocate memory", str(error), re.IGNORECASE):
            raise
        reason = " ".join(str(error).split()).split(". ")[0][:160]
        place = where(svi.num_steps)
        hint = "try a smaller batch_size, or fewer particles"
        raise torch.OutOfMemoryError(f"out of memory at {place}; {hint} ({reason})") from error


def _stored(checkpoint: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    return None if checkpoint is None else read_checkpoint(checkpoint)


def _step_of_the_others(svi: CompiledSVI, optimizer: torch.optim.Optimizer, nothing: Tensor) -> Tensor:
    """The step of a process that has no images of this batch: by the other processes' gradients alone."""
    svi.num_steps += 1
    optimizer.step()
    optimizer.zero_grad()
    return nothing.sum().float()


def _over_all(here: Peers, terms: Terms, losses: list[Tensor], count: int) -> Losses:
    """Means over `count` images, those of all processes."""
    on_device = torch.stack(losses)
    totals = torch.cat([on_device.cpu().double().sum()[None], terms.totals()])
    loss, log_likelihood, kl = here.total(totals, on_device.device).tolist()
    return Losses(loss / count, -log_likelihood / count, kl / count)


def _description(model: Model) -> dict[str, Any] | str:
    """What a checkpoint must have in common with the model that goes on from it, beside the shapes of its weights."""
    spec = getattr(model, "spec", None)
    return repr(model) if spec is None else _fields(spec)


def _fields(spec: Spec) -> dict[str, Any]:
    """Those that make the model; the objective is a setting of its own."""
    left_out = (*HOW_LONG_AND_HOW, "objective")
    return {name: value for name, value in spec.to_dict().items() if name not in left_out}


def _as_now(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a checkpoint that an earlier version wrote: fields that it did not know have their defaults."""
    description = settings["model"]
    return (
        {"dequantize": False}
        | settings
        | {"model": _fields(Spec.from_dict(description)) if isinstance(description, dict) else description}
    )


def _attributes(elbo: ELBO) -> str:
    plain = {name: value for name, value in vars(elbo).items() if isinstance(value, int | float | str | None)}
    return f"{type(elbo).__name__} {sorted(plain.items())}"


def _check_weights(model: Model, epoch: int) -> None:
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise FloatingPointError(f"{name} is not finite after the last step of epoch {epoch}; try a smaller lr")
