r"""A categorical variable as a balanced binary tree of Bernoulli variables.

Each of the :math:`C - 1` inner nodes divides its classes into two halves, and has a bit that is 1
for the right one. The class is the leaf that the bits lead to from the root: the bits of nodes
beside this path change nothing. With class logits :math:`\phi`, a node's logit is

.. math:: \alpha_n = \log \sum_{c \in \text{right}(n)} e^{\phi_c}
    - \log \sum_{c \in \text{left}(n)} e^{\phi_c}

References:
    | Coupled Gradient Estimators for Discrete Latent Variables (Dong et al., 2021)
    | https://arxiv.org/abs/2106.08056
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Path(NamedTuple):
    r"""What the bits of a class are known to be.

    Attributes:
        reached: 1 for nodes on the path from the root to the class and 0 for others, of shape
            :math:`(*, C - 1)`.
        bits: The bits of these nodes, and 0 for others, of the same shape.
    """

    reached: Tensor
    bits: Tensor


class Tree:
    """The balanced binary tree of some classes, on the device of a tensor.

    Args:
        logits: Logits or vectors, of which only the number of classes :math:`C` in the last
            dimension, the dtype and the device matter.
    """

    def __init__(self, logits: Tensor) -> None:
        right, left = halves(logits.shape[-1])
        self.right, self.left = right.to(logits), left.to(logits)

    def logits(self, logits: Tensor) -> Tensor:
        r"""Returns the logits of nodes, of shape :math:`(*, C - 1)`, from those of classes."""
        # Classes without probability may fill both halves of a node that is never reached.
        smallest = torch.finfo(logits.dtype).min / 4
        logits = logits.clamp(min=smallest).unsqueeze(-2)
        halves = (logits.masked_fill(half == 0, -torch.inf) for half in (self.right, self.left))
        right, left = (half.logsumexp(-1) for half in halves)
        return right - left

    def vector(self, bits: Tensor) -> Tensor:
        r"""Returns the class as a one-hot vector, of shape :math:`(*, C)`, from all bits."""
        followed = bits @ self.right + (1 - bits) @ self.left
        return (followed == (self.right + self.left).sum(0)).to(bits.dtype)

    def path(self, vector: Tensor) -> Path:
        """Returns the bits of a class, from its one-hot vector."""
        bits = vector @ self.right.T
        return Path(bits + vector @ self.left.T, bits)


@lru_cache
def halves(classes: int) -> tuple[Tensor, Tensor]:
    r"""Returns which classes are in the right and the left half of each node.

    Args:
        classes: The number of classes, :math:`C`.

    Returns:
        Two tensors of shape :math:`(C - 1, C)`, of 0 and 1.
    """
    right, left = torch.zeros(2, classes - 1, classes)
    ranges = [(0, classes)]
    for node in range(classes - 1):
        first, last = ranges.pop(0)
        middle = (first + last) // 2
        left[node, first:middle] = 1
        right[node, middle:last] = 1
        ranges += [half for half in ((first, middle), (middle, last)) if half[1] - half[0] > 1]
    return right, left
