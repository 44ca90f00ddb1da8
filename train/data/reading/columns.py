"""The named columns of a data set, and which of them are the label and the split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from train.data.splits import WORDS, splits_of
from train.errors import note, require

LABELS = ("label", "labels")
"""The names of columns that are the label without being asked for."""


TYPES = {"i": "whole numbers", "u": "whole numbers of 64 bits", "f": "fractions", "U": "text"}
"""What error messages call the types of columns, by the letters that NumPy has for them."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns by name.

    Attributes:
        values: Arrays of shape (M,), of classes (int64 or text) or quantities (float64).
        unusable: Why a column of these names cannot be used: a line that names the column and the
            remedy.
        label: The names of the columns that are the label, unless others are asked for.
    """

    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)
    label: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns, of those that cannot be used too."""
        return (*self.values, *self.unusable)

    def require(self, name: str, flag: str) -> None:
        """Raises :class:`InputError` unless there is a column of a name that can be used."""
        require(name not in self.unusable, f"{flag} {name}: {self.unusable.get(name)}")
        require(
            name in self.values,
            f"{flag} {name}: there is no such column: {_listed(self.names)}",
        )

    def select(self, rows: np.ndarray) -> Columns:
        """Returns the columns with the rows at some indices."""
        values = {name: column[rows] for name, column in self.values.items()}
        return Columns(values, self.unusable, self.label)

    def joined(self, others: Columns, name: str) -> Columns:
        """Adds columns, among which the label is.

        Args:
            others: The columns, with equally many rows.
            name: What error messages call these.

        Raises:
            InputError: If two columns of one name differ.
        """
        for column in sorted(set(self.names) & set(others.names)):
            one, other = self.values.get(column), others.values.get(column)
            require(
                one is not None
                and other is not None
                and np.array_equal(one.astype(str), other.astype(str)),
                f"{name}: the data already have a column {column} with other values: rename one",
            )
        return Columns(
            {**self.values, **others.values},
            {**self.unusable, **others.unusable},
            others.label or self.label,
        )

    @classmethod
    def concatenated(cls, tables: Sequence[Columns], names: Sequence[str]) -> Columns:
        """Joins the rows of columns, one table after the other.

        Args:
            tables: Columns of the same names.
            names: What error messages call the tables.

        Raises:
            InputError: If a column is of different types.
        """
        first, *others = tables
        unusable = {name: line for table in tables for name, line in table.unusable.items()}
        usable = [name for name in first.values if name not in unusable]
        for other, other_name in zip(others, names[1:], strict=True):
            for name in usable:
                types = [table.values[name].dtype.kind for table in (first, other)]
                require(
                    types[0] == types[1],
                    f"{name} is {TYPES[types[0]]} in {names[0]} but {TYPES[types[1]]} in "
                    f"{other_name}: give both one type",
                )
        values = {name: np.concatenate([table.values[name] for table in tables]) for name in usable}
        return cls(values, unusable, first.label)

    def labelled(self, names: tuple[str, ...]) -> Columns:
        """Returns the columns with others as the label; notes those that cannot be used.

        Args:
            names: One column, or several columns of numbers; the label stays if empty.

        Raises:
            InputError: If there is no such column, or it cannot be used.
        """
        for name in names or self.label:
            self.require(name, "--label-column")
        chosen = names or self.label
        words = [name for name in chosen if self.values[name].dtype.kind in "US"]
        require(
            len(chosen) < 2 or not words or chosen == self.label,
            f"--label-column {' '.join(chosen)}: several columns have to be numbers, and "
            f"{words[0] if words else ''} is text: give one column of classes",
        )
        require(len(set(chosen)) == len(chosen), f"--label-column {' '.join(chosen)}: one is twice")
        for reason in self.unusable.values():
            note(f"left out: {reason}")
        return Columns(self.values, {}, chosen)

    def split(self, name: str | None) -> tuple[Columns, np.ndarray | None]:
        """Takes the column of splits out.

        Args:
            name: Its name; None if there is none.

        Returns:
            The other columns, and the splits: see :func:`train.data.splits.splits_of`.

        Raises:
            InputError: If there is no such column, or it has other words.
        """
        if name is None:
            self._note_splits()
            return self, None
        self.require(name, "--split-column")
        others = {column: values for column, values in self.values.items() if column != name}
        label = tuple(column for column in self.label if column != name)
        splits = splits_of(self.values[name], f"--split-column {name}")
        return Columns(others, self.unusable, label), splits

    def _note_splits(self) -> None:
        """Says that a column has splits, which are not used unless asked for."""
        for name, values in self.values.items():
            if values.dtype.kind == "U" and len(values):
                words = {word.strip().lower() for word in np.unique(values).tolist()}
                if len(words) > 1 and words <= set(WORDS):
                    note(f"the column {name} has splits: --split-column {name} uses them")


def of_labels(labels: np.ndarray, name: str = "labels") -> Columns:
    """Returns labels as columns: one of that name, or several called ``"0"``, ``"1"``, ...

    Args:
        labels: Labels, of shape (M,) or (M, K): see :func:`train.data.labels.as_labels`.
        name: The name of a single column.
    """
    if labels.ndim == 1:
        return Columns({name: labels}, label=(name,))
    names = tuple(map(str, range(labels.shape[1])))
    return Columns(dict(zip(names, labels.T, strict=True)), label=names)


def default_label(names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the column of a table that is the label: the one of :data:`LABELS`, or the first."""
    called = [name for name in names if name.lower() in LABELS]
    return tuple((called or list(names))[:1])


def _listed(names: tuple[str, ...]) -> str:
    return f"the columns are {', '.join(names)}" if names else "the data have no columns"
