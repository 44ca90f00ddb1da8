"""Fixed, stratified splits into examples to train on and examples to hold out."""

from __future__ import annotations

import numpy as np


def hold_out(
    n: int, classes: np.ndarray | None = None, one_in: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    r"""Splits the indices :math:`0, \dots, M - 1`, holding out one in :math:`P`.

    A fixed permutation decides, so a data set is always split in the same way, whatever the seed
    of the run. With ``classes``, the split is stratified: of :math:`M_c` examples of a class,
    :math:`M_c / P` are held out, rounded up or down.

    Args:
        n: The number of examples, :math:`M \ge P`.
        classes: The class of each example, of shape (M,), integers.
        one_in: One example in :math:`P` is held out.

    Returns:
        The indices to train on, of shape :math:`(M - \lfloor M / P \rfloor,)`, and those to hold
        out, of shape :math:`(\lfloor M / P \rfloor,)`, both shuffled.

    Example:
        >>> train, held_out = hold_out(5000, np.repeat(np.arange(10), 500))
        >>> train.shape, held_out.shape
        ((4000,), (1000,))
    """
    # Of NumPy's generators only this one promises the same numbers in every version.
    shuffled = np.random.RandomState(0).permutation(n)
    by_class = shuffled
    if classes is not None:
        by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    is_held_out = np.zeros(n, dtype=bool)
    # Every Pth one in the order of classes is one in P of all examples, and of each class.
    is_held_out[by_class[one_in - 1 :: one_in]] = True
    return shuffled[~is_held_out[shuffled]], shuffled[is_held_out[shuffled]]
