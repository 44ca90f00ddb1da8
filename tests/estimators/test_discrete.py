"""Gradient estimators of discrete sites: exact in expectation, by a sum over all that they draw."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from tests.estimators.outcomes import PROGRAMS, Copied, Outcomes, copula_probability, z_scores
from train.estimators import (
    ARMS,
    DisARM,
    DiscreteELBO,
    DoubleCV,
    Enumerate,
    MeasureValued,
    Rebar,
    Reinforce,
    Relax,
    SiteDraws,
)
from train.estimators.discrete import coupled, differentiable, exhaustive, families, score
from train.estimators.discrete.dependencies import Dependencies
from train.estimators.discrete.runs import Run, Runner
from train.estimators.discrete.tree import Path, Tree

pytestmark = pytest.mark.usefixtures("double")

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
BERNOULLI = ("event", "rows", "together", "chain")
CLASSES = ("classes", "one_hot", "pairs")

# Estimator, number of particles, program
CASES = [
    (name, particles, program)
    for name, numbers, programs in (
        ("reinforce", (1, 2), BERNOULLI + CLASSES),
        ("rloo", (2,), BERNOULLI + CLASSES),
        ("rloo", (3,), ("event", "chain")),
        ("disarm", (2,), BERNOULLI + CLASSES),
        ("disarm", (4,), ("rows", "classes")),
        ("arm", (2,), BERNOULLI),
        ("arms", (2, 3), BERNOULLI),
        ("arms", (4,), ("event", "together")),
        ("double-cv", (2,), (*BERNOULLI, "pairs")),
        ("double-cv", (3,), ("event", "chain")),
        ("rodeo", (2,), BERNOULLI),
        ("rodeo", (3,), ("event", "chain")),
        ("muprop", (1,), (*BERNOULLI, "pairs")),
        ("muprop", (2,), ("chain",)),
        ("enumerate", (1,), BERNOULLI + CLASSES),
        ("mvd", (1,), BERNOULLI + CLASSES),
        ("unordered-set", (2,), ("rows", "chain", "classes", "one_hot")),
        ("unordered-set", (3,), ("classes",)),
    )
    for particles in numbers
    for program in programs
]
# A draw that is masked changes costs all the same.
CASES += [
    (name, {"enumerate": 1, "mvd": 1, "muprop": 1}.get(name, 2), program)
    for name in dict.fromkeys(name for name, *_ in CASES)
    for program in ("masked", "own_masked", "wholly_masked")
]


def maker(
    estimator: Any = "rloo", particles: int = 2, *, vectorized: bool = True, **options: Any
) -> Callable[[], DiscreteELBO]:
    """Makes an estimator whose control variates have weights that are fixed and random."""

    def make() -> DiscreteELBO:
        made = DiscreteELBO(
            estimator,
            particles,
            vectorize_particles=vectorized,
            **{"analytic": False, **options},
        )
        generator = torch.Generator().manual_seed(3)
        for weight in made.estimators.parameters():
            with torch.no_grad():
                weight.normal_(generator=generator)
        return made

    return make


def check(program: Copied, make: Callable[[], Any]) -> None:
    """Holds an estimator's expectation against the exact value and gradients."""
    torch.testing.assert_close(program.moments(make)[0], program.exact(), **CLOSE)


@pytest.mark.parametrize(("name", "particles", "program"), CASES)
def test_an_estimator_is_exact_in_expectation(name, particles, program):
    check(PROGRAMS[program](), maker(name, particles))


@pytest.mark.parametrize(
    ("name", "program"),
    [(name, "chain") for name in dict.fromkeys(name for name, *_ in CASES)]
    + [(name, "one_hot") for name in ("rloo", "enumerate", "mvd", "unordered-set")]
    + [(name, "together") for name in ("disarm", "enumerate", "mvd")],
)
def test_so_it_is_with_draws_one_after_another(name, program):
    particles = 1 if name in ("enumerate", "mvd", "muprop") else 2
    check(PROGRAMS[program](), maker(name, particles, vectorized=False))


