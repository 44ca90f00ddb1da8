"""Measures which factors of rooms ABC's embeddings reveal, with each factor constant in turn.

    python benchmarks/abc_factors.py
    python benchmarks/abc_factors.py --evaluate-on validation --first-seed 100 --seeds 1
    python benchmarks/abc_factors.py --terms none
    python benchmarks/abc_factors.py --factors scale shape --seeds 1 --steps 100 --out runs/short

The data are ``shapes3d``. The images of a set have one factor in common and differ in the five
others. ABC finds what corresponds between sets, so embeddings should reveal the five, and not the
one. As in the paper, each factor is the constant one in turn, and all six are read from embeddings.
The paper's implementation estimates the mutual information of a factor and an embedding with noise,
whose standard deviation is the length scale of the temperature. The scores here are of embeddings
without noise, in which more of the constant factor could be found: those of
:func:`train.metrics.probes.read`, of held-out images. They are R2 for quantities, of a hue the mean
R2 of its sine and cosine, and accuracies for the shape. Their probes are a linear one and the 15
nearest neighbours. The column ``SVM`` is what a support vector machine with an RBF kernel, on
standardised embeddings, reads of the constant factor. The loss has three terms beside the cycle;
with ``--terms none`` it has not.

Three rows are for comparison: as many principal components of the pixels, the network before
training, and chance. Each run is a ``python -m train.abc``. Finished runs are not repeated.

References:
    | Learning ABCs: Approximate Bijective Correspondence for Isolating Factors of Variation with
      Weak Supervision (Murphy et al., 2022)
    | https://arxiv.org/abs/2103.03240
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from repeat import results
from seeds import mean_and_deviation
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from train.abc import METHOD
from train.data import datasets
from train.data.batches import codes_of
from train.data.circular import is_circular, on_circle
from train.data.labelled import Images, Split
from train.metrics.probes import read
from train.tables import markdown
from train.trained import load

FACTORS = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
FLAGS = (
    "--data shapes3d --withheld --stack-size 256 --embed-dim 16 --channels 16 --views 1 "
    "--similarity cosine --temperature 0.1 --normalise --standardise --learning-rate 2e-3"
)
"""The settings of all runs; --extra overrides them.

