"""Times a training step of a VAE with binary latents, beside the same estimator written by hand.

    python benchmarks/discrete_step.py
    python benchmarks/discrete_step.py --compile

The reference has no Pyro: the networks, the loss with the estimator's gradient, and Adam, all in
plain PyTorch. Both train on the same batches, in turn. A second table compares the estimators with
leave-one-out of two samples.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from pyro_models.binary import network
from train.data.batches import Batches, as_input
from train.engine.steps import Stepper
from train.settings.binary import BinaryVAESettings
from train.studies.binary import METHOD
from train.studies.timing import median_ratio, turns

NAMES = (
    *("rloo", "reinforce", "disarm", "arm", "arms", "double-cv", "rodeo", "muprop", "rebar"),
    *("relax", "gumbel", "straight-through", "vimco", "disarm-bound"),
)


def by_hand(
    batches: Callable[[int], tuple[Tensor, ...]], settings: BinaryVAESettings, compiled: bool
) -> Callable[[int], object]:
    """Returns a function that trains for one step in plain PyTorch, by rloo or disarm."""
    encoder = network(784, settings.latents, settings.hidden)
    decoder = network(settings.latents, 784, settings.hidden)
    weights = [*encoder.parameters(), *decoder.parameters()]
    optimiser = torch.optim.Adam(weights, settings.learning_rate, fused=True)

    def loss_of(images: Tensor) -> Tensor:
        x = torch.bernoulli(images).flatten(1)
        logits = encoder(x)
        fixed = logits.detach()
        if settings.estimator == "rloo":
            z = torch.bernoulli(fixed.sigmoid().expand(2, *fixed.shape))
        else:
            u = torch.rand_like(fixed)
            z = torch.stack([u > (-fixed).sigmoid(), u < fixed.sigmoid()]).to(fixed.dtype)
        log_q = -cross_entropy(logits.expand(z.shape), z, reduction="none").sum(-1)
        pixels = decoder(z)
        log_p = -cross_entropy(pixels, x.expand(pixels.shape), reduction="none").sum(-1)
        log_p = log_p - settings.latents * torch.log(torch.tensor(2.0))
        cost = (log_p - log_q).detach()
        difference = cost[0] - cost[1]
        if settings.estimator == "rloo":
            score = 0.5 * (difference * (log_q[0] - log_q[1])).sum()
        else:
            gradient = 0.5 * difference[:, None] * (z[0] - z[1]) * fixed.abs().sigmoid()
            score = (gradient * logits).sum()
        return -(log_p.mean(0).sum() + score) / len(x)

    # The stepper's compiled step has no optimiser in it, and this one has none either.
    loss_of = torch.compile(loss_of) if compiled else loss_of

    def step(i: int) -> None:
        optimiser.zero_grad()
        loss_of(as_input(batches(i)[0])).backward()
        optimiser.step()

    return step


def ours(
    batches: Callable[[int], tuple[Tensor, ...]], settings: BinaryVAESettings
) -> Callable[[int], object]:
    """Returns a function that trains for one step, as ``train.estimators --task bvae`` does."""
    objective = METHOD.build(settings, {"shape": (28, 28)})
    stepper = Stepper(objective, settings, torch.device("cpu"))
    return lambda step: stepper(batches(step), step)


def main() -> None:
    """Times the steps in turn and prints Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds, of 20 steps of each kind")
    parser.add_argument("--compile", action="store_true", help="compile both sides")
    parser.add_argument("--names", nargs="*", default=NAMES, help="estimators of the second table")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    images = torch.randint(0, 256, (10_000, 1, 28, 28), dtype=torch.uint8)
    batches = Batches((images,), 100, 0, "cpu")

    def settings(name: str) -> BinaryVAESettings:
        chosen = "on" if arguments.compile else "off"
        return BinaryVAESettings(estimator=name, compile=chosen)

    print("| step of 100 images | ms, median | by hand | ratio |")
    print("| --- | --- | --- | --- |")
    for name in ("rloo", "disarm"):
        pair = {
            "ours": ours(batches, settings(name)),
            "by hand": by_hand(batches, settings(name), arguments.compile),
        }
        times = turns(pair, arguments.rounds, 20)
        medians = [f"{statistics.median(times[side]):.2f}" for side in pair]
        ratio = median_ratio(times["ours"], times["by hand"])
        print(f"| {name} | {medians[0]} | {medians[1]} | {ratio:.2f} |")
    if not arguments.names:
        return
    times = turns({n: ours(batches, settings(n)) for n in arguments.names}, arguments.rounds, 20)
    print("\n| step of 100 images | ms, median | times rloo |\n| --- | --- | --- |")
    for name, milliseconds in times.items():
        ratio = median_ratio(milliseconds, times[arguments.names[0]])
        print(f"| {name} | {statistics.median(milliseconds):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
