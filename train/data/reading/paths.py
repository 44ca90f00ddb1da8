"""Tells regular files from folders, pipes and broken links."""

from __future__ import annotations

import stat
from pathlib import Path

KINDS = (
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)
"""Tests of a file's mode, and the name of what passes."""


def kind_of(path: Path) -> str | None:
    """Names what is at a path, after following links.

    Returns:
        ``"file"``, ``"folder"``, a phrase with its article for anything else, such as
        ``"a named pipe"``, or None if there is nothing.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        # The target of a link may be missing, or be the link itself.
        return "a link that leads nowhere" if path.is_symlink() else None
    return next((name for is_kind, name in KINDS if is_kind(mode)), "a device")
