"""Runs ``python -m train.METHOD`` once; a benchmark that is repeated reads the results again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.engine.saved import run_once


def results(method: str, run: Path, flags: Sequence[str]) -> dict[str, Any]:
    """Reads the results of a run; makes the run, or resumes it, if it is not finished.

    Args:
        method: ``air``, ``icvae`` and so on.
        run: The run folder.
        flags: The flags of the command, except ``--run-dir``.
    """

    def make(resume: bool) -> None:
        command = [sys.executable, "-m", f"train.{method}", "--run-dir", str(run), *flags]
        command += ["--resume"] * resume
        subprocess.run(command, check=True)

    return run_once(run, make)
