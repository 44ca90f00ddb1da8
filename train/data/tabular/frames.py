"""Reads tables into data frames of numbers, categories and missing cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from train.data.reading import tables
from train.data.reading.paths import kind_of
from train.errors import InputError, brief, first_line, require

PARQUET = (".parquet", ".pq")
"""The suffixes of Parquet files."""

MISSING = ("", "?", "na", "n/a", "nan", "null", "<na>")
"""Cells of text that stand for a missing value, in small or capital letters. In a column of numbers
``none`` and ``-`` do too."""

SLIPS = 0.1
"""A column of text in which a smaller part of the cells are words, and the others are numbers, is a
column of numbers with slips in it."""


def read(path: Path) -> pd.DataFrame:
    """Reads a table with a row for each datum.

    Args:
        path: A ``.csv`` or ``.tsv`` file with a header, in UTF-8, or a Parquet file.

    Returns:
        Its columns: numbers as float64 or, if all are whole, as Int64; text as objects; missing
        cells as NA. A column of numbers with leading zeros, such as 007, is text.

    Raises:
        InputError: If the file is missing or damaged, or a column is neither numbers nor text.
    """
    if path.suffix.lower() in PARQUET:
        return _parquet(path)
    table = tables.read(path, "--data", "a datum")
    columns = {
        name: _typed(f"{path}: column {name}", cells, table.lines)
        for name, cells in table.columns.items()
    }
    return pd.DataFrame(columns)


def cleaned(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns a data frame whose text is objects without spaces around it, or None.

    Args:
        frame: Any columns. Cells of text that are in :data:`MISSING` count as missing.

    Example:
        >>> cleaned(pd.DataFrame({"a": [" x ", "?"], "b": [1, 2]}))["a"].tolist()
        ['x', None]
    """
    frame = frame.infer_objects()
    changed = {name: _cleaned(column) for name, column in frame.items() if _is_text(column)}
    return frame.assign(**changed)


def _is_text(column: pd.Series) -> bool:
    return column.dtype == object or isinstance(column.dtype, pd.StringDtype)


def _cleaned(column: pd.Series) -> pd.Series:
    cells = [
        None if absent else cell.strip() if isinstance(cell, str) else cell
        for cell, absent in zip(column, column.isna(), strict=True)
    ]
    known = [None if isinstance(x, str) and x.lower() in MISSING else x for x in cells]
    return pd.Series(known, index=column.index, dtype=object)


def _parquet(path: Path) -> pd.DataFrame:
    require(kind_of(path) == "file", f"--data {path}: no such file: give a table")
    try:
        return pd.read_parquet(path)
    except ImportError:
        raise InputError(
            f"--data {path}: Parquet files need pyarrow: pip install 'structured-latents[parquet]'"
        ) from None
    # pyarrow has exceptions of its own, which are not known without it.
    except Exception as error:
        raise InputError(
            f"--data {path} is damaged ({first_line(error)}): write it anew"
        ) from error


def _typed(where: str, cells: Sequence[str], lines: Sequence[int]) -> pd.Series:
    """Converts cells of text to numbers or categories."""
    distinct = set(cells)
    absent = {cell for cell in distinct if cell.lower() in tables.MISSING}
    given = distinct - absent
    numbers = {cell for cell in given if tables.NUMBER.fullmatch(cell)}
    whole = {cell for cell in given if tables.INTEGER.fullmatch(cell)}
    if given and numbers == given:
        if whole == given:
            array = [None if cell in absent else int(cell) for cell in cells]
            return pd.Series(array, dtype="Int64")
        # Names such as 007, among which all are whole.
        if not all(cell.isdigit() for cell in given):
            values = [np.nan if cell in absent else float(cell) for cell in cells]
            return pd.Series(values, dtype=float)
    _require_no_slips(where, cells, lines, given - numbers, absent)
    return _cleaned(pd.Series(cells, dtype=object))


def _require_no_slips(
    where: str, cells: Sequence[str], lines: Sequence[int], words: set[str], absent: set[str]
) -> None:
    present = [i for i, cell in enumerate(cells) if cell not in absent]
    slips = [i for i in present if cells[i] in words]
    if not slips or len(slips) >= SLIPS * len(present):
        commas = slips and all(tables.DECIMAL_COMMA.fullmatch(cells[i]) for i in slips)
        require(
            not commas,
            f"{where} has decimal commas (line {lines[slips[0]] if slips else 0}): write decimal "
            "points",
        )
        return
    raise InputError(
        f"{where} has numbers, but {brief(cells[slips[0]])} in line {lines[slips[0]]}, and "
        f"{len(slips):,} such cells: correct them, or leave them empty"
    )
