"""The run folder: everything that training writes."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import nn

from train import processes
from train.engine import disk
from train.engine.checkpoints import Checkpoints
from train.engine.history import MetricsLog, Stages
from train.engine.provenance import git_commit, library_versions
from train.engine.resuming import require_resumable
from train.engine.saved import weights_file
from train.engine.tensorboard import tensorboard_writer
from train.errors import InputError, first_line, require
from train.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("config.json", "metrics.jsonl", "model.safetensors", "checkpoints", "results.json")
"""A folder with any of these holds a run."""


class Run:
    """A run folder.

    :meth:`create` starts or resumes a run. ``Run(directory, method)`` opens the folder of a
    finished one, for example for more figures, and leaves ``config.json`` as it is.

    Every method that writes raises :class:`~train.errors.InputError` if the disk is full, or the
    folder is gone or read-only.

    Args:
        directory: The folder.
        method: The method's name.
        keep: How many of the last checkpoints are kept.
        writes: Whether this process writes; of processes that train together only rank 0 does.
            In the others, methods that write do nothing.

    Attributes:
        directory: The folder.
        method: The method's name.
        checkpoints: The checkpoints in it.
        config: What ``config.json`` holds; empty unless :meth:`create` made the run.
    """

    def __init__(self, directory: Path, method: str, keep: int = 2, writes: bool = True) -> None:
        self.directory = directory
        self.method = method
        self.writes = writes
        self.config: dict[str, Any] = {}
        self.checkpoints = Checkpoints(directory / "checkpoints", keep)
        self._log = MetricsLog(directory / "metrics.jsonl")
        self._stages = Stages(directory / "stages")

    @classmethod
    def create(
        cls,
        settings: Settings,
        method: str,
        *,
        study: frozenset[str] | None = None,
        **inputs: Any,
    ) -> Run:
        """Makes the folder of a new run, or opens that of a run to be resumed.

        Args:
            settings: ``run_dir``, ``resume``, and all that goes into ``config.json``.
            method: The method's name.
            study: Of a study of several runs the names of the settings that say which runs it has,
                and may differ when it is resumed.
            inputs: Facts about the data from which the model is built again, as plain values, for
                example its image shape; and ``data_hash``, the
                :func:`~train.data.fingerprint.fingerprint` of the data, so that a run is resumed
                with identical data only.

        Raises:
            InputError: If the folder holds another run, or not the one to be resumed, or the data
                differ from that run's, or the folder cannot be written to; no file has changed
                then.
        """
        directory = settings.run_dir or _new_directory(method)
        run = cls(directory, method, settings.keep_checkpoints, writes=processes.rank() == 0)
        if not run.writes:
            return run
        require(
            not directory.exists() or directory.is_dir(),
            f"--run-dir {directory} is a file: give a folder",
        )
        if settings.tensorboard:
            # Fails here, before anything is written, if TensorBoard is not installed.
            tensorboard_writer()
        config = {"method": method, "settings": asdict(settings), "inputs": inputs}
        config = disk.to_json(config)
        run.config = config | {"versions": library_versions(), "git_commit": git_commit()}
        if settings.resume:
            defaults = {field.name: field.default for field in fields(settings)}
            defaults |= settings.EARLIER
            free = settings.FREE
            if study is not None:
                # Runs of other numbers of steps are no rows of one table.
                free = free - {"steps"} | study
            checkpoints = run.checkpoints if study is None else None
            require_resumable(directory, config, free, checkpoints, disk.to_json(defaults))
        else:
            run._make_directory()
        # load_checkpoint writes that of a resumed run, once it knows that the checkpoint is sound.
        if study is not None or not settings.resume:
            run._write_config()
        return run

    def load_checkpoint(
        self, load: Callable[[Mapping[str, Any]], None], device: torch.device
    ) -> None:
        """Restores the last checkpoint, and cuts the log and the stages at its step.

        A run that was stopped before its first checkpoint begins again.

        Args:
            load: Called with the saved state, if there is a checkpoint.
            device: Where the tensors of the state go.

        Raises:
            InputError: If the checkpoint is damaged, or of another network; no file has changed.
        """
        step = 0
        if paths := self.checkpoints.paths():
            state = self.checkpoints.load(device)
            try:
                step = int(state["step"])
                load(state)
            except disk.MALFORMED as error:
                raise InputError(
                    f"{paths[-1]} is of another network ({first_line(error)}): start the run anew "
                    "in another folder"
                ) from error
        if self.writes:
            self._write_config()
            self._log.truncate(step)
            self._stages.truncate(step)

    def save_checkpoint(self, step: int, state: Mapping[str, Any], module: nn.Module) -> None:
        """Writes a checkpoint to resume from, and the weights alone, to be loaded by others.

        Args:
            step: The number of steps done.
            state: Tensors and plain values, for :meth:`load_checkpoint`; ``step`` among them.
            module: The module whose weights go into ``model.safetensors``.

        Raises:
            InputError: If it cannot be written; the last checkpoint is still there.
        """
        if self.writes:
            self.checkpoints.save(step, state)
            self.save_weights(step, module)

    def save_weights(self, step: int, module: nn.Module) -> None:
        """Writes ``model.safetensors``: the weights and buffers of a module after a step."""
        content = weights_file(step, module)
        self._write("model.safetensors", lambda file: file.write(content))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends a line to ``metrics.jsonl``; numbers that are not finite become ``null``."""
        if self.writes:
            self._log.append(step, metrics)

    def history(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Reads, for each metric logged, its steps and its values: arrays of equal length."""
        return self._log.columns()

    def save_stage(self, step: int, **arrays: np.ndarray) -> None:
        """Writes ``stages/STEP.npz``: arrays of a stage of training, for the figures."""
        if self.writes:
            self._stages.save(step, arrays)

    def stages(self) -> list[tuple[int, dict[str, np.ndarray]]]:
        """Reads the saved stages: pairs of step and arrays by name, in order of their steps."""
        return self._stages.load()

    def save_figure(self, name: str, figure: Figure) -> None:
        """Writes ``figures/NAME.png``."""
        self._write(f"figures/{name}.png", lambda file: figure.savefig(file, format="png", dpi=150))

    def save_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes ``NAME.csv``: a line for each row, with the columns of the first row."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        self._write_text(f"{name}.csv", text.getvalue())

    def save_text(self, name: str, text: str) -> None:
        """Writes a text file, in UTF-8."""
        self._write_text(name, text)

    def finish(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Writes ``results.json``.

        Args:
            results: Values by name.

        Returns:
            What the file holds: ``method`` and the results as JSON has them; numbers that are not
            finite become ``None``.
        """
        held: dict[str, Any] = {"method": self.method, **disk.to_json(results)}
        self._write_json("results.json", held)
        return held

    def _make_directory(self) -> None:
        """Makes the folder; raises :class:`InputError` if it holds a run already."""
        existing = [name for name in FILES if (self.directory / name).exists()]
        require(
            not existing,
            f"--run-dir {self.directory} already holds a run ({', '.join(existing)}): "
            "add --resume to go on with it, or give another folder",
        )
        with disk.writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)

    def _write_config(self) -> None:
        """Writes ``config.json``; removes files that killed processes left incomplete."""
        for name in ("", "checkpoints", "figures", "stages"):
            disk.sweep(self.directory / name)
        self._write_json("config.json", self.config)

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        self._write_text(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def _write_text(self, name: str, text: str) -> None:
        self._write(name, lambda file: file.write(text.encode()))

    def _write(self, name: str, write: Callable[[BinaryIO], Any]) -> None:
        """Writes a file of the folder, or of a folder in it, if this process writes."""
        if self.writes:
            disk.write_inside(self.directory, name, write)


def _new_directory(method: str) -> Path:
    """A path under ``runs/`` that does not exist, named by the method and the time."""
    name = f"{method}-{time.strftime('%Y%m%d-%H%M%S')}"
    directory, number = Path("runs") / name, 1
    while directory.exists():
        number += 1
        directory = Path("runs") / f"{name}-{number}"
    return directory
