from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import permutations, product
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from guides.predictors import AdversarialPenalty, CLUBPenalty, Target
from train.data.conditions import Condition
from train.losses import chunks
from train.losses.correspondence import Similarity, collapse, cycle, similarity
from train.losses.discrepancy import class_discrepancy
from train.losses.gaussians import (
    gaussian_log_prob,
    kolchinsky_tracey,
    mean_pairwise,
    pairwise_kl,
)
from train.losses.information import class_information
from train.losses.invariance import invariance, network_groups
from train.losses.stacks import RIDGE, inhomogeneity, separation, unexplained

DOUBLE = {"dtype": torch.float64}


def gaussians(n: int = 7, d: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(n, d, **DOUBLE), 2 * torch.randn(n, d, **DOUBLE)


def normal(mu: Tensor, log_variance: Tensor) -> Independent:
    return Independent(Normal(mu, (0.5 * log_variance).exp()), 1)


def loop(mu: Tensor, log_variance: Tensor) -> Tensor:
    """Each pair by PyTorch's own divergence."""
    each = [normal(m, v) for m, v in zip(mu, log_variance, strict=True)]
    return torch.stack([torch.stack([kl_divergence(q, p) for p in each]) for q in each])


def test_pairwise_is_a_loop_over_pairs():
    mu, log_variance = gaussians()
    torch.testing.assert_close(pairwise_kl(mu, log_variance), loop(mu, log_variance))


def test_pairwise_has_the_right_sign_and_a_zero_diagonal():
    """The seed's has the log-determinant the wrong way round: entries below zero."""
    mu, log_variance = gaussians(40)
    actual = pairwise_kl(mu, log_variance)
    assert (actual >= 0).all()
    assert not actual.diagonal().any()
    difference = (log_variance.unsqueeze(1) - log_variance).sum(-1)
    flipped = actual + difference
    assert (flipped < -1).any()
    # It is right in the mean all the same, which hides it.
    torch.testing.assert_close(flipped.mean(), actual.mean())


def test_pairwise_is_exact_in_single_precision():
    """Far from the origin and close together, where an expanded square cancels."""
    mu, log_variance = 1_000 + 0.01 * torch.randn(20, 4), torch.full((20, 4), -2.0)
    wanted = loop(mu.double(), log_variance.double())
    actual = pairwise_kl(mu, log_variance).double()
    torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-9)
    # The mutation: the square expanded.
    precision = (-log_variance).exp()
    cross = (mu * precision) @ mu.T
    expanded = 0.5 * ((mu**2 * precision).sum(1)[:, None] + (mu**2 * precision).sum(1) - 2 * cross)
    assert (expanded.double() - wanted).abs().max() > 10 * wanted.max()

    # Log-variances that hardly differ: exp(r) - 1 - r.
    mu, log_variance = torch.zeros(20, 4), 1e-4 * torch.randn(20, 4)
    wanted = loop(mu.double(), log_variance.double())
    actual = pairwise_kl(mu, log_variance).double()
    assert (actual - wanted).abs().max() < 0.02 * wanted.max()


def test_mean_pairwise_leaves_the_diagonal_out():
    mu, log_variance = gaussians()
    pairs = loop(mu, log_variance)
    wanted = [sum(pairs[i, j] for j in range(7) if j != i) / 6 for i in range(7)]
    torch.testing.assert_close(mean_pairwise(mu, log_variance), torch.stack(wanted))


def test_kolchinsky_tracey_is_its_formula_and_stops_at_log_b():
    mu, log_variance = gaussians()
    pairs = loop(mu, log_variance)
    wanted = [-sum((-pairs[i, j]).exp() for j in range(7)).log() + math.log(7) for i in range(7)]
    torch.testing.assert_close(kolchinsky_tracey(mu, log_variance), torch.stack(wanted))
    far = kolchinsky_tracey(1e3 * mu, log_variance)
    torch.testing.assert_close(far, torch.full((7,), math.log(7), **DOUBLE))


