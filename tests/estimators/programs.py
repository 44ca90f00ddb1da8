"""Small Pyro programs that do what users' programs do, and their exact ELBO by enumeration.

A program is a row of presences with all that may stand around it. Everything continuous is Normal
with noise that is given, everything discrete is enumerated, so values and gradients are exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from hypothesis import strategies as st
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_models.presence import presence_logits

Place = Literal["no", "in", "out"]
"""Whether something is there, in the plate of the presences or outside of it."""


@dataclass(frozen=True)
class Spec:
    """What a program has beside presences, an appearance for each and an observation."""

    objects: Literal[1, 2] = 1
    pixels: bool = False
    """The observation is in a plate inside the presences' plate."""
    side: bool = False
    """A latent and an observation are in another plate, of another size, beside it."""
    subsampled: bool = False
    """The presences' plate takes two of three rows."""
    row_mask: bool = False
    """``poutine.mask`` takes a row out of model and guide."""
    scale_all: bool = False
    scale_likelihood: bool = False
    scale_prior: bool = False
    """The model's latents are scaled, the guide's are not."""
    unmasked: bool = False
    """The guide does not mask the first appearance, though the model does."""
    factor: Place = "no"
    guide_factor: Place = "no"
    latent: Literal["no", "before", "after"] = "no"
    """A global latent, which the guide draws before all others or after them."""
    observation: bool = False
    """A second observation is outside all plates."""
    discrete: Literal["no", "object", "row", "global"] = "no"
    """A further discrete latent: masked by the first presence, in its plate, or global."""
    auxiliary: Literal["no", "continuous", "discrete", "observed"] = "no"
    """A site of the guide alone, in the presences' plate."""
    conditioned: Literal["no", "z_0", "w_0", "d"] = "no"
    """A latent that the model is conditioned on, and the guide draws all the same."""


SPECS = st.builds(
    Spec,
    **{
        field.name: st.booleans()
        if field.type == "bool"
        else st.sampled_from(
            {
                "objects": (1, 2),
                "latent": ("no", "before", "after"),
                "discrete": ("no", "object", "row", "global"),
                "auxiliary": ("no", "continuous", "discrete", "observed"),
                "conditioned": ("no", "z_0", "w_0", "d"),
            }.get(field.name, ("no", "in", "out"))
        )
        for field in fields(Spec)
    },
)

DATA = torch.tensor([1.3, -0.2, 2.4], dtype=torch.float64)
ROWS = torch.tensor([0, 2])
NAMES = ("z", "w", "s", "g", "d", "a", "f", "prior_z", "prior_w", "prior_d", "bias")


