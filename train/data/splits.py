"""Splits into examples to train on and to hold out: those that data give, and fixed random ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from train.errors import brief, require

SplitName = Literal["train", "validation", "test"]

SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")

WORDS: dict[str, SplitName] = {
    **{"train": "train", "training": "train"},
    **{"validation": "validation", "valid": "validation", "val": "validation"},
    **{"test": "test", "testing": "test"},
}
"""The words, in small or capital letters, for a split in a column or as a folder's name."""


def split_of(word: str) -> SplitName | None:
    """Returns the split that a word of :data:`WORDS` means; None for any other word."""
    return WORDS.get(word.strip().lower())


def splits_of(words: Sequence[str] | np.ndarray, name: str) -> np.ndarray:
    """Converts a column of words to splits.

    Args:
        words: A word of :data:`WORDS` for each image.
        name: What error messages call the column.

    Returns:
        ``"train"``, ``"validation"`` or ``"test"`` for each image.

    Raises:
        InputError: If there is another word, or no image to train on.
    """
    distinct, inverse = np.unique(np.asarray(words).astype(str), return_inverse=True)
    splits = [split_of(str(word)) for word in distinct]
    unknown = [str(word) for word, split in zip(distinct, splits, strict=True) if split is None]
    require(
        not unknown,
        f"{name} has {brief(unknown[0]) if unknown else ''}: give one of {', '.join(WORDS)}",
    )
    return np.array(splits, dtype=str)[inverse.reshape(-1)]


def given_rows(
    splits: np.ndarray, validation: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the indices of given splits.

    Args:
        splits: The split of each image: see :func:`splits_of`.
        validation: Whether the validation images are evaluated on, or else the test images.

    Returns:
        The indices to train on, and those to evaluate on: the validation images if ``validation``
            or if there are no test images; None if there are none of them.
    """
    train, others, test = (np.flatnonzero(splits == split) for split in SPLITS)
    if len(others) and (validation or not len(test)):
        return train, others
    return train, None if validation else test


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
