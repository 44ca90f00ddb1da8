"""The page on gradients of discrete latents: its Python runs, and what it says is so."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from torch import Tensor, nn

from tests.pages import blocks, read
from train.estimators import SITE_ESTIMATORS, DiscreteELBO, MultiSampleELBO, Relax
from train.estimators.discrete.dependencies import find_dependencies
from train.estimators.discrete.families import BernoulliFamily

PAGE = read("docs/estimators.md")
BLOCKS = blocks(PAGE)
RUN = ("first", "sites", "instance", "own", "own-check", "sbn", "mixture", "hmm")
"""The blocks that tests of this file run."""


def run(*names: str, **changes: str) -> dict[str, Any]:
    """Runs blocks one after another, and returns the names that they define.

    Args:
        names: The blocks.
        changes: By text, which is in one of the blocks, the text in its place: a mutation.
    """
    assert set(names) <= set(RUN)
    assert all(any(old in BLOCKS[name] for name in names) for old in changes)
    defined: dict[str, Any] = {}
    for name in names:
        code = BLOCKS[name]
        for old, new in changes.items():
            code = code.replace(old, new)
        exec(code, defined)
    return defined


def table(head: str) -> list[list[str]]:
    """The rows of the page's table whose first line begins with some text."""
    (body,) = re.findall(rf"^{re.escape(head)}.*\n\| ---.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in body.splitlines()]


def test_every_block_is_run():
    assert set(BLOCKS) == set(RUN)


def test_ten_lines_train_a_model():
    losses = run("first")["losses"]
    start, end = re.search(r"The loss falls from (\d+) nats an image to (\d+)", PAGE).groups()
    assert losses[0] == pytest.approx(float(start), abs=1)
    assert losses[-1] == pytest.approx(float(end), abs=1)


def test_each_site_has_an_estimator_of_its_own():
    names = run("sites")
    assert names["kinds"].argmax() == 2
    assert names["kinds"][2] > 0.8
    assert (names["present"] > 0.9).tolist() == [True, True, True, False, True]
    assert names["present"][3] < 0.1
    # learn=False.
    assert names["rebar"].log_temperature.exp().item() == pytest.approx(0.2)


def test_an_instance_of_the_guide_is_trained():
    """In SVI and in a plain loop: the network of Relax has its gradient in both."""
    names = run("instance")
    network = names["guide"].relax.network
    trained = [*names["guide"].parameters(), *names["model"].parameters()]
    assert {id(weight) for weight in trained} == set(map(id, names["elbo"].parameters()))
    assert all(weight.grad.abs().sum() > 0 for weight in network[0].parameters())
    assert names["losses"][0] > 40
    assert names["losses"][-1] < 25
    assert names["loss"] < names["losses"][-1]
    # What SVI alone does.
    alone = BLOCKS["instance"].split("# The same pair")[0].replace("range(50)", "range(2)")
    copied = "started = [weight.clone() for weight in guide.parameters()]"
    defined: dict[str, Any] = {}
    exec(alone.replace("svi = SVI", f"{copied}\nsvi = SVI"), defined)
    pairs = zip(defined["started"], defined["guide"].named_parameters(), strict=True)
    same = {name for before, (name, weight) in pairs if torch.equal(before, weight)}
    # A constant beside the cost cancels.
    assert same <= {"relax.network.2.bias"}


def test_parameters_of_the_default_need_no_line():
    names = run("first", **{"range(100)": "range(1)"})
    pyro.clear_param_store()
    elbo = DiscreteELBO("rebar")
    start = elbo.default.log_temperature.item()
    svi = SVI(names["model"], names["guide"], pyro.optim.Adam({"lr": 0.03}), elbo)
    svi.step(names["digits"])
    assert "estimators$$$rebar.log_temperature" in pyro.get_param_store()
    assert elbo.default.log_temperature.item() != start
    module = DiscreteELBO("rebar")(nn.Module(), nn.Module())
    assert {id(weight) for weight in module.elbo.default.parameters()} == {
        id(weight) for weight in module.parameters()
    }


def test_a_plain_loop_cannot_make_parameters_late():
    code = BLOCKS["instance"].replace("self.relax}", '"rebar"}').split("svi = SVI")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    elbo = DiscreteELBO()(names["model"], names["guide"])
    with pytest.raises(ValueError, match=r"site z names rebar.*an attribute of the guide"):
        elbo(names["digits"])


def test_the_table_says_what_the_estimators_are():
    rows = {row[0].strip("`"): row for row in table("| name | distributions")}
    assert set(rows) == {*SITE_ESTIMATORS, "Relax(network)"}
    for name, (_, kinds, evaluations, unbiased, slope, learned, *_) in rows.items():
        made = SITE_ESTIMATORS[name]() if name in SITE_ESTIMATORS else Relax(nn.Linear(3, 1))
        if default := re.search(r"K.*\((\d)\)$", evaluations):
            assert int(default[1]) == made.particles == made.fewest, name
        assert ("even" in evaluations) == made.even, name
        smooth = made.needs_gradient or made.softens or made.relaxes
        if not made.needs_family:
            expected = "any"
        elif made.families == (BernoulliFamily,):
            expected = "Bernoulli"
        else:
            expected = "Bernoulli, one-hot" if smooth else "Bernoulli, one-hot, categorical"
        assert kinds.split(";")[0] == expected, name
        assert (unbiased == "**no**") == made.relaxes, name
        assert (slope != "no") == smooth, name
        assert (slope == "between") == (made.softens or name == "gumbel"), name
        assert (learned != "no") == bool(list(made.parameters())), name
    bounds = {row[0].strip("`"): row[2] for row in table("| `gradient` | distributions")}
    assert set(bounds) == {"vimco", "disarm", "reinforce"}
    for gradient, evaluations in bounds.items():
        fewest = int(re.search(r"\((\d)\)$", evaluations)[1])
        MultiSampleELBO(fewest, gradient=gradient)
        with pytest.raises(ValueError, match="num_particles"):
            MultiSampleELBO(fewest - 1, gradient=gradient)


def chain(length: int, estimator: Any, kind: Callable[[Tensor], Any]) -> tuple[Any, Any, list[int]]:
    """A chain of latents in model and guide, and a list of the particles of each run."""
    sizes: list[int] = []
    table = torch.randn(length, 3, 3)

    def logits(i: int, before: Tensor | None) -> Tensor:
        return table[i, 0] if before is None else (before[..., None, :] * table[i]).sum(-1)

    def latents(**options: Any) -> list[Tensor]:
        values: list[Tensor] = []
        for i in range(length):
            fn = kind(logits(i, values[-1] if values else None))
            values.append(pyro.sample(f"z{i}", fn, **options))
        return values

    def model() -> None:
        with pyro.plate("data", 5):
            values = latents()
            sizes.append(values[0].shape[0] if values[0].ndim > 2 else 1)
            # Each latent has a cost of its own, as otherwise none is evaluated at relaxed values.
            for i, value in enumerate(values):
                pyro.sample(f"x{i}", dist.Normal(value.sum(-1), 1.0), obs=torch.zeros(5))

    def guide() -> None:
        with pyro.plate("data", 5):
            latents(infer={"estimator": estimator})

    return model, guide, sizes


def evaluations_of(name: str, length: int, particles: int) -> list[int]:
    """How many particles each run of an estimate has, in a chain of three-bit latents."""
    estimator = Relax(nn.Linear(3, 1)) if name == "Relax" else SITE_ESTIMATORS[name]()
    kind = (
        (lambda logits: dist.OneHotCategorical(logits=logits))
        if name in ("mvd", "unordered-set", "enumerate")
        else (lambda logits: dist.Bernoulli(logits=logits).to_event(1))
    )
    model, guide, sizes = chain(length, estimator, kind)
    elbo = DiscreteELBO(num_particles=particles)
    elbo.loss_and_terms(model, guide)
    sizes.clear()
    elbo.loss_and_terms(model, guide)
    return sizes


@pytest.mark.parametrize("name", [*SITE_ESTIMATORS, "Relax"])
def test_runs_and_evaluations_are_those_of_the_table(name):
    (row,) = [row for row in table("| estimator | runs | evaluations") if f"`{name}`" in row[0]]
    for length in (1, 3):
        sizes = evaluations_of(name, length, particles=2)
        _, runs, evaluations = row
        if name == "enumerate":
            assert sizes == [3**length]
        elif name in ("mvd", "unordered-set"):
            assert runs == "one for each site"
            assert sizes == [3 if name == "mvd" else 2] * length
        else:
            products = re.sub(r" (?=[KL]\b)(?<=[\dKL] )", "*", evaluations)
            assert sum(sizes) == eval(products, {"K": 2, "L": length}), evaluations
            each = "one more for each" in runs or "one for each" in runs
            assert len(sizes) == ("one for all" in runs) + (length if each else 0)


def test_sites_that_do_not_depend_on_each_other_share_a_run():
    sizes = []

    def model():
        a, b = (pyro.sample(name, dist.Bernoulli(0.5)) for name in "ab")
        sizes.append(a.numel())
        pyro.sample("x", dist.Normal(a + b, 1.0), obs=torch.tensor(1.0))

    def guide():
        for name in "ab":
            pyro.sample(name, dist.Bernoulli(pyro.param(f"{name}_p", torch.tensor(0.4))))

    elbo = DiscreteELBO("disarm")
    elbo.loss_and_terms(model, guide)
    sizes.clear()
    elbo.loss_and_terms(model, guide)
    assert sizes == [2]


def written(z: Tensor) -> Tensor:
    canvas = torch.zeros(1, 2)
    canvas[:, 0] = z
    return canvas.sum()


FOLLOWED = {
    "where": lambda z: torch.where(z > 0, 1.0, 0.0),
    "table": lambda z: torch.tensor([0.0, 1.0])[z.long()],
    "stack": lambda z: torch.stack([z, torch.zeros(())]).sum(),
}
NOT_FOLLOWED = {
    "item": lambda z: torch.tensor(1.0) if z.item() > 0 else torch.tensor(0.0),
    "int": lambda z: torch.tensor([0.0, 1.0])[int(z)],
    "tensor": lambda z: torch.tensor(z.tolist()),
    "write": written,
}


@pytest.mark.parametrize("name", [*FOLLOWED, *NOT_FOLLOWED])
def test_what_is_followed(name):
    """Beside z is a latent that x does not depend on; the mutation: no look at what changes."""
    mean = {**FOLLOWED, **NOT_FOLLOWED}[name]

    def model():
        pyro.sample("other", dist.Bernoulli(0.5))
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(mean(z), 1.0), obs=torch.tensor(1.0))

    def guide():
        pyro.sample("other", dist.Bernoulli(0.3))
        pyro.sample("z", dist.Bernoulli(0.3))

    found = find_dependencies(model, guide, (), {})
    x = ("log_likelihood", "x")
    assert x in found.downstream("z")
    assert (x in found.downstream("other")) == (name in NOT_FOLLOWED)


