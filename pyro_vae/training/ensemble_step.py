"""The members that :func:`pyro_vae.fit_many` trains: their stacked parameters, and their common step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.optim.adam import adam

from pyro_vae._utils import checks
from pyro_vae._utils.rng import generator_states, set_generator_states
from pyro_vae._utils.warn import warn
from pyro_vae.data.batches import dequantized, to_unit
from pyro_vae.models import build
from pyro_vae.models.base import dtype_of, evaluating
from pyro_vae.objectives import Losses, Terms, exact_totals, objective
from pyro_vae.spec import Spec
from pyro_vae.svi import backends
from pyro_vae.svi.capture import capture
from pyro_vae.svi.isolation import gradients_set_aside
from pyro_vae.svi.scalar_reads import NotCapturable

Draw = Callable[[int | slice, torch.Generator | None], Tensor]  # for one member, or for all
_IN_PLACE = {  # what draws the same numbers from a generator
    torch.ops.aten.randn_like.default: torch.ops.aten.normal_.default,
    torch.ops.aten.rand_like.default: torch.ops.aten.uniform_.default,
}


class Members:
    """The parameters of all members, stacked: each tensor has the S members as its first dimension."""

    def __init__(self, specs: Sequence[Spec], device: torch.device, backend: str) -> None:
        self.spec, self.device, self.backend = specs[0], device, backend
        self.seeds = [spec.seed for spec in specs]
        self.models = [build(spec) for spec in specs]
        # The model of the first seed, whose step is captured and then mapped over all members.
        self._template = build(self.spec).to(device)
        self.dtype = dtype_of(self._template)
        self._terms = Terms(device, self.dtype)
        self._elbo: Any = self._terms.watch(objective(self.spec.objective, self.spec.particles))
        self.beta: float | Tensor = self.spec.beta
        if self.spec.beta_warmup:
            self.beta = torch.tensor(self.spec.beta, dtype=self.dtype, device=device)
        self.sums, self.lost = (torch.zeros(len(specs), 3, dtype=self.dtype, device=device) for _ in range(2))
        params, buffers = torch.func.stack_module_state(list(self.models))
        self.params = [param.detach().to(device) for param in params.values()]
        self.buffers = {name: buffer.to(device) for name, buffer in buffers.items()}
        self.moments = [[torch.zeros_like(param) for param in self.params] for _ in range(2)]
        self.counts = [torch.zeros((), dtype=torch.float32, device=device) for _ in self.params]
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in self.seeds]
        self._runs: dict[tuple[str, int], backends.Run] = {}

    def give_back(self) -> None:
        """Copies parameters and buffers into the models, on the CPU."""
        for index, model in enumerate(self.models):
            with torch.no_grad():
                for param, stacked in zip(model.parameters(), self.params, strict=True):
                    param.copy_(stacked[index])
                for name, buffer in model.named_buffers():
                    buffer.copy_(self.buffers[name][index])
            model.eval()

    def state(self) -> dict[str, Any]:
        """The state that a resumed training needs."""
        tensors = {"params": self.params, "moments": self.moments, "counts": self.counts, "buffers": self.buffers}
        own_states = [generator.get_state() for generator in self.generators]
        return tensors | {"own_generators": own_states, "generators": generator_states(self.device)}

    def load(self, state: dict[str, Any]) -> None:
        """Continues from the state of a checkpoint."""
        for tensor, stored in zip(self._optimizer_tensors(), self._optimizer_tensors(state), strict=True):
            tensor.copy_(stored)
        for name, buffer in self.buffers.items():
            if name in state.get("buffers", {}):  # older checkpoints have none
                buffer.copy_(state["buffers"][name])
        for generator, generator_state in zip(self.generators, state["own_generators"], strict=True):
            generator.set_state(generator_state)
        set_generator_states(self.device, state["generators"])

    def _optimizer_tensors(self, state: dict[str, Any] | None = None) -> list[Tensor]:
        """Parameters, moments and step counts of Adam, of the members or of a state."""
        state = vars(self) if state is None else state
        return [*state["params"], *state["moments"][0], *state["moments"][1], *state["counts"]]

    def set_beta(self, value: float) -> None:
        """Sets the weight of the KL term, if it changes during the training."""
        if isinstance(self.beta, Tensor):
            self.beta.fill_(value)

    def losses(self, losses: list[Tensor], count: int, where: str) -> list[Losses]:
        """Means over the images of each member; waits for the device."""
        steps = torch.stack(losses).cpu().double()
        for step, member in (~steps.isfinite()).nonzero()[:1].tolist():
            place = f"seed {self.seeds[member]} is {steps[step, member]} at {where}, step {step + 1}"
            raise FloatingPointError(f"the loss of {place}; try a smaller lr")
        parts = zip(steps.sum(0).tolist(), exact_totals(self.sums, self.lost).tolist(), strict=True)
        self.sums.zero_()
        self.lost.zero_()
        return [Losses(loss / count, -log_likelihood / count, kl / count) for loss, (log_likelihood, kl) in parts]

    def check_weights(self, epoch: int) -> None:
        """Checks that weights are finite after an epoch: no loss follows its last step that would show it."""
        for (name, _), param in zip(self._template.named_parameters(), self.params, strict=True):
            non_finite = (~param.isfinite()).nonzero()[:1, 0].tolist()
            for member in non_finite:
                place = f"{name} of seed {self.seeds[member]}"
                raise FloatingPointError(
                    f"{place} is not finite after the last step of epoch {epoch}; try a smaller lr"
                )

    def step(self, pixels: Tensor, index: Tensor) -> Tensor:
        """A step on the images at `index`, (S, B); returns the losses, (S,)."""
        return self._run("step", pixels, index)

    def evaluate(self, pixels: Tensor, index: Tensor) -> Tensor:
        """The losses on the images at `index`, without a step."""
        return self._run("evaluate", pixels, index)

    # --- capturing ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _run(self, kind: str, pixels: Tensor, index: Tensor) -> Tensor:
        key = kind, index.shape[1]
        if key not in self._runs:
            run = self._captured(kind, pixels, index)
            if self.device.type == "cuda" and self.backend != "capture":
                try:
                    run = backends.cuda_graph(run, [index], written=[*self._optimizer_tensors(), self.sums, self.lost])
                except backends.NotRecordable as reason:
                    warn(f"fit_many: no CUDA graph of the captured step: {reason}")
            self._runs[key] = run
        return self._runs[key](index)[0]

    def _captured(self, kind: str, pixels: Tensor, index: Tensor) -> backends.Run:
        """The whole step, from indices to Adam; it changes the tensors of `self` in place."""

        def batch(index: Tensor) -> Tensor:
            levels = pixels[index]
            if self.spec.dequantize:
                return dequantized(levels, self.dtype, self._drawn(partial(noise, levels)))
            x = to_unit(levels, self.dtype)
            if self.spec.binarization != "dynamic":
                return x
            return self._drawn(lambda which, generator: x[which].bernoulli(generator=generator))

        def noise(levels: Tensor, which: int | slice, generator: torch.Generator | None) -> Tensor:
            return torch.rand(levels[which].shape, generator=generator, dtype=self.dtype, device=self.device)

        try:
            graph, draws, live = self._graph(kind, to_unit(pixels[index], self.dtype))
        except NotCapturable as reason:
            raise checks.fail(
                "spec", self.spec, f"a model whose step can be captured; `fit` trains others ({reason})"
            ) from reason

        def run(index: Tensor) -> Sequence[Tensor]:
            x = batch(index)
            noise = [self._drawn(draw) for draw in draws]
            loss, *gradients = graph(*self.params, x, *noise, *live)
            if kind == "step":
                adam(
                    self.params,
                    list(gradients),
                    self.moments[0],
                    self.moments[1],
                    [],
                    self.counts,
                    fused=True,
                    capturable=self.device.type == "cuda",
                    amsgrad=False,
                    lr=self.spec.lr,
                    beta1=0.9,
                    beta2=0.999,
                    eps=1e-8,
                    weight_decay=0.0,
                    maximize=False,
                )
            return (loss,)

        return run

    def _drawn(self, draw: Draw) -> Tensor:
        if self.device.type == "cuda":  # one kernel for all, which a CUDA graph can replay
            return draw(slice(None), None)
        return torch.stack([draw(member, generator) for member, generator in enumerate(self.generators)])

    def _graph(self, kind: str, x: Tensor) -> tuple[backends.Run, list[Draw], list[Tensor]]:
        """Losses and gradients of all members from stacked parameters, images, noise, and live tensors."""
        params = list(self._template.parameters())
        program = self._template.model, self._template.guide

        def estimate(*tensors: Tensor) -> tuple[Tensor | None, ...]:
            arguments = tensors[-1], self.beta
            if kind == "evaluate":
                with torch.no_grad():
                    return (torch.as_tensor(self._elbo.loss(*program, *arguments)),)
            with gradients_set_aside(params), torch.enable_grad():
                loss = torch.as_tensor(self._elbo.loss_and_grads(*program, *arguments))
                return (loss, *(param.grad for param in params))

        mode = evaluating(self._template, gradients=True) if kind == "evaluate" else nullcontext()
        with mode:
            of_one_member = capture(estimate, [*params, x[0].clone()], [*params, x[0].flip(0) * 0.5])
        draws = _lift_draws(of_one_member.graph, len(params) + 1, len(self.models))
        stacked = {id(buffer): self.buffers[name] for name, buffer in self._template.named_buffers()}
        stacked |= {id(self._terms.sums): self.sums, id(self._terms.lost): self.lost}
        live = [stacked.get(id(tensor), tensor) for tensor in of_one_member.live]
        shared = [0 if id(tensor) in stacked else None for tensor in of_one_member.live]
        mapped = torch.vmap(of_one_member.graph, in_dims=(*[0] * (len(params) + 1 + len(draws)), *shared))
        generator = torch.Generator(self.device)  # not that of the training
        inputs = [*self.params, x, *(draw(slice(None), generator) for draw in draws), *live]
        captured = capture(mapped, inputs, inputs)
        graph = captured.graph
        if self.spec.precision == "bf16":
            if backends.lacks_bfloat16(graph) and not self._runs:
                warn(f"fit_many: {backends.NO_BFLOAT16}")
            graph = backends.in_bfloat16(graph)
        run: backends.Run = graph.forward
        if self.backend == "inductor" and kind == "step" and x.shape[1] == self.spec.batch_size:
            try:
                run = backends.inductor(graph, [*inputs, *captured.live])
            except backends.NotCompilable as reason:
                warn(f"fit_many: the captured step is not compiled: {reason}")
        return run, draws, [*live, *captured.live]


def _lift_draws(graph: fx.GraphModule, after: int, members: int) -> list[Draw]:
    """Makes each random draw an input of the graph, after the first `after`; returns functions that draw them."""
    last_input = list(graph.graph.nodes)[after - 1]
    draws: list[Draw] = []
    for node in list(graph.graph.nodes):
        if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            continue
        fresh, *numbers = node.args
        fill = _IN_PLACE.get(node.target)
        on_empty = isinstance(fresh, fx.Node) and fresh.target is torch.ops.aten.empty.memory_format
        if fill is None and (
            not on_empty
            or len(fresh.users) > 1
            or any(isinstance(number, fx.Node) for number in numbers)
            or node.kwargs
        ):
            raise NotCapturable(f"it draws by {node.target}, which is not known here")
        with graph.graph.inserting_after(last_input):
            last_input = graph.graph.placeholder(f"noise_{len(draws)}")
        node.replace_all_uses_with(last_input)
        draws.append(partial(_draw, fill or node.target, numbers, node.meta["val"], members))
        graph.graph.erase_node(node)
        if fill is None:
            graph.graph.erase_node(fresh)
    graph.recompile()
    return draws


def _draw(
    fill: Any, numbers: list[Any], like: Tensor, members: int, which: int | slice, generator: torch.Generator | None
) -> Tensor:
    shape = like.shape if isinstance(which, int) else (members, *like.shape)
    return fill(torch.empty(shape, dtype=like.dtype, device=like.device), *numbers, generator=generator)
