"""The names that a function loads and stores, from its bytecode."""

from __future__ import annotations

import dis
import functools
import itertools
import re
import types
from dataclasses import dataclass, field, fields, replace

from pyro_vae.svi.places import ADDING

_ANY_ATTRIBUTE = {"__dict__", "vars", "dir", "globals", "asdict", "astuple", "attrgetter", "__getattribute__"}


@dataclass(frozen=True, eq=False)
class Names:
    """The names in a function, and in the functions defined in it, by what is done with what they name."""

    variables: set[str] = field(default_factory=set)  # that are read: local, closed-over and global ones
    attributes: set[str] = field(default_factory=set)  # that are read
    asked_for: set[str] = field(default_factory=set)  # attributes that may be missing, by getattr or hasattr
    written: set[str] = field(default_factory=set)  # `x.n += 1` reads x and writes n
    added_to: set[str] = field(default_factory=set)  # `x.items.append(y)` reads x and y, and adds to items
    any_attribute: set[str] = field(default_factory=set)  # what reads attributes by other names; mostly empty
    imported: set[tuple[int, str]] = field(default_factory=set)  # modules from which names are imported, with the level

    @functools.cached_property
    def without_any(self) -> Names:
        """The same without `any_attribute`."""
        return replace(self, any_attribute=set())


@functools.lru_cache(maxsize=4096)
def names_in(code: types.CodeType) -> Names:
    """The names in a function's code.

    >>> names = names_in((lambda x: x.items.append(x.scale)).__code__)
    >>> names.variables, sorted(names.attributes), names.added_to
    ({'x'}, ['append', 'scale'], {'items'})
    """
    names, loaded = Names(), dict[float, str]()  # variables that are read, by the number of the instruction
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("PRECALL", "EXTENDED_ARG")]
    for at, step in enumerate(steps):
        before, name, (following, last) = steps[at - 1], step.argval, (*steps[at + 1 : at + 3], step, step)[:2]
        is_load, is_attribute = "LOAD" in step.opname, _is_attribute(step)
        if step.opname == "MATCH_CLASS":  # `case Point(x, scale=0)`, with its keywords in a constant
            names.attributes.update(before.argval, {"__match_args__"} if name else ())
        elif isinstance(name, tuple) and "CONST" not in step.opname:  # several local variables, as of Python 3.13
            loaded |= {at + part / 2: each for part, each in enumerate(name) if isinstance(each, str)}
        elif not isinstance(name, str) or "CONST" in step.opname:
            continue
        elif step.opname.startswith(("STORE", "DELETE")):
            names.written.add(name)
            if before.opname == "BINARY_OP" and "=" in before.argrepr:  # `n += 1`: what was loaded last is not read
                loaded.pop(max((earlier for earlier in loaded if loaded[earlier] == name), default=-1), None)
        elif step.opname == "IMPORT_NAME" and following.opname == "IMPORT_FROM":
            names.imported.add((steps[at - 2].argval, name))
        elif step.opname == "IMPORT_FROM":
            names.attributes.add(name)
        elif is_attribute and before.opname == "COPY" and before.arg == 1:  # `x.n += 1`
            names.written.add(name)
        elif is_load and (_adds(following) or (last.opname == "STORE_SUBSCR" and not _is_attribute(following))):
            names.added_to.add(name)
        elif is_attribute:
            names.attributes.add(name)
            if name == "format" and isinstance(before.argval, str):  # "{0.scale}", which reads an attribute
                names.attributes.update(re.findall(r"\.(\w+)", "".join(re.findall(r"{[^{}:]*", before.argval))))
        elif is_load:
            loaded[at] = name
        if is_load and name in ("getattr", "hasattr"):
            constant = _last_argument([*itertools.takewhile(lambda step: "CALL" not in step.opname, steps[at:])])
            (names.asked_for if constant else names.any_attribute).add(constant or name)
    names.variables.update(loaded.values())
    names.attributes.update(names.asked_for)
    names.any_attribute.update((names.variables | names.attributes) & _ANY_ATTRIBUTE)
    for inner in code.co_consts:
        for kind in fields(Names) if isinstance(inner, types.CodeType) else ():
            getattr(names, kind.name).update(getattr(names_in(inner), kind.name))
    return names


def _is_attribute(step: dis.Instruction) -> bool:
    return "LOAD" in step.opname and ("ATTR" in step.opname or "METHOD" in step.opname)


def _adds(step: dis.Instruction) -> bool:
    return _is_attribute(step) and step.argval in ADDING


def _last_argument(steps: list[dis.Instruction]) -> str | None:
    """The name that `getattr` is called with, from its instructions before the call; None if it is made up."""
    strings = [at for at, step in enumerate(steps) if "CONST" in step.opname and isinstance(step.argval, str)]
    if len(strings) != 1 or not all("LOAD" in step.opname for step in steps):
        return None
    return None if any(map(_is_attribute, steps[strings[0] :])) else steps[strings[0]].argval
