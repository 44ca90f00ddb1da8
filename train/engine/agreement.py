"""Whether a compiled step agrees with the eager one: compares what each leaves, up to rounding."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

Snapshot = dict[tuple[str, str], Tensor]
"""Copies of weights, buffers and optimiser tensors, by kind and name."""

WEIGHTS, BUFFER = "weights", "buffer"
"""Kinds in a :data:`Snapshot`; every other kind is an optimiser's name for a moment."""


class Outcome(NamedTuple):
    """The values that a step returned and the state that it left.

    Attributes:
        losses: Losses by name, of shape ().
        metrics: Metrics by name, of shape ().
        state: Weights, buffers and moments after the step.
        random: The state of every random generator after the step, see
            :func:`train.engine.runtime.random_state`.
    """

    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]
    state: Snapshot
    random: dict[str, Any]


VALUE_TOLERANCE = 0.01
"""The largest relative error of losses and metrics."""
CHANGE_TOLERANCE = 0.05
"""The largest error of buffers and moments, relative to their change in the step. Single precision
needs a thousandth of it on a CPU; convolutions on CUDA round to 10 bits (TF32)."""
UPDATE_TOLERANCE = 0.5
"""The largest error of weights, relative to their change in the step. The first step of Adam moves
every weight by the learning rate, so where the gradient is nearly zero, rounding decides the
direction. A wrong learning rate changes every update by more than this."""
NEGLIGIBLE = 0.01
"""Values below this fraction of the largest of their kind may consist of rounding errors."""
ROUNDING_FACTOR = 3
"""How many times the eager step's own rounding error, in half precision, is allowed on top."""


def difference(before: Snapshot, expected: Outcome, actual: Outcome, exact: Outcome) -> str:
    """Compares the outcomes of two implementations of one step.

    The states of the random generators must be identical; everything else may differ by rounding.

    Args:
        before: The state from which both began.
        expected: The outcome of the reference.
        actual: The outcome of the implementation to check.
        exact: The outcome of the reference in single precision. Its distance to ``expected`` is
            the rounding error of half precision; the implementations may differ by as much, because
            they round at different places.

    Returns:
        The first difference beyond rounding, in words; an empty string if there is none.
    """
    largest = max(rms(loss) for loss in expected.losses.values())
    for kind, expected_values, actual_values, exact_values in (
        ("loss", expected.losses, actual.losses, exact.losses),
        ("metric", expected.metrics, actual.metrics, exact.metrics),
    ):
        if expected_values.keys() != actual_values.keys():
            return f"its {kind} names differ"
        for name, value in expected_values.items():
            actual_value = actual_values[name]
            deviation = Deviation(
                error=rms_difference(value, actual_value),
                change=rms(value) + NEGLIGIBLE * largest,
                rounding=rms_difference(value, exact_values.get(name, value)),
            )
            if not deviation.within(VALUE_TOLERANCE):
                return f"the {kind} {name} is {actual_value.item():.6g}, not {value.item():.6g}"
    for name, state in expected.random.items():
        if not identical(state, actual.random[name]):
            return f"{name}'s random generator is in another state"
    if expected.state.keys() != actual.state.keys():
        return "its weights, buffers or moments have other names"
    return _state_difference(before, expected.state, actual.state, exact.state)


class Deviation(NamedTuple):
    """The error of a tensor after a step, with what to compare it to; root mean squares.

    Attributes:
        error: The difference between the two implementations.
        change: How far the step itself moves the tensor.
        rounding: The rounding error of the reference.
    """

    error: float
    change: float
    rounding: float

    def within(self, tolerance: float, floor: float = 0.0) -> bool:
        """Whether the error is zero or at most ``tolerance * (change + floor)``, plus rounding."""
        limit = tolerance * (self.change + floor) + ROUNDING_FACTOR * self.rounding
        return not self.error or self.error <= limit

    def reliable(self) -> bool:
        """Whether the error is small against the change, so that rounding decides no direction."""
        return self.error <= CHANGE_TOLERANCE * self.change


def _state_difference(
    before: Snapshot, expected: Snapshot, actual: Snapshot, exact: Snapshot
) -> str:
    kinds: dict[str, dict[str, Deviation]] = defaultdict(dict)
    for (kind, name), value in expected.items():
        key = kind, name
        # Tensors that an optimiser creates in the step start at zero.
        initial = before.get(key, torch.zeros_like(value))
        kinds[kind][name] = deviation(initial, value, actual[key], exact.get(key, value))
    weights, buffers = kinds.pop(WEIGHTS), kinds.pop(BUFFER, {})
    for name, buffer in buffers.items():
        if not buffer.within(CHANGE_TOLERANCE):
            return f"the buffer {name} differs"
    for kind, moments in kinds.items():
        floor = NEGLIGIBLE * max(moment.change for moment in moments.values())
        for name, moment in moments.items():
            if not moment.within(CHANGE_TOLERANCE, floor):
                return f"{kind} of {name} differs"
    for name, weight in weights.items():
        # Where a gradient consists of rounding errors, so does the direction of Adam's update.
        reliable = all(moments[name].reliable() for moments in kinds.values() if name in moments)
        if reliable and not weight.within(UPDATE_TOLERANCE):
            return f"the update of {name} differs"
    return ""


def deviation(before: Tensor, expected: Tensor, actual: Tensor, exact: Tensor) -> Deviation:
    """Measures the error of a tensor; integers and booleans must be equal, else it is infinite."""
    if not expected.is_floating_point():
        return Deviation(0.0 if torch.equal(expected, actual) else float("inf"), 0.0, 0.0)
    rounding = torch.finfo(expected.dtype).eps * rms(expected) + rms_difference(expected, exact)
    return Deviation(rms_difference(expected, actual), rms_difference(before, expected), rounding)


def rms(tensor: Tensor) -> float:
    """Computes the root mean square of a tensor's elements; 0 if it has none."""
    # Scaled by the largest element, because squares of large numbers overflow.
    largest = tensor.abs().max().item() if tensor.numel() else 0.0
    return (tensor / largest).square().mean().sqrt().item() * largest if largest else 0.0


def rms_difference(a: Tensor, b: Tensor) -> float:
    """Computes the root mean square of ``a - b``; equal infinities and NaNs differ by 0."""
    a, b = (tensor if tensor.is_floating_point() else tensor.float() for tensor in (a, b))
    equal = (a == b) | (a.isnan() & b.isnan())
    return rms(torch.where(equal, torch.zeros_like(a), a - b))


def identical(a: Any, b: Any) -> bool:
    """Whether two nested structures of plain values and tensors are equal."""
    pairs = zip(tree_leaves(a), tree_leaves(b), strict=True)
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in pairs)
