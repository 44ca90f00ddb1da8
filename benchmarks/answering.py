"""A process of a benchmark that answers each line of JSON with another one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from train.errors import require

ROOT = Path(__file__).resolve().parent.parent


class Worker:
    """A process that runs a script beside this file with the library of one tree.

    Args:
        script: The name of the script.
        tree: The root of the library that it imports, and its working folder.
        environment: Further environment variables.
    """

    def __init__(self, script: str, tree: Path = ROOT, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(tree), **environment},
            cwd=tree,
        )

    def ask(self, *question: Any) -> None:
        """Sends a question."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """Waits for the answer of the last question.

        Raises:
            InputError: If the process has ended.
        """
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        require(bool(answer), "a process that takes the steps ended: see its message above")
        return json.loads(answer)
