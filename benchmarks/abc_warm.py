"""Tries ABC from an embedder that gives principal components, on rooms of 32x32 pixels.

    python benchmarks/abc_warm.py --constant shape
    python benchmarks/abc_warm.py --constant shape --stack 512 --steps 500

All that varies has the same amplitude in whitened principal components, and the embedder is trained
to give them first, without labels. Then ABC trains it, on the unit sphere. The scores are those of
``abc_factors.py``, of validation images.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
import torch
from abc_factors import FACTORS, data, scores
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, mse_loss, normalize

from pyro_models.abc import Embedder
from pyro_models.shapes import Shape
from train.data.labelled import Images
from train.losses.correspondence import cycle
from train.tables import markdown


def pixels(images: Images, side: int) -> Tensor:
    """Returns images averaged to a side, in [0, 1]."""
    return adaptive_avg_pool2d(images.images.float() / 255, side)


def main() -> None:
    """Trains, and prints a Markdown table with a row before ABC and one after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--constant", default="shape", choices=FACTORS, help="factor of the sets")
    parser.add_argument("--dim", type=int, default=16, help="components, and size of an embedding")
    parser.add_argument("--warm-up", type=int, default=300, help="steps to learn components")
    parser.add_argument("--steps", type=int, default=400, help="steps of ABC")
    parser.add_argument("--stack", type=int, default=256, help="images of a stack")
    parser.add_argument("--temperature", type=float, default=0.1, help="ABC's temperature")
    parser.add_argument("--rate", type=float, default=1e-3, help="ABC's learning rate")
    parser.add_argument("--side", type=int, default=32, help="side of an image")
    parser.add_argument("--seed", type=int, default=100, help="seed")
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    generator = np.random.default_rng(given.seed)
    split = data("validation")
    train, held_out = (pixels(images, given.side) for images in split)
    embedder = Embedder(Shape(3, given.side, given.side), given.dim, channels=16, standardise=True)

    def descend(steps: int, rate: float, loss: Callable[[], Tensor]) -> None:
        optimiser = torch.optim.Adam(embedder.parameters(), rate, fused=True)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
            optimiser.zero_grad()
            loss().backward()
            optimiser.step()

    def row(name: str) -> dict[str, object]:
        with torch.no_grad():
            codes = [
                torch.cat([normalize(embedder(part), dim=-1) for part in images.split(500)]).numpy()
                for images in (train, held_out)
            ]
        return {"embedder": name, **scores(codes, split, 0)}

    flat = train.flatten(1).numpy()
    pca = PCA(given.dim, whiten=True, random_state=0).fit(flat)
    components = torch.from_numpy(pca.transform(flat)).float()

    def distance() -> Tensor:
        rows = torch.from_numpy(generator.choice(len(train), 256, replace=False))
        return mse_loss(embedder(train[rows]), components[rows])

    labels = split.train.column(given.constant)
    sets = [np.flatnonzero(labels == value) for value in np.unique(labels)]

    def correspondence() -> Tensor:
        stacks = [
            torch.from_numpy(generator.choice(rows, min(given.stack, len(rows)), replace=False))
            for rows in (sets[i] for i in generator.choice(len(sets), 2, replace=False))
        ]
        a, b = normalize(embedder(train[torch.cat(stacks)]), dim=-1).split(list(map(len, stacks)))
        comparing = {"kind": "cosine", "temperature": given.temperature}
        return cycle(a, b, **comparing)[0] + cycle(b, a, **comparing)[0]

    descend(given.warm_up, 2e-3, distance)
    rows = [row("components")]
    descend(given.steps, given.rate, correspondence)
    rows.append(row(f"ABC, {given.steps} steps"))
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main()
