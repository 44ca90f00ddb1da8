"""The model of ICVAE for tables: a conditional VAE with a likelihood for each column."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn

from pyro_models.icvae import ConditionalModel
from pyro_models.networks import MLP
from pyro_models.objective import annealed
from pyro_models.rows import ColumnKind, Numbers, Row, RowHeads, RowShape


class TabularICVAE(ConditionalModel):
    r"""The generative model of ICVAE for rows of a table, and of a target if there is one.

    .. math:: z \sim \mathcal{N}(0, I), \qquad x \sim \prod_k p_k(x_k | f(z, c)), \qquad
        t \sim p(t | g(z))

    The target's distribution depends on the code alone, so that what predicts it is kept there.
    Sites are ``z``, ``x`` and ``target``, in the plate ``images``.

    Args:
        shape: The columns of :math:`x`.
        c_dim: The size :math:`C` of the condition :math:`c`; 0 for a VAE.
        z_dim: The size :math:`D` of the code.
        hidden: The widths of the dense layers.
        numbers: The distribution of a number: see :class:`~pyro_models.rows.RowHeads`.
        target: What the target is; ``None`` if there is none.
        target_weight: The weight of the target's log-likelihood in a loss. The ELBO itself, which
            is that of :math:`x` and :math:`t`, is without it.
        prior: See :class:`~pyro_models.icvae.ICVAE`.
        levels: See :class:`~pyro_models.icvae.ICVAE`.

    Example:
        >>> shape = RowShape((ColumnKind(), ColumnKind(3)))
        >>> model = TabularICVAE(shape, c_dim=2, z_dim=4, target=ColumnKind(2))
        >>> model(None, torch.eye(2)).shape  # a row under each condition, and its target
        torch.Size([2, 3])

    References:
        | Invariant Representations without Adversarial Training (Moyer et al., 2018)
        | https://arxiv.org/abs/1805.09458
        | Handling Incomplete Heterogeneous Data using VAEs (Nazabal et al., 2020)
        | https://arxiv.org/abs/1807.03653
    """

    def __init__(
        self,
        shape: RowShape,
        c_dim: int,
        z_dim: int = 2,
        *,
        hidden: tuple[int, ...] = (256, 256),
        numbers: Numbers = "normal",
        target: ColumnKind | None = None,
        target_weight: float = 1.0,
        prior: bool = True,
        levels: int | None = None,
    ) -> None:
        super().__init__(c_dim, z_dim, prior=prior, levels=levels)
        self.shape = shape
        self.target_weight = target_weight
        self.heads = RowHeads(shape, numbers)
        self.decoder = MLP(z_dim + c_dim, self.heads.width, hidden, nn.Tanh)
        self.target_heads = None if target is None else RowHeads(RowShape((target,)))
        if self.target_heads is not None:
            self.predictor = MLP(z_dim, self.target_heads.width, hidden[:1], nn.Tanh)

    def observe(self, x: Tensor | None, z: Tensor, c: Tensor, weight: Tensor | float) -> Tensor:
        r"""Samples or observes rows, and the target in a column after them.

        Args:
            x: Rows, of shape :math:`(B, K)`, or :math:`(B, K + 1)` with a target, whose missing
                cells are NaN; sampled if ``None``.
            z: Codes, of shape :math:`(B, D)`.
            c: The condition, of shape :math:`(B, C)`.
            weight: Weight of the log-likelihood of rows in a loss.
        """
        row, target = x, None
        if x is not None and self.target_heads is not None:
            row, target = x[:, :-1], x[:, -1:]
        if row is not None:
            self.shape.require_batch(row)
        row = super().observe(row, z, c, weight)
        if self.target_heads is None:
            return row
        with annealed(self.target_weight):
            target = pyro.sample("target", self.target_given(z), obs=target)
        return torch.cat([row, target], dim=1)

    def x_given(self, z: Tensor, c: Tensor) -> Row:
        r"""Returns the distribution of rows given codes :math:`(B, D)` and conditions."""
        return self.heads(self.decoder(torch.cat([z, c], dim=-1)).to(z.dtype))

    def target_given(self, z: Tensor) -> Row:
        r"""Returns the distribution of the target, a row of one column, given codes.

        Raises:
            ValueError: If there is no target.
        """
        if self.target_heads is None:
            raise ValueError("the model has no target")
        return self.target_heads(self.predictor(z).to(z.dtype))

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        r"""Decodes codes :math:`(B, D)` to the most probable rows, of shape :math:`(B, K)`."""
        return self.x_given(z, c).mode

    @torch.no_grad()
    def sample(self, c: Tensor) -> Tensor:
        r"""Draws a code from the prior, and a row, for each row of ``c``: :math:`(B, K)`."""
        return self.x_given(self.code_prior().sample((len(c),)), c).sample()
