"""The base class of estimators that are one differentiable loss with named terms."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from pyro.poutine import Trace
from torch import Tensor

from train.estimators.contract import Contract, SitesChanged
from train.estimators.examination import examine
from train.estimators.programs import Program

Estimate = TypeVar("Estimate")


class DifferentiableELBO(ELBO):
    """An estimator that is one differentiable loss: subclasses write :meth:`estimate`.

    Before its first estimate for a pair of model and guide, the estimator runs the pair a few
    times, to count the plates and to check what it relies on. These runs restore random number
    generators and buffers, and they wait for the device; estimates do not.

    Args:
        num_particles: The number of draws from the guide for each datum.
        max_plate_nesting: The largest depth of nested plates in model and guide; counted if not
            given, as Pyro does.
        vectorize_particles: Whether the draws are made in parallel, in an outermost plate, rather
            than one after another.
        options: Passed to :class:`pyro.infer.ELBO`.

    Attributes:
        terms: The terms of the last :meth:`differentiable_loss`; see :meth:`loss_and_terms`.
    """

    terms: Mapping[str, Tensor] = {}
    sums_counts: ClassVar[bool] = False
    """Whether the estimator sums the number of objects out."""
    annealed: ClassVar[tuple[str, ...]] = ()
    """Names of the estimator's keyword arguments that a schedule may change over the steps."""

    def __init__(
        self,
        num_particles: int = 1,
        *,
        max_plate_nesting: int | float = math.inf,
        vectorize_particles: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            **options,
        )
        self._examined: tuple[Program, Program, Contract] | None = None
        self._nesting_given = math.isfinite(max_plate_nesting)

    @abstractmethod
    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Estimates the loss and its terms from an examined pair.

        Args:
            model: The model.
            guide: Its guide.
            args: Positional arguments of both.
            kwargs: Keyword arguments of both.

        Returns:
            As :meth:`loss_and_terms`.
        """

    def loss_and_terms(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Estimates the negative ELBO and its terms, without setting :attr:`terms`.

        Returns:
            The loss, summed over the batch, of shape (); and its terms by name: detached sums over
            the batch, in nats, of shape (). ``elbo`` is the ELBO with everything that Pyro's
            handlers add to it (scales, masks, subsampling, factors), and without the weights and
            penalties of :mod:`pyro_models.objective`.

        Raises:
            ValueError: If the pair breaks what the estimator relies on; the message names the site
                and the remedy.
        """
        return self.examined(self.estimate, model, guide, args, kwargs)

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Estimates the negative ELBO, summed over the batch, of shape (); sets :attr:`terms`.

        Raises:
            ValueError: See :meth:`loss_and_terms`.
        """
        loss, self.terms = self.loss_and_terms(model, guide, *args, **kwargs)
        return loss

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Estimates the negative ELBO as a number, without gradients."""
        with torch.no_grad():
            return torch_item(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Estimates the negative ELBO as a number, and accumulates its gradients."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return torch_item(loss)

    def examined(
        self,
        estimate: Callable[..., Estimate],
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Estimate:
        """Calls ``estimate`` on an examined pair; examines it again if its sites have changed."""
        self.prepare(model, guide, args, kwargs)
        try:
            return estimate(model, guide, args, kwargs)
        except SitesChanged:
            self._examine(model, guide, args, kwargs)
            return estimate(model, guide, args, kwargs)

    def prepare(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Contract:
        """Examines a pair, unless it is the one that was examined last.

        Raises:
            ValueError: See :meth:`loss_and_terms`.
        """
        if self._examined is not None and self._examined[:2] == (model, guide):
            return self._examined[2]
        return self._examine(model, guide, args, kwargs)

    def _examine(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Contract:
        kwargs = self.program_kwargs(kwargs)
        contract = examine(model, guide, args, kwargs, sums_counts=self.sums_counts)
        particle_plates = int(self.vectorize_particles and self.num_particles > 1)
        if self._nesting_given:
            nesting = int(self.max_plate_nesting) - particle_plates
            if contract.nesting > nesting:
                raise ValueError(
                    f"max_plate_nesting is {nesting}, and there are {contract.nesting} plates, one "
                    f"inside another: give max_plate_nesting={contract.nesting}, or leave it out"
                )
            contract = contract._replace(nesting=nesting)
        self.max_plate_nesting = contract.nesting + particle_plates
        self._examined = model, guide, contract
        return contract

    def program_kwargs(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the keyword arguments for model and guide: all but :attr:`annealed`."""
        return {name: value for name, value in kwargs.items() if name not in self.annealed}

    def particles(self, model: Program, guide: Program) -> Iterator[tuple[Program, Program]]:
        """Yields model and guide once for each run: a single time if the draws are vectorised.

        In a vectorised run, sites have one more dimension, of the draws, left of their plates.
        """
        if self.vectorize_particles:
            yield self._vectorized_num_particles(model), self._vectorized_num_particles(guide)
        else:
            for _ in range(self.num_particles):
                yield model, guide

    def by_particle(self, values: list[Tensor], dim: int = 0) -> Tensor:
        """Joins the values of all runs into one tensor whose dimension ``dim`` has the draws."""
        if self.vectorize_particles and self.num_particles > 1:
            return values[0]
        return torch.stack(values, dim=dim)

    def _get_trace(self, *args: Any) -> tuple[Trace, Trace]:
        raise NotImplementedError(f"{type(self).__name__} makes its own runs: see estimate")


def loss_and_terms(
    estimator: ELBO, model: Program, guide: Program, *args: Any, **kwargs: Any
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Evaluates any estimator that has a ``differentiable_loss``.

    Args:
        estimator: One of :mod:`train.estimators`, an ELBO of Pyro's, or a user's. An ELBO that is
            no :class:`DifferentiableELBO` may set the attribute ``terms`` in each estimate.
        model: The model.
        guide: Its guide.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.

    Returns:
        The loss, summed over the batch, of shape (); and the estimator's terms by name, empty if
        it has none. See :meth:`DifferentiableELBO.loss_and_terms`.
    """
    # A subclass that overrides differentiable_loss alone means it to be called.
    if isinstance(estimator, DifferentiableELBO) and (
        type(estimator).differentiable_loss is DifferentiableELBO.differentiable_loss
    ):
        return estimator.loss_and_terms(model, guide, *args, **kwargs)
    # Pyro's base class does not declare the method, which its estimators have.
    of_pyro: Any = estimator
    loss = of_pyro.differentiable_loss(model, guide, *args, **kwargs)
    return loss, getattr(estimator, "terms", {})
