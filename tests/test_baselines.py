"""Counting without AIR: connected components, and a supervised network."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.scripts import import_benchmark
from train.data.scenes import Scenes, make_scenes


@pytest.fixture(scope="module")
def baselines() -> ModuleType:
    return import_benchmark("air_baselines")


@pytest.fixture(scope="module")
def squares() -> Tensor:
    """Images of a white square with a dark rim."""
    images = torch.zeros(4, 12, 12, dtype=torch.uint8)
    images[:, 1:-1, 1:-1] = 60
    images[:, 2:-2, 2:-2] = 255
    return images


@pytest.fixture(scope="module")
def scenes(squares: Tensor) -> Scenes:
    return make_scenes(squares, 400, canvas_size=40, max_digits=3, digit_size=(8, 12), seed=0)


def canvas() -> Tensor:
    """Three components of 8 neighbours, five of 4: a pair at a corner, a pixel, a dim block."""
    image = torch.zeros(1, 1, 12, 12)
    image[..., 1:3, 1:3] = 1
    image[..., 3:5, 3:5] = 1
    image[..., 8, 8] = 1
    image[..., 6:10, 1:4] = 0.3
    return image


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ((0.1, 1, False), 4),
        ((0.1, 1, True), 3),
        ((0.5, 1, False), 3),
        ((0.1, 2, False), 3),
        ((0.1, 5, True), 2),
        ((0.1, 9, False), 1),
        ((0.1, 13, True), 0),
    ],
)
def test_components_by_hand(baselines, settings, count):
    images = torch.cat([canvas(), torch.zeros(1, 1, 12, 12), canvas().flip(-1)])
    counts = baselines.count_components(images, baselines.Components(*settings))
    assert counts.tolist() == [count, 0, count]
    grey = (images * 255).byte()
    assert baselines.count_components(grey, baselines.Components(*settings)).tolist() == [
        count,
        0,
        count,
    ]


def test_components_of_neighbouring_images_are_not_connected(baselines):
    images = torch.ones(3, 1, 4, 4)
    for diagonal in (False, True):
        settings = baselines.Components(0.5, 1, diagonal)
        assert baselines.count_components(images, settings).tolist() == [1, 1, 1]


def test_ink_is_the_brightest_channel(baselines):
    images = torch.zeros(1, 3, 4, 4)
    images[0, 0, 0, 0], images[0, 2, 3, 3] = 1, 1
    assert baselines.count_components(images, baselines.Components(0.5, 1, True)).tolist() == [2]


def test_the_grid_finds_components_of_squares_that_are_apart(baselines, scenes):
    # Pixels of noise, which only the smallest area tells from squares.
    images = scenes.images.clone()
    images[:, 0, 0, 0], images[:, 0, 0, 2] = 255, 255
    noisy = Scenes(images, scenes.counts, scenes.boxes)
    settings = baselines.choose_components(noisy)
    assert settings.smallest_area > 1
    accuracy = (baselines.count_components(images, settings) == scenes.counts.numpy()).mean()
    assert accuracy > 0.9
    every_pixel = settings._replace(smallest_area=1)
    assert (baselines.count_components(images, every_pixel) == scenes.counts.numpy()).mean() < 0.1


@pytest.mark.parametrize("regression", [False, True])
def test_a_network_learns_to_count(baselines, scenes, regression):
    before = torch.random.get_rng_state()
    network = baselines.train_network(
        scenes, 100, batch_size=32, width=32, learning_rate=3e-3, regression=regression
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    counts = network.count(scenes.images)
    assert (counts == scenes.counts.numpy()).mean() > 0.6


def test_a_sum_of_features_adds_what_is_on_a_canvas(baselines):
    torch.manual_seed(0)
    network = baselines.CountNetwork(1, 3, width=32, regression=True).double()
    # Farther apart, and from the border, than the 41 pixels of the network's receptive field. An
    # empty canvas has features too, because biases are random.
    images = torch.zeros(2, 1, 104, 168, dtype=torch.float64)
    images[:, 0, 48:56, 48:56] = images[1, 0, 48:56, 104:112] = 10 * torch.rand(8, 8)
    one, two = network(images)
    assert abs(one) > 1e-4
    torch.testing.assert_close(two, 2 * one)
    torch.testing.assert_close(network(images[:1, ..., :104])[0], one)
    assert network(torch.zeros(1, 1, 24, 60, dtype=torch.float64)).item() == 0


def test_overlaps_are_in_their_intervals(baselines, squares):
    chosen = baselines.scenes_by_overlap(
        squares, 7, canvas_size=30, digit_size=(12, 12), edges=(0, 0.2, 0.4), seed=0, draws=10_000
    )
    assert list(chosen) == [0, 0.2, 0.4]
    overlaps = [
        baselines.largest_overlap(scenes.boxes, scenes.counts) for scenes in chosen.values()
    ]
    assert [len(values) for values in overlaps] == [7, 7, 7]
    assert not overlaps[0].any()
    assert ((overlaps[1] > 0) & (overlaps[1] <= 0.2)).all()
    assert ((overlaps[2] > 0.2) & (overlaps[2] <= 0.4)).all()
    assert all((scenes.counts == 2).all() for scenes in chosen.values())


def test_tables_have_a_row_for_each_count_and_overlap(baselines, scenes):
    counters = {
        "right": lambda images: scenes.counts[: len(images)].numpy(),
        "zero": lambda images: np.zeros(len(images), int),
    }
    rows = baselines.count_table(scenes, counters)
    assert [row["digits"] for row in rows] == [0, 1, 2, 3, "all"]
    assert [row["right"] for row in rows] == [1] * 5
    assert [row["zero"] for row in rows[:4]] == [1, 0, 0, 0]
    assert rows[-1]["zero"] == pytest.approx((scenes.counts == 0).double().mean())
    assert sum(row["scenes"] for row in rows[:4]) == rows[-1]["scenes"] == 400
    few = scenes.select(slice(5))
    rows = baselines.overlap_table({0: few, 0.5: scenes.select(slice(0))}, counters)
    assert len(rows) == 1
    summary = baselines.summary(rows, {"network": ["right", "zero"], "AIR": []})
    assert "AIR" not in summary[0]
    assert summary[0]["network"] == pytest.approx((1 + rows[0]["zero"]) / 2)
    assert summary[0]["network, lowest"] == rows[0]["zero"]


@pytest.mark.parametrize("networks", [0, 1])
def test_both_tables_are_printed_and_drawn(baselines, capsys, tmp_path, networks):
    baselines.main(
        baselines.Benchmark(
            max_digits=1,
            test_max_digits=3,
            test_canvas_size=60,
            train_scenes=40,
            held_out_scenes=40,
            overlapping_scenes=2 * networks,
            steps=1,
            batch_size=2,
            seeds=networks,
            figures=tmp_path,
        )
    )
    printed = capsys.readouterr().out
    assert "components: Components(threshold=" in printed
    assert "| digits | scenes | components |" in printed
    assert ("network, lowest" in printed) == bool(networks)
    # Without scenes of two digits there is no table of overlaps.
    assert ("| IoU, at most | scenes |" in printed) == bool(networks)
    assert (tmp_path / "baselines-by-count.png").exists()
    assert (tmp_path / "baselines-by-overlap.png").exists() == bool(networks)
