"""What estimators have in common: one differentiable loss, and what it was made of."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from pyro.poutine import Trace
from torch import Tensor

Program = Callable[..., Any]


class DifferentiableELBO(ELBO):
    """An estimator that is one differentiable loss: subclasses write :meth:`estimate`.

    Args:
        num_particles: The number of draws from the guide for each datum.
        max_plate_nesting: The number of plates of model and guide, one inside another.
        vectorize_particles: Whether the draws are made side by side, in an outermost plate, rather
            than one after another.
        options: Passed to :class:`pyro.infer.ELBO`.

    Attributes:
        terms: What the last estimate was made of, by name: detached sums over the batch in nats.
    """

    terms: Mapping[str, Tensor] = {}

    def __init__(
        self,
        num_particles: int = 1,
        *,
        max_plate_nesting: int = 1,
        vectorize_particles: bool = False,
        **options: Any,
    ) -> None:
        # Pyro's default runs model and guide once to count plates, which would draw random numbers
        # at the first step of a run and again at the first after it was resumed.
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            **options,
        )

    @abstractmethod
    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, summed over the batch, of shape (); and its :attr:`terms`.

        Args:
            model: The model.
            guide: Its guide.
            args: Passed to both.
            kwargs: Passed to both.
        """

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """The negative ELBO, summed over the batch, of shape ()."""
        loss, self.terms = self.estimate(model, guide, args, kwargs)
        return loss

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The negative ELBO as a number, without gradients."""
        with torch.no_grad():
            return torch_item(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The negative ELBO as a number; adds its gradients to the parameters'."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward(retain_graph=self.retain_graph)
        return torch_item(loss)

    def particles(self, model: Program, guide: Program) -> Iterator[tuple[Program, Program]]:
        """Model and guide for each time that they are run: once if draws are vectorised.

        Then what they draw has one more dimension, of the draws, left of the plates'.
        """
        if self.vectorize_particles:
            yield self._vectorized_num_particles(model), self._vectorized_num_particles(guide)
        else:
            for _ in range(self.num_particles):
                yield model, guide

    def by_particle(self, runs: list[Tensor], dim: int = 0) -> Tensor:
        """Joins what each run gave into one tensor whose dimension ``dim`` is that of the draws."""
        if self.vectorize_particles and self.num_particles > 1:
            return runs[0]
        return torch.stack(runs, dim=dim)

    def _get_trace(self, *args: Any) -> tuple[Trace, Trace]:
        raise NotImplementedError(f"{type(self).__name__} is made of its own runs: see estimate")


def at_the_draw(
    model_trace: Trace, guide_trace: Trace, weights: Tensor | float = 1.0
) -> dict[str, Tensor]:
    """The parts of an ELBO, of two traces whose log-probabilities have been computed.

    Args:
        model_trace: The model's, replayed on the guide's.
        guide_trace: The guide's.
        weights: With which log-probabilities are summed.
    """
    log_likelihood: Tensor | float = 0.0
    kl = {}
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample":
            continue
        log_p = unscaled(site)
        if site["is_observed"]:
            log_likelihood = log_likelihood + (weights * log_p).sum()
        else:
            kl[name] = (weights * (unscaled(guide_trace.nodes[name]) - log_p)).sum()
    return summarise(log_likelihood, kl)


def unscaled(site: Mapping[str, Any]) -> Tensor:
    """A site's log-probability, zero where it is masked, without ``poutine.scale``'s weight."""
    return scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])


def summarise(log_likelihood: Tensor, kl: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names the parts of an ELBO, detached, with the ELBO itself at beta 1.

    The steps of a site are added up: ``z_where_0`` and ``z_where_1`` count under ``kl_z_where``.
    """
    terms = {"log_likelihood": log_likelihood.detach()}
    elbo = terms["log_likelihood"]
    for site, value in kl.items():
        name = "kl_" + re.sub(r"_\d+$", "", site)
        terms[name] = terms.get(name, 0.0) + value.detach()
        elbo = elbo - value.detach()
    return {**terms, "elbo": elbo}