def test_an_estimator_that_sums_all_draws_out_has_no_variance():
    for name, particles, program in (
        ("enumerate", 1, "together"),
        ("enumerate", 1, "chain"),
        ("enumerate", 1, "pairs"),
        ("mvd", 1, "rows"),
        ("mvd", 1, "classes"),
        ("unordered-set", 3, "classes"),
        ("unordered-set", 2, "rows"),
    ):
        _, variance = PROGRAMS[program]().moments(maker(name, particles))
        for value in variance.values():
            torch.testing.assert_close(value, torch.zeros_like(value))


SITES = [
    ("chain", {"a": "disarm", "b": "rloo"}),
    ("chain", {"a": "rloo", "b": "disarm"}),
    ("chain", {"a": "enumerate", "b": "arms"}),
    ("chain", {"a": "reinforce", "b": "enumerate"}),
    ("chain", {"a": "mvd", "b": "enumerate"}),
    ("chain", {"a": "double-cv", "b": "muprop"}),
    ("chain", {"a": "arm", "b": "rodeo"}),
    ("one_hot", {"c": "unordered-set", "b": "disarm"}),
    ("one_hot", {"c": "enumerate", "b": "mvd"}),
    ("one_hot", {"c": "muprop", "b": "enumerate"}),
]


@pytest.mark.parametrize(("program", "estimators"), SITES, ids=str)
@pytest.mark.parametrize("vectorized", [True, False])
def test_each_site_has_an_estimator_of_its_own(program, estimators, vectorized):
    check(PROGRAMS[program](estimators=estimators), maker(vectorized=vectorized))


def test_an_estimator_can_be_an_instance():
    estimators = {"a": MeasureValued(), "b": Enumerate()}
    check(PROGRAMS["chain"](estimators=estimators), maker(DisARM()))


@pytest.mark.parametrize("particles", [1, 2])
def test_a_baseline_adds_no_bias(particles):
    level = nn.Parameter(torch.tensor(-0.8))
    slope = nn.Parameter(torch.tensor(0.5))
    for options in (
        {"baseline_value": level.expand(1, 1)},
        {"nn_baseline": lambda x: level + slope * x, "nn_baseline_input": torch.tensor([[0.7]])},
    ):
        infer = {"a": {"baseline": options}, "b": {"baseline": options}}
        check(PROGRAMS["chain"](infer=infer), maker("reinforce", particles))


def test_a_baseline_learns_to_predict_the_cost(monkeypatch):
    """Its gradient is that of the squared error, in the mean over particles."""
    level = nn.Parameter(torch.tensor(-0.8))
    program = PROGRAMS["rows"](infer={"b": {"baseline": {"baseline_value": level.expand(1, 2)}}})
    program.copy(5)
    costs = []
    surrogate = Reinforce.surrogate

    def keep(self: Reinforce, draws: SiteDraws) -> Tensor:
        costs.append(draws.cost)
        return surrogate(self, draws)

    monkeypatch.setattr(Reinforce, "surrogate", keep)
    estimator = maker("reinforce", 3)()
    loss = estimator.differentiable_loss(program.model, program.guide)
    (actual,) = torch.autograd.grad(loss, level)
    error = ((costs[0] - level) ** 2).sum() / 3
    (wanted,) = torch.autograd.grad(error, level)
    torch.testing.assert_close(actual, wanted)
    assert actual != 0


def test_a_closed_form_has_the_mean_over_noise():
    nodes, weights = (torch.as_tensor(v) for v in hermite(6))
    program = PROGRAMS["chain"]()
    totals: list[dict[str, Any]] = []
    for analytic in (False, True):
        total: dict[str, Any] = {}
        for node, weight in zip(nodes, weights, strict=True):
            value, _ = program.moments(maker("enumerate", analytic=analytic), node)
            for name, gradient in value.items():
                total[name] = total.get(name, 0.0) + weight * gradient
        totals.append(total)
    torch.testing.assert_close(*totals, rtol=1e-7, atol=1e-7)
    # At one noise the two differ: the closed form is in use.
    one, other = (
        program.moments(maker("enumerate", analytic=analytic))[0]["elbo"]
        for analytic in (False, True)
    )
    assert (one - other).abs() > 1e-2


