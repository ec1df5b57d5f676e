"""The classes of parts: those of the package, and a user's own, whose module is imported where that is trusted."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from pyro_vae._utils import checks
from pyro_vae.parts import SHELVES, SUPPLIED, AnyPart, Part, checked, kinds, unknown_option

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_trusted(values: Mapping[str, Any], source: object, trust: bool | Mapping[str, Any] = False) -> None:
    """Checks that no file chooses what is imported: all that is read from one passes here before it is resolved.

    Args:
        values: fields of a Spec that was read from a file.
        source: the file or folder, for the message.
        trust: whether they may name code of outside of the package; or the fields that the user named, whose code
            alone they may name.

    Raises:
        InputError: they name other code.
    """
    if trust is True:
        return
    for part in SHELVES:
        kind = Part.of(values.get(part, "")).kind
        if Part(kind).own and not (trust and part in trust and Part.of(trust[part]).kind == kind):
            expected = (
                f"parts of pyro_vae alone: {source} names code to import; if you trust it, --trust (trust=True), or, "
                "for a training, name it yourself"
            )
            raise checks.fail(part, kind, expected)


def resolve(part: str, value: AnyPart) -> Any:
    """The class of a part; the module of a user's own is imported, from `sys.path` or the current folder.

    Raises:
        InputError: there is no such module, it can't be imported, or it has no such class.

    >>> resolve("posterior", "planar").__name__
    'Planar'
    """
    kind = checked(part, value).kind
    if ":" not in kind:
        known = kinds(part)[kind]
        return getattr(importlib.import_module(known.module), known.class_name)
    module_name, _, path = kind.partition(":")
    try:
        with importable(os.getcwd()):
            target: Any = importlib.import_module(module_name)
            _check_origin(part, kind, sys.modules[module_name.partition(".")[0]])
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise checks.fail(part, kind, f"a module that can be imported ({error})") from error
        raise checks.fail(part, kind, _where_modules_are(module_name, path)) from error
    except checks.InputError:
        raise
    except (Exception, SystemExit) as error:
        raise checks.fail(part, kind, f"a module that runs ({type(error).__name__}: {error})") from error
    for name in path.split("."):
        if not callable(getattr(target, name, None)):
            names = [other for other in vars(target) if callable(getattr(target, other)) and not other.startswith("_")]
            nearest = get_close_matches(name, names, n=1)
            hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
            raise checks.fail(part, kind, f"a class or function of {module_name}{hint}")
        target = getattr(target, name)
    return target


def _where_modules_are(module_name: str, path: str) -> str:
    """What is expected of a module that was not there, and what to do."""
    if module_name.endswith(".py"):
        return f"a module, without .py (did you mean '{module_name.removesuffix('.py')}:{path}'?)"
    return (
        f"a module on sys.path or in the current folder, {os.getcwd()}: run from the folder of "
        f"{module_name.partition('.')[0]}, or name that folder in PYTHONPATH"
    )


def _check_origin(part: str, kind: str, module: ModuleType) -> None:
    """The module is the one that a new process would import here, and not another of its name, imported before."""
    here = PathFinder.find_spec(module.__name__)
    file = getattr(module, "__file__", None)
    if here is not None and here.has_location and here.origin and file is not None:
        before, now = Path(file).resolve(), Path(here.origin).resolve()
        if before != now:
            raise checks.fail(
                part, kind, f"that of {now}, but this process has imported another module of its name, {before}"
            )


@contextmanager
def importable(folder: str | os.PathLike[str] | None) -> Iterator[None]:
    """Modules in `folder` can be imported inside, after all others of the same names."""
    before = list(sys.path)
    if folder is not None:
        sys.path.append(os.fspath(folder))
        importlib.invalidate_caches()  # a module may have been written just now
    try:
        yield
    finally:
        sys.path[:] = before


def arguments(part: str, value: AnyPart) -> Mapping[str, inspect.Parameter]:
    """The arguments of the class or function of a part, by name."""
    return inspect.signature(resolve(part, value)).parameters


def construct(part: str, value: AnyPart, /, **supplied: Any) -> Any:
    """The part itself, from its options and from those of `supplied` that its class asks for.

    Raises:
        InputError: an unknown option, an option that is missing, or what the class itself refuses.

    >>> construct("posterior", {"kind": "planar", "layers": 8}, latent_dim=2).num_parameters
    4
    """
    chosen = checked(part, value)
    parameters = arguments(part, chosen)
    named = [name for name, parameter in parameters.items() if parameter.kind not in _VARIADIC]
    options = [name for name in named if name not in SUPPLIED[part]]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name, option in chosen.options.items():
        if name not in options and not (takes_any and name not in SUPPLIED[part]):
            raise unknown_option(part, chosen.kind, name, option, options)
    values = {name: value for name, value in supplied.items() if name in named} | dict(chosen.options)
    for name in named:
        if name not in values and parameters[name].default is inspect.Parameter.empty:
            raise checks.fail(f"{part}.{name}", None, f"a value, for which {chosen.kind} has no default")
    try:
        return resolve(part, chosen)(**values)
    except checks.InputError as error:
        if str(error).split(":")[0] in chosen.options:
            raise checks.InputError(f"{part}.{error}") from error
        raise
    except (TypeError, ValueError) as error:
        if not chosen.own:
            raise
        expected = f"options that it takes ({type(error).__name__}: {error})"
        raise checks.fail(part, str(chosen), expected) from error
