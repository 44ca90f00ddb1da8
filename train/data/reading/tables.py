"""Reads tables of labels, ``.csv`` or ``.tsv``, and finds the row of each image."""

from __future__ import annotations

import csv
import io
import math
import os
import posixpath
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from train.data import memory
from train.data.labels import as_labels, interpretation
from train.data.reading.columns import Columns
from train.data.reading.paths import kind_of
from train.errors import InputError, brief, note, require

SUFFIXES = (".csv", ".tsv")
"""The suffixes of tables."""

DELIMITERS = (",", ";", "\t")
"""The characters that may separate the cells of a table."""

PROBED = 20
"""The number of rows by which the delimiter is recognised."""

OVERHEAD = 4
"""A table in memory takes about so many times the bytes of its file."""

MOST_NAMED = 3
"""The most files or values that an error message names."""

LONGEST = 200
"""The most characters of the name of a class."""

INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
"""A whole number as it is counted. With a leading zero it is a name, such as 007."""

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)

DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")

MISSING = ("", "na", "n/a", "nan", "null", "none", "-", "?")
"""Cells of a column of numbers that stand for a missing value, in small or capital letters. In a
column of text only the empty one does, as any other may be a class."""


@dataclass(frozen=True, eq=False)
class Table:
    """A table of text.

    Attributes:
        path: Its file.
        columns: The cells of each column, by its name, without spaces around them.
        lines: The number of each row's last line in the file.
    """

    path: Path
    columns: Mapping[str, Sequence[str]]
    lines: Sequence[int]

    def __len__(self) -> int:
        return len(self.lines)


def read(path: Path, flag: str = "--labels", row: str = "an image") -> Table:
    """Reads a table with a header, whose cells are separated by commas, semicolons or tabs.

    Args:
        path: The file.
        flag: The setting that names it, for messages.
        row: What a row describes, for messages.

    Raises:
        InputError: If there is no such file, it is not UTF-8, has no header or no rows, two columns
            of one name, or rows of different lengths.
    """
    text = _text(path, flag, row)
    delimiter = _delimiter(path, text)
    lines: list[int] = []
    try:
        reader = _reader(text, delimiter)
        names = [cell.strip() for cell in next(row for row in reader if row)]
        _require_header(path, names)
        columns: list[list[str]] = [[] for _ in names]
        for line, cells in _rows(reader, len(names)):
            require(
                len(cells) == len(names),
                f"{path}, line {line} has {len(cells)} cells but the header has "
                f"{len(names)}: give each row one cell a column, and put a cell with "
                f"{_character(delimiter)} in it in quotes",
            )
            lines.append(line)
            for column, cell in zip(columns, cells, strict=True):
                # Values repeat, and text that is equal is stored once.
                column.append(sys.intern(cell.strip()))
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: {error}: close the quotes, and write quotes inside "
            'quotes twice, ""'
        ) from error
    require(len(lines) > 0, f"{path} has a header but no rows: give one row {row}")
    return Table(path, dict(zip(names, columns, strict=True)), lines)


def _text(path: Path, flag: str, row: str) -> str:
    kind = kind_of(path)
    require(kind is not None, f"{flag} {path}: no such file: give a .csv or .tsv file")
    require(
        kind == "file" and path.suffix.lower() in SUFFIXES,
        f"{flag} {path} is {'a ' if kind == 'folder' else ''}"
        f"{'another file' if kind == 'file' else kind}: give a .csv or .tsv file",
    )
    try:
        memory.require_available(
            OVERHEAD * path.stat().st_size, f"{flag} {path} needs", "give fewer columns"
        )
        # Spreadsheets begin UTF-8 with a byte order mark.
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{flag} {path} is not UTF-8 (byte {error.start}): save it as CSV UTF-8"
        ) from error
    except OSError as error:
        raise InputError(f"{flag} {path} may not be read: change its permissions") from error
    require("\0" not in text, f"{flag} {path} is no table of text: save it as CSV UTF-8")
    require(bool(text.strip()), f"{flag} {path} is empty: give a header and one row {row}")
    return text


