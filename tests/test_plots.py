"""Figures can be drawn from what a run has, however little that is."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.refusals import refused
from train import plots
from train.metrics.embedding import ABCWatch


def stage(boxes: int = 3, shape: tuple[int, ...] = (1, 20, 20)) -> dict[str, np.ndarray]:
    return {
        "reconstruction": np.random.default_rng(0).random((4, *shape)),
        "boxes": np.tile([2.0, 3, 10, 12], (4, boxes, 1)),
        "counts": np.array([0, 1, 2, 3]),
    }


@pytest.mark.parametrize(("stages", "rows"), [(0, 1), (1, 2), (2, 3), (7, 4)])
def test_scenes_show_the_first_the_middle_and_the_last_stage(stages, rows):
    figure = plots.scenes(np.zeros((4, 1, 20, 20)), [(100 * i, stage()) for i in range(stages)])
    titles = [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]
    assert titles[0] == "data"
    assert len(titles) == rows
    if stages == 7:
        assert titles[1:] == ["step 0", "step 300", "step 600"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_scene_has_as_many_boxes_as_were_found(channels):
    shape = (channels, 20, 30)
    figure = plots.scenes(np.zeros((4, *shape)), [(0, stage(shape=shape))])
    assert figure.axes[5].get_xlim() == (-0.5, 29.5)
    assert figure.axes[5].get_ylim() == (19.5, -0.5)
    assert [len(axis.patches) for axis in figure.axes[4:]] == [0, 1, 2, 3]
    box = figure.axes[5].patches[0]
    # Pixel edges, where matplotlib's whole numbers are pixel centres.
    assert box.get_xy() == (1.5, 2.5)
    assert (box.get_width(), box.get_height()) == (8, 9)


def test_reconstructions_of_earlier_versions_have_no_channels():
    drawn = stage(shape=(20, 20))
    figure = plots.scenes(np.zeros((4, 1, 20, 20)), [(0, drawn)])
    np.testing.assert_array_equal(figure.axes[5].images[0].get_array(), drawn["reconstruction"][1])


def test_colours_are_drawn_as_they_are():
    image = np.random.default_rng(0).random((3, 5, 6))
    figure = plots.gallery({"one": image[None]})
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), image.transpose(1, 2, 0))
    figure = plots.maps([("one", np.zeros((1, 2)), image[None])])
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), image.transpose(1, 2, 0))
    # The mutation: two channels drawn as one of them.
    with refused("images have 2 channels: figures show 1 or 3"):
        plots.gallery({"one": image[None, :2]})


def test_grey_is_drawn_as_it_is():
    image = np.random.default_rng(0).random((1, 5, 6))
    figure = plots.gallery({"one": image[None]})
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), image[0])
    figure = plots.maps([("one", np.zeros((1, 2)), image[None])])
    ink = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(ink[..., 3], image[0])
    assert not ink[..., :3].any()


def test_curves_leave_out_what_was_not_logged():
    history = {"elbo": (np.arange(3), np.arange(3.0))}
    panels = {"nats": {"elbo": "ELBO", "other": "other"}, "none": {"absent": "absent"}}
    figure = plots.curves(history, panels)
    assert [axis.get_ylabel() for axis in figure.axes] == ["nats"]
    assert [line.get_label() for line in figure.axes[0].lines] == ["ELBO"]


def test_of_metrics_with_one_name_the_last_is_drawn():
    """ABC's training curve is that of the cycle, beside the held-out cycle, not of all terms."""
    steps = np.arange(3)
    history = {"cycle_loss": (steps, steps + 5.0), "held_out_loss": (steps, steps + 1.0)}
    nats = {"cycle_nats": (steps, steps + 0.0)}

    def training(history: dict) -> list[float]:
        axis = plots.curves(history, ABCWatch.PANELS).axes[0]
        return {line.get_label(): line for line in axis.lines}["training"].get_ydata().tolist()

    assert training(history) == [5, 6, 7]
    assert training(nats | history) == training(history | nats) == [0, 1, 2]


def test_a_confusion_matrix_has_its_numbers():
    figure = plots.confusion(np.array([[5, 0], [1, 1234]]))
    assert [text.get_text() for text in figure.axes[0].texts] == ["5", "0", "1", "1,234"]


@pytest.mark.parametrize(("rows", "columns", "channels"), [(1, 1, 1), (3, 8, 1), (3, 8, 3)])
def test_a_gallery_has_every_image(rows, columns, channels):
    figure = plots.gallery({f"n = {i}": np.zeros((columns, channels, 5, 5)) for i in range(rows)})
    assert sum(len(axis.images) for axis in figure.axes) == rows * columns
    assert [axis.get_ylabel() for axis in figure.axes[::columns]] == [
        f"n = {i}" for i in range(rows)
    ]


def test_versus_has_a_line_for_each_run_that_logged_it():
    steps = np.array([1, 2])
    runs = {"one": {"a": (steps, steps), "b": (steps, 2 * steps)}, "other": {"a": (steps, -steps)}}
    axes = plots.versus(runs, {"a": "first", "b": "second"}).axes
    assert [axis.get_ylabel() for axis in axes] == ["first", "second"]
    assert [[line.get_label() for line in axis.lines] for axis in axes] == [
        ["one", "other"],
        ["one"],
    ]
    np.testing.assert_array_equal(axes[0].lines[1].get_ydata(), -steps)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([2019, 2022, 2021], ["2019", "2021", "2022"]),
        (["b", "c", "a"], ["a", "b", "c"]),
    ],
)
def test_codes_have_classes_by_their_names(labels, names):
    labels = np.array(labels)
    figure = plots.codes(np.random.default_rng(0).normal(size=(len(labels), 2)), labels)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == names
    # Colours are those of the classes' numbers, however far apart their values are.
    colours = figure.axes[0].collections[0].get_array()
    np.testing.assert_array_equal(colours, np.unique(labels, return_inverse=True)[1])


@pytest.mark.parametrize("value", [0.0, 1.0, -1e6])
def test_embeddings_that_have_collapsed_are_drawn(value):
    """All in one place, far from zero: a picture there has a size that numbers can tell."""
    figure = plots.maps([("one", np.full((5, 2), value, np.float32), np.ones((5, 1, 4, 4)))])
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    assert left < value < right
    assert bottom < value < top


def test_a_tradeoff_has_no_point_where_a_run_has_no_measure():
    rows = [
        {"term": "kt", "weight": weight, "z_dim": 2, "reconstruction_mse": 0.04, "chance": chance}
        | {"leakage": leakage}
        for weight, leakage, chance in ((0.0, None, None), (1.0, 0.3, 0.1), (2.0, 0.2, 0.1))
    ]
    axis = plots.tradeoff(rows).axes[0]
    points, level = axis.lines
    assert list(points.get_ydata()) == [0.3, 0.2]
    assert list(level.get_ydata()) == [0.1, 0.1]
    assert len(plots.tradeoff(rows[:1]).axes[0].lines) == 1


def test_many_classes_have_a_scale_and_no_names():
    z = np.random.default_rng(0).normal(size=(60, 2))
    assert plots.codes(z, np.arange(60) % 20).axes[0].get_legend() is not None
    assert plots.codes(z, np.arange(60)).axes[0].get_legend() is None
