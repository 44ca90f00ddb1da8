"""Compares methods on the same held-out images: ``python -m train.compare RUN...``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import tyro

from train.cli import command, leaves_no_trace
from train.errors import InputError, require
from train.settings import Count, DataSettings, Settings, Whole, flag

if TYPE_CHECKING:
    import torch

    from train.data.labelled import Split
    from train.engine.runs import Run
    from train.method import Method
    from train.studies import comparison


@dataclass(frozen=True)
class CompareSettings(DataSettings):
    """Compare runs of any methods with each other, raw pixels, PCA and an untrained encoder.

    Writes a table (Markdown and CSV) and a figure of the same measures on the same held-out images.
    AIR is given each image in the middle of an empty scene."""

    HELPS: ClassVar[dict[str, str]] = {
        "data": "Labelled images to compare on: see --data of train.ae.",
        "evaluate_on": "Held-out images: see --evaluate-on of train.ae.",
    }

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders. Without any, each method is trained for --steps with its defaults."""
    steps: Count = 500
    """Number of training steps, where no run is given."""
    seed: Whole = 0
    """Seed of the probes, and of training where no run is given."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on. auto: a GPU if there is one."""
    run_dir: Path | None = None
    """Folder that the comparison is written to; None: a new folder runs/compare-TIME."""
    resume: bool = False
    """Go on with the comparison in --run-dir that was stopped: finished runs are not repeated."""

    def shared(self) -> dict[str, Any]:
        """Returns the settings that runs and their comparison have in common, by name."""
        return {name: getattr(self, name) for name in (*self.DATA, "seed", "device")}


def reproduced(method: str, settings: Settings | CompareSettings) -> str:
    """Returns the command that reproduces a run of these settings."""
    words = ["python", "-m", f"train.{method}"]
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value == field.default or field.name in ("run_dir", "resume", "data_dir", "device"):
            continue
        if isinstance(value, bool):
            words.append(flag(field.name if value else f"no_{field.name}"))
        else:
            words += [flag(field.name), *map(str, value if isinstance(value, tuple) else [value])]
    return shlex.join(words)


def train_all(settings: CompareSettings, run: Run, methods: Sequence[Method]) -> list[Path]:
    """Trains each method for ``settings.steps`` with its other defaults; returns run folders."""
    from train.studies.parts import results_of

    for method in methods:
        own = method.settings(**settings.shared(), steps=settings.steps)
        results_of(run, f"runs/{method.name}", own, method.main)
    return [run.directory / "runs" / method.name for method in methods]


def codecs_of(
    paths: Sequence[Path],
    data: Split,
    device: torch.device,
    methods: Sequence[Method] = (),
) -> list[comparison.Codec]:
    """Loads runs as codecs, and checks each on some of the images.

    Args:
        paths: Run folders.
        data: The images to compare on.
        device: The device of the codecs.
        methods: The records of user-defined methods.

    Raises:
        InputError: If runs cannot be loaded, or cannot be compared on these data. The message names
            every such run.
    """
    from train.engine.saved import read_config
    from train.studies import comparison
    from train.trained import load

    user_methods = {method.name: method for method in methods}
    codecs, problems = [], []
    for path in map(Path, paths):
        try:
            trained = load(path, user_methods.get(read_config(path).method), device)
            command = reproduced(trained.method.name, trained.settings)
            codec = comparison.of_run(path, trained, command, data.held_out.shape)
            comparison.check(codec, data)
            codecs.append(codec)
        except (InputError, ValueError) as error:
            problem = str(error)
            problems.append(problem if str(path) in problem else f"{path}: {problem}")
    require(not problems, "; ".join(problems))
    return codecs


@leaves_no_trace
def main(settings: CompareSettings, methods: Sequence[Method] = ()) -> dict[str, Any]:
    """Compares runs, and writes a table and a figure to a new run folder.

    Args:
        settings: The runs, the data and the probes' seed.
        methods: The records of user-defined methods, whose runs can be compared too.

    Returns:
        The number of ``rows``, the path of the ``table``, ``figures``, and the ``reasons`` of
        measures and figures that failed.

    Raises:
        InputError: If data or runs cannot be used.
    """
    from train import tables, verdict
    from train.data import datasets, samples
    from train.engine import parallel, runtime
    from train.engine.runs import Run
    from train.methods import METHODS
    from train.studies import comparison

    parallel.require_alone("train.compare")
    own = {name: getattr(settings, name) for name in ("steps", "run_dir", "resume")}
    shared = Settings(**settings.shared(), **own)
    device = runtime.setup(shared)
    data = datasets.load(
        settings.data, settings.data_dir, settings.evaluate_on, settings.data_options
    )
    most = zip(data, shared.measure_on, strict=True)
    data = datasets.Split(*(samples.sample(part, number) for part, number in most))
    comparison.require_classes(data)
    codecs = codecs_of(settings.runs, data, device, methods)
    run = Run.create(shared, "compare", study=frozenset(), runs=settings.runs)
    if not settings.runs:
        paths = train_all(settings, run, (*METHODS.values(), *methods))
        codecs = codecs_of(paths, data, device, methods)

    command = reproduced("compare", replace(settings, runs=()))
    codecs = [*comparison.references(data, command, settings.seed), *codecs]
    rows = comparison.compare(codecs, data, settings.seed)

    table = tables.markdown(rows, ["method", *comparison.MEASURES])
    commands = "\n".join(f"- {row['method']}: `{row['command']}`" for row in rows)
    run.save_text("comparison.md", f"{table}\n\nCommands that reproduce the rows:\n\n{commands}\n")
    run.save_table("comparison", comparison.cells(rows))
    figures, reasons = verdict.draw(run, {"comparison": lambda: comparison.figure(rows)})
    for row in rows:
        reasons |= {f"{row['method']}.{name}": why for name, why in row["reasons"].items()}
    print(table)
    results = {"rows": len(rows), "table": str(run.directory / "comparison.md")}
    return run.finish(results | {"figures": figures, "reasons": reasons})


if __name__ == "__main__":
    command(CompareSettings, main)
