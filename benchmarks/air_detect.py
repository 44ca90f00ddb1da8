"""Times how long AIR takes to detect the objects of one scene, on one core.

    python benchmarks/air_detect.py
    python benchmarks/air_detect.py --run runs/my-air

The loaded run's ``detect`` is beside the exported model: PyTorch's program, and ONNX in onnxruntime
(of the extra onnx). Without ``--run`` a short run of the default settings is made, whose weights
take as long as any.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import torch
import tyro
from repeat import results

from train.export import export
from train.tables import markdown
from train.trained import load


@dataclass(frozen=True)
class Benchmark:
    """Detect the objects of single scenes, and print the median and the slowest of twenty."""

    run: Path | None = None
    """A run of train.air; None: a short one is made."""
    guide: Literal["convolutional", "residual", "recurrent"] = "convolutional"
    """The guide of the run that is made."""
    scenes: int = 200
    """Number of scenes."""
    out: Path = Path("runs/benchmarks")
    """Folder that the run and the exported models are written to."""


def timed(detect: Callable[[], Any], scenes: int) -> dict[str, float]:
    """Returns milliseconds of a call: the median, and the 95th percentile."""
    for _ in range(10):
        detect()
    times = []
    for _ in range(scenes):
        start = time.perf_counter()
        detect()
        times.append(1000 * (time.perf_counter() - start))
    return {"ms, median": float(np.median(times)), "95%": float(np.percentile(times, 95))}


def main(benchmark: Benchmark) -> None:
    """Times each way, and prints a Markdown table."""
    torch.set_num_threads(1)
    run = benchmark.run or benchmark.out / f"air-detect-{benchmark.guide}"
    if benchmark.run is None:
        results("air", run, ["--guide", benchmark.guide, "--steps", "20", "--iw-scenes", "2"])
    trained = load(run)
    trained.batch = 1
    scene = np.random.default_rng(0).integers(0, 255, (1, *trained.shape.sides), dtype=np.uint8)
    rows = [{"of": "load(run).detect", **timed(lambda: trained.detect(scene), benchmark.scenes)}]
    image = torch.from_numpy(scene).float() / 255
    folder = benchmark.out / "air-detect-export"
    export(trained, folder, onnx=True)
    program = torch.export.load(folder / "encoder.pt2").module()
    with torch.no_grad():
        rows.append({"of": "encoder.pt2", **timed(lambda: program(image), benchmark.scenes)})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "encoder.onnx", options)
    fed = {session.get_inputs()[0].name: image.numpy()}
    rows.append({"of": "encoder.onnx", **timed(lambda: session.run(None, fed), benchmark.scenes)})
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
