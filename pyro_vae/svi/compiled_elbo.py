"""The loss of a model and a guide, and its gradients, as a captured function of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.svi import backends
from pyro_vae.svi.captured_steps import CapturedSteps
from pyro_vae.svi.isolation import gradients_set_aside
from pyro_vae.svi.program import Program, as_tensor


def compiled_elbo(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    loss: Any = None,
    *,
    prepare: Callable[..., tuple[Any, ...]] | None = None,
    compile: str = "auto",
    precision: str = "fp32",
) -> CompiledELBO:
    """The loss and its gradients as a function of the parameters, captured as :class:`CompiledSVI` captures a step.

    Pyro's param store is left alone: parameters of `pyro.param` are created in a store of its own. What is captured,
    and when it is captured anew, is as for :class:`CompiledSVI`; there is no optimizer.

    Args:
        model, guide: Pyro programs with the same arguments.
        loss: one of Pyro's ELBO objects.
        prepare, compile, precision: as for :class:`CompiledSVI`.

    Raises:
        InputError: `compile` or `precision` is unknown; in a call, `params` are not those of the programs.

    Gradient descent, as a fold over the parameters:

    >>> import pyro.distributions as dist
    >>> model = lambda x: pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)
    >>> guide = lambda x: pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 0.7))
    >>> elbo, x = compiled_elbo(model, guide), torch.tensor(2.0)
    >>> params = elbo.params(x)
    >>> _ = torch.manual_seed(0)
    >>> for _ in range(300):
    ...     loss, gradients = elbo(params, x)
    ...     params = {name: param - 0.01 * gradients[name] for name, param in params.items()}
    >>> abs(params["loc"].item() - 1) < 0.2
    True
    """
    checks.one_of("compile", compile, ("auto", *backends.BACKENDS))
    checks.one_of("precision", precision, ("fp32", "bf16"))
    program = _WithOwnStore(model, guide, Trace_ELBO() if loss is None else loss, prepare)
    return CompiledELBO(program, CapturedSteps(compile, precision))


class CompiledELBO:
    """What :func:`compiled_elbo` returns: a function of the parameters, by name, and the arguments of the programs."""

    def __init__(self, program: _WithOwnStore, captured: CapturedSteps) -> None:
        self._program, self._captured = program, captured
        self._captured.ready = True  # the parameters are created by `params`, or by an eager call
        self._params: dict[str, Tensor] = {}
        self._others: tuple[Tensor, ...] = ()  # tensors that require gradients and are not Pyro's

    def params(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The parameters that the programs use with these arguments, unconstrained, by the names of their sites.

        They are the parameters themselves: those of your modules; and those of `pyro.param`, which are created here. An
        optimizer of torch that has them trains your modules.
        """
        self._params, others = self._program.differentiated(args, kwargs)
        self._others = tuple(other for other in others if other.is_leaf)
        return dict(self._params)

    def __call__(self, params: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """An estimate of the loss, and its gradients by the names of `params`.

        `loss.backward()` adds them to the parameters that require gradients, and to tensors that are not Pyro's.
        """
        replay, inputs = self._captured.replay(self._program, "step", args, kwargs)
        if replay is None:
            loss, *outputs = self._eagerly(params, args, kwargs)
            names, others = list(self._params), self._others
        else:
            values = _values(params, replay.params)
            with torch.no_grad():
                loss, *outputs = replay.graph(*values, *inputs, *replay.captured.live)
            names, others = list(replay.params), replay.captured.others
        by_name = dict(zip(names, outputs, strict=False))
        gradients = {
            name: torch.zeros_like(param) if by_name[name] is None else by_name[name] for name, param in params.items()
        }
        leaves = [*params.values(), *others]
        if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves):
            loss = _Differentiable.apply(loss, [*gradients.values(), *outputs[len(names) :]], *leaves)
        return loss, gradients

    @contextmanager
    def using(self, params: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, the programs run with these values of their parameters, in Pyro's `Predictive` for example."""
        values = _values(params, self._params)
        before = [param.data for param in self._params.values()]
        with self._program.own_store():
            try:
                for param, value in zip(self._params.values(), values, strict=True):
                    param.data = value.detach()
                yield
            finally:
                for param, data in zip(self._params.values(), before, strict=True):
                    param.data = data

    def _eagerly(self, params: Mapping[str, Tensor], args: Any, kwargs: Any) -> list[Any]:
        self.params(*args, **kwargs)
        leaves = [*self._params.values(), *self._others]
        with self.using(params), gradients_set_aside(leaves):
            loss = as_tensor(self._program.estimate_with_gradients(*args, **kwargs))
            return [loss, *(leaf.grad for leaf in leaves)]


def _values(params: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> list[Tensor]:
    """The values in the order and with the strides of the parameters `like`, which compiled code takes for granted."""
    if params.keys() != like.keys():
        raise checks.fail("params", sorted(params), f"parameters named {', '.join(sorted(like))}")
    values = []
    for name, param in like.items():
        value = params[name]
        if (value.shape, value.dtype, value.device) != (param.shape, param.dtype, param.device):
            expected = f"a tensor of shape {tuple(param.shape)} in {param.dtype} on {param.device}"
            raise checks.fail(f"params[{name!r}]", value, expected)
        values.append(value if value.stride() == param.stride() else torch.empty_like(param).copy_(value.detach()))
    return values


class _WithOwnStore(Program):
    """A program whose parameters are in a param store of its own."""

    _store: Any = None

    @contextmanager
    def own_store(self) -> Iterator[None]:
        with pyro.get_param_store().scope(self._store) as self._store:
            yield

    def differentiated(self, args: Any, kwargs: Any) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The parameters by name, and the other tensors from outside that require gradients."""
        with self.own_store():
            return self._differentiated("step", args, kwargs)

    def capture(self, *args: Any) -> Any:
        with self.own_store():
            return super().capture(*args)

    def difference(self, *args: Any) -> Any:
        with self.own_store():
            return super().difference(*args)


class _Differentiable(torch.autograd.Function):
    """A loss whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_loss: Tensor) -> Any:
        return None, None, *(None if gradient is None else of_loss * gradient for gradient in ctx.gradients)
