"""Passes over the training images, with a step for each batch, and over held-out images, without steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae._utils.device import resident
from pyro_vae._utils.progress import Progress
from pyro_vae._utils.rng import seed_generators
from pyro_vae.data import Images
from pyro_vae.data.batches import AsFloats, binarized, dequantized, gather, shuffled, to_unit
from pyro_vae.models.base import batch_arguments, dtype_of, evaluating
from pyro_vae.objectives import Losses, Terms, beta_at
from pyro_vae.svi import CompiledSVI
from pyro_vae.training.backend import automatic_backend, register
from pyro_vae.training.distributed import Peers
from pyro_vae.training.failures import check_finite_loss, located
from pyro_vae.training.gradients import stepped, with_clipping_and_average
from pyro_vae.training.settings import Settings
from pyro_vae.training.state import State


@dataclass(frozen=True)
class Source:
    """Images as uint8, on the device if they fit there, and how they become batches of floats.

    `arguments` are the programs' other inputs for each image, such as labels, with rows in the same order.
    """

    pixels: Tensor
    arguments: dict[str, Tensor]
    device: torch.device
    dtype: torch.dtype
    as_floats: AsFloats

    @classmethod
    def of(cls, images: Images, model: nn.Module, device: torch.device, settings: Settings) -> Source:
        """The images of a training: binarized or dequantized in each batch, or unchanged, as the settings say."""
        pixels = resident(images.pixels, device)
        arguments = {name: values.to(pixels.device) for name, values in batch_arguments(model, images).items()}
        as_floats = binarized if settings.binarization == "dynamic" else to_unit
        as_floats = dequantized if settings.dequantize else as_floats
        return cls(pixels, arguments, device, dtype_of(model), as_floats)

    @property
    def is_on_device(self) -> bool:
        """Whether all images are on the device; else batches are copied from the host."""
        return self.pixels.device == self.device

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The images at these indices, in floats, and their arguments."""
        x = gather(self.pixels, indices, self.device, as_floats=self.as_floats, dtype=self.dtype)
        return x, *(values[indices].to(self.device) for values in self.arguments.values())

    def example(self, beta: float) -> tuple[Any, ...]:
        """The arguments of the programs for the first image, without noise."""
        x = to_unit(self.pixels[:1].to(self.device), self.dtype)
        return x, beta, *(values[:1].to(self.device) for values in self.arguments.values())

    def prepare(self, images: Tensor, beta: Any, *arguments: Tensor) -> tuple[Any, ...]:
        """The arguments of the programs; indices are gathered within the step, floats are images already."""
        if images.is_floating_point():
            return images, beta, *arguments
        x, *arguments_of_batch = self.batch(images)
        return x, beta, *arguments_of_batch

    def program(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """`program` as a function of `(x, beta, *arguments)`; it takes the arguments by name."""
        if not self.arguments:
            return program
        names = tuple(self.arguments)
        return lambda x, beta, *arguments: program(x, beta, **dict(zip(names, arguments, strict=True)))


@dataclass(frozen=True)
class Passes:
    """The passes over images of one training."""

    svi: CompiledSVI
    state: State
    terms: Terms
    train: Source
    here: Peers
    bar: Progress
    beta: float | Tensor  # a tensor where it rises
    steps_before: int  # a resume

    @classmethod
    def of(cls, state: State, train: Source, here: Peers, visible: bool) -> Passes:
        """The compiled step of a training, with its backend chosen where that is `auto`."""
        model, settings, device = state.model, state.settings, state.device
        model_program, guide_program = (train.program(getattr(model, name)) for name in ("model", "guide"))
        operations = register(model, (model_program, guide_program), device, train.example(settings.beta))
        steps, steps_before = (epochs * state.steps_per_epoch for epochs in (settings.epochs, len(state.epochs)))
        if state.backend == "auto":
            state.backend = automatic_backend(steps, operations, device, settings.precision)
        here.broadcast(list(model.state_dict().values()))
        terms = Terms(device, train.dtype)
        elbo = terms.watch(settings.elbo(state.objective))
        clip_norm = settings.clip_norm if here.size == 1 else 0.0  # else it is done to the sum of all gradients
        svi = CompiledSVI(
            model_program,
            guide_program,
            state.optimizer,
            with_clipping_and_average(elbo, stepped(state.optimizer), clip_norm, state.average),
            prepare=train.prepare,
            compile=state.backend,
            precision=settings.precision,
        )
        svi.ready = True
        beta = torch.tensor(settings.beta, dtype=train.dtype, device=device) if settings.beta_warmup else settings.beta
        bar = Progress(steps, "step", initial=steps_before, visible=visible, timed=False)
        return cls(svi, state, terms, train, here, bar, beta, steps_before)

    def step(self, number: int, weights: Tensor | None = None) -> Losses:
        """The epoch of this number, a step for each batch; errors of the numbers name epoch and step.

        With weights the images are drawn with replacement (:func:`~pyro_vae.data.batches.shuffled`), and the losses are
        means over the draws.
        """
        self.terms.reset()
        if self.here.rank > 0:  # noise of its own; the first one's generators are in the checkpoint
            seed_generators(self.train.device, self.here.seed(self.state.settings.seed, number))
        losses: list[Tensor] = []
        with located(self.svi, self._location):
            losses.extend(self.svi.steps(self._batches(number, weights, losses)))
            self.svi.check_finite()
        return self._over_all(losses, len(self.train))

    def estimate(self, images: Source, number: int) -> Losses:
        """The losses of these images after the epoch of this number, at the beta of its last step."""
        self.terms.reset()
        location = f"epoch {number}, validation"
        losses = []
        # `svi` takes no gradients here.
        with evaluating(self.state.model, gradients=True), located(self.svi, lambda _: location):
            for indices in torch.arange(len(images), device=images.pixels.device).split(self.state.settings.batch_size):
                x, *arguments = images.batch(self.here.part(indices))
                losses.append(self.svi.evaluate_tensor(x, self.beta, *arguments) if len(x) else x.sum())
        means = self._over_all(losses, len(images))
        check_finite_loss(means.loss, location)
        return means

    def _location(self, step: int) -> str:
        """Epoch and step of a step of `svi`, all counted from 1."""
        epoch, index = divmod(self.steps_before + step - 1, self.state.steps_per_epoch)
        return f"epoch {epoch + 1}, step {index + 1}"

    def beta_at(self, step: int) -> float:
        """Beta of a step, counted from 0 over all epochs."""
        settings = self.state.settings
        return beta_at(step, settings.beta, settings.beta_warmup * self.state.steps_per_epoch)

    def _batches(self, number: int, weights: Tensor | None, losses_of_empty: list[Tensor]) -> Iterator[tuple[Any, ...]]:
        """The arguments of the steps of an epoch; steps for which this process has no images are done here."""
        first = (number - 1) * self.state.steps_per_epoch
        batches = shuffled(self.train.pixels, self.state.settings.batch_size, self.here, weights)
        for step, indices in enumerate(batches, first):
            if isinstance(self.beta, Tensor):
                self.beta.fill_(self.beta_at(step))
            if not len(indices):
                losses_of_empty.append(self._step_without_local_batch(indices))
            elif self.train.is_on_device:
                yield indices, self.beta
            else:
                x, *arguments = self.train.batch(indices)
                yield x, self.beta, *arguments
            self.state.rate.after_step()
            self.bar.update()

    def _step_without_local_batch(self, no_indices: Tensor) -> Tensor:
        """The step of a process that has no images of this batch: by the other processes' gradients alone."""
        self.svi.steps_taken += 1
        if self.state.average is not None:
            self.state.average.add()
        self.state.optimizer.step()
        self.state.optimizer.zero_grad()
        return no_indices.sum().float()

    def _over_all(self, losses: list[Tensor], count: int) -> Losses:
        """Means over `count` images, those of all processes."""
        on_device = torch.stack(losses)
        totals = torch.cat([on_device.cpu().double().sum()[None], self.terms.totals()])
        loss, log_likelihood, kl = self.here.total(totals, on_device.device).tolist()
        return Losses(loss / count, -log_likelihood / count, kl / count)
