"""What an estimator relies on in a pair of model and guide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from pyro.distributions import Bernoulli, Unit
from pyro.poutine import Trace
from torch import Tensor

from train.estimators.costs import Site
from train.estimators.programs import max_nesting, samples

CountMask = tuple[bool, ...]
r"""Whether a site's mask is true at each count :math:`0, \dots, N`."""

OTHER_ESTIMATORS = "use TraceGraphELBO, or pyro.infer.Trace_ELBO"


class SitesChanged(ValueError):
    """Model or guide have other sites than when they were examined.

    Args:
        message: What is said; Pyro's trace adds shapes to it.
    """

    def __init__(
        self,
        message: str = "model or guide have other sites from run to run: mask them with "
        f"poutine.mask, or {OTHER_ESTIMATORS}",
    ) -> None:
        super().__init__(message)


class Contract(NamedTuple):
    r"""What holds of a model and guide.

    Attributes:
        nesting: The largest depth of nested plates.
        presences: The names of the presences that the guide draws, in order; none if the estimator
            does not sum them out.
        guide_masks: By site of the guide, the counts at which its mask is true.
        model_masks: By site of the model, the counts at which its mask is true; ``None`` where the
            mask depends on something else as well.
        nonzero_after_absent: The model's presences whose log-probability is not zero after an
            absent object.
        ordered: The latents whose prior depends on nothing that the guide draws after them, so that
            a KL divergence in closed form is right.
        scales: The scale of each draw of the guide, on the CPU.
    """

    nesting: int
    presences: tuple[str, ...]
    guide_masks: Mapping[str, CountMask]
    model_masks: Mapping[str, CountMask | None]
    nonzero_after_absent: tuple[str, ...]
    ordered: frozenset[str]
    scales: Mapping[str, Tensor]

    def require_sites(
        self, guide: Mapping[str, Site], model: Mapping[str, Site] | None = None
    ) -> None:
        """Raises :class:`SitesChanged` unless the sites are those that were examined."""
        model_agrees = model is None or model.keys() == self.model_masks.keys()
        if not model_agrees or guide.keys() != self.guide_masks.keys():
            raise SitesChanged

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


def contract_without_counts(model_trace: Trace, guide_trace: Trace) -> Contract:
    """Returns the contract of a pair for an estimator that draws presences like other latents."""
    return Contract(
        nesting=max_nesting(guide_trace, model_trace),
        presences=(),
        guide_masks=dict.fromkeys(samples(guide_trace), (True,)),
        model_masks=dict.fromkeys(samples(model_trace), (True,)),
        nonzero_after_absent=(),
        ordered=ordered_latents(model_trace, guide_trace),
        scales={
            name: torch.as_tensor(site["scale"]).detach().cpu()
            for name, site in samples(guide_trace).items()
            if not site["is_observed"]
        },
    )


def ordered_latents(model_trace: Trace, guide_trace: Trace) -> frozenset[str]:
    """Returns the latents before which the model draws nothing that the guide draws after them."""
    position = {name: i for i, name in enumerate(samples(guide_trace))}
    latents = [name for name, site in samples(model_trace).items() if not site["is_observed"]]
    latest, names = -1, set()
    for name in latents:
        if position[name] > latest:
            names.add(name)
        latest = max(latest, position[name])
    return frozenset(names)


def require_bernoulli(trace: Trace, presences: tuple[str, ...]) -> None:
    """Raises :class:`ValueError` if a presence is not Bernoulli."""
    for name in presences:
        fn = trace.nodes[name]["fn"]
        if not isinstance(fn, Bernoulli):
            raise ValueError(
                f"site {name} is marked as a presence and is a {type(fn).__name__}: draw it from a "
                "Bernoulli, and mask it with poutine.mask"
            )


def require_match(model_trace: Trace, guide_trace: Trace, *, enumerates: bool = False) -> None:
    """Raises :class:`ValueError` if a pair has no ELBO that could be estimated.

    A latent of the model that the guide lacks has no variational density. A factor of the guide has
    no gradient unless it says that it is differentiable.

    Args:
        model_trace: The model's trace, replayed on the guide's.
        guide_trace: The guide's trace.
        enumerates: Whether the estimator sums out latents that the model marks for enumeration.
    """
    model, guide = samples(model_trace), samples(guide_trace)
    for name, site in model.items():
        summed_out = enumerates and site["infer"].get("enumerate") == "parallel"
        if name not in guide and not site["is_observed"] and not summed_out:
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