def hermite(number: int) -> tuple[Any, Any]:
    """Nodes and weights of the expectation over a standard normal."""
    from numpy.polynomial.hermite_e import hermegauss

    nodes, weights = hermegauss(number)
    return nodes, weights / weights.sum()


def linear(rows: bool) -> Copied:
    """A cost that is linear in all variables: of an event, or of the members of a plate."""

    def draw(logits: Tensor, **options: Any) -> Tensor:
        if not rows:
            return pyro.sample("b", dist.Bernoulli(logits=logits).to_event(1), **options)
        with pyro.plate("rows", 2, dim=-1):
            return pyro.sample("b", dist.Bernoulli(logits=logits), **options)

    def guide(p: Mapping[str, Tensor], infer: Callable[[str], dict[str, Any]]) -> None:
        draw(p["b"], infer=infer("b"))

    def model(p: Mapping[str, Tensor]) -> None:
        # Members of a plate have no cost of their own.
        b = draw(p["b"].detach() if rows else p["prior"])
        pyro.factor("f", (b * p["weight"]).sum(-1, keepdim=rows))

    shape = (2,) if rows else (1, 3)
    return Copied(dict.fromkeys(("b", "prior", "weight"), shape), guide, model)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("name", ["double-cv", "muprop"])
def test_what_is_linear_has_no_variance(rows, name):
    """The mutations: a cost that is there once for each member, or the slope of log q left out."""

    mean, variance = linear(rows).moments(
        lambda: DiscreteELBO(DoubleCV(-1.0) if name == "double-cv" else name)
    )
    torch.testing.assert_close(mean, linear(rows).exact(), **CLOSE)
    assert (variance["b"] < 1e-20).all()
    assert (linear(rows).moments(maker("rloo"))[1]["b"] > 1e-2).all()


# The draws of ARMS, whose joint probability is by inclusion and exclusion above


@pytest.mark.parametrize("particles", [2, 3, 4])
def test_draws_of_arms_have_the_probability_of_their_copula(particles):
    draws = 40_000
    logits = torch.tensor([-1.2, -0.3, 0.0, 0.4, 1.5])
    bits = ARMS().bits(logits.expand(1, draws, 5), particles)
    code = (bits * 2.0 ** torch.arange(particles)[:, None, None]).sum(0)
    for value in range(2**particles):
        combination = torch.tensor([float(value >> k & 1) for k in range(particles)])
        p = copula_probability(combination[:, None].expand(-1, 5), logits[None])[0].clamp(0, 1)
        error = (p * (1 - p) / draws).sqrt() + 1e-9
        assert (((code == value).double().mean(0) - p).abs() < 4.5 * error).all()


@pytest.mark.parametrize("particles", [2, 3, 4, 8])
def test_the_correlation_of_arms_is_that_of_its_copula(particles):
    logits = torch.linspace(-4, 0, 9)
    p = logits.sigmoid()
    both = torch.zeros(9)
    for value in range(2 ** (particles - 2)):
        rest = [float(value >> k & 1) for k in range(particles - 2)]
        combination = torch.tensor([1.0, 1.0, *rest])[:, None].expand(-1, 9)
        both = both + copula_probability(combination, logits[None])[0]
    wanted = (both - p**2) / (p * (1 - p))
    torch.testing.assert_close(coupled.correlation(p, particles), wanted)
    assert (wanted < 0).all()


# By Monte Carlo


class Elementwise(nn.Module):
    """A network for logits without event."""

    def forward(self, perturbed: Tensor) -> Tensor:
        return 0.8 * perturbed.tanh()


