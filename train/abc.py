"""Trains ABC, embeddings of style without class: ``python -m train.abc``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from train.cli import command
from train.settings.abc import ABCSettings
from train.sized import SizedMethod

if TYPE_CHECKING:
    import torch

    from train.data.labelled import Split
    from train.data.stacks import Sets, StackPairs
    from train.fitting import Misfit
    from train.metrics.embedding import ABCWatch
    from train.objective import CorrespondenceObjective
    from train.verbs.embedder import TrainedABC


class ABC(SizedMethod):
    """Embeddings of style without class."""

    name = "abc"
    settings = ABCSettings
    needs_labels = True

    def misfits(self, settings: ABCSettings, data: Split) -> list[Misfit | None]:
        from train import fitting

        sets, images = self.sets(settings, data), data.train
        least = 2 if settings.curated == "both" else 1
        withheld = fitting.withheld(settings.withheld, sets, least=least)
        wrong = [withheld, fitting.components(settings.used_components, images)]
        counts = sets.counts(() if withheld else settings.withheld)
        if settings.replacement or len(counts) < least:
            return wrong
        sizes = settings.select("stack_size", "other_stack_size")
        return [*wrong, *fitting.stacks(sizes, counts)]

    def inputs(self, settings: ABCSettings, data: Split) -> dict[str, Any]:
        return super().inputs(settings, data) | {"sets": self.sets(settings, data).classes.values}

    def sets(self, settings: ABCSettings, data: Split) -> Sets:
        """Returns the sets of training and held-out images."""
        from train.data.stacks import Sets

        return Sets.of(data.train, data.held_out, column=settings.set_column)

    def stacks(self, settings: ABCSettings, data: Split, index: int, **options: Any) -> StackPairs:
        """Returns pairs of stacks of training images (index 0) or of held-out ones (index 1)."""
        from train.data.stacks import StackPairs

        sets = self.sets(settings, data)
        options |= {"withheld": sets.find(settings.withheld), "names": sets.classes.values}
        arguments = (data[index].images, sets.indices[index], settings.sizes)
        return StackPairs(*arguments, curated=settings.curated, **options)

    def batches(self, settings: ABCSettings, data: Split, device: torch.device) -> Any:
        options = settings.select("replacement", "seed") | {"pairs": settings.batch_size}
        stacks = self.stacks(settings, data, 0, device=device, **options)
        return data.train.drawn(stacks, device, settings.seed)

    def build(self, settings: ABCSettings, inputs: Mapping[str, Any]) -> CorrespondenceObjective:
        from pyro_models.abc import Embedder, augment
        from train.objective import CorrespondenceObjective

        names = ("embed_dim", "channels", "hidden", "normalise", "standardise")
        embedder = Embedder(self.shape(inputs), **self.arguments(settings, inputs, *names))
        terms = ("component_weight", "component_steps", "energy_weight", "separation_weight")
        options = settings.select("similarity", "temperature", *terms)
        options["view"] = augment if settings.views == 2 else None
        return CorrespondenceObjective(embedder, components=settings.used_components, **options)

    def watch(self, settings: ABCSettings, data: Split, objective: Any) -> ABCWatch:
        from train.metrics.embedding import ABCWatch, require_held_out

        data = self.sampled(settings, data)
        sets, device = self.sets(settings, data), next(objective.parameters()).device
        withheld, names = sets.find(settings.withheld), sets.classes.values
        require_held_out(sets.indices[1], withheld, names)
        stacks = self.stacks(settings, data, 1, replacement=True, device=device)
        options: dict[str, Any] = settings.select("set_column", "seed")
        options |= {"withheld": withheld, "names": names}
        return ABCWatch(objective, data.train, data.held_out, sets.indices, stacks, **options)

    @property
    def trained(self) -> type[TrainedABC]:
        from train.verbs.embedder import TrainedABC

        return TrainedABC


METHOD = ABC()
main = METHOD.main

if __name__ == "__main__":
    command(ABCSettings, main)
