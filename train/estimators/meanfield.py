"""Divergences in closed form, presences drawn like other latents."""

from __future__ import annotations

from train.estimators.marginal import MarginalELBO


class MeanFieldELBO(MarginalELBO):
    r"""The ELBO with divergences in closed form where there is one.

    It is :class:`pyro.infer.TraceMeanField_ELBO`'s value and gradient for the programs for which
    that one is right, without a wait for the device. A divergence is taken in closed form only
    where the prior depends on nothing that the guide draws later. Draws that are not
    reparameterised have a score function, presences like all others: it is
    :class:`~train.estimators.MarginalELBO` without what is special to them.

    Args:
        num_particles: The number of draws that are averaged.
        analytic: Whether to take KL divergences in closed form where PyTorch has one, rather than
            at the draw.
        options: See :class:`~train.estimators.base.DifferentiableELBO`.

    References:
        | https://docs.pyro.ai/en/stable/inference_algos.html
    """

    by_count = False
