"""Guides for Attend, Infer, Repeat: what is there, where, and what it looks like.

They are recurrent networks with one step an object. They never look at a presence they drew: a
step matters only if all earlier objects are present, so its distributions are those of that path,
and a presence only masks. That is what lets an estimator run the steps once and sum the count out.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import get_plates
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_models.air import AIR
from pyro_models.networks import MLP, clipped_boxes, crop
from pyro_models.objective import annealed
from pyro_models.presence import FixPresence, all_present, presence_logits
from pyro_models.store import GuardedModule, scoped_store


class Detection(NamedTuple):
    r"""What a guide finds in images, with every latent at its mean.

    Attributes:
        counts: The most probable numbers of objects, of shape :math:`(B)`.
        probabilities: The probability of each count, of shape :math:`(B, N + 1)`.
        boxes: The objects' boxes :math:`(x_0, y_0, x_1, y_1)` in pixels, inside the image, of shape
            :math:`(B, N, 4)`; zeros beyond the first ``counts``.
        z_where: Places, of shape :math:`(B, N, 3)`, of all steps, also of those beyond ``counts``.
        z_what: Codes of the appearances, of shape :math:`(B, N, D)`, of all steps too.
        reconstruction: The canvas of the objects found, of shape :math:`(B, H, W)`.
    """

    counts: Tensor
    probabilities: Tensor
    boxes: Tensor
    z_where: Tensor
    z_what: Tensor
    reconstruction: Tensor


@runtime_checkable
class LearnsFromCosts(Protocol):
    """A baseline that learns from the costs themselves, and not by a gradient.

    A baseline of a :class:`RecurrentGuide` with a method of this name is handed the costs after
    each estimate with gradients by estimators with a score function.
    """

    def update(self, step: int, costs: Tensor, weights: Tensor) -> None:
        r"""Takes in the costs after the presences of a step, in nats.

        Args:
            step: The step, from 0.
            costs: Of the shape of the presence, :math:`(*, B)`.
            weights: One if there was a choice to make, zero after the last object; of that shape.
        """


class DecayingAverage(nn.Module):
    r"""A baseline: the running mean of the cost after each presence.

    It lives in the module's own state, where Pyro's lives in the parameter store.

    Args:
        steps: The number of presences.
        decay: The weight of the past in the mean, in [0, 1).
    """

    def __init__(self, steps: int, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("total", torch.zeros(steps))
        self.register_buffer("weight", torch.zeros(steps))

    def forward(self, step: int, images: Tensor, hidden: Tensor) -> Tensor:
        r"""The mean so far in nats; zero before the first :meth:`update`.

        Args:
            step: The step, from 0.
            images: Scenes, of shape :math:`(B, H, W)`.
            hidden: The guide's state, of shape :math:`(*, B, S)`.

        Returns:
            Of shape :math:`(*, B)`.
        """
        mean = self.total[step] / self.weight[step].clamp(min=1e-12)
        return mean.expand(hidden.shape[:-1])

    @torch.no_grad()
    def update(self, step: int, costs: Tensor, weights: Tensor) -> None:
        """Takes in costs, each with its weight; see :class:`LearnsFromCosts`."""
        for state, now in ((self.total, costs * weights), (self.weight, weights)):
            state[step] = self.decay * state[step] + now.sum()


class BaselineNetwork(nn.Module):
    r"""A baseline: a network that foretells the cost after each presence.

    It sees the image and the guide's state, both detached, and learns from its own squared error,
    which :class:`~pyro.infer.TraceGraph_ELBO` adds to the loss.

    Args:
        pixels: The number of pixels of an image.
        state: The size of the guide's state.
        hidden: The width of the hidden layers.
        unit: What an output of one means, in nats: costs are hundreds of nats, and weights learn
            best when outputs are of order one.
    """

    def __init__(self, pixels: int, state: int, hidden: int = 256, unit: float = 100.0) -> None:
        super().__init__()
        self.unit = unit
        self.image = nn.Linear(pixels, hidden)
        self.state = nn.Linear(state, hidden, bias=False)
        self.head = MLP(hidden, 1, (hidden,))

    def forward(self, step: int, images: Tensor, hidden: Tensor) -> Tensor:
        r"""The cost foretold in nats.

        Args:
            step: The step, from 0.
            images: Scenes, of shape :math:`(B, H, W)`.
            hidden: The guide's state, of shape :math:`(*, B, S)`.

        Returns:
            Of shape :math:`(*, B)`.
        """
        features = self.image(images.flatten(-2)) + self.state(hidden.detach())
        return self.unit * self.head(features.relu()).squeeze(-1).to(images.dtype)


class RecurrentGuide(GuardedModule):
    r"""The paper's guide: each step sees the whole image.

    .. math::
        h_i, \omega_i & = \text{step}(W x + V [h_{i-1}, z_{i-1}]) \\
        z^\text{pres}_i & \sim \text{Bernoulli}(p(\omega_i) \, z^\text{pres}_{i-1}) \\
        z^\text{where}_i & \sim \mathcal{N} \Big( \mu(\omega_i) + \sum_a w_a(\omega_i) \, \mu_a,
            \, \text{diag}(\sigma^2(\omega_i)) \Big) \\
        z^\text{what}_i & \sim q(z | \text{crop}(x, z^\text{where}_i))

    The image's projection :math:`W x` is the same at each step and multiplied once. Places
    :math:`\mu_a`, centred at :math:`c_a` on a grid over the canvas, compete for each step, and the
    winner :math:`a^*` and its neighbours share it:

    .. math:: w(\omega) = \text{softmax}_a \Big( \omega_a
        - \frac{|c_a - c_{a^*}|^2}{2 r^2} \Big), \quad a^* = \text{argmax}_a \, \omega_a

    with a quarter of the side of a prior's window for :math:`r`. The mean of a regression alone
    (``anchors=0``, as in the paper), or of all places, falls between two objects that are equally
    good to take first, and there it finds neither. Corrections are in units of the prior, spreads
    are no wider than it, and the state is bounded by a tanh: where an object is almost surely
    absent, nothing else holds them back.

    Args:
        model: The model whose latents are inferred; its sizes and its prior's places are taken.
        hidden: The widths of the recurrent network, and the size of its state.
        encoder_hidden: The width of the window encoder's hidden layer.
        anchors: The side of the grid of places that compete, or 0 for none.
        baseline: What estimators with a score function subtract from the cost of a presence:
            :class:`DecayingAverage`, :class:`BaselineNetwork` or a module like them, called with
            step, images and state. One with an ``update`` is handed the costs: see
            :class:`LearnsFromCosts`.

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
        super().__init__()
        # The guide reads the model, but does not own its weights: as a submodule they would stand
        # in the state dict twice.
        self.__dict__["model"] = model
        self.baseline = baseline
        self.image = nn.Linear(model.shape[0] * model.shape[1], hidden)
        self.recurrence = nn.Linear(hidden + 3 + model.what_dim, hidden, bias=False)
        self.step = MLP(hidden, 7 + anchors**2 + hidden, (hidden,))
        self.encoder = MLP(model.window_size**2, 2 * model.what_dim, (encoder_hidden,))
        # At first: objects probably there, windows of the prior's size at places that differ from
        # scene to scene, hardly scattered.
        with torch.no_grad():
            self.step[-1].weight[:7] = 0
            self.step[-1].bias[: 7 + anchors**2] = 0
            self.step[-1].bias[0] = 2.0
            self.step[-1].bias[4:7] = -1.5
        # Windows of the prior's size, centred on a grid over all but the canvas' edge.
        axis = 0.9 * ((2 * torch.arange(anchors) + 1) / max(anchors, 1) - 1)
        centres = torch.cartesian_prod(axis, axis).reshape(-1, 2)
        grid = torch.cat([0 * centres[:, :1], -model.where_loc[0].exp() * centres], dim=1)
        self.register_buffer("anchors", grid, persistent=False)
        reach = 0.5 * torch.exp(-model.where_loc[0])
        distance = torch.cdist(centres, centres)
        self.register_buffer("far", distance.square() / (2 * reach**2), persistent=False)

    def forward(
        self,
        images: Tensor,
        *,
        beta: Tensor | float = 1.0,
        presence_prior: Tensor | float | None = None,
    ) -> None:
        r"""Draws the latents of each object.

        Args:
            images: Scenes, of shape :math:`(B, H, W)`, in [0, 1].
            beta: The weight of the latents' log-probabilities in an objective.
            presence_prior: The model's; a guide has no use for it.
        """
        model = self.model
        # Looked up once: a PyroModule announces all of a network's weights at each look-up.
        recurrence, step, encoder = self.recurrence, self.step, self.encoder
        where_loc, where_scale = model.where_loc, model.where_scale
        projected = self.image(images.flatten(-2)).to(images.dtype)
        # Not len(images), which torch.export would take for a number that stays.
        batch = images.shape[0]
        hidden = torch.zeros_like(projected)
        sizes = [1, 3, 3, len(self.anchors), hidden.shape[-1]]
        latents = projected.new_zeros(batch, 3 + model.what_dim)
        z_pres = canvas = None
        with annealed(beta), pyro.plate("scenes", batch, device=images.device):
            for i in range(model.max_objects):
                seen, features = self.look(images, projected, canvas)
                # Draws side by side in an outer plate begin at the first latents.
                hidden = hidden.expand(*latents.shape[:-1], -1)
                features = features + recurrence(torch.cat([hidden, latents], dim=-1))
                infer = {"presence": True, **self.foretell(i, images, hidden, z_pres)}
                out = step(features.relu()).to(images.dtype)
                logits, places, spreads, choice, hidden = out.split(sizes, dim=-1)
                hidden = hidden.tanh()
                with poutine.mask(mask=True if z_pres is None else z_pres > 0):
                    logits = presence_logits(z_pres, logits.squeeze(-1))
                    z_pres = pyro.sample(f"z_pres_{i}", dist.Bernoulli(logits=logits), infer=infer)
                with poutine.mask(mask=z_pres > 0):
                    loc = where_loc + where_scale * places + self.choose(choice)
                    scale = where_scale * spreads.sigmoid()
                    z_where = pyro.sample(f"z_where_{i}", dist.Normal(loc, scale).to_event(1))
                    window = crop(seen, z_where, model.window_size).flatten(-2)
                    loc, log_scale = encoder(window).to(images.dtype).chunk(2, dim=-1)
                    # Wider than the prior is no use, and a network's exponential may be infinite.
                    scale = log_scale.clamp(max=1.0).exp()
                    z_what = pyro.sample(f"z_what_{i}", dist.Normal(loc, scale).to_event(1))
                latents = torch.cat([z_where, z_what], dim=-1)
                if i + 1 < model.max_objects:
                    canvas = self.explain(canvas, z_what, z_where)

    def choose(self, choice: Tensor) -> Tensor:
        """The place that wins, moved towards its neighbours, of shape :math:`(*, 3)`.

        The winner changes in a jump, across which no gradient flows; none is missed where the two
        places are equally good, and there the jump is.

        Args:
            choice: The anchors' logits, of shape :math:`(*, A)`.
        """
        if not len(self.anchors):
            return self.anchors.new_zeros(3)
        near = choice - self.far[choice.argmax(dim=-1)]
        return near.softmax(dim=-1) @ self.anchors

    def look(
        self, images: Tensor, projected: Tensor, canvas: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What a step sees: the image it cuts a window out of, and that image's projection."""
        return images, projected

    def explain(self, canvas: Tensor | None, z_what: Tensor, z_where: Tensor) -> Tensor | None:
        """The canvas of the objects so far, or ``None`` in a guide that does not look at it."""
        return None

    def foretell(
        self, step: int, images: Tensor, hidden: Tensor, z_pres: Tensor | None
    ) -> dict[str, Any]:
        r"""What the presence's site tells a score function about the baseline, if there is one.

        Args:
            step: The step, from 0.
            images: Scenes, of shape :math:`(B, H, W)`.
            hidden: The state before the step, of shape :math:`(*, B, S)`.
            z_pres: The presence before, of shape :math:`(*, B)`; ``None`` at the first step.

        Returns:
            What goes into the site's ``infer``. The value has the shape of the site, with the
            dimensions of the plates around the guide: of draws that are made side by side.
        """
        if self.baseline is None:
            return {}
        # The first step's state has no dimension of draws yet, and its presence will.
        plates = [plate for plate in get_plates() if plate.vectorized]
        shape = torch.broadcast_shapes(
            hidden.shape[:-1], *((plate.size,) + (1,) * (-plate.dim - 1) for plate in plates)
        )
        value = self.baseline(step, images, hidden.expand(*shape, -1)).expand(shape)
        # After the last object there is no choice, so no cost to foretell or to learn from.
        there = torch.ones_like(value) if z_pres is None else z_pres
        value = there.detach() * value
        # Pyro's costs lose leading dimensions of one, and a baseline must have their shape.
        while value.shape and value.shape[0] == 1:
            value = value.squeeze(0)
        infer: dict[str, Any] = {"baseline": {"baseline_value": value}}
        if isinstance(self.baseline, LearnsFromCosts):
            infer["observe_cost"] = lambda costs: self.baseline.update(step, costs, there)
        return infer

    @torch.no_grad()
    @scoped_store
    def detect(self, images: Tensor) -> Detection:
        """Finds the objects in images.

        Args:
            images: Scenes, of shape :math:`(B, H, W)`, in [0, 1].
        """
        with FixPresence(all_present) as row, AtMeans():
            trace = poutine.trace(self).get_trace(images)
        steps = range(self.model.max_objects)
        z_where = torch.stack([trace.nodes[f"z_where_{i}"]["value"] for i in steps], dim=1)
        z_what = torch.stack([trace.nodes[f"z_what_{i}"]["value"] for i in steps], dim=1)
        p = torch.stack([trace.nodes[name]["fn"].probs for name in row.names], dim=1)
        # One after the other, for ONNX has no cumprod.
        reached = [torch.ones_like(p[:, 0])]
        for i in steps:
            reached.append(reached[-1] * p[:, i])
        more = torch.stack(reached, dim=1)
        probabilities = more * torch.cat([1 - p, torch.ones_like(p[:, :1])], dim=1)
        counts = probabilities.argmax(dim=1)
        return Detection(
            counts=counts,
            probabilities=probabilities,
            boxes=clipped_boxes(z_where, self.model.shape, counts),
            z_where=z_where,
            z_what=z_what,
            reconstruction=self.model.draw(z_where, z_what, counts),
        )


class ResidualGuide(RecurrentGuide):
    r"""A guide each of whose steps sees what is left to explain.

    Step :math:`i` sees :math:`x - c_{i-1}` in place of :math:`x`, in its network and in its window,
    where :math:`c_{i-1}` is the canvas of the objects so far. An object that was found is gone from
    what the next step sees, which removes the local optima in which two steps find the same one.

    Args:
        model: The model whose latents are inferred; its decoder draws the canvas.
        hidden: The widths of the recurrent network, and the size of its state.
        encoder_hidden: The width of the window encoder's hidden layer.
        anchors: The side of the grid of places that compete, or 0 for none.
        baseline: See :class:`RecurrentGuide`.

    Example:
        >>> guide = ResidualGuide(AIR((50, 50), max_objects=3))
        >>> found = guide.detect(torch.rand(4, 50, 50))
        >>> found.boxes.shape, found.probabilities.shape
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
        explained = F.linear(canvas.flatten(-2), self.image.weight).to(images.dtype)
        return images - canvas, projected - explained

    def explain(self, canvas: Tensor | None, z_what: Tensor, z_where: Tensor) -> Tensor:
        picture = self.model.paste(z_what, z_where)
        return picture if canvas is None else canvas + picture


class AtMeans(Messenger):
    """A Pyro handler that gives latents with a mean that value instead of drawing them."""

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if not message["done"] and message["fn"].has_rsample:
            message["value"] = message["fn"].mean
            message["done"] = True
