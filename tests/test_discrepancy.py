"""The maximum mean discrepancy of classes: its value, its expectation, and its edges."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from train.losses.discrepancy import class_discrepancy


@pytest.fixture(autouse=True)
def _precise(double: None) -> None:
    """Double precision."""


def by_hand(z: Tensor, labels: Tensor, *, biased: bool = False) -> Tensor:
    """A loop over classes and pairs; biased with the pairs of a code with itself."""
    n = len(z)
    squares = (z.unsqueeze(1) - z).square().sum(-1)
    kernel = (-4 * squares / (squares.sum() / (n * (n - 1)))).exp()

    def mean(rows: Tensor, columns: Tensor) -> Tensor:
        pairs = [kernel[i, j] for i in rows for j in columns if biased or i != j]
        return torch.stack(pairs).mean()

    total = torch.zeros(())
    for k in labels.unique():
        own, others = (labels == k).nonzero()[:, 0], (labels != k).nonzero()[:, 0]
        square = mean(own, own) + mean(others, others) - 2 * mean(own, others)
        total = total + len(own) / n * square
    return total


LABELS = torch.tensor([0, 1, 2, 1, 0, 1, 2])


def test_it_is_a_loop_over_pairs():
    z = torch.randn(7, 3)
    found = class_discrepancy(z, one_hot(LABELS).double())
    assert found.shape == (7,)
    torch.testing.assert_close(found, by_hand(z, LABELS).expand(7))


def test_two_classes_have_one_discrepancy():
    """The weights of both, which are their shares, add up to one."""
    z, labels = torch.randn(5, 2), torch.tensor([0, 1, 1, 0, 1])
    squares = (z.unsqueeze(1) - z).square().sum(-1)
    kernel = (-4 * squares / (squares.sum() / 20)).exp()
    one, other = kernel[[0, 3]], kernel[[1, 2, 4]]
    within = one[0, 3] + (other[0, 2] + other[0, 4] + other[1, 4]) / 3
    wanted = within - 2 * one[:, [1, 2, 4]].mean()
    torch.testing.assert_close(class_discrepancy(z, one_hot(labels).double())[0], wanted)


def test_it_is_zero_in_the_mean_where_codes_do_not_depend_on_classes():
    """Over all orders of the labels, exactly. The mutation: pairs of a code with itself."""
    z, labels = torch.randn(6, 2), torch.tensor([0, 0, 1, 1, 1, 1])
    orders = [labels[list(order)] for order in permutations(range(6))]
    values = torch.stack([class_discrepancy(z, one_hot(order).double())[0] for order in orders])
    torch.testing.assert_close(values.mean(), torch.zeros(()), rtol=0, atol=1e-12)
    assert values.std() > 0.05
    biased = torch.stack([by_hand(z, order, biased=True) for order in orders[::24]])
    assert biased.min() > 0


def test_conditions_add_up():
    z, other = torch.randn(7, 2), torch.tensor([0, 1, 0, 1, 1, 0, 1])
    c = torch.cat([one_hot(LABELS), one_hot(other)], dim=1).double()
    found = class_discrepancy(z, c, sizes=(3, 2))
    torch.testing.assert_close(found[0], by_hand(z, LABELS) + by_hand(z, other))


def test_it_has_the_scale_of_no_code():
    z, c = torch.randn(7, 3), one_hot(LABELS).double()
    torch.testing.assert_close(class_discrepancy(1_000 * z, c), class_discrepancy(z, c))


def test_its_gradient_draws_classes_together():
    """The mutation: a gradient of the width, which scales with codes and so undoes nothing."""
    labels = torch.arange(40) % 2
    z = (torch.randn(40, 1) + 2 * labels[:, None]).requires_grad_()
    (slope,) = torch.autograd.grad(class_discrepancy(z, one_hot(labels).double())[0], z)
    assert slope[labels == 1].mean() > 0 > slope[labels == 0].mean()
    # Of a constant width the discrepancy has its slope along the scale of codes.
    assert (slope * z.detach()).sum().abs() > 1e-3


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [0, 0, 1]])
def test_classes_without_pairs_are_left_out(labels):
    z = torch.randn(3, 2, requires_grad=True)
    value = class_discrepancy(z, one_hot(torch.tensor(labels), 4).double())
    assert not value.any()
    assert not torch.autograd.grad(value.sum(), z)[0].any()


def test_equal_codes_have_a_gradient():
    z = torch.zeros(4, 2, requires_grad=True)
    value = class_discrepancy(z, one_hot(torch.tensor([0, 0, 1, 1])).double())
    assert not value.any()
    assert torch.autograd.grad(value.sum(), z)[0].isfinite().all()
