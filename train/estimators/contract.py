r"""What an estimator relies on in a pair of programs, found out by running them once.

Estimators that sum the number of objects out run a guide a single time, on the path on which every
object is present. That is right if the guide's other draws depend on presences by masks alone, and
if the model, given all numbers of objects side by side, does for each what it does for that one.
:func:`examine` tries both on the first batch, one number of objects after another, and refuses what
does not hold. So a program either has its exact value or an error that names a site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions import Bernoulli, Unit
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from pyro.util import check_site_shape
from torch import Tensor, nn

from pyro_models.presence import FixPresence, all_present
from train.estimators.costs import Site, log_prob, plates

Program = Callable[..., Any]
Pattern = tuple[bool, ...]
r"""For each number of objects :math:`0, \dots, N` whether a site's mask is true."""

ELSE = "use TraceGraphELBO, or pyro.infer.Trace_ELBO"


class Changed(ValueError):
    """A pair has other sites than when it was examined."""

    def __init__(self) -> None:
        super().__init__(
            "model or guide have other sites from run to run: mask them with poutine.mask, or "
            f"{ELSE}"
        )


class Contract(NamedTuple):
    r"""What holds of a model and guide.

    Attributes:
        nesting: The number of plates, one inside another.
        row: The names of the presences that the guide draws, in order; none if the estimator does
            not sum them out.
        guide: For each site of the guide at which numbers of objects its mask is true.
        model: The same for the model's; ``None`` where it is no matter of their number alone.
        absent: Presences of the model that say something where an earlier object is absent.
        ordered: Latents whose prior depends on nothing that the guide draws after them, so that
            a divergence in closed form is right.
        scales: For each draw of the guide its scale, as numbers.
    """

    nesting: int
    row: tuple[str, ...]
    guide: Mapping[str, Pattern]
    model: Mapping[str, Pattern | None]
    absent: tuple[str, ...]
    ordered: frozenset[str]
    scales: Mapping[str, Tensor]

    def require_same(
        self, guide: Mapping[str, Site], model: Mapping[str, Site] | None = None
    ) -> None:
        """Raises :class:`Changed` unless a run has the sites that were examined."""
        same = model is None or model.keys() == self.model.keys()
        if not same or guide.keys() != self.guide.keys():
            raise Changed

    def require_one_scale(self, estimator: str) -> None:
        """Raises :class:`ValueError` if draws of the guide have different scales."""
        for name, scale in self.scales.items():
            first = next(iter(self.scales))
            if not torch.allclose(*torch.broadcast_tensors(scale, self.scales[first])):
                raise ValueError(
                    f"sites {first} and {name} of the guide have different scales, by "
                    f"poutine.scale or a subsampled plate: a weight of {estimator} needs one; use "
                    "MarginalELBO or TraceGraphELBO"
                )


def samples(trace: Trace) -> dict[str, Site]:
    """The sites of a trace that have a log-probability, by name.

    Those of subsampling have none of their own, and what is recorded by ``pyro.deterministic``
    has none at all.
    """
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not site_is_subsample(site)
        and not site["infer"].get("_deterministic")
    }


def run_guide(
    guide: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    presence: Callable[[int, Site], Tensor] | None = None,
) -> tuple[Trace, tuple[str, ...]]:
    """A trace of the guide, with presences of given values if any, and the presences' names."""
    if presence is None:
        return poutine.trace(guide).get_trace(*args, **kwargs), ()
    with FixPresence(presence) as row:
        trace = poutine.trace(guide).get_trace(*args, **kwargs)
    return trace, tuple(row.names)


def run_model(
    model: Program, guide_trace: Trace, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Trace:
    """A trace of the model, replayed on the guide's."""
    return poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)


def with_values(trace: Trace, values: Mapping[str, Tensor]) -> Trace:
    """A copy of a trace in which some sites have other values."""
    copy = trace.copy()
    for name, value in values.items():
        # Not in place: the copy has the very sites of the trace.
        copy.nodes[name] = {**trace.nodes[name], "value": value}
    return copy


