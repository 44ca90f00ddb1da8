"""How data are read: which columns are labels and splits, colour, and damaged files.

Nothing here imports torch, so that settings can make it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class DataOptions:
    """Options of :func:`train.data.datasets.load`; see :class:`train.settings.DataSettings`.

    Attributes:
        labels: A table of labels, ``.csv`` or ``.tsv``: see :mod:`train.data.reading.tables`.
        label_column: The names of the columns that are the label; the data set's choice if empty.
        split_column: The name of the column that holds each image's split.
        grey: Whether colour is turned to grey.
        skip_bad: Whether unreadable files of a folder are left out.
        in_memory: Whether images are read into memory: see :func:`train.data.opening.read`.
        workers: Processes that read images that are not; None for the default of their kind.
    """

    labels: Path | None = None
    label_column: tuple[str, ...] = ()
    split_column: str | None = None
    grey: bool = False
    skip_bad: bool = False
    in_memory: Literal["auto", "always", "never"] = "auto"
    workers: int | None = None
