"""What a table holds: its columns, their kinds, and which are left out and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_models.rows import ColumnKind, RowShape
from train.data.tabular.columns import Column, Kind, kind_of
from train.data.tabular.roles import Roles
from train.errors import brief, require

MOST_DISTINCT = 0.5
"""A column of text in which more than this part of the cells are different names rows."""

FEWEST = 20
"""Fewest rows of a table."""


@dataclass(frozen=True)
class Schema:
    r"""The columns of a table as a model has them.

    Attributes:
        columns: The columns of :math:`x`, in order.
        target: The target, if there is one.
        models_target: Whether the target has a likelihood, and a place in encoded rows.
        left_out: Why a column is not in :math:`x`, by its name.

    Example:
        >>> frame = pd.DataFrame({"age": range(40), "sex": ["f", "m"] * 20, "pay": ["a"] * 40})
        >>> schema = Schema.fit(frame.assign(age=frame.age % 9), frame.index, Roles(("sex",)))
        >>> [column.name for column in schema.columns], sorted(schema.left_out)
        (['age'], ['pay', 'sex'])
    """

    columns: tuple[Column, ...]
    target: Column | None = None
    models_target: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def fit(cls, frame: pd.DataFrame, train: Sequence[int] | np.ndarray, roles: Roles) -> Schema:
        """Returns the schema of a table.

        Args:
            frame: All rows.
            train: The indices of the training rows, by which numbers are scaled.
            roles: What the columns are for.

        Raises:
            InputError: If a column cannot be what it is said to be, or no column is left for x.
        """
        known = frame.iloc[train]
        left_out = dict.fromkeys(roles.condition, "the condition")
        left_out |= dict.fromkeys(roles.drop, "--drop")
        left_out |= {} if roles.split is None else {roles.split: "--split-column"}
        left_out |= {} if roles.target is None else {roles.target: "--target"}
        columns = []
        for name in frame.columns:
            if name in left_out:
                continue
            if why := unusable(name, frame[name], known[name], roles):
                left_out[name] = why
                continue
            columns.append(fitted(name, known[name], roles))
        require(
            bool(columns),
            "--data: no column is left to encode ("
            + "; ".join(f"{name}: {why}" for name, why in left_out.items())
            + ")",
        )
        target = None
        if roles.target is not None:
            why = unusable(roles.target, frame[roles.target], known[roles.target], roles)
            require(not why, f"--target {roles.target}: the column is {why}: give another one")
            target = fitted(roles.target, known[roles.target], roles)
        return cls(tuple(columns), target, roles.models_target, left_out)

    @property
    def shape(self) -> RowShape:
        """The columns of x for a model."""
        return RowShape(tuple(column.model_kind for column in self.columns))

    @property
    def modelled(self) -> Column | None:
        """The target, if it has a likelihood."""
        return self.target if self.models_target else None

    @property
    def target_kind(self) -> ColumnKind | None:
        """The target for a model, if it has a likelihood."""
        return None if self.modelled is None else self.modelled.model_kind

    @property
    def names(self) -> list[str]:
        """The names of the columns of x."""
        return [column.name for column in self.columns]

    @property
    def encoded(self) -> tuple[Column, ...]:
        """The columns of an encoded row: those of x, and the target after them."""
        return self.columns if self.modelled is None else (*self.columns, self.modelled)

    def encode(self, frame: pd.DataFrame) -> Tensor:
        r"""Encodes rows for a model.

        Args:
            frame: The columns of :math:`x` by name; others are not looked at. The target may be
                missing.

        Returns:
            Of shape :math:`(M, K)`, float32, and with a target :math:`(M, K + 1)`; missing cells
            are NaN.

        Raises:
            InputError: If a column is missing, or a number is none.
        """
        missing = [name for name in self.names if name not in frame.columns]
        require(
            not missing,
            f"the table has no column {', '.join(missing[:3])}: give {', '.join(self.names)}",
        )
        cells = [column.encode(frame[column.name]) for column in self.columns]
        if self.models_target:
            cells.append(self.encode_target(frame))
        return torch.from_numpy(np.stack(cells, axis=1))

    def encode_target(self, frame: pd.DataFrame) -> np.ndarray:
        r"""Encodes the target, of shape :math:`(M)`; NaN where it is missing."""
        if self.target is not None and self.target.name in frame.columns:
            return self.target.encode(frame[self.target.name])
        return np.full(len(frame), np.nan, np.float32)

    def decode(self, rows: Tensor) -> pd.DataFrame:
        r"""Converts encoded rows :math:`(M, K)`, or :math:`(M, K + 1)`, to a data frame."""
        cells = rows.cpu().numpy()
        columns = self.encoded[: cells.shape[1]]
        return pd.DataFrame(
            {column.name: column.decode(cells[:, i]) for i, column in enumerate(columns)}
        )

    def lines(self, frame: pd.DataFrame) -> list[str]:
        """Returns a line for each column: what it holds, and how many cells are missing."""
        lines = []
        targets = () if self.target is None else (self.target,)
        for column in (*self.columns, *targets):
            missing = float(frame[column.name].isna().mean())
            how = f", {missing:.1%} missing" if missing else ""
            role = " (target)" if column is self.target else ""
            lines.append(f"{column.name}{role}: {column.describe()}{how}")
        known = {column.name for column in (*self.columns, *targets)}
        return lines + [
            f"{name}: not in x ({why})" for name, why in self.left_out.items() if name not in known
        ]

    def state(self) -> dict[str, Any]:
        """Returns plain values for :meth:`from_state`, as JSON takes them."""
        target = None if self.target is None else self.target.state()
        columns = [column.state() for column in self.columns]
        others = {"models_target": self.models_target, "left_out": dict(self.left_out)}
        return {"columns": columns, "target": target, **others}

    @classmethod
    def from_state(cls, state: Any) -> Schema:
        """Restores a schema from :meth:`state`.

        Raises:
            ValueError: If the values are not those of a schema.
        """
        if not isinstance(state, Mapping) or not isinstance(state.get("columns"), list):
            raise ValueError(f"'schema' is {brief(state)}, no schema of a table")
        columns = tuple(map(Column.from_state, state["columns"]))
        given = state.get("target")
        target = None if given is None else Column.from_state(given)
        names = [column.name for column in columns]
        left_out, models = state["left_out"], state["models_target"]
        if (
            not names
            or len(set(names)) < len(names)
            or not isinstance(left_out, Mapping)
            or type(models) is not bool
            or (models and target is None)
        ):
            raise ValueError("'schema' does not have columns of distinct names, or no target")
        return cls(columns, target, models, left_out)


def declared(name: str, roles: Roles) -> Kind | None:
    """Returns the kind that a person gave for a column; None if there is none."""
    if name in roles.numerical:
        return "number"
    if name in roles.categorical:
        return "category"
    return "ordered" if name in (roles.ordinal or {}) else None


def fitted(name: str, known: pd.Series, roles: Roles) -> Column:
    """Returns the column for the cells of the training rows.

    Raises:
        InputError: If the cells are not of the kind that was given.
    """
    kind = declared(name, roles) or kind_of(known)
    text = known.dtype == object
    require(
        kind != "number" or not text,
        f"--numerical {name}: the column holds text: correct it, or leave the flag out",
    )
    order = (roles.ordinal or {}).get(name) or None
    require(
        kind != "ordered" or order is not None or not text,
        f"--ordinal {name}: text has no order of its own: give it, as {name}=low,middle,high",
    )
    return Column.fit(name, known, kind, order)


def unusable(name: str, series: pd.Series, known: pd.Series, roles: Roles) -> str:
    """Returns why a column cannot be encoded; empty if it can.

    Args:
        name: Its name.
        series: Its cells in all rows.
        known: Its cells in the training rows.
        roles: What a person says about it.
    """
    if not known.notna().any():
        return "without any value"
    if known.nunique() < 2:
        return f"constant, {brief(known.dropna().iloc[0])}"
    if declared(name, roles) is not None or isinstance(series.dtype, pd.CategoricalDtype):
        return ""
    if series.dtype == object and series.nunique() > MOST_DISTINCT * series.notna().sum():
        return f"{series.nunique():,} different texts in {len(series):,} rows, names of rows"
    if _counts_rows(series):
        return "a number for each row, in order"
    return ""


def _counts_rows(series: pd.Series) -> bool:
    """Returns whether a column of whole numbers counts the rows, by 1, up or down."""
    if not pd.api.types.is_integer_dtype(series) or series.isna().any():
        return False
    steps = np.diff(series.to_numpy(dtype=np.int64))
    return bool(len(steps) and (np.abs(steps) == 1).all() and (steps == steps[0]).all())
