from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from pyro_models.networks import MLP, boxes, clipped_boxes, crop, interpolation, paste

pytestmark = pytest.mark.usefixtures("double")
CANVASES = pytest.mark.parametrize("sides", [(10, 10), (7, 12), (13, 6)])
CHANNELS = pytest.mark.parametrize("channels", [1, 3])


def places(*shape: int) -> Tensor:
    """Places with windows of all sizes, some of them over the canvas' edge."""
    spread = torch.tensor([0.4, 1.0, 1.0])
    return torch.tensor([math.log(2.0), 0.0, 0.0]) + spread * torch.randn(*shape, 3)


def sampled(source: Tensor, scale: Tensor, shift: Tensor, size: tuple[int, int]) -> Tensor:
    """PyTorch's spatial transformer: the target's point u shows the source's scale u + shift."""
    zero = torch.zeros_like(scale)
    rows = [[scale, zero, shift[:, 0]], [zero, scale, shift[:, 1]]]
    theta = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1)
    grid = F.affine_grid(theta, [*source.shape[:2], *size], align_corners=False)
    return F.grid_sample(source, grid, padding_mode="zeros", align_corners=False)


def compare(found: Tensor, wanted: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((out * weights).sum(), inputs) for out in (found, wanted)]
    assert all(gradient.any() for gradient in gradients[0])
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def aligned(left: int, top: int, side: int, canvas: int) -> Tensor:
    """The place of a window that covers whole pixels of a square canvas."""
    scale = canvas / side
    x, y = ((2 * start + side) / canvas - 1 for start in (left, top))
    return torch.tensor([math.log(scale), -scale * x, -scale * y])


@CANVASES
@CHANNELS
def test_crop_is_grid_sample(channels, sides):
    images = torch.randn(40, channels, *sides, requires_grad=True)
    z_where = places(40).requires_grad_()
    scale = torch.exp(-z_where[:, 0])
    wanted = sampled(images, scale, -z_where[:, 1:] * scale[:, None], (5, 5))
    compare(crop(images, z_where, 5), wanted, [images, z_where])


@CANVASES
@CHANNELS
def test_paste_is_grid_sample(channels, sides):
    windows = torch.randn(40, channels, 5, 5, requires_grad=True)
    z_where = places(40).requires_grad_()
    wanted = sampled(windows, torch.exp(z_where[:, 0]), z_where[:, 1:], sides)
    compare(paste(windows, z_where, sides), wanted, [windows, z_where])


@pytest.mark.parametrize(("left", "top"), [(0, 0), (1, 3), (4, 2)])
def test_crop_undoes_paste_on_whole_pixels(left, top):
    window, z_where = torch.randn(3, 4, 4), aligned(left, top, 4, 8)
    canvas = paste(window, z_where, (8, 8))
    wanted = torch.zeros(3, 8, 8)
    wanted[:, top : top + 4, left : left + 4] = window
    assert torch.equal(canvas, wanted)
    assert torch.equal(crop(canvas, z_where, 4), window)


def test_crop_undoes_paste_of_a_smooth_window():
    u = torch.linspace(-1, 1, 16)
    bump = torch.exp(-4 * u**2)
    window = (bump[:, None] * bump * (1 + 0.3 * u)).unsqueeze(0)
    z_where = torch.stack([torch.full((50,), math.log(2.3)), *torch.empty(2, 50).uniform_(-1, 1)])
    again = crop(paste(window, z_where.T, (64, 64)), z_where.T, 16)
    # Two bilinear interpolations smooth a peak of 1 by h^2 f'' / 4 with h = 2 / 16, f'' = 8 in
    # each of two directions, at most.
    assert (again - window).abs().max() < 2 * (2 / 16) ** 2 * 8 / 4
    assert (again - window).abs().mean() < 0.01


@pytest.mark.parametrize(("left", "top"), [(0, 0), (1, 3), (4, 2)])
def test_boxes_are_where_whole_pixels_land(left, top):
    z_where = aligned(left, top, 4, 8)
    assert boxes(z_where, (8, 8)).tolist() == [left, top, left + 4, top + 4]
    canvas = paste(torch.ones(1, 4, 4), z_where, (8, 8))[0]
    rows, columns = canvas.nonzero().T
    assert (columns.min(), rows.min()) == (left, top)
    assert (columns.max() + 1, rows.max() + 1) == (left + 4, top + 4)


