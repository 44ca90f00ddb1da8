"""Figures of a finished run, drawn again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.refusals import refused
from train import abc, ae
from train.figures import FiguresSettings, main

SMALL = {"steps": 3, "device": "cpu", "eval_every": 3}


@pytest.fixture
def data(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(60) % 3)
    return tmp_path / "own.npz"


def files(run: Path) -> dict[str, bytes]:
    """The figures of a run, by name."""
    return {file.stem: file.read_bytes() for file in (run / "figures").iterdir()}


@pytest.mark.figures("all")
def test_figures_are_the_same_ones(tmp_path, data):
    """Of trained weights, of the log, and of what was watched before the first step."""
    run = tmp_path / "run"
    options = {"stack_size": 4, "channels": 4, "withheld": ("2",), "learning_rate": 0.1}
    abc.main(abc.ABCSettings(**SMALL, **options, data=str(data), run_dir=run))
    before = files(run)
    others = {file: file.read_bytes() for file in run.iterdir() if file.is_file()}
    for file in (run / "figures").iterdir():
        file.unlink()
    moved = data.rename(tmp_path / "moved.npz")
    paths = main(FiguresSettings(run=run, data=str(moved)))
    assert paths == {name: f"figures/{name}.png" for name in ("maps", "retrieval", "curves")}
    assert files(run) == before
    assert {file: file.read_bytes() for file in run.iterdir() if file.is_file()} == others


def test_other_data_and_no_run_are_refused(tmp_path, data):
    run = tmp_path / "run"
    settings = ae.AESettings(**SMALL, hidden=(8,), cluster_starts=1, data=str(data), run_dir=run)
    ae.main(settings)
    before = files(run)
    np.savez(
        data, images=np.eye(16, dtype=np.uint8)[None] * np.arange(60, dtype=np.uint8)[:, None, None]
    )
    with refused("holds other data than the run", "give the path of those"):
        main(FiguresSettings(run=run))
    assert files(run) == before
    with refused("holds no run"):
        main(FiguresSettings(run=tmp_path / "nothing"))
