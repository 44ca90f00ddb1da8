"""Traces of models and guides, run without side effects where that is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_models.announcements import SampleTracer
from pyro_models.presence import FixPresence
from train.estimators.costs import Site, plates

Program = Callable[..., Any]
"""A model or a guide."""


def samples(trace: Trace) -> dict[str, Site]:
    """Returns the sites of a trace that have a log-probability, by name.

    Subsampling sites and those of ``pyro.deterministic`` have none.
    """
    nodes: dict[str, Any] = trace.nodes
    return {
        name: site
        for name, site in nodes.items()
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
    """Traces the guide. The trace has no weights.

    Args:
        guide: The guide.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        presence: Gives the presences' values, see :class:`~pyro_models.presence.FixPresence`; they
            are drawn if it is ``None``.

    Returns:
        The trace, and the names of the presences that were given a value, in order.
    """
    if presence is None:
        return SampleTracer()(guide).get_trace(*args, **kwargs), ()
    with FixPresence(presence) as fixed:
        trace = SampleTracer()(guide).get_trace(*args, **kwargs)
    return trace, tuple(fixed.names)


def run_model(
    model: Program, guide_trace: Trace, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Trace:
    """Traces the model, replayed on the guide's trace. The trace has no weights."""
    replayed = poutine.replay(model, trace=guide_trace)
    return SampleTracer()(replayed).get_trace(*args, **kwargs)


def with_values(trace: Trace, values: Mapping[str, Tensor]) -> Trace:
    """Returns a copy of a trace in which the sites in ``values`` have these values."""
    copy = trace.copy()
    for name, value in values.items():
        # Not in place: the copy refers to the site dictionaries of the original.
        copy.nodes[name] = {**trace.nodes[name], "value": value}
    return copy


def presences_by_count(objects: int, dim: int, like: Tensor) -> list[Tensor]:
    """Returns the presences at every count in parallel.

    Args:
        objects: The largest count :math:`N`.
        dim: The dimension of counts, from the right: 1 for the last.
        like: A tensor of the device and dtype to use.

    Returns:
        For each step a tensor of 0 and 1 of shape :math:`(N + 1, 1, ..., 1)`, of ``dim``
        dimensions.
    """
    counts = torch.arange(objects + 1, device=like.device).reshape(-1, *(1,) * (dim - 1))
    return [(counts > i).to(like.dtype) for i in range(objects)]


def max_nesting(*traces: Trace) -> int:
    """Returns the largest depth of nested plates in traces."""
    sites = [site for trace in traces for site in samples(trace).values()]
    return max((-frame.dim for site in sites for frame in plates(site)), default=0)


@contextmanager
def preserved_state(*programs: Program) -> Iterator[Callable[[], object]]:
    """Restores random number generators and buffers on exit, so that training is not disturbed.

    Yields:
        A function that seeds the random number generators, with the same seed at each call.
    """
    modules = [module for program in programs for module in modules_of(program)]
    buffers = [buffer for module in modules for buffer in module.buffers()]
    weights = [weight for module in modules for weight in module.parameters()]
    saved = [(buffer, buffer._version, buffer.clone()) for buffer in buffers]
    devices = {tensor.device for tensor in (*buffers, *weights)}
    indices = sorted({device.index for device in devices if device.type == "cuda"})
    with torch.random.fork_rng(devices=indices), torch.no_grad(), poutine.block():
        # A parameter that is first made in these runs must not use the numbers of the first draws.
        seed = int(torch.randint(2**31, ()))
        try:
            yield partial(torch.manual_seed, seed)
        finally:
            for buffer, version, value in saved:
                # An unchanged buffer must keep its version: an earlier graph may need it.
                if buffer._version != version:
                    buffer.copy_(value)


def modules_of(program: Program) -> list[nn.Module]:
    """Returns the module that a program is, or whose method it is; none for other callables."""
    program = poutine.unwrap(program)
    candidates = (program, getattr(program, "__self__", None))
    return [module for module in candidates if isinstance(module, nn.Module)]