def test_boxes_found_are_cut_off_at_the_edge_and_zero_where_nothing_is():
    # Over the left edge, over the bottom one, beside the canvas, and the whole of it.
    lefts, tops, sides = [-1, 5, 9, -2], [2, 7, 0, -2], [4, 4, 4, 14]
    z_where = torch.stack([aligned(*place, 9) for place in zip(lefts, tops, sides, strict=True)])
    inside = [[0, 2, 3, 6], [5, 7, 9, 9], [9, 0, 9, 4], [0, 0, 9, 9]]
    found = clipped_boxes(z_where.expand(3, 4, 3), (9, 9), torch.tensor([0, 2, 4]))
    wanted = torch.tensor([4 * [4 * [0]], inside[:2] + 2 * [4 * [0]], inside]).to(found)
    torch.testing.assert_close(found, wanted)


@CANVASES
def test_boxes_are_where_pixels_land(sides):
    sides = tuple(3 * side for side in sides)
    z_where = places(200) * torch.tensor([1.0, 0.5, 0.5])
    found = boxes(z_where, sides)
    inside = (found[:, :2] > 0).all(1) & (found[:, 2:] < torch.tensor(sides).flip(0)).all(1)
    inside &= (found[:, 2:] - found[:, :2] > 3).all(1)
    assert inside.sum() > 20
    for z, box in zip(z_where[inside], found[inside], strict=True):
        # A pixel's middle is in the box where both its row and its column have half of a one.
        canvas = paste(torch.ones(1, 9, 9), z, sides)[0]
        columns, rows = (canvas.amax(dim).ge(0.5).nonzero() for dim in (0, 1))
        landed = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert (torch.stack(landed) - box).abs().max() <= 0.5 + 1e-9


def test_interpolation_by_hand():
    # Middles of 2 pixels are at -1/2 and 1/2; of the source's 4 at -3/4, -1/4, 1/4, 3/4.
    half, zero = torch.tensor(1.0), torch.tensor(0.0)
    wanted = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])
    assert torch.equal(interpolation(half, zero, 4, 2), wanted)
    outside = torch.tensor([[0.0, 0.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]])
    assert torch.equal(interpolation(half, torch.tensor(1.5), 4, 2), outside)


def test_gradients_are_right():
    scale, shift = torch.tensor([0.7, 1.9]), torch.tensor([0.13, -0.41])
    inputs = (scale.requires_grad_(), shift.requires_grad_())
    assert gradcheck(lambda *args: interpolation(*args, 5, 8), inputs)
    z_where = places(2).requires_grad_()
    images = torch.randn(2, 2, 6, 7, requires_grad=True)
    assert gradcheck(lambda *args: crop(*args, 4), (images, z_where))
    assert gradcheck(lambda *args: paste(*args, (5, 8)), (images[..., :6], z_where))


def test_leading_dimensions_broadcast():
    windows, z_where = torch.randn(4, 1, 3, 5, 5), places(2, 1, 3)
    canvases = paste(windows, z_where, (8, 9))
    crops = crop(canvases[0], z_where, 5)
    assert canvases.shape == (2, 4, 3, 3, 8, 9)
    assert crops.shape == (2, 4, 3, 3, 5, 5)
    assert boxes(z_where, (8, 9)).shape == (2, 1, 3, 4)
    for i in range(2):
        for j in range(4):
            for k in range(3):
                one = paste(windows[j, 0], z_where[i, 0, k], (8, 9))
                torch.testing.assert_close(canvases[i, j, k], one)
                one = crop(canvases[0, j, k], z_where[i, 0, k], 5)
                torch.testing.assert_close(crops[i, j, k], one)


def test_single_precision_stays_single():
    z_where = places(3).float()
    canvases = paste(torch.rand(3, 1, 5, 5).float(), z_where, (8, 9))
    assert canvases.dtype == crop(canvases, z_where, 5).dtype == torch.float32
    assert boxes(z_where, (8, 9)).dtype == torch.float32


def test_mlp_has_a_nonlinearity_between_its_layers_only():
    network = MLP(3, 2, (5, 4), nn.Tanh)
    assert [type(layer) for layer in network] == [nn.Linear, nn.Tanh] * 2 + [nn.Linear]
    x = torch.randn(6, 7, 3)
    hidden = x
    for layer in (network[0], network[2]):
        hidden = (hidden @ layer.weight.T + layer.bias).tanh()
    wanted = hidden @ network[4].weight.T + network[4].bias
    assert wanted.shape == (6, 7, 2)
    torch.testing.assert_close(network(x), wanted)
    assert [type(layer) for layer in MLP(3, 2)] == [nn.Linear]
