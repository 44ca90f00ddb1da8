"""Draws the figures of a finished run again: ``python -m train.figures RUN``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from train.cli import command, leaves_no_trace
from train.errors import require

if TYPE_CHECKING:
    from train.method import Method


@dataclass(frozen=True)
class FiguresSettings:
    """Draw the figures of a finished run again, from its weights, its log and its data.

    Random content of a figure, such as samples of the prior, differs from that of the run."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    data: str | None = None
    """Path of the run's data; None: as in the run."""
    data_dir: Path | None = None
    """Folder of downloaded data sets; None: as in the run."""
    labels: Path | None = None
    """Path of the run's table of labels; None: as in the run."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on. auto: a GPU if there is one."""


@leaves_no_trace
def main(settings: FiguresSettings, method: Method | None = None) -> dict[str, Any]:
    """Draws the figures of a run again.

    The method is prepared as for training, so that what was watched before the first step is the
    same; then it takes the run's weights. Measures are not taken again.

    Args:
        settings: The run.
        method: The record of a method of one's own.

    Returns:
        The paths of the figures in the run folder, by name; ``None`` for one that failed.

    Raises:
        InputError: If the run cannot be loaded, or the data are not those of the run.
    """
    import torch

    from train import verdict
    from train.engine.runs import Run
    from train.trained import load

    trained = load(settings.run, method)
    given = {name: getattr(settings, name) for name in ("data", "data_dir", "labels", "device")}
    changes = {name: value for name, value in given.items() if value is not None}
    session = trained.method.begin(replace(trained.settings, **changes))
    expected = trained.saved.inputs.get("data_hash")
    require(
        expected in (None, session.data_hash),
        f"--data {session.settings.data} holds other data than the run in {settings.run} was "
        "trained on: give the path of those",
    )
    objective = session.prepared.objective
    objective.load_state_dict(trained.objective.state_dict())
    objective.eval()
    run = Run(settings.run, trained.method.name)
    with torch.no_grad():
        paths, _ = verdict.draw(run, session.watch.figures(verdict.run_log(run)))
    return paths


if __name__ == "__main__":
    command(FiguresSettings, main)
