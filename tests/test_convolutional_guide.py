"""AIR's convolutional guide: any canvas, any number of objects, and no state."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from pyro import poutine

from guides.air import ConvolutionalGuide, model_and_guide
from guides.cells import between, cells, pools, window_sides
from pyro_models.air import AIR
from pyro_models.presence import FixPresence, all_present
from train.estimators import MarginalELBO, MeanFieldELBO

SIZES = pytest.mark.parametrize("sizes", [1, 3])


def pair(sides, max_objects=3, seed=0, sizes=1):
    """A model and guide whose windows have a median of 12 pixels, with random weights."""
    torch.manual_seed(seed)
    scale = min(sides) / 12
    spread = 0.1 if sizes == 1 else 0.36
    options = {"window_scale": (scale, spread * scale), "place_scale": scale / 2}
    options |= {"window_size": 12, "what_dim": 4, "what_hidden": 16, "max_objects": max_objects}
    model, guide = model_and_guide(sides, guide="convolutional", guide_sizes=sizes, **options)
    generator = torch.Generator().manual_seed(seed)
    for parameter in [*guide.head.parameters(), *guide.choice.parameters()]:
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model, guide


@pytest.fixture(scope="module")
def digit():
    torch.manual_seed(3)
    return torch.rand(12, 12)


def scene(sides, corners, image):
    canvas = torch.zeros(1, 1, *sides)
    for row, column in corners:
        canvas[..., row : row + 12, column : column + 12] += image
    return canvas


@SIZES
def test_no_weight_has_the_size_of_the_canvas_or_the_number_of_objects(sizes):
    """The mutation: a dense layer over the canvas, or a weight for each step."""
    model, guide = pair((48, 48), sizes=sizes)
    larger, wide = pair((60, 90), max_objects=9, seed=1, sizes=sizes)
    larger.load_state_dict(model.state_dict())
    wide.load_state_dict(guide.state_dict())


@SIZES
@pytest.mark.parametrize("sides", [(64, 64), (64, 88), (88, 64)])
def test_an_object_is_found_in_the_same_place_of_a_larger_canvas(digit, sides, sizes):
    """The mutation: corrections, deviations or inks in units of the canvas."""
    model, guide = pair((48, 48), sizes=sizes)
    larger, wide = pair(sides, sizes=sizes)
    larger.load_state_dict(model.state_dict())
    wide.load_state_dict(guide.state_dict())
    # Moved by a multiple of the cells, so that the grid is the same around the object.
    step = 2 * guide.pools[-1]
    move = [(side - 48) // 2 // step * step for side in sides]
    small = guide.detect(scene((48, 48), [(18, 19)], digit))
    moved = wide.detect(scene(sides, [(18 + move[0], 19 + move[1])], digit))
    windows = small.windows[0, 0] + torch.tensor([move[1], move[0]] * 2)
    assert small.counts.item() > 0
    torch.testing.assert_close(moved.windows[0, 0], windows, atol=1e-3, rtol=0)
    torch.testing.assert_close(moved.z_what[0, 0], small.z_what[0, 0], atol=1e-3, rtol=0)
    p = [1 - found.probabilities[0, 0] for found in (small, moved)]
    torch.testing.assert_close(*p, atol=1e-3, rtol=0)


@SIZES
def test_a_step_depends_on_what_is_left_alone(digit, sizes):
    """The second step on a scene is the first one on what the first has left of it.

    The mutation: a hidden state, or the number of the step as an input.
    """
    _, guide = pair((48, 48), sizes=sizes)
    images = scene((48, 48), [(5, 6), (28, 25)], digit)
    with FixPresence(all_present), torch.no_grad():
        nodes = poutine.trace(guide).get_trace(images).nodes
        left = images - guide.model.paste(nodes["z_what_0"]["value"], nodes["z_where_0"]["value"])
        again = poutine.trace(guide).get_trace(left).nodes
    for name in ("loc", "scale", "centre", "spread"):
        second, first = (
            getattr(trace[site]["fn"], name)
            for trace, site in ((nodes, "z_where_1"), (again, "z_where_0"))
        )
        torch.testing.assert_close(second, first)
    presences = nodes["z_pres_1"]["fn"].logits, again["z_pres_0"]["fn"].logits
    torch.testing.assert_close(*presences)


def test_ink_is_the_mean_of_a_window():
    """The mutation: a sum, or a mean over the part of the window that is on the canvas."""
    side, pool, windows = 21, 2, [9.0, 4.5]
    grid, above, beside = cells((side, side + 6), pool, windows)
    pooled = torch.zeros(11, 14).double()
    pooled[3, 4] = 1
    ink = above.double() @ pooled @ beside.double().mT
    assert grid.shape == (6 * 7, 2)
    assert ink.shape == (2, 6, 7)
    centre = (torch.arange(6) * 4 + 1, torch.arange(7) * 4 + 1)
    for size, row, column in itertools.product(range(2), range(6), range(7)):
        window, parts = windows[size], []
        for axis, first in ((centre[0][row], 6), (centre[1][column], 8)):
            low, high = axis - window / 2, axis + window / 2
            parts.append(max(0, min(high, first + 2) - max(low, first)))
        assert ink[size, row, column].item() == pytest.approx(parts[0] * parts[1] / window**2)
    # In halves of the shorter side, from the centre.
    assert grid[0].tolist() == pytest.approx([(2 - 27) / 21, (2 - 21) / 21])


@pytest.mark.parametrize("composition", ["over", "mixture"])
def test_opaque_objects_of_several_sizes_are_found_on_any_canvas(composition):
    """The mutation: the colour of what is covered is not averaged for large windows."""
    options = {"background": "constant", "composition": composition, "guide_sizes": 3}
    options |= {"max_objects": 2, "window_size": 8, "what_hidden": 16, "guide": "convolutional"}
    torch.manual_seed(0)
    model, guide = model_and_guide((3, 48, 48), window_scale=(4.0, 1.44), **options)
    larger, wide = model_and_guide((3, 72, 60), window_scale=(5.0, 1.8), **options)
    larger.load_state_dict(model.state_dict())
    wide.load_state_dict(guide.state_dict())
    image = torch.full((1, 3, 72, 60), 0.7)
    image[..., 20:40, 16:36] = 0.1
    found = wide.detect(image)
    assert found.masks.shape == (1, 2, 72, 60)
    centre = (found.windows[0, 0, :2] + found.windows[0, 0, 2:]) / 2
    assert (centre - torch.tensor([26.0, 30.0])).abs().max() < 4
    loss = MarginalELBO().differentiable_loss(larger, wide, image)
    loss.backward()
    assert all(weight.grad.isfinite().all() for weight in wide.parameters())


def test_maps_of_coarser_cells_are_interpolated():
    """A linear function of the place stays one; the mutation: cells off by half a pixel."""
    rows, columns = between((40, 52), 1, 3)
    coarse = torch.arange(0, 14, 2) * 3 + 1.5, torch.arange(0, 18, 2) * 3 + 1.5
    fine = torch.arange(0, 40, 2) + 0.5, torch.arange(0, 52, 2) + 0.5
    maps = 2 * coarse[0][:, None] - 3 * coarse[1]
    assert rows.shape == (20, 7)
    assert columns.shape == (26, 9)
    within = [at.clamp(c[0], c[-1]) for at, c in zip(fine, coarse, strict=True)]
    wanted = 2 * within[0][:, None] - 3 * within[1]
    torch.testing.assert_close(rows @ maps @ columns.mT, wanted)


def test_sizes_of_windows_are_between_those_of_objects():
    assert window_sides(20.0, 0.04, 1) == [20.0]
    sides = window_sides(12.0, math.log(3.5) / math.sqrt(12), 3)
    assert sides == pytest.approx([12 / 3.5**0.5, 12, 12 * 3.5**0.5])
    assert pools(sides) == [1, 2]
    assert pools([10.0, 20.0, 40.0]) == [1, 2, 4]


def test_windows_of_several_sizes_begin_large(digit):
    """Not as a part of their object, whose rest others would draw.

    The mutation: they begin at the median, or at the smallest size.
    """
    _, guide = model_and_guide(
        (60, 60), guide="convolutional", window_scale=(5, 1.8), window_size=12, guide_sizes=3
    )
    found = guide.detect(scene((60, 60), [(30, 20)], digit))
    side = found.windows[0, 0, 2:] - found.windows[0, 0, :2]
    assert (side > 18).all()
    assert (side < 24).all()


def test_objects_are_first_where_ink_is(digit):
    """Untrained, the guide puts its first window on the only object."""
    _, guide = model_and_guide(
        (60, 60), guide="convolutional", window_scale=(5, 0.2), window_size=12
    )
    found = guide.detect(scene((60, 60), [(30, 8)], digit))
    centre = (found.windows[0, 0, :2] + found.windows[0, 0, 2:]) / 2
    assert (centre - torch.tensor([14.0, 36.0])).abs().max() < 3
    assert found.probabilities[0, 0] < 0.1
    assert guide.detect(torch.zeros(1, 1, 60, 60)).counts.item() == 0


@SIZES
@pytest.mark.parametrize("estimator", [MarginalELBO(), MeanFieldELBO()])
def test_every_weight_gets_a_gradient(digit, estimator, sizes):
    model, guide = pair((48, 48), sizes=sizes)
    images = scene((48, 48), [(5, 6), (28, 25)], digit)
    loss = estimator.differentiable_loss(model, guide, images)
    loss.backward()
    for name, parameter in [*model.named_parameters(), *guide.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_windows_of_the_canvas_aspect_are_refused():
    model = AIR((20, 30), square_windows=False)
    with pytest.raises(ValueError, match="square_windows"):
        ConvolutionalGuide(model)
