"""Labels as people have them: classes of any values, or quantities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.errors import InputError, require

FEW = 20
"""Floats that are all whole are classes if no more values occur: see :func:`as_labels`."""

MOST = 1_000_000
"""The most classes of a run that does not say what they are."""

SHOWN = 20
"""How many known classes an error lists."""


@dataclass(frozen=True)
class Classes:
    """The classes that occur in labels, numbered in the order of their values.

    Attributes:
        values: The classes' values as the data have them, whole numbers or text, distinct and
            sorted. A class' number is its place among them.

    Example:
        >>> classes = Classes.of(np.array([2022, 2019, 2019]))
        >>> classes.values, classes.encode([2022, 2019]).tolist()
        ((2019, 2022), [1, 0])
    """

    values: tuple[int | str, ...]

    @classmethod
    def of(cls, labels: np.ndarray) -> Classes:
        """The classes that occur in labels, whole numbers or text."""
        return cls(tuple(np.unique(labels).tolist()))

    @classmethod
    def restored(cls, values: Sequence[int | str] | None, number: int) -> Classes:
        """Classes from what a run keeps; runs of earlier versions number them from 0.

        Raises:
            ValueError: If the values are not as many distinct numbers or words.
        """
        if values is None and number > MOST:
            raise ValueError(f"{number} classes without values")
        classes = cls(tuple(range(number) if values is None else values))
        plain = all(isinstance(value, int | str) for value in classes.values)
        if not plain or len(set(classes.values)) != len(classes) or len(classes) != number:
            raise ValueError("the values of the classes are not distinct numbers or words")
        return classes

    def __len__(self) -> int:
        return len(self.values)

    def encode(self, labels: Any) -> Tensor:
        r"""The numbers of classes.

        Args:
            labels: Values of classes, of any shape :math:`(*)`.

        Returns:
            Numbers from 0 to :math:`C - 1`, of shape :math:`(*)`, int64.

        Raises:
            InputError: If a label is none of the classes.
        """
        array = _array(labels)
        number = {value: i for i, value in enumerate(self.values)}
        # Python compares 2021.0 with 2021 and True with 1 as people do, and never "1" with 1.
        distinct, places = np.unique(array, return_inverse=True)
        unknown = [value for value in distinct.tolist() if value not in number]
        if unknown:
            raise InputError(f"there is no class {unknown[0]!r}: the classes are {self}")
        numbers = np.array([number[value] for value in distinct.tolist()], dtype=np.int64)
        return torch.from_numpy(np.asarray(numbers[places]).reshape(array.shape))

    def decode(self, numbers: Tensor) -> list[int | str]:
        r"""The values of classes' numbers, of shape :math:`(M)`."""
        return [self.values[number] for number in numbers.tolist()]

    def find(self, label: int | str) -> int | None:
        """The number of the class that is written as a label is on a command line, if any."""
        texts = [str(value) for value in self.values]
        return texts.index(str(label)) if str(label) in texts else None

    def __str__(self) -> str:
        shown = [repr(value) for value in self.values[:SHOWN]]
        more = len(self) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")


def as_labels(given: Any, name: str = "labels") -> np.ndarray:
    r"""Labels as an array of one kind.

    Args:
        given: An array, tensor, list or column of a table: one label an image, of shape
            :math:`(M)` or :math:`(M, 1)`, or several, :math:`(M, K)`; whole numbers, true or
            false, text, or floats.
        name: What an error calls them.

    Returns:
        Of shape :math:`(M)` or :math:`(M, K)`: int64 (uint64 beyond it) or text for classes,
        float64 for quantities. One float an image is a class if all of them are whole, no more
        than :data:`FEW` values occur, and each twice in the mean; the array is then of int64.

    Raises:
        InputError: If they are of another shape or kind, or not finite.
    """
    array = _array(given, name)
    require(
        array.ndim in (1, 2) and (array.size > 0 or array.shape == (0,)),
        f"{name} has shape {array.shape}: give (N,), or (N, K) for K quantities",
    )
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1 and are_whole(array):
        values = np.unique(array)
        if len(values) <= min(FEW, len(array) // 2):
            return array.astype(np.int64)
    return array


def are_whole(array: np.ndarray) -> bool:
    """Whether an array is of floats that are all whole numbers."""
    return array.dtype.kind == "f" and bool((np.rint(array) == array).all() and array.size > 0)


def chosen(given: np.ndarray, labels: np.ndarray) -> str | None:
    """Says what floats that are whole were taken for, where they could be either.

    Args:
        given: Labels as they were given.
        labels: What :func:`as_labels` made of them.

    Returns:
        A line, or None if there was no choice.
    """
    if labels.ndim > 1 or not are_whole(np.asarray(given)):
        return None
    number = len(np.unique(labels))
    if labels.dtype.kind == "f":
        return (
            f"the labels are floats, all whole, of {number} values, and are taken for quantities: "
            "give integers if they are classes"
        )
    return (
        f"the labels are floats, all whole, of {number} values, and are taken for classes: divide "
        "them by 10 if they are quantities"
    )


def are_classes(labels: np.ndarray) -> bool:
    """Whether what :func:`as_labels` returns are classes, one an image."""
    return labels.ndim == 1 and labels.dtype.kind in "iuU"


def _array(given: Any, name: str = "labels") -> np.ndarray:
    """An array of whole numbers, text or finite float64, of any shape."""
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        given = (given.double() if given.is_floating_point() else given).numpy()
    elif isinstance(given, list | tuple) and any(isinstance(each, Tensor) for each in given):
        given = [each.tolist() if isinstance(each, Tensor) else each for each in given]
    # A list's entries are looked at before NumPy turns numbers among words into words.
    kind = object if isinstance(given, list | tuple) else None
    try:
        array = np.asarray(given, dtype=kind)
    except ValueError as error:
        raise InputError(f"{name} has lists of unequal lengths: give one label an image") from error
    if array.dtype.kind == "O":
        array = _of_one_kind(array, name)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    require(
        array.dtype.kind in "biufU",
        f"{name} is of type {array.dtype}: give whole numbers or text for classes, or floats for "
        "quantities",
    )
    if array.dtype.kind == "f":
        array = array.astype(np.float64)
        require(
            bool(np.isfinite(array).all()),
            f"{name} has values that are not finite: replace them or leave those images out",
        )
    elif array.dtype.kind in "bi" or (array.dtype.kind == "u" and array.dtype.itemsize < 8):
        array = array.astype(np.int64)
    # Another byte order than the machine's is no kind of its own.
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _of_one_kind(array: np.ndarray, name: str) -> np.ndarray:
    """An array of Python's objects as one of numbers or of text."""
    flat = [each.item() if isinstance(each, np.generic) else each for each in array.flat]
    for kinds, dtype in (((str,), np.str_), ((int,), None), ((int, float), np.float64)):
        if all(isinstance(each, kinds) for each in flat):
            try:
                converted = np.array(flat, dtype=dtype)
            except OverflowError:
                break
            # NumPy makes floats of whole numbers that no integer type has together.
            if converted.dtype.kind == "O" or (kinds == (int,) and converted.dtype.kind == "f"):
                break
            return converted.astype(np.int64 if not flat else converted.dtype).reshape(array.shape)
    raise InputError(
        f"{name} is not of one kind: give whole numbers or text for classes, or floats for "
        "quantities"
    )