class Summed(nn.Module):
    """A network for logits whose last dimensions are those of an event."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, perturbed: Tensor) -> Tensor:
        return (0.8 * perturbed.tanh()).sum(tuple(range(-self.dims, 0))) ** 2


RELAXED = {
    "event": Summed(1),
    "rows": Elementwise(),
    "together": Summed(1),
    "chain": Elementwise(),
    "pairs": Summed(2),
}


@pytest.mark.parametrize("program", RELAXED)
@pytest.mark.parametrize("kind", ["rebar", "relax"])
@pytest.mark.parametrize("particles", [1, 2])
def test_a_relaxed_control_variate_adds_no_bias(program, kind, particles):
    copied = PROGRAMS[program]()
    exact = copied.exact()
    estimator = Rebar(0.6) if kind == "rebar" else Relax(RELAXED[program], 0.6)
    drawn = copied.drawn(
        lambda: DiscreteELBO(estimator, particles, analytic=False), 6_000 // particles
    )
    assert (z_scores(drawn, exact) < 4.5).all()


@pytest.mark.parametrize("program", ["event", "pairs"])
def test_noise_given_a_value_has_the_law_of_noise(program):
    """Logits with noise have the same distribution, drawn at once or by their value first."""
    family = families.BernoulliFamily if program == "event" else families.OneHotFamily
    logits = torch.tensor([0.7, -0.4, 1.1]).expand(40_000, 3)
    at_once = family.perturbed(logits)
    value = family.hard(family.perturbed(logits))
    by_value = family.perturbed_given(logits, value)
    assert torch.equal(family.hard(by_value), value)
    for moment in (lambda z: z, lambda z: z**2, lambda z: z.sigmoid(), lambda z: z * z.roll(1, -1)):
        one, other = moment(at_once), moment(by_value)
        error = ((one.var(0) + other.var(0)) / len(one)).sqrt()
        assert ((one.mean(0) - other.mean(0)).abs() < 4.5 * error).all()


class VAE(nn.Module):
    """Six Bernoulli latents of each of some data, with tiny networks."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.encoder = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 6))
        self.decoder = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        for weight in self.parameters():
            with torch.no_grad():
                weight.normal_(generator=generator)
        self.data = torch.randn(1, 3, generator=generator)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=self.encoder(x)).to_event(1))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            prior = torch.full((6,), 0.3)
            z = pyro.sample("z", dist.Bernoulli(prior).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.7).to_event(1), obs=x)

    def exact(self) -> Tensor:
        """The ELBO of a datum, by the sum over all values."""
        z = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6)
        q = torch.distributions.Bernoulli(logits=self.encoder(self.data))
        log_q = q.log_prob(z).sum(-1)
        log_p = torch.distributions.Bernoulli(torch.tensor(0.3)).log_prob(z).sum(-1)
        log_x = torch.distributions.Normal(self.decoder(z), 0.7).log_prob(self.data).sum(-1)
        return (log_q.exp() * (log_x + log_p - log_q)).sum()

    def row(self, value: Tensor) -> Tensor:
        """The value and its gradient by all weights."""
        gradients = torch.autograd.grad(value, list(self.parameters()))
        return torch.cat([value.detach().reshape(1), *(g.flatten() for g in gradients)])


VAE_CASES = [
    *[(name, True) for name in dict.fromkeys(name for name, *_ in CASES)],
    *[("rebar", True), ("relax", True), ("disarm", False), ("mvd", False), ("rebar", False)],
]
# The only one for a single variable.
VAE_CASES.remove(("unordered-set", True))


@pytest.mark.parametrize(("name", "vectorized"), VAE_CASES)
def test_an_estimator_is_right_for_a_vae(name, vectorized):
    vae = VAE()
    exact = vae.row(vae.exact())
    batches, copies = (1, 1) if name == "enumerate" else (20, 60)
    particles = {"enumerate": 1, "mvd": 1, "muprop": 1, "arms": 3}.get(name, 2)
    chosen = Relax(Summed(1), 0.6) if name == "relax" else name
    estimator = maker(chosen, particles, vectorized=vectorized)()
    x = vae.data.repeat(copies, 1)
    rows = []
    for _ in range(batches):
        loss = estimator.differentiable_loss(vae.model, vae.guide, x)
        rows.append(-vae.row(loss) / copies)
        terms = dict(estimator.terms)
        torch.testing.assert_close(terms.pop("elbo"), -loss.detach())
        torch.testing.assert_close(terms["log_likelihood"] - terms["kl_z"], -loss.detach())
    drawn = torch.stack(rows)
    if name == "enumerate":
        torch.testing.assert_close(drawn[0], exact)
        return
    # The value, and the gradient in a few directions.
    directions = torch.randn(len(exact) - 1, 6, generator=torch.Generator().manual_seed(2))
    gap = drawn - exact
    gap = torch.cat([gap[:, :1], gap[:, 1:] @ directions], 1)
    assert (gap.mean(0).abs() < 4 * gap.std(0) / batches**0.5 + 1e-12).all()


