"""Checks numbers of objects that are asked for. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from train.errors import brief, require


def checked(counts: Sequence[int], name: str) -> tuple[int, ...]:
    """Returns numbers of objects in increasing order.

    Args:
        counts: Different whole numbers, 0 or more; at least one.
        name: What error messages call them.

    Raises:
        InputError: If they are not.

    Example:
        >>> checked([3, 0, 1], "--digit-counts")
        (0, 1, 3)
    """
    values = tuple(counts)
    require(len(values) > 0, f"{name} has no number: give one or more, such as 0 1 3")
    for value in values:
        require(
            isinstance(value, Integral) and not isinstance(value, bool) and value >= 0,
            f"{name} has {brief(value)}: give whole numbers, 0 or more",
        )
    repeated = [value for value in values if values.count(value) > 1]
    require(
        not repeated,
        f"{name} has {repeated[0] if repeated else ''} more than once: give each number once",
    )
    return tuple(sorted(int(value) for value in values))
