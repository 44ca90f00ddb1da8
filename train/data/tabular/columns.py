"""The columns of a table: what each one holds, and how its cells are encoded for a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas.api import types

from pyro_models.rows import ColumnKind
from train.errors import brief, note, require

Kind = Literal["number", "category", "ordered"]

SKEWED = 2.0
"""Numbers that are not negative and have a larger skewness than this are encoded by their
logarithm."""

MOST_CATEGORIES = 1_000
"""The most categories of a column."""

FEW = 2
"""Numbers of no more values than this are categories, such as 0 and 1."""


@dataclass(frozen=True)
class Column:
    r"""A column of a table, as a model has it.

    A number :math:`v` is encoded as :math:`(h(v) - m) / s`, with :math:`h` the identity or
    :math:`\log(1 + v)`, and mean :math:`m` and standard deviation :math:`s` of :math:`h(v)` in the
    training rows. Each column is scaled by itself. A category is encoded as its index. A missing
    cell, or a category that is not among ``values``, is NaN.

    Attributes:
        name: Its name.
        kind: ``"number"``, ``"category"``, or ``"ordered"`` categories.
        values: The categories, in their order; empty for numbers.
        logarithm: Whether :math:`h` is the logarithm.
        loc: :math:`m`.
        scale: :math:`s`, above 0.
        low: The least number of the training rows.
        high: The greatest number of the training rows.
        whole: Whether all numbers are whole.
        has_missing: Whether cells of the training rows are missing.

    Example:
        >>> column = Column.fit("age", pd.Series([20, 30, 40, None]), "number")
        >>> column.encode(pd.Series([30, None])).tolist()
        [0.0, nan]
        >>> column.decode(np.array([0.0])).tolist()
        [30]
    """

    name: str
    kind: Kind
    values: tuple[Any, ...] = ()
    logarithm: bool = False
    loc: float = 0.0
    scale: float = 1.0
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    has_missing: bool = False

    @classmethod
    def fit(
        cls, name: str, series: pd.Series, kind: Kind, order: Sequence[str] | None = None
    ) -> Column:
        """Returns the column for the cells of the training rows.

        Args:
            name: Its name.
            series: Its cells; two different ones at least.
            kind: What it holds.
            order: The categories in their order; their own order if not given.

        Raises:
            InputError: If a category is not in the order, or there are too many.
        """
        present = series.dropna()
        has_missing = len(present) < len(series)
        if kind == "number":
            numbers = present.astype(float).to_numpy()
            require(
                bool(np.isfinite(numbers).all()),
                f"--data: column {name} has numbers that are not finite: replace them",
            )
            logarithm = bool(numbers.min() >= 0 and skewness(numbers) > SKEWED)
            coded = np.log1p(numbers) if logarithm else numbers
            moments = float(coded.mean()), float(coded.std())
            limits = float(numbers.min()), float(numbers.max())
            whole = bool((numbers == np.rint(numbers)).all())
            return cls(name, kind, (), logarithm, *moments, *limits, whole, has_missing)
        values = categories(present)
        if order is not None:
            unknown = [value for value in values if str(value) not in order]
            require(
                not unknown,
                f"--ordinal {name}: {brief(unknown[0]) if unknown else ''} is in the column and "
                "not in the order: name all of its values",
            )
            # As the data have them: numbers may be written as text in the order.
            values = sorted(values, key=lambda value: order.index(str(value)))
        require(
            len(values) <= MOST_CATEGORIES,
            f"--data: column {name} has {len(values):,} categories, and {MOST_CATEGORIES:,} are "
            f"the most: --drop {name} leaves it out",
        )
        return cls(name, kind, tuple(values), has_missing=has_missing)

    def encode(self, series: pd.Series) -> np.ndarray:
        r"""Encodes cells, of shape :math:`(M)`, float32; says how many categories are unknown."""
        if self.kind == "number":
            numbers = pd.to_numeric(series, errors="coerce").astype(float).to_numpy()
            bad = int(np.isnan(numbers).sum() - series.isna().sum())
            require(
                not bad,
                f"column {self.name} has {bad:,} cells that are no numbers: this model knows it as "
                "numbers",
            )
            # A logarithm of numbers below those of the training rows need not exist.
            coded = np.log1p(numbers.clip(min=0)) if self.logarithm else numbers
            return ((coded - self.loc) / self.scale).astype(np.float32)
        index_of = {value: i for i, value in enumerate(self.values)}
        index = series.map(index_of)
        unknown = series[index.isna() & series.notna()]
        if len(unknown):
            note(
                f"column {self.name}: {len(unknown):,} cells have a category that the training "
                f"rows do not have, such as {brief(unknown.iloc[0])}, and count as missing"
            )
        return index.astype(float).to_numpy(dtype=np.float32)

    def decode(self, cells: np.ndarray) -> np.ndarray:
        """Converts encoded cells to numbers, within those of the training rows, or categories."""
        if self.kind != "number":
            values = np.array(self.values, dtype=object)
            return np.asarray(values[cells.astype(int)].tolist())
        coded = cells.astype(np.float64) * self.scale + self.loc
        numbers = (np.expm1(coded) if self.logarithm else coded).clip(self.low, self.high)
        return np.rint(numbers).astype(np.int64) if self.whole else numbers

    @property
    def model_kind(self) -> ColumnKind:
        """What the column is for a model."""
        return ColumnKind(len(self.values), self.kind == "ordered", self.has_missing)

    def state(self) -> dict[str, Any]:
        """Returns plain values for :meth:`from_state`, as JSON takes them."""
        return asdict(self) | {"values": list(self.values)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Column:
        """Restores a column from :meth:`state`.

        Raises:
            ValueError: If the values are not those of a column.
        """
        column = cls(**{field.name: state[field.name] for field in fields(cls)})
        numbers = (column.loc, column.scale, column.low, column.high)
        values = column.values
        if (
            not isinstance(column.name, str)
            or column.kind not in ("number", "category", "ordered")
            or not all(type(x) in (int, float) and np.isfinite(x) for x in numbers)
            or column.scale <= 0
            or not isinstance(values, list | tuple)
            or not all(type(value) in (int, float, str, bool) for value in values)
            or len(set(values)) != len(values)
            or not (len(values) == 0 if column.kind == "number" else len(values) >= 2)
            or len(values) > MOST_CATEGORIES
        ):
            raise ValueError(f"{brief(state)} is no column of a table")
        return cls(**{**vars(column), "values": tuple(values)})

    def describe(self) -> str:
        """Returns what the column holds, in a few words."""
        if self.kind == "number":
            how = ", by their logarithm" if self.logarithm else ""
            return f"numbers from {self.low:g} to {self.high:g}{how}"
        shown = ", ".join(map(str, self.values[:4])) + (", ..." if len(self.values) > 4 else "")
        return f"{len(self.values)} {'ordered ' * (self.kind == 'ordered')}categories ({shown})"


def skewness(numbers: np.ndarray) -> float:
    """Returns the third standardised moment of numbers; 0 if they are all the same."""
    centred = numbers - numbers.mean()
    variance = float(np.mean(centred**2))
    return float(np.mean(centred**3) / variance**1.5) if variance > 0 else 0.0


def categories(present: pd.Series) -> list[Any]:
    """Returns the categories of a column without missing cells, as plain values, in order."""
    if isinstance(present.dtype, pd.CategoricalDtype):
        kept = set(present.unique())
        found = [value for value in present.cat.categories if value in kept]
    else:
        found = sorted(present.unique().tolist(), key=lambda value: (str(type(value)), value))
    return [value.item() if isinstance(value, np.generic) else value for value in found]


def kind_of(series: pd.Series) -> Kind:
    """Finds what a column holds.

    Categories are text, true and false, and numbers of at most :data:`FEW` values; ordered ones are
    pandas' ordered categories. Other numbers are numbers.

    Raises:
        InputError: If it holds something else.
    """
    if isinstance(series.dtype, pd.CategoricalDtype):
        return "ordered" if series.cat.ordered else "category"
    if types.is_bool_dtype(series):
        return "category"
    if types.is_numeric_dtype(series) and not types.is_complex_dtype(series):
        return "category" if series.nunique() <= FEW else "number"
    present = series.dropna()
    plain = all(isinstance(value, str | bool | int) for value in present.unique())
    require(
        plain,
        f"--data: column {series.name} holds {series.dtype}, neither numbers nor text: convert it "
        f"to numbers, or --drop {series.name} leaves it out",
    )
    return "category"
