"""What codes keep of images, and what they give away."""

from __future__ import annotations

from functools import cache
from typing import ClassVar, NamedTuple

import numpy as np
import pyro
import torch
from torch import Tensor

from guides.icvae import EchoGuide, GaussianGuide
from pyro_models.icvae import ICVAE
from train.data.batches import as_input
from train.data.conditions import Condition
from train.data.labelled import Images
from train.estimators import MeanFieldELBO
from train.metrics.goals import Beats, Goal, Stays
from train.metrics.measuring import Measures
from train.metrics.probes import Leakage, leakage
from train.metrics.references import majority, mean_image_mse

Guide = GaussianGuide | EchoGuide


class Codes(NamedTuple):
    r"""Codes of images.

    Attributes:
        sampled: One draw each, of shape :math:`(M, D)`.
        mean: Their means, of the same shape.
        parameters: What the encoder says of each, of shape :math:`(M, 2 D)`.
        reconstruction_mse: The mean square of a pixel's error, codes at their means.
        elbo: Nats an image, at beta 1.
    """

    sampled: Tensor
    mean: Tensor
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
    sampled, means, parameters, squares, values = [], [], [], 0.0, 0.0
    # Equal parts: a last one of a few images would be too small for Echo's noise.
    parts = max(1, len(images) // batch)
    for x, told in zip(images.tensor_split(parts), c.tensor_split(parts), strict=True):
        x, told = as_input(x.to(device)), told.to(device)
        elbo.differentiable_loss(model, guide, x, told)
        values += elbo.terms["elbo"].double().item()
        sampled.append(guide.draw(x, told).cpu())
        parameters.append(torch.cat(guide.encode(x, told), dim=-1).cpu())
        mean = guide.mean(x, told)
        means.append(mean.cpu())
        error = model.decode(mean, told) - x
        squares += error.double().square().sum().item()
    return Codes(
        *(torch.cat(parts) for parts in (sampled, means, parameters)),
        squares / images.numel(),
        values / len(images),
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
    MOST = 12
    """Classes that a figure shows at most."""

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
        c = self.condition.of_images(images, self.labels)
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
        """Rows of a held-out image, and its code decoded under each of the first classes."""
        few = self.first(number)
        x, c = self.inputs(few)
        z = self.guide.mean(x, c)[: len(few)]
        told = torch.eye(self.condition.classes, device=z.device)[: self.MOST]
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
        pairs = [(x.images, self.condition.of_images(x, self.labels)) for x in (few, others)]
        images, c = (torch.cat(parts).to(device) for parts in zip(*pairs, strict=True))
        return as_input(images), c


def measure(watch: Watch, measures: Measures, train: Images, seed: int = 0) -> None:
    """Takes the measures of a watched model and guide.

    ``reconstruction_mse`` and ``elbo`` are of held-out images (see :class:`Codes`), and
    ``reconstruction_mse_mean_image`` is the error of the mean training image. Adversaries learn
    from the training images' codes (see :func:`~train.metrics.probes.leakage`): ``leakage`` is the
    best one's score from one sampled code an image, ``leakage_linear`` the linear one's,
    ``leakage_adversaries`` each one's by its name, ``leakage_mean`` the best one's from the mean of
    each code, ``leakage_parameters`` the best one's from the encoder's outputs, and ``chance`` what
    is had without codes.

    Args:
        watch: The model, the guide, and held-out images.
        measures: Where measures go.
        train: The training images.
        seed: Seed of the adversaries.
    """
    held_out = watch.held_out

    @cache
    def codes() -> Codes:
        watch.last = watch.encode(held_out)
        return watch.last

    @cache
    def learnt() -> Codes:
        return watch.encode(train)

    def read(kind: str) -> Leakage:
        sets = ((learnt(), train), (codes(), held_out))
        pairs = [(getattr(found, kind).numpy(), images.labels.numpy()) for found, images in sets]
        return leakage(*pairs, seed=seed)

    def sampled() -> dict[str, float]:
        found = read("sampled")
        return {
            "leakage": found.best,
            "leakage_linear": found.linear,
            "leakage_adversaries": found.scores,
        }

    measures.take("reconstruction_mse", lambda: codes().reconstruction_mse)
    measures.take(
        "reconstruction_mse_mean_image", lambda: mean_image_mse(train.images, held_out.images)
    )
    measures.take("elbo", lambda: codes().elbo)
    measures.take(("leakage", "leakage_linear", "leakage_adversaries"), sampled)
    measures.take("leakage_mean", lambda: read("mean").best)
    measures.take("leakage_parameters", lambda: read("parameters").best)
    classes = watch.condition.classes > 0
    measures.take("chance", lambda: majority(held_out.labels.numpy()) if classes else 0.0)


def goals(invariance: bool) -> list[Goal]:
    """What a model and guide are to reach.

    Args:
        invariance: Whether training keeps labels out of codes.
    """
    drawn = Beats(
        measure="reconstruction_mse",
        reference="reconstruction_mse_mean_image",
        beside="the mean training image's",
        advice="a lower --learning-rate, more --steps, a lower --beta or --weight, or a larger "
        "--z-dim",
    )
    told = Stays(
        measure="leakage",
        reference="chance",
        beside="what is had without codes",
        advice="a larger --weight, --invariance direct, or a smaller --z-dim",
    )
    return [drawn, told] if invariance else [drawn]
