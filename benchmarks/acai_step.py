"""Times a training step of ACAI and of a plain PyTorch port.

    python benchmarks/acai_step.py

The port has the networks of the paper and updates the autoencoder and the critic in turn. It runs
both networks once for each of the two losses.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from timing import print_times
from torch import Tensor, nn
from torch.nn import functional as F

from train.acai import METHOD, ACAISettings
from train.engine.runtime import tune_cpu
from train.engine.steps import Stepper


def encoder(depth: int, latent: int) -> nn.Sequential:
    """Makes the paper's encoder of 32x32 images."""
    layers: list[nn.Module] = [nn.Conv2d(1, depth, 1)]
    channels = depth
    for width in (depth, 2 * depth, 4 * depth):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2), nn.AvgPool2d(2)]
        channels = width
    layers += [nn.Conv2d(channels, 8 * depth, 3, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(8 * depth, latent, 3, padding=1))


def decoder(depth: int, latent: int) -> nn.Sequential:
    """Makes the paper's decoder to 32x32 images."""
    layers: list[nn.Module] = []
    channels = latent
    for width in (4 * depth, 2 * depth, depth):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2)]
        layers += [nn.Upsample(scale_factor=2)]
        channels = width
    layers += [nn.Conv2d(channels, depth, 3, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(depth, 1, 3, padding=1))


def plain(images: Tensor, settings: ACAISettings) -> Callable[[int], object]:
    """Returns a function that trains the port for one step."""
    latent = settings.z_dim // 16
    encode, decode = encoder(settings.depth, latent), decoder(settings.depth, latent)
    features = encoder(settings.depth, latent)
    weights = [*encode.parameters(), *decode.parameters()]
    autoencoder = torch.optim.Adam(weights, settings.learning_rate)
    critic = torch.optim.Adam(features.parameters(), settings.learning_rate)

    def predict_alpha(x: Tensor) -> Tensor:
        return features(x).flatten(1).mean(1)

    def mix(z: Tensor, alpha: Tensor) -> Tensor:
        return decode(alpha * z + (1 - alpha) * z.flip(0))

    def step(i: int) -> float:
        start = i * settings.batch_size % (len(images) - settings.batch_size)
        x = images[start : start + settings.batch_size].float() / 127.5 - 1
        alpha = 0.5 * torch.rand(len(x), 1, 1, 1)
        z = encode(x)
        loss = F.mse_loss(decode(z), x) + 0.5 * predict_alpha(mix(z, alpha)).square().mean()
        autoencoder.zero_grad()
        loss.backward()
        autoencoder.step()

        with torch.no_grad():
            z = encode(x)
            decoded, mixed = decode(z), mix(z, alpha)
        critic_loss = (predict_alpha(mixed) - alpha.flatten()).square().mean()
        critic_loss = critic_loss + predict_alpha(decoded + 0.2 * (x - decoded)).square().mean()
        critic.zero_grad()
        critic_loss.backward()
        critic.step()
        return loss.item() + critic_loss.item()

    return step


def ours(images: Tensor, settings: ACAISettings) -> Callable[[int], object]:
    """Returns a function that trains ACAI for one step, as ``python -m train.acai`` does."""
    stepper = Stepper(METHOD.build(settings, {"shape": (32, 32)}), settings, torch.device("cpu"))

    def step(i: int) -> object:
        start = i * settings.batch_size % (len(images) - settings.batch_size)
        return stepper((images[start : start + settings.batch_size].float() / 255,), i)

    return step


def main() -> None:
    """Times the steps in turn and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="rounds, of 10 steps of each kind")
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    tune_cpu()
    images = torch.randint(0, 256, (10_000, 1, 32, 32), dtype=torch.uint8)
    settings = ACAISettings(compile="off")
    steps = {
        "plain port, two forward passes (reference)": plain(images, settings),
        "train.acai": ours(images, settings),
        "train.acai, --no-critic": ours(images, ACAISettings(critic=False, compile="off")),
    }
    print_times(steps, f"{settings.batch_size} images", rounds, 10)


if __name__ == "__main__":
    main()
