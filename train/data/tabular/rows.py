"""Rows of a table with their condition and target, and their split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from train.data.batches import Batches
from train.data.splits import given_rows, hold_out, splits_of
from train.data.tabular.columns import kind_of
from train.data.tabular.frames import cleaned
from train.data.tabular.roles import Roles
from train.data.tabular.schema import FEWEST, Schema, declared
from train.errors import InputError, note, require

SPLIT = "split"
"""The name of the column that says which of two data frames a row is of."""

FEWEST_OF_A_GROUP = 5
"""Fewest rows of each group of a condition, on average."""


class Columns(NamedTuple):
    """The size of a row.

    Attributes:
        number: The number of columns.
    """

    number: int

    @property
    def outside(self) -> list[int]:
        """The size as plain values, as that of images."""
        return [self.number]


@dataclass(frozen=True, eq=False)
class Rows:
    r"""Encoded rows of a table, and what is known of them beside.

    Attributes:
        cells: Of shape :math:`(M, K)`, or :math:`(M, K + 1)` with a modelled target, float32: see
            :meth:`train.data.tabular.schema.Schema.encode`.
        columns: The conditions by name: arrays of shape :math:`(M)` of classes (int64 or text) or
            numbers (float64).
        target: The encoded target, of shape :math:`(M)`, NaN where it is missing; ``None`` if there
            is no target.
        schema: What the cells hold; given by its name.
    """

    cells: Tensor
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    target: np.ndarray | None = None
    schema: Schema = field(kw_only=True, compare=False)

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def images(self) -> Tensor:
        """The rows, by the name that samples have for data."""
        return self.cells

    @property
    def values(self) -> None:
        """The labels: a row has none beside its conditions and target."""
        return None

    @property
    def known_labels(self) -> Tensor:
        """Raises :class:`InputError`: see :meth:`require_labels`."""
        raise InputError("a table has no labels: name one of its columns")

    def require_labels(self) -> np.ndarray:
        """Raises :class:`InputError`: a row has no label beside its conditions and target."""
        raise InputError("a table has no labels: name one of its columns")

    @property
    def shape(self) -> Columns:
        """The number of columns of x, as ``config.json`` has it."""
        return Columns(len(self.schema.columns))

    @property
    def max_batch_size(self) -> int:
        """The largest batch that :meth:`batches` can draw."""
        return len(self)

    def column(self, name: str) -> np.ndarray:
        r"""Returns a condition by its name, of shape :math:`(M)`."""
        return self.columns[name]

    def select(self, index: Tensor) -> Rows:
        r"""Returns the rows at ``index``, of shape :math:`(L)`."""
        rows = index.numpy()
        columns = {name: column[rows] for name, column in self.columns.items()}
        target = None if self.target is None else self.target[rows]
        return Rows(self.cells[index], columns, target, schema=self.schema)

    def batches(
        self, batch_size: int, seed: int, device: torch.device | str, *others: Tensor
    ) -> Callable[[int], tuple[Tensor, ...]]:
        """Returns a function from a step to its batch: see
        :meth:`train.data.labelled.Images.batches`."""
        return Batches((self.cells, *others), batch_size, seed, device)


class RowsSplit(NamedTuple):
    """Rows to train on and rows to evaluate on; no row is in both."""

    train: Rows
    held_out: Rows


def prepare(frame: pd.DataFrame, roles: Roles, evaluate_on: str = "test") -> RowsSplit:
    """Splits a table, finds what its columns hold, and encodes it.

    Args:
        frame: A row for each datum.
        roles: What the columns are for.
        evaluate_on: The rows that are held out. ``"test"``: those that the split's column calls
            test, or else a fifth, stratified by condition and target where these are classes.
            ``"validation"``: those that it calls validation, or else a fifth of the training rows.

    Raises:
        InputError: If there are too few rows, a column cannot be what it is for, or a condition has
            missing cells.
    """
    frame = checked(frame, roles)
    split = of_frame(frame, roles, *_split(frame, roles, evaluate_on))
    for line in split.train.schema.lines(frame):
        note(line)
    return split


def checked(frame: pd.DataFrame, roles: Roles) -> pd.DataFrame:
    """Returns a table whose columns have names and whose text is clean.

    Raises:
        InputError: If there are too few rows, or a column that has a role does not exist.
    """
    names = [str(name) for name in frame.columns]
    require(len(set(names)) == len(names), "--data has two columns of one name: rename one")
    frame = cleaned(frame.reset_index(drop=True).set_axis(names, axis=1))
    roles.check(frame.columns)
    require(
        len(frame) >= FEWEST,
        f"--data has {len(frame)} rows: {FEWEST} are the fewest that can be trained and tested on",
    )
    return frame


def of_frame(
    frame: pd.DataFrame, roles: Roles, train: np.ndarray, held_out: np.ndarray
) -> RowsSplit:
    """Encodes a table.

    Args:
        frame: The table: see :func:`checked`.
        roles: What its columns are for.
        train: The indices of the rows to train on, by which columns are scaled.
        held_out: Those of the rows to evaluate on.
    """
    columns = {name: condition_of(name, frame[name], roles) for name in roles.condition}
    schema = Schema.fit(frame, train, roles)
    target = None if schema.target is None else schema.encode_target(frame)
    rows = Rows(schema.encode(frame), columns, target, schema=schema)
    return RowsSplit(*(rows.select(torch.from_numpy(index)) for index in (train, held_out)))


def prepare_split(train: pd.DataFrame, held_out: pd.DataFrame, roles: Roles) -> RowsSplit:
    """Encodes rows that are split already: see :func:`prepare`.

    Raises:
        InputError: See :func:`prepare`; or if the columns of the two differ.
    """
    ours, theirs = set(map(str, train.columns)), set(map(str, held_out.columns))
    require(
        ours == theirs and roles.split is None,
        "data: the two data frames are a split: leave split_column out"
        if ours == theirs
        else f"data: only one of the data frames has {', '.join(sorted(ours ^ theirs)[:3])}: give "
        "both the same columns",
    )
    name = SPLIT
    while name in ours:
        name += "_"
    parts = (train.assign(**{name: "train"}), held_out.assign(**{name: "test"}))
    return prepare(pd.concat(parts), replace(roles, split=name))


def _split(frame: pd.DataFrame, roles: Roles, evaluate_on: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the rows to train on, and of those to evaluate on."""
    validation = evaluate_on == "validation"
    strata = _strata(frame, roles)
    if roles.split is None:
        train, held_out = hold_out(len(frame), strata)
        given = None if validation else held_out
    else:
        words = frame[roles.split].fillna("").astype(str)
        splits = splits_of(words, f"--split-column {roles.split}")
        train, given = given_rows(splits, validation)
    if given is None:
        first, second = hold_out(len(train), strata[train])
        train, given = train[first], train[second]
    require(
        min(len(train), len(given)) >= 2,
        f"--data has {len(train)} rows to train on and {len(given)} to test on: give more of both",
    )
    return train, given


