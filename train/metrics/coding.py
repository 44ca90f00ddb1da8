"""Evaluates ICVAE on images: reconstructions, images under other conditions, what codes tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from train.data.batches import as_input
from train.data.conditions import LABELS, Condition
from train.data.labelled import Images
from train.metrics.invariance import Codes, InvarianceWatch
from train.metrics.measuring import Measures
from train.metrics.reading import add_readings, label_names, readable
from train.metrics.references import mean_image_mse
from train.metrics.watch import TrainingLog

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ICVAEWatch(InvarianceWatch):
    r"""Evaluates a model and guide of images.

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
    ERROR = "reconstruction_mse"
    HELD_OUT_ERROR = "held_out_mse"
    MOST_CLASSES = 12
    """Most classes in the figure ``swaps``."""
    QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
    """The quantiles of a quantity in the figure ``swaps`` of several conditions."""

    def error(self, decoded: Tensor, data: Tensor) -> Tensor:
        r"""Returns the mean squared error of the pixels of each image, of shape :math:`(B)`."""
        return (decoded - data).double().square().flatten(1).mean(1)

    def add_references(self, measures: Measures) -> None:
        measures.add(
            "reconstruction_mse_mean_image",
            lambda: mean_image_mse(self.train.images, self.held_out.images),
        )

    def add_readings(
        self, measures: Measures, train_codes: Callable[[], Codes], codes: Callable[[], Codes]
    ) -> None:
        """Adds ``read.NAME`` and ``read_chance.NAME`` of columns that are no condition.

        They are how well a column is read from sampled codes, and the score without codes: see
        :func:`~train.metrics.reading.add_readings`. The label is the first of them.
        """
        add_readings(
            measures,
            lambda: (train_codes().sampled.numpy(), codes().sampled.numpy()),
            (self.train, self.held_out),
            self.others(),
            seed=self.seed,
        )

    def others(self) -> list[str]:
        """Returns the names of the columns that are no condition, the label first."""
        conditions = {part.name or LABELS for part in self.condition.parts}
        if LABELS in conditions:
            conditions |= set(label_names(self.train))
        return list(readable(self.train, conditions))

    def figures(self, log: TrainingLog) -> dict[str, Callable[[], Figure]]:
        from train import plots

        drawn = {"reconstructions": lambda: plots.gallery(self.reconstructions())}
        # Quantities have no values to list, unless they are a named condition.
        if self.conditional and self.condition.classes:
            drawn["swaps"] = lambda: plots.gallery(self.swaps())
        drawn["codes"] = lambda: plots.codes(*self.codes())
        return {**drawn, **super().figures(log)}

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
        for i, label in enumerate(images.require_labels().tolist()):
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
