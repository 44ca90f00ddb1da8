"""The model of Attend, Infer, Repeat: scenes of up to N objects."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_models.backgrounds import Kind, make_background
from pyro_models.boxes import inside
from pyro_models.handlers import plate
from pyro_models.likelihoods import LayeredImage, Layers, NormalImage
from pyro_models.networks import MLP, boxes, clipped_boxes, crop, paste
from pyro_models.objective import annealed
from pyro_models.presence import FixPresence, present_before, sample_presence, where_present
from pyro_models.shapes import Shape, require_batch
from pyro_models.sharing import cached
from pyro_models.store import GuardedModule, scoped_store

MOST_ROUNDS = 1_000
"""How often as many scenes are drawn as are asked for, until so many have objects that keep
apart."""
EDGE = 1e-3
"""Masks below it have darker colours than their object."""

Composition = Literal["sum", "over", "mixture"]
"""How the objects of :class:`AIR` make a canvas."""


class Scene(NamedTuple):
    """Scenes drawn from the prior.

    Attributes:
        images: Scenes with the likelihood's noise, of shape :math:`(n, C, H, W)`.
        canvas: The scenes without noise, of shape :math:`(n, C, H, W)`.
        counts: The numbers of objects, of shape :math:`(n)`.
        boxes: The objects' boxes in pixels, clipped to the canvas, of shape :math:`(n, N, 4)`;
            zeros beyond the first ``counts``.
    """

    images: Tensor
    canvas: Tensor
    counts: Tensor
    boxes: Tensor


class Appearance(NamedTuple):
    r"""The windows of objects: an object has its colour where its mask is 1, and is nothing at 0.

    Attributes:
        mask: In [0, 1], of shape :math:`(*, 1, S, S)`. That of a grey object is its grey level.
        colour: In [0, 1], of shape :math:`(*, C, S, S)`, or :math:`(*, C, 1, 1)` without texture.
            That of a grey object is 1.
    """

    mask: Tensor
    colour: Tensor


class AIR(GuardedModule):
    r"""The generative model of Attend, Infer, Repeat.

    .. math::
        z^\text{pres}_i & \sim \text{Bernoulli}(\pi_i \, z^\text{pres}_{i-1}) \\
        z^\text{where}_i & \sim \mathcal{N}(\mu, \text{diag}(\sigma^2))
            \quad \text{where } z^\text{pres}_i = 1 \\
        z^\text{what}_i & \sim \mathcal{N}(0, I) \quad \text{where } z^\text{pres}_i = 1 \\
        x & \sim \mathcal{N} \Big( \sum_i z^\text{pres}_i
            \, \text{paste}(f(z^\text{what}_i), z^\text{where}_i), \, \tau^2 I \Big)

    for :math:`i = 0, \dots, N - 1`, with a decoder :math:`f` into :math:`[0, 1]`. A place is
    :math:`(\log s, x, y)`. In colour, :math:`f` has a mask and a colour for each pixel of a window:
    see :meth:`appearance`. The inverse scale :math:`s`, Normal in the paper, is log-normal here, so
    that it is positive. Sites are ``z_pres_i``, ``z_where_i``, ``z_what_i`` and ``x``, in the plate
    ``scenes``. The latents of an absent object are masked: their log-density is exactly zero.

    With a ``repulsion`` :math:`\lambda` above zero, objects keep apart: the density has the factors

    .. math:: \prod_{j < i} \exp(- \lambda \, o_{ij}^2) \quad \text{where } z^\text{pres}_i = 1

    as sites ``apart_i``, where :math:`o_{ij} \in [0, 1]` is the part of the smaller window that is
    inside the other one. As they are at most 1, and the joint density is not divided by the
    constant by which it integrates to 1, an ELBO is a lower bound still, and a little lower.
    Without them, what is left of a large object that is not drawn exactly may be worth another.

    Presence sites are marked as in :mod:`pyro_models.presence`, by which estimators that sum over
    the count recognise them.

    Args:
        shape: The canvas' shape :math:`(C, H, W)`, or :math:`(H, W)` of grey scenes, in pixels.
        max_objects: The largest number :math:`N` of objects.
        window_size: The side of an object's window in pixels.
        what_dim: The number of features of an appearance.
        hidden: The width of the decoder's hidden layer.
        decoder_bias: Added to the logits of masks. Below zero, windows are dark at first.
        likelihood_scale: The likelihood's standard deviation :math:`\tau`.
        presence_prior: The prior probability :math:`\pi` of one more object, between 0 and 1.
        count_prior: With ``"steps"``, :math:`\pi_i = \pi`. With ``"geometric"``, the :math:`\pi_i`
            are such that the count has :math:`p(n) \propto \pi^n` for :math:`n \le N`.
        where_loc: The prior means of :math:`(s, x, y)`; that of :math:`s` is its median.
        where_scale: The prior standard deviations of :math:`(s, x, y)`; for :math:`s` to first
            order, :math:`\text{sd}(\log s) \, \text{median}(s)`.
        square_windows: Whether windows are square on a canvas that is not; see
            :func:`~pyro_models.networks.paste`.
        background: What is under the objects: see :mod:`pyro_models.backgrounds`. ``"black"`` is
            nothing; ``"constant"`` is a colour of each scene, and ``"image"`` a coarse image of
            each scene, the latent ``z_background``; ``"learned"`` is one image of all scenes, a
            weight.
        composition: ``"sum"``, as above, or opaque objects, of which the first one is in front,
            and each occludes those behind it: see :meth:`occlude`. With ``"over"`` a pixel is
            Normal around the mean of what is there, with ``"mixture"`` around one of the objects or
            the background: see :class:`~pyro_models.likelihoods.LayeredImage`. A background other
            than black needs one of these, as a sum cannot be darker than the background.
        mask_scale: The deviation :math:`\tau` by which :meth:`visible_parts` tells what a pixel
            shows; ``likelihood_scale`` if ``None``. Training may need a larger one.
        repulsion: :math:`\lambda`, what it costs a window to be inside another one, in nats.
        texture: Whether an object has a colour for each pixel of its window, or else one colour.
            Objects of one colour cannot draw two neighbours that differ in it.

    Raises:
        ValueError: If arguments exclude each other.

    Attributes:
        window_pixels: The side, in pixels of the canvas, of a window with the prior median of
            :math:`s`.
        window_spread: The prior standard deviation of its logarithm.
        background: The :class:`~pyro_models.backgrounds.Background`.

    Example:
        >>> scenes = AIR((50, 50)).sample(4, count=2)
        >>> scenes.images.shape, scenes.counts.tolist()
        (torch.Size([4, 1, 50, 50]), [2, 2, 2, 2])

    References:
        | Attend, Infer, Repeat: Fast Scene Understanding with Generative Models
          (Eslami et al., 2016)
        | https://arxiv.org/abs/1603.08575
        | A Model for Clustering (Strauss, 1975), for points that keep apart
        | https://doi.org/10.1093/biomet/62.2.467
    """

    def __init__(
        self,
        shape: Shape = Shape(1, 50, 50),
        *,
        max_objects: int = 3,
        window_size: int = 24,
        what_dim: int = 20,
        hidden: int = 400,
        decoder_bias: float = -3.0,
        likelihood_scale: float = 0.5,
        presence_prior: float = 0.01,
        count_prior: Literal["steps", "geometric"] = "steps",
        where_loc: tuple[float, float, float] = (3.0, 0.0, 0.0),
        where_scale: tuple[float, float, float] = (0.1, 1.0, 1.0),
        square_windows: bool = True,
        background: Kind = "black",
        composition: Composition = "sum",
        texture: bool = True,
        mask_scale: float | None = None,
        repulsion: float = 0.0,
    ) -> None:
        super().__init__()
        if background != "black" and composition == "sum":
            raise ValueError(f"background {background!r} needs composition 'over' or 'mixture'")
        if not 0 < presence_prior < 1:
            raise ValueError(f"presence_prior is {presence_prior}: it must be between 0 and 1")
        self.shape = Shape.of(shape)
        self.max_objects = max_objects
        self.window_size = window_size
        self.what_dim = what_dim
        self.count_prior = count_prior
        self.square_windows = square_windows
        self.composition = composition
        self.decoder_bias = decoder_bias
        self.likelihood_scale = likelihood_scale
        # Where a grey object only adds light, its mask is all of it.
        self.opaque = composition != "sum"
        self.has_colour = self.shape.channels > 1 or self.opaque
        if not (texture or self.has_colour):
            raise ValueError("texture is False: grey objects that add light have no colour")
        if repulsion < 0:
            raise ValueError(f"repulsion is {repulsion}: it must be 0 or more")
        self.texture = texture
        self.mask_scale = likelihood_scale if mask_scale is None else mask_scale
        self.repulsion = repulsion
        pixels = window_size**2
        colours = self.shape.channels * (pixels if texture else 1) if self.has_colour else 0
        self.decoder = MLP(what_dim, pixels + colours, (hidden,))
        s, x, y = where_loc
        s_scale, x_scale, y_scale = where_scale
        self.window_pixels = min(self.shape.sides) / s
        self.window_spread = s_scale / s
        self.background = make_background(background, self.shape, self.window_pixels)
        # Constants: they move with the module, and are not in the state dict.
        for name, value in {
            "presence_prior": presence_prior,
            "where_loc": (math.log(s), x, y),
            "where_scale": (s_scale / s, x_scale, y_scale),
            "zero": 0.0,
        }.items():
            self.register_buffer(name, torch.tensor(value), persistent=False)
        # An opaque disc, which a mask is at first. Faint masks would pile up on one object.
        axis = (2 * torch.arange(window_size) + 1) / window_size - 1
        disc = 4 - 8 * (axis.square() + axis.square().unsqueeze(-1))
        self.register_buffer("disc", disc, persistent=False)

    def appearance(self, z_what: Tensor) -> Appearance:
        r"""Decodes codes of shape :math:`(*, D)` to masks and colours."""
        window = (1, self.window_size, self.window_size)
        mask, colour = self.decoder(z_what).tensor_split((self.window_size**2,), dim=-1)
        mask = mask.unflatten(-1, window)
        mask = (4 * mask + self.disc if self.opaque else mask + self.decoder_bias).sigmoid()
        if not self.has_colour:
            return Appearance(mask, torch.ones_like(mask))
        sides = window[1:] if self.texture else (1, 1)
        return Appearance(mask, colour.sigmoid().unflatten(-1, (self.shape.channels, *sides)))

    def decode(self, z_what: Tensor) -> Tensor:
        r"""Decodes codes of shape :math:`(*, D)` to windows :math:`(*, C, S, S)` in [0, 1]."""
        mask, colour = self.appearance(z_what)
        return mask * colour if self.has_colour else mask

    def paste(self, z_what: Tensor, z_where: Tensor) -> Tensor:
        r"""Decodes objects and pastes each onto a canvas of zeros.

        Within :func:`~pyro_models.sharing.one_estimate` the result is cached, so that model and a
        guide that subtracts objects from the image decode each object once.

        Args:
            z_what: Appearance codes, of shape :math:`(*, D)`.
            z_where: Places, of shape :math:`(*, 3)`.

        Returns:
            Canvases of shape :math:`(*, C, H, W)`.
        """
        return cached(self._paste, z_what, z_where)

    def _paste(self, z_what: Tensor, z_where: Tensor) -> Tensor:
        return paste(self.decode(z_what), z_where, self.shape.sides, square=self.square_windows)

    def occlude(
        self, visible: Tensor, background: Tensor, z_what: Tensor, z_where: Tensor
    ) -> tuple[Tensor, Tensor]:
        r"""Puts an object behind those that are in front of it.

        With the visible share :math:`v_0 = 1`, the object's mask :math:`a_i` and colour
        :math:`c_i`, and the background :math:`b`, a canvas is
        :math:`b + \sum_i z^\text{pres}_i d_i`, where

        .. math:: d_i = v_{i-1} a_i (c_i - b), \quad v_i = v_{i-1} (1 - a_i)

        Args:
            visible: :math:`v_{i-1}`, of shape :math:`(*, 1, H, W)`.
            background: :math:`b`, of shape :math:`(*, C, H, W)`, or one that broadcasts to it.
            z_what: Appearance codes, of shape :math:`(*, D)`.
            z_where: Places, of shape :math:`(*, 3)`.

        Returns:
            :math:`d_i`, of shape :math:`(*, C, H, W)`, and :math:`v_i`, of shape
            :math:`(*, 1, H, W)`.

        References:
            | Compositing Digital Images (Porter and Duff, 1984)
            | https://doi.org/10.1145/800031.808606
        """
        colour, mask = cached(self._paste_both, z_what, z_where).split(
            [self.shape.channels, 1], dim=-3
        )
        return visible * (colour - mask * background), visible * (1 - mask)

    def _paste_both(self, z_what: Tensor, z_where: Tensor) -> Tensor:
        """Pastes colours, multiplied by masks, and masks, of shape (*, C + 1, H, W)."""
        mask, colour = self.appearance(z_what)
        sides, square = self.shape.sides, self.square_windows
        if self.texture:
            windows = torch.cat([mask * colour, mask], dim=-3)
            return paste(windows, z_where, sides, square=square)
        # Of one colour, only the mask has to be pasted.
        mask = paste(mask, z_where, sides, square=square)
        return torch.cat([mask * colour, mask], dim=-3)

    def crop(self, images: Tensor, z_where: Tensor) -> Tensor:
        r"""Crops the windows of objects out of images: see :func:`~pyro_models.networks.crop`."""
        return crop(images, z_where, self.window_size, square=self.square_windows)

    def boxes(self, z_where: Tensor, counts: Tensor) -> Tensor:
        r"""Returns the boxes of the first ``counts`` objects' windows, clipped to the canvas.

        Args:
            z_where: Places, of shape :math:`(M, N, 3)`.
            counts: The numbers of objects, of shape :math:`(M)`.

        Returns:
            Boxes :math:`(x_0, y_0, x_1, y_1)` in pixels, of shape :math:`(M, N, 4)`.
        """
        return clipped_boxes(z_where, self.shape.sides, counts, square=self.square_windows)

    def layers(
        self,
        z_where: Tensor,
        z_what: Tensor,
        counts: Tensor,
        background: Tensor,
    ) -> tuple[Tensor, Tensor]:
        r"""Draws each of the first ``counts`` objects on a canvas of its own.

        Args:
            z_where: Places, of shape :math:`(M, N, 3)`.
            z_what: Appearance codes, of shape :math:`(M, N, D)`.
            counts: The numbers of objects, of shape :math:`(M)`.
            background: What is under them, of shape :math:`(M, C, H, W)`, or one that broadcasts to
                it.

        Returns:
            What each object adds to the background, of shape :math:`(M, N, C, H, W)`, and its
            visible mask, of shape :math:`(M, N, 1, H, W)`; zeros beyond the first ``counts``.
        """
        if self.opaque:
            latents = zip(z_what.unbind(1), z_where.unbind(1), strict=True)
            added, visible = zip(*self._front_to_back(latents, background), strict=True)
            objects = torch.stack(added, dim=1)
            whole = torch.ones_like(visible[0])
            masks = torch.stack([a - b for a, b in itertools.pairwise([whole, *visible])], dim=1)
        elif self.has_colour:
            # Decoded once for both.
            objects, masks = self._paste_both(z_what, z_where).split(
                [self.shape.channels, 1], dim=-3
            )
        else:
            objects = masks = self._paste(z_what, z_where)
        return self._present(objects, counts), self._present(masks, counts)

    @staticmethod
    def _present(objects: Tensor, counts: Tensor) -> Tensor:
        """Sets objects beyond the first ``counts`` to zero."""
        present = torch.arange(objects.shape[1], device=counts.device) < counts.unsqueeze(1)
        return present[..., None, None, None] * objects

    def draw(
        self,
        z_where: Tensor,
        z_what: Tensor,
        counts: Tensor,
        z_background: Tensor | None = None,
    ) -> Tensor:
        r"""Draws the first ``counts`` objects on canvases, of shape :math:`(M, C, H, W)`.

        Args:
            z_where: Places, of shape :math:`(M, N, 3)`.
            z_what: Appearance codes, of shape :math:`(M, N, D)`.
            counts: The numbers of objects, of shape :math:`(M)`.
            z_background: The background's latent; ``None`` if it has none.
        """
        background = self.background.image(z_background)
        objects, _ = self.layers(z_where, z_what, counts, background)
        return background + objects.sum(dim=1)

    def step_logits(self, presence_prior: Tensor | float | None = None) -> Tensor:
        r"""Returns the prior logits of one more object at each step.

        Args:
            presence_prior: An annealed :math:`\pi`; that of the model if ``None``.

        Returns:
            :math:`\text{logit}(\pi_i)`, of shape :math:`(N)`.
        """
        prior = self.presence_prior if presence_prior is None else presence_prior + self.zero
        if self.count_prior == "steps":
            return torch.logit(prior).expand(self.max_objects)
        # For P(count = n) proportional to r^n, with k = N - i:
        # P(count > i | count >= i) = (r + ... + r^k) / (1 + r + ... + r^k).
        powers = prior ** torch.arange(1, self.max_objects + 1, device=prior.device)
        return powers.cumsum(0).flip(0).log()

    def forward(
        self,
        images: Tensor | None = None,
        *,
        beta: Tensor | float = 1.0,
        presence_prior: Tensor | float | None = None,
        n: int = 1,
    ) -> Tensor:
        r"""Runs the generative process.

        Args:
            images: Observed scenes, of shape :math:`(B, C, H, W)`, in [0, 1]; scenes are sampled if
                ``None``.
            beta: Weight of the latents' log-densities in a loss.
            presence_prior: An annealed :math:`\pi`; that of the model if ``None``.
            n: How many scenes to sample if there are no images.

        Returns:
            The images, of shape :math:`(B, C, H, W)`.
        """
        if images is not None:
            require_batch(images, self.shape)
        logits = self.step_logits(presence_prior)
        # Read once: attribute access of a PyroModule is slow.
        zero, where_loc, where_scale = self.zero, self.where_loc, self.where_scale
        z_pres: Tensor | None = None
        presences: list[Tensor] = []
        wheres: list[Tensor] = []
        whats: list[Tensor] = []
        scenes = plate("scenes", n if images is None else len(images), zero.device)
        with annealed(beta), scenes:
            prior = self.background.prior()
            z_background = None if prior is None else pyro.sample("z_background", prior)
            background = self.background.image(z_background)
            where_prior = dist.Normal(where_loc, where_scale).to_event(1)
            what_prior = dist.Normal(zero, 1.0).expand([self.what_dim]).to_event(1)
            for i in range(self.max_objects):
                z_pres = sample_presence(f"z_pres_{i}", z_pres, logits[i])
                with where_present(z_pres):
                    z_where = pyro.sample(f"z_where_{i}", where_prior)
                    z_what = pyro.sample(f"z_what_{i}", what_prior)
                    if self.repulsion and wheres:
                        pyro.factor(f"apart_{i}", self.log_apart(z_where, wheres))
                presences.append(z_pres)
                wheres.append(z_where)
                whats.append(z_what)
        with scenes:
            # Not accumulated in place: TraceGraph_ELBO needs the provenance of every tensor to find
            # what depends on each presence.
            presence = torch.stack(torch.broadcast_tensors(*presences))
            if self.composition == "mixture":
                layers = self.opaque_layers(zip(whats, wheres, strict=True), background)
                return self.observe_layers(layers, presence, images)
            objects = torch.stack(self.contributions(whats, wheres, background))
            canvas = torch.einsum("i...b,i...bchw->...bchw", presence, objects)
            return self.observe(background + canvas, images)

    def log_apart(self, z_where: Tensor, earlier: Sequence[Tensor]) -> Tensor:
        r"""Returns :math:`- \lambda \sum_j o_{ij}^2` of an object and those before it, in nats.

        Args:
            z_where: The object's place, of shape :math:`(*, 3)`.
            earlier: The places of those before it, at least one.
        """
        box, *others = (
            boxes(z, self.shape.sides, square=self.square_windows) for z in (z_where, *earlier)
        )
        parts = [inside(box, other).square() for other in others]
        return -self.repulsion * torch.stack(torch.broadcast_tensors(*parts)).sum(0)

    def contributions(
        self, whats: Sequence[Tensor], wheres: Sequence[Tensor], background: Tensor
    ) -> list[Tensor]:
        r"""Returns what each object adds to the background if all before it are present.

        Args:
            whats: The appearance codes of each step, of shape :math:`(*, B, D)`.
            wheres: The places of each step, of shape :math:`(*, B, 3)`.
            background: What is under them, of shape :math:`(*, B, C, H, W)`, or one that broadcasts
                to it.

        Returns:
            Tensors of shape :math:`(*, B, C, H, W)`.
        """
        latents = zip(whats, wheres, strict=True)
        if self.composition == "sum":
            return [self.paste(*z) for z in latents]
        return [added for added, _ in self._front_to_back(latents, background)]

    def _front_to_back(
        self, latents: Iterable[tuple[Tensor, Tensor]], background: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields what each object adds, and the visible share behind it: see :meth:`occlude`."""
        visible = self.zero.new_ones(1, *self.shape.sides)
        for z in latents:
            added, visible = self.occlude(visible, background, *z)
            yield added, visible

    def opaque_layers(self, latents: Iterable[tuple[Tensor, Tensor]], background: Tensor) -> Layers:
        r"""Returns opaque objects apart from each other, if all are present.

        Args:
            latents: Appearance code and place of each object, from the front to the back, of shapes
                :math:`(*, D)` and :math:`(*, 3)`.
            background: What is under them, of shape :math:`(*, C, H, W)`, or one that broadcasts to
                it.
        """
        visible = [self.zero.new_ones(1, *self.shape.sides)]
        colours, shares = [], []
        for z in latents:
            colour, mask = cached(self._paste_both, *z).split([self.shape.channels, 1], dim=-3)
            # Colours are multiplied by the mask, which is zero outside the window.
            colours.append(colour / mask.clamp(min=EDGE))
            shares.append(visible[-1] * mask)
            visible.append(visible[-1] * (1 - mask))
        return Layers(
            torch.stack(colours),
            torch.stack(shares),
            torch.stack(torch.broadcast_tensors(*visible)),
            background,
        )

    def visible_parts(
        self,
        z_where: Tensor,
        z_what: Tensor,
        counts: Tensor,
        background: Tensor,
        images: Tensor,
    ) -> Tensor:
        r"""Returns the probability that each pixel shows each opaque object.

        Args:
            z_where: Places, of shape :math:`(M, N, 3)`.
            z_what: Appearance codes, of shape :math:`(M, N, D)`.
            counts: The numbers of objects, of shape :math:`(M)`.
            background: What is under them, of shape :math:`(M, C, H, W)`, or one that broadcasts to
                it.
            images: The scenes, of shape :math:`(M, C, H, W)`.

        Returns:
            Shape :math:`(M, N, H, W)`; zeros beyond the first ``counts``.
        """
        latents = zip(z_what.unbind(1), z_where.unbind(1), strict=True)
        layers = self.opaque_layers(latents, background)
        presence = torch.arange(z_where.shape[1], device=counts.device)[:, None] < counts
        image = LayeredImage(layers, presence.to(images.dtype), self.mask_scale)
        return image.responsibilities(images).movedim(0, 1)

    def observe_layers(self, layers: Layers, presence: Tensor, images: Tensor | None) -> Tensor:
        r"""Samples the site ``x`` from the likelihood of a mixture, or observes it.

        Override it for another likelihood; every estimator keeps working.

        Args:
            layers: Objects and background.
            presence: :math:`z^\text{pres}`, of shape :math:`(N, *, B)`.
            images: Observed scenes, of shape :math:`(B, C, H, W)`, or ``None``.
        """
        return pyro.sample("x", LayeredImage(layers, presence, self.likelihood_scale), obs=images)

    def observe(self, canvas: Tensor, images: Tensor | None) -> Tensor:
        r"""Samples the site ``x`` from the likelihood, or observes it.

        Override it for another likelihood; every estimator keeps working.

        Args:
            canvas: The background and the objects, of shape :math:`(*, B, C, H, W)`.
            images: Observed scenes, of shape :math:`(B, C, H, W)`, or ``None``.
        """
        likelihood = NormalImage(dist.Normal(canvas, self.likelihood_scale), 3)
        return pyro.sample("x", likelihood, obs=images)

    @torch.no_grad()
    @scoped_store
    def sample(self, n: int, count: int | None = None) -> Scene:
        """Draws scenes from the prior.

        With a ``repulsion``, scenes are drawn without it, and each is accepted with the probability
        that is the product of its factors.

        Args:
            n: How many.
            count: The number of objects in each, from 0 to ``max_objects``; drawn from the prior if
                ``None``. With a small ``presence_prior`` most of these scenes are empty.

        Raises:
            ValueError: If hardly any scene is accepted.
        """
        if not self.repulsion:
            return self._draw_scenes(n, count)[0]
        parts: list[Scene] = []
        missing = n
        for _ in range(MOST_ROUNDS):
            scenes, log_apart = self._draw_scenes(n, count)
            rows = (torch.rand_like(log_apart).log() < log_apart).nonzero().squeeze(-1)
            parts.append(Scene(*(value[rows[:missing]] for value in scenes)))
            missing -= len(parts[-1].counts)
            if not missing:
                return Scene(*map(torch.cat, zip(*parts, strict=True)))
        raise ValueError(
            f"repulsion {self.repulsion:g}: of {MOST_ROUNDS * n} scenes only {n - missing} have "
            "objects that keep apart: draw fewer objects"
        )

    def _draw_scenes(self, n: int, count: int | None) -> tuple[Scene, Tensor]:
        """Draws scenes without repulsion; returns the logarithm of its factors too, of shape
        (n)."""
        with nullcontext() if count is None else FixPresence(present_before(count)):
            trace = poutine.trace(self).get_trace(n=n)
        nodes: dict[str, Any] = trace.nodes
        trace.compute_log_prob(lambda name, site: name.startswith("apart_"))
        factors = [site["log_prob"] for name, site in nodes.items() if name.startswith("apart_")]
        steps = range(self.max_objects)
        counts = torch.stack([nodes[f"z_pres_{i}"]["value"] for i in steps]).sum(0).long()
        wheres = torch.stack([nodes[f"z_where_{i}"]["value"] for i in steps], dim=1)
        x = nodes["x"]
        scenes = Scene(x["value"], x["fn"].mean, counts, self.boxes(wheres, counts))
        return scenes, sum(factors, self.zero.new_zeros(n))
