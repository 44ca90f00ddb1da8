"""Evaluates ICVAE: reconstruction error, ELBO, and conditions predicted from codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import ClassVar, NamedTuple

import numpy as np
import pyro
import torch
from matplotlib.figure import Figure
from torch import Tensor

from guides.icvae import Guide
from pyro_models.icvae import ICVAE
from train import plots
from train.data.batches import as_input
from train.data.conditions import LABELS, AnyCondition, Condition
from train.data.labelled import Images, Split
from train.estimators import MeanFieldELBO
from train.metrics.adversaries import Leakage, leakage
from train.metrics.goals import Beats, Goal, Stays
from train.metrics.guarantees import guarantee
from train.metrics.measuring import Measures, Unmeasurable
from train.metrics.reading import add_readings, label_names, readable
from train.metrics.references import majority, mean_image_mse
from train.metrics.watch import TrainingLog, Watch


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
    r"""Evaluates a model and guide by reconstruction, ELBO, and conditions predicted from codes.

    Args:
        model: The model.
        guide: Its guide.
        data: Labelled training and held-out images.
        condition: Converts labels, or columns, to the condition :math:`c`.
        conditional: Whether model and guide depend on :math:`c`.
        invariance: Whether training penalises information about the condition in codes.
        seed: Seed of the adversaries.
    """

    PANELS: ClassVar = {
        "nats an image": {"elbo": "ELBO, training", "held_out_elbo": "ELBO, held out"},
        "nats": {"kl_z": "KL from the prior", "invariance": "term for invariance, weighted"},
        "squared error a pixel": {"held_out_mse": "held out"},
    }
    MOST_CLASSES = 12
    """Most classes in the figure ``swaps``."""
    QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
    """The quantiles of a quantity in the figure ``swaps`` of several conditions."""

    def __init__(
        self,
        model: ICVAE,
        guide: Guide,
        data: Split,
        condition: AnyCondition,
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
          see :func:`~train.metrics.adversaries.leakage`. ``leakage_linear`` is that of the linear
          one, and ``leakage_adversaries`` has the score of each adversary by its name.
          ``leakage_interval`` is a 95% confidence interval of the best one's score. Of classes,
          ``leakage_balanced`` and ``leakage_auc`` are the highest mean recall, and the highest area
          under the ROC curve.
        - ``leakage_mean`` and ``leakage_parameters`` are the best scores from the posterior means
          and from the encoder's outputs. Where codes are finite, these are the codes, and
          ``leakage_bound`` is the score that nobody exceeds, with a confidence of 95%:
          see :mod:`train.metrics.guarantees`.
        - ``chance`` is the score without codes.
        - ``read.NAME`` is how well a column that is no condition is read from sampled codes, and
          ``read_chance.NAME`` the score without codes: see
          :func:`~train.metrics.reading.add_readings`. The label is the first of them.

        Named conditions have these measures each: ``leakage.NAME``, ``chance.NAME`` and so on.
        """
        measures = Measures()
        held_out = self.held_out

        @cache
        def codes() -> Codes:
            self.measured = self.encode(held_out)
            return self.measured

        @cache
        def train_codes() -> Codes:
            return self.encode(self.train)

        measures.add("reconstruction_mse", lambda: codes().reconstruction_mse)
        measures.add(
            "reconstruction_mse_mean_image",
            lambda: mean_image_mse(self.train.images, held_out.images),
        )
        measures.add("elbo", lambda: codes().elbo)
        for part in self.condition.parts:
            self.add_leakage(measures, part, train_codes, codes)
        add_readings(
            measures,
            lambda: (train_codes().sampled.numpy(), codes().sampled.numpy()),
            (self.train, held_out),
            self.others(),
            seed=self.seed,
        )
        return measures

    def add_leakage(
        self,
        measures: Measures,
        part: Condition,
        train_codes: Callable[[], Codes],
        codes: Callable[[], Codes],
    ) -> None:
        """Measures how well adversaries predict a condition from codes.

        Args:
            measures: The measures, to which these are added.
            part: The condition. The names of its measures end in its name, if it has one.
            train_codes: Returns codes of the training images.
            codes: Returns codes of the held-out images.
        """
        suffix = "" if part.name is None else f".{part.name}"

        is_finite = self.model.levels is not None

        @cache
        def adversaries(kind: str) -> Leakage:
            sets = ((train_codes(), self.train), (codes(), self.held_out))
            pairs = [(getattr(z, kind).numpy(), part.targets(images)) for z, images in sets]
            return leakage(*pairs, seed=self.seed)

        def sampled() -> dict[str, float]:
            scores = adversaries("sampled")
            return {
                f"leakage{suffix}": scores.best,
                f"leakage_linear{suffix}": scores.linear,
                f"leakage_adversaries{suffix}": scores.scores,
                f"leakage_interval{suffix}": list(scores.interval),
            }

        def area() -> float:
            if (found := adversaries("sampled").auc) is None:
                raise Unmeasurable("a class is not among the held-out images")
            return found

        def chance() -> float:
            return majority(part.targets(self.held_out)) if part.classes else 0.0

        names = ("leakage", "leakage_linear", "leakage_adversaries", "leakage_interval")
        measures.add([f"{name}{suffix}" for name in names], sampled)
        if part.classes:
            measures.add(f"leakage_balanced{suffix}", lambda: adversaries("sampled").balanced)
            measures.add(f"leakage_auc{suffix}", area)
        # An encoder of finite codes gives nothing but these.
        mean, parameters = ("sampled",) * 2 if is_finite else ("mean", "parameters")
        measures.add(f"leakage_mean{suffix}", lambda: adversaries(mean).best)
        measures.add(f"leakage_parameters{suffix}", lambda: adversaries(parameters).best)
        measures.add(f"chance{suffix}", chance)
        if is_finite:
            targets = part.targets(self.held_out)
            measures.add(
                f"leakage_bound{suffix}",
                lambda: guarantee(codes().sampled.numpy(), targets).bound,
            )

    def others(self) -> list[str]:
        """Returns the names of the columns that are no condition, the label first."""
        conditions = {part.name or LABELS for part in self.condition.parts}
        if LABELS in conditions:
            conditions |= set(label_names(self.train))
        return list(readable(self.train, conditions))

    def goals(self) -> list[Goal]:
        names = [part.name for part in self.condition.parts]
        return goals(self.invariance, names)

    def figures(self, log: TrainingLog) -> dict[str, Callable[[], Figure]]:
        drawn = {"reconstructions": lambda: plots.gallery(self.reconstructions())}
        # Quantities have no values to list, unless they are a named condition.
        if self.conditional and self.condition.classes:
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
        """Decodes the code of held-out images under each value of a condition.

        Named conditions have a row each for an image: one of them changes, and the others stay.

        Args:
            number: The number of rows, if there are not more conditions.

        Returns:
            By label, the image and its decodings. Of classes these are under the first
            :attr:`MOST_CLASSES`, and of quantities under :attr:`QUANTILES` of the training split.
            Rows with fewer values end in white images.
        """
        parts = self.condition.parts
        images = self.first(max(1, number // len(parts)))
        x, c = self.inputs(images)
        z = self.guide.mean(x, c)[: len(images)]
        changes = [self.values(part).to(z.device) for part in parts]
        longest = max(map(len, changes))
        starts = np.cumsum([0, *(part.size for part in parts)])
        rows = {}
        for i, label in enumerate(images.values.tolist()):
            for part, change, start in zip(parts, changes, starts, strict=False):
                conditions = c[i].repeat(len(change), 1)
                conditions[:, start : start + part.size] = change
                decoded = self.model.decode(z[i].expand(len(change), -1), conditions).clamp(0, 1)
                blank = x.new_ones(longest - len(change), *x.shape[1:])
                title = f"a {label}" if part.name is None else f"a {label}, {part.name}"
                row = torch.cat([x[i : i + 1], decoded, blank])
                rows[title + " " * i] = row.cpu().numpy()
        return rows

    def values(self, part: Condition) -> Tensor:
        r"""Returns the values of a condition in :meth:`swaps`, of shape :math:`(V, C)`."""
        if part.classes:
            return torch.eye(part.classes)[: self.MOST_CLASSES]
        column = np.asarray(part.column(self.train), dtype=np.float64)
        return part(torch.from_numpy(np.quantile(column, self.QUANTILES, axis=0)))

    def codes(self, number: int = 5_000) -> tuple[np.ndarray, np.ndarray]:
        """Returns sampled codes of the first held-out images, and their labels as in the data."""
        codes = self.measured or self.encode(self.held_out)
        return codes.sampled[:number].numpy(), self.held_out.values[:number]

    def first(self, number: int) -> Images:
        """Returns the first held-out images; of classes, the first image of each."""
        labels = self.held_out.labels
        if labels is None or labels.is_floating_point():
            return self.held_out.select(torch.arange(min(number, len(self.held_out))))
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


def goals(invariance: bool, names: Sequence[str | None] = (None,)) -> list[Goal]:
    """Returns the goals of a model and guide.

    Args:
        invariance: Whether training penalises information about the condition in codes.
        names: The names of the conditions; None for the labels where they are the only one.
    """
    reconstruction = Beats(
        measure="reconstruction_mse",
        reference="reconstruction_mse_mean_image",
        beside="the mean training image's",
        advice="a lower --learning-rate, more --steps, a lower --beta or --weight, or a larger "
        "--z-dim",
    )
    suffixes = ["" if name is None else f".{name}" for name in names]
    leakages = [
        Stays(
            measure=f"leakage{suffix}",
            reference=f"chance{suffix}",
            beside="chance",
            advice="a larger --weight, --invariance direct, or a smaller --z-dim",
        )
        for suffix in suffixes
    ]
    return [reconstruction, *leakages] if invariance else [reconstruction]
