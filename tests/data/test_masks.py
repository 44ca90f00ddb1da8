"""Masks of objects in archives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.data.refusals import refused
from train.data.scenes import load_scenes
from train.settings import SceneSettings

M, HEIGHT, WIDTH = 12, 5, 4
IMAGES = np.arange(M * HEIGHT * WIDTH, dtype=np.uint8).reshape(M, HEIGHT, WIDTH)
MASKS = np.random.default_rng(0).integers(0, 3, IMAGES.shape)


def write(path, **arrays):
    np.savez(path, **({"images": IMAGES} | arrays))
    return SceneSettings(data=str(path))


@pytest.mark.parametrize("counts", [None, np.full(M, 2)])
@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.uint16])
def test_masks_follow_their_images(tmp_path, counts, kind):
    arrays = {} if counts is None else {"counts": counts}
    settings = write(tmp_path / "scenes.npz", masks=MASKS.astype(kind), **arrays)
    for scenes in load_scenes(settings):
        assert scenes.masks.dtype == torch.uint8
        for image, mask in zip(scenes.images[:, 0].numpy(), scenes.masks.numpy(), strict=True):
            np.testing.assert_array_equal(mask, MASKS[image[0, 0] // (HEIGHT * WIDTH)])


def test_masks_of_splits_in_files(tmp_path):
    half = {"images": IMAGES[:10], "masks": MASKS[:10]}
    np.savez(tmp_path / "train.npz", **half)
    write(tmp_path / "test.npz", masks=MASKS)
    split = load_scenes(SceneSettings(data=str(tmp_path)))
    np.testing.assert_array_equal(split.train.masks, MASKS[:10])
    np.testing.assert_array_equal(split.held_out.masks, MASKS)
    write(tmp_path / "test.npz")
    with refused("test.npz", "train.npz", "different masks"):
        load_scenes(SceneSettings(data=str(tmp_path)))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"masks": MASKS[:, :4]}, ("(12, 4, 4)", "(N, 5, 4)")),
        ({"masks": MASKS[:, None]}, ("(12, 1, 5, 4)", "(N, 5, 4)")),
        ({"masks": MASKS[:3]}, ("(3, 5, 4)", "12 images")),
        ({"masks": np.zeros(M)}, ("(12,)", "(N, 5, 4)")),
        ({"masks": MASKS / 2}, ("float64", "whole numbers")),
        ({"masks": MASKS - 1}, ("from -1 to 1",)),
        ({"masks": 200 * MASKS}, ("from 0 to 400", "255")),
        (
            {"masks": MASKS, "counts": np.r_[2, 2, 1, np.full(9, 2)]},
            ("object 2 in image 2", "'counts' has 1"),
        ),
    ],
)
def test_other_masks_are_refused(tmp_path, arrays, words):
    settings = write(tmp_path / "scenes.npz", **arrays)
    with refused("'masks'", *words):
        load_scenes(settings)