# Variances, of E[(b - p)^2] as in the paper of REBAR


def toy(target: float) -> Copied:
    def guide(p: Mapping[str, Tensor], infer: Callable[[str], dict[str, Any]]) -> None:
        pyro.sample("b", dist.Bernoulli(logits=p["b"]), infer=infer("b"))

    def model(p: Mapping[str, Tensor]) -> None:
        # With the guide's probabilities, but for their gradient: all that is left is the factor.
        b = pyro.sample("b", dist.Bernoulli(logits=p["b"].detach()))
        pyro.factor("cost", -((b - target) ** 2))

    return Copied({"b": (1,)}, guide, model)


@pytest.mark.parametrize("classes", [1, 2, 3, 6])
def test_a_tree_has_the_classes_and_their_probabilities(classes):
    logits = torch.randn(4, classes, generator=torch.Generator().manual_seed(0))
    tree = Tree(logits)
    bits = torch.tensor(list(itertools.product((0.0, 1.0), repeat=classes - 1)))
    vectors, nodes = tree.vector(bits), tree.logits(logits).unsqueeze(1)
    assert (vectors.sum(-1) == 1).all()
    weights = torch.distributions.Bernoulli(logits=nodes).log_prob(bits).sum(-1).exp()
    torch.testing.assert_close(weights @ vectors, logits.softmax(-1))
    path = tree.path(vectors)
    torch.testing.assert_close(path.bits, bits * path.reached)
    # Each class is no deeper than it must be.
    assert path.reached.sum(-1).max() == (classes - 1).bit_length()


def test_a_tree_of_impossible_classes_has_finite_gradients():
    logits = torch.tensor([0.3, -torch.inf, 0.1, -torch.inf, -torch.inf], requires_grad=True)
    nodes = Tree(logits).logits(logits)
    (gradient,) = torch.autograd.grad(nodes.sigmoid().sum(), logits)
    assert nodes.isfinite().all()
    assert gradient.isfinite().all()
    assert (gradient[[1, 3, 4]] == 0).all()


@pytest.mark.parametrize("masks_prior", [True, False])
@pytest.mark.parametrize(
    ("name", "particles", "kind"),
    [
        (name, particles, kind)
        for kind in (dist.Categorical, dist.OneHotCategorical)
        for name, particles in (
            *(("reinforce", 2), ("rloo", 2), ("disarm", 2), ("enumerate", 1), ("mvd", 1)),
            *(("unordered-set", 2), ("unordered-set", 3), ("unordered-set", 4)),
        )
    ]
    + [
        (name, particles, dist.OneHotCategorical)
        for name, particles in (("double-cv", 2), ("muprop", 1), ("rebar", 1))
    ],
)
def test_an_impossible_class_is_as_if_it_were_not_there(name, particles, kind, masks_prior):
    """A logit of minus infinity in the guide, and in the model, whose prior may have it, too."""
    copies = 4_000
    possible = torch.tensor([True, True, False, True])
    one, prior = torch.tensor([0.1, 0.5, 0.3, -0.4]), torch.tensor([0.2, 0.6, 0.4, -0.3])
    values, x = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor(0.7)
    if masks_prior:
        prior = prior.masked_fill(~possible, -torch.inf)
    logits = one.repeat(copies, 1).requires_grad_()

    def model():
        with pyro.plate("copies", copies):
            z = pyro.sample("z", kind(logits=prior))
            z = values[z] if kind is dist.Categorical else (z * values).sum(-1)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide():
        with pyro.plate("copies", copies):
            pyro.sample("z", kind(logits=logits.masked_fill(~possible, -torch.inf)))

    pyro.set_rng_seed(0)
    loss = DiscreteELBO(name, particles).differentiable_loss(model, guide)
    (drawn,) = torch.autograd.grad(loss, logits)
    one.requires_grad_()
    log_q, log_p = one[possible].log_softmax(-1), prior.log_softmax(-1)[possible]
    cost = log_q - log_p - dist.Normal(values[possible], 1.0).log_prob(x)
    (exact,) = torch.autograd.grad((log_q.exp() * cost).sum(), one)
    assert loss.isfinite()
    assert drawn[:, 2].eq(0).all()
    error = drawn.std(0) / copies**0.5
    assert ((drawn.mean(0) - exact).abs() <= 4 * error + 1e-9).all()


