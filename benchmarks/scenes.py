"""Times the composition of 60,000 scenes of 50x50 pixels, without loading the digits.

python benchmarks/scenes.py
"""

from __future__ import annotations

import time
from pathlib import Path

from train.data.datasets import load
from train.data.scenes import make_scenes


def main() -> None:
    """Times the default scenes and those of Pyro's example, and prints a Markdown table."""
    digits = load("mnist5k", Path("data"), "test").train.images
    kinds = {
        "default": {},
        "Pyro's example": {"digit_shrink": (1.3, 0.1), "overlap": "dim"},
    }
    print("| 60,000 scenes | seconds |")
    print("| --- | --- |")
    for name, settings in kinds.items():
        start = time.perf_counter()
        make_scenes(digits, 60_000, seed=0, **settings)
        print(f"| {name} | {time.perf_counter() - start:.1f} |")


if __name__ == "__main__":
    main()
