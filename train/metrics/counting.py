"""How well a model of scenes counts, explains and finds objects."""

from __future__ import annotations

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
from train.estimators import ImportanceWeightedELBO, MarginalELBO
from train.runs import Run


class Counting(NamedTuple):
    r"""Measures of a model and guide on scenes; ``None`` where a truth is not known.

    Attributes:
        count_accuracy: The share of scenes whose count one draw from the guide gives.
        count_accuracy_map: The share whose most probable count, all else at its mean, is right.
        elbo: Nats a scene, at beta 1, with the likelihood's constant.
        box_iou: The mean intersection over union of true boxes and those found, matched to make it
            largest, in scenes whose count is right and not zero.
        iw_bound: The importance-weighted bound, nats a scene; see :func:`iw_bound`.
        iw_particles: The number of its draws a scene.
        iw_scenes: The number of scenes it was measured on.
        confusion: The numbers of scenes by true count (rows) and by the count found at the means
            (columns).
    """

    count_accuracy: float | None
    count_accuracy_map: float | None
    elbo: float
    box_iou: float | None
    iw_bound: float
    iw_particles: int
    iw_scenes: int
    confusion: np.ndarray | None

    def results(self) -> dict[str, float | int | None]:
        """The measures that are numbers, by name."""
        return {name: value for name, value in self._asdict().items() if name != "confusion"}


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
def measure(
    model: AIR,
    guide: RecurrentGuide,
    scenes: Scenes,
    iw_particles: int = 100,
    iw_scenes: int = 1_000,
    batch: int = 500,
) -> Counting:
    """Measures a model and guide on scenes.

    Args:
        model: The model.
        guide: Its guide.
        scenes: Held-out scenes.
        iw_particles: Draws a scene in the importance-weighted bound.
        iw_scenes: On how many of the scenes, from the first, to take that bound.
        batch: How many scenes at a time.
    """
    device = model.zero.device
    estimator = MarginalELBO()
    elbos, drawn, found, boxes = [], [], [], []
    for images in scenes.images.split(batch):
        images = as_input(images.to(device))
        detection = guide.detect(images)
        elbos.append(elbo(model, guide, images, estimator).cpu())
        drawn.append(draw_counts(guide, images).cpu())
        found.append(detection.counts.cpu())
        boxes.append(detection.boxes.cpu())
    few = as_input(scenes.images[:iw_scenes].to(device))
    measured = {
        "elbo": torch.cat(elbos).double().mean().item(),
        "iw_bound": iw_bound(model, guide, few, iw_particles).double().mean().item(),
        "iw_particles": iw_particles,
        "iw_scenes": len(few),
    }
    if scenes.counts is None:
        return Counting(None, None, box_iou=None, confusion=None, **measured)
    counts = torch.cat(found)
    size = max(model.max_objects, int(scenes.counts.max())) + 1
    confusion = torch.bincount(scenes.counts * size + counts, minlength=size**2)
    return Counting(
        count_accuracy=(torch.cat(drawn) == scenes.counts).double().mean().item(),
        count_accuracy_map=(counts == scenes.counts).double().mean().item(),
        box_iou=box_iou(scenes, counts, torch.cat(boxes)),
        confusion=confusion.reshape(size, size).numpy(),
        **measured,
    )


def box_iou(scenes: Scenes, counts: Tensor, boxes: Tensor) -> float | None:
    """The mean IoU of true boxes and those found, in scenes whose count is right and not zero.

    Args:
        scenes: Scenes with their counts.
        counts: The counts found, of shape :math:`(M)`.
        boxes: The boxes found, of shape :math:`(M, N, 4)`.

    Returns:
        A share from 0 to 1; ``None`` if no box is known, or no such scene is there.
    """
    if scenes.boxes is None:
        return None
    right = torch.nonzero((counts == scenes.counts) & (counts > 0)).flatten().tolist()
    ious = [matched_iou(scenes.boxes[i, : counts[i]], boxes[i, : counts[i]]) for i in right]
    return float(np.mean(ious)) if ious else None


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
