"""What a function reads is recorded wherever it is read from, so that a change of it is seen."""

import array
import collections
import copy
import dataclasses
import functools
import math
import operator
import os
import types
import weakref

import numpy
import pytest

from pyro_vae.svi.guards import Reads
from pyro_vae.svi.recorder import recorded


@dataclasses.dataclass(slots=True)
class Slots:
    weight: float = 1.0


class Base:
    __match_args__ = ("weight",)

    def method(self):
        return 1.0


class Held(Base):
    derived = property(operator.attrgetter("_private"))

    def __init__(self):
        self.weight, self._private, self.named = 1.0, 1.0, {"weight": 1.0}

    def method(self):
        return super().method()


class Text(str):
    pass


class Counted(type):
    weight = 1.0


class OfMeta(metaclass=Counted):
    pass


def function():
    return 1.0


def other_function():
    return 3.0


def weight_of(held):
    return held.weight


@functools.singledispatch
def dispatched(held):
    return 1.0


def by_name(held):
    match held:
        case Held(weight=1.0):
            return 1.0
    return 3.0


def by_position(held):
    match held:
        case Held(weight):
            return weight


def set_weight(held):
    held.weight += 2.0


def set_item(held):
    held["weight"] += 2.0


def set_first(held):
    held[0] = 3


def text():
    held = Text("text")
    held.weight = 1.0
    return held


GETTER, TABLE = operator.attrgetter("weight"), {"weight": 1.0}
OBJECTS = numpy.array([Held()], dtype=object)
CASES = {  # what is held, what reads it, and what changes it
    "ChainMap": (lambda: collections.ChainMap({}, {"weight": 1.0}), lambda held: held["weight"], set_item),
    "UserDict": (lambda: collections.UserDict(weight=1.0), lambda held: held["weight"], set_item),
    "UserList": (lambda: collections.UserList([1.0]), sum, set_first),
    "array": (lambda: array.array("d", [1.0]), lambda held: held[0], set_first),
    "bytearray": (lambda: bytearray(1), lambda held: held[0], set_first),
    "array of objects": (lambda: OBJECTS, lambda held: held[0].weight, lambda held: set_weight(held[0])),
    "mapping proxy": (
        lambda: types.MappingProxyType(TABLE),
        lambda held: held["weight"],
        lambda held: set_item(TABLE),
    ),
    "view": (lambda: TABLE.values(), sum, lambda held: set_item(TABLE)),
    "bound method": (
        lambda: TABLE.get,
        lambda held: held("weight"),
        lambda held: set_item(TABLE),
    ),
    "weak reference": (lambda: weakref.ref(OBJECTS[0]), lambda held: held().weight, lambda held: set_weight(held())),
    "class pattern by name": (Held, by_name, set_weight),
    "class pattern by position": (Held, by_position, set_weight),
    "format": (Held, lambda held: "{.weight:.3f}".format(held), set_weight),  # noqa: UP032
    "attrgetter": (Held, lambda held: GETTER(held), set_weight),
    "attrgetter as a property": (Held, lambda held: held.derived, lambda held: setattr(held, "_private", 3.0)),
    "__getattribute__": (Held, lambda held: object.__getattribute__(held, "weight"), set_weight),
    "slots by any name": (Slots, lambda held: dataclasses.asdict(held)["weight"], set_weight),
    "replaced": (Slots, lambda held: weight_of(dataclasses.replace(held)), set_weight),
    "copied": (Held, lambda held: weight_of(copy.copy(held)), set_weight),
    "attribute of a string": (text, lambda held: held.weight, set_weight),
    "attribute of a metaclass": (lambda: OfMeta, lambda held: held.weight, lambda held: set_weight(Counted)),
    "method of a base class": (Held, lambda held: held.method(), lambda held: setattr(Base, "method", other_function)),
    "code": (
        lambda: function,
        lambda held: held(),
        lambda held: setattr(held, "__code__", other_function.__code__),
    ),
    "dispatch": (Held, lambda held: dispatched(held), lambda held: dispatched.register(Held, other_function)),
    "sign of zero": (
        lambda: types.SimpleNamespace(weight=0.0),
        lambda held: math.copysign(1.0, held.weight),
        lambda held: setattr(held, "weight", -0.0),
    ),
    "environment": (lambda: None, lambda held: os.environ["WEIGHT"], lambda held: os.environ.update(WEIGHT="3.0")),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_change_of_what_a_function_reads_is_seen(case, monkeypatch):
    monkeypatch.setenv("WEIGHT", "1.0")
    monkeypatch.setattr(Base, "method", Base.method)
    make, read, change = case
    held, reads = make(), Reads()

    def program():
        read(held)

    program()
    for _ in range(2):  # as a capture does
        with recorded(reads, program):
            program()
        reads.mark()
    assert reads.changes() is None
    reads.settle()
    assert reads.hold()
    change(held)
    assert not reads.hold()
