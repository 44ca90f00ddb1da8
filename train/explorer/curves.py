"""The view of a folder of ``python -m train.estimators``: its tables, drawn as curves."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from train.engine import disk
from train.errors import InputError, first_line, require
from train.explorer.arrays import is_number
from train.explorer.base import Fields, View

TABLES = ("training", "gradients", "summary")
"""The tables that such a folder may have, in the order in which the page shows them."""
MOST_ROWS = 20_000


class CurvesView(View):
    """Estimators side by side.

    Args:
        path: The folder.
        name: What the page calls it.

    Raises:
        InputError: If the folder has none of the tables, or one is damaged.
    """

    kind = "curves"

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(name)
        self.tables = {
            table: read_table(path / f"{table}.csv")
            for table in TABLES
            if (path / f"{table}.csv").exists()
        }
        require(
            bool(self.tables),
            f"{path} holds no comparison of estimators (there is no {TABLES[0]}.csv and no "
            f"{TABLES[1]}.csv): give a folder of python -m train.estimators",
        )

    def description(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "method": "estimators",
            "tables": self.tables,
        }

    @property
    def verbs(self) -> Mapping[str, Callable[[Fields], dict[str, Any]]]:
        return {}


def read_table(path: Path) -> list[dict[str, Any]]:
    """Reads a table, whose cells are numbers, text, or ``None`` where nothing is.

    Raises:
        InputError: If it cannot be read, or has no column ``estimator``.
    """
    disk.require_regular(path, disk.MAX_JSON_BYTES)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for _, row in zip(range(MOST_ROWS), csv.DictReader(file), strict=False)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is damaged ({first_line(error)}): give another folder") from error
    require(
        bool(rows) and "estimator" in rows[0],
        f"{path} has no rows with a column estimator: give a folder of python -m train.estimators",
    )
    return [{str(name): _cell(text) for name, text in row.items()} for row in rows]


def _cell(text: Any) -> float | str | None:
    if not isinstance(text, str) or not text:
        return None
    try:
        number = float(text)
    except ValueError:
        return text
    return number if is_number(number) else None
