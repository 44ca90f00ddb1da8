"""What is held out: the same part every time."""

from __future__ import annotations

import numpy as np


def hold_out(
    count: int, classes: np.ndarray | None = None, part: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    r"""Splits :math:`0, \dots, M - 1` into what to keep and one in :math:`P` to hold out.

    A fixed permutation decides, so a data set is always split in the same way, whatever the seed
    of the run. With ``classes``, each class loses that part of its members, give or take one.

    Args:
        count: The number of examples, :math:`M \ge P`.
        classes: The class of each example, :math:`(M,)`, integers.
        part: One example in :math:`P` is held out.

    Returns:
        The examples to keep, :math:`(M - \lfloor M / P \rfloor,)`, and those to hold out,
        :math:`(\lfloor M / P \rfloor,)`, both in shuffled order.

    Example:
        >>> kept, held_out = hold_out(5000, np.repeat(np.arange(10), 500))
        >>> kept.shape, held_out.shape
        ((4000,), (1000,))
    """
    # Of numpy's generators only this one promises the same numbers in every version.
    shuffled = np.random.RandomState(0).permutation(count)
    by_class = shuffled
    if classes is not None:
        by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    chosen = np.zeros(count, dtype=bool)
    # Every Pth one in order of class is that part of the whole and of each class at once.
    chosen[by_class[part - 1 :: part]] = True
    return shuffled[~chosen[shuffled]], shuffled[chosen[shuffled]]
