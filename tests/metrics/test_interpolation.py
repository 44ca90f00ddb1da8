"""Measures of interpolations, on ones that are perfect, blends, and jumps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyro_models.ae import Autoencoder
from train.data.drawn import lines
from train.metrics.interpolation import interpolate, judge, measure, nearest_lines, smoothness

STEPS = 16


def draw(angles: Tensor) -> Tensor:
    """Lines with a channel axis."""
    return lines.draw(angles).unsqueeze(-3)


def pairs(n: int = 20) -> tuple[Tensor, Tensor]:
    """Angles of both ends, less than half a turn apart."""
    torch.manual_seed(0)
    start = 2 * math.pi * torch.rand(n)
    return start, start + torch.linspace(0.5, 2.5, n) * torch.randn(n).sign()


def test_perfect_interpolations():
    start, end = pairs()
    between = torch.lerp(start[:, None], end[:, None], torch.linspace(0, 1, STEPS))
    found = judge(draw(between))
    assert found.mean_distance < 1e-4
    assert abs(found.smoothness) < 0.01


def test_blends_are_not_lines_and_jump():
    start, end = pairs()
    share = torch.linspace(0, 1, STEPS)[:, None, None, None]
    found = judge(torch.lerp(draw(start)[:, None], draw(end)[:, None], share))
    assert found.mean_distance > 0.005
    # Nearest is first the one line and then the other.
    assert found.smoothness > 0.7


def test_a_jump_between_lines():
    start, end = pairs()
    found = judge(draw(torch.where(torch.arange(STEPS) < 5, start[:, None], end[:, None])))
    assert found.mean_distance < 1e-4
    assert found.smoothness == pytest.approx(1 - 1 / (STEPS - 1), abs=0.01)


def test_smoothness_knows_of_turns():
    angles = np.array([[6.0, 6.2, 0.1168, 0.3168], [0.0, 0.1, 0.2, 0.9], [1.0, 2.0, 2.0, 1.0]])
    smooth, rough, none = smoothness(angles)
    assert smooth == pytest.approx(0, abs=1e-3)
    assert rough == pytest.approx(0.7 / 0.9 - 1 / 3)
    assert np.isnan(none)


def test_the_nearest_line_is_itself():
    angles = torch.tensor([0.1, 1.0, 3.0, 6.2])
    distances, nearest = nearest_lines(draw(angles))
    assert distances.max() < 1e-5
    np.testing.assert_allclose(nearest, angles, atol=2 * math.pi / 10_000)


@pytest.mark.parametrize("channels", [1, 3])
def test_interpolating_is_straight_in_the_code(channels):
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Flatten(), nn.Identity())
    same = Autoencoder(flat, nn.Unflatten(1, (channels, 4, 4)), (channels, 4, 4))
    one, other = torch.rand(2, 6, channels, 4, 4)
    found = interpolate(same, one, other, 5)
    assert found.shape == (6, 5, channels, 4, 4)
    torch.testing.assert_close(found[:, 0], one)
    torch.testing.assert_close(found[:, 4], other)
    torch.testing.assert_close(found[:, 1], 0.75 * one + 0.25 * other)


def test_blended_lines_are_measured():
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Flatten(), nn.Identity())
    drawn = draw(2 * math.pi * torch.rand(40))
    same = Autoencoder(flat, nn.Unflatten(1, (1, 32, 32)), (32, 32))
    assert measure(same, drawn, pairs=20).mean_distance > 0.005
