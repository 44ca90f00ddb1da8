"""Whether two ways of taking a step agree: what each leaves, compared up to rounding."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

State = dict[tuple[str, str], Tensor]
"""Weights, buffers and what optimisers remember of each weight, by kind and name."""

WEIGHTS, BUFFER = "weights", "buffer"
"""Kinds of a :data:`State`; any other is an optimiser's name for a moment."""


class Outcome(NamedTuple):
    """What a step left.

    Attributes:
        losses: By name, of shape ().
        metrics: By name, of shape ().
        state: Weights, buffers and moments.
        random: Of every random generator, see :func:`train.runtime.random_state`.
    """

    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]
    state: State
    random: dict[str, Any]


class Tolerance(NamedTuple):
    """How far rounding alone may bring two ways apart.

    Attributes:
        values: Of a loss or a metric, as a share of it.
        changes: Of a buffer or a moment, as a share of what the step changes in it.
        moves: The same of weights. Adam's first step moves every weight by the learning rate, so
            that rounding decides where those go whose gradient is all but zero.
    """

    values: float
    changes: float
    moves: float


TOLERANCES = {"fp32": Tolerance(0.01, 0.02, 0.5), "bf16": Tolerance(0.02, 0.2, 0.75)}
"""By number format. Single precision on a CPU stays within a thousandth of these; convolutions on
CUDA, which round to 10 bits, take a tenth. In half precision a compiled step rounds less often."""

SMALL = 0.01
"""What is less than this share of the largest of its kind may be rounding alone."""


def difference(before: State, expected: Outcome, found: Outcome, tolerance: Tolerance) -> str:
    """Compares what two ways of taking a step left.

    Args:
        before: Where both began.
        expected: What the step itself left.
        found: What the other way left.
        tolerance: How far apart they may be. Random generators must be in the same state.

    Returns:
        The first thing that differs, in words; nothing if all agree.
    """
    values = {
        (kind, name): (value, theirs[name])
        for kind, ours, theirs in (
            ("loss", expected.losses, found.losses),
            ("metric", expected.metrics, found.metrics),
        )
        for name, value in ours.items()
    }
    largest = max(size(value) for value, _ in values.values())
    for (kind, name), (value, other) in values.items():
        apart = distance(value, other)
        if apart and not apart <= tolerance.values * (size(value) + SMALL * largest):
            return f"the {kind} {name} is {other.item():.6g}, not {value.item():.6g}"
    for name, state in expected.random.items():
        if not same(state, found.random[name]):
            return f"{name}'s random numbers go on elsewhere"
    return _state_difference(before, expected.state, found.state, tolerance)


class Change(NamedTuple):
    """What a step does to a tensor, as root mean squares.

    Attributes:
        apart: Between the two ways.
        moved: What the step itself changes.
        rounding: How precise the tensor's numbers are.
    """

    apart: float
    moved: float
    rounding: float

    def within(self, share: float, floor: float = 0.0) -> bool:
        """Whether the ways are no further apart than a share of the change, or of a floor."""
        return not self.apart or self.apart <= share * (self.moved + floor) + self.rounding


def _state_difference(before: State, expected: State, found: State, tolerance: Tolerance) -> str:
    if expected.keys() != found.keys():
        return "it does not move the same weights"
    kinds: dict[str, dict[str, Change]] = defaultdict(dict)
    for (kind, name), value in expected.items():
        kinds[kind][name] = change(before[kind, name], value, found[kind, name])
    weights, buffers = kinds.pop(WEIGHTS), kinds.pop(BUFFER, {})
    for name, each in buffers.items():
        if not each.within(tolerance.changes):
            return f"the buffer {name} is another one"
    for kind, moments in kinds.items():
        floor = SMALL * max(each.moved for each in moments.values())
        for name, each in moments.items():
            if not each.within(tolerance.changes, floor):
                return f"{kind} of {name} is another one"
    for name, each in weights.items():
        moments = [changes[name] for changes in kinds.values() if name in changes]
        # Where a gradient is rounding alone, so is the direction of Adam's move.
        known = all(moment.within(tolerance.changes) for moment in moments)
        if known and not each.within(tolerance.moves):
            return f"{name} moves elsewhere"
    return ""


def change(before: Tensor, expected: Tensor, found: Tensor) -> Change:
    """What a step does to a tensor in two ways; anything but floating-point numbers is exact."""
    if not expected.is_floating_point():
        return Change(0.0 if torch.equal(expected, found) else float("inf"), 0.0, 0.0)
    rounding = 8 * torch.finfo(expected.dtype).eps * size(expected)
    return Change(distance(expected, found), distance(before, expected), rounding)


def size(tensor: Tensor) -> float:
    """The root mean square of a tensor's elements."""
    return tensor.square().mean().sqrt().item() if tensor.numel() else 0.0


def distance(one: Tensor, other: Tensor) -> float:
    """The root mean square of a difference; equal elements have none, infinite ones too."""
    alike = (one == other) | (one.isnan() & other.isnan())
    return size(torch.where(alike, torch.zeros_like(one), one - other))


def same(one: Any, other: Any) -> bool:
    """Whether plain values and tensors are equal."""
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)
