"""Measures variance and time of gradient estimators at one model, a VAE with binary latents.

    python benchmarks/discrete_variance.py RUN

RUN is a folder under ``training/`` of a run of ``python -m train.estimators --task bvae``. All
estimators have its weights, and one batch of binary images. Estimators that learn are trained for
some steps first, on this batch, while the model stays as it is. A row for each: how often the model
is evaluated for each image, the variance of the encoder's gradient, summed over its weights, in
nats squared, milliseconds of a gradient, and the product, which is what counts if gradients can be
averaged.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from train.data import datasets
from train.data.batches import as_input
from train.objective import ELBOObjective
from train.settings.binary import BinaryBenchSettings, BinaryVAESettings
from train.studies.binary import METHOD, evaluations_of
from train.studies.gradients import moments
from train.studies.timing import median_milliseconds
from train.tables import markdown

NAMES = (
    *("reinforce", *BinaryBenchSettings.estimators[:8]),
    *("rloo@3", "arms@3", "double-cv@3", "rodeo@3", "rloo@4", "disarm@4", "arms@4", "double-cv@4"),
    *("gumbel", "straight-through"),
)


def main() -> None:
    """Measures all estimators in turn, and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder whose weights are taken")
    parser.add_argument("--names", nargs="*", default=NAMES, help="estimators, as NAME or NAME@K")
    parser.add_argument("--draws", type=int, default=200, help="gradients of each estimator")
    parser.add_argument("--learn", type=int, default=300, help="steps of estimators that learn")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds, of one step each")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of data sets")
    arguments = parser.parse_args()
    config = json.loads((arguments.run / "config.json").read_text())
    chosen = config["settings"]
    images = datasets.load(chosen["data"], arguments.data_dir, "test")[0].images[:100]
    torch.manual_seed(0)
    batch = (torch.bernoulli(as_input(images)),)
    weights = load_file(arguments.run / "model.safetensors")
    rows, steps = {}, {}
    for name in arguments.names:
        kind, _, particles = name.partition("@")
        settings = BinaryVAESettings(
            estimator=kind,
            particles=int(particles) if particles else None,
            network=chosen["network"],
            latents=chosen["latents"],
        )
        objective = METHOD.build(settings, config["inputs"])
        own = {k: v for k, v in weights.items() if not k.startswith("estimators.")}
        objective.load_state_dict({**objective.state_dict(), **own})
        made = objective.estimators
        learned = [] if made is None else list(made.parameters())
        optimiser = torch.optim.Adam(learned, 1e-2) if learned else None

        def loss(objective: ELBOObjective = objective) -> torch.Tensor:
            # Not that of the method, which would draw the images anew.
            return ELBOObjective.forward(objective, batch, torch.tensor(0))[0]["elbo"]

        for _ in range(arguments.learn if learned else 0):
            for weight, slope in zip(learned, torch.autograd.grad(loss(), learned), strict=True):
                weight.grad = slope
            optimiser.step()
        encoder = dict(objective.guide.named_parameters())
        measured = moments(loss, encoder, arguments.draws)
        rows[name] = sum(value.sum().item() for value in measured.variance.values())
        both = list(objective.parameters())
        steps[name] = lambda _, loss=loss, both=both: torch.autograd.grad(
            loss(), both, allow_unused=True
        )
    times = median_milliseconds(steps, arguments.rounds)
    table = [
        {
            "estimator": name,
            "evaluations": evaluations_of(name),
            "variance": f"{variance:.4g}",
            "ms": f"{times[name]:.1f}",
            "variance x time": f"{variance * times[name] / 1e3:.3g}",
        }
        for name, variance in rows.items()
    ]
    print(markdown(table, list(table[0])))


if __name__ == "__main__":
    main()
