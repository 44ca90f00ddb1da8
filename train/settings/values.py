"""The values of a setting: converted, checked against its type and range, and described in words.

A setting's type is an annotation: ``int``, ``float``, ``bool``, ``str``, ``Path``, a ``Literal``, a
tuple, or a union of these. A number may be ``Annotated`` with a :class:`Range`.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from train.errors import brief

LARGEST = 2**31
"""Upper bound (exclusive) of integers: what NumPy and PyTorch accept as seeds and sizes."""

MOST_ITEMS = 1_000
"""The most items of a tuple."""


class Range(NamedTuple):
    """The interval of a number; stands in its annotation: ``Annotated[float, Range(0, 1)]``.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        open: Excludes the bounds themselves.
    """

    low: float
    high: float = math.inf
    open: bool = False

    def contains(self, value: float) -> bool:
        """Whether ``value``, rounded to single precision, is finite and in the interval."""
        try:
            (value,) = struct.unpack("f", struct.pack("f", value))
        except OverflowError:
            return False
        if not math.isfinite(value):
            return False
        if self.open:
            return self.low < value < self.high
        return self.low <= value <= self.high

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"{'strictly ' * self.open}between {self.low} and {self.high}"
        return f"above {self.low}" if self.open else f"{self.low} or more"


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, open=True)]
NonNegative = Annotated[float, Range(0)]
Probability = Annotated[float, Range(0, 1, open=True)]


def convert(value: Any, hint: Any) -> Any:
    """Converts NumPy and PyTorch values, lists, strings and paths to the type that ``hint`` names.

    A value for which there is no such conversion is returned unchanged; :func:`problem` refuses it.

    Example:
        >>> convert([64, 32], tuple[int, ...])
        (64, 32)
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    types = alternatives(hint)
    if any(_matches(value, kind) for kind in types):
        return value
    for kind in types:
        if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
            return tuple(map(convert, value, _item_hints(kind, len(value))))
        if kind is Path and isinstance(value, str):
            return Path(value)
        if kind is str and isinstance(value, os.PathLike):
            return os.fspath(value)
    return value


def problem(value: Any, hint: Any) -> str:
    """Says what is wrong with a value, and what to give instead; empty if nothing is.

    Example:
        >>> problem(0, Count)
        'is 0: give a number that is 1 or more'
    """
    if not _matches(value, hint):
        return f"is {brief(value)}: give {describe(hint)}"
    return _range_problem(value, hint)


def describe(hint: Any) -> str:
    """Names the type of ``hint`` in words.

    Example:
        >>> describe(Literal["conv", "dense"])
        "'conv' or 'dense'"
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return describe(args[0])
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (Union, UnionType):
        return " or ".join(map(describe, args))
    if origin is tuple:
        size = "a tuple" if args[-1] is Ellipsis else f"a tuple of {len(args)}"
        return f"{size}, each {describe(args[0])}"
    words = {
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        str: "a string",
        Path: "a path",
        type(None): "None",
    }
    return words.get(hint, str(hint))


def describe_range(hint: Any) -> str:
    """Names the range of ``hint`` in words; empty if it has none.

    Example:
        >>> describe_range(tuple[Count, ...])
        'each 1 or more'
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        ranges = [str(note) for note in args[1:] if isinstance(note, Range)]
        return " and ".join(ranges) or describe_range(args[0])
    if origin in (Union, UnionType):
        return next(filter(None, map(describe_range, args)), "")
    if origin is tuple:
        ranges = [describe_range(arg) for arg in args if arg is not Ellipsis]
        if not all(ranges):
            return ""
        return f"each {ranges[0]}" if len(set(ranges)) == 1 else ", then ".join(ranges)
    return ""


def alternatives(hint: Any) -> list[Any]:
    """The types of a union, or the single type that ``hint`` is, without their annotations."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return alternatives(args[0])
    if origin in (Union, UnionType):
        return [kind for arg in args for kind in alternatives(arg)]
    return [hint]


def _item_hints(hint: Any, length: int) -> tuple[Any, ...]:
    """The types of the items of a tuple type, for a value of ``length`` items."""
    args = get_args(hint)
    if args[-1] is Ellipsis:
        return args[:1] * length
    return args if len(args) == length else (Any,) * length


def _matches(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the type ``hint``, whatever its range."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _matches(value, args[0])
    if origin is Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if origin in (Union, UnionType):
        return any(_matches(value, arg) for arg in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        hints = _item_hints(hint, len(value))
        return Any not in hints and all(map(_matches, value, hints))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def _range_problem(value: Any, hint: Any) -> str:
    """What is wrong with a value of the right type; empty if nothing is."""
    origin, args = get_origin(hint), get_args(hint)
    if isinstance(value, int) and value >= LARGEST:
        return f"is {brief(value)}: give less than {LARGEST:,}"
    if origin is Annotated:
        for note in args[1:]:
            if isinstance(note, Range) and not note.contains(value):
                return f"is {brief(value)}: give a number that is {note}"
        return _range_problem(value, args[0])
    if origin in (Union, UnionType):
        problems = [_range_problem(value, arg) for arg in args if _matches(value, arg)]
        return "" if "" in problems else problems[0]
    if origin is tuple:
        if len(value) > MOST_ITEMS:
            return f"has {len(value):,} values: give {MOST_ITEMS:,} or fewer"
        hints = _item_hints(hint, len(value))
        return next(filter(None, map(_range_problem, value, hints)), "")
    return ""
