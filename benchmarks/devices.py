"""Compares training by two processes with training by one, and computes what many devices would do.

    python benchmarks/devices.py
    python benchmarks/devices.py --bandwidth 12.5 --latency 20 --speed-up 30

Two processes of one thread each, which share out a batch and average gradients, and one process of
two threads take turns at the same batch, in seconds of the clock. It needs two free cores.

For many devices nothing is measured but a step: each device has a batch of its own of the default
size, and takes the time of a step on this machine divided by ``--speed-up``. Then gradients of n
devices are averaged by a ring all-reduce, which sends each of M bytes 2(n - 1)/n times, in 2(n - 1)
messages one after the other:

    t(n) = 2(n - 1)/n M / bandwidth + 2(n - 1) latency

Losses that are optimised apart are averaged apart. The project averages when all gradients are
there, so a step takes the sum; "overlapped" is the best that is possible, the longer of both.

Reference: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms for clusters of workstations,
2009.
"""

from __future__ import annotations

import socket
import statistics
import sys
from dataclasses import dataclass
from typing import NamedTuple

import torch
import tyro
from answering import Worker
from cases import DEFAULTS, case

from train.engine.runtime import tune_cpu
from train.engine.state import TrainState
from train.studies.timing import median_ratio, turns
from train.tables import markdown

SCRIPT = "devices_worker.py"
MOST = 2**20
"""Devices that are looked at, at most."""


@dataclass(frozen=True)
class Benchmark:
    """Time two processes beside two threads, and compute the efficiency of many devices."""

    methods: tuple[str, ...] = tuple(DEFAULTS)
    """Methods to time."""
    rounds: int = 10
    """Rounds in which both take turns."""
    seconds: float = 0.5
    """Seconds of a turn, about."""
    measure: bool = True
    """Time two processes beside two threads; it needs two free cores."""
    devices: tuple[int, ...] = (2, 8, 64)
    """Numbers of devices whose efficiency is computed."""
    speed_up: float = 50.0
    """How many times as fast as one core of this machine a device is."""
    bandwidth: float = 25.0
    """Gigabytes a second that a device sends to its neighbour while it receives as many."""
    latency: float = 10.0
    """Microseconds of a message beside its bytes."""
    goal: float = 0.9
    """The efficiency that is to be kept."""


class Message(NamedTuple):
    """What the devices average after a step.

    Attributes:
        sizes: Bytes of the gradients of each loss.
    """

    sizes: tuple[int, ...]

    def seconds(self, n: int, bandwidth: float, latency: float) -> float:
        """Returns the time of the all-reduces: see :func:`all_reduce_seconds`."""
        return sum(all_reduce_seconds(size, n, bandwidth, latency) for size in self.sizes)


def all_reduce_seconds(size: float, n: int, bandwidth: float, latency: float) -> float:
    """Returns the time of a ring all-reduce.

    Args:
        size: Bytes of the message.
        n: The number of devices.
        bandwidth: Bytes a second.
        latency: Seconds of a message beside its bytes.
    """
    return 2 * (n - 1) / n * size / bandwidth + 2 * (n - 1) * latency


def efficiency(compute: float, averaging: float, *, overlapped: bool = False) -> float:
    """Returns which part of a step is spent on gradients: 1 of a device that is alone.

    Args:
        compute: Seconds of a step without averaging.
        averaging: Seconds of the averaging.
        overlapped: Whether gradients are averaged while others are computed.
    """
    return compute / (max(compute, averaging) if overlapped else compute + averaging)


def first_below(
    goal: float, compute: float, message: Message, bandwidth: float, latency: float
) -> int | None:
    """Returns the fewest devices whose efficiency is below a goal; None if there are none."""

    def is_below(n: int) -> bool:
        return efficiency(compute, message.seconds(n, bandwidth, latency)) < goal

    if not is_below(MOST):
        return None
    enough, below = 1, MOST
    while below - enough > 1:
        middle = (enough + below) // 2
        enough, below = (enough, middle) if is_below(middle) else (middle, below)
    return below