@pytest.mark.parametrize("target", [0.499, 0.49])
def test_variances_are_ordered(target):
    program = toy(target)

    def variance(name: str, particles: int) -> float:
        return program.moments(maker(name, particles))[1]["b"].item()

    values = {name: variance(name, 2) for name in ("reinforce", "rloo", "arm", "disarm", "arms")}
    p = program.parameters["b"][0].sigmoid().item()
    rare, change = min(p, 1 - p), 1 - 2 * target
    mean = rare * (1 - rare) * change
    assert values["rloo"] == pytest.approx(rare * (1 - rare) * change**2 / 2 - mean**2, rel=1e-6)
    assert values["disarm"] == pytest.approx(
        rare * (1 - rare) ** 2 * change**2 / 2 - mean**2, rel=1e-6
    )
    assert values["arms"] == pytest.approx(values["disarm"], rel=1e-9)
    assert values["reinforce"] > values["rloo"] > values["disarm"]
    assert values["arm"] > values["disarm"]
    assert values["reinforce"] > 100 * values["rloo"]
    # With more draws, the mean of pairs, and draws that all exclude each other.
    assert variance("disarm", 4) == pytest.approx(values["disarm"] / 2, rel=1e-9)
    assert variance("arms", 4) < variance("disarm", 4)
    assert variance("rloo", 4) < variance("rloo", 3) < values["rloo"]
    assert variance("mvd", 1) == pytest.approx(0.0, abs=1e-20)


# Mutations, each of which has to be told from what is right


