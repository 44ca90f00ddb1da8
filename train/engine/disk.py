"""Writes files atomically, and reads files that cannot be trusted; errors are one clear line.

A path that is read may be a pipe, a folder, or a file larger than memory, with any content. All of
that is checked before it is used.
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
"""The suffix of temporary files. A killed process leaves its own behind; see :func:`sweep`."""
MAX_JSON_BYTES = 2**24
"""The largest JSON file that is read, in bytes."""
MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""The exceptions of Python and PyTorch for values of an unexpected type or shape."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an :class:`OSError` inside the block into one line that names the path and a remedy.

    Args:
        path: The file or folder that is written inside the block.

    Raises:
        InputError: If the disk is full, or the folder is gone or read-only.
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
    """Writes a file so that it has either its old or its new content, whenever the process ends.

    The content goes to a temporary file beside it, is flushed to the disk, and replaces the file.

    Args:
        path: The file, in an existing folder.
        write: Called with the open temporary file; writes the content.

    Raises:
        InputError: If the disk is full, or the folder is gone or read-only.
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
            # False, not an exception, if the folder is gone or is a file.
            if temporary.exists():
                temporary.unlink()


def write_inside(root: Path, name: str, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file atomically in a folder, or in a subfolder, which is made if necessary.

    The folder itself is not made: if a user removed it, that is an error.

    Args:
        root: The folder.
        name: ``FILE`` or ``SUBFOLDER/FILE``.
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
    """Appends a line to a text file, unbuffered so that other programs can follow the file.

    Args:
        path: The file; it is made if it does not exist, but its folder is not.
        line: The line, without a line break.

    Raises:
        InputError: If the disk is full, or the folder is gone or read-only; the file is unchanged.
    """
    with writing(path), path.open("ab", buffering=0) as file:
        size = file.tell()
        try:
            content = f"{line}\n".encode()
            if file.write(content) < len(content):
                raise OSError(0, "the line does not fit on it")
        except OSError:
            file.truncate(size)
            raise


def sweep(folder: Path) -> None:
    """Removes temporary files that killed processes left in a folder, if the folder exists."""
    for path in folder.glob(f".*.[0-9]*{SUFFIX}"):
        path.unlink(missing_ok=True)


def require_regular(path: Path, max_bytes: int | None = None) -> None:
    """Checks that a path is a regular file, which can be read without blocking.

    Args:
        path: The path; a link to a regular file is one.
        max_bytes: The largest size; ``None`` for any.

    Raises:
        InputError: If it is missing, of another type, or larger.
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
        max_bytes is None or status.st_size <= max_bytes,
        f"{path} has {status.st_size:,} bytes, more than the {max_bytes or 0:,} that it can need: "
        "give another run folder",
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
    """Reads a file of one JSON object, all of whose numbers are finite.

    Args:
        path: The file; at most :data:`MAX_JSON_BYTES` long.

    Raises:
        InputError: If it is missing, too large, not JSON, not an object, or holds NaN or infinity.
    """
    require_regular(path, MAX_JSON_BYTES)

    def parse_finite(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"{text} is not a finite number")
        return value

    try:
        content = json.loads(
            path.read_bytes(), parse_float=parse_finite, parse_constant=parse_finite
        )
        if not isinstance(content, dict):
            raise ValueError("it is not an object with names")
    # RuntimeError includes the RecursionError of deeply nested brackets.
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({first_line(error)}): give another run folder"
        ) from error
    return content
