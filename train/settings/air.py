"""The settings of AIR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from train.settings.common import EstimatorSettings, SceneSettings
from train.settings.values import Count, Positive, Probability, Whole


@dataclass(frozen=True)
class AIRSettings(EstimatorSettings, SceneSettings):
    """Train Attend, Infer, Repeat: count and locate the objects of a scene, without labels."""

    FREE: ClassVar = EstimatorSettings.FREE | {"eval_every", "iw_particles", "iw_scenes"}
    GROUPS: ClassVar = {"evaluation": ("iw_particles", "iw_scenes")}

    learning_rate: Positive = 1e-3
    decay: Literal["none", "cosine"] = "cosine"
    max_objects: Count = 3
    """Largest number of objects N that the model can infer in a scene."""
    window_size: Count = 24
    """Side of an object's window, in pixels of its own."""
    window_scale: tuple[Positive, Positive] = (2.6, 0.1)
    """Prior median and log-scale deviation of s, how many windows fit across the canvas."""
    what_dim: Count = 20
    """Size of z_what, an object's appearance code."""
    what_hidden: Count = 400
    """Hidden units of the window's encoder and decoder."""
    decoder_bias: float = -3.0
    """Initial bias of the decoder's logits. Below 0, windows are dark at first."""
    guide: Literal["residual", "recurrent"] = "residual"
    """Input of a guide's step. residual: the image minus the objects inferred so far. recurrent:
    the whole image, as in the paper."""
    guide_hidden: Count = 256
    """Hidden units and state size of the guide."""
    anchors: Whole = 9
    """Side of the grid of candidate places, of which a step selects one; 0: no grid, places are
    regressed, as in the paper."""
    likelihood_scale: Positive = 0.4
    """Standard deviation of a pixel given the objects."""
    presence_prior: Probability = 0.001
    """Prior probability of one more object."""
    presence_prior_start: Probability | None = 0.3
    """Value of --presence-prior at step 0, annealed over --anneal-steps; None: constant."""
    count_prior: Literal["steps", "geometric"] = "steps"
    """Prior of the count. steps: --presence-prior is the probability of each next object.
    geometric: the count is geometric, truncated at --max-objects."""
    iw_particles: Count = 100
    """Draws per scene in the importance-weighted bound."""
    iw_scenes: Count = 1_000
    """Number of held-out scenes, from the first, on which that bound is computed."""
