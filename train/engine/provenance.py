"""The versions of the code that makes a run, for its ``config.json``."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch


def library_versions() -> dict[str, str]:
    """Returns the versions of Python, PyTorch, Pyro, NumPy and this package, by name."""
    # Unlike the version in the package's metadata, this one names the build (+cu130).
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("structured-latents", "pyro-ppl", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def git_commit() -> str | None:
    """Returns the git commit of this source tree; ``None`` outside a git repository."""
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
