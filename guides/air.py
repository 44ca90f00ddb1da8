"""Guides for Attend, Infer, Repeat, and how a model and a guide are made together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import nn

from guides.baselines import BaselineNetwork, DecayingAverage, LearnsFromCosts
from guides.convolutional import ConvolutionalGuide
from guides.recurrent import RecurrentGuide, ResidualGuide
from guides.stepwise import Detection, StepwiseGuide
from pyro_models.air import AIR, Composition
from pyro_models.backgrounds import Kind
from pyro_models.networks import aspect
from pyro_models.shapes import Shape

__all__ = [
    "BaselineNetwork",
    "ConvolutionalGuide",
    "DecayingAverage",
    "Detection",
    "LearnsFromCosts",
    "RecurrentGuide",
    "ResidualGuide",
    "StepwiseGuide",
    "model_and_guide",
]

Guide = Literal["residual", "recurrent", "convolutional"]
"""The guides of :func:`model_and_guide`."""


def model_and_guide(
    shape: Shape,
    *,
    max_objects: int = 3,
    window_size: int = 24,
    window_scale: tuple[float, float] = (3.0, 0.1),
    place_scale: float = 1.0,
    what_dim: int = 20,
    what_hidden: int = 400,
    decoder_bias: float = -3.0,
    likelihood_scale: float = 0.5,
    presence_prior: float = 0.01,
    count_prior: Literal["steps", "geometric"] = "steps",
    guide: Guide = "residual",
    guide_hidden: int = 256,
    guide_channels: int = 16,
    guide_sizes: int = 1,
    anchors: int = 9,
    baseline: Literal["none", "average", "network"] = "none",
    square_windows: bool = True,
    background: Kind = "black",
    composition: Composition = "sum",
    texture: bool = True,
    mask_scale: float | None = None,
    repulsion: float = 0.0,
) -> tuple[AIR, StepwiseGuide]:
    r"""Makes a model, and a guide with a baseline.

    Args:
        shape: The scenes' shape :math:`(C, H, W)`, or :math:`(H, W)` of grey ones.
        max_objects: See :class:`~pyro_models.air.AIR`.
        window_size: See :class:`~pyro_models.air.AIR`.
        window_scale: The prior median and standard deviation of the inverse scale :math:`s`, the
            number of windows that fit across the canvas.
        place_scale: The prior standard deviation of :math:`x` and :math:`y`, in half windows. On a
            canvas that is not square, it is that along the shorter side.
        what_dim: See :class:`~pyro_models.air.AIR`.
        what_hidden: The width of the hidden layer of the windows' encoder and decoder.
        decoder_bias: See :class:`~pyro_models.air.AIR`.
        likelihood_scale: See :class:`~pyro_models.air.AIR`.
        presence_prior: See :class:`~pyro_models.air.AIR`.
        count_prior: See :class:`~pyro_models.air.AIR`.
        guide: ``"residual"`` for :class:`ResidualGuide`, ``"recurrent"`` for
            :class:`RecurrentGuide`, ``"convolutional"`` for :class:`ConvolutionalGuide`.
        guide_hidden: The ``hidden`` of :class:`RecurrentGuide`.
        guide_channels: The ``channels`` of :class:`ConvolutionalGuide`.
        guide_sizes: Its ``sizes``.
        anchors: See :class:`RecurrentGuide`.
        baseline: ``"average"`` for :class:`DecayingAverage`, ``"network"`` for
            :class:`BaselineNetwork`, or ``"none"``. It is the guide's attribute ``baseline``.
        square_windows: See :class:`~pyro_models.air.AIR`.
        background: See :class:`~pyro_models.air.AIR`.
        composition: See :class:`~pyro_models.air.AIR`. All but ``"sum"`` need the
            convolutional guide.
        texture: See :class:`~pyro_models.air.AIR`.
        mask_scale: See :class:`~pyro_models.air.AIR`.
        repulsion: See :class:`~pyro_models.air.AIR`.

    Example:
        >>> model, guide = model_and_guide((50, 50), baseline="average")
        >>> type(guide).__name__, type(guide.baseline).__name__
        ('ResidualGuide', 'DecayingAverage')
    """
    shape = Shape.of(shape)
    scale, deviation = window_scale
    height, width = aspect(shape.sides) if square_windows else (1.0, 1.0)
    model = AIR(
        shape,
        max_objects=max_objects,
        window_size=window_size,
        what_dim=what_dim,
        hidden=what_hidden,
        decoder_bias=decoder_bias,
        likelihood_scale=likelihood_scale,
        presence_prior=presence_prior,
        count_prior=count_prior,
        where_loc=(scale, 0.0, 0.0),
        where_scale=(deviation, width * place_scale, height * place_scale),
        square_windows=square_windows,
        background=background,
        composition=composition,
        texture=texture,
        mask_scale=mask_scale,
        repulsion=repulsion,
    )
    is_local = guide == "convolutional"
    make_baseline: dict[str, Callable[[], nn.Module | None]] = {
        "none": lambda: None,
        "average": lambda: DecayingAverage(max_objects),
        "network": lambda: BaselineNetwork(
            shape.values, guide_channels if is_local else guide_hidden
        ),
    }
    options: dict[str, Any] = {"encoder_hidden": what_hidden, "baseline": make_baseline[baseline]()}
    if is_local:
        options |= {"channels": guide_channels, "sizes": guide_sizes}
        return model, ConvolutionalGuide(model, **options)
    guide_class = {"residual": ResidualGuide, "recurrent": RecurrentGuide}[guide]
    return model, guide_class(model, hidden=guide_hidden, anchors=anchors, **options)
