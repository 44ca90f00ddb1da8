"""Kills runs and resumes them until they end; compares their files with an uninterrupted run's."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests import doors

COMMON = (
    *("--device", "cpu", "--batch-size", "8", "--steps", "30", "--log-every", "3"),
    *("--eval-every", "5", "--checkpoint-every", "4"),
)
SCENES = (
    *("--train-scenes", "40", "--held-out-scenes", "20", "--iw-particles", "2"),
    *("--window-size", "8", "--what-hidden", "8", "--guide-hidden", "8", "--anchors", "2"),
    *("--canvas-size", "30", "--digit-size", "10", "12"),
)
OWN = ("--data", "OWN")
CASES = {
    "ae": ("ae", *OWN, "--hidden", "16", "--cluster-starts", "1", "--noise", "0.3"),
    "ae patience": ("ae", *OWN, "--network", "conv", "--cluster-starts", "1", "--patience", "1"),
    "acai": ("acai", *OWN, "--depth", "2", "--z-dim", "16", "--cluster-starts", "1"),
    "acai dense": (
        *("acai", *OWN, "--network", "dense", "--hidden", "8", "--dropout", "0.5"),
        *("--cluster-starts", "1", "--decay", "cosine"),
    ),
    "acai lines": ("acai", "--data", "lines", "--depth", "2", "--z-dim", "16"),
    "abc": ("abc", *OWN, "--stack-size", "5", "--withheld", "--channels", "4"),
    "icvae": ("icvae", *OWN, "--hidden", "16", "16", "--memory", "20"),
    "icvae echo": (
        *("icvae", *OWN, "--invariance", "echo", "--hidden", "16", "--echo-terms", "5"),
        *("--weight-start", "0.1", "--weight", "1"),
    ),
    "icvae adversarial": (
        *("icvae", *OWN, "--invariance", "adversarial", "--hidden", "16", "--weight-start", "0"),
    ),
    "air": ("air", *SCENES),
    "air tracegraph": ("air", *SCENES, "--estimator", "tracegraph", "--baseline", "average"),
    "air network": ("air", *SCENES, "--estimator", "tracegraph", "--baseline", "network"),
    "air enum": ("air", *SCENES, "--estimator", "enum"),
    "air iw": ("air", *SCENES, "--estimator", "iw", "--particles", "2"),
    "air concrete": ("air", *SCENES, "--estimator", "concrete"),
    "air rws": ("air", *SCENES, "--estimator", "rws", "--particles", "2"),
}
"""Every method and estimator, and every option with state that a checkpoint has to save."""
TIMES = {"warm_up_seconds", "train_seconds", "examples_per_second"}
PLAIN = {
    *("method", "steps", *TIMES, "device", "threads", "compiled_from"),
    *("measured_on", "figures", "reasons", "worked", "verdict", "advice"),
}
"""The keys that the results of every run have."""


def save_own(folder: Path) -> Path:
    """Writes a data set of 100 random images in four classes, as a user's ``.npz`` file."""
    path = folder / "own.npz"
    images = np.random.default_rng(0).integers(0, 256, (100, 16, 16), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(100) % 4)
    return path


def case(name: str, folder: Path) -> list[str]:
    """Returns the method and flags of one of :data:`CASES`; writes its data into ``folder``."""
    data = str(save_own(folder))
    return [data if word == "OWN" else word for word in CASES[name]]


def contents(run: Path) -> dict[str, Any]:
    """Reads what must be identical in two runs: weights, log and results, without times."""

    def timeless(text: str) -> str:
        values = json.loads(text)
        return json.dumps({key: value for key, value in values.items() if key not in TIMES})

    return {
        "weights": (run / "model.safetensors").read_bytes(),
        "log": [timeless(line) for line in (run / "metrics.jsonl").read_text().splitlines()],
        "results": timeless((run / "results.json").read_text()),
        "figures": sorted(path.name for path in (run / "figures").iterdir()),
        "stages": sorted(path.name for path in run.glob("stages/*")),
        "temporary files": sorted(path.name for path in run.rglob("*.part")),
    }


class Case:
    """An uninterrupted run, to compare interrupted ones with.

    Args:
        name: A key of :data:`CASES`.
        folder: The folder for the runs.

    Attributes:
        seconds: The duration of the uninterrupted run, in seconds.
        expected: The :func:`contents` of its folder.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self.method, *flags = case(name, folder)
        self.flags = [*COMMON, *flags]
        # The first process waits until the server has started, so it is not timed.
        doors.finish(doors.start(self.method, "--help", said=self.said))
        start = time.monotonic()
        status = doors.finish(self.start(folder / "whole"))
        self.seconds = time.monotonic() - start
        assert status == 0, self.said.read_text()
        self.expected = contents(folder / "whole")

    @property
    def said(self) -> Path:
        """The file with the output of the last process."""
        return self.folder / "said"

    def start(self, run: Path, **options: Any) -> Any:
        """Starts the run, or resumes it if its folder holds one."""
        resume = ["--resume"] if (run / "config.json").exists() else []
        flags = [*self.flags, "--run-dir", str(run), *resume]
        return doors.start(self.method, *flags, said=self.said, **options)

    def survive(self, kills: int, seed: int, until: float = 1.0) -> int:
        """Kills a run at random times and resumes it, then lets it end, and checks its contents.

        Args:
            kills: How many processes to kill.
            seed: The seed of the times.
            until: The latest time, as a share of the uninterrupted run's. A run that ends before it
                is killed has nothing left for the next processes to do.

        Returns:
            The number of processes that were killed before they ended.
        """
        generator = random.Random(seed)
        run = self.folder / f"killed-{seed}"
        killed = 0
        for _ in range(kills):
            process = self.start(run)
            process.join(generator.uniform(0, until * self.seconds))
            process.kill()
            process.join()
            assert process.exitcode in (0, -9), self.said.read_text()
            killed += process.exitcode == -9
        self.end(run)
        return killed

    def end(self, run: Path) -> None:
        """Resumes a run until it ends, compares its contents, and removes it."""
        assert doors.finish(self.start(run)) == 0, self.said.read_text()
        actual = contents(run)
        for name, expected in self.expected.items():
            assert actual[name] == expected, name
        shutil.rmtree(run)
