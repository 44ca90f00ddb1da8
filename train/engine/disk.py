"""Files that are complete or not there, and one clear line when the disk does not want them.

What others have written is looked at before it is read: a file may be a pipe, a folder, or larger
than memory, and what is in it may be anything.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from train.errors import InputError, first_line, require

SUFFIX = ".part"
"""What a hidden file ends in while it is written; a process that was killed leaves it behind."""


MAX_JSON_BYTES = 2**24
"""The most bytes of a JSON file that is read."""

MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What Python and PyTorch raise when a file holds values of another kind than expected."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the file and the remedy when the disk is full, or the folder gone or read-only.

    Args:
        path: What is written inside.

    Raises:
        InputError: In place of an :class:`OSError`.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(
            f"{path} cannot be written: its folder is gone; bring it back, then add --resume, or "
            "give another --run-dir"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}): make room or see to its "
            "permissions, then add --resume, or give another --run-dir"
        ) from error


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file that is complete or not there, whenever the process ends.

    Args:
        path: The file, in a folder that is there; what it held before stays until the new content
            is on the disk.
        write: Writes the content into an open file.

    Raises:
        InputError: If the disk is full, or the folder is gone or cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            # Of a folder that is gone too, or not a folder.
            if temporary.exists():
                temporary.unlink()


def write_inside(root: Path, name: str, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file of a folder, or of a folder in it that is made if it is not there.

    The folder itself is not made again if somebody took it away.

    Args:
        root: The folder.
        name: The file's name, or folder and name.
        write: See :func:`write_atomically`.

    Raises:
        InputError: See :func:`write_atomically`.
    """
    path = root / name
    with writing(path):
        if path.parent != root:
            path.parent.mkdir(exist_ok=True)
    write_atomically(path, write)


def append(path: Path, line: str) -> None:
    """Adds a line to a text file, at once, so that it can be followed; or nothing of it.

    Args:
        path: The file; it is made if its folder is there.
        line: The line, without its end.

    Raises:
        InputError: If the disk is full, or the folder is gone or cannot be written to.
    """
    with writing(path), path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            content = f"{line}\n".encode()
            if file.write(content) < len(content):
                raise OSError(0, "there was room for a part of a line only")
        except OSError:
            file.truncate(before)
            raise


def sweep(folder: Path) -> None:
    """Takes away what killed processes left half written in a folder, if it is there."""
    for path in folder.glob(f".*.[0-9]*{SUFFIX}"):
        path.unlink(missing_ok=True)


def require_regular(path: Path, most: int | None = None) -> None:
    """Raises :class:`InputError` unless a path is a file that can be read without waiting.

    Args:
        path: What is about to be read; a link to a file is one.
        most: The most bytes that it may have, if there is a limit.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({first_line(error)}): give another run folder"
        ) from error
    require(
        stat.S_ISREG(status.st_mode),
        f"{path} is not a file but a folder, a pipe or a device: give another run folder",
    )
    require(
        most is None or status.st_size <= most,
        f"{path} has {status.st_size:,} bytes, more than the {most or 0:,} that it can need: give "
        "another run folder",
    )


def to_json(value: Any) -> Any:
    """Converts a value to what JSON can hold.

    Args:
        value: A plain value, a path, or a mapping, list or tuple of such.

    Returns:
        The value with paths as strings, tuples as lists, and numbers that are not finite as
        ``None``.
    """
    if isinstance(value, Mapping):
        return {name: to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds.

    Args:
        path: A file of one JSON object, which is looked at before it is read.

    Raises:
        InputError: If it cannot be read, is too large, or is not one JSON object of finite numbers.
    """
    require_regular(path, MAX_JSON_BYTES)

    def finite(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"{text} is not a finite number")
        return value

    try:
        content = json.loads(path.read_bytes(), parse_float=finite, parse_constant=finite)
        if not isinstance(content, dict):
            raise ValueError("it is not an object with names")
    # A RecursionError, of brackets in brackets, is a RuntimeError.
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({first_line(error)}): give another run folder"
        ) from error
    return content
