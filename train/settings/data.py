"""The settings of data, which methods and the comparison have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from train.data import catalogue
from train.data.options import DataOptions
from train.settings.values import Whole


@dataclass(frozen=True)
class DataSettings:
    """The settings of :func:`train.data.datasets.load`."""

    DATA: ClassVar[tuple[str, ...]] = (
        *("data", "data_dir", "evaluate_on"),
        *("labels", "label_column", "split_column", "grey", "skip_bad", "in_memory", "workers"),
    )
    """The names of these settings."""

    HELPS: ClassVar[Mapping[str, str]] = {"data": f"Images to train on: {catalogue.HELP}"}
    """Helps that are not written below a field."""

    data: str = "mnist5k"
    data_dir: Path = Path("data")
    """Folder of downloaded data sets."""
    evaluate_on: Literal["test", "validation"] = "test"
    """Held-out images. test: the test split. validation: the validation split that is given, or a
    fifth of the training split, which is then not trained on; use it to choose settings."""
    labels: Path | None = None
    """Table of labels of your own images, .csv or .tsv, with a header: a column of file names for a
    folder, or a row an image in the order of an array, and columns of classes or quantities."""
    label_column: tuple[str, ...] = ()
    """Columns that are the label: one of classes or quantities, or several of quantities. Without
    values: the column label or the first one of --labels, the array labels, or the folders."""
    split_column: str | None = None
    """Column of your own images that says train, validation or test; None: the folders train and
    test, or a fifth is held out."""
    grey: bool = False
    """Turn colour to grey, by the luma of ITU-R 601."""
    skip_bad: bool = False
    """Leave out files of a folder that are not readable images."""

    in_memory: Literal["auto", "always", "never"] = "auto"
    """Whether your own images are in memory, or stay on disk and are read batch by batch, ahead of
    the training. auto: those of .npy files and folders stay on disk from 256 MiB on."""
    workers: Whole | None = None
    """Processes that read images which are not in memory; 0: a thread of the training's process.
    None: 0 for .npy files; else one for each spare processor, from 1 to 4."""

    @property
    def data_options(self) -> DataOptions:
        """How data are read."""
        return DataOptions(
            *(self.labels, self.label_column, self.split_column, self.grey, self.skip_bad),
            *(self.in_memory, self.workers),
        )
