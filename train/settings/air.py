"""The settings of AIR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from train.settings.common import EstimatorSettings, SceneSettings
from train.settings.values import Count, NonNegative, Positive, Probability, Range, Whole

MOST_SIZES = 8
"""The most sizes of windows in which a convolutional guide looks for objects."""


@dataclass(frozen=True)
class AIRSettings(EstimatorSettings, SceneSettings):
    """Train Attend, Infer, Repeat (AIR): count and locate objects in scenes, without labels."""

    FREE: ClassVar[frozenset[str]] = EstimatorSettings.FREE | {
        "eval_every",
        "measure_on",
        "iw_particles",
        "iw_scenes",
        "mask_scale",
    }
    EARLIER: ClassVar[dict[str, object]] = {
        "place_scale": 1.0,
        "background": "black",
        "composition": "sum",
        "guide_sizes": 1,
    }
    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"evaluation": ("iw_particles", "iw_scenes")}
    USED_WITH: ClassVar[dict[str, tuple[str, tuple[str, ...]]]] = {
        "anchors": ("guide", ("residual", "recurrent")),
        "guide_hidden": ("guide", ("residual", "recurrent")),
        "guide_channels": ("guide", ("convolutional",)),
        "guide_sizes": ("guide", ("convolutional",)),
        "decoder_bias": ("composition", ("sum",)),
        "mask_scale": ("composition", ("over", "mixture")),
    }

    learning_rate: Positive = 1e-3
    decay: Literal["none", "cosine"] = "cosine"
    max_objects: Count = 3
    """Largest number of objects that the model can infer in a scene (the paper's N)."""
    window_size: Count | None = None
    """Height and width of an object's attention window, in pixels; None: from the size of digits,
    24 for digits of 24 pixels."""
    window_scale: tuple[Positive, Positive] | None = None
    """Prior of an object's inverse scale s, the number of windows that fit across the canvas: its
    median and standard deviation; None: from the sizes of canvas and digits, 2.6 0.1 for digits of
    24 pixels on a canvas of 50. In scenes of your own, sizes are those of the boxes; without boxes,
    objects are taken to have that proportion of the canvas."""
    place_scale: Positive | None = None
    """Prior standard deviation of an object's x and y, which are 0 in the centre of the canvas and
    change by 1 over half a window; None: 1, and more if more windows fit across the canvas, unless
    --window-scale is given."""
    what_dim: Count | None = None
    """Size of an object's appearance code z_what; None: 20, and more for windows above 32 pixels or
    in colour."""
    what_hidden: Count = 400
    """Hidden units of the encoder and decoder of windows."""
    background: Literal["auto", "black", "constant", "image", "learned"] = "auto"
    """What is under the objects. constant: one colour, a latent of each scene. image: a coarse
    image, a latent of each scene. learned: one image of all scenes, of a camera that does not move.
    auto: the simplest that explains most pixels of the training scenes; a note says which."""
    composition: Literal["auto", "sum", "over", "mixture"] = "auto"
    """How objects make a scene. sum: they add light. over: they are opaque, and each occludes those
    behind it. mixture: as over, and a pixel shows one of them, or the background, but no blend of
    both. auto: sum on black, over on other backgrounds."""
    texture: bool = True
    """Objects have a colour for each pixel. --no-texture: each object has one colour, so that it
    cannot draw two neighbours that differ in theirs. Not for grey scenes with --composition sum."""
    repulsion: NonNegative = 0.0
    """What it costs that an object's window is inside another one's, in nats; in proportion to the
    square of the part that is inside. 0: nothing. It is for scenes whose objects do not overlap:
    what is left of a large object is not taken for a small one."""
    decoder_bias: float = -3.0
    """Constant added to the decoder's logits, with --composition sum. Below 0, windows are nearly
    black before training."""
    guide: Literal["auto", "residual", "recurrent", "convolutional"] = "auto"
    """Input of each inference step. residual: the image minus the objects inferred so far.
    recurrent: the whole image, as in the paper. convolutional: as residual, by convolutions without
    a state, whose weights work on any canvas and with any number of objects. auto: residual, or
    convolutional for more than 3 objects, for smaller ones than a third of the canvas, and with
    other compositions than sum."""
    guide_hidden: Count = 256
    """Size of the hidden layers and the recurrent state of --guide residual and recurrent."""
    guide_channels: Count = 16
    """Channels of the convolutions of --guide convolutional."""
    guide_sizes: Annotated[int, Range(1, MOST_SIZES)] | None = None
    """Sizes of windows in which --guide convolutional looks for objects; None: 1, or more for
    objects of which the largest is more than twice as large as the smallest."""
    anchors: Whole | None = None
    """Anchors per side of the grid of positions, among which each inference step chooses by
    softmax; None: 9, and more if more windows fit across the canvas. 0: no grid; the step regresses
    the position, as in the paper."""
    likelihood_scale: Positive | None = None
    """Standard deviation of a pixel given the objects (Normal likelihood); None: 0.4 with
    --composition sum, and less for objects below 24 pixels, whose light is less; 0.2 with over and
    mixture, where objects may differ little from the background; 0.3 with --background image and
    learned, which have texture that is no object."""
    mask_scale: Positive | None = None
    """Standard deviation of a pixel when masks are told, with --composition over and mixture; None:
    that of the likelihood. Edges are sharper with a smaller one, which training may not bear."""
    presence_prior: Probability = 0.001
    """Prior probability of one more object."""
    presence_prior_start: Probability | None = 0.3
    """Value of --presence-prior at step 0, annealed over --anneal-steps; None: constant."""
    count_prior: Literal["steps", "geometric"] = "steps"
    """Prior of the object count. steps: --presence-prior is the probability of another object at
    each step. geometric: the count is geometric, truncated at --max-objects."""
    iw_particles: Count = 100
    """Samples per scene (K) of the importance-weighted bound, which is measured after training."""
    iw_scenes: Count = 1_000
    """Number of held-out scenes, from the first, on which that bound is measured."""
