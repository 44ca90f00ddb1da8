"""Expectations over all that an estimator draws, as a sum over every outcome.

Each outcome is a copy of the program, in a plate of copies, and a single run has them all. A copy
has parameters of its own, so that its gradient can be weighted by the outcome's probability.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor

from train.estimators.discrete import coupled, exhaustive, families

NOISE = 0.6
"""The noise of all Normals, which are reparameterised."""


class Outcomes:
    """Draws all outcomes of what is drawn inside, a copy of the program for each.

    It is entered twice: the first time it counts what is drawn, with one copy of the program.

    Args:
        noise: The noise of all Normals, which broadcasts with the copies.

    Attributes:
        copies: The number of outcomes.
        weights: Their probabilities, of shape (copies).
    """

    def __init__(self, noise: Any = NOISE) -> None:
        self.noise = noise
        self.copies = 1
        self.weights = torch.ones(1)
        self._counting = True
        self._sizes: list[int] = []
        self._used = 0

    def __enter__(self) -> Outcomes:
        self._used = 0
        self.weights = torch.ones(self.copies)
        draws = self
        self._patches = ExitStack()
        for owner, name, function in (
            (torch.distributions.Normal, "rsample", lambda fn, *_: fn.loc + fn.scale * draws.noise),
            (torch.distributions.Bernoulli, "sample", lambda fn, *a: draws.bernoulli(fn, *a)),
            (torch.distributions.Categorical, "sample", lambda fn, *a: draws.categorical(fn, *a)),
            (families, "uniform", self.uniform),
            (coupled, "uniform", self.uniform),
            (exhaustive, "uniform", self.permuted),
            (coupled.ARMS, "bits", lambda _, logits, particles: draws.copula(logits, particles)),
            (families.OneHotFamily, "perturbed", staticmethod(self.one_hot)),
        ):
            self._patches.enter_context(mock.patch.object(owner, name, function))
        return self

    def __exit__(self, *error: Any) -> None:
        self._patches.close()
        if error[0] is None and self._counting:
            self._counting = False
            self.copies = math.prod(self._sizes)
        elif error[0] is None:
            assert self._used == len(self._sizes)
            torch.testing.assert_close(self.weights.sum(), torch.ones(()))

    def outcome(self, shape: Any, number: int) -> Tensor:
        """Returns the outcome of variables of some shape, in each copy.

        Args:
            shape: The shape, in which the dimension of copies is the one of their number.
            number: The number of outcomes that each variable has.
        """
        shape = torch.Size(shape)
        if self._counting:
            self._sizes += [number] * shape.numel()
            return torch.zeros(shape, dtype=torch.long)
        assert list(shape).count(self.copies) == 1, "the dimension of copies is not to be told"
        dim = list(shape).index(self.copies)
        variables = shape.numel() // self.copies
        used = range(self._used, self._used + variables)
        self._used += variables
        assert all(self._sizes[i] == number for i in used)
        copy = torch.arange(self.copies)
        digits = [copy // math.prod(self._sizes[:i]) % number for i in used]
        rest = [size for d, size in enumerate(shape) if d != dim]
        return torch.stack(digits, -1).reshape(self.copies, *rest).movedim(0, dim)

    def weigh(self, probability: Tensor) -> None:
        """Multiplies the weight of each copy by the probabilities of its variables."""
        if not self._counting:
            dim = list(probability.shape).index(self.copies)
            flat = probability.detach().movedim(dim, 0).reshape(self.copies, -1)
            self.weights = self.weights * flat.prod(1)

    def bernoulli(self, fn: Any, sample_shape: Any = ()) -> Tensor:
        p = fn.probs.detach().expand(fn._extended_shape(torch.Size(sample_shape)))
        value = self.outcome(p.shape, 2).to(p)
        self.weigh(value * p + (1 - value) * (1 - p))
        return value

    def categorical(self, fn: Any, sample_shape: Any = ()) -> Tensor:
        shape = fn._extended_shape(torch.Size(sample_shape))
        return self._class(fn.probs.detach().expand(*shape, -1))

    def _class(self, p: Tensor) -> Tensor:
        value = self.outcome(p.shape[:-1], p.shape[-1])
        self.weigh(p.gather(-1, value[..., None])[..., 0])
        return value

    def one_hot(self, logits: Tensor) -> Tensor:
        """Logits with noise, of which one is the largest."""
        return F.one_hot(self._class(logits.softmax(-1)), logits.shape[-1]).to(logits)

    def uniform(self, shape: Any, logits: Tensor) -> Tensor:
        """The middle of each interval in which a Bernoulli's antithetic pair is constant."""
        low = (-logits.abs()).sigmoid().expand(shape)
        interval = self.outcome(shape, 3)[..., None]
        widths = torch.stack([low, 1 - 2 * low, low], -1)
        middles = torch.stack([low / 2, torch.full_like(low, 0.5), 1 - low / 2], -1)
        self.weigh(widths.gather(-1, interval)[..., 0])
        return middles.gather(-1, interval)[..., 0]

    def permuted(self, shape: Any, log_p: Tensor) -> Tensor:
        """Noise with which the classes have each order, that of draws without replacement."""
        classes = shape[-1]
        every = torch.tensor(list(itertools.permutations(range(classes))))
        order = every[self.outcome(shape[:-1], len(every))]
        p = log_p.exp().expand(shape).gather(-1, order)
        left = p.flip(-1).cumsum(-1).flip(-1)
        self.weigh((p / left).prod(-1))
        rank = torch.empty_like(p).scatter(-1, order, torch.arange(classes, 0.0, -1).expand(shape))
        return (-(log_p - rank).exp()).exp()

    def copula(self, logits: Tensor, particles: int) -> Tensor:
        """The draws of ARMS, with their joint probability by inclusion and exclusion."""
        bits = self.outcome((particles, *logits.shape[1:]), 2).to(logits)
        self.weigh(copula_probability(bits, logits))
        return bits