def test_bounds_are_above_the_truth_and_in_order():
    """In one dimension KL(q_i || q) is a quadrature away."""
    mu, log_variance = torch.tensor([[-1.0], [0.2], [1.5]], **DOUBLE), torch.zeros(3, 1, **DOUBLE)
    grid = torch.linspace(-12, 12, 20_001, **DOUBLE).unsqueeze(1)
    log_q = gaussian_log_prob(grid, mu, log_variance)
    mixture = log_q.logsumexp(1, keepdim=True) - math.log(3)
    truth = torch.trapezoid(log_q.exp() * (log_q - mixture), grid[:, 0], dim=0)
    tight, loose = kolchinsky_tracey(mu, log_variance), mean_pairwise(mu, log_variance)
    assert (truth.mean() < tight.mean()).item()
    assert (tight.mean() < loose.mean()).item()


def test_densities_are_pytorchs():
    mu, log_variance = gaussians()
    z = torch.randn(5, 3, **DOUBLE)
    wanted = torch.stack([normal(mu, log_variance).log_prob(row) for row in z])
    torch.testing.assert_close(gaussian_log_prob(z, mu, log_variance), wanted)


def test_densities_are_exact_in_single_precision():
    """Narrow, and far from the origin, where a square that is expanded in float32 cancels."""
    mu, log_variance = 1_000 + 0.1 * torch.randn(20, 4), torch.full((20, 4), -4.0)
    z = mu + 0.1 * torch.randn(20, 4)
    wanted = torch.stack(
        [normal(mu.double(), log_variance.double()).log_prob(row) for row in z.double()]
    )
    actual = gaussian_log_prob(z, mu, log_variance)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), wanted, rtol=1e-5, atol=1e-5)
    # The mutation: the same products in float32.
    w = (-log_variance).exp()
    squares = z.square() @ w.T - 2 * z @ (mu * w).T + (mu.square() * w).sum(-1)
    exact = ((z.double().unsqueeze(1) - mu.double()).square() * w.double()).sum(-1)
    assert (squares.double() - exact).abs().max() > 1


def test_class_information_is_its_formula():
    mu, log_variance = gaussians()
    z = mu + torch.randn_like(mu)
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 2])
    q = gaussian_log_prob(z, mu, log_variance).exp()
    wanted = []
    for i in range(7):
        members = [j for j in range(7) if labels[j] == labels[i]]
        within = sum(q[i, j] for j in members) / len(members)
        wanted.append((within / (sum(q[i]) / 7)).log())
    c = torch.nn.functional.one_hot(labels)
    actual = class_information(z, mu, log_variance, c.to(z))
    torch.testing.assert_close(actual, torch.stack(wanted))
    # The mutation: without i itself the value has no floor.
    apart = torch.tensor([[0.0], [50.0]], **DOUBLE)
    c = torch.eye(2, **DOUBLE)
    assert class_information(apart, apart, 0 * apart, c).min() > -math.log(2) - 1e-9


def test_the_information_of_several_conditions_is_a_sum():
    """Also with the codes of earlier batches, of which a row may have no class yet."""
    z, mu, log_variance = torch.randn(3, 9, 2)
    first, second = torch.eye(3)[torch.arange(9) % 3], torch.eye(2)[torch.randperm(9) % 2]
    c = torch.cat([first, second], dim=1)
    past = (torch.randn(5, 2), torch.randn(5, 2), torch.cat([c[:4], torch.zeros(1, 5)]))
    for earlier in (None, past):
        parts = [(first, slice(0, 3)), (second, slice(3, 5))]
        wanted = sum(
            class_information(
                *(z, mu, log_variance, part),
                None if earlier is None else (*earlier[:2], earlier[2][:, columns]),
            )
            for part, columns in parts
        )
        actual = class_information(z, mu, log_variance, c, earlier, sizes=(3, 2))
        torch.testing.assert_close(actual, wanted)


