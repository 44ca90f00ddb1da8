"""Applies functions of rows in chunks, which bounds the memory that comparing all pairs takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**22
"""The largest number of elements of an intermediate tensor of pairs; more rows are split into
chunks."""


def apply_in_chunks(function: Callable[..., Tensor], *rows: Tensor, width: int) -> Tensor:
    r"""Applies a row-wise function in chunks and recomputes each in the backward pass.

    This bounds memory: a comparison of all pairs of a batch has an intermediate tensor of
    :math:`n \times m \times D` elements, of which at most :data:`CHUNK_ELEMENTS` exist at a time.

    Args:
        function: Maps the index of the first row and tensors of :math:`k` rows, of shapes
            :math:`(*, k, \cdot)`, to a value for each row, of shape :math:`(*, k)`. It must not
            draw random numbers.
        rows: Tensors of shapes :math:`(*, n, \cdot)`.
        width: The number of elements of a row in the intermediate tensor.

    Returns:
        The values, of shape :math:`(*, n)`.
    """
    size = max(CHUNK_ELEMENTS // max(width * rows[0][..., 0, 0].numel(), 1), 1)
    n = rows[0].shape[-2]
    if n <= size:
        return function(0, *rows)
    values = []
    for start in range(0, n, size):
        chunk = [tensor.narrow(-2, start, min(size, n - start)) for tensor in rows]
        values.append(
            checkpoint(function, start, *chunk, use_reentrant=False, preserve_rng_state=False)
        )
    return torch.cat(values, dim=-1)