def copula_probability(bits: Tensor, logits: Tensor) -> Tensor:
    """Returns the joint probability of the draws of ARMS, of shape (1, *).

    For a Dirichlet of K ones, P(d_i > t for n of all i) = (1 - n t)^(K - 1) where this is positive.

    Args:
        bits: The draws, of shape (K, *).
        logits: The logits, of shape (1, *).
    """
    particles = len(bits)
    rare = (-logits.abs()).sigmoid()
    threshold = 1 - rare ** (1 / (particles - 1))
    number = torch.where(logits < 0, bits, 1 - bits).sum(0, keepdim=True)
    total = torch.zeros_like(number)
    for n in range(particles + 1):
        for more in range(particles - n + 1):
            above = (1 - (n + more) * threshold).clamp(min=0) ** (particles - 1)
            sign = (-1) ** more * math.comb(particles - n, more)
            total = total + torch.where(number == n, sign * above, 0.0)
    return total


@dataclass
class Copied:
    """A model and a guide in a plate of copies, which is left of one more plate.

    Attributes:
        shapes: The shape of each parameter: the plate's size or 1, and the event's.
        guide_body: The guide, given parameters and each site's options.
        model_body: The model, given parameters.
        estimators: The sites' estimators, by site.
        infer: Further options of sites.
        parameters: Those of all copies, with a first dimension of copies.
        scale: The scale of each copy. The loss has the derivative of its own loss by it.
    """

    shapes: Mapping[str, tuple[int, ...]]
    guide_body: Callable[[Mapping[str, Tensor], Callable[[str], dict[str, Any]]], None]
    model_body: Callable[[Mapping[str, Tensor]], None]
    estimators: Mapping[str, Any] = field(default_factory=dict)
    infer: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    parameters: dict[str, Tensor] = field(default_factory=dict, init=False)
    scale: Tensor = field(default_factory=lambda: torch.ones(1, 1), init=False)

    def copy(self, copies: int) -> None:
        """Makes parameters for a number of copies."""
        generator = torch.Generator().manual_seed(4)
        self.parameters = {
            name: torch.randn(1, *shape, generator=generator)
            .repeat(copies, *(1,) * len(shape))
            .requires_grad_()
            for name, shape in self.shapes.items()
        }
        self.scale = torch.ones(copies, 1, requires_grad=True)

    def options(self, name: str) -> dict[str, Any]:
        estimator = {"estimator": self.estimators[name]} if name in self.estimators else {}
        return {**estimator, **self.infer.get(name, {})}

    def guide(self) -> None:
        with pyro.plate("copies", len(self.scale), dim=-2), poutine.scale(scale=self.scale):
            self.guide_body(self.parameters, self.options)

    def model(self) -> None:
        with pyro.plate("copies", len(self.scale), dim=-2), poutine.scale(scale=self.scale):
            self.model_body(self.parameters)

    def gradients(self, value: Tensor) -> dict[str, Tensor]:
        """Returns gradients by parameters and, as ``elbo``, the scale, with copies first."""
        leaves = {**self.parameters, "elbo": self.scale}
        values = torch.autograd.grad(
            value, list(leaves.values()), materialize_grads=True, allow_unused=True
        )
        return dict(zip(leaves, values, strict=True))

    def exact(self, noise: Any = NOISE) -> dict[str, Tensor]:
        """Returns the ELBO's exact gradients and, as ``elbo``, its value, by Pyro alone."""
        outcomes = Outcomes(noise)
        for _ in range(2):
            self.copy(outcomes.copies)
            with outcomes:
                guide = poutine.trace(self.guide).get_trace()
        model = poutine.trace(poutine.replay(self.model, trace=guide)).get_trace()
        elbo: Any = 0.0
        log_q: Any = 0.0
        for sign, trace in ((1, model), (-1, guide)):
            trace.compute_log_prob()
            for site in trace.nodes.values():
                if site["type"] == "sample" and site["name"] not in ("copies", "rows"):
                    elbo = elbo + sign * site["log_prob"].sum(-1)
                    if sign < 0 and not site["fn"].has_rsample:
                        log_q = log_q + draw_log_prob(site).sum(-1)
        return {n: v.sum(0) for n, v in self.gradients((log_q.exp() * elbo).sum()).items()}

    def exact_bound(self, particles: int, joint: bool) -> dict[str, Tensor]:
        """Returns the importance-weighted bound's exact gradients and value, by Pyro alone.

        Args:
            particles: The number of draws.
            joint: Whether a weight is that of all rows together.
        """
        outcomes = Outcomes()
        for _ in range(2):
            self.copy(outcomes.copies)
            with outcomes:
                guides = [poutine.trace(self.guide).get_trace() for _ in range(particles)]
        log_q: Any = 0.0
        log_w = []
        for guide in guides:
            model = poutine.trace(poutine.replay(self.model, trace=guide)).get_trace()
            weight = torch.zeros(())
            for sign, trace in ((1, model), (-1, guide)):
                trace.compute_log_prob()
                for site in trace.nodes.values():
                    if site["type"] == "sample" and site["name"] not in ("copies", "rows"):
                        value = site["log_prob"]
                        weight = weight + sign * (value.sum(-1, keepdim=True) if joint else value)
                        if sign < 0 and not site["fn"].has_rsample:
                            log_q = log_q + draw_log_prob(site).sum(-1)
            log_w.append(weight / self.scale)
        mean = torch.stack(log_w).logsumexp(0) - math.log(particles)
        bound = (self.scale * mean).sum(-1)
        return {n: v.sum(0) for n, v in self.gradients((log_q.exp() * bound).sum()).items()}

    def moments(
        self, make: Callable[[], Any], noise: Any = NOISE
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns expectation and variance of an estimator's gradients and value, as :meth:`exact`.

        Args:
            make: Makes the estimator.
            noise: See :class:`Outcomes`.
        """
        outcomes = Outcomes(noise)
        for _ in range(2):
            self.copy(outcomes.copies)
            estimator = make()
            # What is drawn to look at the pair is no part of the estimate.
            estimator.prepare(self.model, self.guide, (), {})
            with outcomes:
                loss = estimator.differentiable_loss(self.model, self.guide)
        mean, variance = {}, {}
        for name, value in self.gradients(loss).items():
            mean[name] = -torch.tensordot(outcomes.weights, value, 1)
            variance[name] = torch.tensordot(outcomes.weights, (value + mean[name]) ** 2, 1)
        return mean, variance

    def value(self, make: Callable[[], Any]) -> Tensor:
        """Returns the expectation of an estimator's value, with the ELBO's sign.

        A loss is linear in a scale of model and guide, which is the outcome's probability here.
        """
        outcomes = Outcomes()
        for _ in range(3):
            weights = outcomes.weights
            self.copy(outcomes.copies)
            if len(weights) == outcomes.copies:
                self.scale = weights[:, None]
            estimator = make()
            estimator.prepare(self.model, self.guide, (), {})
            with outcomes:
                loss = estimator.differentiable_loss(self.model, self.guide)
        return -loss.detach()

    def drawn(self, make: Callable[[], Any], copies: int) -> dict[str, Tensor]:
        """Returns an estimator's gradients and values in independent copies, as :meth:`exact`."""
        self.copy(copies)
        with mock.patch.object(
            torch.distributions.Normal, "rsample", lambda fn, *_: fn.loc + fn.scale * NOISE
        ):
            loss = make().differentiable_loss(self.model, self.guide)
        return {name: -value for name, value in self.gradients(loss).items()}


def draw_log_prob(site: Mapping[str, Any]) -> Tensor:
    """The log-probability with which a value is drawn, whatever masks it."""
    fn = site["fn"]
    while isinstance(fn, dist.MaskedDistribution):
        fn = fn.base_dist
    return fn.log_prob(site["value"])


def z_scores(drawn: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> Tensor:
    """How many standard errors the means of independent copies are from exact ones."""
    gaps = []
    for name, value in exact.items():
        copies = drawn[name].reshape(len(drawn[name]), -1)
        gap = (copies.mean(0) - value.reshape(-1)).abs()
        gaps.append(gap / (copies.std(0) / len(copies) ** 0.5 + 1e-9))
    return torch.cat(gaps)


# Programs: each has what an estimator has to take into account


def event_guide(p: Mapping[str, Tensor], infer: Callable[[str], dict[str, Any]]) -> None:
    pyro.sample("b", dist.Bernoulli(logits=p["b"]).to_event(1), infer=infer("b"))


def event_model(p: Mapping[str, Tensor]) -> None:
    b = pyro.sample("b", dist.Bernoulli(logits=p["prior"]).to_event(1))
    loc = (b * p["weight"]).sum(-1) + 0.7 * b[..., 0] * b[..., 1]
    pyro.sample("x", dist.Normal(loc, 0.8), obs=torch.tensor(1.3))


def rows_guide(p: Mapping[str, Tensor], infer: Callable[[str], dict[str, Any]]) -> None:
    with pyro.plate("rows", 2, dim=-1):
        b = pyro.sample("b", dist.Bernoulli(logits=p["b"]), infer=infer("b"))
        pyro.sample("w", dist.Normal(p["w"] + 0.5 * b, 0.7))


def rows_model(p: Mapping[str, Tensor]) -> None:
    with pyro.plate("rows", 2, dim=-1):
        b = pyro.sample("b", dist.Bernoulli(logits=p["prior"]))
        w = pyro.sample("w", dist.Normal(b * p["weight"], 1.3))
        pyro.sample("x", dist.Normal(b * w, 0.8), obs=torch.tensor([1.3, -0.4]))


def together_guide(p: Mapping[str, Tensor], infer: Callable[[str], dict[str, Any]]) -> None:
    with pyro.plate("rows", 2, dim=-1):
        pyro.sample("b", dist.Bernoulli(logits=p["b"]), infer=infer("b"))


def together_model(p: Mapping[str, Tensor]) -> None:
    with pyro.plate("rows", 2, dim=-1):
        b = pyro.sample("b", dist.Bernoulli(logits=p["prior"]))
        pyro.sample("x", dist.Normal(b * p["weight"], 0.8), obs=torch.tensor([1.3, -0.4]))
    loc = (b * p["weight"]).sum(-1, keepdim=True) + b.prod(-1, keepdim=True)
    pyro.sample("y", dist.Normal(loc, 0.5), obs=torch.tensor(0.9))


def chain_guide(p: Mapping[str, Tensor], infer: Callable[[str], dict[str, Any]]) -> None:
    a = pyro.sample("a", dist.Bernoulli(logits=p["a"]), infer=infer("a"))
    w = pyro.sample("w", dist.Normal(p["w"] + a * p["shift"], 0.7))
    pyro.sample("b", dist.Bernoulli(logits=p["b"] + w * p["slope"]), infer=infer("b"))


def chain_model(p: Mapping[str, Tensor]) -> None:
    a = pyro.sample("a", dist.Bernoulli(logits=p["prior_a"]))
    w = pyro.sample("w", dist.Normal(0.4 * a, 1.2))
    b = pyro.sample("b", dist.Bernoulli(logits=p["prior_b"] + a))
    pyro.sample("x", dist.Normal(a * w + b * p["weight"], 0.8), obs=torch.tensor(1.3))
    pyro.sample("y", dist.Normal(a - 0.5 * w, 0.6), obs=torch.tensor(0.2))
    pyro.sample("u", dist.Normal(p["weight"], 1.0), obs=torch.tensor(0.1))


def classes_guide(p: Mapping[str, Tensor], infer: Callable[[str], dict[str, Any]]) -> None:
    with pyro.plate("rows", 2, dim=-1):
        pyro.sample("c", dist.Categorical(logits=p["c"]), infer=infer("c"))


def classes_model(p: Mapping[str, Tensor]) -> None:
    with pyro.plate("rows", 2, dim=-1):
        c = pyro.sample("c", dist.Categorical(logits=p["prior"]))
        loc = (F.one_hot(c, 3) * p["weight"]).sum(-1)
        pyro.sample("x", dist.Normal(loc, 0.8), obs=torch.tensor([1.3, -0.4]))


def one_hot_guide(p: Mapping[str, Tensor], infer: Callable[[str], dict[str, Any]]) -> None:
    c = pyro.sample("c", dist.OneHotCategorical(logits=p["c"]), infer=infer("c"))
    logits = p["b"] + (c * p["slope"]).sum(-1)
    pyro.sample("b", dist.Bernoulli(logits=logits), infer=infer("b"))


def one_hot_model(p: Mapping[str, Tensor]) -> None:
    c = pyro.sample("c", dist.OneHotCategorical(logits=p["prior_c"]))
    b = pyro.sample("b", dist.Bernoulli(logits=p["prior_b"]))
    loc = (c * p["weight"]).sum(-1) * (1 + b)
    pyro.sample("x", dist.Normal(loc, 0.8), obs=torch.tensor(1.3))


def pairs_guide(p: Mapping[str, Tensor], infer: Callable[[str], dict[str, Any]]) -> None:
    pyro.sample("c", dist.OneHotCategorical(logits=p["c"]).to_event(1), infer=infer("c"))


def pairs_model(p: Mapping[str, Tensor]) -> None:
    c = pyro.sample("c", dist.OneHotCategorical(logits=p["prior"]).to_event(1))
    # The product of two classes' weights: no sum over variables.
    loc = (c * p["weight"]).sum(-1).prod(-1)
    pyro.sample("x", dist.Normal(loc, 0.8), obs=torch.tensor(1.3))


def masked_guide(p: Mapping[str, Tensor], infer: Callable[[str], dict[str, Any]]) -> None:
    """Of two rows, the guide leaves the second one's draw out of its log-probability."""
    with (
        pyro.plate("rows", 2, dim=-1),
        poutine.mask(mask=torch.tensor([True, False])),
    ):
        pyro.sample("b", dist.Bernoulli(logits=p["b"]), infer=infer("b"))


def masked_model(p: Mapping[str, Tensor]) -> None:
    with pyro.plate("rows", 2, dim=-1):
        b = pyro.sample("b", dist.Bernoulli(logits=p["prior"]))
        pyro.sample("x", dist.Normal(b * p["weight"], 0.8), obs=torch.tensor([1.3, -0.4]))


def own_masked_guide(p: Mapping[str, Tensor], infer: Callable[[str], dict[str, Any]]) -> None:
    """As :func:`masked_guide`, by a mask of the distribution's own."""
    with pyro.plate("rows", 2, dim=-1):
        fn = dist.Bernoulli(logits=p["b"]).mask(torch.tensor([True, False]))
        pyro.sample("b", fn, infer=infer("b"))


def wholly_masked_guide(p: Mapping[str, Tensor], infer: Callable[[str], dict[str, Any]]) -> None:
    """As :func:`own_masked_guide`, with a mask that is no tensor."""
    with pyro.plate("rows", 2, dim=-1):
        pyro.sample("b", dist.Bernoulli(logits=p["b"]).mask(False), infer=infer("b"))


PROGRAMS: dict[str, Callable[..., Copied]] = {
    # An event of three variables.
    "event": lambda **o: Copied(
        {"b": (1, 3), "prior": (1, 3), "weight": (1, 3)}, event_guide, event_model, **o
    ),
    # A variable for each row, each with costs of its own.
    "rows": lambda **o: Copied(
        {"b": (2,), "prior": (2,), "w": (2,), "weight": (2,)}, rows_guide, rows_model, **o
    ),
    # A variable for each row, and a cost that all of them change.
    "together": lambda **o: Copied(
        {"b": (2,), "prior": (2,), "weight": (2,)}, together_guide, together_model, **o
    ),
    # A second site that depends on the first by a reparameterised one.
    "chain": lambda **o: Copied(
        dict.fromkeys(
            ("a", "w", "shift", "b", "slope", "prior_a", "prior_b", "weight"),
            (1,),
        ),
        chain_guide,
        chain_model,
        **o,
    ),
    # A class for each row, by its index.
    "classes": lambda **o: Copied(
        {"c": (2, 3), "prior": (2, 3), "weight": (2, 3)}, classes_guide, classes_model, **o
    ),
    # A Bernoulli that depends on a class.
    "one_hot": lambda **o: Copied(
        {
            **{"c": (1, 3), "b": (1,), "slope": (1, 3)},
            **{"prior_c": (1, 3), "prior_b": (1,), "weight": (1, 3)},
        },
        one_hot_guide,
        one_hot_model,
        **o,
    ),
    # An event of two classes.
    "pairs": lambda **o: Copied(
        {"c": (1, 2, 3), "prior": (1, 2, 3), "weight": (1, 2, 3)}, pairs_guide, pairs_model, **o
    ),
    # A row whose draw the guide leaves out, by a handler or by the distribution.
    "masked": lambda **o: Copied(
        dict.fromkeys(("b", "prior", "weight"), (2,)), masked_guide, masked_model, **o
    ),
    "own_masked": lambda **o: Copied(
        dict.fromkeys(("b", "prior", "weight"), (2,)), own_masked_guide, masked_model, **o
    ),
    "wholly_masked": lambda **o: Copied(
        dict.fromkeys(("b", "prior", "weight"), (2,)), wholly_masked_guide, masked_model, **o
    ),
}
