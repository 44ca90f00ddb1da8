"""The command line of settings: a flag for each field, under headings in ``--help``.

A flag's help is the string below its field, and its heading is the one that ``GROUPS`` lists it
under: see :class:`train.settings.Settings`. A dataclass that is no subclass of it may have neither
``GROUPS`` nor headings.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, make_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from train.errors import InputError
from train.settings import configs
from train.settings.common import Settings
from train.settings.values import describe_range

S = TypeVar("S")
Flag = tuple[str, Any, Any]
"""A field as :func:`dataclasses.make_dataclass` takes it: name, type and default."""

COMMON_FLAGS: tuple[Flag, ...] = (
    (
        "config",
        Annotated[
            Path | None,
            tyro.conf.arg(
                metavar="FILE",
                help="Read settings from a TOML file or from the config.json of a run. Flags "
                "override them.",
            ),
        ],
        None,
    ),
    (
        "traceback",
        Annotated[
            tyro.conf.FlagCreatePairsOff[bool],
            tyro.conf.arg(
                help="On an error, show where in the code it was raised.",
                help_behavior_hint="(default: off)",
            ),
        ],
        False,
    ),
)
"""Flags of every command that are no settings."""


def parse(settings: type[S], args: Sequence[str]) -> S:
    """Makes settings from a command line.

    Args:
        settings: The dataclass whose fields are the flags. ``--config`` and ``--traceback`` are
            flags of every command.
        args: The command line, without the program's name.

    Raises:
        InputError: If the dataclass or :func:`train.settings.configs.read` refuses a value.
        SystemExit: With status 2 if a flag is not known or cannot be read, with 0 after ``--help``.
    """
    file = _config_file(args)
    defaults = {} if file is None else configs.read(file, settings, args)
    values = _values(settings, defaults, args)
    try:
        return settings(**values)
    except InputError as error:
        if file is None:
            raise
        raise InputError(f"{error} (with the settings of {file})") from error


def program() -> str:
    """The command that runs this program: ``python -m train.air``, ``python sparse.py``, or
    ``structured-latents air``."""
    if sys.argv[0].startswith("structured-latents "):
        return sys.argv[0]
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None:
        return f"python -m {spec.name.removesuffix('.__main__')}"
    return f"python {Path(sys.argv[0]).name}"


@cache
def field_helps(settings: type) -> Mapping[str, str]:
    """The strings below the fields of a dataclass and its bases, by field name.

    A field that is defined again without a string keeps the string of the base.
    """
    helps: dict[str, str] = {}
    for base in reversed(settings.__mro__):
        try:
            definition: Any = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        # Builtin classes, and classes that were typed into an interpreter, have no source.
        except (OSError, TypeError):
            continue
        for statement, following in pairwise(definition.body):
            match statement, following:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    helps[name] = " ".join(text.split())
        helps |= vars(base).get("HELPS", {})
    return helps


def _config_file(args: Sequence[str]) -> Path | None:
    """The value of ``--config``, which decides the defaults of the other flags."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    # A missing value is left to tyro, which reports it.
    parser.add_argument("--config", type=Path, nargs="?")
    return parser.parse_known_args(list(args))[0].config


def _values(settings: type, defaults: Mapping[str, Any], args: Sequence[str]) -> dict[str, Any]:
    """The values of all fields: from the command line, else ``defaults``, else the dataclass."""
    groups = _groups(settings)
    top = _flags(settings, groups.pop("", []), defaults)
    sections = [
        (f"section_{i}", _section(heading, _flags(settings, members, defaults)))
        for i, (heading, members) in enumerate(groups.items())
    ]
    line = make_dataclass("CommandLine", [*sections, *top, *COMMON_FLAGS], kw_only=True)
    description = inspect.cleandoc(settings.__doc__ or "")
    parsed: Any = tyro.cli(line, args=args, prog=program(), description=description)
    values = {name: getattr(parsed, name) for name, *_ in top}
    for name, _ in sections:
        values |= vars(getattr(parsed, name))
    return values


def _groups(settings: type) -> dict[str, list[Field[Any]]]:
    """The fields of a dataclass by heading, in the order of the headings."""
    headings: dict[str, str] = {}
    groups: dict[str, list[Field[Any]]] = {}
    for base in reversed(settings.__mro__):
        for heading, names in vars(base).get("GROUPS", {}).items():
            groups.setdefault(heading, [])
            headings |= dict.fromkeys(names, heading)
    unlisted = "model" if issubclass(settings, Settings) else ""
    for member in fields(settings):
        if member.init:
            groups.setdefault(headings.get(member.name, unlisted), []).append(member)
    return {heading: members for heading, members in groups.items() if members}


def _section(heading: str, flags: list[Flag]) -> Any:
    """The type of the flags under a heading: tyro makes a section of a nested dataclass."""
    section: Any = make_dataclass("Section", flags, kw_only=True)
    # tyro would show it below the heading.
    section.__doc__ = ""
    unprefixed: Any = tyro.conf.OmitArgPrefixes
    return Annotated[unprefixed[section], tyro.conf.arg(name=heading)]


def _flags(settings: type, members: list[Field[Any]], defaults: Mapping[str, Any]) -> list[Flag]:
    """Fields with their help, range and default; a value in ``defaults`` replaces the default."""
    hints = get_type_hints(settings, include_extras=True)
    helps = field_helps(settings)
    flags = []
    for member in members:
        default: Any = defaults.get(member.name, member.default)
        factory: Any = member.default_factory
        if default is MISSING and factory is not MISSING:
            default = factory()
        limits = describe_range(hints[member.name])
        note = tyro.conf.arg(
            help=helps.get(member.name, ""),
            help_behavior_hint=f"({limits + '; ' if limits else ''}default: {_in_words(default)})",
        )
        options: dict[str, Any] = (
            {} if default is MISSING else {"default_factory": lambda value=default: value}
        )
        flags.append((member.name, Annotated[hints[member.name], note], field(**options)))
    return flags


def _in_words(default: Any) -> str:
    """A default as it is written on the command line."""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return " ".join(map(_in_words, default)) or "none"
    return f"{default:g}" if isinstance(default, float) else str(default)
