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
        random: Of every random generator, see :func:`train.engine.runtime.random_state`.
    """

    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]
    state: State
    random: dict[str, Any]


VALUES = 0.01
"""How far apart losses and metrics may be, as a share of them."""
CHANGES = 0.05
"""How far apart buffers and moments may be, as a share of what the step changes in them. Single
precision takes a thousandth of it on a CPU; CUDA's convolutions round to 10 bits."""
MOVES = 0.5
"""The same of weights. Adam's first step moves every weight by the learning rate, so that rounding
decides where those go whose gradient is all but zero; another rate moves all of them elsewhere."""
SMALL = 0.01
"""What is less than this share of the largest of its kind may be rounding alone."""
LEEWAY = 3
"""How many times the step's own rounding, in half precision, may lie between the ways."""


def difference(before: State, expected: Outcome, found: Outcome, exact: Outcome) -> str:
    """Compares what two ways of taking a step left.

    Args:
        before: Where both began.
        expected: What the step itself left.
        found: What the other way left.
        exact: What the step itself leaves in single precision: how far half precision brings it
            away from that is how far it may bring the ways apart, as it rounds in other places.

    Returns:
        The first thing that differs by more than rounding, in words; nothing if all agree.
        Random generators must be in the same state.
    """
    largest = max(size(loss) for loss in expected.losses.values())
    for kind, ours, theirs, precise in (
        ("loss", expected.losses, found.losses, exact.losses),
        ("metric", expected.metrics, found.metrics, exact.metrics),
    ):
        if ours.keys() != theirs.keys():
            return f"it gives each {kind} under another name"
        for name, value in ours.items():
            other, rounded = theirs[name], distance(value, precise.get(name, value))
            compared = Change(distance(value, other), size(value) + SMALL * largest, rounded)
            if not compared.within(VALUES):
                return f"the {kind} {name} is {other.item():.6g}, not {value.item():.6g}"
    for name, state in expected.random.items():
        if not same(state, found.random[name]):
            return f"{name}'s random numbers go on elsewhere"
    if expected.state.keys() != found.state.keys():
        return "it does not move the same weights"
    return _state_difference(before, expected.state, found.state, exact.state)


class Change(NamedTuple):
    """What a step does to a tensor, as root mean squares.

    Attributes:
        apart: How far apart two ways bring it.
        moved: How far the step itself moves it.
        rounded: How far rounding moves it.
    """

    apart: float
    moved: float
    rounded: float

    def within(self, share: float, floor: float = 0.0) -> bool:
        """Whether ways are no further apart than a share of the move, or a floor, and rounding."""
        return not self.apart or self.apart <= share * (self.moved + floor) + LEEWAY * self.rounded

    def known(self) -> bool:
        """Whether rounding has little to do with where the step goes."""
        return self.apart <= CHANGES * self.moved


def _state_difference(before: State, expected: State, found: State, exact: State) -> str:
    kinds: dict[str, dict[str, Change]] = defaultdict(dict)
    for (kind, name), value in expected.items():
        key = kind, name
        # What an optimiser makes in a step has begun at zero.
        begun = before.get(key, torch.zeros_like(value))
        kinds[kind][name] = changed(begun, value, found[key], exact.get(key, value))
    weights, buffers = kinds.pop(WEIGHTS), kinds.pop(BUFFER, {})
    for name, each in buffers.items():
        if not each.within(CHANGES):
            return f"the buffer {name} is another one"
    for kind, moments in kinds.items():
        floor = SMALL * max(each.moved for each in moments.values())
        for name, each in moments.items():
            if not each.within(CHANGES, floor):
                return f"{kind} of {name} is another one"
    for name, each in weights.items():
        # Where a gradient is rounding alone, so is the direction of Adam's move.
        known = all(moments[name].known() for moments in kinds.values() if name in moments)
        if known and not each.within(MOVES):
            return f"{name} moves elsewhere"
    return ""


def changed(before: Tensor, expected: Tensor, found: Tensor, exact: Tensor) -> Change:
    """What a step does to a tensor; anything but floating-point numbers has to be equal."""
    if not expected.is_floating_point():
        return Change(0.0 if torch.equal(expected, found) else float("inf"), 0.0, 0.0)
    rounded = torch.finfo(expected.dtype).eps * size(expected) + distance(expected, exact)
    return Change(distance(expected, found), distance(before, expected), rounded)


def size(tensor: Tensor) -> float:
    """The root mean square of a tensor's elements."""
    # Divided by the largest, as squares of large numbers are infinite in single precision.
    largest = tensor.abs().max().item() if tensor.numel() else 0.0
    return (tensor / largest).square().mean().sqrt().item() * largest if largest else 0.0


def distance(one: Tensor, other: Tensor) -> float:
    """The root mean square of a difference; equal elements have none, infinite ones too."""
    one, other = (each if each.is_floating_point() else each.float() for each in (one, other))
    alike = (one == other) | (one.isnan() & other.isnan())
    return size(torch.where(alike, torch.zeros_like(one), one - other))


def same(one: Any, other: Any) -> bool:
    """Whether plain values and tensors are equal."""
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)
