r"""Rows of a table: what a network sees of them, and their distribution.

A row of :math:`K` columns is a tensor of shape :math:`(K)`: a number is standardised, a category is
its index, and a missing cell is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

Numbers = Literal["normal", "robust"]
"""The distribution of a number: Normal, or Student's t with :data:`FREEDOM` degrees of freedom."""

FREEDOM = 4.0
"""The degrees of freedom of the robust distribution, whose variance is finite."""

LEAST_SCALE = 0.05
"""The least standard deviation of a standardised number given the code, so that the density of one
column cannot grow without bound."""


class ColumnKind(NamedTuple):
    """What a column holds.

    Attributes:
        categories: The number of its categories; 0 for a number.
        ordered: Whether the categories have an order.
        has_missing: Whether cells of a number may be missing. An encoder is told which ones are.
    """

    categories: int = 0
    ordered: bool = False
    has_missing: bool = False


@dataclass(frozen=True)
class RowShape:
    """The columns of a table.

    Attributes:
        columns: What each column holds, in order; one column at least.
    """

    columns: tuple[ColumnKind, ...]

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("a table needs one column at least")

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def numbers(self) -> list[int]:
        """The indices of the columns of numbers."""
        return [i for i, kind in enumerate(self.columns) if not kind.categories]

    @property
    def categorical(self) -> list[int]:
        """The indices of the columns of categories."""
        return [i for i, kind in enumerate(self.columns) if kind.categories]

    def require_batch(self, rows: Tensor, further: int = 0) -> None:
        r"""Raises :class:`ValueError` unless rows are of shape :math:`(B, K + U)`.

        Args:
            rows: The rows.
            further: The number :math:`U` of further columns.
        """
        width = len(self) + further
        if rows.ndim != 2 or rows.shape[1] != width:
            raise ValueError(
                f"rows have shape {tuple(rows.shape)}: give (B, {width}), a value a column"
            )


class RowFeatures(nn.Module):
    r"""What a network sees of rows: numbers, which of them are missing, and categories one-hot.

    A missing number is 0, the mean, and a missing category has no 1.

    Args:
        shape: The columns.
        unseen: The number :math:`U` of further columns after them, which are no features.

    Attributes:
        width: The number :math:`F` of features.

    Shape:
        :math:`(B, K + U)` to :math:`(B, F)`.

    Example:
        >>> features = RowFeatures(RowShape((ColumnKind(has_missing=True), ColumnKind(3))))
        >>> features(torch.tensor([[0.5, 2.0], [float("nan"), float("nan")]]))
        tensor([[0.5000, 0.0000, 0.0000, 0.0000, 1.0000],
                [0.0000, 1.0000, 0.0000, 0.0000, 0.0000]])
    """

    numbers: Tensor
    optional: Tensor
    column_of: Tensor
    category: Tensor

    def __init__(self, shape: RowShape, unseen: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.unseen = unseen
        columns = shape.columns
        pairs = [(i, k) for i in shape.categorical for k in range(columns[i].categories)]
        optional = [i for i in shape.numbers if columns[i].has_missing]
        self.width = len(shape.numbers) + len(optional) + len(pairs)
        self._index("numbers", shape.numbers)
        self._index("optional", optional)
        self._index("column_of", [i for i, _ in pairs])
        self.register_buffer("category", torch.tensor([k for _, k in pairs]).float(), False)

    def _index(self, name: str, values: Sequence[int]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.long), False)

    def forward(self, rows: Tensor) -> Tensor:
        """Returns the features of rows."""
        self.shape.require_batch(rows, self.unseen)
        missing = rows.index_select(1, self.optional).isnan().to(rows.dtype)
        # NaN is equal to no category.
        one_hot = (rows.index_select(1, self.column_of) == self.category).to(rows.dtype)
        numbers = rows.index_select(1, self.numbers).nan_to_num(0.0)
        return torch.cat([numbers, missing, one_hot], dim=1)


