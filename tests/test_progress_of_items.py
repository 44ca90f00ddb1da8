"""Progress of what takes long: lines where there is no terminal, and none if it is fast."""

from __future__ import annotations

import sys

import pytest

from train import progress


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The seconds of a clock that the test sets."""
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def take(clock: list[float], seconds: float) -> list[int]:
    items = []
    for item in progress.progress(range(5), "k-means", 5, "start"):
        items.append(item)
        clock[0] += seconds
    return items


def test_what_is_fast_prints_nothing(clock, capsys):
    assert take(clock, 1) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""


def test_lines_are_ten_seconds_apart(clock, capsys):
    assert take(clock, 6) == [0, 1, 2, 3, 4]
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "k-means: start 2 of 5; about 00:18 left",
        "k-means: start 4 of 5; about 00:06 left",
    ]


def test_other_processes_are_silent(clock, capsys, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "x", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    take(clock, 6)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert take(clock, 6) == [0, 1, 2, 3, 4]
    written = capsys.readouterr().err
    assert "k-means: " in written
    assert "; about" not in written
