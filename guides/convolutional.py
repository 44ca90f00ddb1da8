"""A guide for Attend, Infer, Repeat that works on any canvas, with any number of objects."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn import functional as F

from guides.backdrops import backdrop_of, median
from guides.cells import between, cells, pools, window_sides
from guides.places import PlaceNormal
from guides.stepwise import Proposal, Steps, StepwiseGuide, window_encoder
from pyro_models.air import AIR

FAINT = 0.1
"""A change of colour, summed over channels, that counts half as much as a full one."""
TEXTURE = 4.0
"""On a background with texture, a change of so many times the median one counts half, too."""
TIE = 1e-4
"""Of two cells whose logits differ by less, the one that comes first is chosen."""
LARGE = -1.5
"""Where objects have several sizes, windows begin so many deviations of the log inverse scale from
its median: nearly as large as the largest object."""


class ConvolutionalGuide(StepwiseGuide):
    r"""A guide without state: each step looks at what is left of the image, and nowhere else.

    Step :math:`i` is the same function of the residual image :math:`r_i = x - c_{i-1}` for all
    :math:`i`, where :math:`c_{i-1}` is the canvas of the objects inferred so far. Convolutions give
    features :math:`f_a` for each cell :math:`a` of a grid over the canvas, and :math:`m_a` is the
    mean of :math:`r_i` in a window around the cell, what is unexplained there. A step selects one
    cell, and near it a mean of its neighbours:

    .. math::
        \omega_a & = v^T f_a + g \, m_a \\
        w_a & = \text{softmax}_a \Big( \omega_a - \frac{|c_a - c_{a^*}|^2}{2 r^2} \Big),
            \quad a^* = \text{argmax}_a \, \omega_a \\
        \text{logit} \, p_i & = \sum_a w_a (u^T f_a + h \, m_a) + b

    where :math:`r` is a quarter of the side of a window. The place is the mean of the centres
    :math:`c_a` plus a correction, which is linear in the mean of the features, as are the
    deviations. The gains :math:`g, h` are learnt. At first they are
    positive, so that objects are where ink is unexplained. Otherwise presences would fall to zero
    before the decoder draws anything, since an object at a random place only costs.

    If objects are opaque, :math:`r_i` is what differs from the background where no object is yet,
    by :math:`d` summed over channels. Then :math:`m_a` is the mean of
    :math:`d / (d + \epsilon)`, or, on a background with texture, of
    :math:`d^2 / (d^2 + \epsilon^2)` with an :math:`\epsilon` that grows with the texture of the
    scene.

    Objects of very different sizes, ``sizes`` above 1, need windows of several sizes: :math:`m_a`
    is a vector, with gains for each, as are the means of ink in windows from the smallest objects'
    to the largest ones'. Features are those of images that are averaged over more and more pixels,
    by the same convolutions, interpolated at the cells and side by side. Windows are large at
    first: one that is smaller than its object draws a part of it, and others then draw the rest.

    No weight depends on the size of the canvas or the number of objects. Everything that a step
    infers depends on the image near the object alone. So a guide that was trained on small scenes
    of few objects can be used on large scenes of many.

    Args:
        model: The model whose latents are inferred, and whose decoder draws the canvas. Its windows
            are square.
        channels: The number of channels of each convolution.
        encoder_hidden: The width of the window encoder's hidden layer.
        sizes: The number of sizes of windows.
        baseline: See :class:`~guides.stepwise.StepwiseGuide`. The state that it reads is that of
            the chosen cell, with ``channels`` numbers, from the finest image.

    Example:
        >>> guide = ConvolutionalGuide(AIR((50, 50), max_objects=3))
        >>> larger = ConvolutionalGuide(AIR((84, 120), max_objects=9, where_loc=(5.04, 0.0, 0.0)))
        >>> larger.load_state_dict(guide.state_dict())
        <All keys matched successfully>

    References:
        | Attend, Infer, Repeat: Fast Scene Understanding with Generative Models
          (Eslami et al., 2016), for the difference network
        | https://arxiv.org/abs/1603.08575
        | Spatially Invariant Unsupervised Object Detection with Convolutional Neural Networks
          (Crawford and Pineau, 2019), for cells
        | https://ojs.aaai.org/index.php/AAAI/article/view/4216
    """

    def __init__(
        self,
        model: AIR,
        *,
        channels: int = 16,
        encoder_hidden: int = 400,
        sizes: int = 1,
        baseline: nn.Module | None = None,
    ) -> None:
        if not model.square_windows and len(set(model.shape.sides)) > 1:
            raise ValueError("square_windows is False: a convolutional guide needs square windows")
        super().__init__(model, baseline=baseline)
        inputs = model.shape.channels + (2 if model.opaque else 0)
        # A decoded colour is that of the object, and a contrast is not without the background.
        # Guides of "over" lack it, so that runs of earlier versions can be loaded.
        self.sees_colours = model.composition == "mixture"
        inputs += model.shape.channels if self.sees_colours else 0
        self.features = nn.Sequential(
            nn.Conv2d(inputs, channels, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=2, dilation=2),
            nn.ReLU(),
        )
        window = model.window_pixels
        windows = window_sides(window, model.window_spread, sizes)
        self.pools = pools(windows)
        self.channels = channels
        width = channels * len(self.pools)
        # Without a bias, on which the choice does not depend: its gradient would be rounding alone.
        self.choice = nn.Linear(width, 1, bias=False)
        self.head = nn.Linear(width, 7)
        gains = torch.tensor([100.0, 40.0])
        # Of one size they have no dimension, as runs of earlier versions have them.
        self.gains = nn.Parameter(gains if sizes == 1 else gains.outer(torch.ones(sizes) / sizes))
        self.encoder = window_encoder(model, encoder_hidden, inputs)
        self.colour = backdrop_of(model.background)
        # Convolutions of few channels are fastest with channels last in memory.
        self.features.to(memory_format=torch.channels_last)
        with torch.no_grad():
            self.choice.weight.zero_()
            self.head.weight.zero_()
            self.head.bias.zero_()
            # An object is present if the ink of its window is brighter than a tenth.
            self.head.bias[0] = -4.0
            self.head.bias[4:] = -1.5
            if sizes > 1:
                self.head.bias[1] = LARGE
        finest, *coarser = self.pools
        for name, value in cells(model.shape.sides, finest, windows)._asdict().items():
            self.register_buffer(name, value, persistent=False)
        for pool in coarser:
            rows, columns = between(model.shape.sides, finest, pool)
            self.register_buffer(f"rows_{pool}", rows, persistent=False)
            self.register_buffer(f"columns_{pool}", columns, persistent=False)
        # Differences of logits that are larger than those of rounding, and too small to matter.
        self.register_buffer("order", TIE * torch.arange(len(self.grid)), persistent=False)
        # Of the grid, in quarters of a window.
        self.unit = min(model.shape.sides) / 2 / (window / 4)

    def backdrop(self, images: Tensor) -> TorchDistribution | None:
        return None if self.colour is None else self.colour(images)

    def steps(self, images: Tensor, background: Tensor) -> Steps:
        model = self.model
        # Read once: each attribute access of a PyroModule registers all weights of a network.
        features, choice, head, gains = self.features, self.choice, self.head, self.gains
        # For each of the sizes, a gain of the choice and one of the presence.
        choice_gains, presence_gains = gains.reshape(2, -1)
        where_loc, where_scale = model.where_loc, model.where_scale
        half_window = (-where_loc[0]).exp()
        grid, above, beside = self.grid, self.above, self.beside
        seen, faint = images, None
        if model.opaque:
            contrast = images - background
            faint = self.faint(contrast)
            visible = torch.ones_like(contrast[..., :1, :, :])
            colours = images if self.sees_colours else None
            seen = uncovered(visible, contrast, colours)
        for i in range(model.max_objects):
            pooled = averaged(seen, self.pools[0])
            maps = self.maps(features, pooled, seen).to(images.dtype)
            ink = (above @ self.ink(pooled, faint).unsqueeze(-3) @ beside.mT).flatten(-2)
            bright = (choice_gains.unsqueeze(-1) * ink).sum(-2)
            weights = self.choose((choice.weight @ maps).squeeze(-2) + bright)
            state = (maps @ weights.unsqueeze(-1)).squeeze(-1)
            presence, size, place, spread = head(state).split([1, 1, 2, 3], dim=-1)
            left = (weights.unsqueeze(-2) * ink).sum(-1)
            presence = presence.squeeze(-1) + (presence_gains * left).sum(-1)
            spread = spread.sigmoid()
            where = PlaceNormal(
                where_loc[0] + where_scale[0] * size.squeeze(-1),
                where_scale[0] * spread[..., 0],
                # Corrections are in half windows.
                weights @ grid + half_window * place,
                spread[..., 1:],
            )
            z_where, z_what = yield Proposal(presence, where, seen, state[..., : self.channels])
            if i + 1 == model.max_objects:
                continue
            if not model.opaque:
                seen = seen - model.paste(z_what, z_where)
            else:
                _, visible = model.occlude(visible, background, z_what, z_where)
                seen = uncovered(visible, contrast, colours)

    def maps(self, features: nn.Module, pooled: Tensor, seen: Tensor) -> Tensor:
        r"""Returns the features of each cell, of shape :math:`(*, F, A)`.

        Args:
            features: The convolutions.
            pooled: What is unexplained, averaged over the smallest squares.
            seen: What is unexplained, of shape :math:`(*, C', H, W)`.
        """
        maps = features(pooled.flatten(0, -4))
        for pool in self.pools[1:]:
            rows, columns = getattr(self, f"rows_{pool}"), getattr(self, f"columns_{pool}")
            coarse = features(averaged(seen, pool).flatten(0, -4))
            maps = torch.cat([maps, rows @ coarse @ columns.mT], dim=-3)
        return maps.flatten(-2).unflatten(0, pooled.shape[:-3])

    def faint(self, contrast: Tensor) -> Tensor | float:
        r"""Returns the change of colour that counts half as much as a full one.

        Args:
            contrast: The image minus its background, of shape :math:`(*, C, H, W)`.

        Returns:
            Of shape :math:`(*, 1, 1)`, or a number.
        """
        if not self.model.background.has_texture:
            return FAINT
        # Objects cover less than half of a scene.
        texture = median(contrast.detach().abs().sum(-3).flatten(-2))
        return FAINT + TEXTURE * texture[..., None, None]

    def ink(self, pooled: Tensor, faint: Tensor | float | None) -> Tensor:
        r"""Returns what is unexplained at each pixel, of shape :math:`(*, H', W')`.

        Args:
            pooled: What no object has covered yet, in pooled pixels.
            faint: See :meth:`faint`; ``None`` if objects add up.
        """
        channels = self.model.shape.channels
        if faint is None:
            return pooled.mean(-3)
        # Nearly the same for faint objects and for bright ones.
        change = pooled[..., channels, :, :]
        if self.model.background.has_texture:
            # Next to nothing for the texture, of which there is much.
            change, faint = change.square(), faint**2
        return change / (change + faint)

    def look_closely(self, windows: Tensor) -> Tensor:
        if self.model.opaque:
            # The shape of an object, whatever its contrast.
            channels = self.model.shape.channels
            change = windows[..., channels : channels + 1, :, :]
            largest = change.amax((-2, -1), keepdim=True).clamp(min=FAINT)
            parts = (
                windows[..., :channels, :, :],
                change / largest,
                windows[..., channels + 1 :, :, :],
            )
            windows = torch.cat(parts, dim=-3)
        return windows.flatten(-3)

    def choose(self, choice: Tensor) -> Tensor:
        r"""Selects a cell, and interpolates among its neighbours.

        The argmax is discontinuous where two cells have equal logits, and no gradient flows through
        it.

        Args:
            choice: The cells' logits, of shape :math:`(*, A)`.

        Returns:
            Weights of the cells, of the same shape, which sum to one.
        """
        # Where nothing is left, all cells are equal but for rounding, which must not choose.
        largest = (choice - self.order).argmax(dim=-1)
        offsets = self.grid - self.grid[largest].unsqueeze(-2)
        distance = (self.unit * offsets).square().sum(-1)
        return (choice - 0.5 * distance).softmax(dim=-1)


def averaged(images: Tensor, pool: int) -> Tensor:
    r"""Averages images :math:`(*, C, H, W)` over squares of so many pixels a side."""
    if pool == 1:
        return images
    options = {"ceil_mode": True, "count_include_pad": False}
    pooled = F.avg_pool2d(images.flatten(0, -4), pool, **options)
    return pooled.unflatten(0, images.shape[:-3])


def uncovered(visible: Tensor, contrast: Tensor, colours: Tensor | None = None) -> Tensor:
    r"""Returns what no object has covered yet: contrasts, their sum, what is visible, and colours.

    Args:
        visible: The share of each pixel that no object covers, of shape :math:`(*, 1, H, W)`.
        contrast: The image minus its background, of shape :math:`(*, C, H, W)`.
        colours: The image, if it is to be seen as well.

    Returns:
        Of shape :math:`(*, C + 2, H, W)`, with colours :math:`(*, 2 C + 2, H, W)`.
    """
    left = visible * contrast
    parts = [left, left.abs().sum(-3, keepdim=True), visible.expand_as(left[..., :1, :, :])]
    if colours is not None:
        parts.append((visible * colours).expand_as(left))
    return torch.cat(parts, dim=-3)
