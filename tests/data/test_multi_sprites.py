"""Scenes of sprites show their factors, and every sprite is visible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.refusals import refused
from train.data import datasets
from train.data.drawn import multi_sprites, sprites

SIDE = 64


@pytest.fixture(scope="module", params=[False, True], ids=["grey", "colour"])
def scenes(request):
    return multi_sprites.sample(400, seed=0, coloured=request.param)


def visible(scenes):
    """The visible pixels of each sprite, (M, K, 64, 64)."""
    return scenes.masks[:, None] == torch.arange(1, 6).view(5, 1, 1)


def present(scenes):
    return torch.arange(5) < scenes.counts[:, None]


def test_shapes_types_and_seeds(scenes):
    assert scenes.images.shape == (400, 3, SIDE, SIDE)
    assert scenes.masks.shape == (400, SIDE, SIDE)
    assert scenes.images.dtype == scenes.masks.dtype == torch.uint8
    again, other = (multi_sprites.sample(20, seed=seed) for seed in (0, 1))
    assert torch.equal(again.images, multi_sprites.sample(20, seed=0).images)
    assert not torch.equal(again.images, other.images)


def test_counts_are_uniform(scenes):
    frequencies = scenes.counts.bincount(minlength=6)[2:] / 400
    assert frequencies.sum() == 1
    assert ((frequencies - 0.25).abs() < 4 * (0.25 * 0.75 / 400) ** 0.5).all()


def test_every_sprite_is_visible_and_inside(scenes):
    pixels = visible(scenes).sum((2, 3))
    assert (pixels[present(scenes)] >= multi_sprites.LEAST_VISIBLE).all()
    assert (pixels[~present(scenes)] == 0).all()
    background = scenes.images[:, :, 0, 0]
    for edge in (scenes.images[:, :, [0, -1]], scenes.images[:, :, :, [0, -1]].mT):
        assert (edge == background[:, :, None, None]).all()


def test_boxes_are_tight_around_visible_pixels(scenes):
    pixels = visible(scenes)
    for scene, slot in torch.nonzero(present(scenes))[:200].tolist():
        y, x = torch.nonzero(pixels[scene, slot], as_tuple=True)
        expected = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert scenes.boxes[scene, slot].tolist() == expected
    assert not scenes.boxes[~present(scenes)].any()


def test_visible_pixels_inside_have_the_colour_of_their_sprite(scenes):
    colours = torch.from_numpy(scenes.factors["colour"])
    checked, masks = 0, visible(scenes)
    for scene, slot in torch.nonzero(present(scenes))[:200].tolist():
        mask = masks[scene, slot].float()[None, None]
        # Pixels whose neighbours are all of the same sprite have no edge in them.
        inner = -torch.nn.functional.max_pool2d(-mask, 3, 1, 1)[0, 0] > 0
        inner[[0, -1]] = False
        pixels = scenes.images[scene][:, inner].float()
        if pixels.shape[1]:
            expected = 255 * colours[scene, slot]
            # A corner of a sprite behind may end inside a pixel, so the median is compared.
            torch.testing.assert_close(pixels.median(1).values, expected, atol=1, rtol=0)
            checked += 1
    assert checked > 150


def test_colours_differ_from_the_background(scenes):
    colours, background = scenes.factors["colour"], scenes.factors["background"]
    difference = np.abs(colours - background[:, None]).max(-1)
    assert (difference[present(scenes).numpy()] >= multi_sprites.CONTRAST).all()
    corner = scenes.images[:, :, 0, 0].numpy()
    np.testing.assert_allclose(corner, 255 * background, atol=0.51)


def test_backgrounds_are_grey_or_coloured():
    grey, coloured = (
        multi_sprites.sample(30, seed=0, coloured=coloured).factors["background"]
        for coloured in (False, True)
    )
    assert (grey == grey[:, :1]).all()
    assert np.ptp(coloured, axis=1).mean() > 0.3
    assert np.ptp(grey[:, 0]) > 0.5


def test_factors_of_absent_sprites_are_empty(scenes):
    absent = ~present(scenes).numpy()
    for name in multi_sprites.FACTORS:
        values = scenes.factors[name][absent]
        assert (values == np.zeros((), values.dtype)).all()
    shapes = scenes.factors["shape"][~absent]
    assert sorted(set(shapes.tolist())) == sorted(sprites.SHAPES)


def test_a_scene_is_drawn_again_from_its_factors(scenes):
    drawing = multi_sprites.draw(scenes.factors, scenes.counts.numpy())
    np.testing.assert_array_equal(drawing.images, scenes.images)
    np.testing.assert_array_equal(drawing.masks, scenes.masks)


def test_the_last_sprite_is_in_front():
    both = {
        "shape": np.array([["square", "square"]]),
        "scale": np.array([[1.0, 0.5]], dtype=np.float32),
        "orientation": np.zeros((1, 2), dtype=np.float32),
        "x": np.full((1, 2), 32, dtype=np.float32),
        "y": np.full((1, 2), 30, dtype=np.float32),
        "colour": np.array([[[1, 0, 0], [0, 1, 0]]], dtype=np.float32),
        "background": np.full((1, 3), 0.2, dtype=np.float32),
    }
    drawing = multi_sprites.draw(both, np.array([2]))
    assert drawing.masks[0, 30, 32] == 2
    assert drawing.images[0, :, 30, 32].tolist() == [0, 255, 0]
    assert drawing.boxes[0].tolist() == [[22, 20, 42, 40], [27, 25, 37, 35]]
    # Sides of 20 and 10 pixels.
    assert drawing.visible[0].tolist() == [300, 100]
    # Where edges end between pixels, colours are mixed.
    half = both | {"x": both["x"] + np.float32(0.5), "scale": both["scale"][:, ::-1].copy()}
    one = multi_sprites.draw(half, np.array([1]))
    assert one.images[0, :, 30, 27].tolist() == [153, 26, 26]


def test_other_counts():
    scenes = multi_sprites.sample(30, seed=0, counts=[0, 7])
    assert set(scenes.counts.tolist()) == {0, 7}
    assert scenes.boxes.shape == (30, 7, 4)
    assert not scenes.masks[scenes.counts == 0].any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n": 0}, ("0 scenes", "1 or more")),
        ({"counts": []}, ("counts has no number",)),
        ({"counts": [256]}, ("256 sprites", "255")),
        ({"counts": [40]}, ("40 sprites hardly ever", "lower counts")),
    ],
)
def test_scenes_that_cannot_be_drawn_are_refused(arguments, words, monkeypatch):
    monkeypatch.setattr(multi_sprites, "TRIES", 60)
    with refused(*words):
        multi_sprites.sample(**({"n": 10, "seed": 0} | arguments))


def test_other_methods_get_images_without_labels(monkeypatch):
    from train.data import catalogue

    drawn = []

    def few(n, seed):
        drawn.append((n, seed))
        return multi_sprites.sample(20, seed)

    entry = catalogue._drawn_scenes("few", few)
    monkeypatch.setitem(catalogue.CATALOGUE, "few", entry)
    split = datasets.load("few", Path("data"), "test")
    assert drawn == [(10_000, 0), (2_000, 1)]
    assert split.train.labels is None
    assert split.train.images.shape == (20, 3, SIDE, SIDE)
    assert set(split.train.columns["counts"].tolist()) <= {2, 3, 4, 5}
    with refused("no labels", "--label-column", "counts"):
        split.train.require_labels()