class Row(dist.TorchDistribution):
    r"""The distribution of a row whose columns are independent.

    .. math:: \log p(x) = \sum_{k \text{ present}} \log p_k(x_k)

    with a Normal or Student's t for a number, and a Categorical for a category. A missing cell,
    NaN, adds nothing: it is summed out. That is right if cells are missing at random.

    Args:
        shape: The columns.
        numbers: The distribution of the numbers, of batch shape :math:`(*, N)`.
        logits: Normalised log-probabilities of the categories of each column of categories, of
            shapes :math:`(*, C_k)`.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.real, 1)

    def __init__(self, shape: RowShape, numbers: dist.TorchDistribution, logits: Sequence[Tensor]):
        # Not called shape, which is a method of Pyro's distributions.
        self.columns, self.numbers, self.logits = shape, numbers, tuple(logits)
        super().__init__(numbers.batch_shape[:-1], torch.Size([len(shape)]), validate_args=False)

    def log_probs(self, rows: Tensor) -> Tensor:
        r"""Returns the log-density of each cell in nats, of shape :math:`(*, K)`; 0 where it is
        missing."""
        present = ~rows.isnan()
        # NaN would spoil gradients even where it is multiplied by zero.
        values = rows.nan_to_num(0.0)
        of_numbers = self.numbers.log_prob(self._numbers_of(values))
        of_categories = []
        for i, logits in zip(self.columns.categorical, self.logits, strict=True):
            index = values[..., i].long().unsqueeze(-1)
            of_category = logits.expand(*index.shape[:-1], -1).gather(-1, index)
            of_categories.append(of_category.squeeze(-1))
        return self._in_order(of_numbers, of_categories) * present

    def _numbers_of(self, rows: Tensor) -> Tensor:
        # A list of indices would be copied to the device in each step.
        columns = rows.unbind(-1)
        numbers = [columns[i] for i in self.columns.numbers]
        return torch.stack(numbers, dim=-1) if numbers else rows[..., :0]

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns the log-density in nats, of shape :math:`(*)`, of rows :math:`(*, K)`."""
        return self.log_probs(value).sum(-1)

    @property
    def mode(self) -> Tensor:
        r"""The most probable row, of shape :math:`(*, K)`: no cell of it is missing."""
        return self._in_order(self.numbers.mean, [logits.argmax(-1) for logits in self.logits])

    @property
    def mean(self) -> Tensor:
        """The mean of numbers, and the most probable category: a category has no mean."""
        return self.mode

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        sample_shape = torch.Size(sample_shape)
        categories = [
            torch.distributions.Categorical(logits=logits).sample(sample_shape)
            for logits in self.logits
        ]
        return self._in_order(self.numbers.sample(sample_shape), categories)

    def _in_order(self, numbers: Tensor, categories: Sequence[Tensor]) -> Tensor:
        """Returns columns of numbers (*, N) and of categories in the order of the table."""
        columns: list[Tensor] = [numbers.new_zeros(())] * len(self.columns)
        for i, column in zip(self.columns.numbers, numbers.unbind(-1), strict=True):
            columns[i] = column
        for i, column in zip(self.columns.categorical, categories, strict=True):
            columns[i] = column.to(numbers.dtype)
        return torch.stack(columns, dim=-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Row:
        """Expands the batch shape."""
        batch = torch.Size(batch_shape)
        logits = [logits.expand(*batch, -1) for logits in self.logits]
        return Row(self.columns, self.numbers.expand((*batch, len(self.columns.numbers))), logits)


class RowHeads(nn.Module):
    r"""From a network's outputs to the distribution of a row.

    A number has a mean for each row, and one standard deviation for the column, at least
    :data:`LEAST_SCALE`, which is learned. A category has a logit for each of its :math:`C` values.
    Ordered categories have one value :math:`f` for each row, and thresholds
    :math:`t_1 < \dots < t_{C - 1}` for the column, which are learned:

    .. math:: p(x \le k) = \sigma(t_{k + 1} - f)

    Args:
        shape: The columns.
        numbers: The distribution of a number.

    Attributes:
        width: The number :math:`P` of the network's outputs.

    Example:
        >>> heads = RowHeads(RowShape((ColumnKind(), ColumnKind(3), ColumnKind(4, ordered=True))))
        >>> row = heads(torch.zeros(5, heads.width))
        >>> row.log_probs(row.mode).shape
        torch.Size([5, 3])

    References:
        | Handling Incomplete Heterogeneous Data using VAEs (Nazabal et al., 2020), which has such
          likelihoods for each column
        | https://arxiv.org/abs/1807.03653
        | Regression Models for Ordinal Data (McCullagh, 1980)
        | https://doi.org/10.1111/j.2517-6161.1980.tb01109.x
    """

    def __init__(self, shape: RowShape, numbers: Numbers = "normal") -> None:
        super().__init__()
        self.shape = shape
        self.distribution = numbers
        self.log_scale = nn.Parameter(torch.zeros(len(shape.numbers)))
        kinds = [shape.columns[i] for i in shape.categorical]
        self.widths = [len(shape.numbers), *(1 if k.ordered else k.categories for k in kinds)]
        self.width = sum(self.widths)
        self.ordered = [kind.ordered for kind in kinds]
        # Differences of softplus(0.54) = 1 between neighbours at first.
        self.gaps = nn.ParameterList(
            nn.Parameter(torch.full((kind.categories - 2,), 0.54)) for kind in kinds if kind.ordered
        )
        self.first = nn.ParameterList(
            nn.Parameter(torch.tensor(1 - kind.categories / 2)) for kind in kinds if kind.ordered
        )

    def forward(self, outputs: Tensor) -> Row:
        r"""Returns the distribution of rows, of batch shape :math:`(*)`.

        Args:
            outputs: Of shape :math:`(*, P)`.
        """
        loc, *heads = outputs.split(self.widths, dim=-1)
        scale = LEAST_SCALE + self.log_scale.exp().to(loc.dtype).expand_as(loc)
        numbers: dist.TorchDistribution
        if self.distribution == "robust":
            numbers = dist.StudentT(FREEDOM, loc, scale, validate_args=False)
        else:
            numbers = dist.Normal(loc, scale, validate_args=False)
        thresholds = iter(zip(self.first, self.gaps, strict=True))
        logits = [
            ordered_log_probs(head, *next(thresholds)) if ordered else head.log_softmax(-1)
            for head, ordered in zip(heads, self.ordered, strict=True)
        ]
        return Row(self.shape, numbers, logits)


def ordered_log_probs(f: Tensor, first: Tensor, gaps: Tensor) -> Tensor:
    r"""Returns the log-probabilities of ordered categories.

    The probability between two thresholds :math:`a < b` is :math:`\sigma(b - f) - \sigma(a - f) =
    \sigma(b - f) \, \sigma(f - a) \, (1 - e^{a - b})`, whose logarithm does not cancel.

    Args:
        f: Of shape :math:`(*, 1)`.
        first: The first threshold, of shape ().
        gaps: The differences of thresholds before a softplus, of shape :math:`(C - 2)`.

    Returns:
        Of shape :math:`(*, C)`; their exponentials sum to 1.
    """
    steps = F.softplus(gaps)
    thresholds = first + F.pad(steps.cumsum(0), (1, 0))
    below = F.logsigmoid(thresholds - f)
    above = F.logsigmoid(f - thresholds)
    between = F.pad(torch.log(-torch.expm1(-steps)), (1, 1))
    return F.pad(below, (0, 1)) + F.pad(above, (1, 0)) + between
