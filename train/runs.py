"""The run folder: settings, log, checkpoints, figures, results."""

from __future__ import annotations

import csv
import io
import json
import math
import os
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
from torch import Tensor, nn

from train.settings import InputError, Settings, flag, require

# What a resumed run may change: where it is, how long it goes, what is shown.
FREE = ("data_dir", "device", "resume", "run_dir", "steps", "tensorboard")
FILES = ("config.json", "metrics.jsonl", "model.safetensors", "state.pt", "results.json")


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file that is complete or not there, whenever the process ends.

    Args:
        path: The file; what it held before stays until the new content is on the disk.
        write: Writes the content into an open file.

    Raises:
        InputError: If the disk is full, or the folder is gone or cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}): "
            "make room or give another --run-dir"
        ) from error


class Run:
    """A run folder.

    Args:
        directory: The folder.
        method: The method's name.

    Attributes:
        directory: The folder.
        method: The method's name.
        step: The step of the last checkpoint, 0 if there is none.
    """

    def __init__(self, directory: Path, method: str) -> None:
        self.directory = directory
        self.method = method
        self.step = 0
        self.board: Any = None

    @classmethod
    def create(cls, settings: Settings, method: str) -> Run:
        """Makes the folder of a new run, or opens that of a run to be resumed.

        Args:
            settings: ``run_dir``, ``resume``, and all that goes into ``config.json``.
            method: The method's name.

        Raises:
            InputError: If the folder holds another run, or not the one to be resumed, or cannot be
                written to; nothing in it has changed then.
        """
        directory = settings.run_dir or _fresh(method)
        run = cls(directory, method)
        require(
            not directory.exists() or directory.is_dir(),
            f"--run-dir {directory} is a file: give a folder",
        )
        board = _tensorboard() if settings.tensorboard else None
        config = {"method": method, "settings": _plain(asdict(settings))}
        if settings.resume:
            run._check(config)
        else:
            held = [name for name in FILES if (directory / name).exists()]
            require(
                not held,
                f"--run-dir {directory} already holds a run ({', '.join(held)}): "
                "add --resume to go on with it, or give another folder",
            )
        config |= {"versions": _versions(), "git_commit": _commit()}
        run._write_json("config.json", config)
        if board is not None:
            run.board = board(str(directory / "tensorboard"))
        return run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds a line to ``metrics.jsonl``; numbers that are not finite become ``null``."""
        line = json.dumps({"step": step} | _plain(metrics), allow_nan=False)
        try:
            with (self.directory / "metrics.jsonl").open("a") as file:
                file.write(line + "\n")
        except OSError as error:
            raise InputError(
                f"{self.directory / 'metrics.jsonl'} cannot be written "
                f"({error.strerror}): make room, then add --resume"
            ) from error
        if self.board is not None:
            for name, value in metrics.items():
                self.board.add_scalar(name, value, step)
            self.board.flush()

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

    def save_checkpoint(
        self,
        step: int,
        module: nn.Module,
        optimisers: Mapping[str, torch.optim.Optimizer],
        extra: Mapping[str, Any],
    ) -> None:
        """Saves all that a resumed run needs.

        ``state.pt`` holds it in one file, so that no crash leaves halves of two steps;
        ``model.safetensors`` has the weights once more, to be shared.

        Args:
            step: The steps done.
            module: What is trained.
            optimisers: Its optimisers, by name.
            extra: Tensors and plain values that :meth:`load_checkpoint` gives back.

        Raises:
            InputError: If it cannot be written; the last checkpoint is still there.
        """
        state = {
            "method": self.method,
            "step": step,
            "module": _weights(module),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in optimisers.items()},
            "extra": dict(extra),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.directory / "state.pt", lambda file: file.write(buffer.getbuffer()))
        self.step = step
        self.save_weights(step, module)

    def save_weights(self, step: int, module: nn.Module) -> None:
        """Writes ``model.safetensors``.

        Args:
            step: The steps done.
            module: Whose weights.
        """
        weights = _weights(module)
        share = safetensors.torch.save(weights, {"method": self.method, "step": str(step)})
        write_atomically(self.directory / "model.safetensors", lambda file: file.write(share))

    def load_checkpoint(
        self,
        module: nn.Module,
        optimisers: Mapping[str, torch.optim.Optimizer],
        device: torch.device,
    ) -> dict[str, Any]:
        """Takes module and optimisers back to the last checkpoint, and the log with them.

        Args:
            module: As it was when the checkpoint was saved.
            optimisers: Likewise.
            device: Where they are.

        Returns:
            The checkpoint's ``step``, and its extra values.

        Raises:
            InputError: If ``state.pt`` is missing, damaged, or of another network.
        """
        path = self.directory / "state.pt"
        require(path.exists(), f"{path} is missing: this run has no checkpoint, so start it anew")
        try:
            state = torch.load(path, map_location=device, weights_only=True)
            module.load_state_dict(state["module"])
            for name, optimiser in optimisers.items():
                optimiser.load_state_dict(state["optimisers"][name])
            self.step = int(state["step"])
            found = {"step": self.step, **state["extra"]}
        # Whatever a damaged or a foreign file makes PyTorch raise.
        except Exception as error:
            reason = str(error).strip().split("\n")[0][:120]
            raise InputError(
                f"{path} is damaged or of another network ({reason}): start the run anew"
            ) from error
        kept = [line for line in self._lines() if line["step"] <= self.step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(self.directory / "metrics.jsonl", lambda file: file.write(text.encode()))
        for stage in (self.directory / "stages").glob("*.npz"):
            if int(stage.stem) > self.step:
                stage.unlink()
        return found

    def last_checkpoint(self) -> str:
        """Names the last checkpoint, for a message."""
        if not self.step:
            return "there is no checkpoint yet"
        return f"the last good checkpoint, of step {self.step:,}, is {self.directory / 'state.pt'}"

    def save_stage(self, step: int, **arrays: np.ndarray) -> None:
        """Keeps arrays of a stage of training, for the figures."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        path = self.directory / "stages" / f"{step:08d}.npz"
        write_atomically(path, lambda file: file.write(buffer.getbuffer()))

    def stages(self) -> list[tuple[int, dict[str, np.ndarray]]]:
        """The stages kept, with their steps, in order."""
        stages = []
        for path in sorted((self.directory / "stages").glob("*.npz")):
            with np.load(path, allow_pickle=False) as arrays:
                stages.append((int(path.stem), dict(arrays)))
        return stages

    def save_figure(self, name: str, figure: Figure) -> None:
        """Writes ``figures/NAME.png``."""
        path = self.directory / "figures" / f"{name}.png"
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150))

    def save_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes ``NAME.csv``: a line for each row, its columns those of the first."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue().encode()
        write_atomically(self.directory / f"{name}.csv", lambda file: file.write(content))

    def finish(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Writes ``results.json``; returns what it holds."""
        results = {"method": self.method} | _plain(results)
        self._write_json("results.json", results)
        if self.board is not None:
            self.board.close()
        return results

    def _check(self, config: Mapping[str, Any]) -> None:
        """Raises :class:`InputError` unless the folder holds a run of these settings."""
        path = self.directory / "config.json"
        require(path.exists(), f"--resume: there is no run in {self.directory}; leave --resume out")
        method, settings = _read_config(path)
        require(
            method == self.method,
            f"--run-dir {self.directory} holds a run of {method}, not of {self.method}: "
            f"use train.{method}, or give another folder",
        )
        for name, value in config["settings"].items():
            before = settings.get(name)
            require(
                name in FREE or before == value,
                f"{flag(name)} is {value}, but the run in {self.directory} has {before}: "
                f"a run is resumed as it was started",
            )
        require(
            (self.directory / "state.pt").exists(),
            f"{self.directory} has no checkpoint (state.pt): start the run anew in another folder",
        )

    def _lines(self) -> list[dict[str, Any]]:
        path = self.directory / "metrics.jsonl"
        if not path.exists():
            return []
        lines = []
        for line in path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                # A process killed while it wrote leaves half a last line.
                break
        return lines

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        write_atomically(self.directory / name, lambda file: file.write(text.encode()))


def read_run(directory: Path, method: str) -> tuple[dict[str, Any], dict[str, Tensor], int]:
    """What a run has learnt: its settings, its weights by name, and the step that they are of.

    Args:
        directory: The run folder.
        method: The method that it must be of.

    Raises:
        InputError: If it is not there or damaged, of another method, or has no weights yet.
    """
    path = directory / "config.json"
    require(path.exists(), f"{directory} holds no run (there is no {path.name}): give a run folder")
    held, settings = _read_config(path)
    require(held == method, f"{directory} holds a run of {held}, not of {method}: give another one")
    path = directory / "model.safetensors"
    require(path.exists(), f"{directory} has no checkpoint yet ({path.name}): give another run")
    try:
        weights = safetensors.torch.load_file(path)
        with safetensors.safe_open(path, framework="pt") as file:
            step = int(file.metadata()["step"])
    # Whatever a damaged file makes safetensors raise.
    except Exception as error:
        raise InputError(f"{path} is damaged ({error}): give another run folder") from error
    return settings, weights, step


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}


def _read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """The method and settings that ``config.json`` names."""
    try:
        config = json.loads(path.read_text())
        return config["method"], dict(config["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: use another run folder") from error


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


def _tensorboard() -> Any:
    """TensorBoard's writer."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "--tensorboard needs TensorBoard: pip install 'structured-latents[tensorboard]'"
        ) from None
    return SummaryWriter
