"""How a model and a guide for tables are made together."""

from __future__ import annotations

from torch import nn

from guides.encoders import Invariance
from guides.icvae import Guide, Term, guide_of
from pyro_models.networks import MLP
from pyro_models.rows import ColumnKind, Numbers, RowFeatures, RowShape
from pyro_models.tabular import TabularICVAE


def model_and_guide(
    shape: RowShape,
    c_dim: int,
    penalty: Invariance | None = None,
    *,
    target: ColumnKind | None = None,
    target_weight: float = 1.0,
    z_dim: int = 2,
    invariance: Term = "none",
    hidden: tuple[int, ...] = (512, 512),
    numbers: Numbers = "normal",
    encoder_sees_labels: bool = False,
    memory: int = 2048,
    echo_terms: int = 100,
    levels: int | None = None,
) -> tuple[TabularICVAE, Guide]:
    r"""Makes the model and the guide for rows of a table that belong to a penalty.

    Args:
        shape: The columns of :math:`x`.
        c_dim: See :func:`guides.icvae.model_and_guide`.
        penalty: See :func:`guides.icvae.model_and_guide`.
        target: What the target is; ``None`` if it has no likelihood. Rows then have it in a column
            after those of :math:`x`, which the encoder does not see.
        target_weight: See :class:`~pyro_models.tabular.TabularICVAE`.
        z_dim: The size :math:`D` of a code.
        invariance: The penalty's name.
        hidden: Widths of the dense layers.
        numbers: See :class:`~pyro_models.rows.RowHeads`.
        encoder_sees_labels: Whether the encoder is given the condition too.
        memory: See :func:`guides.icvae.model_and_guide`.
        echo_terms: See :func:`guides.icvae.model_and_guide`.
        levels: See :func:`guides.icvae.model_and_guide`.

    Raises:
        ValueError: If ``levels`` is given with ``"echo"``.

    Example:
        >>> import torch
        >>> shape = RowShape((ColumnKind(), ColumnKind(3)))
        >>> model, guide = model_and_guide(shape, c_dim=2, z_dim=4)
        >>> guide.draw(torch.tensor([[0.5, 2.0]]), torch.eye(2)[:1]).shape
        torch.Size([1, 4])
    """
    model = TabularICVAE(
        shape,
        c_dim,
        z_dim,
        hidden=hidden,
        numbers=numbers,
        target=target,
        target_weight=target_weight,
        prior=invariance != "echo",
        levels=levels,
    )
    rows = RowFeatures(shape, unseen=0 if target is None else 1)
    features = nn.Sequential(rows, MLP(rows.width, hidden[0]), nn.Tanh())
    guide = guide_of(
        model,
        penalty,
        invariance=invariance,
        memory=memory,
        echo_terms=echo_terms,
        hidden=hidden,
        sees_c=encoder_sees_labels,
        features=features,
    )
    return model, guide
