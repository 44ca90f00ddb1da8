"""Sprites show their factors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.colors import rgb_to_hsv

from tests.data.refusals import refused
from train.data.drawn import hues, sprites

CENTRE = {"scale": 1.0, "orientation": 0.0, "x": 0.5, "y": 0.5}


def drawn(shape="heart", **changed):
    """Sprites as brightness in [0, 1], (M, 64, 64)."""
    return sprites.draw(shape, **(CENTRE | changed))[:, 0].double() / 255


def centroid(images):
    """The (x, y) of the mean of the ink, in pixels from the upper left corner, (M, 2)."""
    centres = torch.arange(64, dtype=torch.float64) + 0.5
    ink = images.sum((1, 2))
    return torch.stack(
        [(images.sum(1) * centres).sum(1) / ink, (images.sum(2) * centres).sum(1) / ink], dim=1
    )


@pytest.mark.parametrize("shape", sprites.SHAPES)
def test_position_moves_the_centroid(shape):
    x, y = np.random.default_rng(0).random((2, 50))
    images = drawn(shape, x=x, y=y, scale=0.7, orientation=np.arange(50) * 7)
    expected = 16 + 32 * torch.from_numpy(np.stack([x, y], axis=1))
    torch.testing.assert_close(centroid(images), expected, atol=0.1, rtol=0)


@pytest.mark.parametrize("shape", sprites.SHAPES)
def test_area_grows_with_the_square_of_scale_and_not_with_orientation(shape):
    scales = np.repeat([0.5, 0.7, 1.0], 30)
    ink = drawn(shape, scale=scales, orientation=np.tile(np.arange(30) * 12, 3)).sum((1, 2))
    area = ink / torch.from_numpy(scales) ** 2
    assert (area / area.mean() - 1).abs().max() < 0.03
    assert area.mean() == pytest.approx(400, rel=0.03)


def test_orientation_turns_counter_clockwise():
    images = drawn(orientation=[0.0, 90.0, 180.0, 270.0, 360.0])
    for i in range(4):
        turned = images[i].rot90(1)
        torch.testing.assert_close(turned, images[i + 1], atol=1e-2, rtol=0)
    assert (images[0] - images[2]).abs().sum() > 100


@pytest.mark.parametrize(("shape", "period"), [("square", 90), ("ellipse", 180), ("heart", 360)])
def test_orientation_repeats_after_the_period_of_the_shape(shape, period):
    images = drawn(shape, orientation=np.array([20.0, 20 + period / 2, 20 + period % 340]))
    assert (images[0] - images[1]).abs().sum() > 20
    assert period == 360 or (images[0] - images[2]).abs().sum() < 1


def test_a_square_covers_whole_pixels():
    expected = torch.zeros(64, 64, dtype=torch.float64)
    expected[22:42, 22:42] = 1
    assert torch.equal(drawn("square")[0], expected)


def test_small_rotations_change_an_image_little():
    """Outlines are anti-aliased; otherwise they would jump from pixel to pixel."""
    images = drawn("square", orientation=np.linspace(0, 90, 900))
    steps = (images[1:] - images[:-1]).square().sum((1, 2))
    assert steps.mean() > 0
    assert steps.max() < 10 * steps.mean()


@pytest.mark.parametrize("shape", sprites.SHAPES)
def test_no_shape_is_cut_off(shape):
    corner = {"x": 0.0, "y": 1.0, "orientation": np.arange(0, 360, 5.0)}
    images = drawn(shape, **corner)
    edges = [images[:, 0], images[:, -1], images[..., 0], images[..., -1]]
    assert sum(edge.sum() for edge in edges) == 0


def test_colour_is_the_hue_of_all_ink():
    names = list(sprites.COLOURS)
    images = sprites.draw("heart", **CENTRE, colour=names)
    assert images.shape == (6, 3, 64, 64)
    grey = sprites.draw("heart", **CENTRE)
    for image, name in zip(images, names, strict=True):
        assert torch.equal(image.amax(0), grey[0, 0])
        ink = image[:, grey[0, 0] == 255].T.numpy() / 255
        gap = rgb_to_hsv(ink)[:, 0] - hues.COLOURS[name]
        assert np.abs(gap).max() < 1e-9


class TestSample:
    @pytest.mark.parametrize("coloured", [False, True])
    def test_columns(self, coloured):
        images = sprites.sample(240, seed=0, coloured=coloured)
        channels, names = (3, ["colour"]) if coloured else (1, [])
        assert images.images.shape == (240, channels, 64, 64)
        assert images.images.dtype == torch.uint8
        assert list(images.columns) == ["shape", "scale", "orientation", "x", "y", *names]
        assert images.values.tolist() == images.columns["shape"].tolist()
        assert np.unique(images.columns["shape"], return_counts=True)[1].tolist() == [80] * 3
        assert set(images.columns["orientation"]) == set(range(0, 360, 9))
        assert images.columns["x"].dtype == np.float64
        assert torch.equal(sprites.draw(**images.columns), images.images)

    def test_no_image_repeats_or_is_in_both_samples(self):
        first = sprites.sample(3_000, seed=0)
        second = sprites.sample(1_000, seed=1, apart_from=first)
        both = torch.cat([first.images, second.images])
        assert len({image.numpy().tobytes() for image in both}) == 4_000

    def test_the_seed_determines_the_images(self):
        first = sprites.sample(50, seed=0).images
        assert torch.equal(first, sprites.sample(50, seed=0).images)
        assert not torch.equal(first, sprites.sample(50, seed=1).images)

    def test_more_images_than_combinations_are_refused(self):
        with refused("92161 images", "give 1 to 92160"):
            sprites.sample(92_161, seed=0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"shape": "circle"}, ("shape is 'circle'", "ellipse, heart, square")),
        ({"scale": 1.2}, ("scale is 1.2", "0.25 to 1")),
        ({"orientation": -9.0}, ("orientation is -9", "0 to 360")),
        ({"x": 1.5}, ("x is 1.5", "0 to 1")),
        ({"y": np.nan}, ("y is nan", "0 to 1")),
        ({"colour": "pink"}, ("colour is 'pink'", "blue, cyan")),
        ({"x": [0.1, 0.2], "y": [0.1, 0.2, 0.3]}, ("x (2,)", "y (3,)")),
    ],
)
def test_bad_factors_are_refused(changed, words):
    with refused(*words):
        sprites.draw(**({"shape": "square"} | CENTRE | changed))
