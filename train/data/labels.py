"""Converts labels of any type to classes or quantities, and checks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.errors import InputError, require

MAX_FLOAT_CLASSES = 20
"""Floats that are all whole are classes if no more values than this occur: see :func:`as_labels`.
"""

MAX_UNLISTED = 1_000_000
"""The most classes of a run that does not list their values."""

MAX_SHOWN = 20
"""The most classes that an error message lists."""


@dataclass(frozen=True)
class Classes:
    """The classes of a data set, indexed from 0 in the order of their values.

    Attributes:
        values: The values of the classes in the data set, whole numbers or text, distinct and
            sorted.

    Example:
        >>> classes = Classes.of(np.array([2022, 2019, 2019]))
        >>> classes.values, classes.encode([2022, 2019]).tolist()
        ((2019, 2022), [1, 0])
    """

    values: tuple[int | str, ...]

    @classmethod
    def of(cls, labels: np.ndarray) -> Classes:
        """Returns the classes that occur in labels, whole numbers or text."""
        return cls(tuple(np.unique(labels).tolist()))

    @classmethod
    def from_saved(cls, values: Sequence[int | str] | None, n: int) -> Classes:
        """Restores the classes of a run.

        Args:
            values: Their values; None for runs of earlier versions, whose classes are 0, 1, ...
            n: Their number.

        Raises:
            ValueError: If the values are not that many distinct numbers or words.
        """
        if values is None and n > MAX_UNLISTED:
            raise ValueError(f"{n} classes without values")
        classes = cls(tuple(range(n) if values is None else values))
        plain = all(isinstance(value, int | str) for value in classes.values)
        if not plain or len(set(classes.values)) != len(classes) or len(classes) != n:
            raise ValueError("the values of the classes are not distinct numbers or words")
        return classes

    def __len__(self) -> int:
        return len(self.values)

    def encode(self, labels: Any) -> Tensor:
        r"""Converts values of classes to indices.

        Args:
            labels: Values, of any shape :math:`(*)`.

        Returns:
            Indices in :math:`[0, C)`, of shape :math:`(*)`, int64.

        Raises:
            InputError: If a label is not one of the classes.
        """
        array = _as_array(labels)
        index_of = {value: i for i, value in enumerate(self.values)}
        # Python's comparison has 2021.0 == 2021 and True == 1, and never "1" == 1.
        distinct, inverse = np.unique(array, return_inverse=True)
        unknown = [value for value in distinct.tolist() if value not in index_of]
        if unknown:
            raise InputError(f"there is no class {unknown[0]!r}: the classes are {self}")
        indices = np.array([index_of[value] for value in distinct.tolist()], dtype=np.int64)
        return torch.from_numpy(np.asarray(indices[inverse]).reshape(array.shape))

    def decode(self, indices: Tensor) -> list[int | str]:
        r"""Converts indices of classes, of shape :math:`(M)`, to their values."""
        return [self.values[index] for index in indices.tolist()]

    def find(self, label: int | str) -> int | None:
        """Returns the index of the class that is written like ``label``; None if there is none."""
        texts = [str(value) for value in self.values]
        return texts.index(str(label)) if str(label) in texts else None

    def __str__(self) -> str:
        shown = [repr(value) for value in self.values[:MAX_SHOWN]]
        more = len(self) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")


def as_labels(given: Any, name: str = "labels") -> np.ndarray:
    r"""Converts labels to an array of one type.

    Args:
        given: An array, tensor, list or column of a table: one label an image, of shape
            :math:`(M)` or :math:`(M, 1)`, or several, :math:`(M, K)`; integers, booleans, text, or
            floats.
        name: What error messages call the labels.

    Returns:
        Labels, of shape :math:`(M)` or :math:`(M, K)`: integers (int64, or uint64 where int64 is
        too small) or text for classes, float64 for quantities. Floats are converted to classes if
        there is one an image, all are whole, at most :data:`MAX_FLOAT_CLASSES` values occur, and
        each value occurs twice or more on average.

    Raises:
        InputError: If they are of another shape or type, or not finite.
    """
    array = _as_array(given, name)
    require(
        array.ndim in (1, 2) and (array.size > 0 or array.shape == (0,)),
        f"{name} has shape {array.shape}: give (N,), or (N, K) for K quantities",
    )
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1 and are_whole(array):
        values = np.unique(array)
        if len(values) <= min(MAX_FLOAT_CLASSES, len(array) // 2):
            return array.astype(np.int64)
    return array


def are_whole(array: np.ndarray) -> bool:
    """Returns whether an array has floats that are all whole numbers."""
    return array.dtype.kind == "f" and bool((np.rint(array) == array).all() and array.size > 0)


def interpretation(given: np.ndarray, labels: np.ndarray) -> str | None:
    """Describes how floats that are all whole were interpreted: as classes or as quantities.

    Args:
        given: Labels as they were given.
        labels: What :func:`as_labels` returns for them.

    Returns:
        A line that names the remedy; None if only one interpretation was possible.
    """
    if labels.ndim > 1 or not are_whole(np.asarray(given)):
        return None
    count = len(np.unique(labels))
    if labels.dtype.kind == "f":
        return (
            f"the labels are floats, all whole, of {count} values, and are taken for quantities: "
            "give integers if they are classes"
        )
    return (
        f"the labels are floats, all whole, of {count} values, and are taken for classes: divide "
        "them by 10 if they are quantities"
    )


def are_classes(labels: np.ndarray) -> bool:
    """Returns whether labels from :func:`as_labels` are classes, one an image."""
    return labels.ndim == 1 and labels.dtype.kind in "iuU"


def _as_array(given: Any, name: str = "labels") -> np.ndarray:
    """Converts labels to an array of integers, text or finite float64, of any shape."""
    array = _from_sequence(given, name)
    if array.dtype.kind == "O":
        array = _of_one_type(array, name)
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
    # In the machine's byte order.
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _from_sequence(given: Any, name: str) -> np.ndarray:
    """Converts a tensor, list or array; a list becomes an array of Python objects."""
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        given = (given.double() if given.is_floating_point() else given).numpy()
    elif isinstance(given, list | tuple) and any(isinstance(label, Tensor) for label in given):
        given = [label.tolist() if isinstance(label, Tensor) else label for label in given]
    # Otherwise NumPy would convert the numbers of a list with words in it to words.
    dtype = object if isinstance(given, list | tuple) else None
    try:
        return np.asarray(given, dtype=dtype)
    except ValueError as error:
        raise InputError(f"{name} has lists of unequal lengths: give one label an image") from error


def _of_one_type(array: np.ndarray, name: str) -> np.ndarray:
    """Converts an array of Python objects to one of numbers or of text."""
    flat = [value.item() if isinstance(value, np.generic) else value for value in array.flat]
    for types, dtype in (((str,), np.str_), ((int,), None), ((int, float), np.float64)):
        if all(isinstance(value, types) for value in flat):
            try:
                converted = np.array(flat, dtype=dtype)
            except OverflowError:
                break
            # NumPy converts integers to floats or objects where no integer type has room for all.
            if converted.dtype.kind == "O" or (types == (int,) and converted.dtype.kind == "f"):
                break
            return converted.astype(np.int64 if not flat else converted.dtype).reshape(array.shape)
    raise InputError(
        f"{name} is not of one kind: give whole numbers or text for classes, or floats for "
        "quantities"
    )
