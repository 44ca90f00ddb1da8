"""Methods whose networks follow the size of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pyro_models.shapes import Shape
from train.errors import brief
from train.method import ELBOMethod, Method

MOST_DENSE_VALUES = 3 * 64 * 64
"""Images of more values than a colour image of 64x64 are too large for dense layers."""

MOST_HALVINGS = 16
"""Images have fewer than two to this power of pixels on each side."""


class SizedMethod(Method):
    """A method with a setting ``network``, whose convolutions halve large images more often.

    ``"auto"`` means dense layers for images of at most :data:`MOST_DENSE_VALUES` values, and
    convolutions for larger ones. ``config.json`` has the one that was chosen, and the number of
    :func:`~pyro_models.networks.further_halvings` if convolutions have any. Those of earlier
    versions had none, whatever the size of their images.
    """

    def resolved(self, settings: Any, data: Any) -> Any:
        return replace(settings, network=_choice(settings.network, data.train.shape))

    def inputs(self, settings: Any, data: Any) -> dict[str, Any]:
        from pyro_models.networks import further_halvings

        inputs = super().inputs(settings, data)
        number = 0 if settings.network == "dense" else further_halvings(data.train.shape)
        return inputs | ({"further_halvings": number} if number else {})

    def arguments(self, settings: Any, inputs: Mapping[str, Any], *names: str) -> dict[str, Any]:
        """Returns arguments of networks: ``network``, ``further_halvings``, and other settings.

        Args:
            settings: The method's settings.
            inputs: What :meth:`inputs` returns.
            names: The names of the other settings.

        Raises:
            ValueError: If the inputs are not those of a run.
        """
        number = inputs.get("further_halvings", 0)
        if type(number) is not int or not 0 <= number < MOST_HALVINGS:
            raise ValueError(
                f"'further_halvings' is {brief(number)}, not a whole number below {MOST_HALVINGS}"
            )
        network = _choice(settings.network, self.shape(inputs))
        return settings.select(*names) | {"network": network, "further_halvings": number}


class SizedELBOMethod(SizedMethod, ELBOMethod):
    """A Pyro model and guide whose networks follow the size of the images."""


def _choice(network: str, shape: Shape) -> str:
    if network != "auto":
        return network
    # Convolutions have nothing to halve in a row of pixels.
    is_dense = shape.values <= MOST_DENSE_VALUES or min(shape.sides) == 1
    return "dense" if is_dense else "conv"
