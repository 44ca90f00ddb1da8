"""What people may give: settings of every kind, drawn from the types of the settings themselves."""

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
BASE = ("run_dir", "resume", "data_dir", "data", "device", "compile", "tensorboard", "steps")
"""What a test gives itself."""


def values(hint: Any) -> st.SearchStrategy[list[str]]:
    """The words after a flag of a type: what it may be, what it may just be, and what it may not.

    Numbers that are right but large are left out: whoever asks for a million draws waits for them.
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return numbers(parts[0], *(part for part in parts[1:] if isinstance(part, Range)))
    if origin in (Union, types.UnionType):
        return st.one_of(
            st.just(["None"]), *(values(part) for part in parts if part is not type(None))
        )
    if origin is Literal:
        return st.one_of(st.sampled_from([[str(part)] for part in parts]), WORDS.map(lambda w: [w]))
    if origin is tuple:
        if parts[-1] is Ellipsis:
            return st.lists(values(parts[0]), max_size=3).map(joined)
        return st.tuples(*(values(part) for part in parts)).map(joined)
    if hint is bool:
        return st.just([])
    if hint in (int, float):
        return numbers(hint)
    return WORDS.map(lambda word: [word])


def joined(many: Iterable[list[str]]) -> list[str]:
    return [word for words in many for word in words]


def numbers(kind: type, *ranges: Range) -> st.SearchStrategy[list[str]]:
    """Numbers: small ones, the ends of their range, and what is none."""
    ends = [end for each in ranges for end in (each.low, each.high) if abs(end) < float("inf")]
    some = st.integers(1, 9) if kind is int else st.floats(0, 1, allow_subnormal=False)
    right = st.one_of(some, st.sampled_from(ends)) if ends else some
    return st.one_of(right.map(str), right.map(str), NUMBERS).map(lambda word: [word])


def command_lines(settings: type[Settings]) -> st.SearchStrategy[list[str]]:
    """A few flags of a command, each with something after it."""
    hints = typing.get_type_hints(settings, include_extras=True)
    names = [field.name for field in fields(settings) if field.name not in BASE]

    def one(name: str) -> st.SearchStrategy[list[str]]:
        word = flag(name)
        if hints[name] is bool:
            return st.sampled_from([[word], [f"--no-{word[2:]}"]])
        return values(hints[name]).map(lambda given: [word, *given])

    few = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)
    return few.flatmap(lambda some: st.tuples(*map(one, some))).map(joined)


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """A file that was cut, overwritten in places, written twice, or is another one."""
    places = st.integers(0, max(len(whole) - 1, 0))

    def overwritten(changes: list[tuple[int, int]]) -> bytes:
        content = bytearray(whole)
        for place, value in changes:
            content[place] = value
        return bytes(content)

    return st.one_of(
        places.map(lambda place: whole[:place]),
        st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8).map(overwritten),
        st.tuples(places, st.binary(max_size=20)).map(
            lambda t: whole[: t[0]] + t[1] + whole[t[0] :]
        ),
        st.sampled_from([whole * 2, b"", b"PK\x03\x04", b"\x80\x04."]),
        st.binary(max_size=100),
    )


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("../x")
    ),
    lambda parts: st.one_of(
        st.lists(parts, max_size=3), st.dictionaries(st.text(max_size=5), parts, max_size=3)
    ),
    max_leaves=8,
)
"""Any value that a JSON file may hold."""