def _reader(text: str, delimiter: str) -> Any:
    return csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )


def _rows(reader: Any, width: int) -> Iterator[tuple[int, list[str]]]:
    """Yields rows with their lines: a blank line is an empty cell of a single column, or none."""
    blank: list[int] = []
    for row in reader:
        if not row:
            blank.append(reader.line_num)
            continue
        if width == 1:
            yield from ((line, [""]) for line in blank)
        blank = []
        yield reader.line_num, row


def _delimiter(path: Path, text: str) -> str:
    """Returns the delimiter by which the first rows have as many cells as the header."""
    consistent, possible = [], []
    for delimiter in DELIMITERS:
        try:
            rows = (row for row in _reader(text, delimiter) if row)
            sizes = [len(row) for row in islice(rows, PROBED)]
        # The quotes may be wrong for this delimiter alone.
        except csv.Error:
            continue
        if sizes[0] > 1:
            possible.append(delimiter)
            if len(set(sizes)) == 1:
                consistent.append(delimiter)
    require(
        len(consistent) < 2,
        f"{path}: its cells may be separated by {' or by '.join(map(_character, consistent))}: "
        "put cells with these in quotes",
    )
    return (*consistent, *possible, DELIMITERS[0])[0]


def _character(delimiter: str) -> str:
    return {"\t": "a tab", ",": "a comma", ";": "a semicolon"}[delimiter]


def _require_header(path: Path, names: Sequence[str]) -> None:
    require(
        not all(NUMBER.fullmatch(name) for name in names),
        f"{path} has no header, as its first row is numbers ({brief(', '.join(names))}): begin it "
        "with a row of the columns' names",
    )
    for number, name in enumerate(names, start=1):
        require(
            bool(name),
            f"{path}: column {number} has no name: give it one, or leave the column out (pandas: "
            "to_csv(..., index=False))",
        )
        require(
            name not in names[: number - 1],
            f"{path}: two columns are called {brief(name)}: rename one",
        )


def columns_of_files(table: Table, names: Sequence[str], root: Path) -> Columns:
    """Returns the columns of a table for the files of a folder.

    The column of file names is the one whose cells name most of the files. A cell names a file by
    its path below the folder, with or without its suffix; by its path from the table's folder; or
    by its name alone, with or without its suffix, if no other file has it.

    Args:
        table: The table.
        names: The files' paths below the folder, with ``/`` between their parts.
        root: The folder.

    Returns:
        The columns with a row for each file, in the order of ``names``, without file names.

    Raises:
        InputError: If there is no such column, two rows name one file, a row names none, or a file
            has no row.
    """
    find = _Names(names, root, table.path.parent)
    key, matches = _file_column(table, find, names, root)
    _require_one_row_a_file(table, key, matches, names, root)
    rows = np.empty(len(names), dtype=np.int64)
    rows[matches] = np.arange(len(table))
    others = {name: cells for name, cells in table.columns.items() if name != key}
    require(
        bool(others), f"{table.path} has the column {key} of file names alone: add one of labels"
    )
    return _typed_columns(table, others, rows)


def columns_of_rows(table: Table, n: int, name: str) -> Columns:
    """Returns the columns of a table that has a row for each image of an array, in its order.

    Args:
        table: The table.
        n: The number of images.
        name: What error messages call the images.

    Raises:
        InputError: If there are more rows than images, or fewer.
    """
    hint = " (is its first row a header?)" if len(table) == n - 1 else ""
    require(
        len(table) == n,
        f"{table.path} has {len(table):,} rows below its header{hint} but {name} has {n:,} images: "
        "give one row an image, in the order of the images",
    )
    return _typed_columns(table, table.columns, np.arange(n))


