"""Errors, notes and warnings about user input. Nothing here imports torch."""

from __future__ import annotations

import reprlib
import sys
import warnings
from types import FrameType
from typing import Any

from train import processes


def printable(message: str) -> str:
    """Escapes unprintable characters, so that a message is one line and no terminal command.

    Names of files and arrays may contain newlines and escape sequences.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


class InputError(Exception):
    """Invalid user input: a flag, an argument or a file.

    The message is one line. It names the flag or the file, and says what to give instead. The
    command line prints it and exits with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def first_line(error: Exception) -> str:
    """The first line of another library's error, cut to 120 characters."""
    return str(error).strip().split("\n")[0][:120]


def brief(value: Any) -> str:
    """The ``repr`` of a value, shortened if it is long or deeply nested."""
    return reprlib.repr(value)


class Interrupted(Exception):
    """Ctrl-C was pressed. The run is saved, and the message says how to resume it."""


def require(condition: bool, message: str) -> None:
    """Raises :class:`InputError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise InputError(message)


def note(message: str) -> None:
    """Prints ``note: message`` on standard error, in the first of several processes only.

    For behaviour that the user may not expect, such as a changed default.
    """
    if not processes.rank():
        print(f"note: {printable(message)}", file=sys.stderr)


def warn(message: str) -> None:
    """Issues a warning that points at the line outside this library that called it."""
    level = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("train."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
