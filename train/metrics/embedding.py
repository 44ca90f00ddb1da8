"""Evaluates embeddings: style and set predicted from them, and retrieval by style."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from train.data.batches import codes_of
from train.data.images import luminance
from train.data.labelled import Images
from train.data.stacks import StackPairs
from train.data.streaming.stored import in_memory
from train.errors import require
from train.losses.correspondence import collapse
from train.metrics.goals import Beats, Goal, Stays
from train.metrics.measuring import Measures, Unmeasurable
from train.metrics.reading import add_readings, label_names, readable
from train.metrics.references import majority
from train.metrics.watch import TrainingLog, Watch
from train.objective import CorrespondenceObjective

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from train.metrics.probes import ClassAccuracy


class Retrieval(NamedTuple):
    """Mean style errors of images retrieved from another set, in standard deviations.

    Attributes:
        error: The error of the image whose embedding is nearest.
        random: The expected error of a random image of the set.
        oracle: The error of the image that is nearest in style.
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
    r"""Retrieves the nearest embedding in every other set, and measures the error in style.

    The error of a retrieved image is the mean over the styles :math:`k` of
    :math:`|y_k - y'_k| / \sigma_k`, with the standard deviation :math:`\sigma_k` over all images.

    Args:
        embeddings: Of shape (M, D).
        styles: Of shape (M, K): see :func:`train.metrics.style.morphometrics`.
        sets: The number of each image's set, integers of shape (M,).
        only: Only pairs with at least one of these sets are evaluated; all pairs if empty.
        queries: The number of random images of each set that are queries.
        seed: Seed of the queries.
    """
    random = np.random.default_rng(seed)
    scaled = styles / np.maximum(styles.std(0), 1e-12)
    rows = {int(k): np.flatnonzero(sets == k) for k in np.unique(sets)}
    query_rows = {
        k: random.choice(indices, min(queries, len(indices)), replace=False)
        for k, indices in rows.items()
    }
    errors = []
    for query_set, gallery_set in itertools.permutations(rows, 2):
        if only and query_set not in only and gallery_set not in only:
            continue
        queried, gallery = query_rows[query_set], rows[gallery_set]
        gaps = np.abs(scaled[queried][:, None] - scaled[gallery]).mean(-1)
        squares = ((embeddings[queried][:, None] - embeddings[gallery]) ** 2).sum(-1)
        retrieved = gaps[np.arange(len(gaps)), squares.argmin(1)]
        errors.append((retrieved.mean(), gaps.mean(), gaps.min(1).mean()))
    return Retrieval(*(float(value) for value in np.mean(errors, axis=0)))


