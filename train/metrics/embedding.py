"""What embeddings keep of style, and what they give away of the set."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor
from tqdm import tqdm

from train.data.batches import codes_of
from train.data.labelled import Images
from train.data.stacks import StackPairs
from train.losses import collapse
from train.metrics.goals import Beats, Stays
from train.metrics.measuring import Measures, Unmeasurable
from train.metrics.probes import ClassAccuracy, class_accuracy
from train.metrics.references import majority
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
        "cycle accuracy": {"cycle_accuracy": "training", "held_out_cycle_accuracy": "held out"},
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
        stacks: StackPairs,
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
            found.append(metrics["cycle_accuracy"])
        loss, share = (float(torch.stack(each).mean()) for each in (losses, found))
        lost = collapse(*self.stacks.sizes)
        if loss > 0.99 * lost:
            tqdm.write(
                f"step {step:,}: the held-out loss is {loss:.3f}, that of embeddings that are all "
                f"one is {lost:.3f}: they have collapsed, or not spread yet",
                file=sys.stderr,
            )
        return {"held_out_loss": loss, "held_out_cycle_accuracy": share}

    def measure(self, measures: Measures) -> None:
        """Takes the measures: class probes, styles and retrieval, of all sets and of withheld ones.

        ``class_accuracy`` is :func:`~train.metrics.probes.class_accuracy`, of embeddings, of those
        before training (``_untrained``), of as many principal components (``_pca``), of the styles
        alone (``_morphometrics``), and of the most frequent set (``_majority``). ``style_r2`` is
        :func:`~train.metrics.style.style_r2`, and ``retrieval_error`` is :func:`retrieval`. Each is
        also taken of the withheld sets (``_withheld``) if there are any.
        """
        self.embedded = self.embed()
        others = self.sets[1]

        @cache
        def styles() -> list[np.ndarray]:
            return [morphometrics(images.numpy()) for images in self.images]

        compared: dict[str, Callable[[], tuple[np.ndarray, ...]]] = {
            "": lambda: self.embedded,
            "_untrained": lambda: self.untrained,
            "_pca": self.components,
            "_morphometrics": lambda: tuple(styles()),
        }
        for name, codes in compared.items():
            self.take_class(measures, name, codes)
        measures.take("class_accuracy_majority", lambda: majority(others))
        groups = {"": [np.isin(each, self.withheld, invert=True) for each in self.sets]}
        if self.withheld:
            groups["_withheld"] = [~seen for seen in groups[""]]
        for name, chosen in groups.items():
            only = self.withheld if name else ()

            def style(chosen: list[np.ndarray] = chosen) -> dict[str, float]:
                known = zip(self.embedded, styles(), self.sets, chosen, strict=True)
                return style_r2(*(tuple(each[rows] for each in values) for *values, rows in known))

            def looked_up(only: tuple[int, ...] = only, name: str = name) -> dict[str, float]:
                known = (self.embedded[1], styles()[1], others)
                found = retrieval(*known, only=only, seed=self.seed)
                return dict(zip(retrieval_names(name), found, strict=True))

            measures.take(f"style_r2{name}", style)
            measures.take(retrieval_names(name), looked_up)

    def take_class(
        self, measures: Measures, name: str, codes: Callable[[], tuple[np.ndarray, ...]]
    ) -> None:
        """Takes what probes read of the set in some codes.

        Args:
            measures: Where measures go.
            name: What is added to their names.
            codes: Gives codes of the training images and of the held-out ones.
        """

        @cache
        def found() -> ClassAccuracy:
            pairs = zip(codes(), self.sets, strict=True)
            return class_accuracy(*pairs, self.seed)

        def recall() -> float:
            missing = [each for each in self.withheld if each not in found().recall]
            if missing:
                raise Unmeasurable(f"no image of set {missing[0]} is held out")
            return float(np.mean([found().recall[each] for each in self.withheld]))

        measures.take(f"class_accuracy{name}", lambda: found().best)
        if not name:
            measures.take("class_probes", lambda: found().scores)
        if self.withheld:
            measures.take(f"class_accuracy{name}_withheld", recall)

    def components(self) -> tuple[np.ndarray, np.ndarray]:
        """As many principal components of the images as embeddings have numbers."""
        train, held_out = (images.numpy().reshape(len(images), -1) / 255 for images in self.images)
        size = min(self.embedded[0].shape[1], *train.shape)
        pca = PCA(size, random_state=self.seed).fit(train)
        return pca.transform(train), pca.transform(held_out)

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


def retrieval_names(group: str) -> list[str]:
    """What results call the fields of a :class:`Retrieval`."""
    return [f"retrieval_error{kind}{group}" for kind in ("", "_random", "_oracle")]


GOALS = [
    Beats(
        measure="retrieval_error",
        reference="retrieval_error_random",
        beside="a random image's",
        best="retrieval_error_oracle",
        advice="more --steps, a larger --stack-size, or --views 1",
    ),
    Stays(
        measure="class_accuracy",
        reference="class_accuracy_majority",
        beside="that of the most frequent set",
        # Style itself tells something of the class.
        most=0.5,
        advice="--views 2, a smaller --embed-dim, or a larger --stack-size",
    ),
]
"""What an embedder is to reach: it tells style, and not the set."""
