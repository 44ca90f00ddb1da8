"""One of the processes that :mod:`devices` times: it takes the training steps that it is told to.

It reads lines of JSON, ``["step" or "average", method, repeats]``, and answers each with the
seconds of a repeat.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from cases import CPU, DEFAULTS, case

from train import processes
from train.engine import parallel
from train.engine.runtime import tune_cpu
from train.engine.state import TrainState

PAIRS = 2
"""ABC's pairs of stacks in a batch, which have to be shared out."""


def training(method: str) -> tuple[TrainState, list[list[torch.Tensor]], object]:
    """Returns the training of a method, its weights by loss, and its batches."""
    torch.manual_seed(0)
    settings = DEFAULTS[method](**({"batch_size": PAIRS} if method == "abc" else {}))
    objective, batches = case(settings)
    state = TrainState(objective, settings, CPU, None)
    state.prepare(batches)
    weights = [[each.detach().clone() for each in of] for of in state.stepper.parameters.values()]
    return state, weights, batches


def main() -> None:
    """Answers the lines of the standard input."""
    # What the library prints must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    tune_cpu()
    torch.set_num_threads(1 if processes.size() > 1 else 2)
    parallel.start(CPU)
    made: dict[str, tuple] = {}
    for line in sys.stdin:
        what, method, repeats = json.loads(line)
        if method not in made:
            made[method] = training(method)
        state, weights, batches = made[method]
        start = time.perf_counter()
        for _ in range(repeats):
            if what == "step":
                state.train_step(batches)
            else:
                for tensors in weights:
                    parallel.all_reduce_mean(tensors)
        answers.write(json.dumps((time.perf_counter() - start) / repeats) + "\n")
        answers.flush()
    parallel.stop()


if __name__ == "__main__":
    main()
