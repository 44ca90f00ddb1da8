"""The scripts of the folder ``benchmarks``, for tests of their functions."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType


def import_benchmark(name: str) -> ModuleType:
    """Imports a script of the folder ``benchmarks``, which finds its neighbours there."""
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)
