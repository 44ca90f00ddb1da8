"""Trains the plain autoencoder on images of 64x64 pixels that are drawn from known factors.

    python benchmarks/ae_factors.py

A row for each data set and seed: the squared error a pixel of held-out images beside that of as
many principal components and of the mean training image. Each run is a ``python -m train.ae``,
whose folder has a figure of reconstructions. Finished runs are not repeated.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import tyro
from repeat import results
from sklearn.decomposition import PCA

from train.data import datasets
from train.tables import markdown

DATA = ("sprites", "coloured-sprites", "shapes3d")
FLAGS = "--network conv --batch-size 32 --decay cosine"
"""The settings of all runs. Dense layers are faster, and blur corners."""


@dataclass(frozen=True)
class Benchmark:
    """Train an autoencoder on each data set with each seed, and print a table."""

    data: tuple[str, ...] = DATA
    """Data sets."""
    steps: int = 4_000
    """Number of training steps."""
    seeds: int = 3
    """Number of seeds, counted from 0."""
    z_dim: int = 32
    """Size of a code."""
    out: Path = Path("runs/benchmarks")
    """Folder that the runs are written to."""
    extra: str = ""
    """Additional flags of every run."""


@cache
def pca_error(data: str, components: int) -> float:
    """Returns the mean squared error of held-out images, in [0, 1], from principal components."""
    split = datasets.load(data, Path("data"), "test")
    train, held_out = (
        images.images.numpy().reshape(len(images), -1).astype(np.float32) / 255 for images in split
    )
    pca = PCA(components, svd_solver="randomized", random_state=0).fit(train)
    restored = pca.inverse_transform(pca.transform(held_out))
    return float(np.square(restored - held_out).mean())


def main(benchmark: Benchmark) -> None:
    """Trains the runs and prints a Markdown table."""
    rows = []
    for data in benchmark.data:
        for seed in range(benchmark.seeds):
            run = benchmark.out / f"ae-{data}-{seed}"
            flags = ["--data", data, "--seed", str(seed), "--z-dim", str(benchmark.z_dim)]
            flags += ["--steps", str(benchmark.steps), *shlex.split(FLAGS)]
            flags += shlex.split(benchmark.extra)
            measured = results("ae", run, flags)
            rows.append(
                {
                    "data": data,
                    "seed": seed,
                    "autoencoder": measured["reconstruction_mse"],
                    f"PCA of {benchmark.z_dim}": pca_error(data, benchmark.z_dim),
                    "mean image": measured["reconstruction_mse_mean_image"],
                    "seconds": measured["train_seconds"],
                }
            )
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
