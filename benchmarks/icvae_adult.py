"""Measures what codes of the census income data tell about sex and income, for each method.

    python benchmarks/icvae_adult.py --adult DIR_WITH_ADULT_DATA_AND_ADULT_TEST
    python benchmarks/icvae_adult.py --adult DIR --methods direct finite --seeds 10
    python benchmarks/icvae_adult.py --adult DIR --frontier --seeds 1

A row for each method: how well the best of eight classifiers reads income and sex from sampled
codes, on the official test rows; and how much predictions of income depend on sex. All have the
same loop, networks, target and adversaries, and differ in what keeps sex out of codes. ``x`` is the
rows themselves, under the same classifiers. ``--frontier`` trains each method with several weights,
and draws income against sex. Each run is a ``python -m train.icvae``. Finished runs are not
repeated.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro
from adult import write
from matplotlib.figure import Figure
from repeat import results
from seeds import mean_and_deviation

from pyro_models.rows import RowFeatures
from train import plots
from train.data.conditions import fit
from train.data.tabular import frames
from train.data.tabular.roles import Roles
from train.data.tabular.rows import RowsSplit, prepare
from train.metrics import adversaries, fairness
from train.tables import markdown
from train.trained import load


class Method(NamedTuple):
    """A way to keep sex out of codes.

    Attributes:
        flags: Its settings.
        weight: The weight that was chosen on validation rows; None if it has none.
        weights: The weights of the frontier.
    """

    flags: str
    weight: float | None = None
    weights: tuple[float, ...] = ()


METHODS = {
    "column dropped": Method("--condition none --drop sex --invariance none"),
    "CVAE": Method("--condition sex --invariance none"),
    "pairwise": Method("--condition sex --invariance pairwise", 1.0, (0.1, 0.3, 1.0, 3.0)),
    "kt": Method("--condition sex --invariance kt", 1.0, (0.1, 0.3, 1.0, 3.0)),
    "echo": Method("--condition sex --invariance echo", 1.0, (0.1, 0.3, 1.0, 3.0)),
    "mmd": Method("--condition sex --invariance mmd", 1_000.0, (100.0, 300.0, 1_000.0, 3_000.0)),
    "club": Method("--condition sex --invariance club", 30.0, (3.0, 10.0, 30.0, 100.0)),
    "adversarial": Method(
        "--condition sex --invariance adversarial", 30.0, (3.0, 10.0, 30.0, 100.0)
    ),
    "direct": Method("--condition sex --invariance direct", 20.0, (3.0, 10.0, 20.0, 60.0)),
    "finite": Method(
        "--condition sex --invariance direct --z-dim 3 --levels 4 --steps 3000",
        20.0,
        (3.0, 10.0, 20.0, 60.0),
    ),
}
SINGLE = {"column dropped": "*", "CVAE": "P"}
"""The markers of methods without weights in the figure of the frontier."""
COMMON = (
    "--target income --split-column split --z-dim 4 --hidden 256 256 --steps 1500 "
    "--measure-on 50000 50000"
)
MEASURES = {
    "income": "read.income",
    "sex": "leakage.sex",
    "sex, balanced": "leakage_balanced.sex",
    "sex, AUC": "leakage_auc.sex",
    "sex from all outputs": "leakage_parameters.sex",
    "bound": "leakage_bound.sex",
    "parity gap": "demographic_parity.sex",
    "odds gap": "equalised_odds.sex",
    "error": "reconstruction_error",
}


@dataclass(frozen=True)
class Benchmark:
    """Train each method on the census income data, and print a table."""

    adult: Path
    """Folder with adult.data and adult.test."""
    methods: tuple[Literal[tuple(METHODS)], ...] = tuple(METHODS)
    """Methods."""
    seeds: int = 10
    """Number of seeds."""
    first_seed: int = 0
    """The first of them."""
    target_weight: float = 30.0
    """Weight of income's likelihood; 0: codes are made without it."""
    frontier: bool = False
    """Train each method with several weights, and draw income against sex."""
    evaluate_on: Literal["test", "validation"] = "test"
    """Held-out rows. validation: a fifth of the training rows, to select settings with."""
    out: Path = Path("runs/benchmarks")
    """Folder that the runs are written to."""
    extra: str = ""
    """Additional flags of every run."""

    @property
    def table(self) -> Path:
        """The table, which is written if it is not there."""
        path = self.out / "adult.csv"
        return path if path.exists() else write(self.adult, path)


def run(benchmark: Benchmark, name: str, weight: float | None, seed: int) -> dict[str, Any]:
    """Returns the results of a run, which is made unless it is finished."""
    flags = shlex.split(f"{COMMON} {METHODS[name].flags} {benchmark.extra}")
    flags += [
        "--data",
        str(benchmark.table),
        "--seed",
        str(seed),
        "--evaluate-on",
        benchmark.evaluate_on,
    ]
    flags += ["--target-weight", str(benchmark.target_weight)]
    flags += [] if weight is None else ["--weight", str(weight)]
    words = ("adult", benchmark.evaluate_on, name.replace(" ", "-"), benchmark.target_weight)
    folder = benchmark.out / "-".join(map(str, (*words, weight, seed)))
    found = results("icvae", folder, flags)
    if "leakage.sex" in found:
        return found
    made = folder / "adversaries.json"
    if not made.exists():
        made.write_text(json.dumps(of_codes(benchmark, folder, seed)))
    return found | json.loads(made.read_text())


