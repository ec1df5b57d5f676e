"""Options that several commands share, and how their texts are read. Imports no torch."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from pyro_vae._utils import checks
from pyro_vae.parts import kinds
from pyro_vae.spec import GROUPS, PARTS, SPEC_FIELDS


def whole_number(text: str) -> int:
    """An integer; the message says what was given, which typer's own does not."""
    try:
        number = int(text)
    except ValueError as error:
        raise typer.BadParameter(f"given {text!r}, expected a whole number") from error
    if abs(number) > checks.LARGEST:
        raise typer.BadParameter(f"given {text!r}, expected a whole number below 2^63")
    return number


def seed(text: str) -> int:
    """A seed, checked before the work begins."""
    try:
        return checks.seed("seed", whole_number(text))
    except checks.InputError as error:
        raise typer.BadParameter(str(error).removeprefix("seed: ")) from error


def path(text: str | Path) -> Path:
    """A path, its `~` expanded, which shells leave alone in `--out=~/runs`; an empty one would be this folder."""
    if not str(text).strip():
        raise typer.BadParameter(f"given {str(text)!r}, expected a path")
    return Path(os.path.expanduser(text))


DOTTED = "pyro_vae.dotted"  # where a context has the options of parts
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="folder of torchvision's data folders; else $PYRO_VAE_DATA, else the user's cache",
        show_default=False,
        parser=path,
        metavar="PATH",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(help="where the run's images are now, if they were moved; they must be the same", show_default=False),
]
Device = Annotated[str, typer.Option(help="auto (CUDA, else MPS, else the CPU), cpu, cuda, ...")]
Seed = Annotated[int, typer.Option(help="seed of all random draws", parser=seed, metavar="INTEGER")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress and no table")]
Trust = Annotated[bool, typer.Option("--trust", help="import the user code that the run names as module:Class")]
Run = Annotated[Path, typer.Argument(help="run folder", parser=path, metavar="RUN")]
Out = Annotated[
    Path | None,
    typer.Option(
        help="folder to write; by default one of the command's name in the run folder",
        show_default=False,
        parser=path,
        metavar="PATH",
    ),
]


MetricGroups = Annotated[
    str, typer.Option(help="groups, separated by commas: bounds, codes, samples, and evidence (NLL), which takes long")
]
ImportanceSamples = Annotated[
    int, typer.Option(help="importance samples per image", parser=whole_number, metavar="INTEGER")
]
EvidenceImages = Annotated[
    int | None,
    typer.Option(
        help="estimate the evidence on this many test images, drawn at random; all by default",
        parser=whole_number,
        metavar="INTEGER",
        show_default=False,
    ),
]


def metric_groups(text: str) -> list[str]:
    """The groups of metrics that a text names, separated by commas."""
    groups = [name.strip() for name in text.split(",") if name.strip()]
    for name in groups or [text]:
        checks.one_of("--metrics", name, GROUPS)
    return groups


def spec_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives `command(texts, ...)` an option for each field of `Spec`; `texts` holds what the user wrote for them."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "texts"]

    def with_options(context: typer.Context, **values: Any) -> None:
        fields = {name: values.pop(name) for name in SPEC_FIELDS}
        texts = {name: _text(value) for name, value in fields.items() if value is not None}
        command(texts | context.meta.get(DOTTED, {}), **values)

    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(name))
        for name in SPEC_FIELDS
    ]
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    parameters = [context, *own, *options]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    with_options.__name__, with_options.__doc__ = command.__name__, command.__doc__
    return with_options


class CommandWithParts(TyperCommand):
    """A command with options of parts, `--posterior.layers 8`, in addition to those that it declares."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Takes out the options with a dot in their name: each kind has others, so none are declared.

        A field of a Spec may be written with its underscores, as in Python.
        """
        rest, dotted = list[str](), dict[str, str]()
        remaining = iter(args)
        for argument in remaining:
            name, equals, text = argument.removeprefix("--").partition("=")
            if not argument.startswith("--") or "." not in name:
                dashed = name.replace("_", "-")
                is_field = argument.startswith("--") and dashed.removeprefix("no-").replace("-", "_") in SPEC_FIELDS
                rest.append(f"--{dashed}{equals}{text}" if is_field else argument)
                continue
            if not equals:
                text = next(remaining, "")
            if not text or (not equals and text.startswith("--")):
                raise checks.fail(f"--{name}", None, f"a value, as in --{name} VALUE")
            dotted[name] = text
        ctx.meta[DOTTED] = dotted
        return super().parse_args(ctx, rest)


def _annotation(name: str) -> Any:
    if SPEC_FIELDS[name].type == "bool":
        flag = name.replace("_", "-")
        return Annotated[bool | None, typer.Option(f"--{flag}/--no-{flag}", help=_help(name), rich_help_panel="Spec")]
    return Annotated[str | None, typer.Option(help=_help(name), metavar=_metavar(name), rich_help_panel="Spec")]


def _text(value: str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else value


def _help(name: str) -> str:
    default = SPEC_FIELDS[name].default
    default_text = ",".join(map(str, default)) if isinstance(default, tuple) else default
    text = SPEC_FIELDS[name].metadata["help"]
    if name in PARTS:
        text += f": {', '.join(kinds(name))}, or module:Class"
    return text + ("" if default in (None, False) else f" (default: {default_text})")


def _metavar(name: str) -> str:
    kind = str(SPEC_FIELDS[name].type)
    return "NUMBERS" if kind.startswith("tuple") else {"int": "INTEGER", "float": "NUMBER"}.get(kind, "TEXT")
