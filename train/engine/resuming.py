"""Whether a run folder holds the run that ``--resume`` is to continue."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.engine.checkpoints import Checkpoints
from train.engine.saved import Config, read_config
from train.errors import brief, require
from train.settings import flag


def require_resumable(
    directory: Path,
    config: Mapping[str, Any],
    free: frozenset[str],
    checkpoints: Checkpoints | None,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Checks that a folder holds a run of the same method, settings and data.

    Args:
        directory: The run folder.
        config: ``method``, ``settings`` and ``inputs``, as ``config.json`` would hold them now.
        free: Names of the settings that may differ.
        checkpoints: The checkpoints of the run; None for a study, whose runs have their own.
        defaults: What a run of an earlier version has for the settings that it lacks, as
            ``config.json`` would hold it.

    Raises:
        InputError: If the folder holds no run, another one, or one that is finished but has no
            checkpoint.
    """
    path = directory / "config.json"
    require(path.exists(), f"--resume: there is no run in {directory}; leave --resume out")
    saved, current = read_config(directory), Config(**config)
    saved = saved._replace(settings={**(defaults or {}), **saved.settings})
    require(
        saved.method == current.method,
        f"--run-dir {directory} holds a run of {saved.method}, not of {current.method}: "
        f"use train.{saved.method}, or give another folder",
    )
    hashes = saved.inputs.get("data_hash"), current.inputs.get("data_hash")
    if None in hashes:
        # A run of an earlier version: the path of the data has to be identical.
        _require_settings(directory, saved, current, free)
    else:
        # The content of the data counts, wherever it is and however its path is spelt.
        _require_settings(directory, saved, current, free | {"data"})
        require(
            hashes[0] == hashes[1],
            f"--data {current.settings['data']} holds other data than the run in {directory} was "
            f"started with ({brief(saved.settings.get('data'))}): bring those back, or start a run "
            "anew in another folder",
        )
    finished = (directory / "results.json").exists()
    require(
        not finished or checkpoints is None or bool(checkpoints.paths()),
        f"{directory} has results but no checkpoint: start the run anew in another folder",
    )


def _require_settings(
    directory: Path, saved: Config, current: Config, free: frozenset[str]
) -> None:
    """Raises :class:`InputError` unless all settings but the free ones are equal."""
    for name, value in current.settings.items():
        before = saved.settings.get(name)
        require(
            name in free or before == value,
            f"{flag(name)} is {brief(value)}, but the run in {directory} has {brief(before)}: "
            "a run is resumed as it was started",
        )
