"""What guides for Attend, Infer, Repeat have in common: one step per object.

A guide's networks never read a presence that was drawn. A step matters only if all earlier objects
are present, so its distributions are those given that they are, and presences act as masks alone.
So an estimator can run the steps once, with all objects present, and sum over the count.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.runtime import get_plates
from torch import Tensor, nn

from guides.baselines import LearnsFromCosts
from pyro_models.air import AIR
from pyro_models.handlers import plate
from pyro_models.masks import shares, tight_boxes
from pyro_models.networks import MLP
from pyro_models.objective import annealed
from pyro_models.presence import sample_presence, where_present
from pyro_models.shapes import require_batch
from pyro_models.store import GuardedModule, scoped_store


class Detection(NamedTuple):
    r"""The objects that a guide infers in images, with every latent at its mean.

    Attributes:
        counts: The most probable number of objects in each image, of shape :math:`(B)`.
        probabilities: The probability of each count, of shape :math:`(B, N + 1)`.
        boxes: The tightest boxes :math:`(x_0, y_0, x_1, y_1)` around the objects' masks, in pixels,
            half open, of shape :math:`(B, N, 4)`; zeros beyond the first ``counts``, and for an
            object without a pixel.
        z_where: Places, of shape :math:`(B, N, 3)`; also of the steps beyond ``counts``.
        z_what: Appearance codes, of shape :math:`(B, N, D)`; also of the steps beyond ``counts``.
        reconstruction: The canvas of the first ``counts`` objects, of shape :math:`(B, C, H, W)`.
        windows: The boxes of the objects' windows, in pixels, clipped to the image, of shape
            :math:`(B, N, 4)`; zeros beyond the first ``counts``. An object fills its window only
            in part.
        masks: The share of each object in each pixel, in [0, 1], of shape :math:`(B, N, H, W)`;
            zeros beyond the first ``counts``. If objects add up, it is a share of the pixel's ink:
            see :func:`~pyro_models.masks.shares`. If they are opaque, it is the probability that
            the pixel shows the object, given its colour: see
            :meth:`~pyro_models.likelihoods.LayeredImage.responsibilities`.
        background: What is under the objects, of shape :math:`(B, C, H, W)`.
        z_background: The background's latent, flattened, of shape :math:`(B, K)`; :math:`K` is 0 if
            it has none.

    Example:
        >>> Detection(*torch.zeros(10, 2))  # doctest: +ELLIPSIS
        Detection(counts (2,), probabilities (2,), ..., background (2,), z_background (2,))
    """

    counts: Tensor
    probabilities: Tensor
    boxes: Tensor
    z_where: Tensor
    z_what: Tensor
    reconstruction: Tensor
    windows: Tensor
    masks: Tensor
    background: Tensor
    z_background: Tensor

    def __repr__(self) -> str:
        shapes = (f"{name} {tuple(value.shape)}" for name, value in self._asdict().items())
        return f"{type(self).__name__}({', '.join(shapes)})"


class Proposal(NamedTuple):
    r"""The distributions of one step, given that all earlier objects are present.

    Attributes:
        logits: The logits of the presence, of shape :math:`(*, B)`.
        where: The distribution of the place, with values of shape :math:`(*, B, 3)`.
        visible: The image of which the window is cropped, of shape :math:`(*, B, C, H, W)`.
        state: The state that a baseline reads, of shape :math:`(*, B, S)`.
    """

    logits: Tensor
    where: TorchDistribution
    visible: Tensor
    state: Tensor


class Inferred(NamedTuple):
    r"""The latents that a step drew: a place :math:`(*, B, 3)` and a code :math:`(*, B, D)`."""

    z_where: Tensor
    z_what: Tensor


Steps = Generator[Proposal, Inferred, None]
"""Yields the proposal of each step, and receives the latents that were drawn from it."""


class StepwiseGuide(GuardedModule):
    r"""A guide that infers one object a step. Subclasses define :meth:`steps`.

    .. math::
        z^\text{pres}_i & \sim \text{Bernoulli}(p_i \, z^\text{pres}_{i-1}) \\
        z^\text{where}_i & \sim q_i(z) \\
        z^\text{what}_i & \sim q(z | \text{crop}(v_i, z^\text{where}_i))

    where the subclass has :math:`p_i`, :math:`q_i` and the visible image :math:`v_i`, given the
    image and the latents of the steps before.

    The window encoder ``encoder`` is the subclass's too; see :func:`window_encoder`.

    Args:
        model: The model whose latents are inferred; the guide has its sizes.
        baseline: The control variate that a score function estimator subtracts from the cost of a
            presence: :class:`~guides.baselines.DecayingAverage`,
            :class:`~guides.baselines.BaselineNetwork` or a module like them, called with step,
            images and state. See :class:`~guides.baselines.LearnsFromCosts` for one with
            ``update``.
    """

    encoder: nn.Module

    def __init__(self, model: AIR, *, baseline: nn.Module | None = None) -> None:
        super().__init__()
        # Not a submodule: the state dict would have the model's weights twice.
        self.__dict__["model"] = model
        self.baseline = baseline

    def steps(self, images: Tensor, background: Tensor) -> Steps:
        r"""Proposes each of the ``max_objects`` steps.

        A generator: ``latents = yield Proposal(...)`` once a step. It runs in the plate of scenes.

        Args:
            images: Scenes, of shape :math:`(B, C, H, W)`, in [0, 1].
            background: What is under the objects, as inferred, of shape :math:`(*, B, C, H, W)`, or
                one that broadcasts to it.
        """
        raise NotImplementedError

    def backdrop(self, images: Tensor) -> TorchDistribution | None:
        r"""Returns the distribution of the background's latent; ``None`` if it has none.

        Args:
            images: Scenes, of shape :math:`(B, C, H, W)`, in [0, 1].
        """
        if self.model.background.latent_shape is None:
            return None
        raise NotImplementedError

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
        encoder = self.encoder
        z_pres: Tensor | None = None
        inferred: Inferred | None = None
        # Not len(images), which torch.export would treat as a constant.
        with annealed(beta), plate("scenes", images.shape[0], images.device):
            backdrop = self.backdrop(images)
            z_background = None if backdrop is None else pyro.sample("z_background", backdrop)
            steps = self.steps(images, model.background.image(z_background))
            for i in range(model.max_objects):
                proposal = next(steps) if inferred is None else steps.send(inferred)
                infer = self.baseline_infer(i, images, proposal.state, z_pres)
                z_pres = sample_presence(f"z_pres_{i}", z_pres, proposal.logits, infer)
                with where_present(z_pres):
                    z_where = pyro.sample(f"z_where_{i}", proposal.where)
                    what = self.encode(encoder, proposal.visible, z_where)
                    z_what = pyro.sample(f"z_what_{i}", what)
                inferred = Inferred(z_where, z_what)

    def encode(self, encoder: nn.Module, visible: Tensor, z_where: Tensor) -> TorchDistribution:
        r"""Returns the distribution of the appearance code of a window.

        Args:
            encoder: The window encoder.
            visible: The image that the window is cropped of, of shape :math:`(*, B, C', H, W)`.
            z_where: Its place, of shape :math:`(*, B, 3)`.
        """
        window = self.look_closely(self.model.crop(visible, z_where))
        loc, log_scale = encoder(window).to(z_where.dtype).chunk(2, dim=-1)
        # Bounded, as the exponential of a network's output may overflow.
        return dist.Normal(loc, log_scale.clamp(max=1.0).exp()).to_event(1)

    def look_closely(self, windows: Tensor) -> Tensor:
        r"""Makes inputs of the window encoder, of shape :math:`(*, F)`.

        Args:
            windows: Windows of the visible images, of shape :math:`(*, C', S, S)`.
        """
        return windows.flatten(-3)

    def baseline_infer(
        self, step: int, images: Tensor, state: Tensor, z_pres: Tensor | None
    ) -> dict[str, Any]:
        r"""Returns the baseline's entries of the ``infer`` dictionary of a presence site.

        Args:
            step: The step, from 0.
            images: Scenes, of shape :math:`(B, C, H, W)`.
            state: The state before the step, of shape :math:`(*, B, S)`.
            z_pres: The previous presence, of shape :math:`(*, B)`; ``None`` at the first step.

        Returns:
            An empty dictionary without a baseline. The baseline's value has the shape of the site,
            with the dimensions of the plates around the guide, such as those of particles.
        """
        if self.baseline is None:
            return {}
        # The state of the first step lacks the dimension of particles that its presence has.
        plates = [(frame.size, frame.dim) for frame in get_plates() if frame.dim is not None]
        shape = torch.broadcast_shapes(
            state.shape[:-1], *((size,) + (1,) * (-dim - 1) for size, dim in plates)
        )
        value = self.baseline(step, images, state.expand(*shape, -1)).expand(shape)
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

        The steps run without Pyro's handlers, which take a third of the time of a single image.

        Args:
            images: Scenes, of shape :math:`(B, C, H, W)`, in [0, 1].
        """
        model, encoder = self.model, self.encoder
        require_batch(images, model.shape)
        backdrop = self.backdrop(images)
        z_background = None if backdrop is None else backdrop.mean
        background = model.background.image(z_background)
        steps = self.steps(images, background)
        inferred: Inferred | None = None
        logits, latents = [], []
        with pyro.validation_enabled(False):
            for _ in range(model.max_objects):
                proposal = next(steps) if inferred is None else steps.send(inferred)
                z_where = proposal.where.mean
                inferred = Inferred(z_where, self.encode(encoder, proposal.visible, z_where).mean)
                logits.append(proposal.logits)
                latents.append(inferred)
        z_where, z_what = (torch.stack(values, dim=1) for values in zip(*latents, strict=True))
        p = torch.stack(logits, dim=1).sigmoid()
        # A loop, as ONNX has no cumprod.
        at_least = [torch.ones_like(p[:, 0])]
        for i in range(model.max_objects):
            at_least.append(at_least[-1] * p[:, i])
        probabilities = torch.stack(at_least, dim=1) * torch.cat(
            [1 - p, torch.ones_like(p[:, :1])], dim=1
        )
        counts = probabilities.argmax(dim=1)
        if z_background is None:
            z_background = images.new_zeros(images.shape[0], 0)
        objects, masks = model.layers(z_where, z_what, counts, background)
        if model.opaque:
            # What a pixel shows is told by its colour, too: edges follow those of the image.
            masks = model.visible_parts(z_where, z_what, counts, background, images)
        else:
            masks = shares(masks.squeeze(-3), images)
        return Detection(
            counts=counts,
            probabilities=probabilities,
            boxes=tight_boxes(masks),
            z_where=z_where,
            z_what=z_what,
            reconstruction=background + objects.sum(dim=1),
            windows=model.boxes(z_where, counts),
            masks=masks,
            background=background.expand_as(images),
            z_background=z_background.flatten(1),
        )


def window_encoder(model: AIR, hidden: int, channels: int | None = None) -> MLP:
    """Returns a network from a window to the mean and log-deviation of an appearance code.

    Args:
        model: The model, which has the sizes of windows and codes.
        hidden: The width of the hidden layer.
        channels: The channels of a window; those of the model's images if ``None``.
    """
    windows = (channels or model.shape.channels) * model.window_size**2
    return MLP(windows, 2 * model.what_dim, (hidden,))
