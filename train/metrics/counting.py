"""Evaluates AIR: accuracy of counts, ELBO, reconstruction error, and boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from guides.air import StepwiseGuide
from pyro_models.air import AIR
from pyro_models.backgrounds import Kind
from pyro_models.masks import label_maps
from pyro_models.sharing import one_estimate
from train.backgrounds import is_black
from train.data.batches import as_input
from train.data.scenes import Scenes, ScenesSplit
from train.data.streaming.stored import StoredImages, in_memory
from train.estimators import ImportanceWeightedELBO, MarginalELBO
from train.metrics import segmentation
from train.metrics.detection import (
    accuracy_by_count,
    average_precision,
    object_scores,
    pairwise_ious,
)
from train.metrics.goals import Beats, Goal
from train.metrics.measuring import Measures, Unmeasurable
from train.metrics.references import majority, mean_image_mse
from train.metrics.watch import TrainingLog, Watch
from train.progress import progress
from train.windows import scenes_at_once

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Explanation(NamedTuple):
    r"""Evaluations of :math:`M` scenes by a model and guide.

    Attributes:
        elbos: The ELBO of each scene in nats, at beta 1, with the likelihood's normalising
            constant, of shape :math:`(M)`.
        draws: The counts in one draw from the guide, of shape :math:`(M)`.
        counts: The most probable counts, with other latents at their means, of shape :math:`(M)`.
        boxes: The boxes of the detected objects, of shape :math:`(M, N, 4)`, in pixels; of a row,
            the first ``counts`` are detections.
        mse: The mean squared error per pixel of the reconstructions, of shape :math:`(M)`.
        scores: The probability that each object is present, of shape :math:`(M, N)`: see
            :func:`~train.metrics.detection.object_scores`.
        labels: For each pixel, the index from 1 of the object that it belongs to, or 0, of shape
            :math:`(M, H, W)`, uint8: see :func:`~pyro_models.masks.label_maps`.
    """

    elbos: Tensor
    draws: Tensor
    counts: Tensor
    boxes: Tensor
    mse: Tensor
    scores: Tensor
    labels: Tensor


@torch.no_grad()
@pyro.get_param_store().scope()
def draw_counts(guide: StepwiseGuide, images: Tensor) -> Tensor:
    """Draws the number of objects in each image from the guide; of shape :math:`(B)`."""
    nodes: dict[str, Any] = poutine.trace(guide).get_trace(images).nodes
    steps = range(guide.model.max_objects)
    return torch.stack([nodes[f"z_pres_{i}"]["value"] for i in steps]).sum(0).long()


@torch.no_grad()
@pyro.get_param_store().scope()
@one_estimate()
def elbo(
    model: AIR, guide: StepwiseGuide, images: Tensor, estimator: MarginalELBO | None = None
) -> Tensor:
    """Estimates the ELBO of each scene at beta 1, with the count summed out.

    Args:
        model: The model.
        guide: Its guide.
        images: Scenes, of shape :math:`(B, C, H, W)`.
        estimator: An estimator that has examined model and guide before, to save time.

    Returns:
        ELBOs in nats, of shape :math:`(B)`.
    """
    return (estimator or MarginalELBO()).elbo(model, guide, images)


@torch.no_grad()
@pyro.get_param_store().scope()
def iw_bound(
    model: AIR, guide: StepwiseGuide, images: Tensor, particles: int = 100, rows: int = 2_000
) -> Tensor:
    """Estimates the importance-weighted bound of each scene, in nats.

    See :class:`~train.estimators.ImportanceWeightedELBO`.

    Args:
        model: The model.
        guide: Its guide.
        images: Scenes, of shape :math:`(B, C, H, W)`.
        particles: The number :math:`K` of draws per scene.
        rows: The approximate number of draws that are evaluated at once, to bound memory; fewer of
            large scenes.

    Returns:
        The bounds, of shape :math:`(B)`.
    """
    estimator = ImportanceWeightedELBO(particles)
    rows = scenes_at_once(model.shape, model.max_objects, rows)

    @one_estimate()
    def bound(batch: Tensor) -> Tensor:
        return estimator.bound(model, guide, batch)

    batches = images.split(max(rows // particles, 1))
    shown = progress(batches, "importance-weighted bound", len(batches), "batch")
    return torch.cat([bound(batch) for batch in shown])


@torch.no_grad()
def explain(
    model: AIR,
    guide: StepwiseGuide,
    scenes: Tensor | StoredImages,
    batch: int = 500,
    estimator: MarginalELBO | None = None,
) -> Explanation:
    r"""Evaluates model and guide on scenes, in batches.

    Args:
        model: The model.
        guide: Its guide.
        scenes: Of shape :math:`(M, C, H, W)`, uint8.
        batch: The most scenes of a batch.
        estimator: See :func:`elbo`.
    """
    batch = scenes_at_once(model.shape, model.max_objects, batch)
    device = model.zero.device
    estimator = estimator or MarginalELBO()
    batches = []
    parts = scenes.split(batch)
    for images in progress(parts, "finding objects", -(-len(scenes) // batch), "batch"):
        images = as_input(images.to(device))
        detection = guide.detect(images)
        explanation = Explanation(
            elbo(model, guide, images, estimator),
            draw_counts(guide, images),
            detection.counts,
            detection.boxes,
            (detection.reconstruction - images).square().mean((1, 2, 3)),
            object_scores(detection.probabilities),
            label_maps(detection.masks, detection.counts).to(torch.uint8),
        )
        batches.append([tensor.cpu() for tensor in explanation])
    return Explanation(*map(torch.cat, zip(*batches, strict=True)))


def mean_box_iou(scenes: Scenes, counts: Tensor, boxes: Tensor) -> float:
    r"""Returns the mean IoU of true and detected boxes, in scenes whose count is right and above 0.

    In each scene, boxes are matched one to one so that the mean IoU is largest.

    Args:
        scenes: Scenes with their counts and boxes.
        counts: The detected counts, of shape :math:`(M)`.
        boxes: The detected boxes, of shape :math:`(M, N, 4)`.

    Returns:
        The IoU, from 0 to 1.

    Raises:
        Unmeasurable: If the scenes have no boxes, or none has its count right.
    """
    if scenes.boxes is None:
        raise Unmeasurable("the scenes have no boxes")
    right = torch.nonzero((counts == scenes.counts) & (counts > 0)).flatten().tolist()
    if not right:
        raise Unmeasurable("no scene with an object has its count right")
    ious = [matched_iou(scenes.boxes[i, : counts[i]], boxes[i, : counts[i]]) for i in right]
    return float(np.mean(ious))


def matched_iou(truth: Tensor, detected: Tensor) -> float:
    """Returns the mean IoU of two sets of n boxes, (n, 4), under the best one-to-one matching."""
    from scipy.optimize import linear_sum_assignment

    (ious,) = pairwise_ious(truth[None], detected[None])
    return float(ious[linear_sum_assignment(ious, maximize=True)].mean())


def ap_50(scenes: Scenes, explanation: Explanation) -> float:
    """Returns the average precision of detected boxes at an IoU of 0.5.

    See :func:`~train.metrics.detection.average_precision`. All scenes count, also those whose
    number of objects is wrong, and those without objects.

    Args:
        scenes: Scenes with their counts and boxes.
        explanation: The evaluations of these scenes.

    Raises:
        Unmeasurable: If the scenes have no boxes or no counts, or none of them has an object.
    """
    if scenes.boxes is None or scenes.counts is None:
        raise Unmeasurable("the scenes have no boxes")
    detected = (explanation.boxes, explanation.counts, explanation.scores)
    return average_precision(scenes.boxes, scenes.counts, *detected, threshold=0.5)


class AIRWatch(Watch):
    """Evaluates a model and guide of scenes by counts, ELBO, reconstruction and boxes.

    Args:
        model: The model.
        guide: Its guide.
        data: Training and held-out scenes.
        iw_particles: The number of draws per scene in the importance-weighted bound.
        iw_scenes: The number of held-out scenes on which that bound is measured, the first ones;
            ``None`` for all.

    Attributes:
        examples: The first 8 held-out scenes, of shape :math:`(8, C, H, W)`, sorted by their counts
            if these are known.
    """

    PANELS: ClassVar = {
        "nats a scene": {"elbo": "ELBO, training", "held_out_elbo": "ELBO, held out"},
        "count accuracy": {"count_accuracy": "training", "held_out_count_accuracy": "held out"},
        "KL, nats a scene": {f"kl_z_{name}": name for name in ("pres", "where", "what")},
    }
    EVALUATED = 1_000
    """Number of training scenes and of held-out scenes in an evaluation."""
    FAILURES = 10
    """The most scenes in the figure of failures."""

    def __init__(
        self,
        model: AIR,
        guide: StepwiseGuide,
        data: ScenesSplit,
        *,
        iw_particles: int = 100,
        iw_scenes: int | None = None,
    ) -> None:
        self.model = model
        self.guide = guide
        self.data = data
        self.iw_particles = iw_particles
        self.iw_scenes = min(iw_scenes or len(data.held_out), len(data.held_out))
        self.estimator = MarginalELBO()
        self.evaluated = [
            scenes.select(slice(self.EVALUATED)) for scenes in (data.train, data.held_out)
        ]
        held_out = self.evaluated[1]
        order = torch.arange(8) if held_out.counts is None else held_out.counts[:8].argsort()
        self.examples = as_input(held_out.images[:8][order[: len(held_out)]])

    def evaluate(self, step: int) -> dict[str, float]:
        """Returns count accuracies on training and held-out scenes, and the held-out ELBO."""
        train, held_out = self.evaluated
        elbos = [
            elbo(self.model, self.guide, images, self.estimator)
            for images in self.batches(held_out)
        ]
        metrics = {"held_out_elbo": torch.cat(elbos).mean().item()}
        for name, scenes in (("held_out_count_accuracy", held_out), ("count_accuracy", train)):
            if scenes.counts is not None:
                metrics[name] = self.count_accuracy(scenes, scenes.counts)
        return metrics

    def count_accuracy(self, scenes: Scenes, truth: Tensor) -> float:
        """Returns the fraction of scenes in which one draw from the guide has the true count."""
        counts = [draw_counts(self.guide, images) for images in self.batches(scenes)]
        return (torch.cat(counts).cpu() == truth).double().mean().item()

    def batches(self, scenes: Scenes) -> Iterator[Tensor]:
        """Yields the images of scenes, as inputs of the networks."""
        model = self.model
        rows = scenes_at_once(model.shape, model.max_objects, self.EVALUATED)
        for images in scenes.images.split(rows):
            yield as_input(images.to(model.zero.device))

    def snapshot(self) -> dict[str, np.ndarray]:
        """Returns reconstructions, boxes and counts of the examples."""
        detection = self.guide.detect(self.examples.to(self.model.zero.device))
        return {
            "reconstruction": detection.reconstruction.cpu().numpy(),
            "boxes": detection.boxes.cpu().numpy(),
            "counts": detection.counts.cpu().numpy(),
        }

    @cached_property
    def explanation(self) -> Explanation:
        """The evaluations of all held-out scenes, computed once."""
        images = self.data.held_out.images
        return explain(self.model, self.guide, images, estimator=self.estimator)

    @property
    def counts(self) -> Tensor:
        """The true counts of the held-out scenes.

        Raises:
            Unmeasurable: If the scenes have no counts.
        """
        if self.data.held_out.counts is None:
            raise Unmeasurable("the scenes have no counts")
        return self.data.held_out.counts

    def measure(self) -> Measures:
        """Measures model and guide on held-out scenes.

        - ``count_accuracy`` is the fraction of scenes in which one draw from the guide has the
          true count, ``count_accuracy_map`` the fraction in which the most probable count is
          right, and ``count_accuracy_majority`` the accuracy of the most frequent count.
        - ``count_accuracy_at.N`` is the fraction of the scenes of N objects in which the most
          probable count is right, for each N that occurs; their mean, weighted by the number of
          scenes, is ``count_accuracy_map``. ``count_error`` is the mean absolute difference of the
          true and the most probable count.
        - ``foreground_ari``, ``mean_iou``, ``segmentation_covering`` and
          ``mean_segmentation_covering`` are those of :mod:`train.metrics.segmentation`, if the
          masks of objects are known.
        - ``box_iou`` is :func:`mean_box_iou`, and ``ap_50`` is :func:`ap_50`.
        - ``reconstruction_mse`` is the mean squared error per pixel of the reconstruction.
          ``reconstruction_mse_mean_image`` is the error of predicting the mean training scene,
          and ``reconstruction_mse_empty`` the error of an empty canvas.
        - ``elbo`` is the mean ELBO in nats per scene, at beta 1, with the likelihood's
          normalising constant. ``iw_bound`` is :func:`iw_bound` with ``iw_particles`` draws, on
          the first ``iw_scenes`` scenes.
        """
        measures = Measures()
        train, held_out = self.data

        def accuracy(name: str) -> float:
            return (self.counts == getattr(self.explanation, name)).double().mean().item()

        def box_iou() -> float:
            return mean_box_iou(held_out, self.explanation.counts, self.explanation.boxes)

        def count_error() -> float:
            return (self.counts - self.explanation.counts).abs().double().mean().item()

        def accuracies(by_name: Mapping[str, int]) -> dict[str, float]:
            accuracy_at = accuracy_by_count(self.counts, self.explanation.counts)
            return {name: accuracy_at[n].accuracy for name, n in by_name.items()}

        def bound() -> float:
            images = as_input(held_out.images[: self.iw_scenes].to(self.model.zero.device))
            bounds = iw_bound(self.model, self.guide, images, self.iw_particles)
            return bounds.double().mean().item()

        measures.add("count_accuracy", lambda: accuracy("draws"))
        measures.add("count_accuracy_map", lambda: accuracy("counts"))
        measures.add("count_accuracy_majority", lambda: majority(self.counts.numpy()))
        measures.add("box_iou", box_iou)
        measures.add("ap_50", lambda: ap_50(held_out, self.explanation))
        measures.add("count_error", count_error)
        if held_out.counts is not None:
            by_name = {f"count_accuracy_at.{n}": n for n in held_out.counts.unique().tolist()}
            measures.add(tuple(by_name), lambda: accuracies(by_name))
        if held_out.masks is not None:
            truth = held_out.masks
            measures.add(
                segmentation.MEASURES,
                lambda: segmentation.measure_segmentation(truth, self.explanation.labels),
            )
        measures.add("reconstruction_mse", lambda: self.explanation.mse.double().mean().item())
        measures.add(
            "reconstruction_mse_mean_image", lambda: mean_image_mse(train.images, held_out.images)
        )
        empty = torch.zeros_like(held_out.images[:1])
        measures.add("reconstruction_mse_empty", lambda: mean_image_mse(empty, held_out.images))
        measures.add("elbo", lambda: self.explanation.elbos.double().mean().item())
        measures.add("iw_bound", bound)
        measures.add("iw_particles", lambda: self.iw_particles)
        measures.add("iw_scenes", lambda: self.iw_scenes)
        return measures

    def goals(self) -> list[Goal]:
        return goals(self.data.train, self.model.background.kind)

    def figures(self, log: TrainingLog) -> dict[str, Callable[[], Figure]]:
        from train import plots

        drawn = {
            "scenes": lambda: plots.scenes(self.examples.numpy(), log.stages),
            **super().figures(log),
            "objects": self.draw_objects,
            "prior": lambda: plots.gallery(self.prior()),
        }
        if self.data.held_out.counts is not None:
            drawn["counts"] = lambda: plots.confusion(self.confusion())
            # Where most counts are wrong, there is nothing to learn from some of them.
            if (self.explanation.counts == self.counts).double().mean() > 0.5:
                drawn["failures"] = self.draw_failures
        return drawn

    def draw_objects(self) -> Figure:
        """Draws the examples with the masks and the boxes of their objects."""
        from train import plots_scenes

        found = self.guide.detect(self.examples.to(self.model.zero.device))
        labels = label_maps(found.masks, found.counts)
        inferred = (tensor.cpu().numpy() for tensor in (labels, found.boxes, found.counts))
        return plots_scenes.segments(
            self.examples.numpy(), {"inferred": plots_scenes.Objects(*inferred)}
        )

    def draw_failures(self) -> Figure:
        """Draws the first held-out scenes whose most probable count is wrong."""
        from train import plots_scenes

        wrong = (self.explanation.counts != self.counts).nonzero().flatten()[: self.FAILURES]
        scenes = as_input(self.data.held_out.select(wrong).images[:])
        found = self.guide.detect(scenes.to(self.model.zero.device))
        return plots_scenes.failures(
            scenes.numpy(),
            found.reconstruction.cpu().numpy(),
            found.boxes.cpu().numpy(),
            found.counts.cpu().numpy(),
            self.counts[wrong].numpy(),
        )

    def prior(self) -> dict[str, np.ndarray]:
        """Draws eight noiseless canvases from the prior for each number of objects above 0."""
        return {
            f"n = {n}": self.model.sample(8, n).canvas.cpu().numpy()
            for n in range(1, self.model.max_objects + 1)
        }

    def confusion(self) -> np.ndarray:
        """Returns the confusion matrix of counts: true counts in rows, most probable in columns."""
        size = max(self.model.max_objects, int(self.counts.max())) + 1
        pairs = self.counts * size + self.explanation.counts
        return torch.bincount(pairs, minlength=size**2).reshape(size, size).numpy()


def goals(train: Scenes, background: Kind = "black") -> list[Goal]:
    """Returns the goals of a model and guide: reconstruction, and counts if they are known.

    Args:
        train: The training scenes, on which the advice depends.
        background: The model's background.
    """
    advice = advise(in_memory(train.images), background)
    reconstruction = Beats(
        measure="reconstruction_mse",
        reference="reconstruction_mse_mean_image",
        beside="the mean training scene's",
        advice=advice,
    )
    if train.counts is None:
        return [reconstruction]
    counting = Beats(
        measure="count_accuracy",
        reference="count_accuracy_majority",
        beside="the accuracy of the most frequent count",
        advice=advice,
        best=1.0,
    )
    return [counting, reconstruction]


def advise(scenes: Tensor, background: Kind = "black") -> str:
    r"""Returns what to try if the model does not explain scenes.

    Args:
        scenes: The training scenes, of shape :math:`(M, C, H, W)`, uint8.
        background: The model's background. The first cause to check is that it is black, and the
            scenes are not.
    """
    if bool((scenes == scenes[:1]).all()):
        return "other scenes: all of these are the same image"
    if background == "black" and not is_black(scenes):
        return "--background auto, which finds one that is not black: these scenes are not"
    return "a --window-size of the objects' size, more --steps, or another --seed"
