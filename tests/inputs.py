"""Hypothesis strategies for command lines, from the types of settings, and for damaged files."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Literal, Union

from hypothesis import strategies as st

from train.settings import Range, Settings, flag

NUMBERS = st.sampled_from(
    ["0", "-1", "1", "2", "3", "7", "1.5", "nan", "inf", "-inf", "1e-40", "1e30", "", "x", "None"]
)
WORDS = st.one_of(
    st.sampled_from(["", "none", "-", "\x00", "🦆", "a" * 300, "../..", "mnist:5", "os:getcwd"]),
    st.text(max_size=8),
)
BASE = (
    *("run_dir", "resume", "data_dir", "data", "device", "compile", "compile_from", "tensorboard"),
    "steps",
)
"""Settings that the test gives."""


def values(hint: Any) -> st.SearchStrategy[list[str]]:
    """Draws the words after a flag of a type: valid values, limits, and invalid values.

    Large valid numbers are left out, as a run with a million particles takes long.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return numbers(
            arguments[0], *(value for value in arguments[1:] if isinstance(value, Range))
        )
    if origin in (Union, types.UnionType):
        return st.one_of(
            st.just(["None"]),
            *(values(argument) for argument in arguments if argument is not type(None)),
        )
    if origin is Literal:
        return st.one_of(
            st.sampled_from([[str(value)] for value in arguments]), WORDS.map(lambda w: [w])
        )
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return st.lists(values(arguments[0]), max_size=3).map(joined)
        return st.tuples(*(values(argument) for argument in arguments)).map(joined)
    if hint is bool:
        return st.just([])
    if hint in (int, float):
        return numbers(hint)
    return WORDS.map(lambda word: [word])


def joined(many: Iterable[list[str]]) -> list[str]:
    return [word for words in many for word in words]


def numbers(kind: type, *ranges: Range) -> st.SearchStrategy[list[str]]:
    """Draws small numbers, the ends of their ranges, and words that are not numbers."""
    ends = [
        end for limits in ranges for end in (limits.low, limits.high) if abs(end) < float("inf")
    ]
    some = st.integers(1, 9) if kind is int else st.floats(0, 1, allow_subnormal=False)
    right = st.one_of(some, st.sampled_from(ends)) if ends else some
    return st.one_of(right.map(str), right.map(str), NUMBERS).map(lambda word: [word])


def command_lines(settings: type[Settings]) -> st.SearchStrategy[list[str]]:
    """Draws a few flags of a command with their values."""
    hints = typing.get_type_hints(settings, include_extras=True)
    names = [field.name for field in fields(settings) if field.name not in BASE]

    def one(name: str) -> st.SearchStrategy[list[str]]:
        word = flag(name)
        if hints[name] is bool:
            return st.sampled_from([[word], [f"--no-{word[2:]}"]])
        return values(hints[name]).map(lambda words: [word, *words])

    few = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)
    return few.flatmap(lambda some: st.tuples(*map(one, some))).map(joined)


def damaged(original: bytes) -> st.SearchStrategy[bytes]:
    """Draws a file that was truncated, overwritten here and there, doubled or replaced."""
    positions = st.integers(0, max(len(original) - 1, 0))

    def overwritten(changes: list[tuple[int, int]]) -> bytes:
        content = bytearray(original)
        for position, value in changes:
            content[position] = value
        return bytes(content)

    return st.one_of(
        positions.map(lambda position: original[:position]),
        st.lists(st.tuples(positions, st.integers(0, 255)), min_size=1, max_size=8).map(
            overwritten
        ),
        st.tuples(positions, st.binary(max_size=20)).map(
            lambda t: original[: t[0]] + t[1] + original[t[0] :]
        ),
        st.sampled_from([original * 2, b"", b"PK\x03\x04", b"\x80\x04."]),
        st.binary(max_size=100),
    )


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("../x")
    ),
    lambda children: st.one_of(
        st.lists(children, max_size=3), st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=8,
)
"""Draws any value that a JSON file may have."""
