"""Lines at any angle."""

from __future__ import annotations

import math

import pytest
import torch

from train.data.drawn.lines import SIZE, LineBatches, circle, draw, sample


@pytest.mark.parametrize(
    ("angle", "rows", "columns"),
    [
        (0, slice(15, 17), slice(16, 31)),
        (math.pi / 2, slice(1, 16), slice(15, 17)),
        (math.pi, slice(15, 17), slice(1, 16)),
        (-math.pi / 2, slice(16, 31), slice(15, 17)),
    ],
)
def test_lines_along_the_axes_cover_whole_pixels(angle, rows, columns):
    expected = torch.zeros(SIZE, SIZE)
    expected[rows, columns] = 1
    line = draw(torch.tensor(angle, dtype=torch.float64)).float()
    torch.testing.assert_close(line, expected, atol=1e-6, rtol=0)


def test_ink_is_the_same_at_all_angles():
    images = draw(circle(997).double())
    assert images.min() >= 0
    assert images.max() <= 1
    ink = images.sum((1, 2))
    # Lines are 2 pixels wide and 15 long.
    assert (ink / 30 - 1).abs().max() < 0.04


def test_small_rotations_change_an_image_little():
    """Lines are anti-aliased; otherwise they would jump from pixel to pixel."""
    images = draw(circle(3_000).double())
    steps = (images - images.roll(1, 0)).square().sum((1, 2))
    assert steps.max() < 10 * steps.mean()
    assert steps.min() > 0


def test_a_batch_depends_on_its_step_alone():
    batches, resumed = LineBatches(4, seed=3), LineBatches(4, seed=3)
    first = [batches(step)[0] for step in (0, 63, 64, 200)]
    for step, images in reversed(list(zip((0, 63, 64, 200), first, strict=True))):
        assert torch.equal(resumed(step)[0], images)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(LineBatches(4, seed=4)(0)[0], first[0])


def test_held_out_lines_do_not_change():
    images = sample(50).images
    assert images.dtype == torch.uint8
    assert torch.equal(images, sample(50).images)
    assert len(images.unique(dim=0)) == 50
