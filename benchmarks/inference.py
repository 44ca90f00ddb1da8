"""Measures how many images a second trained methods encode and decode, and what int8 costs.

    python benchmarks/inference.py
    python benchmarks/inference.py --images 1000000

Each method is trained shortly, as speed does not depend on weights. Its verbs are beside its
exports in ONNX Runtime: floats, and int8 of ``python -m train.export --int8``; "calibrated" is int8
with convolutions too, whose scales are found with training images. Encoders begin with bytes. Ways
take turns, on one core, in seconds of the processor. What int8 costs is measured on held-out
images. With ``--images``, a file of so many images of 28x28 is made in a temporary folder and
encoded by its path, and the process' peak memory is printed instead.
"""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import tyro
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from repeat import results
from streams import high_water, write

from train.data.images import as_bytes
from train.data.streaming.stored import in_memory
from train.engine.runtime import tune_cpu
from train.explorer.held_out import labelled
from train.export import export
from train.studies.timing import median_ratio, turns
from train.tables import markdown
from train.trained import load

FLAGS = {
    "ae": ("--steps", "1000"),
    "icvae": ("--steps", "1000"),
    "abc": ("--steps", "300"),
    "acai": ("--steps", "300"),
    "air": ("--steps", "1000", "--iw-scenes", "100"),
}
"""How the runs are made."""
CALIBRATION = 512
"""Training images that the calibrated programs are made with."""
FIRST = {"icvae": "mean"}
"""The encoder's output that is the code, if it is not z."""
WAYS = ("load(run)", "ONNX", "int8", "calibrated", "load(run) beside ONNX", "int8 beside ONNX")
"""Columns of the table of speeds."""
Values = dict[str, np.ndarray]
Program = Callable[[Values], Values]


@dataclass(frozen=True)
class Benchmark:
    """Time verbs and exports of short runs, or measure the memory of encoding many images."""

    methods: tuple[str, ...] = tuple(FLAGS)
    """Methods to measure."""
    batches: tuple[int, ...] = (1, 1024)
    """Numbers of images at once."""
    rounds: int = 9
    """Rounds of the timing, of about a twentieth of a second for each way."""
    held_out: int = 1_000
    """Held-out images on which int8 is compared."""
    images: int | None = None
    """Number of images of a file whose encoding is measured instead: memory and time."""
    out: Path = Path("runs/benchmarks")
    """Folder that the runs and the exports are written to."""


class Feeds(CalibrationDataReader):
    """Gives a program's inputs to ONNX Runtime, some rows at a time."""

    def __init__(self, inputs: Values) -> None:
        self.parts = iter(
            {name: array[i : i + 64] for name, array in inputs.items()}
            for i in range(0, CALIBRATION, 64)
        )

    def get_next(self) -> Values | None:
        return next(self.parts, None)


def program(file: Path) -> Program:
    """Returns an ONNX program as a function of its inputs by name, on one core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    takes = [each.name for each in session.get_inputs()]

    def run(inputs: Values) -> Values:
        given = {name: inputs[name] for name in takes}
        return dict(zip(names, session.run(None, given), strict=True))

    return run


def floats(images: np.ndarray) -> Values:
    """Returns the encoder's input for bytes."""
    return {"image": images.astype(np.float32) / 255}


def decoders_inputs(method: str, encoded: Values, classes: np.ndarray) -> Values:
    """Returns what a decoder takes, from what the encoder gave and the labels."""
    if method == "air":
        return encoded
    one_hot = np.eye(10, dtype=np.float32)[classes]
    return {"z": encoded[FIRST.get(method, "z")], "label": one_hot}


def programs(method: str, trained: Any, folder: Path) -> dict[str, dict[str, Program]]:
    """Exports a run; returns its programs by way, and by encoder and decoder."""
    # ACAI's networks are convolutions alone.
    export(trained, folder, onnx=True, int8=method != "acai")
    train = labelled(trained.method.load_data(trained.settings).train)
    pixels, classes = arrays(train.images[:CALIBRATION]), classes_of(train)[:CALIBRATION]
    suffixes = {"ONNX": ".onnx", "int8": ".int8.onnx", "calibrated": ".calibrated.onnx"}
    if method == "acai":
        del suffixes["int8"]
    inputs = floats(pixels)
    found: dict[str, dict[str, Program]] = {way: {} for way in suffixes}
    for name in trained.functions():
        calibrate(folder, name, inputs)
        for way, suffix in suffixes.items():
            found[way][name] = program(folder / f"{name}{suffix}")
        if name == "encoder":
            inputs = decoders_inputs(method, found["ONNX"]["encoder"](inputs), classes)
    return found


