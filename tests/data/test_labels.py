"""Labels of every type, the classes that occur in them, and the conditions of models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.data.refusals import refused
from train.data.conditions import Condition
from train.data.labelled import Images
from train.data.labels import MAX_FLOAT_CLASSES, Classes, as_labels, interpretation

MOST = MAX_FLOAT_CLASSES
N = 2 * MOST


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.arange(N) % 4 + 2019, np.arange(N) % 4 + 2019),
        ((np.arange(N) % 3 - 1).astype(">i2"), np.arange(N) % 3 - 1),
        (np.arange(N, dtype=np.uint64) + 2**63, np.arange(N, dtype=np.uint64) + 2**63),
        (torch.arange(N) % 3, np.arange(N) % 3),
        (np.arange(N)[:, None] % 3, np.arange(N) % 3),
        (np.arange(N) % 2 == 0, (np.arange(N) + 1) % 2),
        (np.arange(N) % 2 + 20230115.0, np.arange(N) % 2 + 20230115),
        (["a", "b"] * MOST, np.array(["a", "b"] * MOST)),
        (
            np.array(["a", "b"] * MOST, dtype=object)[:, None],
            np.array(["a", "b"] * MOST),
        ),
        (np.array([b"a", b"b"] * MOST), np.array(["a", "b"] * MOST)),
        (
            [torch.tensor(3), torch.tensor(1)] * MOST,
            np.array([3, 1] * MOST),
        ),
        (np.arange(N) % MOST * 1.0, np.arange(N) % MOST),
        # Quantities: not whole, or of too many values to be classes.
        (np.linspace(0, 1, N), np.linspace(0, 1, N)),
        (np.arange(N) * 1.0, np.arange(N) * 1.0),
        (
            np.array([1, 2.5] * MOST, dtype=object),
            np.array([1, 2.5] * MOST),
        ),
        (torch.arange(2.0 * N).reshape(N, 2) % 2, np.arange(2.0 * N).reshape(N, 2) % 2),
    ],
)
def test_labels_of_one_kind(given, expected):
    labels = as_labels(given)
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == expected.dtype


def test_the_interpretation_of_whole_floats_is_reported():
    for given, words in (
        (np.arange(N) % 4 * 1.0, "of 4 values, and are taken for classes: divide them by 10"),
        (np.arange(N) * 1.0, f"of {N} values, and are taken for quantities: give integers"),
    ):
        assert words in interpretation(given, as_labels(given))
    for given in (np.arange(N) % 4, np.linspace(0, 1, N), np.ones((N, 2))):
        assert interpretation(given, as_labels(given)) is None
    # The remedy works.
    assert as_labels(np.arange(N) % 4 / 10).dtype == np.float64


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((N, 2, 2)), ("(40, 2, 2)", "(N, K)")),
        (np.zeros((N, 0)), ("(40, 0)", "(N, K)")),
        ([1, "a"], ("not of one kind",)),
        ([1, None], ("not of one kind",)),
        ([2**70, 1], ("not of one kind",)),
        ([-1, 2**63], ("not of one kind",)),
        ([[1, 2], [3]], ("not of one kind",)),
        ([np.zeros(2), np.zeros((2, 2))], ("unequal lengths",)),
        ([1.0, np.nan], ("not finite",)),
        (np.zeros(N, complex), ("complex128",)),
        (np.zeros(N, "M8[D]"), ("datetime64",)),
    ],
)
def test_unusable_labels_are_refused(given, words):
    with refused("y ", *words):
        as_labels(given, "y")


def test_classes_are_indexed_in_the_order_of_their_values():
    classes = Classes.of(np.array([20230115, -3, 7, 7]))
    assert classes.values == (-3, 7, 20230115)
    assert len(classes) == 3
    numbers = classes.encode([7, 20230115, -3.0])
    assert numbers.tolist() == [1, 2, 0]
    assert numbers.dtype == torch.int64
    assert classes.decode(numbers) == [7, 20230115, -3]
    assert classes.encode(torch.tensor([[7], [-3]])).tolist() == [[1], [0]]
    assert classes.encode(7).shape == ()
    assert (classes.find("-3"), classes.find(7), classes.find("8")) == (0, 1, None)
    for label in (1.5, 8, "7", -4):
        with refused(f"there is no class {label!r}: the classes are -3, 7, 20230115"):
            classes.encode([7, label] if label != "7" else [label])
    many = Classes(tuple(range(100)))
    with refused("18, 19 and 80 more"):
        many.encode(100)


def test_classes_are_restored_from_a_run():
    for values in ((2019, 2022), ("a", "b"), (0,)):
        classes = Classes(values)
        assert Classes.from_saved(list(values), len(values)) == classes
    # Runs of earlier versions have the number of classes alone.
    assert Classes.from_saved(None, 3).values == (0, 1, 2)
    for values, number in (([1, 1], 2), ([1], 2), ([[1]], 1), ([None], 1), (None, 10**12)):
        with pytest.raises(ValueError, match="classes"):
            Classes.from_saved(values, number)


def images(given: np.ndarray) -> Images:
    return Images.labelled(torch.zeros(len(given), 2, 2, dtype=torch.uint8), as_labels(given))


def test_a_condition_of_classes_with_any_values():
    """Four years are four classes, not 2,023. Labels are one for all images or one for each."""
    data = images(np.arange(N) % 4 + 2019)
    condition = Condition.fit(data, data)
    assert condition.size == 4
    assert condition.of_images(data).argmax(1).tolist() == [0, 1, 2, 3] * (N // 4)
    restored = Condition.from_state(condition.state())
    for labels, n, classes in (
        *((2021, 3, [2, 2, 2]), ([2021], 2, [2, 2]), (torch.tensor(2021.0), 1, [2])),
        *(([2022, 2019], 2, [3, 0]), (np.array([[2022], [2019]]), 2, [3, 0])),
    ):
        c = restored.of_labels(labels, n)
        assert c.shape == (n, 4)
        assert c.argmax(1).tolist() == classes
    for labels, words in (
        *((2023, "no class 2023"), (1.5, "no class 1.5"), ("2021", "no class '2021'")),
        *(([2019] * 3, "3 labels for 2 images"), (np.full((2, 2), 2019), "give one an image")),
    ):
        with refused(words) as caught:
            restored.of_labels(labels, 2)
        assert "--" not in str(caught.value)
    named = images(np.array(["cat", "dog"] * MOST))
    condition = Condition.fit(named, named)
    assert condition.of_labels("dog", 2).tolist() == [[0, 1]] * 2
    with refused("no class 'cow': the classes are 'cat', 'dog'"):
        condition.of_labels(["cow", "dog"], 2)


def test_a_condition_of_quantities():
    data = images(np.random.default_rng(0).normal(size=(N, 3)))
    condition = Condition.fit(data, data)
    row = data.values[0]
    torch.testing.assert_close(condition.of_labels(data.values, N), condition.of_images(data))
    for one in (row, row[None], row.tolist()):
        torch.testing.assert_close(
            condition.of_labels(one, 5), condition.of_images(data)[:1].expand(5, -1)
        )
    for labels in (row[:2], ["a", "b", "c"], 1.0):
        with refused("labels"):
            condition.of_labels(labels, 5)


def test_labels_follow_their_images():
    data = images(np.array(["b", "a", "c"] * N))
    few = data.select(torch.tensor([2, 0]))
    assert few.labels.tolist() == [2, 1]
    assert few.values.tolist() == ["c", "b"]
    # Text in several columns names sets for ABC; it is no input of a network.
    columns = images(np.array([["a", "x"], ["b", "y"]] * N))
    assert columns.labels is None
    with refused("these are text: give one column"):
        Condition.fit(columns, columns)
