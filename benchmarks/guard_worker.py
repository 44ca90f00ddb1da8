"""Takes the steps that :mod:`guard` times, with the library of one source tree.

It reads lines of JSON, ``["name", repeats]``, and answers each with the processor's seconds a
repeat, or with ``null`` if this tree cannot do it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from cases import CPU, DEFAULTS, case

from train.data import scenes
from train.data.conditions import Condition
from train.engine.loop import TrainState
from train.engine.runtime import tune_cpu
from train.engine.saved import SavedRun
from train.methods import METHODS
from train.settings.binary import BinaryVAESettings
from train.studies.binary import METHOD

Work = Callable[[], Any]


def training(name: str) -> Work:
    """Returns a training step of a method, from the data to the optimiser."""
    settings = DEFAULTS[name]()
    objective, data = case(settings)
    state = TrainState(objective, settings, CPU, None)
    state.prepare(data)
    return lambda: state.train_step(data)


def gradient(estimator: str) -> Work:
    """Returns the gradient of a VAE with binary latents."""
    settings = BinaryVAESettings(estimator=estimator, batch_size=100)
    objective = METHOD.build(settings, {"shape": (1, 28, 28)})
    images, step = torch.rand(100, 1, 28, 28), torch.tensor(0)

    def work() -> None:
        objective.zero_grad()
        sum(objective((images,), step)[0].values()).backward()

    return work


def detection(number: int) -> Work:
    """Returns AIR's detection of a number of scenes."""
    settings = DEFAULTS["air"]()
    objective, data = case(settings)
    images = data(0)[0][:number]
    return torch.no_grad()(lambda: objective.guide.detect(images))


def verb(name: str, of: str) -> Work:
    """Returns a verb of an untrained model, of one image of bytes or of one code."""
    settings, method = DEFAULTS[name](), METHODS[name]
    condition = Condition(10, torch.zeros(0), torch.zeros(0)).state()
    inputs = {"shape": (28, 28), "condition": condition}
    trained = method.trained(method, SavedRun(name, asdict(settings), inputs, {}, 0), CPU)
    if of == "decode":
        z = np.zeros((1, settings.z_dim), np.float32)
        return lambda: trained.decode(z, *([3] if name == "icvae" else ()))
    image = np.random.default_rng(0).integers(0, 256, (1, 28, 28), dtype=np.uint8)
    return lambda: trained.encode(image)


def drawing() -> Work:
    """Returns the making of 500 scenes of random digits."""
    digits = torch.randint(0, 256, (1_000, 28, 28), dtype=torch.uint8)
    return lambda: scenes.make_scenes(digits, 500, seed=0)


WORKS: dict[str, Callable[[], Work]] = {
    **{f"step of {name}": lambda name=name: training(name) for name in DEFAULTS},
    **{
        f"gradient by {name}": lambda name=name: gradient(name)
        for name in ("rloo", "disarm", "rebar")
    },
    "encoding of 1 image by ae": lambda: verb("ae", "encode"),
    "encoding of 1 image by icvae": lambda: verb("icvae", "encode"),
    "decoding of 1 code by icvae": lambda: verb("icvae", "decode"),
    "detection of 1 scene": lambda: detection(1),
    "detection of 256 scenes": lambda: detection(256),
    "500 scenes made": drawing,
}
"""What is timed, by name."""


def main() -> None:
    """Answers the lines of the standard input."""
    # What the library prints must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    tune_cpu()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made: dict[str, Work | None] = {}
    for line in sys.stdin:
        name, repeats = json.loads(line)
        seconds = None
        try:
            if name not in made:
                made[name] = WORKS[name]()
            work = made[name]
            if work is not None:
                start = time.process_time()
                for _ in range(repeats):
                    work()
                seconds = (time.process_time() - start) / repeats
        except Exception as error:
            # Another version may have other names: the rest can be compared all the same.
            made[name] = None
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        answers.write(json.dumps(seconds) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
