"""Runs of ``python -m train.METHOD`` that a benchmark makes once and reads again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def results(method: str, run: Path, flags: Sequence[str]) -> dict[str, Any]:
    """The results of a run, which is made only if it is not there, and gone on with if half made.

    Args:
        method: ``air``, ``icvae`` and so on.
        run: Its folder.
        flags: Its settings, beside ``--run-dir``.
    """
    if not (run / "results.json").exists():
        command = [sys.executable, "-m", f"train.{method}", "--run-dir", str(run), *flags]
        if (run / "config.json").exists():
            command += ["--resume"]
        subprocess.run(command, check=True)
    return json.loads((run / "results.json").read_text())
