"""The settings of ICVAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from train.errors import require
from train.settings.tabular import TabularSettings
from train.settings.values import Count, NonNegative, Positive, Range, Whole


@dataclass(frozen=True)
class ICVAESettings(TabularSettings):
    """Train ICVAE: a conditional VAE whose codes z are independent of the condition c."""

    FREE: ClassVar[frozenset[str]] = TabularSettings.FREE | {"eval_every", "measure_on"}
    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "loss": (
            *("estimator", "invariance", "weight", "weight_start", "predictor_learning_rate"),
            *("memory", "echo_terms"),
        ),
        "training": ("sweep",),
    }
    USED_WITH: ClassVar[dict[str, tuple[str, tuple[str, ...]]]] = {
        "predictor_learning_rate": ("invariance", ("club", "adversarial")),
        "memory": ("invariance", ("direct",)),
        "echo_terms": ("invariance", ("echo",)),
        "likelihood_scale": ("likelihood", ("normal",)),
    }

    steps: Count = 2_500
    batch_size: Count = 256
    learning_rate: Positive = 1e-3
    decay: Literal["none", "cosine"] = "cosine"
    beta: Positive = 0.1
    estimator: str = "meanfield"
    """Estimator of the ELBO. meanfield: exact KL divergences. tracegraph: KL divergences at the
    draw, as Pyro's TraceGraph_ELBO. Or your own, as module:Class."""
    z_dim: Count = 2
    """Size of the code z."""
    condition: str | tuple[str, ...] = "labels"
    """Condition c of the decoder. labels: the labels of the data. none: no condition, which makes
    the model a VAE. Or names of columns of the data, of classes or quantities: --condition ink
    paper."""
    invariance: Literal[
        "none", "pairwise", "kt", "direct", "mmd", "club", "adversarial", "echo"
    ] = "direct"
    """Penalty on the information I(z; c) between code and condition; of several conditions the sum.
    none: no penalty (a CVAE). direct: an estimate of I(z; c), of classes. mmd: the maximum mean
    discrepancy between codes of each class and the others. club: a contrastive upper bound, from a
    network that predicts c from z. adversarial: the encoder is trained against that network. The
    others penalise I(z; x). pairwise: the mean pairwise KL divergence, the paper's bound. kt:
    Kolchinsky and Tracey's bound. echo: Echo noise, whose information is exact."""
    weight: NonNegative | None = None
    """Weight lambda of that penalty; None: 10, and 1000 for mmd. With pairwise, kt and echo the
    reconstruction has the weight 1 + lambda."""
    weight_start: NonNegative | None = None
    """Value of --weight at step 0, annealed over --anneal-steps; None: constant."""
    levels: Annotated[int, Range(2, 1_000)] | None = None
    """Number of values of each number of a code. Codes are then the cells of a grid, of which there
    are levels to the power of --z-dim, and leakage_bound says what anybody can read in them at
    most. None: codes with noise. Not for --invariance echo."""
    predictor_learning_rate: Positive = 1e-2
    """Learning rate of the network that predicts c from codes, with --invariance club and
    adversarial. It has to keep up with the encoder; --decay applies to it too."""
    memory: Whole = 2048
    """Number of codes of earlier batches with which --invariance direct compares a batch."""
    network: Literal["auto", "dense", "conv"] = "auto"
    """Networks. dense: dense layers. conv: convolutions before them, and after them in the
    decoder. auto: dense for images of at most 12288 values, such as 28x28 or 3x64x64, conv for
    larger ones."""
    hidden: tuple[Count, ...] = (512, 512)
    """Widths of the hidden dense layers."""
    encoder_sees_labels: bool = False
    """Give the encoder the labels too: q(z | x, c) in place of q(z | x)."""
    likelihood: Literal["normal", "bernoulli"] = "normal"
    """Distribution of a pixel given the code."""
    likelihood_scale: Positive = 0.5**0.5
    """Standard deviation of a Normal pixel. With the default, the negative log-likelihood is the
    squared error plus a constant."""
    echo_terms: Count = 100
    """Number of other images of the batch that make an image's Echo noise; less than the batch
    size."""
    sweep: tuple[NonNegative, ...] = ()
    """Train one run for each of these values of --weight, and a VAE and a CVAE; compare them in a
    table and a figure. Without values: a single run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_condition()
        if self.weight is None:
            # The dataclass is frozen, and this is its constructor.
            object.__setattr__(self, "weight", 1_000.0 if self.invariance == "mmd" else 10.0)
        compares = self.invariance not in ("none", "adversarial", "echo")
        require(
            not compares or self.local_batch_size > 1,
            f"--batch-size {self.batch_size}: --invariance {self.invariance} compares images of a "
            "process' batch: give more",
        )
        require(
            self.invariance != "echo" or self.local_batch_size > self.echo_terms,
            f"--batch-size {self.batch_size} is too small for --echo-terms {self.echo_terms}: "
            "Echo's noise is made of that many others",
        )
        require(
            self.conditional or self.invariance == "none",
            f"--condition none: there is nothing for --invariance {self.invariance} to keep out",
        )
        require(
            self.levels is None or self.invariance != "echo",
            "--levels: codes with Echo noise are not finite: give another --invariance",
        )
        require(bool(self.hidden), "--hidden is empty: give at least one width")

    @property
    def conditional(self) -> bool:
        """Whether there is a condition."""
        return self.condition != "none"

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of the conditions; ``labels`` for the labels, and none without a condition."""
        names = (self.condition,) if isinstance(self.condition, str) else self.condition
        return names if self.conditional else ()

    @property
    def penalised(self) -> bool:
        """Whether there is a penalty on the information between code and condition."""
        return self.invariance != "none"

    def _check_condition(self) -> None:
        """Checks the names of conditions; a tuple of one name becomes the name."""
        names = (self.condition,) if isinstance(self.condition, str) else self.condition
        require(
            bool(names) and all(names),
            "--condition is empty: give labels, none, or names of columns",
        )
        require(
            "none" not in names or len(names) == 1,
            "--condition none is no condition, so nothing can be beside it: leave none out",
        )
        repeated = [name for name in names if names.count(name) > 1]
        require(not repeated, f"--condition {' '.join(names)}: {' '.join(repeated[:1])} is twice")
        require(
            not self.sweep or self.condition == "labels",
            "--sweep compares what codes reveal of the labels of images: leave --condition out, or "
            "train a run for each --weight",
        )
        if len(names) == 1:
            object.__setattr__(self, "condition", names[0])
