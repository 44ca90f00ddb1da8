"""Factors of variation of data sets that are drawn from code: their values, samples and checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from train.errors import InputError, require

Rows = Mapping[str, np.ndarray]

SPARSE = 8
"""At most one combination of factors in so many is drawn, so that those that repeat are few."""


def sample(
    levels: Rows,
    n: int,
    seed: int,
    *,
    apart_from: Rows | None = None,
    equivalent: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = dict,
) -> dict[str, np.ndarray]:
    r"""Draws combinations of the values of several factors at random; none occurs twice.

    The values of each factor are equally frequent: their counts differ by 1 at most. Each factor
    is permuted on its own, so that factors are independent of one another. Rows that repeat
    a combination then swap a value with a random other row until none does.

    Args:
        levels: The values of each factor by name, sorted, of shape :math:`(L)`.
        n: The number of combinations, :math:`M`. With those of ``apart_from`` they are at most one
            in :data:`SPARSE` of all.
        seed: Seed of the draws. The same seed gives the same combinations in every version of
            NumPy.
        apart_from: Combinations that are not drawn, such as those of training images.
        equivalent: Maps indices of values, by factor, to the indices of a combination with the
            same image. Of combinations with the same image one at most is drawn.

    Returns:
        The values of each factor by name, of shape :math:`(M)`.

    Raises:
        InputError: If ``n`` is out of its range.

    Example:
        >>> rows = sample({"side": np.array(["left", "right"]), "size": np.arange(20)}, 4, seed=0)
        >>> sorted(rows["side"].tolist())
        ['left', 'left', 'right', 'right']
    """
    sizes = {name: len(values) for name, values in levels.items()}

    def codes(indices: dict[str, np.ndarray]) -> np.ndarray:
        canonical = equivalent(indices)
        return np.ravel_multi_index([canonical[name] for name in sizes], list(sizes.values()))

    excluded = np.zeros(0, dtype=np.int64)
    if apart_from is not None:
        excluded = codes({name: np.searchsorted(levels[name], apart_from[name]) for name in sizes})
    most = math.prod(sizes.values()) // SPARSE - len(excluded)
    require(
        1 <= n <= most,
        f"{n} images were asked for: give 1 to {most}, one in {SPARSE} of the combinations of "
        "factors at most",
    )
    # Of NumPy's generators only this one promises the same numbers in every version.
    random = np.random.RandomState(seed)
    indices = {name: random.permutation(n) % size for name, size in sizes.items()}
    while len(repeats := _repeats(codes(indices), excluded)):
        for row in repeats:
            column = indices[list(sizes)[random.randint(len(sizes))]]
            other = random.randint(n)
            column[[row, other]] = column[[other, row]]
    return {name: np.asarray(levels[name])[index] for name, index in indices.items()}


def _repeats(codes: np.ndarray, excluded: np.ndarray) -> np.ndarray:
    """Returns the rows whose code is excluded, or the code of an earlier row."""
    is_first = np.zeros(len(codes), dtype=bool)
    is_first[np.unique(codes, return_index=True)[1]] = True
    return np.flatnonzero(~is_first | np.isin(codes, excluded))


def aligned(**factors: Any) -> dict[str, np.ndarray]:
    r"""Brings the values of factors to one shape, :math:`(M)`; a single value is repeated.

    Raises:
        InputError: If they have several lengths, or more than one axis.
    """
    arrays = {name: np.atleast_1d(np.asarray(values)) for name, values in factors.items()}
    lengths = {name: len(array) for name, array in arrays.items() if array.shape != (1,)}
    require(
        all(array.ndim == 1 for array in arrays.values()) and len(set(lengths.values())) <= 1,
        "the factors have shapes "
        + ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        + ": give one value, or as many values of each as there are images",
    )
    n = next(iter(lengths.values()), 1)
    return {name: np.broadcast_to(array, (n,)) for name, array in arrays.items()}


def quantities(name: str, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns the values of a factor as float64.

    Args:
        name: The name of the factor.
        values: Numbers.
        low: The smallest value.
        high: The largest value.

    Raises:
        InputError: If they are not numbers, or out of range.
    """
    remedy = f"give numbers from {low:g} to {high:g}"
    require(values.dtype.kind in "iuf", f"{name} is of type {values.dtype}: {remedy}")
    values = values.astype(np.float64)
    # The comparison is false for nan.
    bad = values[~((values >= low) & (values <= high))]
    require(not bad.size, f"{name} is {bad[0] if bad.size else ''}: {remedy}")
    return values


def words(name: str, values: np.ndarray, choices: Sequence[str]) -> np.ndarray:
    """Returns the values of a factor as text.

    Args:
        name: The name of the factor.
        values: Words.
        choices: The words that are allowed.

    Raises:
        InputError: If there is another one.
    """
    for value in np.unique(values).tolist() if values.dtype.kind in "US" else values.tolist():
        if value not in choices:
            raise InputError(f"{name} is {value!r}: give one of {', '.join(choices)}")
    return values.astype(np.str_)