def calibrate(folder: Path, name: str, inputs: Values) -> None:
    """Writes a program of int8 with fixed scales, convolutions and all."""
    takes = [
        each.name for each in onnxruntime.InferenceSession(folder / f"{name}.onnx").get_inputs()
    ]
    logging.disable(logging.WARNING)
    quantize_static(
        folder / f"{name}.onnx",
        folder / f"{name}.calibrated.onnx",
        Feeds({each: inputs[each] for each in takes}),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
    )


def arrays(images: Any) -> np.ndarray:
    """Returns grey images as bytes (M, H, W)."""
    return as_bytes(in_memory(images)).squeeze(1).numpy()


def classes_of(images: Any) -> np.ndarray:
    """Returns the classes of digits; zeros for scenes, whose decoder takes none."""
    values = images.values
    return np.zeros(len(images), int) if values is None else np.asarray(values).astype(int)


def verbs(
    method: str, trained: Any, ways: dict[str, dict[str, Program]], pixels: np.ndarray, classes: Any
) -> dict[str, dict[str, Callable[[], Any]]]:
    """Returns each way of each verb, for these images."""
    encoded = ways["ONNX"]["encoder"](floats(pixels))
    given = decoders_inputs(method, encoded, classes)
    encode = {"load(run)": lambda: (trained.detect if method == "air" else trained.encode)(pixels)}
    for way, each in ways.items():
        encode[way] = lambda each=each: each["encoder"](floats(pixels))
    found = {"detect" if method == "air" else "encode": encode}
    if "decoder" in ways["ONNX"]:
        z = trained.encode(pixels).numpy()
        labels = (classes,) if method == "icvae" else ()
        found["decode"] = {"load(run)": lambda: trained.decode(z, *labels)}
        for way, each in ways.items():
            found["decode"][way] = lambda each=each: each["decoder"](given)
    return found


def speed_rows(
    method: str, found: dict[str, dict[str, Callable[[], Any]]], batch: int, rounds: int
) -> Iterable[dict[str, str | None]]:
    """Times the ways of each verb in turn; yields rows of images a second."""
    for verb, ways in found.items():
        for way in ways.values():
            way()
        start = time.process_time()
        ways["load(run)"]()
        repeats = max(1, round(0.05 / (time.process_time() - start)))
        steps = {name: (lambda _, way=way: way()) for name, way in ways.items()}
        times = turns(steps, rounds, repeats, time.process_time)
        row: dict[str, str | None] = {"verb": f"{method}: {verb}", "at once": f"{batch:,}"}
        row |= dict.fromkeys(WAYS)
        for name, milliseconds in times.items():
            row[name] = f"{1e3 * batch / statistics.median(milliseconds):,.0f}"
        for name in ("load(run)", "int8"):
            if name in times:
                row[f"{name} beside ONNX"] = f"{median_ratio(times['ONNX'], times[name]):.2f}"
        yield row


def loss_row(
    method: str, ways: dict[str, dict[str, Program]], held_out: Any, number: int
) -> dict[str, str | None]:
    """Measures floats and int8 on held-out images."""
    pixels, classes = arrays(held_out.images[:number]), classes_of(held_out)[:number]
    row: dict[str, str | None] = {"of": method, "measure": None, **dict.fromkeys(WAYS[1:4])}
    codes: dict[str, np.ndarray] = {}
    for way, each in ways.items():
        encoded = each["encoder"](floats(pixels))
        if method == "air":
            true = np.asarray(held_out.columns["counts"][:number])
            row["measure"], value = "counts right", f"{(encoded['counts'] == true).mean():.1%}"
            present = np.arange(encoded["z_where"].shape[1]) < encoded["counts"][:, None]
            codes[way] = encoded["z_where"] * present[..., None]
        else:
            codes[way] = encoded[FIRST.get(method, "z")]
            row["measure"], value = MEASURES[method](method, each, codes, way, pixels, classes)
        row[way] = value
    spread = codes["ONNX"].std()
    for way in ("int8", "calibrated"):
        row[f"code error, {way}"] = None
        if way not in codes:
            continue
        error = np.square(codes[way] - codes["ONNX"]).mean() ** 0.5 / spread
        row[f"code error, {way}"] = f"{error:.3f}"
    return row


