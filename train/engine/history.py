"""Records of training in a run folder: the log of metrics, and arrays for figures of stages."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from train.engine import disk


class MetricsLog:
    """``metrics.jsonl``: one JSON object per line, with ``step`` and metrics by name.

    Args:
        path: The file; it is made with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends a line; numbers that are not finite become ``null``.

        Raises:
            InputError: If the line cannot be written; nothing of it is.
        """
        line = json.dumps({"step": step} | disk.to_json(metrics), allow_nan=False)
        disk.append(self.path, line)

    def lines(self) -> list[dict[str, Any]]:
        """Reads the lines up to the first one that is damaged.

        Raises:
            InputError: If the path is not a file.
        """
        if not self.path.exists():
            return []
        disk.require_regular(self.path)
        lines = []
        for text in self.path.read_bytes().splitlines():
            try:
                line = json.loads(text)
                line["step"] = int(line["step"])
            except (ValueError, TypeError, KeyError, RecursionError):
                # The disk was full, or another program wrote here; later lines cannot be trusted.
                break
            lines.append(line)
        return lines

    def columns(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Reads, for each metric, the steps at which it was logged and its values; skips nulls."""
        columns: dict[str, tuple[list[int], list[float]]] = {}
        for line in self.lines():
            for name, value in line.items():
                if name != "step" and value is not None:
                    steps, values = columns.setdefault(name, ([], []))
                    steps.append(line["step"])
                    values.append(value)
        return {name: (np.array(x), np.array(y)) for name, (x, y) in columns.items()}

    def truncate(self, step: int) -> None:
        """Removes the lines of later steps, and all from the first damaged one on.

        Raises:
            InputError: If the file cannot be written.
        """
        lines = [json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step]
        content = "".join(lines).encode()
        # Other programs may follow the file, so it is replaced only if its content changes.
        if self.path.exists() and self.path.read_bytes() != content:
            disk.write_atomically(self.path, lambda file: file.write(content))


class Stages:
    """``stages/STEP.npz``: arrays saved at stages of training, from which figures are drawn.

    Args:
        folder: The folder; it is made with the first stage.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        """The files, in order of their steps; files of other names are left alone."""
        paths = [path for path in self.folder.glob("*.npz") if path.stem.isdecimal()]
        return sorted(paths, key=lambda path: int(path.stem))

    def save(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes the arrays of a step.

        Raises:
            InputError: If the file cannot be written.
        """
        buffer = io.BytesIO()
        named: dict[str, Any] = dict(arrays)
        np.savez(buffer, **named)
        name = f"{self.folder.name}/{step:08d}.npz"
        disk.write_inside(self.folder.parent, name, lambda file: file.write(buffer.getbuffer()))

    def load(self) -> list[tuple[int, dict[str, np.ndarray]]]:
        """Reads all stages: pairs of step and arrays by name, in order of their steps."""
        stages = []
        for path in self.paths():
            with np.load(path, allow_pickle=False) as arrays:
                stages.append((int(path.stem), dict(arrays)))
        return stages

    def truncate(self, step: int) -> None:
        """Removes the stages of later steps."""
        for path in self.paths():
            if int(path.stem) > step:
                path.unlink(missing_ok=True)
