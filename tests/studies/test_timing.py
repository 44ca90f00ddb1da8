from __future__ import annotations

import math
from types import SimpleNamespace

from train.studies import timing
from train.studies.timing import median_interval, median_milliseconds, median_ratio, turns


def test_functions_are_called_in_turn_and_the_first_round_is_not_counted():
    calls = []
    steps = {name: lambda i, name=name: calls.append(f"{name}{i}") for name in "ab"}
    times = turns(steps, rounds=4, repeats=2)
    # Each round has another order.
    forth, back = ["a0", "a1", "b0", "b1"], ["b0", "b1", "a0", "a1"]
    assert calls == forth + back + forth + back + forth
    assert {name: len(values) for name, values in times.items()} == {"a": 4, "b": 4}


def test_milliseconds_are_medians():
    calls = []
    steps = {name: lambda _, name=name: calls.append(name) for name in "ab"}
    times = median_milliseconds(steps, 4)
    assert "".join(calls) == "abbaabbaab"
    assert all(0 <= value < 100 for value in times.values())


def test_ratios_are_taken_in_each_round():
    """A machine that slows down in one round slows both functions: the ratio stays."""
    assert median_ratio([2, 20, 2], [1, 10, 1]) == 2
    assert median_ratio([1, 2, 9], [1, 1, 1]) == 2


def test_the_clock_is_the_callers(monkeypatch):
    """Seconds that pass elsewhere are not counted."""
    monkeypatch.setattr(timing, "time", None)
    now = SimpleNamespace(seconds=0.0)

    def step(_: int) -> None:
        now.seconds += 0.25

    times = turns({"a": step}, rounds=2, repeats=3, clock=lambda: now.seconds)
    assert times == {"a": [250, 250]}


def test_an_interval_covers_the_median():
    """With a probability of 95% at least, that of a binomial, and not of much more."""
    for n, missed in ((6, 0), (20, 5), (60, 21)):
        values = [float(value) for value in range(n)]
        low, high = median_interval(values[::-1])
        # As many values are below it as above it.
        assert (low, high) == (missed, n - 1 - missed)
        outside = 2 * sum(math.comb(n, k) for k in range(missed + 1)) / 2**n
        assert outside <= 0.05 < outside + 2 * math.comb(n, missed + 1) / 2**n
    assert median_interval([3.0, 1.0]) == (1, 3)
