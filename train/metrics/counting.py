"""How well a model of scenes counts, explains and finds objects."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import ClassVar, NamedTuple

import numpy as np
import pyro
import torch
from pyro import poutine
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from guides.air import RecurrentGuide
from pyro_models.air import AIR
from pyro_models.sharing import one_estimate
from train.data.batches import Batches, as_input
from train.data.scenes import Scenes, ScenesSplit
from train.engine.runs import Run
from train.estimators import ImportanceWeightedELBO, MarginalELBO
from train.metrics.goals import Beats, Goal
from train.metrics.measuring import Measures, Unmeasurable
from train.metrics.references import majority, mean_image_mse


class Found(NamedTuple):
    r"""What a model and guide make of scenes.

    Attributes:
        elbos: Nats a scene, at beta 1, with the likelihood's constant, of shape :math:`(M)`.
        drawn: The counts in one draw from the guide, of shape :math:`(M)`.
        counts: The most probable counts, all else at its mean, of shape :math:`(M)`.
        boxes: Boxes there, of shape :math:`(M, N, 4)`.
        squares: The mean square of a pixel's error there, of shape :math:`(M)`.
    """

    elbos: Tensor
    drawn: Tensor
    counts: Tensor
    boxes: Tensor
    squares: Tensor


@torch.no_grad()
@pyro.get_param_store().scope()
def draw_counts(guide: RecurrentGuide, images: Tensor) -> Tensor:
    """The number of objects in one draw from the guide for each image, of shape :math:`(B)`."""
    trace = poutine.trace(guide).get_trace(images)
    steps = range(guide.model.max_objects)
    return sum(trace.nodes[f"z_pres_{i}"]["value"] for i in steps).long()


@torch.no_grad()
@pyro.get_param_store().scope()
@one_estimate()
def elbo(
    model: AIR, guide: RecurrentGuide, images: Tensor, estimator: MarginalELBO | None = None
) -> Tensor:
    """The ELBO of each scene in nats at beta 1, the count summed out, of shape :math:`(B)`.

    Args:
        model: The model.
        guide: Its guide.
        images: Scenes, of shape :math:`(B, H, W)`.
        estimator: One that has seen the pair before need not examine it again.
    """
    return (estimator or MarginalELBO()).elbo(model, guide, images)


@torch.no_grad()
@pyro.get_param_store().scope()
def iw_bound(
    model: AIR, guide: RecurrentGuide, images: Tensor, particles: int = 100, rows: int = 2_000
) -> Tensor:
    """:class:`~train.estimators.ImportanceWeightedELBO`'s bound of each scene, in nats.

    Args:
        model: The model.
        guide: Its guide.
        images: Scenes, of shape :math:`(B, H, W)`.
        particles: The number :math:`K` of draws a scene.
        rows: About how many draws are in memory at a time.

    Returns:
        The bound, of shape :math:`(B)`.
    """
    estimator = ImportanceWeightedELBO(particles)

    @one_estimate()
    def bound(part: Tensor) -> Tensor:
        return estimator.bound(model, guide, part)

    return torch.cat([bound(part) for part in images.split(max(rows // particles, 1))])


@torch.no_grad()
def find(model: AIR, guide: RecurrentGuide, scenes: Tensor, batch: int = 500) -> Found:
    r"""Looks at scenes, some at a time.

    Args:
        model: The model.
        guide: Its guide.
        scenes: Of shape :math:`(M, H, W)`, uint8.
        batch: How many at a time.
    """
    device = model.zero.device
    estimator = MarginalELBO()
    parts = []
    for images in scenes.split(batch):
        images = as_input(images.to(device))
        detection = guide.detect(images)
        found = Found(
            elbo(model, guide, images, estimator),
            draw_counts(guide, images),
            detection.counts,
            detection.boxes,
            (detection.reconstruction - images).square().mean((1, 2)),
        )
        parts.append([each.cpu() for each in found])
    return Found(*map(torch.cat, zip(*parts, strict=True)))


def measure(
    watch: Watch, measures: Measures, iw_particles: int = 100, iw_scenes: int | None = None
) -> Callable[[], np.ndarray]:
    """Takes the measures of a watched model and guide on held-out scenes.

    - ``count_accuracy`` is the share of scenes whose count one draw from the guide gives,
      ``count_accuracy_map`` the share whose most probable count, all else at its mean, is right,
      and ``count_accuracy_majority`` that of the most frequent count.
    - ``box_iou`` is :func:`box_iou`.
    - ``reconstruction_mse`` is the mean square of a pixel's error of what is found,
      ``reconstruction_mse_mean_image`` that of the mean training scene, and
      ``reconstruction_mse_empty`` that of a canvas without objects.
    - ``elbo`` is in nats a scene, at beta 1, with the likelihood's constant; ``iw_bound`` is
      :func:`iw_bound` with ``iw_particles`` draws, on the first ``iw_scenes`` scenes.

    Args:
        watch: The model, the guide, and scenes.
        measures: Where measures go.
        iw_particles: Draws a scene in the importance-weighted bound.
        iw_scenes: On how many of the scenes, from the first, to take that bound; ``None`` for all.

    Returns:
        What counts the scenes by true count (rows) and by the count found at the means (columns).
    """
    model, guide, (train, scenes) = watch.model, watch.guide, watch.data
    few = scenes.images[:iw_scenes]

    @cache
    def found() -> Found:
        return find(model, guide, scenes.images)

    def bound() -> float:
        images = as_input(few.to(model.zero.device))
        return iw_bound(model, guide, images, iw_particles).double().mean().item()

    def truth() -> Tensor:
        if scenes.counts is None:
            raise Unmeasurable("the scenes have no counts")
        return scenes.counts

    def right(name: str) -> float:
        return (truth() == getattr(found(), name)).double().mean().item()

    def confusion() -> np.ndarray:
        size = max(model.max_objects, int(truth().max())) + 1
        table = torch.bincount(truth() * size + found().counts, minlength=size**2)
        return table.reshape(size, size).numpy()

    measures.take("count_accuracy", lambda: right("drawn"))
    measures.take("count_accuracy_map", lambda: right("counts"))
    measures.take("count_accuracy_majority", lambda: majority(truth().numpy()))
    measures.take("box_iou", lambda: box_iou(scenes, found().counts, found().boxes))
    measures.take("reconstruction_mse", lambda: found().squares.double().mean().item())
    measures.take(
        "reconstruction_mse_mean_image", lambda: mean_image_mse(train.images, scenes.images)
    )
    empty = torch.zeros_like(scenes.images[:1])
    measures.take("reconstruction_mse_empty", lambda: mean_image_mse(empty, scenes.images))
    measures.take("elbo", lambda: found().elbos.double().mean().item())
    measures.take("iw_bound", bound)
    return confusion


def box_iou(scenes: Scenes, counts: Tensor, boxes: Tensor) -> float:
    """The mean IoU of true boxes and those found, in scenes whose count is right and not zero.

    Boxes are matched so that it is largest.

    Args:
        scenes: Scenes with their counts.
        counts: The counts found, of shape :math:`(M)`.
        boxes: The boxes found, of shape :math:`(M, N, 4)`.

    Returns:
        A share from 0 to 1.

    Raises:
        Unmeasurable: If no box is known, or there is no such scene.
    """
    if scenes.boxes is None:
        raise Unmeasurable("the scenes have no boxes")
    right = torch.nonzero((counts == scenes.counts) & (counts > 0)).flatten().tolist()
    if not right:
        raise Unmeasurable("no scene with an object has its count right")
    ious = [matched_iou(scenes.boxes[i, : counts[i]], boxes[i, : counts[i]]) for i in right]
    return float(np.mean(ious))


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    r"""Intersection over union of each box with each other one.

    Args:
        boxes: :math:`(x_0, y_0, x_1, y_1)`, of shape :math:`(n, 4)`.
        others: The same, of shape :math:`(m, 4)`.

    Returns:
        Shares from 0 to 1, of shape :math:`(n, m)`.
    """
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(box[:, 2:] - box[:, :2]).prod(-1) for box in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1][None, :] - shared)


def matched_iou(truth: Tensor, found: Tensor) -> float:
    """The mean IoU of as many boxes, paired so that it is largest (Hungarian matching)."""
    shares = iou(truth, found).numpy()
    return float(shares[linear_sum_assignment(shares, maximize=True)].mean())


class Watch:
    """Looks at a model and guide while they are trained.

    Args:
        model: The model.
        guide: Its guide.
        data: Training and held-out scenes.
        batches: The training batches.
        run: Where stages of training are kept for the figures.

    Attributes:
        examples: Held-out scenes, of shape :math:`(8, H, W)`, one count after another if known.
    """

    PANELS: ClassVar = {
        "nats a scene": {"elbo": "ELBO, training", "held_out_elbo": "ELBO, held out"},
        "count accuracy": {
            "count_accuracy": "training batch",
            "held_out_count_accuracy": "held out",
        },
        "KL, nats a scene": {f"kl_z_{name}": name for name in ("pres", "where", "what")},
    }
    """What to plot of the run's metrics."""

    def __init__(
        self, model: AIR, guide: RecurrentGuide, data: ScenesSplit, batches: Batches, run: Run
    ) -> None:
        self.model = model
        self.guide = guide
        self.data = data
        self.batches = batches
        self.run = run
        self.estimator = MarginalELBO()
        self.few = data.held_out.select(slice(1_000))
        order = torch.arange(8) if self.few.counts is None else self.few.counts[:8].argsort()
        self.examples = as_input(self.few.images[:8][order[: len(self.few)]])

    def monitor(self, step: int) -> dict[str, float]:
        """The count accuracy on the last training batch, if the truth is known."""
        if self.data.train.counts is None:
            return {}
        rows = self.batches.indices(step - 1)
        images = as_input(self.batches.tensors[0][rows])
        right = draw_counts(self.guide, images).cpu() == self.data.train.counts[rows.cpu()]
        return {"count_accuracy": right.double().mean().item()}

    def evaluate(self, step: int) -> dict[str, float]:
        """Count accuracy and ELBO on 1,000 held-out scenes; keeps what is found in the examples."""
        found = self.guide.detect(self.examples.to(self.model.zero.device))
        self.run.save_stage(
            step,
            reconstruction=found.reconstruction.cpu().numpy(),
            boxes=found.boxes.cpu().numpy(),
            counts=found.counts.cpu().numpy(),
        )
        images = as_input(self.few.images.to(self.model.zero.device))
        values = elbo(self.model, self.guide, images, self.estimator)
        seen = {"held_out_elbo": values.mean().item()}
        if self.few.counts is not None:
            right = draw_counts(self.guide, images).cpu() == self.few.counts
            seen["held_out_count_accuracy"] = right.double().mean().item()
        return seen

    def draws(self) -> dict[str, np.ndarray]:
        """Eight draws from the prior for each number of objects but none, without noise."""
        return {
            f"n = {n}": self.model.sample(8, n).canvas.cpu().numpy()
            for n in range(1, self.model.max_objects + 1)
        }