@cache
def rows_of(table: Path, evaluate_on: str) -> RowsSplit:
    """Returns the encoded rows."""
    roles = Roles(("sex",), "income", split="split")
    return prepare(frames.read(table), roles, evaluate_on)


def read_by_all(data: RowsSplit, codes: list[np.ndarray], seed: int) -> dict[str, float]:
    """Returns what classifiers read in codes of training rows and of held-out ones."""
    condition = fit(*data, ("sex",)).parts[0]
    sex = [condition.targets(rows) for rows in data]
    income = [rows.target.astype(np.int64) for rows in data]
    of_sex = adversaries.leakage((codes[0], sex[0]), (codes[1], sex[1]), seed)
    models = adversaries.fitted((codes[0], income[0]), seed)
    scores = adversaries.scored(models, (codes[1], income[1]), seed)
    best = max(scores.scores, key=scores.scores.__getitem__)
    predicted = models[best].predict(codes[1])
    return {
        "read.income": scores.best,
        "leakage.sex": of_sex.best,
        "leakage_balanced.sex": of_sex.balanced,
        "leakage_auc.sex": of_sex.auc,
        "demographic_parity.sex": fairness.demographic_parity(predicted, sex[1]),
        "equalised_odds.sex": fairness.equalised_odds(predicted, income[1], sex[1]),
    }


def of_x(benchmark: Benchmark, seed: int) -> dict[str, float]:
    """Returns what classifiers read in the rows themselves."""
    data = rows_of(benchmark.table, benchmark.evaluate_on)
    features = RowFeatures(data.train.schema.shape)
    return read_by_all(data, [features(rows.cells).numpy() for rows in data], seed)


def of_codes(benchmark: Benchmark, folder: Path, seed: int) -> dict[str, float]:
    """Returns what classifiers read in sampled codes of a run that was not told sex."""
    data = rows_of(benchmark.table, benchmark.evaluate_on)
    guide = load(folder).objective.guide
    torch.manual_seed(seed)
    with torch.no_grad():
        codes = []
        for rows in data:
            # A run with a target has a column for it, which the encoder does not see.
            unknown = torch.full((len(rows), guide.features[0].unseen), torch.nan)
            cells = torch.cat([rows.cells, unknown], dim=1)
            codes.append(guide.draw(cells, cells.new_zeros(len(cells), 0)).numpy())
    return read_by_all(data, codes, seed)


def row(name: str, weight: float | None, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns a row of the table: means and standard deviations over seeds."""
    found = {"method": name, "weight": weight, "seeds": len(runs)}
    for label, measure in MEASURES.items():
        values = [each[measure] for each in runs if each.get(measure) is not None]
        found[label] = mean_and_deviation(values, 4) if values else None
    return found


def frontier(points: dict[str, list[dict[str, Any]]], chance: float) -> Figure:
    """Draws how well income is read against how well sex is, a line for each method."""
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    panels = {"leakage.sex": "sex, best accuracy", "leakage_auc.sex": "sex, best AUC"}
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (measure, label) in zip(axes, panels.items(), strict=True):
        lines = iter(product("osD", plots.COLOURS))
        for name, runs in points.items():
            x = [each[measure] for each in runs]
            y = [each["read.income"] for each in runs]
            # A point without a weight to vary is black, with a marker of its own.
            marker, colour = next(lines) if len(runs) > 1 else (SINGLE[name], "black")
            line = "-" if len(runs) > 1 else ""
            axis.plot(x, y, line, marker=marker, color=colour, label=name, markersize=5)
        axis.set(xlabel=label)
        axis.xaxis.set_major_formatter("{x:.0%}" if measure == "leakage.sex" else "{x:g}")
        axis.yaxis.set_major_formatter("{x:.1%}")
        axis.grid(alpha=0.3)
    axes[0].axvline(chance, color="0.5", linestyle="--", linewidth=1, label="majority")
    axes[1].axvline(0.5, color="0.5", linestyle="--", linewidth=1)
    axes[0].set(ylabel="income, best accuracy")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def main(benchmark: Benchmark) -> None:
    """Trains the runs, prints a Markdown table, and draws the frontier."""
    seeds = range(benchmark.first_seed, benchmark.first_seed + benchmark.seeds)
    rows: list[dict[str, Any]] = []
    points: dict[str, list[dict[str, Any]]] = {}
    for name in benchmark.methods:
        method = METHODS[name]
        chosen = method.weights if benchmark.frontier and method.weights else (method.weight,)
        for weight in chosen:
            runs = [run(benchmark, name, weight, seed) for seed in seeds]
            rows.append(row(name, weight, runs))
            points.setdefault(name, []).extend(runs[:1])
            print(markdown(rows[-1:], list(rows[-1])).splitlines()[-1], flush=True)
    rows.append(row("x", None, [of_x(benchmark, benchmark.first_seed)]))
    print(markdown(rows, list(rows[0])))
    if benchmark.frontier:
        chance = next(
            each["chance.sex"] for runs in points.values() for each in runs if "chance.sex" in each
        )
        frontier(points, chance).savefig(benchmark.out / "adult-frontier.png", dpi=150)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
