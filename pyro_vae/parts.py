"""The parts of a run: kinds by name, their options, and a user's own `module:Class`. Imports no torch.

A kind is a class in a file of its part that has `kind = "planar"` in its body. Its options are the arguments of its
`__init__`, less those that the program that puts the parts together supplies. Both are read from the source text, so
that a :class:`~pyro_vae.Spec` is checked, and all kinds are listed, without torch. A default is part of what a kind
means: an option that has it is left out of a :class:`Part`.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pyro_vae._utils import checks

SHELVES = {  # files of each part
    "model": ("models/*.py",),
    "network": ("networks.py",),
    "likelihood": ("likelihoods.py",),
    "prior": ("priors.py",),
    "posterior": ("posteriors.py",),
    "objective": ("objectives.py", "path_gradient.py"),
    "optimizer": ("training/optimizers.py",),
    "schedule": ("training/schedules.py",),
    "sampler": ("training/sampling.py", "uses/debias.py"),
}
SUPPLIED = {  # arguments that are no options
    "model": ("spec", "image_shape", "latent_dim", "hidden", "encoder", "decoder", "prior", "likelihood", "posterior"),
    "network": ("image_shape", "num_outputs", "latent_dim", "decoded_shape", "hidden"),
    "likelihood": ("image_shape",),
    "prior": ("latent_dim", "image_shape", "encoder", "decoder", "posterior"),
    "posterior": ("latent_dim",),
    "objective": ("num_particles", "vectorize_particles", "max_plate_nesting"),
    "optimizer": ("params", "lr"),
    "schedule": ("optimizer", "epochs", "steps_per_epoch"),
    "sampler": (),
}
_OWN = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")


class Part:
    """A kind with its options, read-only; equal to what it may be written as.

    An option at its default is left out by :func:`checked`, as in a :class:`~pyro_vae.Spec`, and not here: the kind
    alone, such as `laplace`, does not say of which part it is.

    >>> Part("planar", {"layers": 8}) == {"kind": "planar", "layers": 8}, Part("normal") == "normal"
    (True, True)
    >>> print(Part("planar", {"layers": 8}))
    planar(layers=8)
    """

    # No dataclass, of which `dataclasses.asdict(spec)` would make an object that is no part.
    __slots__ = ("kind", "options")
    kind: str
    options: Mapping[str, Any]

    def __init__(self, kind: str, options: Mapping[str, Any] = MappingProxyType({})) -> None:
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "options", MappingProxyType(dict(options)))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Part is read-only: {name} can't be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Part is read-only: {name} can't be deleted")

    def __reduce__(self) -> tuple[type[Part], tuple[str, dict[str, Any]]]:
        """For pickle and copy, which take no view of a dictionary."""
        return Part, (self.kind, dict(self.options))

    @classmethod
    def of(cls, value: AnyPart) -> Part:
        """`value` as a Part, whatever way it is written.

        >>> Part.of("normal").kind
        'normal'
        """
        if isinstance(value, Part):
            return value
        if isinstance(value, Mapping):
            options = dict(value)
            return cls(options.pop("kind", None), options)  # `checked` refuses None
        return cls(value)

    @property
    def own(self) -> bool:
        """Whether the kind is a class of the user's own."""
        return isinstance(self.kind, str) and ":" in self.kind

    def plain(self) -> Any:
        """As JSON and TOML have it: the kind alone, or an object where there are options."""
        options = {name: _as_lists(value) for name, value in self.options.items()}
        return {"kind": self.kind, **options} if options else self.kind

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str | Mapping | Part):
            return NotImplemented
        other = Part.of(other)
        same_names = self.options.keys() == other.options.keys()
        return (
            self.kind == other.kind
            and same_names
            and all(_alike(value, other.options[name]) for name, value in self.options.items())
        )

    def __hash__(self) -> int:
        return hash(self.kind)

    def __repr__(self) -> str:
        return repr(self.plain())

    def __str__(self) -> str:
        options = ", ".join(f"{name}={_text(value)}" for name, value in self.options.items())
        return f"{self.kind}({options})" if options else self.kind

    def __format__(self, format_spec: str) -> str:
        return format(str(self), format_spec)


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _alike(value: Any, other: Any) -> bool:
    """Whether two options are equal; unlike in Python, True is not 1."""
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(_alike, value, other))
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


AnyPart = str | Mapping[str, Any] | Part


class Option(NamedTuple):
    """A keyword argument of a kind; `default` is an expression of Python's, empty where there is none."""

    type: str
    default: str


class Kind(NamedTuple):
    """What the source text says of a kind."""

    module: str
    class_name: str
    doc: str
    options: dict[str, Option]
    lacks: tuple[str, ...] = ()  # groups of metrics, of a model


# --- what there is ---------------------------------------------------------------------------------------------------


@cache
def kinds(part: str) -> dict[str, Kind]:
    """The kinds of a part that the package has, by name.

    >>> list(kinds("posterior"))[:2], kinds("posterior")["planar"].options
    (['normal', 'laplace'], {'layers': Option(type='int', default='4')})
    """
    kinds: dict[str, Kind] = {}
    package = Path(__file__).parent
    patterns = SHELVES[checks.one_of("part", part, SHELVES)]
    for file in (file for pattern in patterns for file in sorted(package.glob(pattern))):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        module = ".".join(("pyro_vae", *file.relative_to(package).with_suffix("").parts)).removesuffix(".__init__")
        for node in classes.values():
            for line in node.body:
                match line:
                    case ast.Assign([ast.Name("kind")], ast.Constant(str(name))):
                        doc = ast.get_docstring(node) or ""
                        options = _options(node, classes, SUPPLIED[part])
                        kinds[name] = Kind(module, node.name, doc, options, _lacks(node))
    return kinds


