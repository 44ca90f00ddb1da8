"""Times a training step of AIR with this project's estimators and of Pyro's example.

    python benchmarks/air_step.py

The reference has the architecture and sizes of Pyro's AIR example: an LSTM of 256 units that reads
the full image at every step, a second LSTM as baseline, grid_sample, and TraceGraph_ELBO in SVI.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import SVI, TraceGraph_ELBO
from torch import Tensor, nn

from pyro_models.networks import MLP
from train.air import METHOD, AIRSettings
from train.engine.steps import Stepper
from train.studies.timing import median_ratio, turns

SIZE, WINDOW, WHAT, N = 50, 28, 50, 3


class Reference(nn.Module):
    """The AIR of Pyro's example: model and guide are methods of one module, for SVI."""

    def __init__(self) -> None:
        super().__init__()
        latents = 1 + 3 + WHAT
        self.cell = nn.LSTMCell(SIZE**2 + latents, 256)
        self.baseline = nn.LSTMCell(SIZE**2 + latents, 256)
        self.value = nn.Linear(256, 1)
        self.predict = MLP(256, 7, (200,))
        self.encode = MLP(WINDOW**2, 2 * WHAT, (200,))
        self.decode = MLP(WHAT, WINDOW**2, (200,))

    def transform(self, pictures: Tensor, where: Tensor, size: int) -> Tensor:
        zero = torch.zeros_like(where[:, 0])
        rows = [where[:, 0], zero, where[:, 1], zero, where[:, 0], where[:, 2]]
        theta = torch.stack(rows, dim=1).view(-1, 2, 3)
        grid = F.affine_grid(theta, [len(where), 1, size, size], align_corners=False)
        return F.grid_sample(pictures.unsqueeze(1), grid, align_corners=False).squeeze(1)

    def model(self, x: Tensor) -> None:
        pyro.module("air", self)
        n = len(x)
        pres, canvas = x.new_ones(n, 1), x.new_zeros(n, SIZE, SIZE)
        with pyro.plate("data", n):
            for t in range(N):
                pres = pyro.sample(f"pres_{t}", dist.Bernoulli(0.5 * pres).to_event(1))
                with poutine.mask(mask=pres.squeeze(1).bool()):
                    loc, scale = x.new_tensor([3.0, 0, 0]), x.new_tensor([0.1, 1, 1])
                    where = dist.Normal(loc, scale).expand([n, 3]).to_event(1)
                    where = pyro.sample(f"where_{t}", where)
                    what = dist.Normal(x.new_zeros(n, WHAT), 1.0).to_event(1)
                    what = pyro.sample(f"what_{t}", what)
                window = (self.decode(what) - 2).sigmoid().view(-1, WINDOW, WINDOW)
                canvas = canvas + self.transform(window, where, SIZE) * pres.view(-1, 1, 1)
            pyro.sample("x", dist.Normal(canvas, 0.3).to_event(2), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("air", self)
        n = len(x)
        state = baseline = None
        pres, latents = x.new_ones(n, 1), x.new_zeros(n, 3 + WHAT)
        with pyro.plate("data", n):
            for t in range(N):
                inputs = torch.cat([x.flatten(1), pres, latents], dim=1)
                state = self.cell(inputs, state)
                baseline = self.baseline(inputs.detach(), baseline)
                out = self.predict(state[0])
                value = self.value(baseline[0]).squeeze(1) * pres.squeeze(1)
                pres = pyro.sample(
                    f"pres_{t}",
                    dist.Bernoulli(out[:, :1].sigmoid() * pres).to_event(1),
                    infer={"baseline": {"baseline_value": value}},
                )
                with poutine.mask(mask=pres.squeeze(1).bool()):
                    loc = out[:, 1:4] + x.new_tensor([3.0, 0, 0])
                    where = dist.Normal(loc, F.softplus(out[:, 4:] - 2)).to_event(1)
                    where = pyro.sample(f"where_{t}", where)
                    inverse = torch.cat([torch.ones_like(where[:, :1]), -where[:, 1:]], dim=1)
                    window = self.transform(x, inverse / where[:, :1], WINDOW)
                    loc, scale = self.encode(window.flatten(1)).chunk(2, dim=1)
                    what = dist.Normal(loc, F.softplus(scale)).to_event(1)
                    what = pyro.sample(f"what_{t}", what)
                latents = torch.cat([where, what], dim=1)


def reference(device: torch.device | str = "cpu") -> Callable[[Tensor], object]:
    """Returns the step function of SVI on the reference; it is called with scenes (B, H, W)."""
    air = Reference().to(device)
    svi = SVI(air.model, air.guide, pyro.optim.Adam({"lr": 1e-4}), loss=TraceGraph_ELBO())
    return svi.step


def ours(x: Tensor, **settings: str) -> Callable[[int], object]:
    """Returns a function that trains AIR for one step, as ``python -m train.air`` does."""
    air_settings = AIRSettings(**{"compile": "off", **settings})
    objective = METHOD.build(air_settings, {"shape": (SIZE, SIZE)})
    stepper = Stepper(objective, air_settings, x.device)
    return lambda step: stepper((x,), step)


def main() -> None:
    """Times the steps in turn and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="rounds, of 15 steps of each kind")
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    x = torch.rand(64, 1, SIZE, SIZE)
    example = reference()
    steps = {
        "Pyro's example (reference)": lambda _: example(x.squeeze(1)),
        "marginal": ours(x),
        "marginal, recurrent guide": ours(x, guide="recurrent"),
        "tracegraph": ours(x, estimator="tracegraph"),
        "tracegraph, baseline average": ours(x, estimator="tracegraph", baseline="average"),
        "tracegraph, baseline network": ours(x, estimator="tracegraph", baseline="network"),
    }
    times = turns(steps, rounds, 15)
    base = times["Pyro's example (reference)"]
    print("| step of 64 scenes | ms, median | ms, minimum | fraction of the reference, median |")
    print("| --- | --- | --- | --- |")
    for name, milliseconds in times.items():
        fraction = median_ratio(milliseconds, base)
        median = statistics.median(milliseconds)
        print(f"| {name} | {median:.1f} | {min(milliseconds):.1f} | {fraction:.2f} |")


if __name__ == "__main__":
    main()
