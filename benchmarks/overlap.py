"""Times training in two processes with gradients averaged after the backward pass, and during it.

    python benchmarks/overlap.py

"After" is what the project does: one all-reduce of all gradients of a loss. "Buckets" is PyTorch's
:class:`~torch.nn.parallel.DistributedDataParallel`, which averages a bucket of gradients as soon as
they are there, while the others are still computed. Both take the same steps, without optimiser, in
turn, in seconds of the clock. It needs two free cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
from pathlib import Path

import torch
from cases import DEFAULTS, case
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from train.engine import parallel
from train.engine.runtime import tune_cpu
from train.objective import Objective
from train.studies.timing import median_ratio, turns
from train.tables import markdown

METHODS = ("ae", "icvae", "abc")
"""Methods with a single loss that PyTorch can average in buckets."""

STEP = torch.tensor(0)


class Loss(nn.Module):
    """The loss of a method as a module.

    Args:
        objective: Networks and loss.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, *batch: Tensor) -> Tensor:
        """Returns the loss of a batch."""
        (loss,) = self.objective(batch, STEP)[0].values()
        return loss


def measure(method: str, megabytes: float, rounds: int) -> dict[str, float | str]:
    """Returns a row of the table: milliseconds of a step of a method in this process."""
    torch.manual_seed(0)
    objective, batches = case(DEFAULTS[method]())
    loss = Loss(objective)
    loss(*batches(0)).backward()
    weights = [weight for weight in loss.parameters() if weight.grad is not None]
    for weight in loss.parameters():
        # PyTorch waits for the gradients of all parameters that have one.
        weight.requires_grad_(weight.grad is not None)
    in_buckets = DistributedDataParallel(loss, bucket_cap_mb=megabytes)

    def alone(i: int) -> None:
        loss.zero_grad()
        loss(*batches(i)).backward()

    def after(i: int) -> None:
        alone(i)
        parallel.all_reduce_mean([weight.grad for weight in weights])

    def during(i: int) -> None:
        in_buckets.zero_grad()
        in_buckets(*batches(i)).backward()

    times = turns({"not averaged": alone, "after": after, "buckets": during}, rounds, 5)
    medians = {f"{name}, ms": statistics.median(each) for name, each in times.items()}
    ratio = median_ratio(times["buckets"], times["after"])
    size = sum(weight.numel() for weight in weights) * 4e-6
    return {"step of": method, "MB": size, **medians, "buckets / after": ratio}


def work(rank: int, meeting: Path, methods: tuple[str, ...], megabytes: float, rounds: int) -> None:
    """Takes the steps of one of two processes; the first one prints a table."""
    torch.set_num_threads(1)
    tune_cpu()
    # By these the library knows that there are two.
    os.environ.update(WORLD_SIZE="2", RANK=str(rank), MASTER_ADDR="localhost")
    distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    rows = [measure(method, megabytes, rounds) for method in methods]
    if rank == 0:
        print(markdown(rows, list(rows[0])))
    distributed.destroy_process_group()


def main() -> None:
    """Starts the two processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="*", default=METHODS, help="methods with one loss")
    parser.add_argument("--bucket", type=float, default=1.0, help="megabytes of a bucket")
    parser.add_argument("--rounds", type=int, default=15, help="rounds, of five steps of each kind")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        given = (Path(folder) / "meeting", tuple(arguments.methods))
        processes = [
            context.Process(target=work, args=(rank, *given, arguments.bucket, arguments.rounds))
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()


if __name__ == "__main__":
    main()
