"""The settings of ABC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from train.errors import require
from train.settings.common import Settings
from train.settings.values import Count, NonNegative, Positive, Whole


@dataclass(frozen=True)
class ABCSettings(Settings):
    """Train ABC: embeddings of what varies within sets of images, by matching images across
    sets."""

    FREE: ClassVar[frozenset[str]] = Settings.FREE | {"eval_every", "measure_on"}
    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "data": (
            *("stack_size", "other_stack_size", "withheld", "curated", "replacement"),
            "set_column",
        ),
        "loss": (
            *("similarity", "temperature", "views"),
            *("component_weight", "components", "component_steps", "energy_weight"),
            "separation_weight",
        ),
    }
    USED_WITH: ClassVar[dict[str, tuple[str, tuple[()]]]] = {"components": ("component_weight", ())}

    steps: Count = 1_000
    learning_rate: Positive = 1e-3
    decay: Literal["none", "cosine"] = "cosine"
    batch_size: Count = 1
    """Pairs of stacks per step."""
    stack_size: Count = 256
    """Images in the first stack of a pair."""
    other_stack_size: Count | None = None
    """Images in the second stack of a pair; None: as many as in the first."""
    withheld: tuple[str | int, ...] = ("9",)
    """Labels of the sets that are left out of training. --withheld without a value: none."""
    curated: Literal["both", "one"] = "both"
    """both: each stack is drawn from a single set. one: only the first stack is; the second is
    drawn from the images of all sets (ABC-X)."""
    replacement: bool = False
    """Draw a stack with replacement. Sets may then be smaller than a stack."""
    set_column: Whole | str = 0
    """Column that holds an image's set: the name of a column of the data, or the number of a column
    of the labels, counted from 0."""
    similarity: Literal["l2sq", "l2", "l1", "linf", "cosine"] = "l2sq"
    """Similarity of two embeddings. l2sq: minus the squared Euclidean distance. l2, l1, linf: minus
    the Euclidean, Manhattan or maximum distance. cosine: the cosine."""
    temperature: Positive = 1.0
    """Temperature tau of the softmax over similarities."""
    views: Literal[1, 2] = 2
    """2: augment each image twice (shift, brightness); one view queries, the other is the target.
    1: no augmentation."""
    component_weight: NonNegative = 0.0
    """Weight of the principal components of images, in nats: the share of their variance inside a
    stack that no linear function of embeddings explains. With it, embeddings keep more of what
    varies inside sets; without it what tells images apart most easily, and little else."""
    components: Count = 128
    """Number of principal components, with --component-weight."""
    component_steps: Whole = 0
    """Steps at first in which embeddings learn the components alone, with --component-weight."""
    energy_weight: NonNegative = 0.0
    """Weight of the energy distance of the embeddings of two stacks, relative to its largest value.
    With it, embeddings keep less of what is constant in sets. What varies must be distributed alike
    in all sets."""
    separation_weight: NonNegative = 0.0
    """Weight of how many soft neighbours of an embedding, among both stacks, are of its own stack,
    beyond chance. With it, nearest neighbours read less of what is constant in sets. What varies
    must be distributed alike in all sets."""
    embed_dim: Count = 4
    """Size of an embedding."""
    network: Literal["strided", "deep"] = "strided"
    """Embedder. strided: three strided convolutions. deep: five convolutions, at eight times the
    cost."""
    normalise: bool = False
    """Normalise embeddings to unit length."""
    standardise: bool = False
    """Shift and scale pixels from [0, 1] to [-2, 2] before the first layer. Embeddings of images
    that are bright all over, such as photographs, are learnt in fewer steps."""
    channels: Count = 32
    """Channels of the convolutions."""
    hidden: Count = 128
    """Width of the hidden dense layer."""

    def __post_init__(self) -> None:
        # A label is compared as it is written, so that 007 is not 7.
        if isinstance(self.withheld, tuple):
            object.__setattr__(self, "withheld", tuple(map(str, self.withheld)))
        if isinstance(self.set_column, str) and self.set_column.isdecimal():
            object.__setattr__(self, "set_column", int(self.set_column))
        super().__post_init__()
        require(self.set_column != "", "--set-column is empty: give the name of a column")
        require(
            min(self.sizes) > 1,
            f"--stack-size {min(self.sizes)}: a stack of 1 leaves no choice: give 2 or more",
        )
        require(
            not self.normalise or self.embed_dim > 1,
            "--normalise leaves --embed-dim 1 nothing but a sign: give 2 or more, or leave it out",
        )
        least = 2 * self.embed_dim
        require(
            not self.component_weight or min(self.sizes) >= least,
            f"--component-weight {self.component_weight:g}: {self.embed_dim} dimensions explain "
            f"anything in a stack of {min(self.sizes)}: give stacks of {least} or more",
        )
        require(
            bool(self.component_weight) or not self.component_steps,
            f"--component-steps {self.component_steps} is used with --component-weight alone: "
            "give that too",
        )

    @property
    def sizes(self) -> tuple[int, int]:
        """The sizes of the two stacks of a pair."""
        return self.stack_size, self.other_stack_size or self.stack_size

    @property
    def used_components(self) -> int:
        """The number of principal components: 0 without ``--component-weight``."""
        return self.components if self.component_weight else 0
