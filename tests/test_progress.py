"""A person without a terminal sees lines, few of them, and a transformer none."""

from __future__ import annotations

import numpy as np
import pytest

from train.engine import progress
from train.engine.progress import Progress
from train.transformers import AETransformer


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def lines(clock, seconds: float, capsys, *, done: int = 0, shown: bool = True) -> list[str]:
    """What 1,000 steps of some seconds each say."""
    with Progress("ae", 1_000, done, shown=shown) as told:
        for step in range(done + 1, 1_001):
            clock.now += seconds
            told.advance()
            if step % 10 == 0:
                told.show(step, {"mse_loss": 1 / step})
            if step % 100 == 0:
                told.show(step, {"held_out_mse": 2.0})
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_lines_come_every_ten_seconds_and_at_most_twenty(clock, capsys):
    assert lines(clock, 2**-7, capsys) == []
    few = lines(clock, 0.125, capsys)
    assert len(few) == 12
    assert few[0] == "ae: step 80 of 1,000, mse_loss 0.0125; 00:10 taken, about 01:55 left"
    assert few[-1].startswith("ae: step 960 of 1,000, mse_loss 0.001042, held_out_mse 2; ")
    assert len(lines(clock, 100, capsys)) == 20


def test_time_left_after_a_resume_is_of_the_steps_since(clock, capsys):
    first, *_ = lines(clock, 1, capsys, done=900)
    assert first == "ae: step 950 of 1,000, mse_loss 0.001053; 00:50 taken, about 00:50 left"


def test_nothing_is_said_where_nothing_is_to_be_shown(clock, capsys):
    assert lines(clock, 100, capsys, shown=False) == []


def test_a_transformer_is_silent(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    images = np.random.default_rng(0).random((9, 4, 4))
    AETransformer(steps=4, log_every=1, hidden=(4,)).fit(images)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
