"""The runs that a study is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from train.engine.runs import Run
from train.engine.saved import run_once
from train.errors import Interrupted
from train.settings import Settings

S = TypeVar("S", bound=Settings)


def results_of(study: Run, folder: str, settings: S, main: Callable[[S], Any]) -> dict[str, Any]:
    """Returns the results of one run of a study.

    A finished run is not repeated, and one that was stopped goes on.

    Args:
        study: The run folder of the study.
        folder: The folder of the run in it.
        settings: The settings of the run, but for ``run_dir`` and ``resume``.
        main: Trains a run with given settings.

    Raises:
        Interrupted: If Ctrl-C is pressed; the message names the study.
    """
    directory = study.directory / folder

    def make(resume: bool) -> None:
        main(replace(settings, run_dir=directory, resume=resume))

    try:
        return run_once(directory, make)
    except Interrupted:
        raise Interrupted(
            f"stopped in {directory}; go on with the same command and "
            f"--resume --run-dir {study.directory}"
        ) from None
