"""The run folder: settings, log, checkpoints, figures, results."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from matplotlib.figure import Figure
from torch import nn

from train import processes
from train.engine import disk
from train.engine.callbacks import tensorboard_writer
from train.engine.checkpoints import Checkpoints
from train.engine.saved import checksum, read_config
from train.errors import InputError, brief, first_line, require
from train.settings import Settings, flag

FILES = ("config.json", "metrics.jsonl", "model.safetensors", "checkpoints", "results.json")


class Run:
    """A run folder.

    Args:
        directory: The folder.
        method: The method's name.
        keep: How many checkpoints stay.
        writes: Whether it writes; of processes that train together only one does.

    Attributes:
        directory: The folder.
        method: The method's name.
        checkpoints: The checkpoints in it.
    """

    def __init__(self, directory: Path, method: str, keep: int = 2, writes: bool = True) -> None:
        self.directory = directory
        self.method = method
        self.checkpoints = Checkpoints(directory / "checkpoints", keep)
        self.writes = writes
        self.config: dict[str, Any] = {}

    @classmethod
    def create(cls, settings: Settings, method: str, **inputs: Any) -> Run:
        """Makes the folder of a new run, or opens that of a run to be resumed.

        Args:
            settings: ``run_dir``, ``resume``, and all that goes into ``config.json``.
            method: The method's name.
            inputs: What the model must know of its data to be made again, as plain values; and
                ``data_hash``, the :func:`~train.data.fingerprint.fingerprint` of that data, so that
                a run goes on with the data that it began with.

        Raises:
            InputError: If the folder holds another run, or not the one to be resumed, or the data
                are others than that run's, or it cannot be written to; nothing in it has changed
                then.
        """
        directory = settings.run_dir or _fresh(method)
        run = cls(directory, method, settings.keep_checkpoints, writes=processes.rank() == 0)
        if not run.writes:
            return run
        require(
            not directory.exists() or directory.is_dir(),
            f"--run-dir {directory} is a file: give a folder",
        )
        if settings.tensorboard:
            # Where it is not installed, nothing is written.
            tensorboard_writer()
        config = {"method": method, "settings": _plain(asdict(settings)), "inputs": _plain(inputs)}
        run.config = config | {"versions": _versions(), "git_commit": _commit()}
        if settings.resume:
            run._check(config, settings.FREE)
            # Nothing is written before the checkpoint is found to be sound.
            return run
        held = [name for name in FILES if (directory / name).exists()]
        require(
            not held,
            f"--run-dir {directory} already holds a run ({', '.join(held)}): "
            "add --resume to go on with it, or give another folder",
        )
        with disk.writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        run._begin()
        return run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds a line to ``metrics.jsonl``; numbers that are not finite become ``null``."""
        if not self.writes:
            return
        line = json.dumps({"step": step} | _plain(metrics), allow_nan=False)
        disk.append(self.directory / "metrics.jsonl", line)

    def history(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By the name of a metric, the steps at which it was logged and its values."""
        columns: dict[str, tuple[list[int], list[float]]] = {}
        for line in self._lines():
            for name, value in line.items():
                if name != "step" and value is not None:
                    steps, values = columns.setdefault(name, ([], []))
                    steps.append(line["step"])
                    values.append(value)
        return {name: (np.array(x), np.array(y)) for name, (x, y) in columns.items()}

    def save_checkpoint(self, step: int, state: Mapping[str, Any], module: nn.Module) -> None:
        """Saves all that a resumed run needs, and ``model.safetensors``, the weights to be shared.

        Args:
            step: The steps done.
            state: Tensors and plain values, for :meth:`load_checkpoint`.
            module: What is trained.

        Raises:
            InputError: If it cannot be written; the last checkpoint is still there.
        """
        if self.writes:
            self.checkpoints.save(step, state)
            self.save_weights(step, module)

    def save_weights(self, step: int, module: nn.Module) -> None:
        """Writes ``model.safetensors``.

        Args:
            step: The steps done.
            module: Whose weights.
        """
        weights = {name: each.cpu().contiguous() for name, each in module.state_dict().items()}
        # One entry: several would be in any order, and the same weights not the same bytes.
        record = {"run": json.dumps({"step": step, "sha256": checksum(weights, step)})}
        share = safetensors.torch.save(weights, record)
        self._write("model.safetensors", lambda file: file.write(share))

    def load_checkpoint(
        self, load: Callable[[Mapping[str, Any]], None], device: torch.device
    ) -> None:
        """Goes back to the last checkpoint, and the log with it.

        A run that was stopped before its first checkpoint starts again.

        Args:
            load: Takes back the state that was saved, if there is one.
            device: Where tensors go.

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
            self._begin()
            self._forget(step)

    def _begin(self) -> None:
        """Writes ``config.json``; takes away what killed processes left half written."""
        for name in ("", "checkpoints", "figures", "stages"):
            disk.sweep(self.directory / name)
        self._write_json("config.json", self.config)

    def _forget(self, step: int) -> None:
        """Takes back what was written after a step."""
        kept = [json.dumps(line) + "\n" for line in self._lines() if line["step"] <= step]
        content = "".join(kept).encode()
        path = self.directory / "metrics.jsonl"
        # Somebody may be following the file, so it is the same one if nothing has to go.
        if path.exists() and path.read_bytes() != content:
            self._write(path.name, lambda file: file.write(content))
        for stage in self._stage_paths():
            if int(stage.stem) > step:
                stage.unlink(missing_ok=True)

    def save_stage(self, step: int, **arrays: np.ndarray) -> None:
        """Keeps arrays of a stage of training, for the figures."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        self._write(f"stages/{step:08d}.npz", lambda file: file.write(buffer.getbuffer()))

    def stages(self) -> list[tuple[int, dict[str, np.ndarray]]]:
        """The stages kept, with their steps, in order."""
        stages = []
        for path in self._stage_paths():
            with np.load(path, allow_pickle=False) as arrays:
                stages.append((int(path.stem), dict(arrays)))
        return stages

    def _stage_paths(self) -> list[Path]:
        """The files of stages, in order of their steps; others' files are left alone."""
        paths = (self.directory / "stages").glob("*.npz")
        return sorted((path for path in paths if path.stem.isdecimal()), key=lambda p: int(p.stem))

    def save_figure(self, name: str, figure: Figure) -> None:
        """Writes ``figures/NAME.png``."""
        self._write(f"figures/{name}.png", lambda file: figure.savefig(file, format="png", dpi=150))

    def save_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes ``NAME.csv``: a line for each row, its columns those of the first."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue().encode()
        self._write(f"{name}.csv", lambda file: file.write(content))

    def save_text(self, name: str, text: str) -> None:
        """Writes a text file."""
        self._write(name, lambda file: file.write(text.encode()))

    def finish(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Writes ``results.json``; returns what it holds."""
        results = {"method": self.method} | _plain(results)
        self._write_json("results.json", results)
        return results

    def _check(self, config: Mapping[str, Any], free: frozenset[str]) -> None:
        """Raises :class:`InputError` unless the folder holds a run of these settings and data."""
        path = self.directory / "config.json"
        require(path.exists(), f"--resume: there is no run in {self.directory}; leave --resume out")
        before = read_config(self.directory)
        require(
            before.method == self.method,
            f"--run-dir {self.directory} holds a run of {before.method}, not of {self.method}: "
            f"use train.{before.method}, or give another folder",
        )
        hashes = [inputs.get("data_hash") for inputs in (before.inputs, config["inputs"])]
        # What was read is what counts, wherever it is and however its path is spelt.
        known = {"data"} if None not in hashes else set()
        for name, value in config["settings"].items():
            then = before.settings.get(name)
            require(
                name in free | known or then == value,
                f"{flag(name)} is {brief(value)}, but the run in {self.directory} has "
                f"{brief(then)}: a run is resumed as it was started",
            )
        require(
            not known or hashes[0] == hashes[1],
            f"--data {config['settings']['data']} holds other data than the run in "
            f"{self.directory} was started with ({brief(before.settings.get('data'))}): bring "
            "those back, or start a run anew in another folder",
        )
        require(
            bool(self.checkpoints.paths()) or not (self.directory / "results.json").exists(),
            f"{self.directory} has results but no checkpoint: start the run anew in another folder",
        )

    def _lines(self) -> list[dict[str, Any]]:
        path = self.directory / "metrics.jsonl"
        if not path.exists():
            return []
        disk.require_regular(path)
        lines = []
        for text in path.read_bytes().splitlines():
            try:
                line = json.loads(text)
                line["step"] = int(line["step"])
            except (ValueError, TypeError, KeyError, RecursionError):
                # A disk that was full, or another program: what follows cannot be trusted.
                break
            lines.append(line)
        return lines

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        self._write(name, lambda file: file.write(text.encode()))

    def _write(self, name: str, write: Callable[[BinaryIO], Any]) -> None:
        """Writes a file of the folder, or of a folder in it."""
        if self.writes:
            disk.write_inside(self.directory, name, write)


def _fresh(method: str) -> Path:
    """A folder for a run of this second, of a name that is not taken."""
    name = f"{method}-{time.strftime('%Y%m%d-%H%M%S')}"
    directory, number = Path("runs") / name, 1
    while directory.exists():
        number += 1
        directory = Path("runs") / f"{name}-{number}"
    return directory


def _plain(values: Any) -> Any:
    """Values as JSON has them: no paths, no tuples, no numbers that are not finite."""
    if isinstance(values, Mapping):
        return {name: _plain(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    if isinstance(values, Path):
        return str(values)
    if isinstance(values, float) and not math.isfinite(values):
        return None
    return values


def _versions() -> dict[str, str]:
    """The versions of what computes."""
    # PyTorch's own says which build it is.
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("structured-latents", "pyro-ppl", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _commit() -> str | None:
    """The git commit of this source tree, if it is one."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