def test_terms_have_names():
    """Those that compare classes are told where one condition ends and the next begins."""
    z, mu, log_variance = torch.randn(3, 9, 2)
    c = torch.cat([torch.eye(3)[torch.arange(9) % 3], torch.eye(2)[torch.randperm(9) % 2]], dim=1)
    conditions = [Condition(size, torch.zeros(0), torch.zeros(0)) for size in (3, 2)]

    def term(name: str) -> Tensor:
        return invariance(name, conditions, 2)(z, mu, log_variance, c)

    for name, wanted in {
        "pairwise": mean_pairwise(mu, log_variance),
        "kt": kolchinsky_tracey(mu, log_variance),
        "direct": class_information(z, mu, log_variance, c, sizes=(3, 2)),
        "mmd": class_discrepancy(z, c, sizes=(3, 2)),
    }.items():
        torch.testing.assert_close(term(name), wanted)
    for name, kind in {"club": CLUBPenalty, "adversarial": AdversarialPenalty}.items():
        penalty = invariance(name, conditions, 2)
        assert type(penalty) is kind
        assert penalty.targets == (Target(3, classes=True), Target(2, classes=True))
        assert network_groups(penalty, 0.1) == [(penalty, {"lr": 0.1, "betas": (0.5, 0.999)})]
    assert network_groups(class_information, 0.1) == network_groups(None, 0.1) == []
    assert invariance("direct", conditions[:1], 2) is class_information
    assert invariance("echo", conditions, 2) is invariance("none", conditions, 2) is None


@pytest.mark.parametrize(("distance", "wanted"), [(0.0, 0.0), (60.0, math.log(2))])
def test_class_information_of_known_cases(distance, wanted):
    """Two classes on one spot tell nothing; two far apart tell all there is: log 2."""
    n = 400
    labels = torch.arange(n) % 2
    mu = (distance * labels).double().unsqueeze(1)
    z = mu + torch.randn(n, 1, **DOUBLE)
    c = torch.nn.functional.one_hot(labels).double()
    actual = class_information(z, mu, torch.zeros_like(mu), c)
    torch.testing.assert_close(actual.mean(), torch.tensor(wanted, **DOUBLE), rtol=0, atol=1e-9)


@pytest.mark.parametrize("term", [mean_pairwise, kolchinsky_tracey])
def test_gradients_are_finite_everywhere(term):
    mu = torch.zeros(6, 3, requires_grad=True)
    log_variance = torch.tensor([-8.0, 8, -8, 8, 0, 0]).repeat(3, 1).T.clone().requires_grad_()
    for gradient in torch.autograd.grad(term(mu, log_variance).mean(), [mu, log_variance]):
        assert gradient.isfinite().all()


def test_past_codes_join_the_sums():
    mu, log_variance = gaussians(9)
    z = mu + torch.randn_like(mu)
    c = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 1])).to(z)
    wanted = class_information(z, mu, log_variance, c)[:4]
    past = (mu[4:], log_variance[4:], c[4:])
    few = (z[:4], mu[:4], log_variance[:4], c[:4])
    torch.testing.assert_close(class_information(*few, past), wanted)
    # Places that are still empty do not count.
    empty = tuple(torch.cat([part, torch.zeros_like(part[:3])]) for part in past)
    torch.testing.assert_close(class_information(*few, empty), wanted)
    nothing = tuple(torch.zeros_like(part) for part in past)
    torch.testing.assert_close(class_information(*few, nothing), class_information(*few))


def test_a_batch_alone_sees_information_where_there_is_none():
    """Codes of 6 nats that say nothing of the class: a batch has none of the others near by."""
    torch.manual_seed(0)
    spread, n = 0.1, 20_000
    mu, c = torch.randn(n, 3), torch.eye(10)[torch.arange(n) % 10]
    log_variance = torch.full_like(mu, 2 * math.log(spread))
    z = mu + spread * torch.randn_like(mu)
    codes = [part[:200] for part in (z, mu, log_variance, c)]
    apart = class_information(*codes)
    among = class_information(*codes, (mu[200:], log_variance[200:], c[200:]))
    assert apart.mean() > 1.5
    assert among.mean() < 0.3 * apart.mean()


def test_class_information_is_too_high_the_more_the_fewer_codes_there_are():
    """As its docstring has it: two classes at -0.6 and 0.6, codes of unit variance within them."""
    torch.manual_seed(0)
    spread, shift = 0.1, torch.tensor([0.6, 0.0])

    def codes(n: int) -> tuple[Tensor, Tensor, Tensor]:
        c = torch.randint(2, (n,))
        mu = (2 * c - 1).unsqueeze(1) * shift + math.sqrt(1 - spread**2) * torch.randn(n, 2)
        return mu, torch.full_like(mu, 2 * math.log(spread)), torch.eye(2)[c]

    def estimate(memory: int) -> Tensor:
        mu, log_variance, c = codes(256)
        z = mu + spread * torch.randn_like(mu)
        return class_information(z, mu, log_variance, c, codes(memory)).mean()

    # Along the line through both: of one class's density, its log-ratio to the mean of the two.
    x = torch.linspace(-8, 8, 4_001)
    log_p = torch.stack([Normal(mean, 1.0).log_prob(x) for mean in (-0.6, 0.6)])
    ratio = log_p[0] - log_p.logsumexp(0) + math.log(2)
    truth = torch.trapezoid(log_p[0].exp() * ratio, x)
    assert truth.item() == pytest.approx(0.153, abs=1e-3)
    few, many = (torch.stack([estimate(memory) for _ in range(20)]) for memory in (512, 4_096))
    error = (few.var() / 20 + many.var() / 20).sqrt()
    assert few.mean() - many.mean() > 5 * error
    assert abs(few.mean() - 0.252) < 5 * error
    assert many.mean() > truth


