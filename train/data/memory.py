"""The available memory, so that data that do not fit are refused before they are read."""

from __future__ import annotations

import os
from pathlib import Path

from train.errors import require

FRACTION = 0.5
"""Data may take this fraction of the available memory; networks need the rest."""

FALLBACK = 8 * 2**30
"""Bytes that are assumed to be available where the system does not say."""

GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Files with a container's limit and usage in bytes, of Linux's cgroups, version 2 and 1."""


def available() -> int:
    """Returns the bytes that this process may still allocate, by its system and its container."""
    limits = [_available_in_system()]
    for limit_file, usage_file in GROUPS:
        limit, usage = (_read_number(Path(path)) for path in (limit_file, usage_file))
        if limit is not None and usage is not None:
            limits.append(max(limit - usage, 0))
    return min(limits)


def require_available(size: int, subject: str, remedy: str) -> None:
    """Raises :class:`InputError` if data need more than :data:`FRACTION` of available memory.

    Args:
        size: Bytes that the data need.
        subject: The beginning of the message, up to the number of bytes.
        remedy: The end of the message: what to do.
    """
    limit = int(FRACTION * available())
    require(
        size <= limit,
        f"{subject} {readable(size)} of memory, more than the {readable(limit)} that data may take "
        f"({FRACTION:.0%} of what is available): {remedy}",
    )


def readable(size: int) -> str:
    """Formats a number of bytes with a unit, such as 1.9 GB."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = min(len(str(size)) - 1, 3 * len(units) - 1) // 3
    return f"{size / 1000**power:.3g} {units[power]}"


def _available_in_system() -> int:
    try:
        # Includes what the system can free, such as its cache of files.
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return FALLBACK


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    # There is no such file, or it says "max".
    except (OSError, ValueError):
        return None
