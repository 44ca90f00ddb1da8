"""Without a terminal, progress is a few lines; a transformer prints none."""

from __future__ import annotations

import numpy as np
import pytest

from train.engine import callbacks
from train.engine.callbacks import ProgressBar
from train.settings import Settings
from train.transformers import AETransformer


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test advances."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(callbacks.time, "monotonic", lambda: Clock.now)
    return Clock


def lines(clock, seconds: float, capsys, *, done: int = 0) -> list[str]:
    """Returns the lines that 1,000 steps of ``seconds`` each print."""
    bar = ProgressBar("ae")
    bar.start(Settings(steps=1_000), done)
    for step in range(done + 1, 1_001):
        clock.now += seconds
        metrics = {"mse_loss": 1 / step, "train_seconds": 1.0} if step % 10 == 0 else {}
        bar.step(step, metrics)
        if step % 100 == 0:
            bar.evaluated(step, {"held_out_mse": 2.0})
    bar.end(None)
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


def test_a_transformer_is_silent(monkeypatch, capsys):
    monkeypatch.setattr(callbacks, "SECONDS", 0.0)
    images = np.random.default_rng(0).random((9, 4, 4))
    AETransformer(steps=4, log_every=1, hidden=(4,)).fit(images)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
