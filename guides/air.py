"""Guides for Attend, Infer, Repeat: recurrent networks with one step per object.

A guide's networks never read a presence that was drawn. A step matters only if all earlier objects
are present, so its distributions are those given that they are, and presences act as masks alone.
So an estimator can run the steps once, with all objects present, and sum over the count.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

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
from pyro_models.shapes import Shape, require_batch
from pyro_models.store import GuardedModule, scoped_store


class Detection(NamedTuple):
    r"""The objects that a guide infers in images, with every latent at its mean.

    Attributes:
        counts: The most probable number of objects in each image, of shape :math:`(B)`.
        probabilities: The probability of each count, of shape :math:`(B, N + 1)`.
        boxes: The objects' boxes :math:`(x_0, y_0, x_1, y_1)` in pixels, clipped to the image, of
            shape :math:`(B, N, 4)`; zeros beyond the first ``counts``.
        z_where: Places, of shape :math:`(B, N, 3)`; also of the steps beyond ``counts``.
        z_what: Appearance codes, of shape :math:`(B, N, D)`; also of the steps beyond ``counts``.
        reconstruction: The canvas of the first ``counts`` objects, of shape :math:`(B, C, H, W)`.
    """

    counts: Tensor
    probabilities: Tensor
    boxes: Tensor
    z_where: Tensor
    z_what: Tensor
    reconstruction: Tensor


@runtime_checkable
class LearnsFromCosts(Protocol):
    """A baseline that is updated from observed costs, and not by a gradient.

    After each estimate, a score function estimator calls ``update`` of a :class:`RecurrentGuide`'s
    baseline that has it.
    """

    def update(self, step: int, costs: Tensor, weights: Tensor) -> None:
        r"""Updates the baseline with the costs downstream of the presences of a step, in nats.

        Args:
            step: The step, from 0.
            costs: Of the shape of the presence, :math:`(*, B)`.
            weights: One if all earlier objects are present, else zero; of the same shape.
        """


class DecayingAverage(nn.Module):
    r"""A baseline: the exponential moving average of the cost downstream of each presence.

    Its state is in buffers of the module. That of Pyro's own decaying average is in the parameter
    store.

    Args:
        steps: The number of presences.
        decay: The decay rate of the average, in [0, 1).
    """

    def __init__(self, steps: int, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("total", torch.zeros(steps))
        self.register_buffer("weight", torch.zeros(steps))

    def forward(self, step: int, images: Tensor, hidden: Tensor) -> Tensor:
        r"""Returns the average in nats; zero before the first :meth:`update`.

        Args:
            step: The step, from 0.
            images: Scenes, of shape :math:`(B, C, H, W)`.
            hidden: The guide's state, of shape :math:`(*, B, S)`.

        Returns:
            Of shape :math:`(*, B)`.
        """
        mean = self.total[step] / self.weight[step].clamp(min=1e-12)
        return mean.expand(hidden.shape[:-1])

    @torch.no_grad()
    def update(self, step: int, costs: Tensor, weights: Tensor) -> None:
        """Updates the average with weighted costs; see :class:`LearnsFromCosts`."""
        for state, value in ((self.total, costs * weights), (self.weight, weights)):
            state[step] = self.decay * state[step] + value.sum()


class BaselineNetwork(nn.Module):
    r"""A baseline: a network that predicts the cost downstream of each presence.

    Its inputs are the image and the guide's detached state. It is trained by its squared error,
    which :class:`~pyro.infer.TraceGraph_ELBO` adds to the loss.

    Args:
        values: The number of values of an image, :math:`C H W`.
        state: The size of the guide's state.
        hidden: The width of the hidden layers.
        unit: The scale of the output, in nats. Costs are hundreds of nats, and training works best
            with outputs of order one.
    """

    def __init__(self, values: int, state: int, hidden: int = 256, unit: float = 100.0) -> None:
        super().__init__()
        self.unit = unit
        self.image = nn.Linear(values, hidden)
        self.state = nn.Linear(state, hidden, bias=False)
        self.head = MLP(hidden, 1, (hidden,))

    def forward(self, step: int, images: Tensor, hidden: Tensor) -> Tensor:
        r"""Predicts the cost in nats.

        Args:
            step: The step, from 0.
            images: Scenes, of shape :math:`(B, C, H, W)`.
            hidden: The guide's state, of shape :math:`(*, B, S)`.

        Returns:
            Of shape :math:`(*, B)`.
        """
        features = self.image(images.flatten(-3)) + self.state(hidden.detach())
        return self.unit * self.head(features.relu()).squeeze(-1).to(images.dtype)


class RecurrentGuide(GuardedModule):
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
        super().__init__()
        # Not a submodule: the state dict would have the model's weights twice.
        self.__dict__["model"] = model
        self.baseline = baseline
        self.image = nn.Linear(model.shape.values, hidden)
        self.recurrence = nn.Linear(hidden + 3 + model.what_dim, hidden, bias=False)
        self.step = MLP(hidden, 7 + anchors**2 + hidden, (hidden,))
        self.encoder = MLP(
            model.shape.channels * model.window_size**2, 2 * model.what_dim, (encoder_hidden,)
        )
        # Initially presences are probable, and windows have the prior's scale, places that differ
        # from scene to scene, and small deviations.
        with torch.no_grad():
            self.step[-1].weight[:7] = 0
            self.step[-1].bias[: 7 + anchors**2] = 0
            self.step[-1].bias[0] = 2.0
            self.step[-1].bias[4:7] = -1.5
        # Places with the prior's scale, centred on a grid over the inner 90% of the canvas.
        axis = 0.9 * ((2 * torch.arange(anchors) + 1) / max(anchors, 1) - 1)
        centres = torch.cartesian_prod(axis, axis).reshape(-1, 2)
        grid = torch.cat([0 * centres[:, :1], -model.where_loc[0].exp() * centres], dim=1)
        self.register_buffer("anchors", grid, persistent=False)
        radius = 0.5 * torch.exp(-model.where_loc[0])
        distance = torch.cdist(centres, centres)
        penalty = distance.square() / (2 * radius**2)
        self.register_buffer("distance_penalty", penalty, persistent=False)

    def forward(
        self,
        images: Tensor,
        *,
        beta: Tensor | float = 1.0,
        presence_prior: Tensor | float | None = None,
    ) -> None:
        r"""Samples the latents of each object.

        Args:
            images: Scenes, of shape :math:`(B, C, H, W)`, in [0, 1].
            beta: Weight of the latents' log-densities in a loss.
            presence_prior: The model's. It is unused here: Pyro calls model and guide with the same
                arguments.
        """
        model = self.model
        require_batch(images, model.shape)
        # Read once: each attribute access of a PyroModule registers all weights of a network.
        recurrence, step, encoder = self.recurrence, self.step, self.encoder
        where_loc, where_scale = model.where_loc, model.where_scale
        projected = self.image(images.flatten(-3)).to(images.dtype)
        # Not len(images), which torch.export would treat as a constant.
        batch = images.shape[0]
        hidden = torch.zeros_like(projected)
        sizes = [1, 3, 3, len(self.anchors), hidden.shape[-1]]
        latents = projected.new_zeros(batch, 3 + model.what_dim)
        z_pres = canvas = None
        with annealed(beta), pyro.plate("scenes", batch, device=images.device):
            for i in range(model.max_objects):
                visible, features = self.look(images, projected, canvas)
                # With vectorized particles, the first latents add a dimension to the state.
                hidden = hidden.expand(*latents.shape[:-1], -1)
                features = features + recurrence(torch.cat([hidden, latents], dim=-1))
                infer = {"presence": True, **self.baseline_infer(i, images, hidden, z_pres)}
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
                    window = crop(visible, z_where, model.window_size).flatten(-3)
                    loc, log_scale = encoder(window).to(images.dtype).chunk(2, dim=-1)
                    # Bounded, as the exponential of a network's output may overflow.
                    scale = log_scale.clamp(max=1.0).exp()
                    z_what = pyro.sample(f"z_what_{i}", dist.Normal(loc, scale).to_event(1))
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

    def baseline_infer(
        self, step: int, images: Tensor, hidden: Tensor, z_pres: Tensor | None
    ) -> dict[str, Any]:
        r"""Returns the baseline's entries of the ``infer`` dictionary of a presence site.

        Args:
            step: The step, from 0.
            images: Scenes, of shape :math:`(B, C, H, W)`.
            hidden: The state before the step, of shape :math:`(*, B, S)`.
            z_pres: The previous presence, of shape :math:`(*, B)`; ``None`` at the first step.

        Returns:
            An empty dictionary without a baseline. The baseline's value has the shape of the site,
            with the dimensions of the plates around the guide, such as those of particles.
        """
        if self.baseline is None:
            return {}
        # The state of the first step lacks the dimension of particles that its presence has.
        plates = [plate for plate in get_plates() if plate.vectorized]
        shape = torch.broadcast_shapes(
            hidden.shape[:-1], *((plate.size,) + (1,) * (-plate.dim - 1) for plate in plates)
        )
        value = self.baseline(step, images, hidden.expand(*shape, -1)).expand(shape)
        # After an absent object the presence is certain, and has no cost to predict.
        possible = torch.ones_like(value) if z_pres is None else z_pres
        value = possible.detach() * value
        # Pyro squeezes leading dimensions of size one out of costs; a baseline needs their shape.
        while value.shape and value.shape[0] == 1:
            value = value.squeeze(0)
        infer: dict[str, Any] = {"baseline": {"baseline_value": value}}
        if isinstance(self.baseline, LearnsFromCosts):
            infer["observe_cost"] = lambda costs: self.baseline.update(step, costs, possible)
        return infer

    @torch.no_grad()
    @scoped_store
    def detect(self, images: Tensor) -> Detection:
        """Infers the objects in images, every latent at its mean.

        Args:
            images: Scenes, of shape :math:`(B, C, H, W)`, in [0, 1].
        """
        with FixPresence(all_present) as row, AtMeans():
            trace = poutine.trace(self).get_trace(images)
        steps = range(self.model.max_objects)
        z_where = torch.stack([trace.nodes[f"z_where_{i}"]["value"] for i in steps], dim=1)
        z_what = torch.stack([trace.nodes[f"z_what_{i}"]["value"] for i in steps], dim=1)
        p = torch.stack([trace.nodes[name]["fn"].probs for name in row.names], dim=1)
        # A loop, as ONNX has no cumprod.
        at_least = [torch.ones_like(p[:, 0])]
        for i in steps:
            at_least.append(at_least[-1] * p[:, i])
        probabilities = torch.stack(at_least, dim=1) * torch.cat(
            [1 - p, torch.ones_like(p[:, :1])], dim=1
        )
        counts = probabilities.argmax(dim=1)
        return Detection(
            counts=counts,
            probabilities=probabilities,
            boxes=clipped_boxes(z_where, self.model.shape.sides, counts),
            z_where=z_where,
            z_what=z_what,
            reconstruction=self.model.draw(z_where, z_what, counts),
        )


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


class AtMeans(Messenger):
    """A Pyro handler that sets reparameterized latents to their means."""

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if not message["done"] and message["fn"].has_rsample:
            message["value"] = message["fn"].mean
            message["done"] = True


def model_and_guide(
    shape: Shape,
    *,
    max_objects: int = 3,
    window_size: int = 24,
    window_scale: tuple[float, float] = (3.0, 0.1),
    what_dim: int = 20,
    what_hidden: int = 400,
    decoder_bias: float = -3.0,
    likelihood_scale: float = 0.5,
    presence_prior: float = 0.01,
    count_prior: Literal["steps", "geometric"] = "steps",
    guide: Literal["residual", "recurrent"] = "residual",
    guide_hidden: int = 256,
    anchors: int = 9,
    baseline: Literal["none", "average", "network"] = "none",
) -> tuple[AIR, RecurrentGuide]:
    r"""Makes a model, and a guide with a baseline.

    Args:
        shape: The scenes' shape :math:`(C, H, W)`, or :math:`(H, W)` of grey ones.
        max_objects: See :class:`~pyro_models.air.AIR`.
        window_size: See :class:`~pyro_models.air.AIR`.
        window_scale: The prior median and standard deviation of the inverse scale :math:`s`, the
            number of windows that fit across the canvas.
        what_dim: See :class:`~pyro_models.air.AIR`.
        what_hidden: The width of the hidden layer of the windows' encoder and decoder.
        decoder_bias: See :class:`~pyro_models.air.AIR`.
        likelihood_scale: See :class:`~pyro_models.air.AIR`.
        presence_prior: See :class:`~pyro_models.air.AIR`.
        count_prior: See :class:`~pyro_models.air.AIR`.
        guide: ``"residual"`` for :class:`ResidualGuide`, ``"recurrent"`` for
            :class:`RecurrentGuide`.
        guide_hidden: The ``hidden`` of :class:`RecurrentGuide`.
        anchors: See :class:`RecurrentGuide`.
        baseline: ``"average"`` for :class:`DecayingAverage`, ``"network"`` for
            :class:`BaselineNetwork`, or ``"none"``. It is the guide's attribute ``baseline``.

    Example:
        >>> model, guide = model_and_guide((50, 50), baseline="average")
        >>> type(guide).__name__, type(guide.baseline).__name__
        ('ResidualGuide', 'DecayingAverage')
    """
    shape = Shape.of(shape)
    scale, deviation = window_scale
    model = AIR(
        shape,
        max_objects=max_objects,
        window_size=window_size,
        what_dim=what_dim,
        hidden=what_hidden,
        decoder_bias=decoder_bias,
        likelihood_scale=likelihood_scale,
        presence_prior=presence_prior,
        count_prior=count_prior,
        where_loc=(scale, 0.0, 0.0),
        where_scale=(deviation, 1.0, 1.0),
    )
    make_baseline = {
        "none": lambda: None,
        "average": lambda: DecayingAverage(max_objects),
        "network": lambda: BaselineNetwork(shape.values, guide_hidden),
    }[baseline]
    guide_class = {"residual": ResidualGuide, "recurrent": RecurrentGuide}[guide]
    return model, guide_class(
        model,
        hidden=guide_hidden,
        encoder_hidden=what_hidden,
        anchors=anchors,
        baseline=make_baseline(),
    )
