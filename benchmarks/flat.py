"""Times Adam on the weights of each method, as they are and as one flat parameter.

    python benchmarks/flat.py

Both update the same numbers with the same gradients, in turn, in seconds of the processor on one
core. One flat parameter has one set of moments, and its update is one loop over all weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from cases import DEFAULTS, case
from torch import Tensor, nn

from train.engine.runtime import tune_cpu
from train.studies.timing import median_ratio, turns
from train.tables import markdown


def updates(tensors: list[Tensor]) -> Callable[[int], None]:
    """Returns a function that updates parameters with gradients that stay."""
    weights = [nn.Parameter(tensor.clone()) for tensor in tensors]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimiser = torch.optim.Adam(weights, 1e-3, fused=True)
    return lambda _: optimiser.step()


def main() -> None:
    """Times the updates in turn and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="rounds, of 20 updates of each kind")
    arguments = parser.parse_args()
    tune_cpu()
    torch.set_num_threads(1)
    rows = []
    for method, settings in DEFAULTS.items():
        torch.manual_seed(0)
        objective, _ = case(settings())
        weights = [weight.detach() for weight in objective.parameters()]
        flat = torch.cat([weight.flatten() for weight in weights])
        steps = {"as they are": updates(weights), "flat": updates([flat])}
        times = turns(steps, arguments.rounds, 20, time.process_time)
        medians = {f"{name}, ms": statistics.median(each) for name, each in times.items()}
        ratio = median_ratio(times["flat"], times["as they are"])
        rows.append(
            {
                **{"method": method, "tensors": len(weights), "weights": flat.numel()},
                **medians,
                "flat / as they are": ratio,
            }
        )
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main()
