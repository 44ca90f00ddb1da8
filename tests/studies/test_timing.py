from __future__ import annotations

from train.studies.timing import median_milliseconds, median_ratio, turns


def test_functions_are_called_in_turn_and_the_first_round_is_not_counted():
    calls = []
    steps = {name: lambda i, name=name: calls.append(f"{name}{i}") for name in "ab"}
    times = turns(steps, rounds=4, repeats=2)
    assert calls == ["a0", "a1", "b0", "b1"] * 5
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4}


def test_milliseconds_are_medians():
    calls = []
    steps = {name: lambda _, name=name: calls.append(name) for name in "ab"}
    times = median_milliseconds(steps, 4)
    assert "".join(calls) == "ab" * 5
    assert all(0 <= value < 100 for value in times.values())


def test_ratios_are_taken_in_each_round():
    """A machine that slows down in one round slows both functions: the ratio stays."""
    assert median_ratio([2, 20, 2], [1, 10, 1]) == 2
    assert median_ratio([1, 2, 9], [1, 1, 1]) == 2
