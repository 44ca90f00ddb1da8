"""Times the making of scenes on one core, without loading the digits.

python benchmarks/scenes.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from train.data.annotated import Scenes
from train.data.datasets import load
from train.data.drawn import multi_sprites, tetrominoes
from train.data.scenes import make_scenes


def main() -> None:
    """Times scenes of digits, crowds of digits and drawn scenes, and prints a Markdown table."""
    torch.set_num_threads(1)
    digits = load("mnist5k", Path("data"), "test").train.images

    def made(**settings: object) -> Callable[[int], Scenes]:
        return lambda n: make_scenes(digits, n, seed=0, **settings)

    kinds: dict[str, tuple[int, Callable[[int], Scenes]]] = {
        "default": (60_000, made()),
        "default, with masks": (60_000, made(masks=True)),
        "Pyro's example": (60_000, made(digit_shrink=(1.3, 0.1), overlap="dim")),
        "0 to 6 digits, 84x84": (5_000, made(canvas_size=84, max_digits=6)),
        "10 digits, 84x84": (5_000, made(canvas_size=84, counts=[10])),
        "20 digits, 150x150": (5_000, made(canvas_size=150, counts=[20])),
        "20 digits of 14 pixels, 48x48, any": (
            5_000,
            made(canvas_size=48, counts=[20], digit_size=(14, 14), overlap="any"),
        ),
        "multi-sprites": (20_000, lambda n: multi_sprites.sample(n, 0)),
        "multi-sprites-colour": (20_000, lambda n: multi_sprites.sample(n, 0, coloured=True)),
        "tetrominoes": (20_000, lambda n: tetrominoes.sample(n, 0)),
    }
    print("| scenes | number | seconds |")
    print("| --- | --- | --- |")
    for name, (n, make) in kinds.items():
        start = time.perf_counter()
        make(n)
        print(f"| {name} | {n:,} | {time.perf_counter() - start:.1f} |", flush=True)


if __name__ == "__main__":
    main()
