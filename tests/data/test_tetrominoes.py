"""Scenes of tetrominoes show three whole pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.data.refusals import refused
from train.data.drawn import hues, tetrominoes


@pytest.fixture(scope="module")
def scenes():
    return tetrominoes.sample(600, seed=0)


def test_there_are_17_different_pieces_of_four_blocks():
    pixels = tetrominoes.PIXELS
    assert len(tetrominoes.PIECES) == 17
    assert len({piece.tobytes() for piece in pixels}) == 17
    assert (pixels.sum((1, 2)) == 4 * 25).all()
    # Each is in the upper left corner, and its blocks hang together along their sides.
    assert pixels[:, 0].any(1).all()
    assert pixels[:, :, 0].any(1).all()
    for piece in pixels[:, ::5, ::5].astype(int):
        neighbours = (piece[1:] * piece[:-1]).sum() + (piece[:, 1:] * piece[:, :-1]).sum()
        assert neighbours >= 3


def test_orientation_turns_counter_clockwise():
    turned = {name: tetrominoes.PIXELS[i] for i, name in enumerate(tetrominoes.PIECES)}
    np.testing.assert_array_equal(np.rot90(turned["L", 0][:10, :15]), turned["L", 90][:15, :10])


def test_scenes(scenes):
    assert scenes.images.shape == (600, 3, 35, 35)
    assert (scenes.counts == 3).all()
    for k in range(1, 4):
        assert (scenes.masks.eq(k).sum((1, 2)) == 100).all()
    assert torch.equal(scenes.masks > 0, scenes.images.amax(1) == 255)
    assert torch.equal(tetrominoes.sample(600, seed=0).images, scenes.images)
    assert not torch.equal(tetrominoes.sample(600, seed=1).masks, scenes.masks)


def test_factors_are_in_the_image(scenes):
    names = dict(zip(tetrominoes.PIECES, tetrominoes.PIXELS, strict=True))
    factors = scenes.factors
    for scene in range(60):
        for slot in range(3):
            x, y = factors["x"][scene, slot], factors["y"][scene, slot]
            name = (factors["shape"][scene, slot], factors["orientation"][scene, slot])
            mask = scenes.masks[scene].numpy() == slot + 1
            (rows, columns) = np.nonzero(names[name])
            expected = np.zeros_like(mask)
            expected[rows + y, columns + x] = True
            np.testing.assert_array_equal(mask, expected)
            x0, y0, x1, y1 = scenes.boxes[scene, slot].int().tolist()
            assert (x0, y0) == (x, y)
            assert mask[y0:y1, x0:x1].sum() == 100
            assert (x1 - x0, y1 - y0) == (columns.max() + 1, rows.max() + 1)
            colour = 255 * hues.rgb(hues.COLOURS[factors["colour"][scene, slot]])
            pixels = scenes.images[scene].numpy()[:, mask]
            assert (pixels == colour.round()[:, None]).all()


def test_pieces_and_colours_are_all_drawn(scenes):
    factors = scenes.factors
    pairs = set(zip(factors["shape"].flat, factors["orientation"].flat, strict=True))
    assert pairs == set(tetrominoes.PIECES)
    colours, counts = np.unique(factors["colour"], return_counts=True)
    assert tuple(colours) == tetrominoes.COLOURS
    assert np.abs(counts / 1800 - 1 / 6).max() < 4 * (1 / 6 * 5 / 6 / 1800) ** 0.5


def test_no_scene_is_refused():
    with refused("0 scenes", "1 or more"):
        tetrominoes.sample(0, seed=0)
