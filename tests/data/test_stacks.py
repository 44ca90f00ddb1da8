from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data.refusals import refused
from train.data.labelled import Images
from train.data.labels import as_labels
from train.data.stacks import CHUNK, Sets, StackPairs


def data(*counts: int) -> tuple[Tensor, Tensor]:
    """Images whose first pixel is their number, and their sets."""
    sets = torch.cat([torch.full((count,), i) for i, count in enumerate(counts)])
    images = torch.zeros(len(sets), 3, 4, 4, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(len(sets))
    return images, sets


def test_stacks_are_of_two_sets_without_repetition():
    images, sets = data(10, 12, 9, 30)
    stacks = StackPairs(images, sets, (5, 7), pairs=3, withheld=(3,))
    drawn = set()
    for step in range(2 * CHUNK):
        a, b = stacks.indices(step)
        assert a.shape == (3, 5)
        assert b.shape == (3, 7)
        for first, second in zip(a, b, strict=True):
            of_first, of_second = sets[first].unique(), sets[second].unique()
            assert len(of_first) == len(of_second) == 1
            assert of_first != of_second
            assert len(first.unique()) == 5
            assert len(second.unique()) == 7
            drawn |= {(int(of_first), int(of_second))}
    assert drawn == {(i, j) for i in range(3) for j in range(3) if i != j}


def test_stacks_are_the_images_in_the_unit_interval():
    images, sets = data(100, 120)
    stacks = StackPairs(images, sets, (5, 7), pairs=3, seed=4)
    for stack, rows in zip(stacks(9), stacks.indices(9), strict=True):
        assert stack.shape == (*rows.shape, 3, 4, 4)
        torch.testing.assert_close(stack[..., 0, 0, 0], rows / 255)


def test_a_batch_depends_on_its_step_alone():
    images, sets = data(10, 12)
    straight = StackPairs(images, sets, (5, 5), seed=1)
    expected = [straight.indices(step) for step in range(CHUNK + 3)]
    resumed = StackPairs(images, sets, (5, 5), seed=1)
    for step in (CHUNK + 2, 3, CHUNK):
        torch.testing.assert_close(resumed.indices(step), expected[step])
    other = StackPairs(images, sets, (5, 5), seed=2)
    assert any((other.indices(i)[0] != expected[i][0]).any() for i in range(3))


def test_the_second_stack_of_abc_x_has_images_of_all_sets_that_are_not_withheld():
    images, sets = data(20, 20, 20)
    stacks = StackPairs(images, sets, (4, 15), curated="one", withheld=(1,))
    mixed = 0
    for step in range(20):
        (a,), (b,) = stacks.indices(step)
        assert len(sets[a].unique()) == 1
        assert not (sets[b] == 1).any()
        mixed += len(sets[b].unique()) == 2
    assert mixed == 20


def test_with_replacement_a_set_may_be_smaller_than_a_stack():
    images, sets = data(3, 30)
    a, b = StackPairs(images, sets, (8, 8), replacement=True).indices(0)
    assert min(len(a.unique()), len(b.unique())) <= 3


@pytest.mark.parametrize(
    ("counts", "options", "words"),
    [
        ((9, 9), {"withheld": (4,)}, "--withheld 4: there is no such set; give some of 0, 1"),
        ((9, 9), {"withheld": (1,)}, "1 sets besides the withheld ones"),
        ((9, 5, 3), {}, "--stack-size 6 is larger than set 1 (5 images), set 2 (3 images)"),
    ],
)
def test_sets_too_small_or_too_few_are_refused(counts, options, words):
    with refused(words):
        StackPairs(*data(*counts), (6, 6), **options)


def test_abc_x_takes_a_single_set():
    a, b = StackPairs(*data(9), (6, 6), curated="one").indices(0)
    assert len(a[0]) == len(b[0]) == 6


def of_column(labels: np.ndarray, column: int = 0, splits: int = 1) -> Sets:
    images = torch.zeros(len(labels), 4, 4, dtype=torch.uint8)
    return Sets.of(*[Images.labelled(images, as_labels(labels))] * splits, column=column)


def test_any_column_may_name_the_sets():
    labels = np.array([[0.5, 20230117], [1.5, 20230116], [0.1, 20230117]])
    sets = of_column(labels, 1, splits=2)
    # The two days are one number in single precision.
    assert sets.classes.values == (20230116, 20230117)
    assert [indices.tolist() for indices in sets.indices] == [[1, 0, 1]] * 2
    assert of_column(np.array(["b", "b", "a"])).indices[0].tolist() == [1, 1, 0]
    text = of_column(np.array([["a", "007"], ["b", "7"], ["c", "7"]]), 1)
    assert text.counts() == {"007": 1, "7": 2}
    assert text.counts(("007",)) == {"7": 2}
    assert text.find(("007",)) == (0,)
    with refused("there is no set 8, x: the sets are '007', '7'"):
        text.find(("8", "7", "x"))
    with refused("--set-column 0: its values are not whole numbers"):
        of_column(labels)
    with refused("--set-column 2: the labels have 2 columns"):
        of_column(labels, 2)
    with refused("--data has no labels"):
        Sets.of(Images(torch.zeros(3, 4, 4, dtype=torch.uint8), None))


def test_a_named_column_is_the_sets():
    """Beside the labels; quantities of few levels too, which are written in few digits."""
    scale = np.linspace(0.75, 1.25, 8)[np.arange(32) % 8]
    columns = {"shape": np.arange(32) % 3, "scale": scale, "ink": np.array(["red", "blue"] * 16)}
    columns["turn"] = np.array([30.0, -7.5] * 16)
    data = Images.of_columns(torch.zeros(32, 4, 4, dtype=torch.uint8), columns)
    assert Sets.of(data).classes.values == (0, 1, 2)
    assert Sets.of(data, column="ink").classes.values == ("blue", "red")
    sets = Sets.of(data, data.select(torch.arange(5, 8)), column="scale")
    words = ("0.75", "0.821", "0.893", "0.964", "1.04", "1.11", "1.18", "1.25")
    assert sets.classes.values == words
    assert [indices.tolist() for indices in sets.indices] == [list(range(8)) * 4, [5, 6, 7]]
    assert sets.find(("0.821",)) == (1,)
    # In the order of numbers, not of text.
    assert Sets.of(data, column="turn").classes.values == ("-7.5", "30")
    with refused("--set-column colour: --data has no such column", "shape, scale, ink, turn"):
        Sets.of(data, column="colour")
    close = Images.of_columns(data.images, {"a": np.array([0.10001, 0.10002] * 16)})
    assert Sets.of(close, column="a").classes.values == ("0.10001", "0.10002")


@pytest.mark.parametrize("levels", [17, 32])
def test_quantities_that_do_not_repeat_name_no_sets(levels):
    values = np.linspace(0, 1, levels)[np.arange(32) % levels]
    data = Images.of_columns(torch.zeros(32, 4, 4, dtype=torch.uint8), {"age": values})
    with refused("--set-column age: its values are not whole numbers", f"{levels} of them differ"):
        Sets.of(data, column="age")


def test_error_messages_have_the_names_of_sets():
    with refused("--stack-size 6 is larger than set dog (5 images)"):
        StackPairs(*data(9, 5), (6, 6), names=("cat", "dog"))
    with refused("--withheld dog: there is no such set; give some of cat, or"):
        StackPairs(*data(9), (6, 6), withheld=(1,), names=("cat", "dog"))
