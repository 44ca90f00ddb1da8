"""Trained AIRs on canvases and with numbers of objects that they were not trained on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pyro_models.shapes import Shape
from tests.data.refusals import refused
from tests.test_train_air import small
from train.air import main
from train.data.catalogue import mnist5k
from train.data.scenes import make_scenes
from train.settings.air import AIRSettings
from train.trained import load
from train.windows import on_canvas, with_windows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of the convolutional guide."""
    folder = tmp_path_factory.mktemp("air")
    main(small(folder, guide="convolutional"))
    return folder / "run"


def scenes(*sides: int) -> np.ndarray:
    """Two scenes with a bright square of 16 pixels."""
    images = np.zeros((2, *sides), dtype=np.uint8)
    images[:, 20:36, 10:26] = 255
    return images


@pytest.mark.parametrize("sides", [(84, 84), (60, 120), (40, 40)])
def test_objects_keep_their_size_in_pixels(run, sides):
    """The mutation: a prior of scales in units of the canvas, so that windows grow with it."""
    small_canvas, other = load(run), load(run, shape=sides)
    assert other.shape == Shape(1, *sides)
    assert other.objective.model.window_pixels == pytest.approx(
        small_canvas.objective.model.window_pixels
    )
    windows = [
        model.detect(scenes(*model.shape.sides)).windows[0, 0] for model in (small_canvas, other)
    ]
    widths = [window[2:] - window[:2] for window in windows]
    torch.testing.assert_close(*widths, atol=1.0, rtol=0)


def test_more_objects_are_more_steps_of_the_same_weights(run):
    trained, more = load(run), load(run, max_objects=9)
    images = scenes(50, 50)
    few, many = trained.detect(images), more.detect(images)
    assert many.z_where.shape == (2, 9, 3)
    assert torch.equal(many.z_where[:, :3], few.z_where)
    assert torch.equal(many.probabilities[:, :3], few.probabilities[:, :3])
    codes = more.encode(images)
    assert codes.shape == (2, more.code_size)
    assert torch.equal(more.decode(codes), more.reconstruct(images))


def test_images_of_any_size_are_detected(run):
    trained = load(run)
    images = scenes(70, 90)
    found = trained.detect(images)
    assert found.masks.shape == (2, 3, 70, 90)
    assert found.reconstruction.shape == (2, 70, 90)
    resized = trained.resized((70, 90)).detect(images)
    assert all(torch.equal(*pair) for pair in zip(found, resized, strict=True))
    single = trained.detect(images[0])
    torch.testing.assert_close(single.z_where, found.z_where[:1])
    # As a list, of images as they are.
    assert torch.equal(trained.detect(list(images)).counts, found.counts)


def test_a_canvas_may_be_changed_back(run):
    trained = load(run)
    again = trained.resized((70, 90), 5).resized((50, 50), 3)
    before, after = (model.detect(scenes(50, 50)) for model in (trained, again))
    torch.testing.assert_close(after.z_where, before.z_where)


def test_other_guides_have_the_size_of_their_canvas(tmp_path):
    main(small(tmp_path))
    run = tmp_path / "run"
    with refused("--guide residual", "50x50", "--guide convolutional"):
        load(run, shape=(84, 84))
    with refused("50x50"):
        load(run).detect(scenes(84, 84))
    # The number of objects is free, also with the baseline of a guide that has one.
    assert load(run, max_objects=5).detect(scenes(50, 50)).z_where.shape == (2, 5, 3)


def test_windows_of_an_earlier_version_keep_the_aspect_of_their_canvas(tmp_path):
    """The mutation: more objects make the windows square, which the weights do not know."""
    path = tmp_path / "scenes.npz"
    pixels = np.random.default_rng(0).integers(0, 5, (40, 20, 30), dtype=np.uint8)
    np.savez(path, images=pixels)
    main(small(tmp_path, data=str(path)))
    config = tmp_path / "run" / "config.json"
    written = json.loads(config.read_text())
    assert written["inputs"].pop("square_windows") is True
    config.write_text(json.dumps(written))
    before, more = (load(tmp_path / "run", max_objects=n) for n in (None, 5))
    assert not before.objective.model.square_windows
    assert not more.objective.model.square_windows


def test_large_scenes_are_detected_a_few_at_a_time(run):
    """The mutation: as many at once as of default scenes, whose masks fit memory."""
    assert load(run).batch == 1_000
    assert load(run, shape=(150, 150), max_objects=20).batch == 21


def test_a_baseline_is_left_out(tmp_path):
    baseline = {"estimator": "tracegraph", "baseline": "network", "guide": "convolutional"}
    main(small(tmp_path, steps=2, eval_every=2, **baseline))
    assert load(tmp_path / "run", shape=(60, 60), max_objects=4).objective.guide.baseline is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": (84,)}, "shape is (84,)"),
        ({"shape": (3, 84, 84)}, "shape is (3, 84, 84)"),
        ({"shape": 84}, "shape is 84"),
        ({"shape": (0, 84)}, "shape is (0, 84)"),
        ({"max_objects": 0}, "max_objects is 0"),
        ({"max_objects": 1_000_000}, "max_objects"),
    ],
)
def test_bad_sizes_are_one_clear_line(run, options, words):
    with refused(words):
        load(run, **options)


def test_methods_of_single_images_have_neither(tmp_path):
    from train.ae import AESettings
    from train.ae import main as train_ae

    train_ae(AESettings(steps=2, run_dir=tmp_path / "ae", device="cpu"))
    with refused("ae takes images of 28x28 alone"):
        load(tmp_path / "ae", shape=(84, 84))


@pytest.mark.parametrize("size", [(24, 24), (10, 28)])
def test_windows_of_scenes_of_your_own_have_the_size_of_the_boxes(size):
    """As if the size of the digits were known; the mutation: windows follow the canvas alone."""
    told = make_scenes(mnist5k().images, 200, canvas_size=64, digit_size=size, seed=0)
    found = replace(told, object_size=None)
    expected, (scale, _) = (
        with_windows(AIRSettings(), scenes.shape, scenes.usual_size).window_scale
        for scenes in (told, found)
    )
    assert scale == pytest.approx(expected[0], rel=0.12)
    assert replace(found, boxes=None).usual_size is None
    assert replace(found, boxes=torch.zeros_like(found.boxes)).usual_size is None


def test_a_place_on_a_large_canvas_has_a_wide_prior():
    """The mutation: a deviation of one half window, beyond which most of a large canvas is."""
    default = with_windows(AIRSettings(), Shape(1, 50, 50), (24, 24))
    large = with_windows(AIRSettings(), Shape(1, 150, 150), (24, 24))
    assert default.place_scale == 1
    assert large.place_scale == pytest.approx(3)
    # Runs of earlier versions say what windows they had, and had a deviation of 1.
    earlier = with_windows(AIRSettings(window_scale=(7.8, 0.3)), Shape(1, 150, 150))
    assert earlier.place_scale == 1
    moved = on_canvas(default, Shape(1, 50, 50), Shape(1, 150, 200))
    assert moved.place_scale == pytest.approx(large.place_scale)
    assert moved.window_scale == pytest.approx((7.8, 0.3))
