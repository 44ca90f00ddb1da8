"""What estimators have in common: one differentiable loss, and what it was made of."""

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

from train.estimators.contract import Changed, Contract, Program, examine

Estimate = TypeVar("Estimate")


class DifferentiableELBO(ELBO):
    """An estimator that is one differentiable loss: subclasses write :meth:`estimate`.

    Before the first estimate of a pair the estimator runs it a few times, to learn how many plates
    it has and to check what the estimator relies on. These runs leave random numbers and buffers
    as they were; the first one waits for the device, estimates do not.

    Args:
        num_particles: The number of draws from the guide for each datum.
        max_plate_nesting: The number of plates of model and guide, one inside another; found out
            if not given, as Pyro does.
        vectorize_particles: Whether the draws are made side by side, in an outermost plate, rather
            than one after another.
        options: Passed to :class:`pyro.infer.ELBO`.

    Attributes:
        terms: What the last estimate was made of, by name: detached sums over the batch in nats.
            ``elbo`` is the ELBO with all that Pyro's handlers say of it (scales, masks,
            subsampling, factors), without the weights and penalties of
            :mod:`pyro_models.objective`.
    """

    terms: Mapping[str, Tensor] = {}
    by_count: ClassVar[bool] = False
    """Whether the number of objects is summed out."""

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
        self._pair: tuple[Program, Program, Contract] | None = None
        self._nesting_given = math.isfinite(max_plate_nesting)

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
        """The negative ELBO, summed over the batch, of shape ().

        Raises:
            ValueError: If the pair breaks what the estimator relies on; the message names the site
                and says what to do.
        """
        loss, self.terms = self.examined(self.estimate, model, guide, args, kwargs)
        return loss

    def examined(
        self,
        estimate: Callable[..., Estimate],
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Estimate:
        """Estimates from a pair that has been examined, anew if its sites have changed since."""
        self.prepare(model, guide, args, kwargs)
        try:
            return estimate(model, guide, args, kwargs)
        except Changed:
            self._examine(model, guide, args, kwargs)
            return estimate(model, guide, args, kwargs)

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The negative ELBO as a number, without gradients."""
        with torch.no_grad():
            return torch_item(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The negative ELBO as a number; adds its gradients to the parameters'."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return torch_item(loss)

    def prepare(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Contract:
        """Examines a pair, unless it is the one that was examined last.

        Raises:
            ValueError: See :meth:`differentiable_loss`.
        """
        if self._pair is not None and self._pair[0] == model and self._pair[1] == guide:
            return self._pair[2]
        return self._examine(model, guide, args, kwargs)

    def _examine(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Contract:
        kwargs = self.program_kwargs(kwargs)
        contract = examine(model, guide, args, kwargs, by_count=self.by_count)
        extra = int(self.vectorize_particles and self.num_particles > 1)
        if self._nesting_given:
            nesting = int(self.max_plate_nesting) - extra
            if contract.nesting > nesting:
                raise ValueError(
                    f"max_plate_nesting is {nesting}, and there are {contract.nesting} plates, one "
                    f"inside another: give max_plate_nesting={contract.nesting}, or leave it out"
                )
            contract = contract._replace(nesting=nesting)
        self.max_plate_nesting = contract.nesting + extra
        self._pair = model, guide, contract
        return contract

    def program_kwargs(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments of an estimate that are model's and guide's."""
        return dict(kwargs)

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
