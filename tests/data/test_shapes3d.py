"""Rooms with an object show their factors."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from matplotlib.colors import rgb_to_hsv

from tests.data.refusals import refused
from train.data.drawn import shapes3d

USUAL = {
    **{"floor_hue": 0.6, "wall_hue": 0.1, "object_hue": 0.35},
    **{"scale": 1.0, "shape": "cube", "orientation": 0.0},
}
COLUMNS = ["shape", "floor_hue", "wall_hue", "object_hue", "scale", "orientation"]


def drawn(**changed):
    return shapes3d.draw(**(USUAL | changed))


def hues_of(images):
    """The hue of every pixel, (M, 64, 64)."""
    return rgb_to_hsv(images.permute(0, 2, 3, 1).numpy() / 255)[..., 0]


def covered(images, hue):
    """Whether each pixel is of a hue, (M, 64, 64)."""
    return np.abs(hues_of(images) - hue) < 0.01


@pytest.fixture(scope="module")
def timed_split():
    """All images, and the time of the processor that they took, in seconds."""
    start = time.process_time()
    split = shapes3d.split()
    return split, time.process_time() - start


@pytest.fixture(scope="module")
def images(timed_split):
    return timed_split[0].train


@pytest.mark.parametrize(
    ("factor", "row", "column"),
    [("floor_hue", 62, 8), ("wall_hue", 2, 32), ("object_hue", 36, 31)],
)
def test_the_hues_of_floor_wall_and_object_are_the_factors(images, factor, row, column):
    pixels = hues_of(images.images[:, :, row, column, None, None])[:, 0, 0]
    gap = (pixels - images.columns[factor] + 0.5) % 1 - 0.5
    assert np.abs(gap).max() < 0.01


@pytest.mark.parametrize("shape", shapes3d.SHAPES)
def test_scale_enlarges_the_object(shape):
    scales = np.linspace(0.75, 1.25, 8)
    area = covered(drawn(shape=shape, scale=scales), 0.35).sum((1, 2))
    assert (np.diff(area) > 0).all()
    # Somewhat more than the square of the ratio of scales, as its front comes closer.
    assert 2.5 < area[-1] / area[0] < 3.8


@pytest.mark.parametrize("shape", shapes3d.SHAPES)
def test_the_object_stands_in_the_middle(shape):
    rows, columns = np.nonzero(covered(drawn(shape=shape), 0.35)[0])
    assert 31 <= (columns.min() + columns.max()) / 2 <= 32
    assert 0 < rows.min() < rows.max() < 63


def test_shapes_differ():
    images = drawn(shape=list(shapes3d.SHAPES)).double()
    for i in range(4):
        for j in range(i):
            assert (images[i] - images[j]).abs().mean() > 2


def test_a_sphere_is_as_wide_as_high_and_a_pill_is_not():
    sides = {}
    for shape in ("sphere", "pill"):
        rows, columns = np.nonzero(covered(drawn(shape=shape), 0.35)[0])
        sides[shape] = (np.ptp(rows) + 1, np.ptp(columns) + 1)
    assert abs(sides["sphere"][0] - sides["sphere"][1]) <= 3
    assert sides["pill"][0] > 1.5 * sides["pill"][1]


def test_orientation_moves_the_corner_of_the_room():
    """The corner of back wall and left wall is where the wall gets darker, in the upper row."""
    images = drawn(orientation=[10.0, 20.0, 30.0], shape="pill")
    brightness = images[:, :, 2].amax(1).int()
    corners = brightness.diff(dim=1).argmax(1).tolist()
    assert 0 < corners[0] < corners[1] < corners[2] < 32


def test_opposite_orientations_show_mirrored_rooms():
    """All but the light is symmetrical."""
    left, right = covered(drawn(orientation=[-20.0, 20.0], shape="sphere"), 0.1)
    assert (left != right[:, ::-1]).mean() < 0.005
    assert (left != right).mean() > 0.01


def test_form_is_shaded():
    """A sphere is brighter on top than below, and casts a shadow on the floor."""
    image = drawn(shape="sphere", scale=1.25).amax(1)[0].int()
    rows, columns = np.nonzero(covered(drawn(shape="sphere", scale=1.25), 0.35)[0])
    middle = int(columns.mean())
    assert image[rows.min() + 4, middle] > image[rows.max() - 2, middle] + 50
    floor = drawn(shape="sphere").amax(1)[0][covered(drawn(shape="sphere"), 0.6)[0]].int()
    assert (floor < 0.8 * floor.max()).sum() > 20


def test_edges_are_smooth():
    """The outline of an object has pixels between its colour and that of the wall."""
    mixed = hues_of(drawn(shape="sphere"))[0]
    between = (np.abs(mixed - 0.35) > 0.02) & (np.abs(mixed - 0.1) > 0.02)
    between &= np.abs(mixed - 0.6) > 0.02
    assert 20 < between.sum() < 300


class TestSample:
    def test_columns(self, images):
        assert images.images.shape == (10_000, 3, 64, 64)
        assert images.images.dtype == torch.uint8
        assert list(images.columns) == COLUMNS
        assert images.values.tolist() == images.columns["shape"].tolist()
        for name, count in zip(COLUMNS, (4, 10, 10, 10, 8, 15), strict=True):
            values, counts = np.unique(images.columns[name], return_counts=True)
            assert len(values) == count
            assert counts.max() - counts.min() <= 1
        assert images.columns["orientation"].min() == -30
        assert images.columns["floor_hue"].dtype == np.float64

    def test_images_are_of_their_factors(self, images):
        rows = torch.arange(0, 10_000, 1_000)
        columns = images.select(rows).columns
        assert torch.equal(shapes3d.draw(**columns), images.images[rows])

    def test_the_seed_determines_the_images(self):
        first = shapes3d.sample(4, seed=0).images
        assert torch.equal(first, shapes3d.sample(4, seed=0).images)
        assert not torch.equal(first, shapes3d.sample(4, seed=1).images)

    def test_no_image_is_held_out_and_trained_on(self, timed_split):
        train, held_out = timed_split[0]
        assert len(held_out) == 2_000
        both = torch.cat([train.images, held_out.images])
        assert len({image.numpy().tobytes() for image in both}) == 12_000

    def test_images_can_be_left_out(self):
        first = shapes3d.sample(12, seed=0)
        other = shapes3d.sample(12, seed=0, apart_from=first)
        pairs = zip(*(zip(*x.columns.values(), strict=True) for x in (first, other)), strict=True)
        assert all(left != right for left, right in pairs)

    def test_twelve_thousand_images_take_less_than_a_minute(self, timed_split):
        # Of the processor, so that other processes do not matter; 6 seconds is usual.
        assert timed_split[1] < 60


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"shape": "cone"}, ("shape is 'cone'", "cube, cylinder, pill, sphere")),
        ({"floor_hue": 1.2}, ("floor_hue is 1.2", "0 to 1")),
        ({"wall_hue": -0.1}, ("wall_hue is -0.1", "0 to 1")),
        ({"object_hue": "red"}, ("object_hue is of type", "0 to 1")),
        ({"scale": 2}, ("scale is 2", "0.5 to 1.5")),
        ({"orientation": 60}, ("orientation is 60", "-45 to 45")),
        ({"scale": [1, 1], "shape": ["cube"] * 3}, ("scale (2,)", "shape (3,)")),
    ],
)
def test_bad_factors_are_refused(changed, words):
    with refused(*words):
        drawn(**changed)
