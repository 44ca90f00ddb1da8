"""Evaluates ICVAE: reconstruction error, ELBO, and labels predicted from codes."""

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
    r"""Codes of images, and how well the model explains the images.

    Attributes:
        sampled: One draw from each posterior, of shape :math:`(M, D)`.
        mean: The posterior means, of shape :math:`(M, D)`.
        parameters: The encoder's outputs, of shape :math:`(M, 2 D)`.
        reconstruction_mse: The mean squared error per pixel of images decoded from the means.
        elbo: The mean ELBO at beta 1, in nats per image.
    """

    sampled: Tensor
    mean: Tensor
    parameters: Tensor
    reconstruction_mse: float
    elbo: float


@torch.no_grad()
@pyro.get_param_store().scope()
def encode(model: ICVAE, guide: Guide, images: Tensor, c: Tensor, batch: int = 1_000) -> Codes:
    r"""Encodes images in batches. With Echo noise, the noise of a code depends on its batch.

    Args:
        model: The model.
        guide: Its guide.
        images: Images, of shape :math:`(M, C, H, W)`, uint8.
        c: The condition, of shape :math:`(M, C)`.
        batch: The approximate number of images that are encoded at once.
    """
    device = model.zero.device
    elbo = MeanFieldELBO()
    sampled, means, parameters, squares, elbos = [], [], [], 0.0, 0.0
    # Batches of nearly equal size, because Echo noise needs more than a few images in each.
    batches = max(1, len(images) // batch)
    for x, condition in zip(images.tensor_split(batches), c.tensor_split(batches), strict=True):
        x, condition = as_input(x.to(device)), condition.to(device)
        elbo.differentiable_loss(model, guide, x, condition)
        elbos += elbo.terms["elbo"].double().item()
        sampled.append(guide.draw(x, condition).cpu())
        parameters.append(torch.cat(guide.encode(x, condition), dim=-1).cpu())
        mean = guide.mean(x, condition)
        means.append(mean.cpu())
        error = model.decode(mean, condition) - x
        squares += error.double().square().sum().item()
    return Codes(
        *(torch.cat(rows) for rows in (sampled, means, parameters)),
        squares / images.numel(),
        elbos / len(images),
    )


class ICVAEWatch(Watch):
    r"""Evaluates a model and guide by reconstruction, ELBO, and labels predicted from codes.

    Args:
        model: The model.
        guide: Its guide.
        data: Labelled training and held-out images.
        condition: Converts labels to the condition :math:`c`.
        conditional: Whether model and guide depend on :math:`c`.
        invariance: Whether training penalises information about labels in codes.
        seed: Seed of the adversaries.
    """

    PANELS: ClassVar = {
        "nats an image": {"elbo": "ELBO, training", "held_out_elbo": "ELBO, held out"},
        "nats": {"kl_z": "KL from the prior", "invariance": "term for invariance, weighted"},
        "squared error a pixel": {"held_out_mse": "held out"},
    }
    MOST_CLASSES = 12
    """Most classes in the figure ``swaps``."""

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
        self.measured: Codes | None = None

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
        """Measures model and guide on held-out images.

        - ``reconstruction_mse`` and ``elbo`` are those of :class:`Codes`.
        - ``reconstruction_mse_mean_image`` is the error of predicting the mean training image.
        - ``leakage`` is the score of the best adversary that predicts labels from sampled codes:
          see :func:`~train.metrics.probes.leakage`. ``leakage_linear`` is the score of the linear
          adversary, and ``leakage_adversaries`` has the score of each adversary by its name.
        - ``leakage_mean`` and ``leakage_parameters`` are the best scores from the posterior means
          and from the encoder's outputs.
        - ``chance`` is the score without codes.
        """
        measures = Measures()
        held_out, classes = self.held_out, self.condition.classes > 0

        @cache
        def codes() -> Codes:
            self.measured = self.encode(held_out)
            return self.measured

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

        measures.add("reconstruction_mse", lambda: codes().reconstruction_mse)
        measures.add(
            "reconstruction_mse_mean_image",
            lambda: mean_image_mse(self.train.images, held_out.images),
        )
        measures.add("elbo", lambda: codes().elbo)
        measures.add(("leakage", "leakage_linear", "leakage_adversaries"), sampled)
        measures.add("leakage_mean", lambda: adversaries("mean").best)
        measures.add("leakage_parameters", lambda: adversaries("parameters").best)
        measures.add("chance", lambda: majority(held_out.labels.numpy()) if classes else 0.0)
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
        """Returns a row of held-out images and a row of their reconstructions, by label."""
        images = self.first(number)
        x, c = self.inputs(images)
        decoded = self.model.decode(self.guide.mean(x, c)[: len(images)], c[: len(images)])
        return {
            "image": x[: len(images)].cpu().numpy(),
            "decoded": decoded.clamp(0, 1).cpu().numpy(),
        }

    @torch.no_grad()
    def swaps(self, number: int = 8) -> dict[str, np.ndarray]:
        """Decodes the code of a held-out image under each class, in a row for each image.

        Returns:
            By label, the image and its decodings under the first :attr:`MOST_CLASSES` classes.
        """
        images = self.first(number)
        x, c = self.inputs(images)
        z = self.guide.mean(x, c)[: len(images)]
        classes = torch.eye(self.condition.classes, device=z.device)[: self.MOST_CLASSES]
        rows = {}
        for i, label in enumerate(images.values.tolist()):
            decoded = self.model.decode(z[i].expand(len(classes), -1), classes).clamp(0, 1)
            rows[f"a {label}" + " " * i] = torch.cat([x[i : i + 1], decoded]).cpu().numpy()
        return rows

    def codes(self, number: int = 5_000) -> tuple[np.ndarray, np.ndarray]:
        """Returns sampled codes of the first held-out images, and their labels as in the data."""
        codes = self.measured or self.encode(self.held_out)
        return codes.sampled[:number].numpy(), self.held_out.values[:number]

    def first(self, number: int) -> Images:
        """Returns the first held-out images; of classes, the first image of each."""
        labels = self.held_out.labels
        if labels.is_floating_point():
            return self.held_out.select(torch.arange(min(number, len(labels))))
        firsts = [(labels == label).nonzero()[0] for label in labels.unique()[:number]]
        return self.held_out.select(torch.cat(firsts))

    def inputs(self, images: Images) -> tuple[Tensor, Tensor]:
        r"""Returns images and their condition :math:`c` on the device.

        Other held-out images are appended, from which Echo noise is made.
        """
        device = self.model.zero.device
        others = self.held_out.select(torch.arange(min(500, len(self.held_out))))
        pairs = [(rows.images, self.c(rows)) for rows in (images, others)]
        x, c = (torch.cat(tensors).to(device) for tensors in zip(*pairs, strict=True))
        return as_input(x), c


def goals(invariance: bool) -> list[Goal]:
    """Returns the goals of a model and guide.

    Args:
        invariance: Whether training penalises information about labels in codes.
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
        beside="chance",
        advice="a larger --weight, --invariance direct, or a smaller --z-dim",
    )
    return [reconstruction, leakage_goal] if invariance else [reconstruction]
