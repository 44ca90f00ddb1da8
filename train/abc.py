"""Trains ABC, embeddings of style without class: ``python -m train.abc``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from train.cli import command
from train.errors import require
from train.method import Method
from train.settings import Count, Positive, Settings, Whole

if TYPE_CHECKING:
    import torch

    from train.data.labelled import Split
    from train.data.stacks import Sets, StackPairs
    from train.fitting import Misfit
    from train.metrics.embedding import ABCWatch
    from train.objective import CorrespondenceObjective
    from train.verbs.embedder import TrainedABC


@dataclass(frozen=True)
class ABCSettings(Settings):
    """Train ABC: embeddings of what varies inside sets, by correspondence between them."""

    FREE: ClassVar = Settings.FREE | {"eval_every"}

    steps: Count = 1_000
    learning_rate: Positive = 1e-3
    decay: Literal["none", "cosine"] = "cosine"
    batch_size: Count = 1
    """Pairs of stacks a step."""
    stack_size: Count = 256
    """Images in a stack."""
    other_stack_size: Count | None = None
    """Images in the other stack of a pair; as many if not given."""
    withheld: tuple[str | int, ...] = ("9",)
    """Sets of which training sees nothing, by their labels in the data."""
    curated: Literal["both", "one"] = "both"
    """Whether both stacks are of one set each, or the other one is of anything (ABC-X)."""
    replacement: bool = False
    """Let an image be in a stack more than once, where a set is smaller than a stack."""
    set_column: Whole = 0
    """Column of the labels that says which set an image is in."""
    similarity: Literal["l2sq", "l2", "l1", "linf", "cosine"] = "l2sq"
    """How embeddings are compared: squared distance, distances, or the cosine."""
    temperature: Positive = 1.0
    """What similarities are divided by."""
    views: Literal[1, 2] = 2
    """Two: an image is seen shifted and more or less bright, once to find and once to be found."""
    embed_dim: Count = 4
    """Size of an embedding."""
    network: Literal["strided", "deep"] = "strided"
    """Three convolutions, or five that cost eight times as much."""
    normalise: bool = False
    """Put embeddings on the unit sphere."""
    channels: Count = 32
    """Channels of the convolutions."""
    hidden: Count = 128
    """Width of the dense layer."""

    def __post_init__(self) -> None:
        # A label is what is written, so that 007 stays what it is.
        if isinstance(self.withheld, tuple):
            object.__setattr__(self, "withheld", tuple(map(str, self.withheld)))
        super().__post_init__()
        require(
            min(self.sizes) > 1,
            f"--stack-size {min(self.sizes)}: a stack of one has nothing to be told from: give 2",
        )
        require(
            not self.normalise or self.embed_dim > 1,
            "--normalise leaves --embed-dim 1 nothing but a sign: give 2 or more, or leave it out",
        )

    @property
    def sizes(self) -> tuple[int, int]:
        """The sizes of the two stacks."""
        return self.stack_size, self.other_stack_size or self.stack_size


class ABC(Method):
    """Embeddings of style without class."""

    name = "abc"
    settings = ABCSettings

    def misfits(self, settings: ABCSettings, data: Split) -> list[Misfit | None]:
        from train import fitting

        sets = self.sets(settings, data)
        least = 2 if settings.curated == "both" else 1
        withheld = fitting.withheld(settings.withheld, sets, least=least)
        counts = sets.counts(() if withheld else settings.withheld)
        if settings.replacement or len(counts) < least:
            return [withheld]
        sizes = {name: getattr(settings, name) for name in ("stack_size", "other_stack_size")}
        return [withheld, *fitting.stacks(sizes, counts)]

    def inputs(self, settings: ABCSettings, data: Split) -> dict[str, Any]:
        return super().inputs(settings, data) | {"sets": self.sets(settings, data).classes.values}

    def sets(self, settings: ABCSettings, data: Split) -> Sets:
        """Returns the sets of training and held-out images."""
        from train.data.stacks import Sets

        return Sets.of(data.train, data.held_out, column=settings.set_column)

    def batches(self, settings: ABCSettings, data: Split, device: torch.device) -> StackPairs:
        from train.data.stacks import StackPairs

        sets = self.sets(settings, data)
        return StackPairs(
            data.train.images,
            sets.indices[0],
            settings.sizes,
            pairs=settings.batch_size,
            withheld=sets.find(settings.withheld),
            names=sets.classes.values,
            curated=settings.curated,
            replacement=settings.replacement,
            seed=settings.seed,
            device=device,
        )

    def build(self, settings: ABCSettings, inputs: Mapping[str, Any]) -> CorrespondenceObjective:
        from pyro_models.abc import Embedder, shifted
        from train.objective import CorrespondenceObjective

        shape = self.shape(inputs)
        require(min(shape) >= 15, f"--data: images are {shape}: give 15x15 or more")
        embedder = Embedder(
            shape,
            settings.embed_dim,
            network=settings.network,
            channels=settings.channels,
            hidden=settings.hidden,
            normalise=settings.normalise,
        )
        return CorrespondenceObjective(
            embedder,
            similarity=settings.similarity,
            temperature=settings.temperature,
            view=shifted if settings.views == 2 else None,
        )

    def watch(
        self, settings: ABCSettings, data: Split, objective: CorrespondenceObjective
    ) -> ABCWatch:
        from train.data.stacks import StackPairs
        from train.metrics.embedding import ABCWatch, require_held_out

        sets = self.sets(settings, data)
        names = {"withheld": sets.find(settings.withheld), "names": sets.classes.values}
        require_held_out(sets.indices[1], **names)
        options = {"curated": settings.curated, "replacement": True}
        options["device"] = next(objective.parameters()).device
        held_out = (data.held_out.images, sets.indices[1], settings.sizes)
        stacks = StackPairs(*held_out, **names, **options)
        return ABCWatch(objective, *data, sets.indices, stacks, **names, seed=settings.seed)

    @property
    def trained(self) -> type[TrainedABC]:
        from train.verbs.embedder import TrainedABC

        return TrainedABC


METHOD = ABC()
main = METHOD.main

if __name__ == "__main__":
    command(ABCSettings, main)