def reconstruction(
    method: str, each: dict[str, Program], codes: Values, way: str, pixels: Any, classes: Any
) -> tuple[str, str]:
    """Measures the squared error of a pixel."""
    name = FIRST.get(method, "z")
    drawn = each["decoder"](decoders_inputs(method, {name: codes[way]}, classes))["reconstruction"]
    error = np.square(drawn.clip(0, 1) - pixels / 255).mean()
    return "squared error of a pixel", f"{error:.5f}"


def invariance(
    method: str, each: dict[str, Program], codes: Values, way: str, pixels: Any, classes: Any
) -> tuple[str, str]:
    """Measures the squared error, and the class that nearest codes tell."""
    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    _, error = reconstruction(method, each, codes, way, pixels, classes)
    told = cross_val_score(KNeighborsClassifier(10), codes[way], classes, cv=5).mean()
    return "squared error; class told by codes", f"{error}; {told:.1%}"


def retrieval(
    method: str, each: dict[str, Program], codes: Values, way: str, pixels: Any, classes: Any
) -> tuple[str, str]:
    """Measures how many of half of the images have the nearest other one that floats find."""
    half = len(pixels) // 2

    def nearest(z: np.ndarray) -> np.ndarray:
        z = torch.from_numpy(z)
        return torch.cdist(z[:half], z[half:]).argmin(1).numpy()

    same = (nearest(codes[way]) == nearest(codes["ONNX"])).mean()
    return "the same nearest image as floats", f"{same:.1%}"


MEASURES = {"ae": reconstruction, "acai": reconstruction, "icvae": invariance, "abc": retrieval}


def memory(benchmark: Benchmark, method: str) -> dict[str, str]:
    """Encodes a large file in a process of its own; returns its peak memory and its time."""
    run = benchmark.out / f"inference-{method}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npy"
        write(file, benchmark.images or 0)
        code = (
            "import json, sys, time, torch; from train.trained import load; "
            "torch.set_num_threads(1); start = time.process_time(); "
            "z = load(sys.argv[1]).encode(sys.argv[2]); "
            "print(json.dumps([list(z.shape), time.process_time() - start])); "
            "sys.stdout.flush(); sys.stdin.read()"
        )
        command = [sys.executable, "-c", code, str(run), str(file)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            shape, seconds = json.loads(child.stdout.readline())
            highest = high_water(child.pid)
            child.kill()
    return {
        "encode of": method,
        "codes": "x".join(f"{side:,}" for side in shape),
        "peak resident memory, MB": f"{highest / 1e6:,.0f}",
        "seconds of a core": f"{seconds:.0f}",
    }


def main(benchmark: Benchmark) -> None:
    """Makes the runs, measures them, and prints Markdown tables."""
    tune_cpu()
    torch.set_num_threads(1)
    speeds, losses, memories = [], [], []
    for method in benchmark.methods:
        run = benchmark.out / f"inference-{method}"
        results(method, run, ["--device", "cpu", "--threads", "1", *FLAGS[method]])
        trained = load(run)
        if benchmark.images is not None:
            if trained.shape.sides != (28, 28):
                continue
            memories.append(memory(benchmark, method))
            print(memories[-1], file=sys.stderr, flush=True)
            continue
        ways = programs(method, trained, benchmark.out / f"inference-{method}-export")
        held_out = labelled(trained.method.load_data(trained.settings).held_out)
        losses.append(loss_row(method, ways, held_out, benchmark.held_out))
        print(losses[-1], file=sys.stderr, flush=True)
        pixels = np.resize(
            arrays(held_out.images[: max(benchmark.batches)]),
            (max(benchmark.batches), *trained.shape.sides),
        )
        classes = np.resize(classes_of(held_out), len(pixels))
        for batch in benchmark.batches:
            found = verbs(method, trained, ways, pixels[:batch], classes[:batch])
            for row in speed_rows(method, found, batch, benchmark.rounds):
                speeds.append(row)
                print(row, file=sys.stderr, flush=True)
    for rows in filter(None, (speeds, losses, memories)):
        print(markdown(rows, list(rows[0])), end="\n\n")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
