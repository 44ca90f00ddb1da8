"""Compiled steps that are kept for later runs: one file each, in the user's own cache folder.

A file is named by the step's key (:func:`train.engine.step_key.step_key`), so that any change of
what it was compiled from asks for another one. It is written under a temporary name and renamed,
so that several processes may keep the same step at once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from train.engine import ahead
from train.engine.ahead import Layout, TensorFunction
from train.errors import first_line, note

FOLDER = "STRUCTURED_LATENTS_CACHE"
"""The environment variable that names another folder."""
MOST = 32
"""How many steps are kept; those that were not used for the longest time go."""
PART = "part-"
"""How the names of folders begin in which steps are compiled."""
DAY = 24 * 3600


def folder() -> Path:
    """Where steps are kept: ``structured-latents/steps`` in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(FOLDER) or cache / "structured-latents") / "steps"


def is_kept(key: str) -> bool:
    """Whether there is a file for a key, damaged or not."""
    return _path(key).exists()


def find(key: str) -> tuple[TensorFunction, Layout] | None:
    """Loads the step of a key; ``None`` if there is none, or a damaged one, which is removed."""
    path = _path(key)
    if not path.exists() or not _is_own(path.parent):
        return None
    try:
        step = ahead.load(path)
        # Marks it as used.
        path.touch()
    # A damaged file makes zipfile, json and PyTorch raise exceptions of any type.
    except Exception as error:
        note(f"the compiled step {path} is damaged ({first_line(error)}), and is compiled anew")
        discard(key)
        return None
    return step


def keep(key: str, package: Path) -> None:
    """Moves the file of a compiled step to its place, and removes what is out of use."""
    package.replace(_path(key))
    kept = sorted(folder().glob("*.pt2"), key=_age)
    for path in kept[MOST:]:
        path.unlink(missing_ok=True)
    for path in folder().glob(f"{PART}*"):
        # Of processes that were killed.
        if _age(path) > DAY:
            shutil.rmtree(path, ignore_errors=True)


def discard(key: str) -> None:
    """Removes the step of a key, if there is one and it can be removed."""
    with suppress(OSError):
        _path(key).unlink(missing_ok=True)


@contextmanager
def workplace(keeps: bool) -> Iterator[tuple[Path, bool]]:
    """Makes a folder to compile a step in, which is removed at the end of the block.

    Args:
        keeps: Whether the step is to be kept: the folder is made beside the others then.

    Yields:
        The folder, and whether its files can be moved to where steps are kept.
    """
    place = None
    if keeps:
        try:
            folder().mkdir(mode=0o700, parents=True, exist_ok=True)
            place = folder() if _is_own(folder()) else None
            path = Path(tempfile.mkdtemp(prefix=PART, dir=place))
        except OSError as error:
            note(f"compiled steps cannot be kept in {folder()} ({first_line(error)})")
            place = None
    if place is None:
        path = Path(tempfile.mkdtemp(prefix="structured-latents-"))
    try:
        yield path, place is not None
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _path(key: str) -> Path:
    return folder() / f"{key}.pt2"


def _age(path: Path) -> float:
    """Seconds since a file was used; 0 if another process has just removed it."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _is_own(path: Path) -> bool:
    """Whether nobody else can write to a folder; a line says so if somebody can.

    A compiled step is a program.
    """
    if not hasattr(os, "getuid"):
        return True
    status = path.stat()
    own = status.st_uid == os.getuid() and not status.st_mode & 0o022
    if not own:
        note(f"others can write to {path}: compiled steps in it are not used; see {FOLDER}")
    return own