class Pair:
    """A model and a guide with parameters.

    Args:
        spec: What they have.

    Attributes:
        parameters: By name, in double precision, differentiable.
        draws: The guide's discrete draws beside the presences, with the shapes of their plates.
        presences: The presences, with their shape.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        generator = torch.Generator().manual_seed(3)
        self.parameters = {
            name: (0.7 * torch.randn(2, generator=generator, dtype=torch.float64)).requires_grad_()
            for name in NAMES
        }
        self.rows = 2 if spec.subsampled else len(DATA)
        self.shape = (self.rows, 1) if spec.pixels else (self.rows,)
        self.presences = {f"z_{i}": self.shape for i in range(spec.objects)}
        self.draws = {}
        if spec.discrete != "no":
            self.draws["d"] = () if spec.discrete == "global" else self.shape
        if spec.auxiliary == "discrete":
            self.draws["aux"] = self.shape
        self.model: Callable[[], None] = self._model
        self.guide: Callable[[], None] = self._guide
        if spec.conditioned != "no":
            value = {"z_0": 1.0, "w_0": 0.4, "d": 1.0}[spec.conditioned]
            full = () if spec.conditioned == "d" and spec.discrete == "global" else self.shape
            data = {spec.conditioned: torch.full(full, value, dtype=torch.float64)}
            self.model = poutine.condition(self._model, data=data)
        if spec.scale_all:
            self.model = poutine.scale(self.model, scale=2.5)
            self.guide = poutine.scale(self.guide, scale=2.5)

    @property
    def outside(self) -> bool:
        """Whether a site is outside the presences' plate."""
        spec = self.spec
        more = spec.side, spec.observation, spec.latent != "no", spec.discrete == "global"
        return any(more) or "out" in (spec.factor, spec.guide_factor)

    @property
    def scale(self) -> float:
        """The scale of the guide's draws in the presences' plate."""
        return (2.5 if self.spec.scale_all else 1.0) * (1.5 if self.spec.subsampled else 1.0)

    def plate(self) -> Any:
        dim = -2 if self.spec.pixels else -1
        return pyro.plate("rows", 3, dim=dim, subsample=ROWS if self.spec.subsampled else None)

    def data(self) -> Tensor:
        x = DATA[ROWS] if self.spec.subsampled else DATA
        if self.spec.pixels:
            return x[:, None] + torch.tensor([0.0, 0.3], dtype=torch.float64)
        return x

    def row_mask(self) -> Any:
        if not self.spec.row_mask:
            return poutine.mask(mask=True)
        mask = torch.arange(self.rows) != 1
        return poutine.mask(mask=mask.reshape(self.shape))

    def _discrete(self, where: str, logits: Tensor) -> Tensor | float:
        if self.spec.discrete != where:
            return 0.0
        return pyro.sample("d", dist.Bernoulli(logits=logits))

    def _global(self, when: str, loc: Tensor, scale: Tensor) -> Tensor | float:
        if self.spec.latent != when:
            return 0.0
        return pyro.sample("g", dist.Normal(loc, scale))

    def _guide(self) -> None:
        spec, p = self.spec, self.parameters
        g = self._global("before", p["g"][0], p["g"][1].exp())
        d = self._discrete("global", p["d"][0])
        with self.plate(), self.row_mask():
            z: Any = None
            w: Any = 0.0
            for i in range(spec.objects):
                logits = p["z"][i] + 0.5 * w + 0.3 * g
                with poutine.mask(mask=True if z is None else z > 0):
                    z = pyro.sample(
                        f"z_{i}",
                        dist.Bernoulli(logits=presence_logits(z, logits)),
                        infer={"presence": True},
                    )
                with poutine.mask(mask=True if spec.unmasked and i == 0 else z > 0):
                    w = pyro.sample(f"w_{i}", dist.Normal(p["w"][i] + 0.2 * g, p["s"][i].exp()))
                if i == 0:
                    with poutine.mask(mask=z > 0):
                        d = d + self._discrete("object", p["d"][0] + 0.4 * w)
            d = d + self._discrete("row", p["d"][0] - 0.4 * w)
            if spec.auxiliary == "continuous":
                pyro.sample(
                    "aux", dist.Normal(p["a"][0], p["a"][1].exp()), infer={"is_auxiliary": True}
                )
            if spec.auxiliary == "discrete":
                pyro.sample("aux", dist.Bernoulli(logits=p["a"][0]), infer={"is_auxiliary": True})
            if spec.auxiliary == "observed":
                obs = torch.full(self.shape, 0.3, dtype=torch.float64)
                pyro.sample("aux", dist.Normal(p["a"][0] + w, 1.0), obs=obs)
            if spec.guide_factor == "in":
                pyro.factor("gf", p["f"][0] * (w + 1.0), has_rsample=True)
        if spec.side:
            with pyro.plate("others", 4, dim=-1):
                pyro.sample("v", dist.Normal(p["a"][1], 0.8))
        self._global("after", p["g"][0], p["g"][1].exp())
        if spec.guide_factor == "out":
            pyro.factor("gf", p["f"][0] * 2.0, has_rsample=True)

    def _model(self) -> None:
        spec, p = self.spec, self.parameters
        prior = poutine.scale(scale=1.7 if spec.scale_prior else 1.0)
        likelihood = poutine.scale(scale=0.4 if spec.scale_likelihood else 1.0)
        when = "before" if spec.latent == "no" else spec.latent
        with prior:
            g = self._global(when, torch.tensor(0.0, dtype=torch.float64), torch.tensor(2.0))
            d = self._discrete("global", p["prior_d"][0])
        canvas: Any = g
        with self.plate(), self.row_mask():
            with prior:
                z: Any = None
                for i in range(spec.objects):
                    with poutine.mask(mask=True if z is None else z > 0):
                        z = pyro.sample(
                            f"z_{i}",
                            dist.Bernoulli(logits=presence_logits(z, p["prior_z"][i])),
                            infer={"presence": True},
                        )
                    with poutine.mask(mask=z > 0):
                        w = pyro.sample(f"w_{i}", dist.Normal(p["prior_w"][i] + 0.3 * g, 1.0))
                        if i == 0:
                            d = d + self._discrete("object", p["prior_d"][0])
                    # A further latent of an object is of use where its object is.
                    more = 1 + 0.5 * d if i == 0 and spec.discrete == "object" else 1.0
                    canvas = canvas + z * w * more
                if spec.discrete == "row":
                    d = self._discrete("row", p["prior_d"][0])
            if spec.discrete in ("row", "global"):
                canvas = canvas + 0.8 * d
            if spec.factor == "in":
                pyro.factor("f", p["f"][1] * canvas)
            with ExitStack() as inside:
                if spec.pixels:
                    inside.enter_context(pyro.plate("pixels", 2, dim=-1))
                inside.enter_context(likelihood)
                pyro.sample("x", dist.Normal(canvas + p["bias"][0], 1.0), obs=self.data())
        if spec.side:
            with pyro.plate("others", 4, dim=-1):
                v = pyro.sample("v", dist.Normal(g, 1.0))
                pyro.sample("y", dist.Normal(v * p["bias"][1], 1.0), obs=torch.arange(4.0))
        if spec.factor == "out":
            pyro.factor("f", p["f"][1] * 3.0)
        if spec.observation:
            pyro.sample("u", dist.Normal(p["bias"][0] + g, 1.0), obs=torch.tensor(0.9))