# Approximate bijective correspondence


def by_hand(a: list, b: list, back: list, kind: str, tau: float) -> float:
    """The formula of the reference, with Python's own numbers."""

    def s(u: list, v: list) -> float:
        gaps = [abs(x - y) for x, y in zip(u, v, strict=True)]
        if kind == "cosine":
            norm = math.hypot(*u) * math.hypot(*v)
            return sum(x * y for x, y in zip(u, v, strict=True)) / norm / tau
        size = {"l2sq": math.hypot(*gaps) ** 2, "l2": math.hypot(*gaps)}
        size |= {"l1": sum(gaps), "linf": max(gaps)}
        return -size[kind] / tau

    def softmax(values: list) -> list:
        each = [math.exp(value - max(values)) for value in values]
        return [value / sum(each) for value in each]

    total = 0.0
    for i, u in enumerate(a):
        weights = softmax([s(u, v) for v in b])
        e = [sum(w * v[d] for w, v in zip(weights, b, strict=True)) for d in range(len(u))]
        total -= math.log(softmax([s(e, v) for v in back])[i])
    return total / len(a)


SIMILARITIES = pytest.mark.parametrize("kind", get_args(Similarity))


@SIMILARITIES
@pytest.mark.parametrize("tau", [1.0, 0.3])
@pytest.mark.parametrize("views", [1, 2])
def test_a_cycle_is_a_loop_over_images(kind, tau, views):
    """With stacks of different sizes, two pairs side by side, and a second view."""
    a, b = torch.randn(2, 5, 3, **DOUBLE), torch.randn(2, 7, 3, **DOUBLE)
    back = a if views == 1 else torch.randn_like(a)
    loss, actual = cycle(a, b, None if views == 1 else back, kind=kind, temperature=tau)
    wanted = [
        by_hand(*(each.tolist() for each in pair), kind, tau)
        for pair in zip(a, b, back, strict=True)
    ]
    torch.testing.assert_close(loss, torch.tensor(wanted, **DOUBLE))
    assert actual.shape == (2, 5)
    # The mutation: one temperature forgotten, as it would be in one of the two steps.
    once = by_hand(*(each[0].tolist() for each in (a, b, back)), kind, 1.0)
    assert tau == 1.0 or abs(once - loss[0]) > 1e-3


@SIMILARITIES
def test_embeddings_that_are_all_one_have_the_loss_of_a_collapse(kind):
    a, b = torch.ones(6, 3), torch.ones(9, 3)
    (forth, actual), (back, _) = cycle(a, b, kind=kind), cycle(b, a, kind=kind)
    assert (forth + back).item() == pytest.approx(collapse(6, 9), abs=1e-5)
    assert collapse(64, 64) == pytest.approx(8.318, abs=1e-3)
    assert not actual.any()


def test_embeddings_that_correspond_are_found_again():
    a = 100 * torch.eye(4)
    loss, actual = cycle(a, a.flip(0) + 0.1)
    assert loss < 1e-6
    assert actual.all()


@SIMILARITIES
def test_a_cycles_gradient_is_that_of_finite_differences(kind):
    a, b = (torch.randn(n, 3, **DOUBLE, requires_grad=True) for n in (4, 5))
    assert torch.autograd.gradcheck(lambda *ab: cycle(*ab, kind=kind)[0], (a, b))


