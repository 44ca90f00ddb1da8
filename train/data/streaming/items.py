"""Images of a map-style data set: any :class:`torch.utils.data.Dataset`, or one like it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyro_models.shapes import Shape
from train.data.images import as_bytes, as_images
from train.data.streaming.randomness import RandomNumbers
from train.data.streaming.stored import PROBES, StoredImages, evenly
from train.data.streaming.workers import reading
from train.errors import InputError, first_line, note, require
from train.progress import progress

SAMPLED = 256
"""Items whose contents are in the hash of a data set, evenly spaced."""

IMAGE_KEYS = ("image", "img", "images", "pixel_values")
"""The keys under which items that are mappings may have their image."""

Values = dict[str, Any]
"""What an item says of its image, by name."""


class Item(NamedTuple):
    """An item of a data set, taken apart.

    Attributes:
        image: A PIL image, an array or a tensor.
        values: What the item says of it, by name: numbers and text, or, from a pair, an array.
    """

    image: Any
    values: Values

    @classmethod
    def of(cls, item: Any, name: str) -> Item:
        """Takes an item apart.

        Args:
            item: An image, a pair of an image and its label, or a mapping with an image under one
                of :data:`IMAGE_KEYS`. Its other entries that are numbers or text are values.
            name: What error messages call it.

        Raises:
            InputError: If it is none of these.
        """
        if isinstance(item, Mapping):
            keys = [key for key in IMAGE_KEYS if key in item]
            require(
                bool(keys),
                f"{name} has the keys {', '.join(map(str, item))}: give its image the key image",
            )
            others = {str(key): value for key, value in item.items() if key != keys[0]}
            return cls(item[keys[0]], {k: v for k, v in others.items() if np.ndim(v) == 0})
        if isinstance(item, tuple | list) and len(item):
            return cls(item[0], {"label": item[1]} if len(item) > 1 else {})
        return cls(item, {})


class Conversion(NamedTuple):
    """How images of a data set are converted: by the rules of :func:`as_images`, for all alike.

    Attributes:
        shape: Channels, height and width of an image.
        binary: Whether images are of integers, 0 and 1 only, which are black and white.
    """

    shape: Shape
    binary: bool = False

    def __call__(self, images: Sequence[Any], names: Callable[[int], str]) -> np.ndarray:
        r"""Converts images to uint8, of shape :math:`(M, C, H, W)`.

        Args:
            images: PIL images, arrays or tensors.
            names: Returns what error messages call an image, by its position.

        Raises:
            InputError: If an image cannot be used; the message names it.
        """
        arrays = [as_array(image) for image in images]
        if len({(array.shape, array.dtype) for array in arrays}) == 1:
            try:
                return self._checked(np.stack(arrays), "images")
            except InputError:
                # Found again below, with its name.
                pass
        return np.concatenate(
            [self._checked(array[None], names(i)) for i, array in enumerate(arrays)]
        )

    def _checked(self, array: np.ndarray, name: str) -> np.ndarray:
        images = as_pixels(array, name, self.binary)
        if images.shape[1:] != self.shape and images.shape[1] == 1:
            images = images.expand(-1, self.shape[0], -1, -1)
        require(
            tuple(images.shape[1:]) == tuple(self.shape),
            f"{name} is {Shape(*images.shape[1:])}, but others are {self.shape}: bring all images "
            "to one size and number of channels",
        )
        return images.numpy()


def as_array(image: Any) -> np.ndarray:
    """Converts an image of a data set to an array; pictures of unusual modes to grey levels."""
    if isinstance(image, Image.Image):
        # Transparency, palettes and rotations are converted as those of files are.
        plain = image.mode in ("L", "RGB") and not {"exif", "transparency"} & image.info.keys()
        return np.asarray(image) if plain else as_images([image], say=lambda _: None)[0].numpy()
    if isinstance(image, Tensor):
        return image.detach().cpu().numpy()
    return np.asarray(image)


def as_pixels(array: np.ndarray, name: str, binary: bool) -> Tensor:
    r"""Converts an array to uint8 images :math:`(M, C, H, W)`.

    Args:
        array: Of the shapes that :func:`as_images` takes.
        name: What error messages call it.
        binary: Whether integers 0 and 1 are black and white. Other integers are refused then.
    """
    if array.dtype.kind not in "iu" or not array.size or array.max() > 1 or array.min() < 0:
        images = as_bytes(as_images(array, name=name, say=lambda _: None))
        require(
            not binary or array.dtype.kind not in "iu",
            f"{name} has integers above 1, but the images before have 0 and 1 only: give uint8, "
            "from 0 to 255",
        )
        return images
    # A dark image may have no value above 1, which says nothing of the others.
    images = as_images(array != 0, name=name)
    return images if binary else images // 255


class DatasetImages(StoredImages):
    """The images of a map-style data set, read item by item.

    Items are called in another order and more than once, and may draw random numbers. Each is
    checked and converted as it is read, and the message for one that cannot be used names it.

    Args:
        source: The data set.

    Raises:
        InputError: If it is empty, or its items cannot be used.
    """

    RUNS_CODE: ClassVar[bool] = True

    def __init__(self, source: Any) -> None:
        self.source = source
        self.name = f"data ({type(source).__name__})"
        number = len(source)
        require(number > 0, f"{self.name} is empty: give a data set with images")
        with RandomNumbers(0):
            probes = self.items(evenly(number, PROBES))
        self.value_names = tuple(probes[0].values)
        super().__init__(number, Shape(1, 1, 1))
        self.conversion = conversion(probes, self.name)
        self.stored_shape = self.conversion.shape

    def items(self, rows: Iterable[int]) -> list[Item]:
        """Reads items of the data set.

        Raises:
            InputError: If an item cannot be read; the message names it.
        """
        rows = [int(row) for row in rows]
        if hasattr(self.source, "__getitems__"):
            try:
                items = self.source.__getitems__(rows)
                return [Item.of(item, self._name(i)) for i, item in zip(rows, items, strict=True)]
            # Found again below, with its index.
            except Exception:
                pass
        return [Item.of(self._item(row), self._name(row)) for row in rows]

    def read(self, rows: np.ndarray) -> np.ndarray:
        images = [item.image for item in self.items(rows)]
        if not images:
            return np.empty((0, *self.stored_shape), np.uint8)
        return self.conversion(images, lambda i: self._name(int(rows[i])))

    def digest(self) -> bytes:
        """Returns a hash of the number of items and of the contents of some of them."""
        digest = hashlib.blake2b(f"{self.number} {self.stored_shape}".encode(), digest_size=16)
        with RandomNumbers(0):
            images = self.read(np.array(evenly(self.number, SAMPLED)))
        digest.update(np.ascontiguousarray(images).data)
        return digest.digest()

    def _item(self, row: int) -> Any:
        try:
            return self.source[row]
        # A data set of the user's may raise anything.
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(f"{self._name(row)} cannot be read ({reason})") from error

    def _name(self, row: int) -> str:
        return f"{self.name}: item {row}"


def conversion(probes: Sequence[Item], name: str) -> Conversion:
    """Finds how the images of a data set are converted from some of its items."""
    arrays = [as_array(item.image) for item in probes]
    whole = all(array.dtype.kind in "iu" for array in arrays)
    highest = max((int(array.max()) for array in arrays if array.size), default=0) if whole else 0
    shapes = [
        as_pixels(array[None], f"{name}: item {i}", highest == 1).shape[1:]
        for i, array in enumerate(arrays)
    ]
    if highest == 1:
        note(
            f"{name}: the integers are 0 and 1 only, and are taken for black and white; give "
            "floats in [0, 1] if that is not what they are"
        )
    # Of pictures some may be grey, and have the colours of grey then.
    return Conversion(Shape(*max(shapes, key=lambda shape: shape[0])), highest == 1)


class _Values(Dataset):
    """What a data set says of its images, without the images."""

    def __init__(self, images: DatasetImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images.number

    def __getitem__(self, row: int) -> Values:
        return self.images.items([row])[0].values


def columns(images: DatasetImages) -> dict[str, np.ndarray]:
    """Returns what a data set says of its images, by name: arrays with a row for each item.

    Columns of a table (Hugging Face's data sets) and ``targets`` (torchvision's) are read without
    the images. Otherwise each item is read once, with a progress bar.
    """
    source = images.source
    if not images.value_names:
        return {}
    if hasattr(source, "column_names"):
        return {name: np.asarray(list(source[name])) for name in images.value_names}
    targets = targets_of(source)
    if targets is not None and _are_labels(targets, images):
        return {"label": targets}
    note(
        f"{images.name}: each item is read once for its label; a list targets, as torchvision's "
        "data sets have it, saves this"
    )
    loader = DataLoader(
        _Values(images),
        batch_size=256,
        num_workers=images.default_workers if images.workers is None else images.workers,
        collate_fn=list,
        generator=torch.Generator(),
    )
    with reading(), RandomNumbers(0):
        batches = progress(loader, "reading labels", len(loader), "batch")
        values = [value for batch in batches for value in batch]
    for row, value in enumerate(values):
        require(
            tuple(value) == images.value_names,
            f"{images.name}: item {row} has other entries than item 0",
        )
    return {name: np.asarray([value[name] for value in values]) for name in images.value_names}


def targets_of(source: Any) -> np.ndarray | None:
    """Returns the labels that a data set of torchvision's, or a subset of one, has as a list."""
    if isinstance(source, torch.utils.data.Subset):
        targets = targets_of(source.dataset)
        return None if targets is None else targets[np.asarray(source.indices)]
    targets = getattr(source, "targets", None)
    return None if targets is None else np.asarray(targets)


def _are_labels(targets: np.ndarray, images: DatasetImages) -> bool:
    """Whether targets are the labels of items; a transform may make others of them."""
    rows = evenly(images.number, PROBES)
    with RandomNumbers(0):
        labels = [item.values.get("label") for item in images.items(rows)]
    return len(targets) == images.number and np.array_equal(np.asarray(labels), targets[rows])