def goals(train: Scenes) -> list[Goal]:
    """What a model and guide of scenes are to reach: to draw them, and to count where it is known.

    Args:
        train: Training scenes, which tell what to try.
    """
    advice = what_to_try(train.images)
    drawn = Beats(
        measure="reconstruction_mse",
        reference="reconstruction_mse_mean_image",
        beside="the mean training scene's",
        advice=advice,
    )
    if train.counts is None:
        return [drawn]
    counted = Beats(
        measure="count_accuracy",
        reference="count_accuracy_majority",
        beside="that of the most frequent count",
        advice=advice,
        best=1.0,
    )
    return [counted, drawn]


def what_to_try(scenes: Tensor) -> str:
    r"""What to try if scenes of shape :math:`(M, H, W)`, uint8, are not explained.

    The model draws bright objects on black: another background is the first thing to look for.
    """
    few = scenes[:1_000]
    if bool((scenes == scenes[:1]).all()):
        return "other scenes: all of these are the same image"
    # Most of a scene is background, and objects are in other places in each.
    level = few.flatten().median().item() / 255
    if level > 0.5:
        return "inverted images (1 - images): the model draws bright objects on black"
    if level > 0.02:
        return "images with the background subtracted: the model draws bright objects on black"
    return "a --window-size of the objects' size, more --steps, or another --seed"
