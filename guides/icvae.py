"""Guides for ICVAE, and how a model and a guide are made together."""

from __future__ import annotations

from typing import Any, Literal

from guides.echo import Echo, EchoGuide
from guides.encoders import Encoder, Invariance, Memory
from guides.finite import FiniteGuide
from guides.gaussian import GaussianGuide
from pyro_models.icvae import ICVAE, ConditionalModel
from pyro_models.shapes import Shape

__all__ = [
    "Echo",
    "EchoGuide",
    "Encoder",
    "FiniteGuide",
    "GaussianGuide",
    "Guide",
    "Invariance",
    "Memory",
    "model_and_guide",
]

Term = Literal["none", "pairwise", "kt", "direct", "mmd", "club", "adversarial", "echo"]
"""The names of penalties."""

Guide = GaussianGuide | FiniteGuide | EchoGuide
"""The guides of :func:`model_and_guide`."""


def model_and_guide(
    shape: Shape,
    c_dim: int,
    penalty: Invariance | None = None,
    *,
    z_dim: int = 2,
    invariance: Term = "none",
    hidden: tuple[int, ...] = (512, 512),
    network: Literal["dense", "conv"] = "dense",
    further_halvings: int = 0,
    likelihood: Literal["normal", "bernoulli"] = "normal",
    likelihood_scale: float = 0.5**0.5,
    encoder_sees_labels: bool = False,
    memory: int = 2048,
    echo_terms: int = 100,
    levels: int | None = None,
) -> tuple[ICVAE, Guide]:
    r"""Makes the model and the guide that belong to a penalty.

    Args:
        shape: The images' shape :math:`(C, H, W)`, or :math:`(H, W)` of grey images.
        c_dim: The size :math:`K` of the condition; 0 for a VAE.
        penalty: The penalty of a Gaussian guide, one of those of
            :mod:`train.losses.invariance`; ``None`` for none.
        z_dim: The size :math:`D` of a code.
        invariance: The penalty's name. ``"echo"`` makes a guide with Echo noise and a model without
            a prior; ``"direct"`` gives the guide a memory.
        hidden: Widths of the dense layers.
        network: See :class:`~guides.encoders.Encoder`.
        further_halvings: See :class:`Encoder`.
        likelihood: See :class:`~pyro_models.icvae.ICVAE`.
        likelihood_scale: See :class:`~pyro_models.icvae.ICVAE`.
        encoder_sees_labels: Whether the encoder is given the condition too.
        memory: The number of earlier codes that ``"direct"`` compares with.
        echo_terms: The number of other images that make an image's Echo noise.
        levels: The number of values of each number of a code, for a :class:`FiniteGuide`; ``None``
            for codes with noise.

    Raises:
        ValueError: If ``levels`` is given with ``"echo"``.

    Example:
        >>> import torch
        >>> model, guide = model_and_guide((28, 28), 10, invariance="echo", echo_terms=5)
        >>> guide.draw(torch.rand(8, 1, 28, 28), torch.zeros(8, 10)).shape
        torch.Size([8, 2])
    """
    model = ICVAE(
        shape,
        c_dim,
        z_dim,
        hidden=hidden,
        network=network,
        further_halvings=further_halvings,
        likelihood=likelihood,
        likelihood_scale=likelihood_scale,
        prior=invariance != "echo",
        levels=levels,
    )
    guide = guide_of(
        model,
        penalty,
        invariance=invariance,
        memory=memory,
        echo_terms=echo_terms,
        hidden=hidden,
        network=network,
        further_halvings=further_halvings,
        sees_c=encoder_sees_labels,
    )
    return model, guide


def guide_of(
    model: ConditionalModel,
    penalty: Invariance | None,
    *,
    invariance: Term,
    memory: int,
    echo_terms: int,
    **options: Any,
) -> Guide:
    """Makes the guide that belongs to a penalty, for any conditional model.

    Args:
        model: The model; without a prior if the penalty is ``"echo"``.
        penalty: See :func:`model_and_guide`.
        invariance: See :func:`model_and_guide`.
        memory: See :func:`model_and_guide`.
        echo_terms: See :func:`model_and_guide`.
        options: The arguments of :class:`~guides.encoders.Encoder`.

    Raises:
        ValueError: If the penalty is ``"echo"`` and codes are finite.
    """
    if invariance == "echo":
        if model.levels is not None:
            raise ValueError("codes with Echo noise are not finite: leave levels out")
        return EchoGuide(model, terms=echo_terms, **options)
    memory = memory if invariance == "direct" else 0
    kind = GaussianGuide if model.levels is None else FiniteGuide
    return kind(model, penalty, memory=memory, **options)
