"""What is held out: a fifth, the same one every time."""

from __future__ import annotations

import numpy as np


def hold_out_fifth(count: int, classes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    r"""Splits :math:`0, \dots, M - 1` into four fifths to keep and one fifth to hold out.

    A fixed permutation decides, so a data set is always split in the same way, whatever the seed
    of the run. With ``classes``, each class loses a fifth of its own members, give or take one.

    Args:
        count: The number of examples, :math:`M \ge 5`.
        classes: The class of each example, :math:`(M,)`, integers.

    Returns:
        The examples to keep, :math:`(M - \lfloor M / 5 \rfloor,)`, and those to hold out,
        :math:`(\lfloor M / 5 \rfloor,)`, both in shuffled order.

    Example:
        >>> kept, held_out = hold_out_fifth(5000, np.repeat(np.arange(10), 500))
        >>> kept.shape, held_out.shape
        ((4000,), (1000,))
    """
    # Of numpy's generators only this one promises the same numbers in every version.
    shuffled = np.random.RandomState(0).permutation(count)
    by_class = shuffled
    if classes is not None:
        by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    chosen = np.zeros(count, dtype=bool)
    # Every fifth one in order of class is a fifth of the whole and of each class at once.
    chosen[by_class[4::5]] = True
    return shuffled[~chosen[shuffled]], shuffled[chosen[shuffled]]
