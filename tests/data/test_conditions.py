"""Conditions of several named columns, classes and quantities mixed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.data.refusals import refused
from train.data import conditions
from train.data.circular import is_circular, on_circle
from train.data.conditions import Condition, JointCondition
from train.data.labelled import Images

N = 12


def columns() -> dict[str, np.ndarray]:
    return {
        "class": np.arange(N) % 3,
        "ink": np.array(["red", "blue"] * (N // 2)),
        "size": np.random.default_rng(0).normal(5, 2, N),
        "wall_hue": np.arange(N) / N,
    }


def images(**changes: Any) -> Images:
    return Images.of_columns(torch.zeros(N, 4, 4, dtype=torch.uint8), columns() | changes)


def test_parts_are_one_hot_standardised_and_on_a_circle():
    data = images()
    condition = conditions.fit(data, data, ("size", "ink", "wall_hue"))
    c = condition.of_images(data)
    assert condition.sizes == (1, 2, 2)
    assert condition.size == 5
    assert c.shape == (N, 5)
    torch.testing.assert_close(c[:, 0].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(c[:, 0].std(), torch.tensor(1.0))
    assert c[:, 1:3].tolist() == [[0, 1], [1, 0]] * (N // 2)
    # The twelve hues are evenly spaced: equal steps, the last one back to the first.
    steps = (c[:, 3:] - c[:, 3:].roll(1, 0)).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(N))
    assert condition.of_images(data, use_labels=False).shape == (N, 0)


def test_a_state_is_restored_from_json():
    data = images()
    condition = conditions.fit(data, data, ("wall_hue", "ink", "size"))
    restored = conditions.restored(json.loads(json.dumps(condition.state())))
    assert isinstance(restored, JointCondition)
    assert restored.names == ("wall_hue", "ink", "size")
    torch.testing.assert_close(restored.of_images(data), condition.of_images(data))


def test_states_of_earlier_versions():
    """The labels alone have the format that they always had."""
    old = {"classes": 2, "loc": [], "scale": [], "values": ["cat", "dog"]}
    condition = conditions.restored(old)
    assert condition.state() == old
    assert condition.of_labels("dog", 1).tolist() == [[0, 1]]
    quantities = {"classes": 0, "loc": [1.0, 2.0], "scale": [0.5, 4.0], "values": []}
    condition = conditions.restored(quantities)
    assert condition.state() == quantities
    assert condition.of_labels([[1.5, 6.0]], 1).tolist() == [[1, 1]]
    del old["values"], quantities["values"]
    assert conditions.restored(old).of_labels(1, 1).tolist() == [[0, 1]]
    assert conditions.restored(quantities).of_labels([1.0, 2.0], 1).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    "state",
    [
        [],
        [Condition(2, torch.zeros(0), torch.zeros(0)).state()],
        [Condition(2, torch.zeros(0), torch.zeros(0), name="a").state()] * 2,
    ],
)
def test_states_without_distinct_names(state):
    with pytest.raises(ValueError, match="distinct names"):
        conditions.restored(state)


def test_labels_by_name_and_in_order():
    data = images()
    condition = conditions.fit(data, data, ("ink", "wall_hue", "class"))
    table = {name: data.columns[name] for name in condition.names}
    expected = condition.of_images(data)
    rows = [list(row) for row in zip(*table.values(), strict=True)]
    structured = np.array(
        list(zip(*table.values(), strict=True)),
        dtype=[("ink", "U4"), ("wall_hue", "f8"), ("class", "i8")],
    )
    tables = (table, dict(reversed(table.items())), pd.DataFrame(table), structured)
    for labels in (*tables, rows, np.array(rows, dtype=object)):
        torch.testing.assert_close(condition.of_labels(labels, N), expected)
    one = {"ink": "red", "wall_hue": [0.5], "class": np.int64(2)}
    for labels in (one, ["red", 0.5, 2], [["red", 0.5, 2]]):
        torch.testing.assert_close(
            condition.of_labels(labels, 4),
            condition.of_labels([["red", 0.5, 2]] * 4, 4),
        )
    # One for all, beside one for each.
    mixed = condition.of_labels({"ink": "red", "wall_hue": 0.5, "class": [0, 1, 2]}, 3)
    assert mixed[:, -3:].tolist() == torch.eye(3).tolist()


def test_a_single_named_condition_takes_its_values_alone():
    data = images()
    condition = conditions.fit(data, data, "ink")
    for labels in ("red", ["red"], {"ink": "red"}, ["red"] * 3):
        assert condition.of_labels(labels, 3).tolist() == [[0, 1]] * 3


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"ink": "red"}, ["the labels have no size", "give ink, size"]),
        ({"ink": "red", "size": 1.0, "Paper": 3}, ["Paper, of which this model was not told"]),
        ({"ink": "pink", "size": 1.0}, ["ink: there is no class 'pink': the classes are 'blue'"]),
        ({"ink": ["red"] * 3, "size": 1.0}, ["ink: there are 3 labels for 2 images"]),
        ({"ink": "red", "size": "big"}, ["size: labels have", "give numbers"]),
        ("red", ["told ink, size", "give labels by name"]),
        ([["red", 1.0, 2.0]] * 2, ["rows of 2 values"]),
        ([["red"], ["red", 1.0]], ["rows of 2 values"]),
        ({"ink": "red", "size": float("nan")}, ["size: labels has values that are not finite"]),
    ],
)
def test_labels_that_are_refused(labels, words):
    data = images()
    condition = conditions.fit(data, data, ("ink", "size"))
    with refused(*words):
        condition.of_labels(labels, 2)


@pytest.mark.parametrize(
    ("changes", "held_out", "words"),
    [
        ({}, {}, ["--condition paper: --data has no such column", "class, ink, size, wall_hue"]),
        ({"paper": np.zeros(N, int)}, {}, ["--condition paper has a single class"]),
        ({"paper": np.full(N, 0.5)}, {}, ["--condition paper is the same for every image"]),
        (
            {"paper": np.where(np.arange(N) > 9, np.nan, 0.5)},
            {},
            ["--condition paper: 4 of its values are missing"],
        ),
        (
            {"paper": np.arange(N) % 2},
            {"paper": np.arange(N) % 3},
            ["--condition paper: all images of class 2 are held out"],
        ),
    ],
)
def test_columns_that_will_not_do(changes, held_out, words):
    with refused(*words):
        conditions.fit(images(**changes), images(**changes | held_out), ("ink", "paper"))


def test_columns_that_are_called_like_a_condition():
    """``labels`` is the labels and ``none`` nothing, so that no run changes with its columns."""
    data = images()
    assert conditions.fit(data, data, "labels").state()["values"] == [0, 1, 2]
    joint = conditions.fit(data, data, ("ink", "labels"))
    torch.testing.assert_close(joint.of_images(data)[:, 2:], torch.eye(3).repeat(N // 3, 1))
    same = images(labels=data.values)
    assert conditions.fit(same, same, "labels").state()["values"] == [0, 1, 2]
    for name in ("labels", "none"):
        other = images(**{name: np.arange(N) % 2})
        with refused(f"--condition {name} means", "rename the column"):
            conditions.fit(other, other, name)


def test_hues_are_known_by_name_and_range():
    hues = np.array([0.0, 0.5, 1.0])
    for name, column, expected in (
        ("hue", hues, True),
        ("floor_hue", hues, True),
        ("hue_of_floor", hues, False),
        ("hue", 360 * hues, False),
        ("hue", np.array([0, 1]), False),
        ("hue", np.array(["red"]), False),
    ):
        assert is_circular(name, column) == expected
    np.testing.assert_allclose(on_circle(hues), [[0, 1], [0, -1], [0, 1]], atol=1e-12)