def require_bernoulli(trace: Trace, row: tuple[str, ...]) -> None:
    """Raises :class:`ValueError` if a presence is drawn from another distribution."""
    for name in row:
        fn = trace.nodes[name]["fn"]
        if not isinstance(fn, Bernoulli):
            raise ValueError(
                f"site {name} is marked as a presence and is a {type(fn).__name__}: draw it from a "
                "Bernoulli, and mask it with poutine.mask"
            )


def require_match(model_trace: Trace, guide_trace: Trace, *, enumerates: bool = False) -> None:
    """Raises :class:`ValueError` where a pair has no ELBO that could be estimated.

    A latent that the guide lacks has no density to be held against, and a factor of the guide has
    no gradient unless it says that it is differentiable.

    Args:
        model_trace: The model's, replayed on the guide's.
        guide_trace: The guide's.
        enumerates: Whether the estimator sums out latents that the model marks for it.
    """
    model, guide = samples(model_trace), samples(guide_trace)
    for name, site in model.items():
        summed = enumerates and site["infer"].get("enumerate") == "parallel"
        if name not in guide and not site["is_observed"] and not summed:
            raise ValueError(
                f"site {name} is drawn by the model and is not in the guide: have the guide draw "
                "it, or observe it (poutine.block hides sites)"
            )
    for name, site in guide.items():
        if isinstance(site["fn"], Unit) and not site["fn"].has_rsample:
            raise ValueError(
                f"site {name} is a factor of the guide: give pyro.factor(..., has_rsample=True) if "
                "it is a differentiable term; one of a draw that is not reparameterised needs "
                "pyro.infer.Trace_ELBO"
            )


def nesting_of(*traces: Trace) -> int:
    """The number of plates of traces, one inside another."""
    sites = [site for trace in traces for site in samples(trace).values()]
    return max((-frame.dim for site in sites for frame in plates(site)), default=0)


