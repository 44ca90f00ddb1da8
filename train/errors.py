"""How what a person gives is refused, and how they are told what was done with it.

Nothing here imports torch, so that ``python -m train.METHOD --help`` answers at once.
"""

from __future__ import annotations

import reprlib
import sys
import warnings
from typing import Any

from train import processes


def printable(message: str) -> str:
    """A message in one line: characters that cannot be printed are as Python writes them.

    Names of files and arrays may have ends of lines in them, and what a terminal obeys.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


class InputError(Exception):
    """What a person gave cannot be used.

    The message is one line that names the flag or the file and says what to do instead. The
    command line prints it and exits with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def first_line(error: Exception) -> str:
    """What another library's error says, short enough for a line of ours."""
    return str(error).strip().split("\n")[0][:120]


def brief(value: Any) -> str:
    """A value as a message shows it, however long or deeply nested it is."""
    return reprlib.repr(value)


class Interrupted(Exception):
    """Ctrl-C was pressed. The run is saved; the message says how to go on with it."""


def require(condition: bool, message: str) -> None:
    """Raises :class:`InputError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise InputError(message)


def note(message: str) -> None:
    """Says on standard error what was done with something a person gave, once for all processes."""
    if not processes.rank():
        print(f"note: {printable(message)}", file=sys.stderr)


def warn(message: str) -> None:
    """Says the same to who calls this library from Python, as a warning at the line that does."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("train."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
