"""What is watched of ICVAE: what codes keep of images, and what they tell of labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import ClassVar, NamedTuple

import numpy as np
import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor

from guides.icvae import EchoGuide, GaussianGuide
from pyro_models.icvae import ICVAE
from train import plots
from train.data.batches import as_input
from train.data.conditions import Condition
from train.data.labelled import Images, Split
from train.estimators import MeanFieldELBO
from train.metrics.goals import Beats, Goal, Stays
from train.metrics.measuring import Measures
from train.metrics.probes import Leakage, leakage
from train.metrics.references import majority, mean_image_mse
from train.metrics.watch import TrainingLog, Watch

Guide = GaussianGuide | EchoGuide


class Codes(NamedTuple):
    r"""Codes of images.

    Attributes:
        sampled: One draw each, of shape :math:`(M, D)`.
        mean: Their means, of the same shape.
        parameters: The encoder's outputs, of shape :math:`(M, 2 D)`.
        reconstruction_mse: The mean squared error of a pixel, decoded from the codes' means.
        elbo: The ELBO in nats an image, at beta 1.
    """

    sampled: Tensor
    mean: Tensor
    parameters: Tensor
    reconstruction_mse: float
    elbo: float


@torch.no_grad()
@pyro.get_param_store().scope()
def encode(model: ICVAE, guide: Guide, images: Tensor, c: Tensor, batch: int = 1_000) -> Codes:
    r"""Encodes images in batches; Echo's noise is made of the batch.

    Args:
        model: The model.
        guide: Its guide.
        images: Images, of shape :math:`(M, H, W)`, uint8.
        c: The condition, of shape :math:`(M, C)`.
        batch: How many images a batch has.
    """
    device = model.zero.device
    elbo = MeanFieldELBO()
    sampled, means, parameters, squares, values = [], [], [], 0.0, 0.0
    # Batches of nearly equal size: a small last one could not make Echo's noise.
    batches = max(1, len(images) // batch)
    for x, condition in zip(images.tensor_split(batches), c.tensor_split(batches), strict=True):
        x, condition = as_input(x.to(device)), condition.to(device)
        elbo.differentiable_loss(model, guide, x, condition)
        values += elbo.terms["elbo"].double().item()
        sampled.append(guide.draw(x, condition).cpu())
        parameters.append(torch.cat(guide.encode(x, condition), dim=-1).cpu())
        mean = guide.mean(x, condition)
        means.append(mean.cpu())
        error = model.decode(mean, condition) - x
        squares += error.double().square().sum().item()
    return Codes(
        *(torch.cat(rows) for rows in (sampled, means, parameters)),
        squares / images.numel(),
        values / len(images),
    )


class ICVAEWatch(Watch):
    r"""Watches a model and guide: what codes keep of images, and what they tell of labels.

    Args:
        model: The model.
        guide: Its guide.
        data: Labelled training and held-out images.
        condition: Turns labels into :math:`c`.
        conditional: Whether model and guide are given :math:`c`.
        invariance: Whether training keeps labels out of codes.
        seed: Seed of the adversaries.
    """

    PANELS: ClassVar = {
        "nats an image": {"elbo": "ELBO, training", "held_out_elbo": "ELBO, held out"},
        "nats": {"kl_z": "KL from the prior", "invariance": "term for invariance, weighted"},
        "squared error a pixel": {"held_out_mse": "held out"},
    }
    MOST = 12
    """The most classes in a figure."""

    def __init__(
        self,
        model: ICVAE,
        guide: Guide,
        data: Split,
        condition: Condition,
        *,
        conditional: bool = True,
        invariance: bool = True,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.guide = guide
        self.train, self.held_out = data
        self.condition = condition
        self.conditional = conditional
        self.invariance = invariance
        self.seed = seed
        self.last: Codes | None = None

    def c(self, images: Images) -> Tensor:
        r"""Returns the condition of images, of shape :math:`(M, C)`."""
        return self.condition.of_images(images, self.conditional)

    def encode(self, images: Images) -> Codes:
        """Encodes images."""
        return encode(self.model, self.guide, images.images, self.c(images))

    def evaluate(self, step: int) -> dict[str, float]:
        codes = self.encode(self.held_out)
        return {"held_out_elbo": codes.elbo, "held_out_mse": codes.reconstruction_mse}

    def measure(self) -> Measures:
        """Measures codes of held-out images.

        For ``reconstruction_mse`` and ``elbo`` see :class:`Codes`.
        ``reconstruction_mse_mean_image`` is the error of the mean training image. Adversaries
        learn from the training images' codes (see :func:`~train.metrics.probes.leakage`).
        ``leakage`` is the best one's score from one sampled code an image, ``leakage_linear`` the
        linear one's, ``leakage_adversaries`` the score of each by its name. ``leakage_mean`` is
        the best score from the mean of each code, ``leakage_parameters`` from the encoder's
        outputs, and ``chance`` the score without codes.
        """
        measures = Measures()
        held_out, classes = self.held_out, self.condition.classes > 0

        @cache
        def codes() -> Codes:
            self.last = self.encode(held_out)
            return self.last

        @cache
        def train_codes() -> Codes:
            return self.encode(self.train)

        def adversaries(kind: str) -> Leakage:
            sets = ((train_codes(), self.train), (codes(), held_out))
            pairs = [(getattr(z, kind).numpy(), images.labels.numpy()) for z, images in sets]
            return leakage(*pairs, seed=self.seed)

        def sampled() -> dict[str, float]:
            scores = adversaries("sampled")
            return {
                "leakage": scores.best,
                "leakage_linear": scores.linear,
                "leakage_adversaries": scores.scores,
            }

        measures.take("reconstruction_mse", lambda: codes().reconstruction_mse)
        measures.take(
            "reconstruction_mse_mean_image",
            lambda: mean_image_mse(self.train.images, held_out.images),
        )
        measures.take("elbo", lambda: codes().elbo)
        measures.take(("leakage", "leakage_linear", "leakage_adversaries"), sampled)
        measures.take("leakage_mean", lambda: adversaries("mean").best)
        measures.take("leakage_parameters", lambda: adversaries("parameters").best)
        measures.take("chance", lambda: majority(held_out.labels.numpy()) if classes else 0.0)
        return measures

    def goals(self) -> list[Goal]:
        return goals(self.invariance)

    def figures(self, log: TrainingLog) -> dict[str, Callable[[], Figure]]:
        drawn = {"reconstructions": lambda: plots.gallery(self.reconstructions())}
        if self.condition.classes and self.conditional:
            drawn["swaps"] = lambda: plots.gallery(self.swaps())
        drawn["codes"] = lambda: plots.codes(*self.codes())
        return drawn | super().figures(log)

    @torch.no_grad()
    def reconstructions(self, number: int = 10) -> dict[str, np.ndarray]:
        """Returns rows of held-out images, and of the decoded means of their codes."""
        few = self.first(number)
        x, c = self.inputs(few)
        decoded = self.model.decode(self.guide.mean(x, c)[: len(few)], c[: len(few)])
        return {
            "image": x[: len(few)].cpu().numpy(),
            "decoded": decoded.clamp(0, 1).cpu().numpy(),
        }

    @torch.no_grad()
    def swaps(self, number: int = 8) -> dict[str, np.ndarray]:
        """Returns rows of a held-out image, and of its code decoded under the first classes."""
        few = self.first(number)
        x, c = self.inputs(few)
        z = self.guide.mean(x, c)[: len(few)]
        classes = torch.eye(self.condition.classes, device=z.device)[: self.MOST]
        rows = {}
        for i, label in enumerate(few.values.tolist()):
            decoded = self.model.decode(z[i].expand(len(classes), -1), classes).clamp(0, 1)
            rows[f"a {label}" + " " * i] = torch.cat([x[i : i + 1], decoded]).cpu().numpy()
        return rows

    def codes(self, number: int = 5_000) -> tuple[np.ndarray, np.ndarray]:
        """Returns sampled held-out codes, and labels as the data have them."""
        codes = self.last or self.encode(self.held_out)
        return codes.sampled[:number].numpy(), self.held_out.values[:number]

    def first(self, number: int) -> Images:
        """Returns the first held-out images, or the first of each class if there are classes."""
        labels = self.held_out.labels
        if labels.is_floating_point():
            return self.held_out.select(torch.arange(min(number, len(labels))))
        firsts = [(labels == label).nonzero()[0] for label in labels.unique()[:number]]
        return self.held_out.select(torch.cat(firsts))

    def inputs(self, few: Images) -> tuple[Tensor, Tensor]:
        r"""Returns images and their :math:`c` on the device; others follow, for Echo's noise."""
        device = self.model.zero.device
        others = self.held_out.select(torch.arange(min(500, len(self.held_out))))
        pairs = [(images.images, self.c(images)) for images in (few, others)]
        images, c = (torch.cat(tensors).to(device) for tensors in zip(*pairs, strict=True))
        return as_input(images), c


def goals(invariance: bool) -> list[Goal]:
    """Returns what a model and guide have to reach.

    Args:
        invariance: Whether training keeps labels out of codes.
    """
    reconstruction = Beats(
        measure="reconstruction_mse",
        reference="reconstruction_mse_mean_image",
        beside="the mean training image's",
        advice="a lower --learning-rate, more --steps, a lower --beta or --weight, or a larger "
        "--z-dim",
    )
    leakage_goal = Stays(
        measure="leakage",
        reference="chance",
        beside="that without codes",
        advice="a larger --weight, --invariance direct, or a smaller --z-dim",
    )
    return [reconstruction, leakage_goal] if invariance else [reconstruction]
