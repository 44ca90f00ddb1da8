"""How much memory there is, so that data that cannot fit are refused before they are read."""

from __future__ import annotations

import os
from pathlib import Path

from train.errors import require

SHARE = 0.5
"""The part of the available memory that the images of a data set may take; networks need some."""

UNKNOWN = 8 * 2**30
"""What is taken to be available where the system does not say, in bytes."""

GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Where Linux says what a container may take, and what it takes."""


def available() -> int:
    """Bytes that this process may still take: what the system has, or its container's limit."""
    free = [_of_system()]
    for limit, usage in GROUPS:
        numbers = [_number(Path(path)) for path in (limit, usage)]
        if None not in numbers:
            free.append(max(numbers[0] - numbers[1], 0))
    return min(free)


def require_fits(size: int, what: str, remedy: str) -> None:
    """Raises :class:`InputError` if data would take more than :data:`SHARE` of the memory.

    Args:
        size: Bytes that the data take in memory.
        what: What they are, to begin a sentence with.
        remedy: What to do.
    """
    limit = int(SHARE * available())
    require(
        size <= limit,
        f"{what} {readable(size)} of memory, more than the {readable(limit)} that data may take "
        f"({SHARE:.0%} of what is available): {remedy}",
    )


def readable(size: int) -> str:
    """A number of bytes for people, such as 1.9 GB."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = min(len(str(size)) - 1, 3 * len(units) - 1) // 3
    return f"{size / 1000**power:.3g} {units[power]}"


def _of_system() -> int:
    try:
        # Counts what the system would give back, files that it keeps for instance.
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return UNKNOWN


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    # Not there, or the word max.
    except (OSError, ValueError):
        return None
