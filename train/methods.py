"""The five methods by name. Nothing here imports torch."""

from __future__ import annotations

from train import abc, acai, ae, air, icvae
from train.method import Method

METHODS: dict[str, Method] = {
    front_door.METHOD.name: front_door.METHOD for front_door in (air, icvae, abc, acai, ae)
}
"""The record of each method."""
