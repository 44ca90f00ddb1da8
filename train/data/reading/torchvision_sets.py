"""Reads the data sets that torchvision downloads, each through torchvision's class.

The folder of downloads is torchvision's ``root``, so that files which torchvision stored there are
used as they are. Images are uint8; ink is white on black, and upright.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets, transforms
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.datasets.utils import extract_archive

from pyro_models.shapes import Shape
from train.data import memory
from train.data.labelled import Images, Split
from train.data.labels import Classes
from train.data.reading import pil
from train.data.streaming.stored import StoredImages, in_memory
from train.errors import InputError, first_line, require

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""The files of MNIST, and of the data sets that are distributed in its format."""

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""The folder of Debian's package dataset-fashion-mnist, which has the four files with ``.gz``."""

CELEBA_SIDE = 178
"""Height and width of the centre of a CelebA image, which is 218 high and 178 wide."""
CELEBA_SIZE = 64
"""Height and width that this centre is resized to, as is usual."""


class Pictures(NamedTuple):
    r"""Images as a file has them.

    Attributes:
        images: Of shape :math:`(M, C, H, W)`, uint8.
        columns: What the data set says of an image, by name: arrays of shape :math:`(M)`, int64 or
            text.
    """

    images: Tensor | StoredImages
    columns: Mapping[str, np.ndarray]


Reader = Callable[[Path, str, bool], Pictures]
"""Reads a split. It takes torchvision's root, the name of the split, and whether torchvision may
download files that are missing."""


class Source(NamedTuple):
    """How torchvision stores a data set.

    Attributes:
        read: Reads a split.
        files: The files and folders that are read for each split, relative to the root. If all of
            all splits are there, nothing is downloaded.
        archives: What can be put into the folder by hand, in words.
        folder: The folder that it belongs into, relative to the root.
        label: The column that is the label; None if no column is.
    """

    read: Reader
    files: Mapping[str, Sequence[str]]
    archives: str
    folder: str = "."
    label: str | None = "class"


def load(name: str, data_dir: Path, splits: Sequence[str] = ("train", "test")) -> Split:
    """Reads a data set; downloads it if need be.

    Args:
        name: A key of :data:`SOURCES`.
        data_dir: The folder of downloads.
        splits: The names of the training split and the held-out one. ``celeba`` has ``"valid"``,
            too. Omniglot's two splits have no character in common: of both together, a fifth of
            each character is held out instead.

    Raises:
        InputError: If files cannot be downloaded or are damaged, memory has no room for the images,
            or there are held-out images of a class that no training image has.
    """
    if name == "omniglot":
        background, evaluation = _labelled(name, data_dir, ("background", "evaluation"))
        split = _concatenate(background, evaluation).hold_out()
    else:
        split = Split(*_labelled(name, data_dir, splits))
    _require_trained(name, split)
    return split


def _labelled(name: str, data_dir: Path, splits: Sequence[str]) -> list[Images]:
    """Reads splits; an index of a class means the same one in each."""
    read = [_read(name, data_dir, split) for split in splits]
    label = SOURCES[name].label
    if label is None:
        return [Images(images, None, columns=columns) for images, columns in read]
    classes = Classes.of(np.concatenate([columns[label] for _, columns in read]))
    indices = [classes.encode(columns[label]) for _, columns in read]
    # As in earlier versions, digits are their own indices.
    are_indices = classes.values == tuple(range(len(classes)))
    return [
        Images(images, index, None if are_indices else columns[label], columns)
        for (images, columns), index in zip(read, indices, strict=True)
    ]


def _read(name: str, root: Path, split: str) -> Pictures:
    source = SOURCES[name]
    needed = (file for files in source.files.values() for file in files)
    is_missing = not all((root / file).exists() for file in needed)
    try:
        pictures = source.read(root, split, is_missing)
        images, columns = pictures
        sound = images.ndim == 4 and len(images) > 0 and min(images.shape) > 0
        sound &= all(len(column) == len(images) for column in columns.values())
        reason = "" if sound else "there is not one label an image"
    except (InputError, MemoryError):
        raise
    # torchvision reads with slices, assertions and views: a damaged file may raise anything.
    except Exception as error:
        if is_missing:
            raise InputError(
                f"--data {name} could not be downloaded ({_last_line(error)}): use --data mnist5k, "
                f"which needs no download, or put {source.archives} into {root / source.folder}"
            ) from error
        reason = first_line(error) or type(error).__name__
    files = [root / file for file in source.files[split]]
    names = ", ".join(file.name for file in files)
    require(
        not reason,
        f"--data {name}: the files {names} in {files[0].parent} are damaged ({reason}): delete "
        "them to download them again, or use --data mnist5k",
    )
    return pictures


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].rstrip(".")