def _strata(frame: pd.DataFrame, roles: Roles) -> np.ndarray:
    """Numbers the combinations of conditions and target that are categories."""
    names = [*roles.condition, *(() if roles.target is None else (roles.target,))]
    kinds = {name: declared(name, roles) or kind_of(frame[name]) for name in names}
    classes = [frame[name].astype(str) for name in names if kinds[name] != "number"]
    strata = np.zeros(len(frame), dtype=np.int64)
    for column in classes:
        _, index = np.unique(column.to_numpy(dtype=str), return_inverse=True)
        _, strata = np.unique(strata * (index.max() + 1) + index, return_inverse=True)
    return strata


def condition_of(name: str, series: pd.Series, roles: Roles) -> np.ndarray:
    """Converts a condition to classes, int64 or text, or numbers, float64."""
    missing = int(series.isna().sum())
    require(
        not missing,
        f"--condition {name}: {missing:,} of its {len(series):,} cells are missing: fill them in, "
        "or leave those rows out",
    )
    kind = declared(name, roles) or kind_of(series)
    if kind == "number":
        return series.astype(float).to_numpy()
    if pd.api.types.is_bool_dtype(series) or pd.api.types.is_numeric_dtype(series):
        column = series.astype(np.int64).to_numpy()
    else:
        column = series.astype(str).to_numpy(dtype=str)
    number = len(np.unique(column))
    require(
        number <= len(column) / FEWEST_OF_A_GROUP,
        f"--condition {name} has {number:,} categories in {len(column):,} rows: give a column of "
        "groups, such as sex or age",
    )
    return column
