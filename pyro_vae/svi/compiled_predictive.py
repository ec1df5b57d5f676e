"""`CompiledPredictive`: Pyro's `Predictive`, with one draw captured as a graph of tensor operations and replayed."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.infer import Predictive
from torch import Tensor

from pyro_vae.svi.captured_steps import CapturedSteps
from pyro_vae.svi.program import Program


class CompiledPredictive(Predictive):
    r"""`pyro.infer.Predictive` for static programs: one draw is captured, and replayed for the others without Python.

    A subclass of Pyro's Predictive, with the same arguments, which draws z from the guide, or takes it from
    `posterior_samples`, and then draws from the model conditioned on it,

    .. math:: x^{(i)} \sim p(x \mid z^{(i)}), \qquad z^{(i)} \sim q(z), \qquad i = 1, \dots, \text{num\_samples}.

    A call returns the same dictionary of tensors, num_samples rows of each site with as many batch dimensions as the
    model has plates, and under the same seed the same draws. It needs no plates around all that is batched, as
    `parallel=True` does; with that, or for a single draw, a call runs as Pyro's.

    Of guide and model, the first draw of a call is Pyro's, with Pyro's checks. The others replay a graph, which is
    captured in the first call and for each new signature, in the time of 100 to 200 draws by Pyro. What a signature
    is, which Python values are guarded, and which programs run eagerly, with a warning, is as for
    :class:`CompiledSVI`, with a call in the place of a step: guards are compared once in a call, and the graph's draw
    with the program's in the calls 1, 10, 100, 1,000 and every 5,000th that replay it. Tensors may change between
    calls, by further training for example. With a guide, no draw requires gradients. A copy or a pickle captures its
    own graphs.

    Args:
        model, posterior_samples, guide, num_samples, return_sites, parallel: as for Pyro's Predictive, with its errors.

    >>> import pyro.distributions as dist
    >>> def model(x=None):
    ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("data", 50):
    ...         return pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
    >>> import pyro
    >>> guide = pyro.infer.autoguide.AutoNormal(model)
    >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
    >>> losses = [svi.step(torch.ones(50)) for _ in range(100)]
    >>> draws = CompiledPredictive(model, guide=guide, num_samples=200)()
    >>> draws["loc"].shape, draws["x"].shape
    (torch.Size([200, 1]), torch.Size([200, 50]))
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._captured = CapturedSteps("capture", "fp32", owner=type(self).__name__)
        self._program: _Draw | None = None

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draws from the predictive distribution, by the names of sites; the arguments are those of the model."""
        if self.parallel or self.num_samples < 2:
            return super().forward(*args, **kwargs)
        parts = (self.model, self.guide, None, None)
        if self._program is None or self._program.parts != parts:
            self._program = _Draw(*parts)
        if self.guide is None:
            return self._draws(self._program, "model", self.posterior_samples, self.return_sites, (args, kwargs))
        latent = self._draws(self._program, "guide", {}, None, (args, kwargs))
        latent = {site: values.detach() for site, values in latent.items()}  # AutoDelta's are its parameters
        return self._draws(self._program, "model", latent, self.return_sites or None, (args, kwargs))

    def _draws(self, program: _Draw, kind: str, given: Any, return_sites: Any, call: Any) -> dict[str, Tensor]:
        """Draws from the model or the guide, each conditioned on a row of what is given."""
        # A view as num_samples rows raises, as in Pyro, where there are more or less of them.
        given = {name: values.reshape(self.num_samples, *values.shape[1:]) for name, values in given.items()}
        first = {name: values[:1] for name, values in given.items()}
        drawn = Predictive(program.function(kind), first, None, 1, return_sites)(*call[0], **call[1])
        rows = [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)]
        rows = rows[1:] or [{}] * (self.num_samples - 1)
        calls = [(*call, tuple(drawn), row) for row in rows]
        self._captured.ready = True  # the first draw has created the parameters
        replay, inputs = self._captured.replay(program, kind, calls[0], {})
        if replay is None:
            draws: list[Any] = [program.draw(kind, *each) for each in calls]
        else:
            shared = [*replay.params.values(), *inputs[: len(inputs) - len(given)]]
            with torch.no_grad():
                draws = [replay.graph(*shared, *row.values(), *replay.captured.live)[1:] for row in rows]
        return {
            site: torch.stack([value.reshape(others[0].shape), *others]).reshape(-1, *value.shape[1:])
            for (site, value), others in zip(drawn.items(), zip(*draws, strict=True), strict=True)
        }


class _Draw(Program):
    """A draw of the model or of the guide: it has values of sites in the place of gradients, and no loss."""

    def function(self, kind: str) -> Any:
        """The model or the guide."""
        return self.parts[kind == "guide"]

    def draw(self, kind: str, args: Any, kwargs: Any, sites: tuple[str, ...], given: Any) -> tuple[Tensor, ...]:
        """The values of these sites, given those of others, as Pyro's Predictive draws them."""
        function = torch.no_grad()(poutine.mask(self.function(kind), mask=False))
        nodes: Any = poutine.trace(poutine.condition(function, given)).get_trace(*args, **kwargs).nodes
        return tuple(nodes[site]["value"] for site in sites)

    def _loss(self, kind: str, args: Any, kwargs: Any) -> Any:
        return self._results(kind, (), args, kwargs)

    def _results(self, kind: str, differentiated: Any, args: Any, kwargs: Any) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            return None, *self.draw(kind, *args, **kwargs)
