"""What embeddings keep of style, and what they give away of the set."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor
from tqdm import tqdm

from train.data.batches import codes_of
from train.data.digits import Images
from train.data.stacks import Stacks
from train.losses import collapse
from train.metrics.probes import class_accuracy
from train.metrics.style import morphometrics, style_r2
from train.objective import CorrespondenceObjective


class Retrieval(NamedTuple):
    """How far in style the nearest image of another set is, in standard deviations.

    Attributes:
        error: Nearest as embeddings have it.
        random: Of any image of that set, in the mean.
        oracle: Of the image nearest in style.
    """

    error: float
    random: float
    oracle: float


def retrieval(
    embeddings: np.ndarray,
    styles: np.ndarray,
    sets: np.ndarray,
    *,
    only: Sequence[int] = (),
    queries: int = 100,
    seed: int = 0,
) -> Retrieval:
    r"""Looks up images of each set in each other one.

    The error of a pick is the mean over the styles of :math:`|y_k - y'_k| / \sigma_k`, with
    :math:`\sigma_k` the standard deviation over all images.

    Args:
        embeddings: Of shape (M, D).
        styles: See :func:`train.metrics.style.morphometrics`; of shape (M, K).
        sets: Integers, of shape (M,).
        only: Take pairs of sets with one of these in it; all pairs if empty.
        queries: Random images of each set, looked up in every other set.
        seed: Seed of the queries.
    """
    random = np.random.default_rng(seed)
    scaled = styles / np.maximum(styles.std(0), 1e-12)
    rows = {int(each): np.flatnonzero(sets == each) for each in np.unique(sets)}
    asked = {
        each: random.choice(own, min(queries, len(own)), replace=False)
        for each, own in rows.items()
    }
    errors = []
    for one, other in itertools.permutations(rows, 2):
        if only and one not in only and other not in only:
            continue
        gaps = np.abs(scaled[asked[one]][:, None] - scaled[rows[other]]).mean(-1)
        squares = ((embeddings[asked[one]][:, None] - embeddings[rows[other]]) ** 2).sum(-1)
        picks = gaps[np.arange(len(gaps)), squares.argmin(1)]
        errors.append((picks.mean(), gaps.mean(), gaps.min(1).mean()))
    return Retrieval(*(float(value) for value in np.mean(errors, axis=0)))


class Watch:
    """Looks at an embedder while it is trained.

    Args:
        objective: The embedder and its loss.
        train: Training images.
        held_out: Held-out images.
        sets: The sets of both.
        stacks: Pairs of stacks of held-out images, to measure the loss on.
        withheld: The numbers of sets that training does not see.
        names: What figures call the sets, by their numbers; the numbers if not given.
        seed: Seed of probes and queries.
    """

    PANELS: ClassVar = {
        "loss, nats": {"cycle_loss": "training", "held_out_loss": "held out"},
        "found again": {"found": "training", "held_out_found": "held out"},
    }
    """What to plot of the run's metrics."""
    STACKS = 16
    """Pairs of held-out stacks that an evaluation looks at."""

    def __init__(
        self,
        objective: CorrespondenceObjective,
        train: Images,
        held_out: Images,
        sets: tuple[Tensor, Tensor],
        stacks: Stacks,
        *,
        withheld: tuple[int, ...] = (),
        names: Sequence[int | str] | None = None,
        seed: int = 0,
    ) -> None:
        self.objective = objective
        self.images = (train.images, held_out.images)
        self.sets = tuple(each.numpy() for each in sets)
        self.stacks = stacks
        self.withheld = withheld
        self.names = range(max(int(each.max()) for each in sets) + 1) if names is None else names
        self.seed = seed
        self.untrained = self.embed()
        self.embedded = self.untrained

    def embed(self) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings of the training images and of the held-out ones."""
        device = next(self.objective.parameters()).device
        train, held_out = (
            codes_of(self.objective.embedder, images, device) for images in self.images
        )
        return train, held_out

    def evaluate(self, step: int) -> dict[str, float]:
        """The loss on held-out stacks; says so if the embeddings have collapsed."""
        device = next(self.objective.parameters()).device
        losses, found = [], []
        for i in range(self.STACKS):
            loss, metrics = self.objective(self.stacks(i), torch.zeros((), device=device))
            losses.append(loss["cycle"])
            found.append(metrics["found"])
        loss, share = (float(torch.stack(each).mean()) for each in (losses, found))
        lost = collapse(*self.stacks.sizes)
        if loss > 0.99 * lost:
            tqdm.write(
                f"step {step:,}: the held-out loss is {loss:.3f}, that of embeddings that are all "
                f"one is {lost:.3f}: they have collapsed, or not spread yet"
            )
        return {"held_out_loss": loss, "held_out_found": share}

    def measure(self) -> dict[str, Any]:
        """Class probes, styles and retrieval, of all sets and of the withheld ones."""
        self.embedded = self.embed()
        sets, seed = self.sets, self.seed
        styles = [morphometrics(images.numpy()) for images in self.images]
        pca = PCA(min(self.embedded[0].shape[1], len(self.images[0])), random_state=seed)
        flat = [images.numpy().reshape(len(images), -1) / 255 for images in self.images]
        compared = {
            "": self.embedded,
            "_untrained": self.untrained,
            "_pca": (pca.fit_transform(flat[0]), pca.transform(flat[1])),
            "_morphometrics": tuple(styles),
        }
        results: dict[str, Any] = {}
        for name, (train, held_out) in compared.items():
            found = class_accuracy((train, sets[0]), (held_out, sets[1]), seed)
            results[f"class_accuracy{name}"] = found.best
            if not name:
                results["class_probes"] = found.scores
            if self.withheld:
                recall = [found.recall[each] for each in self.withheld]
                results[f"class_accuracy{name}_withheld"] = float(np.mean(recall))
        groups = {"": [np.isin(each, self.withheld, invert=True) for each in sets]}
        if self.withheld:
            groups["_withheld"] = [~seen for seen in groups[""]]
        for name, chosen in groups.items():
            parts = [
                tuple(value[rows] for value in (embedded, style, own))
                for embedded, style, own, rows in zip(
                    self.embedded, styles, sets, chosen, strict=True
                )
            ]
            results[f"style_r2{name}"] = style_r2(*parts)
            only = self.withheld if name else ()
            looked_up = retrieval(self.embedded[1], styles[1], sets[1], only=only, seed=seed)
            for key, value in looked_up._asdict().items():
                suffix = "" if key == "error" else f"_{key}"
                results[f"retrieval_error{suffix}{name}"] = value
        return results

    def maps(self, number: int = 300) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Titles, embeddings (n, D) and images, of withheld and other sets, before training and
        after."""
        images, sets = self.images[1].numpy() / 255, self.sets[1]
        shown = self.withheld[:1] or (int(sets.min()),)
        others = [int(each) for each in np.unique(sets) if each not in shown][:4:3]
        panels = []
        for each, embedded, when in (
            *((each, self.untrained, "before") for each in shown),
            *((each, self.embedded, "after") for each in (*shown, *others)),
        ):
            rows = np.flatnonzero(sets == each)[:number]
            kind = "withheld " if each in self.withheld else ""
            panels.append(
                (f"{kind}{self.names[each]}, {when} training", embedded[1][rows], images[rows])
            )
        return panels

    def retrieved(self) -> dict[str, np.ndarray]:
        """Rows of a random held-out image of each set, and the nearest to it in every set.

        An image is never its own answer.
        """
        random = np.random.default_rng(self.seed)
        images, sets, z = self.images[1].numpy() / 255, self.sets[1], self.embedded[1]
        kinds = np.unique(sets)[:10]
        rows = {}
        for query in (random.choice(np.flatnonzero(sets == kind)) for kind in kinds):
            squares = ((z - z[query]) ** 2).sum(1)
            squares[query] = np.inf
            answers = [
                own[squares[own].argmin()] for own in (np.flatnonzero(sets == k) for k in kinds)
            ]
            rows[f"a {self.names[sets[query]]}"] = images[[query, *answers]]
        return rows