def _concatenate(first: Images, second: Images) -> Images:
    columns = {
        name: np.concatenate([column, second.columns[name]])
        for name, column in first.columns.items()
    }
    return Images(
        torch.cat([in_memory(first.images), in_memory(second.images)]),
        torch.cat([first.known_labels, second.known_labels]),
        None if first.given is None else np.concatenate([first.given, second.require_labels()]),
        columns,
    )


def _require_trained(name: str, split: Split) -> None:
    if split.train.labels is None:
        return
    train, held_out = (set(images.require_labels().tolist()) for images in split)
    unknown = sorted(held_out - train)
    require(
        not unknown,
        f"--data {name}: no training image is of the class {next(iter(unknown), '')}, which "
        "held-out images are of: its files are incomplete; delete them to download them again",
    )


def _images(array: np.ndarray) -> Tensor:
    """Converts images of any strides to a tensor."""
    return torch.from_numpy(np.ascontiguousarray(array))


def _names(data: Any, targets: Iterable[int]) -> np.ndarray:
    """Returns the names of classes, of shape (M,), text."""
    return np.array(data.classes)[np.asarray(targets, dtype=np.int64)]


def _mnist(root: Path, split: str, download: bool) -> Pictures:
    data = datasets.MNIST(root, train=split == "train", download=download)
    return Pictures(data.data.unsqueeze(1), {"digit": data.targets.numpy()})


def _kmnist(root: Path, split: str, download: bool) -> Pictures:
    data = datasets.KMNIST(root, train=split == "train", download=download)
    return Pictures(data.data.unsqueeze(1), {"character": data.targets.numpy()})


def _fashion_mnist(root: Path, split: str, download: bool) -> Pictures:
    if download and all((DEBIAN / f"{file}.gz").is_file() for file in IDX_FILES):
        images, targets = _of_debian(split)
    else:
        data = datasets.FashionMNIST(root, train=split == "train", download=download)
        images, targets = data.data, data.targets
    return Pictures(images.unsqueeze(1), {"garment": targets.numpy()})


def _of_debian(split: str) -> tuple[Tensor, Tensor]:
    """Reads a split of Debian's package, whose files are those of Fashion-MNIST, compressed."""
    files = IDX_FILES[:2] if split == "train" else IDX_FILES[2:]
    try:
        with TemporaryDirectory() as temporary:
            for file in files:
                extract_archive(str(DEBIAN / f"{file}.gz"), temporary)
            images, labels = (str(Path(temporary, file)) for file in files)
            return read_image_file(images), read_label_file(labels)
    except Exception as error:
        raise InputError(
            f"--data fashion-mnist: Debian's package dataset-fashion-mnist is damaged in {DEBIAN} "
            f"({first_line(error)}): install it again, or remove it to download its files"
        ) from error


def _emnist(variant: str, root: Path, split: str, download: bool) -> Pictures:
    data = datasets.EMNIST(root, split=variant, train=split == "train", download=download)
    # The files have rows for columns, unlike MNIST's.
    images = data.data.mT.contiguous().unsqueeze(1)
    return Pictures(images, {"character": _names(data, data.targets)})


def _qmnist(root: Path, split: str, download: bool) -> Pictures:
    data = datasets.QMNIST(root, what=split, download=download)
    columns = zip(("digit", "series", "writer"), data.targets.numpy().T[:3], strict=True)
    return Pictures(
        data.data.unsqueeze(1), {name: np.ascontiguousarray(column) for name, column in columns}
    )


def _usps(root: Path, split: str, download: bool) -> Pictures:
    data = datasets.USPS(root, train=split == "train", download=download)
    return Pictures(_images(data.data[:, None]), {"digit": np.array(data.targets, dtype=np.int64)})


