"""Default sizes of AIR's windows follow the sizes of scenes and objects."""

from __future__ import annotations

import pytest

from pyro_models.shapes import Shape
from train.data.composition import Rules
from train.settings.air import AIRSettings
from train.windows import LARGEST_WINDOW, MOST_ANCHORS, with_windows

NAMES = ("window_size", "window_scale", "what_dim", "anchors")


def test_default_scenes_have_the_published_sizes():
    settings = with_windows(AIRSettings(), Shape(1, 50, 50), (24, 24))
    assert settings.select(*NAMES) == {
        "window_size": 24,
        "window_scale": (2.6, 0.1),
        "what_dim": 20,
        "anchors": 9,
    }


def test_chosen_sizes_stay():
    chosen = {"window_size": 7, "window_scale": (1.5, 0.2), "what_dim": 3, "anchors": 0}
    settings = with_windows(AIRSettings(**chosen), Shape(3, 256, 64), (10, 30))
    assert settings.select(*NAMES) == chosen
    assert with_windows(settings, Shape(1, 8, 8)) == settings


@pytest.mark.parametrize("factor", [0.5, 2, 4])
def test_scenes_and_digits_at_scale_have_the_same_prior(factor):
    small = with_windows(AIRSettings(), Shape(1, 50, 50), (20, 24))
    side = int(50 * factor)
    large = with_windows(AIRSettings(), Shape(1, side, side), (20 * factor, 24 * factor))
    assert large.window_scale == pytest.approx(small.window_scale, abs=0.011)
    assert large.anchors == small.anchors
    assert large.window_size == min(24 * factor, LARGEST_WINDOW)


def test_the_same_digits_on_a_larger_canvas_have_a_larger_inverse_scale():
    sizes = {
        side: with_windows(AIRSettings(), Shape(1, side, side), (24, 24)) for side in (50, 84, 256)
    }
    for side, settings in sizes.items():
        # A window has the same number of pixels on every canvas.
        assert side / settings.window_scale[0] == pytest.approx(50 / 2.6, rel=2e-3)
        assert settings.window_size == 24
    assert sizes[50].anchors < sizes[84].anchors < sizes[256].anchors == MOST_ANCHORS


def test_objects_of_many_sizes_have_a_wide_prior():
    one, many = (
        with_windows(AIRSettings(), Shape(1, 50, 50), sizes).window_scale
        for sizes in ((12, 12), (6, 24))
    )
    assert one[0] == many[0]
    assert many[1] > 5 * one[1]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 40), (1, 256, 256), (3, 256, 31)])
def test_unknown_objects_have_windows_inside_the_scene(shape):
    settings = with_windows(AIRSettings(), Shape(*shape))
    assert 4 <= settings.window_size <= max(4, min(shape[1:]))
    assert settings.window_scale == (2.6, 0.1)
    assert settings.what_dim >= 20 + 10 * (shape[0] == 3)


@pytest.mark.parametrize(
    ("shrink", "sizes"), [((1.0, 0.0), (28, 28)), ((1.4, 0.0), (20, 20)), ((1.0, 1.0), (14, 50))]
)
def test_shrunk_digits_have_their_usual_sizes(shrink, sizes):
    rules = Rules(50, 2, (24, 24), shrink, "apart")
    assert rules.usual_sizes(28) == pytest.approx(sizes)
