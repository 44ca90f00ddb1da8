"""Guides for Attend, Infer, Repeat with a recurrent network, as in the paper."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guides.stepwise import Proposal, Steps, StepwiseGuide, window_encoder
from pyro_models.air import AIR
from pyro_models.networks import MLP, aspect


class RecurrentGuide(StepwiseGuide):
    r"""The paper's guide: the input of each step is the whole image.

    .. math::
        h_i, \omega_i & = \text{step}(W x + V [h_{i-1}, z_{i-1}]) \\
        z^\text{pres}_i & \sim \text{Bernoulli}(p(\omega_i) \, z^\text{pres}_{i-1}) \\
        z^\text{where}_i & \sim \mathcal{N} \Big( \mu(\omega_i) + \sum_a w_a(\omega_i) \, \mu_a,
            \, \text{diag}(\sigma^2(\omega_i)) \Big) \\
        z^\text{what}_i & \sim q(z | \text{crop}(x, z^\text{where}_i))

    The projection :math:`W x` of the image is computed once. A step selects among anchors, places
    :math:`\mu_a` whose centres :math:`c_a` are on a grid over the canvas. The mean of
    :math:`z^\text{where}_i` is near the anchor :math:`a^*` of the largest logit, interpolated among
    its neighbours:

    .. math:: w(\omega) = \text{softmax}_a \Big( \omega_a
        - \frac{|c_a - c_{a^*}|^2}{2 r^2} \Big), \quad a^* = \text{argmax}_a \, \omega_a

    where :math:`r` is a quarter of the side of a window with the prior's scale. A regression of the
    place without anchors (``anchors=0``, as in the paper), or a softmax over all of them, is a
    continuous function of the image. If two objects are equally good candidates, its mean lies
    between them, at neither.

    The correction :math:`\mu` is in units of the prior's deviation, :math:`\sigma` is at most the
    prior's, and a tanh bounds the state. Where an object is almost surely absent, its latents have
    hardly any gradient that would bound them.

    Args:
        model: The model whose latents are inferred; the guide has its sizes and its prior's places.
        hidden: The widths of the recurrent network, and the size of its state.
        encoder_hidden: The width of the window encoder's hidden layer.
        anchors: The side of the grid of anchors; 0 for none.
        baseline: The control variate that a score function estimator subtracts from the cost of a
            presence: :class:`DecayingAverage`, :class:`BaselineNetwork` or a module like them,
            called with step, images and state. See :class:`LearnsFromCosts` for one with
            ``update``.

    References:
        | Attend, Infer, Repeat: Fast Scene Understanding with Generative Models
          (Eslami et al., 2016)
        | https://arxiv.org/abs/1603.08575
    """

    def __init__(
        self,
        model: AIR,
        *,
        hidden: int = 256,
        encoder_hidden: int = 400,
        anchors: int = 9,
        baseline: nn.Module | None = None,
    ) -> None:
        if model.composition != "sum":
            raise ValueError(
                f"composition {model.composition!r} needs a guide that knows what occludes what: "
                "guide='convolutional'"
            )
        super().__init__(model, baseline=baseline)
        self.image = nn.Linear(model.shape.values, hidden)
        self.recurrence = nn.Linear(hidden + 3 + model.what_dim, hidden, bias=False)
        self.step = MLP(hidden, 7 + anchors**2 + hidden, (hidden,))
        self.encoder = window_encoder(model, encoder_hidden)
        # Initially presences are probable, and windows have the prior's scale, places that differ
        # from scene to scene, and small deviations.
        with torch.no_grad():
            last = self.step.last
            last.weight[:7] = 0
            last.bias[: 7 + anchors**2] = 0
            last.bias[0] = 2.0
            last.bias[4:7] = -1.5
        # Places with the prior's scale, centred on a grid over the inner 90% of the canvas.
        axis = 0.9 * ((2 * torch.arange(anchors) + 1) / max(anchors, 1) - 1)
        centres = torch.cartesian_prod(axis, axis).reshape(-1, 2)
        if model.square_windows:
            # A window is a smaller part of the longer side.
            height, width = aspect(model.shape.sides)
            centres = centres * torch.tensor([width, height])
        grid = torch.cat([0 * centres[:, :1], -model.where_loc[0].exp() * centres], dim=1)
        self.register_buffer("anchors", grid, persistent=False)
        radius = 0.5 * torch.exp(-model.where_loc[0])
        distance = torch.cdist(centres, centres)
        penalty = distance.square() / (2 * radius**2)
        self.register_buffer("distance_penalty", penalty, persistent=False)

    def steps(self, images: Tensor, background: Tensor) -> Steps:
        model = self.model
        # Read once: each attribute access of a PyroModule registers all weights of a network.
        recurrence, step = self.recurrence, self.step
        where_loc, where_scale = model.where_loc, model.where_scale
        projected = self.image(images.flatten(-3)).to(images.dtype)
        hidden = torch.zeros_like(projected)
        sizes = [1, 3, 3, len(self.anchors), hidden.shape[-1]]
        latents = projected.new_zeros(images.shape[0], 3 + model.what_dim)
        canvas = None
        for i in range(model.max_objects):
            visible, features = self.look(images, projected, canvas)
            # With vectorised particles, the first latents add a dimension to the state.
            hidden = hidden.expand(*latents.shape[:-1], -1)
            features = features + recurrence(torch.cat([hidden, latents], dim=-1))
            out = step(features.relu()).to(images.dtype)
            logits, places, spreads, choice, state = out.split(sizes, dim=-1)
            loc = where_loc + where_scale * places + self.choose(choice)
            where = dist.Normal(loc, where_scale * spreads.sigmoid()).to_event(1)
            z_where, z_what = yield Proposal(logits.squeeze(-1), where, visible, hidden)
            hidden = state.tanh()
            latents = torch.cat([z_where, z_what], dim=-1)
            if i + 1 < model.max_objects:
                canvas = self.explain(canvas, z_what, z_where)

    def choose(self, choice: Tensor) -> Tensor:
        """Selects an anchor, and interpolates among its neighbours; of shape :math:`(*, 3)`.

        The argmax is discontinuous where two anchors have equal logits, and no gradient flows
        through it.

        Args:
            choice: The anchors' logits, of shape :math:`(*, A)`.
        """
        if not len(self.anchors):
            return self.anchors.new_zeros(3)
        near = choice - self.distance_penalty[choice.argmax(dim=-1)]
        return near.softmax(dim=-1) @ self.anchors

    def look(
        self, images: Tensor, projected: Tensor, canvas: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns the image of which a step crops a window, and that image's projection."""
        return images, projected

    def explain(self, canvas: Tensor | None, z_what: Tensor, z_where: Tensor) -> Tensor | None:
        """Returns the canvas of the objects so far; ``None`` if the guide does not use it."""
        return None