def test_an_own_estimator_is_unbiased():
    names = run("own", "own-check")
    assert (names["z_scores"].abs() < 4).all()
    (gain,) = re.findall(r"# about ([\d.]+)", BLOCKS["own-check"])
    assert names["gain"].item() == pytest.approx(float(gain), rel=0.25)


def test_an_own_estimator_with_the_mean_of_all_is_not():
    """The mutation that the page warns of: the gradient shrinks by 1 - 1 / N."""
    others = "(cost.sum(-1, keepdim=True) - cost) / (data - 1)"
    mean = {others: "cost.mean(-1, keepdim=True)"}
    (gain,) = re.findall(r"^gain = .*$", BLOCKS["own-check"], re.MULTILINE)
    names = run("own", "own-check", **mean, **{gain: ""})
    assert (names["z_scores"].abs() > 5).any()
    ratio = names["draws"].mean(0) @ names["exact"] / names["exact"].square().sum()
    assert ratio.item() == pytest.approx(1 - 1 / 4, abs=0.05)


def test_an_own_estimator_refuses_data_that_share_a_cost():
    kind = run("own")["OtherData"]

    def model():
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=torch.tensor(1.0))

    def guide():
        with pyro.plate("data", 4):
            logits = pyro.param("z_logits", torch.zeros(4))
            pyro.sample("z", dist.Bernoulli(logits=logits))

    with pytest.raises(ValueError, match="site z needs a plate"):
        DiscreteELBO(kind()).loss_and_grads(model, guide)


