"""Small data sets in the file formats of those that torchvision downloads."""

from __future__ import annotations

import bz2
import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.io
from PIL import Image

Files = dict[str, bytes]
"""Contents by name."""


class Official(NamedTuple):
    """A small data set.

    Attributes:
        archives: What is downloaded.
        folder: Where torchvision puts it, below its root.
        counts: The numbers of training and test images.
        shape: The shape of an image, (C, H, W).
        columns: The names of the columns, the label first.
        files: What torchvision reads, once archives are extracted.
    """

    archives: Files
    folder: str
    counts: tuple[int, int]
    shape: tuple[int, int, int]
    columns: tuple[str, ...]
    files: Files


def levels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    kind = {1: 8, 4: 12}[array.itemsize]
    head = bytes([0, 0, kind, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def tar(folder: str, files: Files) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def zipped(files: Files) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def picture(array: np.ndarray, kind: str = "png", mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(stream, kind, quality=95)
    return stream.getvalue()


def mnist(kind: str, columns: tuple[str, ...]) -> Official:
    files = {}
    for seed, (prefix, count) in enumerate((("train", 50), ("t10k", 20))):
        files[f"{prefix}-images-idx3-ubyte"] = idx(levels(count, 28, 28, seed=seed))
        files[f"{prefix}-labels-idx1-ubyte"] = idx(np.arange(count, dtype=np.uint8) % 10)
    archives = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    return Official(archives, f"{kind}/raw", (50, 20), (1, 28, 28), columns, files)


def emnist(variant: str, first: int, classes: int) -> Official:
    files = {}
    for other in {"balanced", "letters", variant}:
        for seed, (split, count) in enumerate((("train", 100), ("test", 50))):
            prefix = f"emnist-{other}-{split}"
            labels = (first + np.arange(count) % classes).astype(np.uint8)
            files[f"{prefix}-images-idx3-ubyte"] = idx(levels(count, 28, 28, seed=seed))
            files[f"{prefix}-labels-idx1-ubyte"] = idx(labels)
    archive = zipped({f"gzip/{name}.gz": gzip.compress(f) for name, f in files.items()})
    used = {name: content for name, content in files.items() if variant in name}
    return Official(
        {"gzip.zip": archive}, "EMNIST/raw", (100, 50), (1, 28, 28), ("character",), used
    )


def qmnist() -> Official:
    files = {}
    for seed, (split, count) in enumerate((("train", 50), ("test", 20))):
        labels = np.zeros((count, 8), dtype=np.int32)
        labels[:, 0] = np.arange(count) % 10
        labels[:, 1] = 1 + 3 * seed
        labels[:, 2] = 1_000 * seed + np.arange(count) // 10
        files[f"qmnist-{split}-images-idx3-ubyte"] = idx(levels(count, 28, 28, seed=seed))
        files[f"qmnist-{split}-labels-idx2-int"] = idx(labels)
    archives = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    columns = ("digit", "series", "writer")
    return Official(archives, "QMNIST/raw", (50, 20), (1, 28, 28), columns, files)


def usps() -> Official:
    files = {}
    for seed, (name, count) in enumerate((("usps.bz2", 40), ("usps.t.bz2", 20))):
        rows = np.random.default_rng(seed).uniform(-1, 1, (count, 256)).round(6)
        lines = [
            f"{index % 10 + 1} " + " ".join(f"{i}:{v}" for i, v in enumerate(row, start=1))
            for index, row in enumerate(rows)
        ]
        files[name] = bz2.compress(("\n".join(lines) + "\n").encode())
    return Official(files, ".", (40, 20), (1, 16, 16), ("digit",), files)


def omniglot() -> Official:
    archives, files = {}, {}
    alphabets = {"background": ("Greek", "Latin"), "evaluation": ("Tengwar",)}
    for group, names in alphabets.items():
        members = {}
        for alphabet in names:
            for character in (1, 2):
                for drawer in range(1, 6):
                    white = np.full((105, 105), 255, dtype=np.uint8)
                    white[10 * character : 10 * character + 8, 20 : 20 + drawer] = 0
                    name = f"{alphabet}/character{character:02}/{character:04}_{drawer:02}.png"
                    members[f"images_{group}/{name}"] = picture(white, mode="1")
        archives[f"images_{group}.zip"] = zipped(members)
        files |= members
    columns = ("character", "alphabet", "drawer", "set")
    return Official(archives, "omniglot-py", (24, 6), (1, 105, 105), columns, archives)


def svhn() -> Official:
    files = {}
    for seed, (split, count) in enumerate((("train", 30), ("test", 20))):
        stream = io.BytesIO()
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        scipy.io.savemat(stream, {"X": levels(32, 32, 3, count, seed=seed), "y": labels})
        files[f"{split}_32x32.mat"] = stream.getvalue()
    return Official(files, ".", (30, 20), (3, 32, 32), ("digit",), files)


CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def cifar10() -> Official:
    batches = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    files = {
        name: pickle.dumps({"data": levels(10, 3072, seed=seed), "labels": list(range(10))})
        for seed, name in enumerate(batches)
    }
    files["batches.meta"] = pickle.dumps({"label_names": CIFAR10, "num_vis": 3072})
    archives = {"cifar-10-python.tar.gz": tar("cifar-10-batches-py", files)}
    extracted = {f"cifar-10-batches-py/{name}": content for name, content in files.items()}
    return Official(archives, ".", (50, 10), (3, 32, 32), ("class",), extracted)


def cifar100() -> Official:
    fine = [f"fine{i:02}" for i in range(100)]
    coarse = [f"coarse{i:02}" for i in range(20)]
    files = {
        name: pickle.dumps(
            {
                "data": levels(count, 3072, seed=count),
                "fine_labels": [i % 100 for i in range(count)],
                "coarse_labels": [i % 20 for i in range(count)],
            }
        )
        for name, count in (("train", 200), ("test", 100))
    }
    files["meta"] = pickle.dumps({"fine_label_names": fine, "coarse_label_names": coarse})
    archives = {"cifar-100-python.tar.gz": tar("cifar-100-python", files)}
    extracted = {f"cifar-100-python/{name}": content for name, content in files.items()}
    return Official(archives, ".", (200, 100), (3, 32, 32), ("fine", "coarse"), extracted)


def stl10() -> Official:
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    files = {"class_names.txt": "\n".join(names).encode() + b"\n"}
    for seed, (split, count) in enumerate((("train", 20), ("test", 10))):
        files[f"{split}_X.bin"] = levels(count, 3, 96, 96, seed=seed).tobytes()
        files[f"{split}_y.bin"] = (np.arange(count) % 10 + 1).astype(np.uint8).tobytes()
    files["unlabeled_X.bin"] = levels(3, 3, 96, 96, seed=9).tobytes()
    archives = {"stl10_binary.tar.gz": tar("stl10_binary", files)}
    extracted = {f"stl10_binary/{name}": content for name, content in files.items()}
    return Official(archives, ".", (20, 10), (3, 96, 96), ("class",), extracted)


ATTRIBUTES = [f"Attribute_{i}" for i in range(40)]


def celeba() -> Official:
    names = [f"{i:06}.jpg" for i in range(1, 31)]
    attributes = 2 * np.random.default_rng(0).integers(0, 2, (30, 40)) - 1
    archives = {
        "img_align_celeba.zip": zipped(
            {
                f"img_align_celeba/{name}": picture(celebrity(index), "jpeg")
                for index, name in enumerate(names)
            }
        ),
        # The very form of the official files: a space ends the header, and columns are aligned.
        "list_attr_celeba.txt": table(names, attributes, " ".join(ATTRIBUTES) + " "),
        "identity_CelebA.txt": table(names, np.arange(30)[:, None] % 7),
        "list_bbox_celeba.txt": table(
            names, np.zeros((30, 4), int), "image_id x_1 y_1 width height"
        ),
        "list_landmarks_align_celeba.txt": table(
            names, np.zeros((30, 10), int), " ".join(f"landmark{i}" for i in range(10))
        ),
        "list_eval_partition.txt": table(names, np.repeat([0, 1, 2], [15, 5, 10])[:, None]),
    }
    texts = {name: content for name, content in archives.items() if name.endswith(".txt")}
    columns = (*ATTRIBUTES, "identity")
    return Official(archives, "celeba", (15, 10), (3, 64, 64), columns, texts)


def celebrity(index: int) -> np.ndarray:
    """An image of one colour within the centre that is cropped, and black around it."""
    image = np.zeros((218, 178, 3), dtype=np.uint8)
    image[20:198] = (8 * index, 255 - 8 * index, 100)
    return image


def table(names: list[str], values: np.ndarray, header: str | None = None) -> bytes:
    rows = [
        " ".join([name, *(f"{value:2}" for value in row)])
        for name, row in zip(names, values.tolist(), strict=True)
    ]
    head = [] if header is None else [str(len(names)), header]
    return ("\n".join(head + rows) + "\n").encode()


OFFICIAL: Mapping[str, Official] = {
    "mnist": mnist("MNIST", ("digit",)),
    "fashion-mnist": mnist("FashionMNIST", ("garment",)),
    "kmnist": mnist("KMNIST", ("character",)),
    "emnist": emnist("balanced", 0, 47),
    "emnist-letters": emnist("letters", 1, 26),
    "qmnist": qmnist(),
    "usps": usps(),
    "omniglot": omniglot(),
    "svhn": svhn(),
    "cifar10": cifar10(),
    "cifar100": cifar100(),
    "stl10": stl10(),
    "celeba": celeba(),
}