class ABCWatch(Watch):
    """Evaluates an embedder by its loss, and by style and set predicted from embeddings.

    Args:
        objective: The embedder and its loss.
        train: Training images.
        held_out: Held-out images.
        sets: The number of each training image's set, and of each held-out image's.
        stacks: Pairs of stacks of held-out images, on which the loss is evaluated.
        withheld: The numbers of the sets that are not trained on.
        names: The names of the sets in figures, by number; the numbers if not given.
        set_column: The name of the column that the sets are, or the number of a column of the
            labels.
        seed: Seed of probes and queries.
    """

    PANELS: ClassVar = {
        # The held-out loss is the cycle's alone, and so is cycle_nats, which is logged with terms.
        "cycle loss, nats": {
            "cycle_loss": "training",
            "cycle_nats": "training",
            "held_out_loss": "held out",
        },
        "cycle accuracy": {"cycle_accuracy": "training", "held_out_cycle_accuracy": "held out"},
        "terms": {
            "unexplained": "components not explained",
            "inhomogeneity": "relative energy distance",
            "separation": "separation",
        },
    }
    STACKS = 16
    """Number of pairs of held-out stacks in an evaluation."""

    def __init__(
        self,
        objective: CorrespondenceObjective,
        train: Images,
        held_out: Images,
        sets: tuple[Tensor, ...],
        stacks: StackPairs,
        *,
        withheld: tuple[int, ...] = (),
        names: Sequence[int | str] | None = None,
        set_column: int | str = 0,
        seed: int = 0,
    ) -> None:
        self.objective = objective
        self.images = (in_memory(train.images), in_memory(held_out.images))
        self.data = (train, held_out)
        self.set_column = set_column
        self.sets = tuple(numbers.numpy() for numbers in sets)
        self.stacks = stacks
        self.withheld = withheld
        self.names = range(max(int(x.max()) for x in sets) + 1) if names is None else names
        self.seed = seed
        self.untrained = self.embed()

    @cached_property
    def embedded(self) -> tuple[np.ndarray, np.ndarray]:
        """The embeddings after training, computed when they are first asked for."""
        return self.embed()

    def embed(self) -> tuple[np.ndarray, np.ndarray]:
        """Embeds the training images and the held-out ones."""
        device = next(self.objective.parameters()).device
        train, held_out = (
            codes_of(self.objective.embedder, images, device) for images in self.images
        )
        return train, held_out

    def evaluate(self, step: int) -> dict[str, float]:
        """Returns loss and cycle accuracy on held-out stacks; warns of collapsed embeddings."""
        objective, found = self.objective, []
        for i in range(self.STACKS):
            stacks = self.stacks(i)
            found.append(objective.cycle(stacks, *objective.embed(stacks, objective.view)))
        loss, accuracy = (float(torch.stack(x).mean()) for x in zip(*found, strict=True))
        collapsed = collapse(*self.stacks.sizes)
        if loss > 0.99 * collapsed:
            tqdm.write(
                f"step {step:,}: the held-out loss is {loss:.3f}; with all embeddings equal it is "
                f"{collapsed:.3f}: they have collapsed, or not spread yet",
                file=sys.stderr,
            )
        return {"held_out_loss": loss, "held_out_cycle_accuracy": accuracy}

    def measure(self) -> Measures:
        """Measures class probes, style regression and retrieval on held-out images.

        - ``class_accuracy`` is :func:`~train.metrics.probes.class_accuracy` of the set, predicted
          from embeddings. Suffixes name references: embeddings before training
          (``_untrained``), as many principal components (``_pca``), the styles alone
          (``_morphometrics``), and the most frequent set (``_majority``).
        - ``style_r2`` is :func:`~train.metrics.style.style_r2`.
        - ``retrieval_error`` is :func:`retrieval`, with references ``_random`` and ``_oracle``.

        - ``read.NAME`` is how well a column of the data is read from embeddings, and
          ``read_chance.NAME`` the score without embeddings: see
          :func:`~train.metrics.reading.add_readings`. The column of the sets, which training keeps
          out of embeddings, is the first of them. There are none if the data say nothing but it.

        If there are withheld sets, measures with the suffix ``_withheld`` are of these sets.
        """
        from train.metrics.style import morphometrics, style_r2

        measures = Measures()
        held_out_sets = self.sets[1]

        @cache
        def styles() -> list[np.ndarray]:
            return [morphometrics(luminance(images).squeeze(1).numpy()) for images in self.images]

        sources: dict[str, Callable[[], tuple[np.ndarray, ...]]] = {
            "": lambda: self.embedded,
            "_untrained": lambda: self.untrained,
            "_pca": self.components,
            "_morphometrics": lambda: tuple(styles()),
        }
        for suffix, codes in sources.items():
            self.add_class_accuracy(measures, suffix, codes)
        measures.add("class_accuracy_majority", lambda: majority(held_out_sets))
        groups = {"": [np.isin(numbers, self.withheld, invert=True) for numbers in self.sets]}
        if self.withheld:
            groups["_withheld"] = [~rows for rows in groups[""]]
        for name, masks in groups.items():
            only = self.withheld if name else ()

            def style(masks: list[np.ndarray] = masks) -> dict[str, float]:
                splits = zip(self.embedded, styles(), self.sets, masks, strict=True)
                return style_r2(*(tuple(x[mask] for x in arrays) for *arrays, mask in splits))

            def retrieve(only: tuple[int, ...] = only, name: str = name) -> dict[str, float]:
                held_out = (self.embedded[1], styles()[1], held_out_sets)
                errors = retrieval(*held_out, only=only, seed=self.seed)
                return dict(zip(retrieval_names(name), errors, strict=True))

            measures.add(f"style_r2{name}", style)
            measures.add(retrieval_names(name), retrieve)
        add_readings(
            measures, lambda: self.embedded, self.data, self.columns_to_read(), seed=self.seed
        )
        return measures

    def columns_to_read(self) -> list[str]:
        """Returns the names of the data's columns, that of the sets first; none if it is alone."""
        names = list(readable(self.data[0]))
        first = self.set_column
        if not isinstance(first, str):
            first = (*label_names(self.data[0]), *names)[first]
        names.sort(key=lambda name: name != first)
        return names if len(names) > 1 else []

    def goals(self) -> list[Goal]:
        return GOALS

    def figures(self, log: TrainingLog) -> dict[str, Callable[[], Figure]]:
        from train import plots

        return {
            "maps": lambda: plots.maps(self.maps()),
            "retrieval": lambda: plots.gallery(self.retrieved()),
            **super().figures(log),
        }

    def add_class_accuracy(
        self, measures: Measures, suffix: str, codes: Callable[[], tuple[np.ndarray, ...]]
    ) -> None:
        """Measures how well probes predict the set from codes.

        Args:
            measures: The measures, to which these are added.
            suffix: The suffix of their names.
            codes: Returns codes of the training images and of the held-out ones.
        """

        @cache
        def accuracy() -> ClassAccuracy:
            from train.metrics.probes import class_accuracy

            train, held_out = zip(codes(), self.sets, strict=True)
            return class_accuracy(train, held_out, self.seed)

        def recall() -> float:
            missing = [number for number in self.withheld if number not in accuracy().recall]
            if missing:
                raise Unmeasurable(f"no image of set {missing[0]} is held out")
            return float(np.mean([accuracy().recall[number] for number in self.withheld]))

        measures.add(f"class_accuracy{suffix}", lambda: accuracy().best)
        if not suffix:
            measures.add("class_probes", lambda: accuracy().scores)
        if self.withheld:
            measures.add(f"class_accuracy{suffix}_withheld", recall)

    def components(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns principal components of the images, as many as embeddings have dimensions."""
        from sklearn.decomposition import PCA

        train, held_out = (images.numpy().reshape(len(images), -1) / 255 for images in self.images)
        size = min(self.embedded[0].shape[1], *train.shape)
        pca = PCA(size, random_state=self.seed).fit(train)
        return pca.transform(train), pca.transform(held_out)

    def maps(self, number: int = 300) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Returns the panels of the figure ``maps``: title, embeddings (n, D), images.

        A withheld set, or else the first, is in panels before and after training. Two other sets
        are in panels after training.
        """
        images, sets = self.images[1].numpy() / 255, self.sets[1]
        first = self.withheld[:1] or (int(sets.min()),)
        others = [int(k) for k in np.unique(sets) if k not in first][:4:3]
        panels = []
        for k, embeddings, when in (
            *((k, self.untrained, "before") for k in first),
            *((k, self.embedded, "after") for k in (*first, *others)),
        ):
            rows = np.flatnonzero(sets == k)[:number]
            kind = "withheld " if k in self.withheld else ""
            title = f"{kind}{self.names[k]}, {when} training"
            panels.append((title, embeddings[1][rows], images[rows]))
        return panels

    def retrieved(self) -> dict[str, np.ndarray]:
        """Retrieves the nearest image in every set for a random held-out image of each set.

        Returns:
            By label, the query and its nearest neighbours, which do not include the query itself.
        """
        random = np.random.default_rng(self.seed)
        images, sets, z = self.images[1].numpy() / 255, self.sets[1], self.embedded[1]
        numbers = np.unique(sets)[:10]
        rows = {}
        for query in (random.choice(np.flatnonzero(sets == k)) for k in numbers):
            squares = ((z - z[query]) ** 2).sum(1)
            squares[query] = np.inf
            members = (np.flatnonzero(sets == k) for k in numbers)
            nearest = [indices[squares[indices].argmin()] for indices in members]
            rows[f"a {self.names[sets[query]]}"] = images[[query, *nearest]]
        return rows


def require_held_out(sets: Tensor, withheld: tuple[int, ...], names: Sequence[Any]) -> None:
    """Checks that held-out images include every withheld set and two or more other sets.

    Args:
        sets: The number of each held-out image's set, of shape (M,).
        withheld: The numbers of the sets that are not trained on.
        names: The names of the sets, by number.

    Raises:
        InputError: If a set is missing.
    """
    numbers = set(sets.unique().tolist())
    absent = sorted(set(withheld) - numbers)
    require(
        not absent,
        f"--withheld {names[absent[0]] if absent else ''}: none of its images is among the "
        f"{len(sets)} held out: add more of them, or withhold another set",
    )
    require(
        len(numbers - set(withheld)) > 1,
        f"--data: the {len(sets)} images held out are of fewer than two sets that training sees: "
        "add more images",
    )


def retrieval_names(group: str) -> list[str]:
    """Returns the names in the results of the fields of a :class:`Retrieval`."""
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
        beside="the accuracy of the most frequent set",
        # Classes differ in style, so embeddings of style alone predict the class above chance.
        most=0.5,
        advice="--views 2, a smaller --embed-dim, or a larger --stack-size",
    ),
]
"""The goals of an embedder: embeddings predict style, and not the set."""
