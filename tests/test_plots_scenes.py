"""Figures of scenes of objects have what they are given."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.refusals import refused
from train.plots import COLOURS
from train.plots_scenes import (
    Curve,
    Objects,
    accuracy_by_count,
    accuracy_by_overlap,
    failures,
    segments,
)


def objects(n: int = 3, sides: tuple[int, int] = (10, 12)) -> Objects:
    """As many objects in a scene as its index, each a row of the map."""
    labels = np.zeros((n, *sides), np.uint8)
    boxes = np.zeros((n, 4, 4))
    for i in range(n):
        for j in range(i):
            labels[i, 2 * j] = j + 1
            boxes[i, j] = (0, 2 * j, sides[1], 2 * j + 1)
    return Objects(labels, boxes, np.arange(n))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_object_has_a_colour_and_a_box(channels):
    known = objects()
    figure = segments(np.ones((3, channels, 10, 12)), {"true": known, "inferred": known})
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["", "", "", "0", "1", "2", "0", "1", "2"]
    assert [axis.get_ylabel() for axis in figure.axes[::3]] == ["scene", "true", "inferred"]
    assert [len(axis.patches) for axis in figure.axes] == [0, 0, 0, 0, 1, 2, 0, 1, 2]
    assert figure.axes[5].get_xlim() == (-0.5, 11.5)
    drawn = figure.axes[5].images[0].get_array()
    # On a white scene a mask has the colour of its box, and the background is grey.
    colours = [tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)) for colour in COLOURS]
    np.testing.assert_allclose(drawn[0, 0], colours[0])
    np.testing.assert_allclose(drawn[2, 0], colours[1])
    np.testing.assert_allclose(drawn[1, 0], 0.5)
    assert figure.axes[5].patches[1].get_edgecolor()[:3] == colours[1]


def test_label_maps_of_another_size_are_refused():
    with refused("inferred", "(3, 10, 12)", "(3, 1, 10, 10)"):
        segments(np.ones((3, 1, 10, 10)), {"inferred": objects()})


def test_failures_are_above_their_reconstructions():
    images = np.random.default_rng(0).random((5, 1, 10, 12))
    boxes = np.tile([1.0, 2, 5, 6], (5, 3, 1))
    counts, truth = np.array([0, 1, 2, 3, 1]), np.array([1, 2, 3, 2, 0])
    notes = ["two digits one upon the other", "a gap", "a gap", "a stroke", "noise"]
    figure = failures(images, 1 - images, boxes, counts, truth, notes=notes, columns=3)
    axes = np.array(figure.axes).reshape(4, 3)
    assert [len(axis.patches) for axis in axes[0]] == [0, 1, 2]
    assert [axis.get_title() for axis in axes[2]] == [
        "true 2, inferred 3",
        "true 0, inferred 1",
        "",
    ]
    np.testing.assert_array_equal(axes[2, 0].images[0].get_array(), images[3, 0])
    np.testing.assert_array_equal(axes[3, 0].images[0].get_array(), 1 - images[3, 0])
    assert not axes[2, 2].images
    assert axes[1, 0].get_xlabel() == "two digits one upon the\nother"
    assert [axis.get_xlabel() for axis in axes[3]] == ["a stroke", "noise", ""]


def test_without_failures_the_sheet_says_so():
    empty = np.zeros((0, 1, 10, 12))
    figure = failures(empty, empty, np.zeros((0, 3, 4)), np.zeros(0), np.zeros(0))
    assert [text.get_text() for axis in figure.axes for text in axis.texts] == ["none"]


def test_curves_have_their_points_and_training_counts_are_shaded():
    curves = {
        "AIR": Curve([0, 1, 2], [1.0, 0.9, 0.8], [0.9, 0.8, 0.7], [1.0, 1.0, 0.9]),
        "components": ([0, 1, 2], [1.0, 0.5, 0.2]),
    }
    figure = accuracy_by_count(curves, trained=(3, 0, 1))
    (axis,) = figure.axes
    assert [line.get_label() for line in axis.lines] == ["AIR", "components"]
    assert axis.lines[1].get_ydata().tolist() == [1.0, 0.5, 0.2]
    assert len({line.get_marker() for line in axis.lines}) == 2
    shaded = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axis.patches]
    assert shaded == [(-0.5, 1.5), (2.5, 3.5)]
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries == ["AIR", "components", "trained on"]
    # One band, of the curve that has the lowest and the highest.
    assert len(axis.collections) == 1


def test_curves_beyond_the_colours_are_dashed():
    """The mutation: the eighth looks like the first."""
    curves = {str(i): Curve([0, 1], [1.0, 0.1 * i]) for i in range(9)}
    (axis,) = accuracy_by_count(curves).axes
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axis.lines}
    assert len(looks) == 9
    assert axis.get_ylim() == (0, 1)


def test_overlaps_are_in_percent():
    figure = accuracy_by_overlap({"AIR": Curve([0, 0.3, 0.6], [1, 0.9, 0.8])})
    (axis,) = figure.axes
    assert axis.get_ylim() == (0.7, 1)
    assert axis.xaxis.get_major_formatter()(0.3) == "30%"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["AIR"]
