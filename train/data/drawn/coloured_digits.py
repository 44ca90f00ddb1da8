"""Handwritten digits in colour: the class of the digit, the ink and the paper are known.

The data set of that name in the catalogue has the digits of
:func:`train.data.catalogue.mnist5k`, 4,000 training images and 1,000 held-out ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.data.drawn import factors, hues
from train.data.labelled import Images, Split
from train.data.streaming.stored import in_memory
from train.errors import require

COLOURS = tuple(sorted(hues.COLOURS))
"""The names of the colours, of ink and of paper."""
INK, PAPER = 0.7, 0.2
"""The luma of every ink and of every paper: see :func:`train.data.drawn.hues.of_luma`."""


def draw(digits: Tensor, ink: Any, paper: Any) -> Tensor:
    r"""Colours digits.

    Every ink is light and every paper dark, all inks equally and all papers equally. So every
    digit can be read whatever its colours are, red ink on red paper too, and in a grey copy of the
    image colours cannot be told apart.

    Args:
        digits: Images of shape :math:`(M, H, W)` or :math:`(M, 1, H, W)`, uint8. 0 is paper, 255
            is ink.
        ink: Words of :data:`COLOURS`, of shape :math:`(M)`, or a single one.
        paper: The same, for the background.

    Returns:
        Images of shape :math:`(M, 3, H, W)`, uint8.

    Raises:
        InputError: If there is no such colour, or the number of colours is not that of digits.
    """
    digits = digits.reshape(len(digits), 1, *digits.shape[-2:])
    given = factors.aligned(digit=np.arange(len(digits)), ink=ink, paper=paper)
    require(
        len(given["digit"]) == len(digits),
        f"there are {len(digits)} digits and {len(given['digit'])} colours: give as many of both",
    )
    inks = _palette("ink", given["ink"], INK)
    papers = _palette("paper", given["paper"], PAPER)
    images = papers + (inks - papers) * (digits.float() / 255)
    return images.round_().to(torch.uint8)


def sample(digits: Images, seed: int) -> Images:
    """Colours each digit at random.

    The label is the class of the digit. The columns are ``class``, ``ink`` and ``paper``, all of
    them classes. Within each class of digits the 36 combinations of ink and paper are equally
    frequent: their counts differ by 1 at most. So ink and paper are as independent of the class and
    of one another as counts allow. Of 100 digits a class or more, any two of the three have
    a mutual information below 0.002 nats.

    Args:
        digits: Digits with their classes, at least one.
        seed: Seed of the colours. The same seed gives the same colours in every version of NumPy.
    """
    classes = digits.known_labels.numpy()
    # Of NumPy's generators only this one promises the same numbers in every version.
    random = np.random.RandomState(seed)
    pairs = np.empty(len(classes), dtype=np.int64)
    for number in np.unique(classes):
        (rows,) = np.nonzero(classes == number)
        repeats = -(-len(rows) // len(COLOURS) ** 2)
        rounds = [random.permutation(len(COLOURS) ** 2) for _ in range(repeats)]
        pairs[random.permutation(rows)] = np.concatenate(rounds)[: len(rows)]
    return _in_colours(in_memory(digits.images), digits.require_labels(), pairs)


def in_every_colour(digits: Images) -> Images:
    r"""Colours each digit in all of the 36 ways.

    With these, what codes reveal of the colours can be measured with less chance than with one
    image of a digit.

    Args:
        digits: :math:`M` digits with their classes.

    Returns:
        :math:`36 M` images, a digit's one after the other, with the columns of :func:`sample`.
    """
    ways = len(COLOURS) ** 2
    images = in_memory(digits.images).repeat_interleave(ways, dim=0)
    classes = np.repeat(digits.require_labels(), ways)
    return _in_colours(images, classes, np.tile(np.arange(ways), len(digits)))


def split(digits: Images) -> Split:
    """Holds out a fifth of the digits, and colours all: each digit is in one image.

    Training and held-out images have seeds of their own.

    Args:
        digits: Digits with their classes.
    """
    train, held_out = digits.hold_out()
    return Split(sample(train, seed=0), sample(held_out, seed=1))


def _in_colours(digits: Tensor, classes: np.ndarray, pairs: np.ndarray) -> Images:
    """Colours digits by the numbers of their pairs of ink and paper, from 0 to 35."""
    ink, paper = (np.array(COLOURS)[index] for index in divmod(pairs, len(COLOURS)))
    columns = {"class": classes, "ink": ink, "paper": paper}
    return Images.of_columns(draw(digits, ink, paper), columns)


def _palette(name: str, colours: np.ndarray, luma: float) -> Tensor:
    """Returns colours of a luma, by their names, in [0, 255], of shape (M, 3, 1, 1)."""
    colours = factors.words(name, colours, COLOURS)
    values = hues.rgb(np.array([hues.COLOURS[colour] for colour in colours]))
    return torch.from_numpy(255 * hues.of_luma(values, luma)).float()[..., None, None]
