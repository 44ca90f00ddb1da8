"""Writes the census income data as one table, from the files of the UCI repository.

    python benchmarks/adult.py DIR_WITH_ADULT_DATA_AND_ADULT_TEST people.csv

The files are https://archive.ics.uci.edu/dataset/2/adult (Becker and Kohavi, 1996; CC BY 4.0). The
table has a header, all 48,842 rows, and a column ``split`` that says which file a row is of.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation"),
    *("relationship", "race", "sex", "capital_gain", "capital_loss", "hours_per_week"),
    *("native_country", "income"),
)


@dataclass(frozen=True)
class Benchmark:
    """Write the census income data as one table."""

    folder: tyro.conf.Positional[Path]
    """Folder with adult.data and adult.test."""
    table: tyro.conf.Positional[Path]
    """File to write."""


def write(folder: Path, table: Path) -> Path:
    """Writes the table; returns its path."""
    parts = []
    # The first line of the test file is a comment.
    for name, split, lines in (("adult.data", "train", 0), ("adult.test", "test", 1)):
        options = {"names": COLUMNS, "skipinitialspace": True, "dtype": str, "skiprows": lines}
        parts.append(pd.read_csv(folder / name, **options).assign(split=split))
    rows = pd.concat(parts).dropna(how="all", subset=COLUMNS)
    # The labels of the test file end in a full stop.
    rows = rows.assign(income=rows["income"].str.rstrip("."))
    table.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(table, index=False)
    return table


if __name__ == "__main__":
    given = tyro.cli(Benchmark)
    print(write(given.folder, given.table))