@contextmanager
def undisturbed(*programs: Program) -> Iterator[Callable[[], None]]:
    """Lets programs run beside training: random numbers and buffers are then as they were.

    Yields:
        A function that starts the random numbers anew, the same each time.
    """
    # A handler around a module is a function of its own, and so is a module's method.
    bare = [poutine.unwrap(program) for program in programs]
    modules = [each for part in bare for each in (part, getattr(part, "__self__", None))]
    modules = [each for each in modules if isinstance(each, nn.Module)]
    buffers = [held for each in modules for held in each.buffers()]
    held = [*buffers, *(weight for each in modules for weight in each.parameters())]
    kept = [(each, each._version, each.clone()) for each in buffers]
    devices = sorted({each.device.index for each in held if each.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.no_grad(), poutine.block():
        # Other numbers than those that come next, so that a parameter that is made meanwhile is
        # not made of the numbers of the first draws.
        seed = int(torch.randint(2**31, ()))
        try:
            yield lambda: torch.manual_seed(seed)
        finally:
            for each, version, before in kept:
                # Only what was written to: a graph made before may need the others as they are.
                if each._version != version:
                    each.copy_(before)


def examine(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    by_count: bool,
) -> Contract:
    """Runs a pair and finds out what holds of it; waits for the device.

    Args:
        model: The model.
        guide: Its guide.
        args: Passed to both.
        kwargs: Passed to both.
        by_count: Whether the estimator sums out the number of objects.

    Raises:
        ValueError: If what the estimator relies on does not hold; the message names the site.
    """
    with undisturbed(model, guide) as restart:
        restart()
        path, row = run_guide(guide, args, kwargs, all_present if by_count else None)
        if by_count and not marked(path):
            raise ValueError(
                'no site of the guide is marked with infer={"presence": True}: mark the presences, '
                f"or {ELSE}"
            )
        require_bernoulli(path, row)
        model_path = run_model(model, path, args, kwargs)
        require_match(model_path, path)
        if is_validation_enabled():
            for trace in (path, model_path):
                for site in samples(trace).values():
                    check_site_shape({**site, "log_prob": log_prob(site)}, float("inf"))
        contract = Contract(
            nesting=nesting_of(path, model_path),
            row=row,
            guide=dict.fromkeys(samples(path), (True,)),
            model=dict.fromkeys(samples(model_path), (True,)),
            absent=(),
            ordered=ordered(model_path, path),
            scales={
                name: torch.as_tensor(site["scale"]).detach().cpu()
                for name, site in samples(path).items()
                if not site["is_observed"]
            },
        )
        if row:
            contract = Examination(model, guide, args, kwargs, restart, contract).contract()
    return contract


def marked(trace: Trace) -> bool:
    """Whether a trace has a site that is marked as a presence, drawn or observed."""
    return any(site["infer"].get("presence") for site in samples(trace).values())


def ordered(model_trace: Trace, guide_trace: Trace) -> frozenset[str]:
    """Latents before which the model draws nothing that the guide draws after them."""
    place = {name: i for i, name in enumerate(samples(guide_trace))}
    latents = [name for name, site in samples(model_trace).items() if not site["is_observed"]]
    latest, found = -1, set()
    for name in latents:
        if place[name] > latest:
            found.add(name)
        latest = max(latest, place[name])
    return frozenset(found)


class Examination:
    """Runs a pair at one number of objects after another, and at all of them side by side.

    Args:
        model: The model.
        guide: Its guide.
        args: Passed to both.
        kwargs: Passed to both.
        restart: Starts random numbers anew, so that runs differ in the number of objects alone.
        known: What is known without it.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        restart: Callable[[], None],
        known: Contract,
    ) -> None:
        self.model, self.guide, self.args, self.kwargs = model, guide, args, kwargs
        self.restart = restart
        self.known = known
        restart()
        first, self.row = run_guide(guide, args, kwargs, all_present)
        self.path = self.guide_at(first, len(self.row))
        self.plates = plates(self.path.nodes[self.row[0]])
        for name in self.row:
            if plates(self.path.nodes[name]) != self.plates:
                raise ValueError(
                    f"site {name} is marked as a presence and is in other plates than "
                    f"{self.row[0]}: {ELSE}"
                )

    def guide_at(self, values: Trace, count: int | Tensor) -> Trace:
        """The guide with its first ``count`` objects present, and all else as in a trace."""
        others = values.copy()
        for name in self.row:
            others.remove_node(name)
        self.restart()
        trace, _ = run_guide(
            poutine.replay(self.guide, trace=others),
            self.args,
            self.kwargs,
            lambda step, site: torch.as_tensor(step < count) * all_present(step, site),
        )
        return trace

    def model_at(self, guide_trace: Trace) -> dict[str, Site]:
        """The model's sites on a trace of the guide."""
        self.restart()
        return samples(run_model(self.model, guide_trace, self.args, self.kwargs))

    def contract(self) -> Contract:
        """What was found.

        Raises:
            ValueError: If a site is not what an estimator may rely on.
        """
        counts = range(len(self.row) + 1)
        guides = [self.guide_at(self.path, n) for n in counts]
        sites = [samples(trace) for trace in guides]
        models = [self.model_at(trace) for trace in guides]
        for kind, runs in (("guide", sites), ("model", models)):
            for run in runs:
                for name in run.keys() ^ runs[-1].keys():
                    raise ValueError(
                        f"site {name} of the {kind} is there at some numbers of objects only: "
                        f"have it masked with poutine.mask instead, or {ELSE}"
                    )
        self.check_presences(sites)
        patterns = {
            name: self.guide_pattern(name, [run[name] for run in sites]) for name in sites[-1]
        }
        for n, trace in enumerate(guides):
            self.check_laws(n, trace, sites, models[n], patterns)
        together = self.check_side_by_side(models)
        self.check_rows(sites[-1], together, patterns)
        for name, pattern in patterns.items():
            self.check_plates(name, sites[-1][name], self.plates, not all(pattern))
        return self.known._replace(
            guide=patterns,
            model={name: self.pattern([run[name] for run in models]) for name in models[-1]},
            absent=tuple(
                name
                for i, name in enumerate(self.row)
                if not models[-1][name]["is_observed"]
                if any(seen(models[n][name]).abs().max() > 1e-3 for n in range(i))
            ),
        )

    def check_presences(self, sites: list[dict[str, Site]]) -> None:
        """After an absent object the next is absent for certain, in the guide."""
        for i, name in enumerate(self.row):
            for n in range(i):
                if log_prob(sites[n][name]).abs().max() > 1e-3:
                    raise ValueError(
                        f"site {name} may be present after {self.row[n]} is absent: draw it with "
                        f"pyro_models.presence.presence_logits, or {ELSE}"
                    )

    def pattern(self, runs: list[Site]) -> Pattern | None:
        """At which numbers of objects a mask is true; ``None`` if something else is in it."""
        *_, full = (mask_of(site) for site in runs)
        found = []
        for mask in map(mask_of, runs):
            same = bool((mask == full).all())
            if not same and bool(mask.any()):
                return None
            found.append(same)
        return tuple(found)

    def guide_pattern(self, name: str, runs: list[Site]) -> Pattern:
        """The same of a site of the guide, which has to be no more than that."""
        found = self.pattern(runs)
        if name in self.row:
            place = self.row.index(name)
            # Absent for certain, it costs nothing, masked or not.
            if found is not None and all(found[n] for n in range(place, len(runs))):
                return tuple(n >= place for n in range(len(runs)))
            found = None
        if found is None:
            raise ValueError(
                f"site {name} of the guide is masked by something else than the presence of "
                f"objects before it: {ELSE}"
            )
        return found

    def check_laws(
        self,
        n: int,
        trace: Trace,
        sites: list[dict[str, Site]],
        model_sites: dict[str, Site],
        patterns: Mapping[str, Pattern],
    ) -> None:
        """Draws of the guide do not depend on presences, or are masked and of no further use."""
        moved = {}
        for name, site in sites[n].items():
            if name in self.row or alike(log_prob(site), log_prob(sites[-1][name])):
                continue
            if patterns[name][n] or site["is_observed"]:
                raise ValueError(
                    f"site {name} of the guide depends on presences otherwise than by "
                    f"poutine.mask, or on random numbers that are no sites: {ELSE}"
                )
            moved[name] = site["fn"].sample()
        if not moved:
            return
        # Masked where its object is absent, and drawn from another distribution there: that is no
        # matter if nothing looks at it.
        other = self.guide_at(with_values(self.path, moved), n)
        again = {"guide": (samples(other), sites[n]), "model": (self.model_at(other), model_sites)}
        for kind, (found, before) in again.items():
            for name, site in found.items():
                if not alike(seen(site), seen(before[name])):
                    raise ValueError(
                        f"site {name} of the {kind} depends on {', '.join(moved)} where its object "
                        f"is absent, and the guide draws it in another way there: {ELSE}"
                    )

    def check_side_by_side(self, models: list[dict[str, Site]]) -> dict[str, Tensor]:
        """Given every number of objects at once, the model does for each what it does for one.

        Returns:
            The log-probability of each site, masked and not scaled, by count if it depends on it.
        """
        broadcast = "it must broadcast over a dimension left of its plates"
        dim = self.known.nesting + 1
        steps = by_count(len(self.row), dim, log_prob(self.path.nodes[self.row[0]]))
        stacked = with_values(self.path, dict(zip(self.row, steps, strict=True)))
        try:
            together = self.model_at(stacked)
            values = {name: seen(site) for name, site in together.items()}
        # Whatever a model that was written for one number of objects makes PyTorch raise.
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ValueError(
                f"the model fails given presences of shape {tuple(steps[0].shape)}, a row for each "
                f"number of objects ({str(error).splitlines()[0]}): {broadcast}, or {ELSE}"
            ) from error
        own = plates(together[self.row[0]]) if self.row[0] in together else self.plates
        for name, value in values.items():
            for n, run in enumerate(models):
                if name not in run or not alike(self.at(value, n), seen(run[name])):
                    raise ValueError(
                        f"site {name} of the model has another log-probability given all numbers "
                        f"of objects at once than given {n}: {broadcast}, or {ELSE}"
                    )
            # Rows of a table are filled with one number of objects each: a site that sees several
            # rows at a time would see no other combination.
            depends = self.counted(value) and bool(value.any())
            self.check_plates(name, together[name], own, depends)
        return values

    def counted(self, value: Tensor) -> bool:
        """Whether a value depends on the number of objects."""
        dim = self.known.nesting + 1
        return value.ndim >= dim and value.shape[-dim] > 1

    def at(self, value: Tensor, count: int) -> Tensor:
        """A value by count at one number of objects."""
        return value.select(-self.known.nesting - 1, count) if self.counted(value) else value

    def check_rows(
        self, full: dict[str, Site], together: dict[str, Tensor], patterns: Mapping[str, Pattern]
    ) -> None:
        """Members of the presences' plate depend on their own number of objects alone."""
        first = log_prob(full[self.row[0]])
        members = torch.arange(first.numel(), device=first.device).reshape(first.shape)
        # Two orders, lest one be the same from either end.
        for order in (members, members // 2):
            self.check_mixed(order % (len(self.row) + 1), full, together, patterns)

    def check_mixed(
        self,
        counts: Tensor,
        full: dict[str, Site],
        together: dict[str, Tensor],
        patterns: Mapping[str, Pattern],
    ) -> None:
        """Given numbers of objects that differ, each member has the value of its own."""
        trace = self.guide_at(self.path, counts)
        zero = log_prob(full[self.row[0]]).new_zeros(())
        pairs = {}
        for name, site in samples(trace).items():
            wanted = seen(full[name])
            if not all(patterns[name]):
                holds = torch.tensor(patterns[name], device=counts.device)
                wanted = torch.where(holds[counts], wanted, zero)
            if name not in self.row:
                pairs["guide", name] = wanted, seen(site)
        for name, site in self.model_at(trace).items():
            wanted = together[name]
            if self.counted(wanted):
                wanted = sum(
                    torch.where(counts == n, self.at(wanted, n), zero)
                    for n in range(len(self.row) + 1)
                )
            pairs["model", name] = wanted, seen(site)
        for (kind, name), (wanted, value) in pairs.items():
            if not alike(wanted, value):
                raise ValueError(
                    f"site {name} of the {kind} depends on presences of other members of its "
                    f"plate: {ELSE}"
                )

    def check_plates(self, name: str, site: Site, own: frozenset[Any], depends: bool) -> None:
        """What depends on a presence is inside the presence's plates."""
        if depends and not own <= plates(site):
            names = ", ".join(sorted(frame.name for frame in own - plates(site)))
            raise ValueError(
                f"site {name} depends on {self.row[0]} and is outside its plate {names}: {ELSE}"
            )


def by_count(objects: int, dim: int, like: Tensor) -> list[Tensor]:
    """Presences at every number of objects: for each step 0 or 1, a row for each number.

    Args:
        objects: The largest number.
        dim: Which dimension, from the right, has the numbers: 1 for the last.
        like: Gives device and type.

    Returns:
        For each step a tensor of shape (objects + 1, 1, ..., 1), of ``dim`` dimensions.
    """
    counts = torch.arange(objects + 1, device=like.device).reshape(-1, *(1,) * (dim - 1))
    return [(counts > i).to(like.dtype) for i in range(objects)]


def mask_of(site: Site) -> Tensor:
    """A site's mask as a tensor."""
    mask = True if site["mask"] is None else site["mask"]
    return torch.as_tensor(mask, device=log_prob(site).device).expand(log_prob(site).shape)


def seen(site: Site) -> Tensor:
    """A site's log-probability, zero where it is masked; not scaled."""
    return scale_and_mask(log_prob(site), mask=site["mask"])


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether log-probabilities are the same but for rounding."""
    one, other = torch.broadcast_tensors(one, other)
    return torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-3, equal_nan=True)
