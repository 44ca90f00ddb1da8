"""Data sets that Hugging Face's package ``datasets`` saved with ``save_to_disk``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.data.streaming.items import DatasetImages
from train.errors import InputError, first_line

SPLITS = "dataset_dict.json"
"""The file of a folder that has several splits."""

FILES = ("dataset_info.json", "state.json")
"""The files of a folder that has a single one."""


def is_saved(data: str) -> bool:
    """Whether a path is a folder that ``save_to_disk`` wrote."""
    path = Path(data).expanduser()
    return (path / SPLITS).is_file() or all((path / name).is_file() for name in FILES)


def load(data: str) -> Any:
    """Opens a folder that ``save_to_disk`` wrote; its images are decoded as they are needed.

    Returns:
        A ``datasets.Dataset``, or a ``datasets.DatasetDict`` with several by their splits' names.

    Raises:
        InputError: If the package is not installed, or cannot read the folder.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"--data {data} is a data set that Hugging Face's datasets saved: install the package, "
            "pip install datasets, or structured-latents[huggingface]"
        ) from error
    try:
        return datasets.load_from_disk(str(Path(data).expanduser()))
    # Damaged files raise exceptions of several packages.
    except Exception as error:
        raise InputError(
            f"--data {data} cannot be read by Hugging Face's datasets ({first_line(error)}): save "
            "it again with save_to_disk"
        ) from error


def size_of(saved: Any) -> int:
    """Returns the bytes of the images of all splits, by the first ones.

    Args:
        saved: What :func:`load` returns.

    Raises:
        InputError: If it has no images.
    """
    splits = list(saved.values()) if isinstance(saved, Mapping) else [saved]
    images = [DatasetImages(split) for split in splits]
    return sum(len(part) * part.image_shape.values for part in images)