class Given(Messenger):
    """Draws what is given: discrete values by name, and Normals from noise by name.

    Args:
        values: Discrete values.
        seed: Of the noise, which is the same whatever else is drawn, and in what order.
    """

    def __init__(self, values: Mapping[str, Tensor] | None = None, seed: int = 0) -> None:
        super().__init__()
        self.values = values or {}
        self.seed = seed

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if message["is_observed"] or message["done"]:
            return
        fn = message["fn"]
        if message["name"] in self.values:
            value = self.values[message["name"]].expand(fn.batch_shape)
            # As a draw does, it has the provenance of what it depends on: see TraceGraph_ELBO.
            message["value"] = value + 0.0 * fn.logits.detach()
            message["done"] = True
        elif isinstance(fn, dist.Normal):
            # Of the site's own plates, so that copies side by side have the same noise.
            dims = [f.dim for f in message["cond_indep_stack"] if f.name not in COPIES]
            shape = fn.batch_shape[min(dims, default=len(fn.batch_shape)) :]
            seed = self.seed + sum(map(ord, message["name"]))
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            message["value"] = fn.loc + fn.scale * noise.to(fn.loc)
            message["done"] = True


COPIES = ("combinations", "num_particles_vectorized")


def combinations(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[dict[str, Tensor]]:
    """Every assignment of 0 and 1 to sites of some shapes."""
    sizes = [int(torch.Size(shape).numel()) for shape in shapes.values()]
    for bits in itertools.product((0.0, 1.0), repeat=sum(sizes)):
        values = torch.tensor(bits, dtype=torch.float64).split(sizes)
        pairs = zip(shapes.items(), values, strict=True)
        yield {name: value.reshape(shape) for (name, shape), value in pairs}


@dataclass
class Enumerated:
    """Every combination of a guide's discrete draws, side by side.

    Attributes:
        log_q: The log-probability with which the guide draws each, of shape (M).
        elbo: The ELBO at each, of shape (M), with all scales and masks.
        by_row: The same of each row, of shape (M, rows), for a program without sites outside.
    """

    log_q: Tensor
    elbo: Tensor
    by_row: Tensor

    @property
    def mean(self) -> Tensor:
        """The ELBO, of shape ()."""
        return (self.log_q.exp() * self.elbo).sum()


def enumerate_all(pair: Pair, seed: int = 0) -> Enumerated:
    """Runs a pair once, by Pyro alone, at all combinations of its discrete draws."""
    shapes = pair.presences | pair.draws
    every = list(combinations(shapes))
    stacked = {
        # One dimension more, left of two plates.
        name: torch.stack([values[name] for values in every]).reshape(
            len(every), *(1,) * (2 - len(shape)), *shape
        )
        for name, shape in shapes.items()
    }
    copies = pyro.plate("combinations", len(every), dim=-3)
    with Given(stacked, seed):
        guide = poutine.trace(copies(pair.guide)).get_trace()
    model = poutine.trace(poutine.replay(copies(pair.model), trace=guide)).get_trace()
    log_q: Any = 0.0
    elbo: Any = 0.0
    by_row: Any = 0.0
    for sign, trace in ((1, model), (-1, guide)):
        trace = poutine.util.prune_subsample_sites(trace)
        trace.compute_log_prob()
        for name, site in trace.nodes.items():
            if site["type"] == "sample":
                elbo = elbo + sign * site["log_prob"].reshape(len(every), -1).sum(1)
                if not pair.outside:
                    by_row = by_row + sign * site["log_prob"].sum(-1 if pair.spec.pixels else -2)
                if sign < 0 and name in shapes:
                    log_q = log_q + site["unscaled_log_prob"].reshape(len(every), -1).sum(1)
    return Enumerated(log_q, elbo, by_row)


def gradients(value: Tensor, pair: Pair) -> dict[str, Tensor]:
    """Gradients of a value by all parameters."""
    values = torch.autograd.grad(
        value, list(pair.parameters.values()), materialize_grads=True, allow_unused=True
    )
    return dict(zip(pair.parameters, values, strict=True))


def in_the_mean(
    estimator: Any, pair: Pair, shapes: Mapping[str, tuple[int, ...]], seed: int = 0
) -> tuple[Tensor, dict[str, Tensor]]:
    """An estimator's loss and gradients, in the mean over draws that it does not sum out.

    Args:
        estimator: The estimator.
        pair: Model and guide.
        shapes: What it draws.
        seed: Of the noise.
    """
    mean: Any = 0.0
    total = {name: torch.zeros_like(value) for name, value in pair.parameters.items()}
    for values in combinations(shapes):
        with Given(values, seed), pyro.validation_enabled(False):
            guide = poutine.trace(pair.guide).get_trace()
        log_q = sum(guide.nodes[name]["fn"].log_prob(values[name]).sum() for name in shapes)
        weight = torch.as_tensor(log_q).exp().detach()
        if weight < 1e-12:
            # After an absent object none is drawn.
            continue
        loss = estimator.differentiable_loss(pair.model, Given(values, seed)(pair.guide))
        mean = mean + weight * loss.detach()
        for name, gradient in gradients(loss, pair).items():
            total[name] += weight * gradient
    return mean, total