class _Names:
    """Finds a file by what a cell says.

    Args:
        names: The files' paths below the folder.
        root: The folder.
        base: The folder of the table.
    """

    def __init__(self, names: Sequence[str], root: Path, base: Path) -> None:
        self.exact = {name: index for index, name in enumerate(names)}
        stems = [name.rpartition(".")[0] for name in names]
        self.others = [_unique(stems)]
        if any("/" in name for name in names):
            self.others.append(_unique([posixpath.basename(name) for name in names]))
            self.others.append(_unique([posixpath.basename(stem) for stem in stems]))
        self.root = os.path.abspath(root)
        self.base = os.path.abspath(base)

    def __call__(self, cell: str) -> int | None:
        """Returns the index of the file that a cell names; None if there is none."""
        cell = cell.replace("\\", "/").removeprefix("./")
        if cell in self.exact:
            return self.exact[cell]
        for names in self.others:
            if cell in names:
                return names[cell]
        if "/" not in cell:
            return None
        path = os.path.normpath(os.path.join(self.base, cell))
        return self.exact.get(os.path.relpath(path, self.root).replace(os.sep, "/"))


def _unique(names: Sequence[str]) -> dict[str, int]:
    """Returns the indices of the names that occur once."""
    indices: dict[str, int] = {}
    repeated = set()
    for index, name in enumerate(names):
        if name in indices:
            repeated.add(name)
        indices[name] = index
    return {name: index for name, index in indices.items() if name not in repeated}


def _file_column(
    table: Table, find: _Names, names: Sequence[str], root: Path
) -> tuple[str, np.ndarray]:
    """Returns the column of file names, and the index of each row's file; -1 if there is none."""
    for name in table.columns:
        require(
            name not in find.exact,
            f"{table.path} has no header, as its first row names the file {name}: begin it with a "
            "row of the columns' names",
        )
    matches, scores = {}, {}
    for name, cells in table.columns.items():
        index_of = {cell: find(cell) for cell in set(cells)}
        indices = (index_of[cell] for cell in cells)
        matches[name] = np.array([-1 if index is None else index for index in indices])
        scores[name] = len(set(index_of.values()) - {None})
    best = max(scores.values())
    row = ", ".join(cells[0] for cells in table.columns.values())
    require(
        2 * best >= min(len(table), len(names)),
        f"{table.path}: no column names the files of {root}, which are called like {names[0]}, "
        f"and its first row is {brief(row)}: add a column of file names",
    )
    keys = [name for name, score in scores.items() if score == best]
    for other in keys[1:]:
        require(
            np.array_equal(matches[keys[0]], matches[other]),
            f"{table.path}: the columns {keys[0]} and {other} both name files of {root}, and not "
            "the same ones: leave one of them out",
        )
    return keys[0], matches[keys[0]]


def _require_one_row_a_file(
    table: Table, key: str, matches: np.ndarray, names: Sequence[str], root: Path
) -> None:
    cells = table.columns[key]
    absent = [cell for cell, index in zip(cells, matches, strict=True) if index < 0]
    indices, counts = np.unique(matches[matches >= 0], return_counts=True)
    unlabelled = np.setdiff1d(np.arange(len(names)), indices)
    problems = []
    if absent:
        problems.append(
            f"{len(absent):,} of its {len(cells):,} rows name files that are not in {root} "
            f"({_some(absent)})"
        )
    if len(unlabelled):
        problems.append(
            f"{len(unlabelled):,} of the {len(names):,} files have no row "
            f"({_some([names[index] for index in unlabelled])})"
        )
    require(
        not problems,
        f"{table.path}, column {key}: {' and '.join(problems)}: give each file one row",
    )
    if (counts > 1).any():
        index = indices[counts > 1][0]
        first, second = np.flatnonzero(matches == index)[:2]
        raise InputError(
            f"{table.path}: lines {table.lines[first]} and {table.lines[second]} both name the "
            f"file {names[index]}, and {int((counts > 1).sum()):,} files have several rows: give "
            "each file one row"
        )


def _some(values: Sequence[str]) -> str:
    """Names the first few values."""
    named = ", ".join(value if value else "''" for value in values[:MOST_NAMED])
    return f"{named}, ..." if len(values) > MOST_NAMED else named


class _Unusable(Exception):
    """A column cannot be used. The message is to follow the column's name."""