def test_a_sigmoid_belief_network():
    results = run("sbn")["results"]
    rows = table("| estimator | runs | ELBO |")
    assert [row[0].strip("`") for row in rows] == list(results)
    for name, _, elbo, bound in rows:
        # Four standard deviations over seeds.
        within = 0.8 if name == "`reinforce`" else 0.4
        assert results[name.strip("`")] == pytest.approx([float(elbo), float(bound)], abs=within)
    for elbo, bound in results.values():
        assert bound > elbo
    assert min(results["rloo"][0], results["disarm"][0]) > results["reinforce"][0] + 0.5


def test_the_posterior_of_a_likelihood_is_found():
    names = run("mixture")
    evidence, posterior = names["evidence"].item(), names["posterior"].item()
    says = re.search(r"log-evidence is (\S+) nats, and .* Laplace noise is ([\d.]+)\. Each", PAGE)
    assert [evidence, posterior] == pytest.approx([float(says[1]), float(says[2])], abs=0.006)
    rows = table("| of the family, of clusters")
    assert [row[0].replace("`", "") for row in rows] == list(names["results"])
    for row, (elbo, probability) in zip(rows, names["results"].values(), strict=True):
        assert evidence - 0.1 < elbo < evidence + 1e-4
        assert probability == pytest.approx(posterior, abs=0.05)
        assert [elbo, probability] == pytest.approx(list(map(float, row[2:])), abs=0.03)