def asked(workers: list[Worker], what: str, method: str, repeats: int) -> float:
    """Has workers do the same together; returns the seconds of a repeat, of the slowest."""
    for worker in workers:
        worker.ask(what, method, repeats)
    return max(worker.answer() for worker in workers)


def compared(benchmark: Benchmark) -> list[dict[str, str]]:
    """Times two processes and two threads in turn; returns a row for each method."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    group = {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", **address}
    two = [Worker(SCRIPT, RANK=str(rank), LOCAL_RANK=str(rank), **group) for rank in range(2)]
    one = [Worker(SCRIPT, OMP_NUM_THREADS="2")]
    rows = []
    try:
        for method in benchmark.methods:
            for workers in (two, one):
                asked(workers, "step", method, 3)
            first = asked(one, "step", method, 2)
            repeats = max(1, round(benchmark.seconds / first))
            times: dict[str, list[float]] = {"two": [], "one": [], "average": []}
            order = [("two", two, "step"), ("one", one, "step"), ("average", two, "average")]
            for _ in range(benchmark.rounds):
                for name, workers, what in order:
                    times[name].append(1e3 * asked(workers, what, method, repeats))
                order.reverse()
            rows.append(
                {
                    "step of": method,
                    "one process of two threads, ms": f"{statistics.median(times['one']):.1f}",
                    "two processes, ms": f"{statistics.median(times['two']):.1f}",
                    "times as fast": f"{median_ratio(times['one'], times['two']):.2f}",
                    "averaging alone, ms": f"{statistics.median(times['average']):.1f}",
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
    finally:
        for worker in (*two, *one):
            worker.process.kill()
    return rows


def measured(method: str) -> tuple[float, Message]:
    """Returns the processor's seconds of a step on one core, and what is averaged after it."""
    import time

    settings = DEFAULTS[method]()
    objective, batches = case(settings)
    state = TrainState(objective, settings, torch.device("cpu"), None)
    state.prepare(batches)
    times = turns({"step": lambda _: state.train_step(batches)}, 5, 1, time.process_time)
    sizes = tuple(
        sum(weight.numel() * weight.element_size() for weight in weights)
        for weights in state.stepper.parameters.values()
    )
    return statistics.median(times["step"]) / 1e3, Message(sizes)


def computed(benchmark: Benchmark) -> list[dict[str, str]]:
    """Returns the efficiency of many devices, a row for each method."""
    bandwidth, latency = 1e9 * benchmark.bandwidth, 1e-6 * benchmark.latency
    rows = []
    for method in benchmark.methods:
        seconds, message = measured(method)
        compute = seconds / benchmark.speed_up
        row = {
            "step of": method,
            "ms on a device": f"{1e3 * compute:.2f}",
            "MB averaged": f"{sum(message.sizes) / 1e6:.1f}",
        }
        for n in benchmark.devices:
            averaging = message.seconds(n, bandwidth, latency)
            apart, best = (efficiency(compute, averaging, overlapped=o) for o in (False, True))
            row[f"{n} devices"] = f"{apart:.0%} ({best:.0%})"
        below = first_below(benchmark.goal, compute, message, bandwidth, latency)
        row[f"below {benchmark.goal:.0%} from"] = "never" if below is None else f"{below:,}"
        rows.append(row)
    return rows


def main(benchmark: Benchmark) -> None:
    """Prints Markdown tables of both."""
    tune_cpu()
    torch.set_num_threads(1)
    if benchmark.measure:
        rows = compared(benchmark)
        print(markdown(rows, list(rows[0])), end="\n\n")
    print(
        f"Computed: a device {benchmark.speed_up:g} times as fast as a core, "
        f"{benchmark.bandwidth:g} GB/s, {benchmark.latency:g} µs a message; overlapped in brackets."
    )
    rows = computed(benchmark)
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
