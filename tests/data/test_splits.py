import numpy as np

from train.data.splits import hold_out


def test_each_example_is_in_one_split():
    train, held_out = hold_out(103)
    assert len(held_out) == 20
    assert sorted([*train, *held_out]) == list(range(103))


def test_a_fifth_of_each_class_is_held_out():
    classes = np.repeat([0, 1, 2, 3], [5, 50, 7, 500])
    _, held_out = hold_out(len(classes), classes)
    assert np.abs(np.bincount(classes[held_out]) - np.array([1, 10, 1.4, 100])).max() < 1
    assert len(held_out) == 112


def test_the_split_does_not_depend_on_seeds_and_versions():
    np.random.seed(1)  # noqa: NPY002 (the state that must not matter)
    _, held_out = hold_out(20)
    assert held_out.tolist() == [10, 2, 16, 12]


def test_classes_are_shuffled():
    classes = np.repeat(np.arange(10), 100)
    train, _ = hold_out(1000, classes)
    assert len(np.unique(classes[train][:60])) == 10
