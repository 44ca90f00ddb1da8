"""Hashes of data, by which a resumed run recognises them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from train.data import datasets
from train.data.fingerprint import fingerprint
from train.data.labelled import Images


def images(**columns):
    pixels = torch.arange(4 * 6, dtype=torch.uint8).reshape(4, 2, 3)
    return Images.of_columns(pixels, {name: np.array(values) for name, values in columns.items()})


def test_grey_images_have_the_hash_of_earlier_versions():
    # Written down when images had no channels and labels no names.
    split = datasets.load("mnist5k", Path("data"), "test")
    assert fingerprint(*split) == "f833fc802c8f1a6899d0b477ec18b743"


def test_labels_with_and_without_a_name_have_one_hash():
    named = images(size=[1, 0, 2, 1])
    unnamed = Images.labelled(named.images, named.values)
    assert named.columns
    assert fingerprint(named) == fingerprint(unnamed)


def test_each_column_is_in_the_hash():
    hashes = {
        fingerprint(images(size=[1, 0, 2, 1], colour=colours))
        for colours in (["a", "b", "a", "b"], ["a", "b", "b", "b"])
    }
    assert len(hashes | {fingerprint(images(size=[1, 0, 2, 1]))}) == 3


def test_channels_are_in_the_hash():
    colour = Images(torch.arange(4 * 6, dtype=torch.uint8).reshape(4, 3, 2, 1), None)
    grey = Images(colour.images.reshape(4, 1, 2, 3), None)
    assert fingerprint(colour) != fingerprint(grey)
