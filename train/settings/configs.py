"""Settings out of a file: ``--config FILE.toml``, or the ``config.json`` of a run."""

from __future__ import annotations

import difflib
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from train.errors import InputError, brief, first_line, require
from train.settings.values import alternatives, convert, problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_BYTES = 2**24
"""The largest file that is read."""

PER_RUN = ("run_dir", "resume")
"""Settings of a run's ``config.json`` that are not taken over: they say which run it is."""

IMPORTED = re.compile(r"[\w.]+:\w+")
"""The name ``module:Class`` of code that a setting lets a command import."""


def read(path: Path, settings: type, args: Sequence[str] = ()) -> dict[str, Any]:
    """Reads the values of some settings from a file.

    Args:
        path: A TOML file, whose keys are names of settings, with hyphens or underscores; "None"
            stands for None. Or the ``config.json`` of a run, whose settings are read but for
            ``run_dir`` and ``resume``.
        settings: The dataclass.
        args: The command line, whose flags override the file.

    Returns:
        Values by field name, each of its field's type and range.

    Raises:
        InputError: If the file cannot be read, has a key that is no setting, a value that is not of
            its type or range, or if a ``config.json`` names code to import.
    """
    is_run = path.suffix == ".json"
    hints = get_type_hints(settings, include_extras=True)
    names = [field.name for field in fields(settings) if field.init]
    values: dict[str, Any] = {}
    for key, value in (_run_settings(path) if is_run else _toml(path)).items():
        name = key.replace("-", "_")
        near = difflib.get_close_matches(name[:80], names, n=1)
        require(
            name in names,
            f"{path}: {brief(key)} is no setting of {settings.__name__}"
            + "".join(f": do you mean {other}?" for other in near),
        )
        require(name not in values, f"{path}: {key} is given twice, with - and with _")
        values[name] = _checked(value, hints[name], f"{path}: {key}")
    if is_run:
        values = {name: value for name, value in values.items() if name not in PER_RUN}
        _require_no_imports(path, values, args)
    return values


def _checked(value: Any, hint: Any, where: str) -> Any:
    """A value of the type and range of ``hint``."""
    # TOML has no None.
    if value == "None" and type(None) in alternatives(hint) and str not in alternatives(hint):
        return None
    value = convert(value, hint)
    wrong = problem(value, hint)
    require(not wrong, f"{where} {wrong}")
    return value


def _require_no_imports(path: Path, values: dict[str, Any], args: Sequence[str]) -> None:
    """Refuses a value ``module:Class`` in a run's file, which somebody else may have written."""
    for name, value in values.items():
        for word in value if isinstance(value, tuple) else (value,):
            if isinstance(word, str) and IMPORTED.fullmatch(word) and not _is_given(name, args):
                flag = "--" + name.replace("_", "-")
                raise InputError(
                    f"{path}: {name} is {brief(word)}, and a run's file cannot name code to "
                    f"import: give {flag} too"
                )


def _is_given(name: str, args: Sequence[str]) -> bool:
    """Whether a command line has the flag of the setting ``name``."""
    flags = (arg.partition("=")[0] for arg in args if arg.startswith("--"))
    return any(flag[2:].replace("-", "_") == name for flag in flags)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_content(path).decode())
    # A RecursionError, of brackets in brackets, is a RuntimeError.
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} is no TOML file ({first_line(error)})") from error


def _run_settings(path: Path) -> dict[str, Any]:
    def finite(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"{text} is not a finite number")
        return value

    try:
        config = json.loads(_content(path), parse_float=finite, parse_constant=finite)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} is no JSON file ({first_line(error)})") from error
    values = config.get("settings") if isinstance(config, dict) else None
    if not isinstance(values, dict):
        raise InputError(f"{path} has no settings: give the config.json of a run, or a TOML file")
    return values


def _content(path: Path) -> bytes:
    """The bytes of a regular file; a pipe or a device, which may never end, is refused."""
    try:
        require(path.is_file(), f"--config {path} is no file: give a TOML file or a config.json")
        require(
            path.stat().st_size <= MOST_BYTES,
            f"{path} has more than {MOST_BYTES:,} bytes: give a TOML file or a config.json",
        )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"--config {path} cannot be read ({first_line(error)})") from error
