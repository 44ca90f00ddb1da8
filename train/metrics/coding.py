"""What codes keep of images, and what they give away."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import pyro
import torch
from torch import Tensor

from guides.icvae import EchoGuide, GaussianGuide
from pyro_models.icvae import ICVAE
from train.data.batches import as_input
from train.data.conditions import Condition
from train.data.digits import Images
from train.estimators import MeanFieldELBO
from train.metrics.probes import Leakage, leakage

Guide = GaussianGuide | EchoGuide


class Codes(NamedTuple):
    r"""Codes of images.

    Attributes:
        sampled: One draw each, of shape :math:`(M, D)`.
        parameters: What the encoder says of each, of shape :math:`(M, 2 D)`.
        reconstruction_mse: The mean square of a pixel's error, codes at their means.
        elbo: Nats an image, at beta 1.
    """

    sampled: Tensor
    parameters: Tensor
    reconstruction_mse: float
    elbo: float


@torch.no_grad()
@pyro.get_param_store().scope()
def encode(model: ICVAE, guide: Guide, images: Tensor, c: Tensor, batch: int = 1_000) -> Codes:
    r"""Codes of images, in batches; Echo's noise is made of the batch.

    Args:
        model: The model.
        guide: Its guide.
        images: Images, of shape :math:`(M, H, W)`, uint8.
        c: What the model is told, of shape :math:`(M, C)`.
        batch: How many at a time.
    """
    device = model.zero.device
    elbo = MeanFieldELBO()
    sampled, parameters, squares, values = [], [], 0.0, 0.0
    # Equal parts: a last one of a few images would be too small for Echo's noise.
    parts = max(1, len(images) // batch)
    for x, told in zip(images.tensor_split(parts), c.tensor_split(parts), strict=True):
        x, told = as_input(x.to(device)), told.to(device)
        elbo.differentiable_loss(model, guide, x, told)
        values += elbo.terms["elbo"].double().item()
        sampled.append(guide.draw(x, told).cpu())
        parameters.append(torch.cat(guide.encode(x, told), dim=-1).cpu())
        error = model.decode(guide.mean(x, told), told) - x
        squares += error.double().square().sum().item()
    return Codes(
        torch.cat(sampled), torch.cat(parameters), squares / images.numel(), values / len(images)
    )


class Watch:
    r"""Looks at a model and guide while they are trained.

    Args:
        model: The model.
        guide: Its guide.
        held_out: Held-out images with their labels.
        condition: Turns labels into :math:`c`.
        labels: Whether the model is told them.
    """

    PANELS: ClassVar = {
        "nats an image": {"elbo": "ELBO, training", "held_out_elbo": "ELBO, held out"},
        "nats": {"kl_z": "KL from the prior", "invariance": "term for invariance, weighted"},
        "squared error a pixel": {"held_out_mse": "held out"},
    }
    """What to plot of the run's metrics."""

    def __init__(
        self, model: ICVAE, guide: Guide, held_out: Images, condition: Condition, labels: bool
    ) -> None:
        self.model = model
        self.guide = guide
        self.held_out = held_out
        self.condition = condition
        self.labels = labels
        self.last: Codes | None = None

    def encode(self, images: Images) -> Codes:
        """Codes of images."""
        c = self.condition.told(images, self.labels)
        return encode(self.model, self.guide, images.images, c)

    def evaluate(self, step: int) -> dict[str, float]:
        """ELBO and error on the held-out images."""
        codes = self.encode(self.held_out)
        return {"held_out_elbo": codes.elbo, "held_out_mse": codes.reconstruction_mse}

    @torch.no_grad()
    def reconstructions(self, number: int = 10) -> dict[str, np.ndarray]:
        """Held-out images over what their codes' means decode to."""
        few = self.first(number)
        x, c = self.inputs(few)
        found = self.model.decode(self.guide.mean(x, c)[: len(few)], c[: len(few)])
        return {
            "image": x[: len(few)].cpu().numpy(),
            "decoded": found.clamp(0, 1).cpu().numpy(),
        }

    @torch.no_grad()
    def swaps(self, number: int = 8) -> dict[str, np.ndarray]:
        """Rows of a held-out image, and its code decoded under every class."""
        few = self.first(number)
        x, c = self.inputs(few)
        z = self.guide.mean(x, c)[: len(few)]
        told = torch.eye(self.condition.classes, device=z.device)
        rows = {}
        for i, label in enumerate(few.values.tolist()):
            decoded = self.model.decode(z[i].expand(len(told), -1), told).clamp(0, 1)
            rows[f"a {label}" + " " * i] = torch.cat([x[i : i + 1], decoded]).cpu().numpy()
        return rows

    def codes(self, number: int = 5_000) -> tuple[np.ndarray, np.ndarray]:
        """Sampled held-out codes, and labels as the data have them."""
        codes = self.last or self.encode(self.held_out)
        return codes.sampled[:number].numpy(), self.held_out.values[:number]

    def first(self, number: int) -> Images:
        """The first held-out images, one of each class in turn if there are classes."""
        labels = self.held_out.labels
        if labels.is_floating_point():
            return self.held_out.select(torch.arange(min(number, len(labels))))
        firsts = [(labels == label).nonzero()[0] for label in labels.unique()[:number]]
        return self.held_out.select(torch.cat(firsts))

    def inputs(self, few: Images) -> tuple[Tensor, Tensor]:
        r"""A few images and their :math:`c` on the device, with others behind for Echo's noise."""
        device = self.model.zero.device
        others = self.held_out.select(torch.arange(min(500, len(self.held_out))))
        pairs = [(part.images, self.condition.told(part, self.labels)) for part in (few, others)]
        images, c = (torch.cat(parts).to(device) for parts in zip(*pairs, strict=True))
        return as_input(images), c


class Coding(NamedTuple):
    """Measures of a model and guide; see :class:`Codes` and :mod:`train.metrics.probes`.

    Attributes:
        reconstruction_mse: On held-out images.
        elbo: On held-out images.
        leakage: The best adversary's, from one sampled code an image.
        leakage_linear: The linear adversary's.
        leakage_parameters: The best adversary's, from the encoder's outputs.
        chance: What is had without codes.
    """

    reconstruction_mse: float
    elbo: float
    leakage: float
    leakage_linear: float
    leakage_parameters: float
    chance: float


def measure(watch: Watch, train: Images, seed: int = 0) -> Coding:
    """Measures a watched model and guide; adversaries learn from the training images' codes."""
    learnt, codes = watch.encode(train), watch.encode(watch.held_out)
    watch.last = codes

    def read(kind: str) -> Leakage:
        sets = ((learnt, train), (codes, watch.held_out))
        pairs = [(getattr(found, kind).numpy(), images.labels.numpy()) for found, images in sets]
        return leakage(*pairs, seed=seed)

    sampled, parameters = read("sampled"), read("parameters")
    return Coding(
        codes.reconstruction_mse,
        codes.elbo,
        sampled.best,
        sampled.linear,
        parameters.best,
        sampled.chance,
    )
