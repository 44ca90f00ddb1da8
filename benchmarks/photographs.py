"""Patches of the photographs that scikit-learn ships, and scikit-image if it is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SCIKIT_IMAGE = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png")
SCIKIT_IMAGE += ("motorcycle_left.png", "retina.jpg", "rocket.jpg")
"""Its photographs in colour, as files of the package."""

TRAINING = 0.75
"""Training patches are from this fraction of a photograph's width, from the left."""
HELD_OUT = 0.8
"""Held-out patches begin at this fraction of the width, or further right."""


def photographs() -> dict[str, np.ndarray]:
    """Returns photographs by name, each of shape (H, W, 3), uint8."""
    bunch = load_sample_images()
    names = (Path(name).stem for name in bunch.filenames)
    images = dict(zip(names, bunch.images, strict=True))
    package = find_spec("skimage")
    if package is not None:
        folder = Path(package.origin).parent / "data"
        for name in SCIKIT_IMAGE:
            if (folder / name).is_file():
                images[Path(name).stem] = np.asarray(Image.open(folder / name).convert("RGB"))
    return images


def patches(
    image: np.ndarray, size: int, n: int, columns: tuple[int, int], random: np.random.RandomState
) -> np.ndarray:
    """Cuts random patches out of a photograph.

    Args:
        image: Of shape (H, W, 3).
        size: Height and width of a patch.
        n: The number of patches.
        columns: The first column of a patch, and the one after its last.
        random: Random numbers.

    Returns:
        Of shape (n, size, size, 3), uint8.
    """
    tops = random.randint(0, image.shape[0] - size + 1, n)
    lefts = random.randint(columns[0], columns[1] - size + 1, n)
    rows = [image[y : y + size, x : x + size] for y, x in zip(tops, lefts, strict=True)]
    return np.stack(rows)


def write(folder: Path, size: int = 32, train: int = 400, held_out: int = 100) -> Path:
    """Writes ``train.npz`` and ``test.npz``, whose labels are the names of the photographs.

    Training patches and held-out ones are of separate columns of each photograph.

    Args:
        folder: The folder, which is made if need be.
        size: Height and width of a patch.
        train: Training patches of each photograph.
        held_out: Held-out patches of each photograph.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, tuple[list[np.ndarray], list[str]]] = {"train": ([], []), "test": ([], [])}
    random = np.random.RandomState(0)
    for name, image in photographs().items():
        width = image.shape[1]
        ranges = {"train": (0, int(TRAINING * width)), "test": (int(HELD_OUT * width), width)}
        for split, n in (("train", train), ("test", held_out)):
            images, labels = splits[split]
            images.append(patches(image, size, n, ranges[split], random))
            labels += [name] * n
    for split, (images, labels) in splits.items():
        order = random.permutation(len(labels))
        images, labels = np.concatenate(images)[order], np.array(labels)[order]
        np.savez(folder / f"{split}.npz", images=images, labels=labels)
    return folder


def grey_patches(n: int, size: int, random: np.random.Generator) -> np.ndarray:
    """Cuts grey patches out of all photographs, as many of each.

    Args:
        n: The number of patches.
        size: Height and width of a patch.
        random: Random numbers.

    Returns:
        Of shape (n, size, size), in [0, 1], in random order.
    """
    images = list(photographs().values())
    old = np.random.RandomState(random.integers(2**31))
    each = -(-n // len(images))
    cut = [patches(image, size, each, (0, image.shape[1]), old) for image in images]
    grey = np.concatenate(cut) @ np.array([0.299, 0.587, 0.114]) / 255
    return random.permutation(grey)[:n]