class ResidualGuide(RecurrentGuide):
    r"""A guide whose steps have the residual image as their input.

    Step :math:`i` has :math:`x - c_{i-1}` in place of :math:`x`, in its network and in its window,
    where :math:`c_{i-1}` is the canvas of the objects inferred so far. An inferred object is
    subtracted from the input of the next steps. This removes the local optima in which two steps
    infer the same object.

    Args:
        model: The model whose latents are inferred, and whose decoder draws the canvas.
        hidden: The widths of the recurrent network, and the size of its state.
        encoder_hidden: The width of the window encoder's hidden layer.
        anchors: The side of the grid of anchors; 0 for none.
        baseline: See :class:`RecurrentGuide`.

    Example:
        >>> guide = ResidualGuide(AIR((50, 50), max_objects=3))
        >>> detection = guide.detect(torch.rand(4, 1, 50, 50))
        >>> detection.boxes.shape, detection.probabilities.shape
        (torch.Size([4, 3, 4]), torch.Size([4, 4]))

    References:
        | The difference network of Attend, Infer, Repeat (Eslami et al., 2016)
        | https://arxiv.org/abs/1603.08575
    """

    def look(
        self, images: Tensor, projected: Tensor, canvas: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if canvas is None:
            return images, projected
        explained = F.linear(canvas.flatten(-3), self.image.weight).to(images.dtype)
        return images - canvas, projected - explained

    def explain(self, canvas: Tensor | None, z_what: Tensor, z_where: Tensor) -> Tensor:
        objects = self.model.paste(z_what, z_where)
        return objects if canvas is None else canvas + objects
