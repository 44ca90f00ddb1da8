"""KL divergences in closed form; presences are drawn like other latents."""

from __future__ import annotations

from train.estimators.marginal import MarginalELBO


class MeanFieldELBO(MarginalELBO):
    r"""The ELBO with KL divergences in closed form where PyTorch has one.

    Its value and gradient are those of :class:`pyro.infer.TraceMeanField_ELBO` where that one is
    right, without waiting for the device. The closed form is taken only where the prior depends on
    nothing that the guide draws later. Draws that are not reparameterised get a score function,
    presences among them: it is :class:`~train.estimators.MarginalELBO` without the sum over counts.

    Args:
        num_particles: The number of draws that are averaged.
        analytic: Whether to take KL divergences in closed form where PyTorch has one, rather than
            at the draw.
        options: See :class:`~train.estimators.base.DifferentiableELBO`.

    References:
        | https://docs.pyro.ai/en/stable/inference_algos.html
    """

    sums_counts = False