def _omniglot(root: Path, split: str, download: bool) -> Pictures:
    folder = root / datasets.Omniglot.folder
    _extract_missing(folder / f"images_{split}.zip")
    data = datasets.Omniglot(root, background=split == "background", download=download)
    # torchvision's order is that of the file system, which differs between machines.
    files = sorted(Path(data.target_folder).glob("*/*/*.png"))
    size = 105 * 105 * len(files)
    memory.require_available(
        size, f"--data omniglot: {len(files):,} images need", "use --data emnist, or free some"
    )
    # Ink is black in the files.
    images = np.stack([255 - np.asarray(_opened(file).convert("L")) for file in files])
    alphabets = [file.parent.parent.name for file in files]
    columns = {
        "character": [
            f"{alphabet}/{file.parent.name}"
            for alphabet, file in zip(alphabets, files, strict=True)
        ],
        "alphabet": alphabets,
        "drawer": [file.stem.partition("_")[2] for file in files],
        "set": [split] * len(files),
    }
    return Pictures(
        _images(images[:, None]), {name: np.array(column) for name, column in columns.items()}
    )


def _svhn(root: Path, split: str, download: bool) -> Pictures:
    data = datasets.SVHN(root, split=split, download=download)
    return Pictures(_images(data.data), {"digit": data.labels})


def _cifar10(root: Path, split: str, download: bool) -> Pictures:
    data = datasets.CIFAR10(root, train=split == "train", download=download)
    return Pictures(_images(data.data.transpose(0, 3, 1, 2)), {"class": _names(data, data.targets)})


def _cifar100(root: Path, split: str, download: bool) -> Pictures:
    data = datasets.CIFAR100(root, train=split == "train", download=download)
    # torchvision has compared the files' checksums, and has no reader of the coarse labels.
    folder = root / data.base_folder
    names = np.array(_unpickled(folder / "meta")["coarse_label_names"])
    coarse = names[np.array(_unpickled(folder / split)["coarse_labels"])]
    columns = {"fine": _names(data, data.targets), "coarse": coarse}
    return Pictures(_images(data.data.transpose(0, 3, 1, 2)), columns)


def _unpickled(file: Path) -> dict[str, Any]:
    return pickle.loads(file.read_bytes(), encoding="latin1")


def _stl10(root: Path, split: str, download: bool) -> Pictures:
    data = datasets.STL10(root, split=split, download=download)
    return Pictures(_images(data.data), {"class": _names(data, data.labels)})


def _celeba(root: Path, split: str, download: bool) -> Pictures:
    _extract_missing(root / datasets.CelebA.base_folder / "img_align_celeba.zip")
    resized = transforms.Compose(
        [
            transforms.CenterCrop(CELEBA_SIDE),
            transforms.Resize(CELEBA_SIZE),
            transforms.PILToTensor(),
        ]
    )
    data = datasets.CelebA(root, split=split, transform=resized, download=download)
    # The header of the file ends in a space.
    attributes = dict(zip(filter(None, data.attr_names), data.attr.numpy().T, strict=True))
    columns = {name: np.ascontiguousarray(column) for name, column in attributes.items()}
    return Pictures(Faces(data), columns | {"identity": data.identity.flatten().numpy()})


class Faces(StoredImages):
    """The images of CelebA, decoded when they are asked for.

    Args:
        data: A split, whose transform returns tensors of :data:`CELEBA_SIZE`.
    """

    def __init__(self, data: datasets.CelebA) -> None:
        super().__init__(len(data), Shape(3, CELEBA_SIZE, CELEBA_SIZE))
        self.data = data

    def read(self, rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), *self.stored_shape), np.uint8)
        # PIL decodes without Python's lock, so that threads decode side by side.
        with ThreadPoolExecutor() as pool:
            for image, pixels in zip(images, pool.map(self._decode, rows.tolist()), strict=True):
                image[:] = pixels
        return images

    def digest(self) -> bytes:
        digest = hashlib.blake2b(str(self.stored_shape).encode(), digest_size=16)
        for row in range(self.number):
            try:
                size = self._file(row).stat().st_size
            except OSError as error:
                raise self._refusal(row) from error
            digest.update(f"{self.data.filename[row]} {size}\n".encode())
        return digest.digest()

    def _decode(self, row: int) -> np.ndarray:
        try:
            return self.data[row][0].numpy()
        except pil.UNREADABLE as error:
            raise self._refusal(row) from error

    def _file(self, row: int) -> Path:
        folder = Path(self.data.root, self.data.base_folder, "img_align_celeba")
        return folder / self.data.filename[row]

    def _refusal(self, row: int) -> InputError:
        file = self._file(row)
        return InputError(
            f"--data celeba: {file.name} in {file.parent} cannot be read: delete that folder to "
            "extract or download it again"
        )