def _typed_columns(table: Table, columns: Mapping[str, Sequence[str]], rows: np.ndarray) -> Columns:
    """Converts columns of text to classes or quantities, with some rows in another order."""
    values, unusable = {}, {}
    for name, cells in columns.items():
        try:
            values[name] = _typed(table, name, cells)[rows]
        except _Unusable as error:
            unusable[name] = f"{table.path}: column {name} {error}"
    return Columns(values, unusable)


def _typed(table: Table, name: str, cells: Sequence[str]) -> np.ndarray:
    """Converts a column: to int64 if all are whole numbers, float64 if all are numbers, else text.

    Raises:
        _Unusable: If a value is missing, or some are fractions and others no numbers.
    """
    distinct = set(cells)
    if all(INTEGER.fullmatch(cell) for cell in distinct):
        return np.fromiter(map(int, cells), np.int64, len(cells))
    given = [cell for cell in distinct if cell.lower() not in MISSING]
    if given and all(NUMBER.fullmatch(cell) or INFINITE.fullmatch(cell) for cell in given):
        _require_values(table, cells, distinct, MISSING)
        return _quantities(table, name, cells, distinct)
    _require_values(table, cells, distinct, MISSING[:1])
    _require_text(table, cells, distinct)
    return np.array(cells, dtype=str)


def _require_values(
    table: Table, cells: Sequence[str], distinct: set[str], missing: Sequence[str]
) -> None:
    absent = {cell for cell in distinct if cell.lower() in missing}
    if absent:
        cell, line = _first(table, cells, absent)
        written = f" ({cell})" if cell else ""
        raise _Unusable(f"has no value in line {line}{written}: fill it in, or leave the image out")


def _first(table: Table, cells: Sequence[str], values: set[str]) -> tuple[str, int]:
    """Returns the first cell with one of some values, and its line."""
    row = next(row for row, cell in enumerate(cells) if cell in values)
    return cells[row], table.lines[row]


def _quantities(table: Table, name: str, cells: Sequence[str], distinct: set[str]) -> np.ndarray:
    number_of = {cell: float(cell) for cell in distinct}
    infinite = {cell for cell, number in number_of.items() if not math.isfinite(number)}
    if infinite:
        cell, line = _first(table, cells, infinite)
        raise _Unusable(f"is not finite in line {line} ({cell}): replace it")
    # A whole number with leading zeros is the name of a class, if all of them are whole.
    if all(cell.isdigit() for cell in distinct):
        return np.array(cells, dtype=str)
    array = np.fromiter((number_of[cell] for cell in cells), np.float64, len(cells))
    labels = as_labels(array, f"{table.path}: column {name}")
    if (meaning := interpretation(array, labels)) is not None:
        note(f"{table.path}: column {name}: {meaning.removeprefix('the labels ')}")
    return labels


def _require_text(table: Table, cells: Sequence[str], distinct: set[str]) -> None:
    """Refuses texts that are no names of classes.

    Fractions among words are a column of quantities with a slip in it, most likely.
    """
    numbers = {cell for cell in distinct if NUMBER.fullmatch(cell)}
    words = distinct - numbers
    commas = {cell for cell in words if DECIMAL_COMMA.fullmatch(cell)}
    if commas == words:
        cell, line = _first(table, cells, commas)
        raise _Unusable(f"has decimal commas (line {line}: {cell}): write decimal points")
    fractions = {cell for cell in numbers if not INTEGER.fullmatch(cell) and not cell.isdigit()}
    if fractions:
        (fraction, _), (cell, line) = (
            _first(table, cells, values) for values in (fractions, words)
        )
        raise _Unusable(
            f"has numbers such as {fraction}, but {brief(cell)} in line {line}: make all numbers, "
            "or all words"
        )
    long = {cell for cell in words if len(cell) > LONGEST}
    if long:
        cell, line = _first(table, cells, long)
        raise _Unusable(
            f"has a text of {len(cell):,} characters in line {line}: name classes with {LONGEST} "
            "or fewer"
        )
