"""Which versions of the code a run is made with, for its ``config.json``."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch


def library_versions() -> dict[str, str]:
    """The versions of Python, of the libraries that compute, and of this package."""
    # PyTorch's own version names its build too, which its package's does not.
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("structured-latents", "pyro-ppl", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def git_commit() -> str | None:
    """The git commit of this source tree; ``None`` if it is not a git repository."""
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