def _opened(file: Path) -> Image.Image:
    with Image.open(file) as image:
        image.load()
        return image


def _extract_missing(archive: Path) -> None:
    """Extracts an archive, if there is one, beside itself unless all of it was extracted before.

    torchvision does not, if the archive was put there by hand or a run ended while it extracted.
    """
    if not archive.is_file():
        return
    with zipfile.ZipFile(archive) as opened:
        missing = [member for member in opened.infolist() if not _is_there(archive.parent, member)]
        if missing:
            opened.extractall(archive.parent, missing)


def _is_there(folder: Path, member: zipfile.ZipInfo) -> bool:
    path = folder / member.filename
    if member.is_dir():
        return path.is_dir()
    return path.is_file() and path.stat().st_size == member.file_size


def _idx(
    kind: str, train: str, test: str, labels: str = "labels-idx1-ubyte"
) -> dict[str, list[str]]:
    """Returns the files of both splits of a data set in MNIST's format, by their prefixes."""
    return {
        split: [f"{kind}/raw/{prefix}-images-idx3-ubyte", f"{kind}/raw/{prefix}-{labels}"]
        for split, prefix in (("train", train), ("test", test))
    }


def _mnist_format(kind: str, read: Reader, label: str) -> Source:
    return Source(read, _idx(kind, "train", "t10k"), "the four IDX files", f"{kind}/raw", label)


def _emnist_variant(variant: str) -> Source:
    files = _idx("EMNIST", f"emnist-{variant}-train", f"emnist-{variant}-test")
    return Source(partial(_emnist, variant), files, "gzip.zip", "EMNIST/raw", "character")


def _checked_together(folder: str, names: Sequence[str], splits: Sequence[str]) -> dict:
    """Returns the files of splits, of which torchvision checks all whichever split it reads."""
    return {split: [f"{folder}/{name}" for name in names] for split in splits}


_CIFAR10 = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
_STL10 = ["train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "unlabeled_X.bin"]
_CELEBA = [
    "list_attr_celeba.txt",
    "list_eval_partition.txt",
    "identity_CelebA.txt",
    "list_bbox_celeba.txt",
    "list_landmarks_align_celeba.txt",
    "img_align_celeba",
]

SOURCES = {
    "mnist": _mnist_format("MNIST", _mnist, "digit"),
    "fashion-mnist": _mnist_format("FashionMNIST", _fashion_mnist, "garment"),
    "kmnist": _mnist_format("KMNIST", _kmnist, "character"),
    "emnist": _emnist_variant("balanced"),
    "emnist-letters": _emnist_variant("letters"),
    "qmnist": Source(
        _qmnist,
        _idx("QMNIST", "qmnist-train", "qmnist-test", "labels-idx2-int"),
        "the four files qmnist-*.gz",
        "QMNIST/raw",
        "digit",
    ),
    "usps": Source(
        _usps,
        {"train": ["usps.bz2"], "test": ["usps.t.bz2"]},
        "usps.bz2 and usps.t.bz2",
        label="digit",
    ),
    "omniglot": Source(
        _omniglot,
        {
            split: [f"omniglot-py/images_{split}.zip", f"omniglot-py/images_{split}"]
            for split in ("background", "evaluation")
        },
        "images_background.zip and images_evaluation.zip",
        "omniglot-py",
        "character",
    ),
    "svhn": Source(
        _svhn,
        {"train": ["train_32x32.mat"], "test": ["test_32x32.mat"]},
        "train_32x32.mat and test_32x32.mat",
        label="digit",
    ),
    "cifar10": Source(
        _cifar10,
        _checked_together("cifar-10-batches-py", _CIFAR10, ("train", "test")),
        "cifar-10-python.tar.gz",
    ),
    "cifar100": Source(
        _cifar100,
        _checked_together("cifar-100-python", ["train", "test", "meta"], ("train", "test")),
        "cifar-100-python.tar.gz",
        label="fine",
    ),
    "stl10": Source(
        _stl10,
        _checked_together("stl10_binary", [*_STL10, "class_names.txt"], ("train", "test")),
        "stl10_binary.tar.gz",
    ),
    "celeba": Source(
        _celeba,
        _checked_together("celeba", _CELEBA, ("train", "valid", "test")),
        "img_align_celeba.zip and the five files *.txt beside it",
        "celeba",
        label=None,
    ),
}
"""The data sets by their name in :data:`train.data.catalogue.CATALOGUE`."""