def attribute(owner: Any, name: str, change: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A mutation that replaces an attribute by a function of it."""
    return lambda patch: patch.setattr(owner, name, change(getattr(owner, name)))


def negated(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: -function(*args, **kwargs)


def independent(_: Any) -> Callable[..., Tensor]:
    """Bits of particles that are not coupled."""

    def bits(self: Any, logits: Tensor, particles: int) -> Tensor:
        full = logits.expand(particles, *logits.shape[1:])
        return torch.distributions.Bernoulli(logits=full).sample()

    return bits


def without(name: str) -> Callable[[Any], Any]:
    """Dependencies of which an observed site is left out."""
    return lambda function: (
        lambda self, latent: frozenset(key for key in function(self, latent) if key[1] != name)
    )


def alone(_: Any) -> Callable[[Any], Any]:
    """Sums over the variables of an event, and not over those of a plate."""

    def weights(self: Enumerate, draws: SiteDraws) -> Tensor:
        return draws.log_prob.exp()

    return weights


def no_sharing(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, shared=(), **options: function(*args, **options)


def everyone(value: Tensor) -> Tensor:
    """The mean over all particles, the own one too."""
    return value.mean(0).expand(value.shape)


def turned(function: Callable[..., Any]) -> Callable[..., Any]:
    """The particles in which one variable is changed, each taken for another variable's."""

    def coupling(*args: Any) -> Tensor:
        vectors = function(*args)
        return torch.cat([vectors[:1], vectors[1:].roll(1, 0)])

    return coupling


def everywhere(path: Path) -> Path:
    """A path that reaches all nodes."""
    return path._replace(reached=torch.ones_like(path.bits))


def equal(function: Callable[..., Any]) -> Callable[..., Any]:
    """Ratios of a set, of which all are 1."""

    def ratios(*args: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p, ratio, rest = function(*args)
        return p, torch.ones_like(ratio), rest

    return ratios


MUTANTS: dict[str, tuple[str, int, str, Callable[[Any], None]]] = {
    "the sign of the score": (
        *("reinforce", 1, "event"),
        attribute(score.Reinforce, "surrogate", negated),
    ),
    "a baseline that sees its own draw": (
        *("reinforce", 2, "event"),
        attribute(score, "baseline_of", lambda _: lambda draws: 0.5 * draws.cost),
    ),
    "the mean of all draws as a baseline": (
        *("rloo", 2, "event"),
        attribute(score, "leave_one_out", lambda _: lambda cost: cost - cost.mean(0)),
    ),
    "the sum of all draws as a baseline": (
        *("rloo", 3, "event"),
        attribute(score, "leave_one_out", lambda _: lambda cost: cost - 0.5 * cost.sum(0)),
    ),
    "disarm with draws that are not coupled": (
        *("disarm", 2, "event"),
        attribute(DisARM, "bits", independent),
    ),
    "disarm of classes with draws that are not coupled": (
        *("disarm", 2, "classes"),
        attribute(DisARM, "bits", independent),
    ),
    "disarm's nodes that one draw alone reaches, taken for shared ones": (
        *("disarm", 2, "classes"),
        attribute(
            Tree,
            "path",
            lambda f: (
                lambda self, vector: f(self, vector)._replace(
                    reached=torch.ones_like(f(self, vector).bits)
                )
            ),
        ),
    ),
    "arm with draws that are not coupled": (
        *("arm", 2, "event"),
        attribute(coupled.ARM, "bits", independent),
    ),
    "arms with draws that are not coupled": (
        *("arms", 3, "event"),
        # A sum over all draws has them here; that these are those of ARMS is a test above.
        attribute(Outcomes, "copula", independent),
    ),
    "arms with another correlation": (
        *("arms", 3, "event"),
        attribute(coupled, "correlation", lambda f: lambda p, particles: f(p, particles + 1)),
    ),
    "disarm with another draw of what is before": (
        *("disarm", 2, "chain"),
        attribute(Runner, "__call__", no_sharing),
    ),
    "arms with another draw of what is before": (
        *("arms", 3, "chain"),
        attribute(Runner, "__call__", no_sharing),
    ),
    "the sign of double-cv's correction": (
        *("double-cv", 2, "event"),
        attribute(SiteDraws, "covariance", negated),
    ),
    "double-cv's control that sees its own draw": (
        *("double-cv", 2, "event"),
        attribute(differentiable, "mean_of_others", lambda _: everyone),
    ),
    "the sign of muprop's correction": (
        *("muprop", 1, "event"),
        attribute(SiteDraws, "covariance", negated),
    ),
    "rodeo's control that sees its own draw": (
        *("rodeo", 2, "event"),
        attribute(differentiable, "mean_of_others", lambda _: everyone),
    ),
    "rodeo's network that sees its own draw": (
        *("rodeo", 2, "event"),
        attribute(
            differentiable.Rodeo,
            "network",
            lambda f: lambda self, linear, cost: f(self, linear, cost.roll(1, 0)),
        ),
    ),
    "the sign of mvd": (
        *("mvd", 1, "event"),
        attribute(SiteDraws, "unflat", negated),
    ),
    "mvd with another variable's values": (
        *("mvd", 1, "event"),
        attribute(MeasureValued, "coupling", turned),
    ),
    "mvd with another draw of what is before": (
        *("mvd", 1, "chain"),
        attribute(Runner, "__call__", no_sharing),
    ),
    "the ratios of an unordered set": (
        *("unordered-set", 2, "classes"),
        attribute(exhaustive, "ratios", equal),
    ),
    "a set with another draw of what is before": (
        *("unordered-set", 2, "chain"),
        attribute(Runner, "__call__", no_sharing),
    ),
    "values that are enumerated for each member of a plate": (
        *("enumerate", 1, "together"),
        attribute(Enumerate, "weights", alone),
    ),
    "weights without what a site depends on": (
        *("enumerate", 1, "chain"),
        attribute(Dependencies, "closure", lambda _: lambda self, latents: frozenset()),
    ),
    **{
        f"{name} without a cost downstream": (
            *(name, particles, "chain"),
            attribute(Dependencies, "downstream", without("x")),
        )
        for name, particles in {
            **{"reinforce": 1, "rloo": 2, "disarm": 2, "arm": 2, "arms": 2, "double-cv": 2},
            **{"rodeo": 2, "muprop": 1, "mvd": 1, "unordered-set": 2},
        }.items()
    },
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_what_is_wrong_is_told_from_what_is_right(mutant, monkeypatch):
    name, particles, program, mutate = MUTANTS[mutant]
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        check(PROGRAMS[program](), maker(name, particles))


RELAXED_MUTANTS: dict[str, Callable[[Any], None]] = {
    "no derivative of noise that is not given": attribute(
        families.BernoulliFamily, "normalized", lambda _: staticmethod(Tensor.detach)
    ),
    "a cost for each member of a plate that all of them change": attribute(
        Run, "summed", lambda f: lambda self, keys, name, joint=(), **o: f(self, keys, name, **o)
    ),
    "a cost downstream left out": attribute(Dependencies, "downstream", without("x")),
}


@pytest.mark.parametrize("mutant", RELAXED_MUTANTS)
def test_a_wrong_relaxed_control_variate_is_told_from_a_right_one(mutant, monkeypatch):
    program = PROGRAMS["together"]()
    exact = program.exact()
    RELAXED_MUTANTS[mutant](monkeypatch)
    drawn = program.drawn(lambda: DiscreteELBO(Rebar(0.6), 1, analytic=False), 6_000)
    assert (z_scores(drawn, exact) > 8).any()


# A plate of which each run draws a part


def subsampled(size: int) -> Copied:
    """The program of rows, of which each run has some."""

    def guide(p: Mapping[str, Tensor], infer: Callable[[str], dict[str, Any]]) -> None:
        with pyro.plate("rows", 2, subsample_size=size, dim=-1) as rows:
            b = pyro.sample("b", dist.Bernoulli(logits=p["b"][..., rows]), infer=infer("b"))
            pyro.sample("c", dist.Bernoulli(logits=p["c"][..., rows] + b), infer=infer("c"))

    def model(p: Mapping[str, Tensor]) -> None:
        with pyro.plate("rows", 2, subsample_size=size, dim=-1) as rows:
            b = pyro.sample("b", dist.Bernoulli(logits=p["prior"][..., rows]))
            c = pyro.sample("c", dist.Bernoulli(logits=p["prior"][..., rows] + 0.5))
            obs = torch.tensor([1.3, -0.4])[rows]
            pyro.sample("x", dist.Normal(b * p["weight"][..., rows] + b * c, 0.8), obs=obs)

    return Copied(dict.fromkeys(("b", "c", "prior", "weight"), (2,)), guide, model)


@pytest.mark.parametrize(
    ("name", "vectorized"),
    [("disarm", True)]
    + [(name, False) for name in ("rloo", "disarm", "muprop", "enumerate", "mvd", "unordered-set")],
)
def test_particles_have_the_same_rows(name, vectorized, monkeypatch):
    """The mutation: each particle has rows of its own, and draws of the first one's rows."""
    rows: list[Iterator[int]] = []

    def randperm(*args: Any, **kwargs: Any) -> Tensor:
        first = next(rows[-1])
        return torch.tensor([first, 1 - first])

    monkeypatch.setattr(torch, "randperm", randperm)
    make = maker(name, 1 if name == "muprop" else 2, vectorized=vectorized)
    total: dict[str, Any] = {}
    # What one run has, and what the next one would draw.
    for both in itertools.product((0, 1), repeat=2):
        rows.append(itertools.cycle(both))
        value, _ = subsampled(1).moments(make)
        for key, gradient in value.items():
            total[key] = total.get(key, 0.0) + gradient / 4
    torch.testing.assert_close(total, subsampled(2).exact(), **CLOSE)