On the unit sphere, what a dimension says of the constant factor takes room from the others. With
the squared distance of embeddings of any length it would cost nothing, and embeddings keep it.
Views are not augmented: a change of brightness would hide shades, and a shift the place of edges.
"""

TERMS = {
    "all": "--stack-size 320 --embed-dim 72 --temperature 0.07 --components 256 "
    "--component-weight 15 --component-steps 200 --energy-weight 50 --separation-weight 14",
    "none": "",
}
"""What --terms adds to these settings, chosen on the validation split."""

Codes = tuple[np.ndarray, np.ndarray]
"""Codes of training images and of held-out ones."""
Scores = dict[str, float]
"""The score of each factor."""


@dataclass(frozen=True)
class Benchmark:
    """Train ABC with each factor constant inside sets, and print a table of what it reveals."""

    factors: tuple[Literal[FACTORS], ...] = FACTORS
    """Factors that are constant inside sets, in turn."""
    seeds: int = 3
    """Number of seeds."""
    first_seed: int = 0
    """The first of them."""
    steps: int = 1_000
    """Training steps of a run."""
    jobs: int = 1
    """Runs at a time."""
    evaluate_on: Literal["test", "validation"] = "test"
    """Held-out images. validation: some of the training images, to select settings with."""
    out: Path = Path("runs/benchmarks")
    """Folder that the runs are written to."""
    terms: Literal["all", "none"] = "all"
    """Terms beside the cycle. all: principal components, the energy distance and the separation.
    none: the cycle alone."""
    extra: str = ""
    """Additional flags of every run."""

    @property
    def all_seeds(self) -> range:
        """The seeds of the runs."""
        return range(self.first_seed, self.first_seed + self.seeds)


def run_dir(benchmark: Benchmark, factor: str, seed: int) -> Path:
    """Returns the folder of a run."""
    terms = "" if benchmark.terms == "all" else f"{benchmark.terms}-"
    return benchmark.out / f"abc-factors-{benchmark.evaluate_on}-{terms}{factor}-{seed}"


def flags(benchmark: Benchmark) -> str:
    """Returns the flags of all runs."""
    parts = (FLAGS, TERMS[benchmark.terms], benchmark.extra, f"--steps {benchmark.steps}")
    return " ".join(filter(None, parts))


def train(benchmark: Benchmark, factor: str, seed: int) -> dict[str, Any]:
    """Trains a run unless it is finished, and returns its results."""
    own = ["--set-column", factor, "--seed", str(seed), "--evaluate-on", benchmark.evaluate_on]
    return results("abc", run_dir(benchmark, factor, seed), shlex.split(flags(benchmark)) + own)


@cache
def data(evaluate_on: Literal["test", "validation"]) -> Split:
    """Returns the images that embeddings are read from."""
    return datasets.load("shapes3d", Path("data"), evaluate_on)


def column(images: Images, name: str) -> np.ndarray:
    """Returns a factor, a hue as its sine and cosine."""
    values = images.column(name)
    return on_circle(values) if is_circular(name, values) else values


def scores(codes: Codes, split: Split, seed: int) -> Scores:
    """Returns how well each factor is read from codes."""
    return {
        name: read(
            *(codes[0], column(split.train, name), codes[1], column(split.held_out, name)),
            seed=seed,
        ).score
        for name in FACTORS
    }


def by_svm(codes: Codes, split: Split, name: str) -> float:
    """Returns how well a support vector machine reads a factor from codes."""
    wanted, held_out = (column(images, name) for images in split)
    if wanted.dtype.kind != "f":
        model = make_pipeline(StandardScaler(), SVC(C=10))
        return float(model.fit(codes[0], wanted).score(codes[1], held_out))
    scale = StandardScaler().fit(wanted.reshape(len(wanted), -1))
    targets, truth = (scale.transform(x.reshape(len(x), -1)).T for x in (wanted, held_out))
    models = [make_pipeline(StandardScaler(), SVR(C=10)).fit(codes[0], y) for y in targets]
    found = [model.score(codes[1], y) for model, y in zip(models, truth, strict=True)]
    return float(np.mean(found))


def untrained(benchmark: Benchmark, seed: int) -> Codes:
    """Returns the embeddings of a network before training."""
    split = data(benchmark.evaluate_on)
    run = load(run_dir(benchmark, benchmark.factors[0], seed))
    torch.manual_seed(seed)
    embedder = METHOD.build(run.settings, {"shape": split.train.shape.outside}).embedder
    return tuple(codes_of(embedder, images.images, torch.device("cpu")) for images in split)


def components(benchmark: Benchmark, seed: int) -> Codes:
    """Returns principal components of the pixels, as many as embeddings have dimensions."""
    size = load(run_dir(benchmark, benchmark.factors[0], seed)).code_size
    train, held_out = (
        images.images.numpy().reshape(len(images), -1).astype(np.float32) / 255
        for images in data(benchmark.evaluate_on)
    )
    pca = PCA(size, svd_solver="randomized", random_state=seed).fit(train)
    return pca.transform(train), pca.transform(held_out)


def embedded(benchmark: Benchmark, factor: str, seed: int) -> Codes:
    """Returns the embeddings of a run."""
    run = load(run_dir(benchmark, factor, seed))
    return tuple(run.encode(images.images) for images in data(benchmark.evaluate_on))


def summary(name: str, runs: Sequence[Scores], constant: str = "") -> dict[str, Any]:
    """Returns a row of the table: mean and standard deviation over runs; the constant one in bold.

    Args:
        name: The name of the row.
        runs: The scores of each run.
        constant: The factor that is constant inside sets.
    """
    row: dict[str, Any] = {"constant in sets": name}
    for factor in FACTORS:
        cell = mean_and_deviation([run[factor] for run in runs], 3)
        row[factor] = f"**{cell}**" if factor == constant else cell
    return row


def main(benchmark: Benchmark) -> None:
    """Trains the runs and prints a Markdown table."""
    runs = list(product(benchmark.factors, benchmark.all_seeds))
    with ThreadPoolExecutor(benchmark.jobs) as pool:
        trained = dict(zip(runs, pool.map(lambda run: train(benchmark, *run), runs), strict=True))
    rows, split = [], data(benchmark.evaluate_on)
    for factor in benchmark.factors:
        measured = [trained[factor, seed] for seed in benchmark.all_seeds]
        read_of = [{name: results[f"read.{name}"] for name in FACTORS} for results in measured]
        seconds = [results["train_seconds"] for results in measured]
        seen = [
            by_svm(embedded(benchmark, factor, seed), split, factor) for seed in benchmark.all_seeds
        ]
        row = summary(factor, read_of, factor) | {"SVM": mean_and_deviation(seen, 3)}
        rows.append(row | {"train seconds": float(np.mean(seconds))})
    for name, codes in (("PCA", components), ("untrained network", untrained)):
        references = [scores(codes(benchmark, seed), split, seed) for seed in benchmark.all_seeds]
        rows.append(summary(name, references) | {"SVM": None, "train seconds": None})
    first = trained[runs[0]]
    chance = {name: first[f"read_chance.{name}"] for name in FACTORS}
    rows.append(summary("chance", [chance]) | {"SVM": None, "train seconds": None})
    print(f"python -m train.abc {flags(benchmark)}")
    print(markdown(rows, ["constant in sets", *FACTORS, "SVM", "train seconds"]))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
