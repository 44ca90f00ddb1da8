"""Objects of AIR that keep apart: the factor, the sums over counts, and draws from the prior."""

from __future__ import annotations

import itertools

import pyro
import pytest
import torch

from guides.air import ConvolutionalGuide, ResidualGuide, model_and_guide
from pyro_models.air import AIR
from pyro_models.boxes import inside
from pyro_models.networks import boxes
from tests.estimators.exact import require_exact_sum
from train.estimators import MarginalELBO


def test_the_part_of_the_smaller_box(double):
    """Counted in pixels; the mutation: a part of the union, or of the larger box."""
    torch.manual_seed(0)
    corners = torch.randint(0, 12, (50, 2, 2, 2)).sort(dim=-2).values
    corners[..., 1, :] += 1
    first, second = corners.flatten(-2).double().unbind(1)
    for a, b, part in zip(first.tolist(), second.tolist(), inside(first, second), strict=True):
        pixels = [
            {p for p in itertools.product(range(14), range(14)) if _holds(box, p)} for box in (a, b)
        ]
        common = len(pixels[0] & pixels[1])
        assert part.item() == pytest.approx(common / min(map(len, pixels)))


def _holds(box, pixel):
    return box[0] <= pixel[0] < box[2] and box[1] <= pixel[1] < box[3]


@pytest.mark.parametrize("guide_class", [ResidualGuide, ConvolutionalGuide])
def test_the_count_is_summed_out_exactly(small_air, guide_class):
    """Pyro's enumeration has the same value and gradient.

    The mutation: the factor of an absent object, or of pairs in which one is absent.
    """
    air = small_air(guide_class, repulsion=20.0)
    loss = require_exact_sum(air)
    # It is part of the loss.
    air.model.repulsion = 0.0
    pyro.set_rng_seed(1)
    without = MarginalELBO(analytic=False).differentiable_loss(*air)
    assert without < loss - 0.1


def test_the_factor_is_that_of_the_boxes(double):
    torch.manual_seed(0)
    model = AIR((20, 30), repulsion=7.0, square_windows=True)
    places = torch.randn(3, 5, 3) * 0.3 + torch.tensor([0.9, 0.0, 0.0])
    first, second, third = places
    sides = [boxes(z, (20, 30), square=True) for z in places]
    wanted = -7 * (inside(sides[2], sides[0]) ** 2 + inside(sides[2], sides[1]) ** 2)
    torch.testing.assert_close(model.log_apart(third, [first, second]), wanted)
    assert wanted.min() < -0.1
    # A window inside another one costs all of it, however small it is.
    outer, inner = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([1.5, 0.3, 0.3])
    torch.testing.assert_close(model.log_apart(inner, [outer]), torch.tensor(-7.0))


def test_scenes_of_the_prior_keep_apart():
    """The mean overlap of draws is that of draws without repulsion, weighed by its factors.

    The mutation: draws without it, or with a factor's square root.
    """
    torch.manual_seed(0)
    options = {"max_objects": 2, "window_size": 4, "what_dim": 2, "hidden": 4}
    options |= {"where_loc": (2.0, 0.0, 0.0), "where_scale": (0.2, 0.6, 0.6)}
    apart, free = (AIR((12, 12), repulsion=value, **options) for value in (6.0, 0.0))

    def overlaps(scenes):
        first, second = scenes.boxes.unbind(1)
        return inside(first, second)

    kept = overlaps(apart.sample(4_000, 2))
    drawn = overlaps(free.sample(20_000, 2))
    # Boxes are clipped to the canvas, so the weights come from the windows themselves.
    torch.manual_seed(1)
    scenes, log_apart = apart._draw_scenes(20_000, 2)
    weights = log_apart.exp()
    values = overlaps(scenes)
    wanted = (weights * values).sum() / weights.sum()
    error = kept.std() / len(kept) ** 0.5
    error = error.hypot((weights * (values - wanted)).std() / weights.mean() / 20_000**0.5)
    assert (kept.mean() - wanted).abs() < 4 * error
    assert kept.mean() < drawn.mean() - 0.1


def test_objects_that_have_no_room_are_refused(monkeypatch):
    monkeypatch.setattr("pyro_models.air.MOST_ROUNDS", 5)
    model = AIR((12, 12), max_objects=3, where_loc=(1.0, 0.0, 0.0), repulsion=1e4)
    with pytest.raises(ValueError, match="draw fewer objects"):
        model.sample(3, 3)
    assert model.sample(3, 1).counts.tolist() == [1, 1, 1]


def test_a_negative_repulsion_is_refused():
    with pytest.raises(ValueError, match="repulsion is -1"):
        model_and_guide((20, 20), repulsion=-1.0)
