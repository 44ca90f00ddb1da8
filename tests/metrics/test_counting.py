"""The measures of counting, on boxes and models whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import box_iou

from guides.air import ResidualGuide
from pyro_models.air import AIR
from train.data.scenes import Scenes, ScenesSplit
from train.metrics.counting import (
    AIRWatch,
    advise,
    ap_50,
    draw_counts,
    elbo,
    explain,
    iw_bound,
    matched_iou,
    mean_box_iou,
)
from train.metrics.detection import object_scores
from train.metrics.measuring import Unmeasurable


@pytest.fixture
def pair():
    torch.manual_seed(0)
    model = AIR((12, 12), window_size=6, what_dim=4, hidden=8, where_loc=(2.0, 0.0, 0.0))
    return model, ResidualGuide(model, hidden=8, encoder_hidden=8)


def certain(guide: ResidualGuide, present: bool) -> None:
    """Makes the guide sure of three objects, or of none."""
    with torch.no_grad():
        guide.step[-1].bias[0] = 50.0 if present else -50.0


def test_intersection_over_union():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 4, 4]])
    others = torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6]])
    expected = torch.tensor([[1 / 7, 1, 0], [4 / 16, 4 / 16, 0]])
    assert torch.allclose(box_iou(boxes, others), expected)


def test_boxes_are_matched_whatever_their_order():
    truth = torch.tensor([[0.0, 0, 2, 2], [4, 4, 6, 6]])
    assert matched_iou(truth, truth.flip(0)) == 1
    # Greedy matching would take the better half of a worse whole.
    found = torch.tensor([[0.0, 0, 2, 3], [0, 0, 2, 6]])
    crowded = torch.tensor([[0.0, 0, 2, 4], [0, 0, 2, 2]])
    shares = box_iou(crowded, found)
    best = max(shares[0, 0] + shares[1, 1], shares[0, 1] + shares[1, 0]) / 2
    assert matched_iou(crowded, found) == pytest.approx(best.item())


@pytest.mark.parametrize(("present", "count"), [(True, 3), (False, 0)])
def test_a_certain_guide_is_right_where_the_count_is_its_own(pair, present, count):
    model, guide = pair
    certain(guide, present)
    counts = torch.tensor([0, 1, 2, 3])
    images = torch.rand(4, 1, 12, 12)
    assert draw_counts(guide, images).tolist() == [count] * 4
    scenes = Scenes((images * 255).byte(), counts, torch.zeros(4, 3, 4))
    watch = watched(model, guide, scenes)
    values, confusion = watch.measure(), watch.confusion()
    assert values["count_accuracy"] == values["count_accuracy_map"] == 0.25
    assert values["count_accuracy_majority"] == 0.25
    by_count = [values[f"count_accuracy_at.{n}"] for n in range(4)]
    assert by_count == [float(n == count) for n in range(4)]
    assert values["count_error"] == 1.5
    assert confusion[:, count].tolist() == [1, 1, 1, 1]
    assert confusion.sum() == 4


def watched(model: AIR, guide: ResidualGuide, scenes: Scenes) -> AIRWatch:
    """A watch of a pair on scenes."""
    return AIRWatch(model, guide, ScenesSplit(scenes, scenes), iw_particles=2)


def test_scenes_are_looked_at_some_at_a_time(pair):
    model, guide = pair
    certain(guide, True)
    scenes = (torch.rand(4, 1, 12, 12) * 255).byte()
    parts, whole = explain(model, guide, scenes, batch=3), explain(model, guide, scenes)
    torch.testing.assert_close(parts.boxes, whole.boxes)
    torch.testing.assert_close(parts.mse, whole.mse)
    drawn = guide.detect(scenes / 255).reconstruction
    torch.testing.assert_close(whole.mse, (drawn - scenes / 255).square().mean((1, 2, 3)))


def test_scenes_without_truth_have_an_elbo_and_no_accuracy(pair):
    model, guide = pair
    scenes = Scenes((torch.rand(5, 1, 12, 12) * 255).byte(), None, None)
    watch = watched(model, guide, scenes)
    measured = watch.measure()
    assert math.isfinite(measured["elbo"])
    assert measured["count_accuracy"] is measured["box_iou"] is None
    with pytest.raises(Unmeasurable, match="the scenes have no counts"):
        watch.confusion()
    assert measured.reasons["count_accuracy"] == "the scenes have no counts"
    assert measured.reasons["box_iou"] == "the scenes have no boxes"
    assert measured["ap_50"] is measured["count_error"] is None
    assert measured.reasons["ap_50"] == "the scenes have no boxes"
    assert measured.reasons["count_error"] == "the scenes have no counts"
    assert not any(name.startswith("count_accuracy_at") for name in measured)


def test_boxes_count_only_in_scenes_whose_count_is_right(pair):
    _, guide = pair
    certain(guide, True)
    images = (torch.rand(2, 1, 12, 12) * 255).byte()
    found = guide.detect(images.float() / 255).boxes
    far = found + 100
    right = Scenes(images, torch.tensor([3, 2]), torch.stack([found[0].flip(0), far[1]]))
    assert mean_box_iou(right, torch.tensor([3, 3]), found) == pytest.approx(1)
    wrong = Scenes(images, torch.tensor([2, 3]), torch.stack([found[0], far[1]]))
    assert mean_box_iou(wrong, torch.tensor([3, 3]), found) == 0
    with pytest.raises(Unmeasurable, match="no scene"):
        mean_box_iou(wrong, torch.tensor([0, 0]), found)


def test_average_precision_is_of_all_scenes(pair):
    model, guide = pair
    certain(guide, True)
    images = (torch.rand(2, 1, 12, 12) * 255).byte()
    detection = guide.detect(images.float() / 255)
    boxes = detection.boxes + torch.tensor([[[0.0], [20], [40]]])  # No two of them overlap.
    explanation = explain(model, guide, images)._replace(boxes=boxes)
    torch.testing.assert_close(explanation.scores, object_scores(detection.probabilities))
    right = Scenes(images, torch.tensor([3, 3]), boxes.flip(1))
    assert ap_50(right, explanation) == pytest.approx(1)
    # Three of six objects are missed, in the scene whose count is wrong.
    wrong = explanation._replace(counts=torch.tensor([3, 0]))
    assert ap_50(right, wrong) == pytest.approx(1 / 2)
    # Three of six detections are false, all of one score.
    half = Scenes(images, torch.tensor([3, 0]), boxes.flip(1))
    sure = explanation._replace(scores=torch.ones(2, 3))
    assert ap_50(half, sure) == pytest.approx(1 / 2)
    with pytest.raises(Unmeasurable, match="no scene has an object"):
        ap_50(Scenes(images, torch.tensor([0, 0]), boxes), explanation)


def test_counts_that_do_not_occur_have_no_accuracy(pair):
    model, guide = pair
    certain(guide, False)
    images = (torch.rand(3, 1, 12, 12) * 255).byte()
    scenes = Scenes(images, torch.tensor([0, 0, 11]), torch.zeros(3, 11, 4))
    measured = watched(model, guide, scenes).measure()
    names = [name for name in measured if name.startswith("count_accuracy_at")]
    assert names == ["count_accuracy_at.0", "count_accuracy_at.11"]
    assert [measured[name] for name in names] == [1, 0]
    assert measured["count_error"] == pytest.approx(11 / 3)


def test_the_bound_rises_with_particles_and_starts_at_the_elbo(pair):
    model, guide = pair
    images = torch.rand(64, 1, 12, 12)
    one = torch.stack([iw_bound(model, guide, images, 1).mean() for _ in range(15)])
    elbos = torch.stack([elbo(model, guide, images).mean() for _ in range(15)])
    many = iw_bound(model, guide, images, 50).mean()
    # One draw with the count summed out inside the logarithm is at least the ELBO.
    error = (one.var() / 15 + elbos.var() / 15).sqrt()
    assert one.mean() > elbos.mean() - 3 * error
    assert many > one.mean() + 3 * one.std() / math.sqrt(15)


def test_a_batch_too_large_for_memory_is_split(pair):
    model, guide = pair
    images = torch.rand(7, 1, 12, 12)
    bounds = iw_bound(model, guide, images, particles=5, rows=12)
    assert bounds.shape == (7,)
    assert bounds.isfinite().all()


@pytest.mark.parametrize(
    ("background", "words"),
    [
        (0, "--window-size"),
        (60, "--background auto"),
        (255, "--background auto"),
        (None, "same image"),
    ],
)
def test_advice_depends_on_the_background(background, words):
    scenes = torch.full((4, 1, 12, 12), background or 0, dtype=torch.uint8)
    if background is not None:
        scenes[..., 3:5, 3:6] = 120 + torch.arange(4)[:, None, None, None].byte()
    assert words in advise(scenes)
