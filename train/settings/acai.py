"""The settings of ACAI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from train.errors import require
from train.settings.common import Settings
from train.settings.values import Count, NonNegative, Positive, Range


@dataclass(frozen=True)
class ACAISettings(Settings):
    """Train ACAI: an autoencoder, and a critic that predicts how two codes were mixed.

    --data lines is the paper's interpolation benchmark: lines at random angles, new ones at each
    step."""

    FREE: ClassVar[frozenset[str]] = Settings.FREE | {"cluster_starts", "eval_every", "measure_on"}
    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "loss": ("critic", "critic_weight", "critic_blend", "mixing"),
        "evaluation": ("cluster_starts",),
    }
    USED_WITH: ClassVar[dict[str, tuple[str, tuple[str, ...]]]] = {
        **dict.fromkeys(("critic_weight", "critic_blend", "mixing"), ("critic", ())),
        **dict.fromkeys(("hidden", "dropout"), ("network", ("dense",))),
        "depth": ("network", ("conv",)),
    }

    steps: Count = 1_500
    learning_rate: Positive = 5e-4
    decay: Literal["none", "cosine"] = "cosine"
    z_dim: Count = 32
    """Size of the code. With --network conv, a multiple of the number of positions of the last
    feature map (16 for images of 28x28) makes the code that map, as in the paper; of other sizes a
    dense layer makes the code."""
    network: Literal["conv", "dense"] = "conv"
    """Networks. conv: the paper's convolutions. dense: dense layers."""
    depth: Count = 16
    """Channels of the first convolutions, doubled each time height and width are halved."""
    hidden: tuple[Count, ...] = (1000, 1000)
    """Widths of the hidden dense layers of encoder and critic; the decoder has them reversed."""
    dropout: Annotated[float, Range(0, 0.95)] = 0.0
    """Dropout probability of the hidden dense layers."""
    critic: bool = True
    """Train with the critic. --no-critic trains the same autoencoder alone, a baseline."""
    critic_weight: NonNegative = 0.5
    """Weight lambda of the critic's squared output in the autoencoder's loss. The paper's 0.5, for
    grey levels from -1 to 1, is 0.125 here."""
    critic_blend: Annotated[float, Range(0, 1)] = 0.2
    """Share of the real image blended into the reconstruction that the critic must score 0 (the
    paper's gamma)."""
    mixing: Annotated[float, Range(0, 0.5)] = 0.5
    """Upper bound of the mixing coefficient alpha, at most 0.5."""
    cluster_starts: Count = 50
    """Number of random starts of k-means, when clusters of codes are measured."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not self.critic or self.local_batch_size > 1,
            f"--batch-size {self.batch_size}: mixing needs a partner: give 2 or more a process, "
            "or --no-critic",
        )