def lacks(model: AnyPart) -> tuple[str, ...]:
    """The groups of metrics that a kind of model does not have; of a user's own kind they are not known here.

    >>> lacks("autoencoder"), lacks("vae")
    (('evidence', 'samples'), ())
    """
    kind = Part.of(model).kind
    return kinds("model")[kind].lacks if kind in kinds("model") else ()


def _lacks(node: ast.ClassDef) -> tuple[str, ...]:
    for line in node.body:
        match line:
            case ast.Assign([ast.Name("lacks")], value):
                return tuple(ast.literal_eval(value))
    return ()


def _options(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef], supplied: tuple[str, ...]) -> dict[str, Option]:
    """The arguments of a class's own `__init__`, or else of the class in the same file that it is derived from."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            arguments = [*item.args.args[1:], *item.args.kwonlyargs]
            defaults = [*item.args.defaults, *item.args.kw_defaults]
            texts = ["" if default is None else ast.unparse(default) for default in defaults]
            texts = [""] * (len(arguments) - len(texts)) + texts
            return {
                argument.arg: Option(ast.unparse(argument.annotation) if argument.annotation else "", text)
                for argument, text in zip(arguments, texts, strict=True)
                if argument.arg not in supplied
            }
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            return _options(classes[base.id], classes, supplied)
    return {}


def checked(part: str, value: AnyPart) -> Part:
    """`value` as the Part that it names; of a user's own kind nothing is imported, and so no option is checked.

    Raises:
        InputError: an unknown kind or option; the message has the nearest name.

    >>> checked("posterior", {"kind": "planar", "layers": 4})
    'planar'
    """
    chosen = Part.of(value)
    if not isinstance(chosen.kind, str) or (chosen.own and not _OWN.fullmatch(chosen.kind)):
        raise checks.fail(part, value, f"one of {', '.join(kinds(part))}, or module:Class of your own")
    options = {name: _plain(f"{part}.{name}", option) for name, option in chosen.options.items()}
    if chosen.own:
        return Part(chosen.kind, options)
    if chosen.kind not in kinds(part):
        nearest = get_close_matches(chosen.kind, kinds(part), n=1)
        hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
        raise checks.fail(part, chosen.kind, f"one of {', '.join(kinds(part))}{hint}, or module:Class of your own")
    known = kinds(part)[chosen.kind].options
    for name, option in options.items():
        if name not in known:
            raise unknown_option(part, chosen.kind, name, option, list(known))
    return Part(str(chosen.kind), {name: option for name, option in options.items() if not _same(option, known[name])})


def unknown_option(part: str, kind: str, name: str, value: Any, known: list[str]) -> checks.InputError:
    nearest = get_close_matches(name, known, n=1)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    takes = f"an option of {kind}: {', '.join(known)}{hint}" if known else f"no option: {kind} has none"
    others = [other for other, about in kinds(part).items() if name in about.options]
    if others and not hint:
        takes += f"; {' and '.join(others)} {'have' if len(others) > 1 else 'has'} {name}"
    return checks.fail(f"{part}.{name}", value, takes)


def _plain(name: str, value: Any) -> Any:
    """As JSON can hold it; NumPy's numbers and arrays are taken as well, and a list becomes a tuple."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list | tuple):
        return tuple(_plain(name, item) for item in value)
    if value is not None and not isinstance(value, bool | int | float | str):
        raise checks.fail(name, value, "a number, a string, or a list of them")
    if isinstance(value, float) and not math.isfinite(value):
        raise checks.fail(name, value, "a finite number")
    return value


def _same(value: Any, option: Option) -> bool:
    try:
        default = ast.literal_eval(option.default)
    except (ValueError, SyntaxError):
        return False
    return _alike(value, default)


# --- as text ---------------------------------------------------------------------------------------------------------


def with_option(part: str, value: AnyPart, name: str, text: str) -> Part:
    """A part with one more option, as it stands on a command line: a number, `true`, `false`, numbers with commas.

    >>> with_option("network", "conv", "channels", "16,32")
    {'kind': 'conv', 'channels': [16, 32]}
    """
    chosen = Part.of(value)
    known = {} if chosen.own or chosen.kind not in kinds(part) else kinds(part)[chosen.kind].options
    option = _from_text(text)
    if "Sequence" in known.get(name, Option("", "")).type and not isinstance(option, tuple):
        option = (option,)
    return Part(chosen.kind, {**chosen.options, name: option})


def _from_text(text: str) -> Any:
    if "," in text:
        return tuple(_from_text(item.strip()) for item in text.split(",") if item.strip())
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value)) + ("," if len(value) == 1 else "")
    return str(value).lower() if isinstance(value, bool) else str(value)


def to_texts(part: str, value: AnyPart) -> dict[str, str]:
    """The options of a command line that name this part.

    >>> to_texts("posterior", {"kind": "planar", "layers": 8})
    {'posterior': 'planar', 'posterior.layers': '8'}
    """
    chosen = Part.of(value)
    return {part: chosen.kind} | {f"{part}.{name}": _text(option) for name, option in chosen.options.items()}
