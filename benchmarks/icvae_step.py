"""Times a training step of ICVAE and of a plain PyTorch loop over a DataLoader.

    python benchmarks/icvae_step.py

The loop is written as in a tutorial: torchvision's MNIST with ToTensor (on images in memory), a
shuffling DataLoader, the same networks, Adam, and the mean pairwise KL from torch.distributions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from PIL import Image
from timing import print_times
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

from pyro_models.networks import MLP
from train.data.batches import Batches
from train.data.conditions import Condition
from train.engine.steps import Stepper
from train.icvae import METHOD, ICVAESettings


class Digits(Dataset):
    """Images with labels, read one by one as by torchvision's MNIST with ToTensor."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels
        self.transform = ToTensor()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image = Image.fromarray(self.images[i, 0].numpy())
        return self.transform(image), int(self.labels[i])


def plain(images: Tensor, labels: Tensor, settings: ICVAESettings) -> Callable[[int], object]:
    """Returns a function that trains the plain loop for one step."""
    encoder = MLP(784, 2 * settings.z_dim, settings.hidden, torch.nn.Tanh)
    decoder = MLP(settings.z_dim + 10, 784, settings.hidden, torch.nn.Tanh)
    weights = [*encoder.parameters(), *decoder.parameters()]
    optimiser = torch.optim.Adam(weights, settings.learning_rate)

    def epochs() -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(
            Digits(images, labels), settings.batch_size, shuffle=True, drop_last=True
        )
        while True:
            yield from loader

    batches = epochs()

    def step(_: int) -> float:
        x, y = next(batches)
        c = torch.nn.functional.one_hot(y, 10).float()
        mu, log_variance = encoder(x.flatten(1)).chunk(2, dim=1)
        q = Normal(mu, (0.5 * log_variance).exp())
        out = decoder(torch.cat([q.rsample(), c], dim=1))
        error = (out - x.flatten(1)).square().sum(1).mean()
        kl = kl_divergence(q, Normal(torch.zeros_like(mu), torch.ones_like(mu))).sum(1).mean()
        rows = Normal(q.loc.unsqueeze(1), q.scale.unsqueeze(1))
        pairs = kl_divergence(rows, Normal(q.loc, q.scale)).sum(-1).mean()
        loss = (1 + settings.weight) * error + settings.beta * kl + settings.weight * pairs
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def ours(images: Tensor, labels: Tensor, settings: ICVAESettings) -> Callable[[int], object]:
    """Returns a function that trains ICVAE for one step, as ``python -m train.icvae`` does."""
    c = torch.nn.functional.one_hot(labels, 10).float()
    batches = Batches((images, c), settings.batch_size, 0, "cpu")
    condition = Condition(10, torch.zeros(0), torch.zeros(0)).state()
    objective = METHOD.build(settings, {"shape": (28, 28), "condition": condition})
    stepper = Stepper(objective, settings, torch.device("cpu"))
    return lambda step: stepper(batches(step), step)


def main() -> None:
    """Times the steps in turn and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="rounds, of 30 steps of each kind")
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    images = torch.randint(0, 256, (60_000, 1, 28, 28), dtype=torch.uint8)
    labels = torch.randint(0, 10, (60_000,))
    settings = ICVAESettings(invariance="pairwise", weight=1.0, compile="off")
    steps = {
        "plain PyTorch with a DataLoader (reference)": plain(images, labels, settings),
        "train.icvae, pairwise": ours(images, labels, settings),
        "train.icvae, direct": ours(images, labels, ICVAESettings(compile="off")),
    }
    print_times(steps, f"{settings.batch_size} images", rounds, 30)


if __name__ == "__main__":
    main()