def forward(x: Tensor, transition: Tensor, emission: Tensor) -> float:
    """The log-evidence of sequences, by the forward algorithm."""
    states = len(transition)
    log_p = torch.full((len(x), states), 1 / states).log()
    for t in range(x.shape[1]):
        if t:
            log_p = (log_p[:, :, None] + transition.log_softmax(-1)).logsumexp(1)
        log_p = log_p + emission.log_softmax(-1)[:, x[:, t]].T
    return log_p.logsumexp(-1).mean().item()


def test_a_hidden_markov_model():
    names = run("hmm")
    distance, expected = names["distance"].item(), names["expected_distance"].item()
    assert distance < 1.5 * expected
    says = re.search(r"times `expected_distance`, and (\d)% of the gradient", PAGE)
    assert distance / names["true"].norm().item() == pytest.approx(int(says[1]) / 100, abs=0.01)
    history = names["history"]
    rows = table("| step | ELBO | evidence |")
    assert len(rows) == len(history)
    for (_, elbo, evidence), (found, error, exact) in zip(rows, history, strict=True):
        assert found < exact + 4 * error
        assert exact == pytest.approx(float(evidence), abs=0.05)
        assert found == pytest.approx(float(elbo.split(" ± ")[0]), abs=0.05)
    assert history[-1][2] - history[-1][0] < 0.03
    with torch.no_grad():
        x, model = names["x"], names["model"]
        assert history[-1][2] == pytest.approx(forward(x, model.transition, model.emission), 1e-4)
        truth = forward(x, names["stay"], names["show"])
    (says_truth,) = re.findall(r"The model that made the data has an evidence\nof (-[\d.]+)", PAGE)
    assert truth == pytest.approx(float(says_truth), abs=1e-3)
    assert history[-1][2] > truth
