"""Arguments that a function is not passed are taken from the spec of its model."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from pyro_vae.parts import Part, checked
from pyro_vae.spec import FIELDS_FREE_ON_RESUME, PARTS, Spec

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Spec)}


def bound(model: nn.Module, caller: str, *, stacklevel: int = 3, **arguments: Any) -> dict[str, Any]:
    """`arguments`, where each None is replaced by what the model's spec says.

    A model without a spec, one composed by hand, has the defaults of :class:`~pyro_vae.Spec`. An argument that is not
    None holds; a part given by kind becomes a checked :class:`~pyro_vae.parts.Part`, as in a spec. If an argument
    contradicts the spec, a warning says so: the spec has another value, not merely its default, in a field that changes
    the result (`epochs`, `compile` and `precision` may differ).

    Args:
        model: whose `spec`, if any, is used.
        caller: the function that the warning names.
        stacklevel: of the warning; 3 is where `caller` is called.
        arguments: fields of `Spec` by name.

    >>> from pyro_vae import Spec, build
    >>> bound(build(Spec(beta=4.0)), "fit", beta=None, lr=0.01)
    {'beta': 4.0, 'lr': 0.01}
    """
    spec = getattr(model, "spec", None)
    spec = spec if isinstance(spec, Spec) else Spec()
    values = {}
    for name, value in arguments.items():
        said = getattr(spec, name)
        if name in PARTS and isinstance(value, str | Mapping | Part):
            value = checked(name, value)
        values[name] = said if value is None else value
        is_said = said != _DEFAULTS[name] and name not in FIELDS_FREE_ON_RESUME
        if is_said and value is not None and value != said:
            warnings.warn(f"{caller}: {name} {value!r} instead of {said!r}, the model's spec", stacklevel=stacklevel)
    return values