@SIMILARITIES
def test_gradients_are_finite_where_embeddings_meet(kind):
    a = torch.zeros(4, 3, requires_grad=True)
    cycle(a, a + 0, kind=kind)[0].backward()
    assert a.grad.isfinite().all()
    u = torch.randn(4, 3, requires_grad=True)
    similarity(u, u, kind).sum().backward()
    assert u.grad.isfinite().all()
    if kind == "l2":
        # The mutation: the root of the square as it is.
        v = u.detach().requires_grad_()
        (v.unsqueeze(1) - v).square().sum(-1).sqrt().sum().backward()
        assert v.grad.isnan().any()


class Largest(TorchDispatchMode):
    """The largest tensor that is made, forwards and backwards."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, Tensor):
                self.numbers = max(self.numbers, each.numel())
        return out


CODES = 60
PAIRS = {
    "pairwise": mean_pairwise,
    "kt": kolchinsky_tracey,
    "direct": lambda u, v: class_information(
        u + v, u, v, torch.eye(3).double().repeat(CODES // 3, 1)
    ),
    "mmd": lambda u, v: class_discrepancy(u + v, torch.eye(3).double().repeat(CODES // 3, 1)),
    **{
        kind: lambda u, v, kind=kind: cycle(u.expand(2, -1, -1), v.expand(2, -1, -1), kind=kind)[0]
        for kind in get_args(Similarity)
    },
}


@pytest.mark.parametrize("pairs", PAIRS.values(), ids=PAIRS)
def test_pairs_taken_in_turn_are_those_taken_at_once(pairs, monkeypatch):
    """To the last digit or so, gradients too, without a tensor of all the pairs."""
    u, v = (torch.randn(CODES, 2, **DOUBLE, requires_grad=True) for _ in range(2))

    def run() -> tuple[int, Tensor, tuple[Tensor, ...]]:
        with Largest() as largest:
            value = pairs(u, v)
            gradients = torch.autograd.grad(value.sum(), (u, v))
        return largest.numbers, value, gradients

    most, *expected = run()
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 7 * 2 * CODES)
    least, *actual = run()
    torch.testing.assert_close(actual, expected)
    # What it would be without chunks: the comparison can fail.
    assert most >= CODES**2
    assert least <= 7 * 2 * CODES < most


def test_an_unknown_similarity_is_refused():
    with pytest.raises(ValueError, match="'dot' is no similarity"):
        similarity(torch.ones(1, 1), torch.ones(1, 1), "dot")


def test_what_no_linear_map_explains_is_that_of_ridge_regression():
    """Of each stack on its own. The mutation: one map for both stacks."""
    z, targets = torch.randn(2, 300, 4, **DOUBLE), torch.randn(2, 300, 6, **DOUBLE)
    targets = targets + z @ torch.randn(2, 4, 6, **DOUBLE) + torch.randn(2, 1, 6, **DOUBLE)
    found = unexplained(z, targets)

    def of(rows: np.ndarray, wanted: np.ndarray) -> float:
        ridge = Ridge(RIDGE * (rows**2).sum() / 4).fit(rows, wanted)
        residual = wanted - ridge.predict(rows)
        return (residual**2).sum() / ((wanted - wanted.mean(0)) ** 2).sum()

    each = [of(*pair) for pair in zip(z.numpy(), targets.numpy(), strict=True)]
    np.testing.assert_allclose(found, each, rtol=1e-9)
    both = of(z.flatten(0, 1).numpy(), targets.flatten(0, 1).numpy())
    assert abs(both - found.mean()) > 0.05


def test_what_a_stack_has_in_common_costs_nothing():
    """The mutation: deviations from zero in place of those from the mean of the stack."""
    z, targets = torch.randn(200, 4, **DOUBLE), torch.randn(200, 6, **DOUBLE)
    torch.testing.assert_close(unexplained(z, targets - 5), unexplained(z, targets))
    far = torch.cat([torch.ones(200, 1, **DOUBLE), z], 1)
    assert (targets - 5).square().sum() > 20 * targets.square().sum()
    torch.testing.assert_close(
        unexplained(far, targets), unexplained(z, targets), atol=1e-3, rtol=0
    )


def test_embeddings_that_are_nearly_equal_explain_little():
    """So that they do not collapse. The mutation: a ridge in units of their deviations."""
    z = torch.randn(200, 4, **DOUBLE)
    targets = z @ torch.randn(4, 6, **DOUBLE)
    assert unexplained(z, targets) < 1e-3
    assert unexplained(1 + 0.01 * z, targets) > 0.9


def test_embeddings_that_are_all_one_explain_nothing():
    z = torch.ones(50, 4, requires_grad=True)
    share = unexplained(z, torch.randn(50, 6))
    assert share.item() == pytest.approx(1)
    share.backward()
    assert z.grad.isfinite().all()


def test_inhomogeneity_is_a_loop_over_pairs():
    a, b = torch.randn(2, 5, 3, **DOUBLE), 1 + torch.randn(2, 7, 3, **DOUBLE)
    for found, u, v in zip(inhomogeneity(a, b), a.tolist(), b.tolist(), strict=True):

        def mean(pairs: Iterable[tuple[list[float], list[float]]]) -> float:
            return float(np.mean([math.dist(*pair) for pair in pairs]))

        across = 2 * mean(product(u, v))
        within = mean(permutations(u, 2)) + mean(permutations(v, 2))
        assert found.item() == pytest.approx((across - within) / across)
    torch.testing.assert_close(inhomogeneity(0.01 * a, 0.01 * b), inhomogeneity(a, b))


def test_the_inhomogeneity_of_one_distribution_is_zero_on_average():
    """The mutation: pairs of an embedding with itself are counted, so that it is above."""
    torch.manual_seed(0)
    u, v = torch.randn(2_000, 6, 3, **DOUBLE), torch.randn(2_000, 9, 3, **DOUBLE)
    found = inhomogeneity(u, v) * torch.cdist(u, v).mean((-2, -1))
    error = found.std() / 2_000**0.5
    assert abs(found.mean()) < 4 * error
    own = (torch.cdist(u, u).mean((-2, -1)) / 5 + torch.cdist(v, v).mean((-2, -1)) / 8).mean()
    assert own / 2 > 20 * error


@pytest.mark.parametrize("kind", ["l2sq", "cosine"])
def test_separation_is_a_loop_over_embeddings(kind):
    a, b = torch.randn(2, 5, 3, **DOUBLE), 1 + torch.randn(2, 7, 3, **DOUBLE)
    found = separation(a, b, kind=kind, temperature=0.7)
    for value, u, v in zip(found, a, b, strict=True):
        z, stacks = torch.cat([u, v]), np.repeat([0, 1], [5, 7])
        s = (similarity(z, z, kind) / 0.7).exp().numpy()
        own = [
            sum(s[i, j] for j in range(12) if j != i and stacks[j] == stacks[i])
            / sum(s[i, j] for j in range(12) if j != i)
            for i in range(12)
        ]
        mean = np.mean(own[:5]) + np.mean(own[5:])
        assert value.item() == pytest.approx((11 * mean - 10) / 12)


def test_the_separation_of_one_distribution_is_zero_on_average():
    """The mutation: an embedding is a neighbour of itself, so that it is above."""
    torch.manual_seed(0)
    u, v = torch.randn(2_000, 6, 3, **DOUBLE), torch.randn(2_000, 9, 3, **DOUBLE)
    found = separation(u, v, temperature=0.5)
    error = found.std() / 2_000**0.5
    assert abs(found.mean()) < 4 * error
    itself = (similarity(u, torch.cat([u, v], -2)) / 0.5).softmax(-1).diagonal(dim1=-2, dim2=-1)
    assert itself.mean() > 20 * error
    assert separation(u, u + 100).min() > 1 - 1e-6


def test_the_separation_in_chunks_is_that_of_all_at_once(monkeypatch):
    a, b = (torch.randn(2, n, 3, **DOUBLE, requires_grad=True) for n in (5, 7))

    def run() -> tuple[Tensor, ...]:
        value = separation(a, b)
        return value, *torch.autograd.grad(value.sum(), (a, b))

    expected = run()
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 5 * 12 * 3)
    torch.testing.assert_close(run(), expected)


def test_the_terms_beside_the_cycle_have_the_gradients_of_finite_differences():
    z, other, targets = (torch.randn(n, k, **DOUBLE) for n, k in ((9, 3), (7, 3), (9, 5)))
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: unexplained(z, targets), z)
    equal = torch.zeros(4, 3, requires_grad=True)
    for term in (inhomogeneity, separation):
        assert torch.autograd.gradcheck(lambda z, term=term: term(z, other), z)
        term(equal, equal + 0).backward()
        assert equal.grad.isfinite().all()
