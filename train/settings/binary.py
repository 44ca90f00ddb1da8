"""The settings of the VAE with binary latents, and of the comparison of its estimators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from train.errors import require
from train.settings.common import Settings
from train.settings.values import Count


@dataclass(frozen=True)
class BinaryVAESettings(Settings):
    """Train a VAE with binary latents."""

    FREE: ClassVar[frozenset[str]] = Settings.FREE | {
        "eval_every",
        "bound_samples",
        "variance_draws",
    }
    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "model": ("latents", "network"),
        "loss": ("estimator", "particles"),
        "evaluation": ("bound_samples", "variance_draws"),
    }

    steps: Count = 10_000
    batch_size: Count = 100
    learning_rate: float = 1e-3
    eval_every: Count = 1_000
    measure_on: tuple[Count, Count] = (10_000, 10_000)
    latents: Count = 200
    """Number of Bernoulli latents."""
    network: Literal["linear", "nonlinear"] = "nonlinear"
    """Encoder and decoder. linear: one layer. nonlinear: two hidden layers of 200 units."""
    estimator: str = "rloo"
    """Estimator of the gradient: a name of DiscreteELBO, relax, or vimco, disarm-bound and
    reinforce-bound, which maximise the importance-weighted bound."""
    particles: Count | None = None
    """Evaluations of the model for each image; None: what the estimator needs."""
    bound_samples: Count = 100
    """Number of samples of the importance-weighted bound of held-out images."""
    variance_draws: Count = 100
    """Number of gradients whose variance is measured at each evaluation."""

    @property
    def hidden(self) -> tuple[int, ...]:
        """The widths of hidden layers."""
        return (200, 200) if self.network == "nonlinear" else ()


@dataclass(frozen=True)
class BinaryBenchSettings(BinaryVAESettings):
    """Compare gradient estimators on a VAE with binary latents."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"evaluation": ("estimators", "training_seeds")}

    task: Literal["bvae"] = "bvae"
    """What estimators are compared on. air: AIR. bvae: a VAE with binary latents."""
    estimators: tuple[str, ...] = (
        *("rloo", "arm", "disarm", "double-cv", "rodeo", "muprop", "rebar@1", "relax@1"),
        *("rloo@3", "arms@3", "double-cv@3", "rodeo@3"),
        *("gumbel", "straight-through", "vimco@2", "disarm-bound@4"),
    )
    """Estimators to compare. NAME@K has K particles."""
    training_seeds: Count = 3
    """Number of seeds with which each estimator is trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.estimators), "--estimators is empty: name at least one")
        for name in self.estimators:
            _, at, number = name.partition("@")
            require(
                not at or (number.isdecimal() and int(number) > 0),
                f"--estimators {name}: after @ comes the number of particles, as in rloo@4",
            )
