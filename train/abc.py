"""Trains ABC, embeddings of style without class: ``python -m train.abc``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from train.cli import command, leaves_no_trace
from train.errors import require
from train.settings import Count, Positive, Settings, Whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from train.data.stacks import Sets, Stacks
    from train.objective import CorrespondenceObjective


@dataclass(frozen=True)
class ABCSettings(Settings):
    """Train ABC: embeddings of what varies inside sets, by correspondence between them."""

    FREE: ClassVar = Settings.FREE | {"eval_every"}

    steps: Count = 1_000
    learning_rate: Positive = 1e-3
    decay: Literal["none", "cosine"] = "cosine"
    batch_size: Count = 1
    """Pairs of stacks a step."""
    stack_size: Count = 256
    """Images in a stack."""
    other_stack_size: Count | None = None
    """Images in the other stack of a pair; as many if not given."""
    withheld: tuple[str | int, ...] = ("9",)
    """Sets of which training sees nothing, by their labels in the data."""
    curated: Literal["both", "one"] = "both"
    """Whether both stacks are of one set each, or the other one is of anything (ABC-X)."""
    replacement: bool = False
    """Let an image be in a stack more than once, where a set is smaller than a stack."""
    set_column: Whole = 0
    """Column of the labels that says which set an image is in."""
    similarity: Literal["l2sq", "l2", "l1", "linf", "cosine"] = "l2sq"
    """How embeddings are compared: squared distance, distances, or the cosine."""
    temperature: Positive = 1.0
    """What similarities are divided by."""
    views: Literal[1, 2] = 2
    """Two: an image is seen shifted and more or less bright, once to find and once to be found."""
    embed_dim: Count = 4
    """Size of an embedding."""
    network: Literal["strided", "deep"] = "strided"
    """Three convolutions, or five that cost eight times as much."""
    normalise: bool = False
    """Put embeddings on the unit sphere."""
    channels: Count = 32
    """Channels of the convolutions."""
    hidden: Count = 128
    """Width of the dense layer."""

    def __post_init__(self) -> None:
        # A label is what is written, so that 007 stays what it is.
        if isinstance(self.withheld, tuple):
            object.__setattr__(self, "withheld", tuple(map(str, self.withheld)))
        super().__post_init__()
        require(
            min(self.sizes) > 1,
            f"--stack-size {min(self.sizes)}: a stack of one has nothing to be told from: give 2",
        )
        require(
            not self.normalise or self.embed_dim > 1,
            "--normalise leaves --embed-dim 1 nothing but a sign: give 2 or more, or leave it out",
        )

    @property
    def sizes(self) -> tuple[int, int]:
        """The sizes of the two stacks."""
        return self.stack_size, self.other_stack_size or self.stack_size


def stacks(
    settings: ABCSettings, images: Tensor, sets: Tensor, device: torch.device, **options: Any
) -> Stacks:
    """Pairs of stacks of the settings, but for options of :class:`~train.data.stacks.Stacks`.

    What is withheld is an option, as a set's number depends on the data.
    """
    from train.data.stacks import Stacks

    drawing = {
        "pairs": settings.batch_size,
        "curated": settings.curated,
        "replacement": settings.replacement,
        "seed": settings.seed,
        "device": device,
    }
    return Stacks(images, sets, settings.sizes, **drawing | options)


def require_held_out(sets: Tensor, withheld: tuple[int, ...], names: Sequence[Any]) -> None:
    """Raises :class:`InputError` unless held-out images are of the withheld and two other sets.

    Args:
        sets: The number of the set of each held-out image.
        withheld: The numbers of the sets of which training sees nothing.
        names: By their numbers, what the data call the sets.
    """
    there = set(sets.unique().tolist())
    absent = sorted(set(withheld) - there)
    require(
        not absent,
        f"--withheld {names[absent[0]] if absent else ''}: none of its images is among the "
        f"{len(sets)} held out: add more of them, or withhold another set",
    )
    require(
        len(there - set(withheld)) > 1,
        f"--data: the {len(sets)} images held out are of fewer than two sets that training sees: "
        "add more images",
    )


def sized(settings: ABCSettings, sets: Sets) -> ABCSettings:
    """Settings that fit the sets of the training images, which are the first part of ``sets``.

    Raises:
        InputError: If sets that are to be withheld are not there, or stacks are too large.
    """
    from train import fitting

    missing = sets.missing(settings.withheld)
    left = len(sets.counts(settings.withheld))
    least = 2 if settings.curated == "both" else 1
    problem = None
    if missing:
        problem = f"--withheld {' '.join(missing)}: there is no such set"
    elif left < least:
        problem = f"--data has {left} sets besides the withheld ones: a pair needs {least} or more"
    if problem and settings.withheld:
        remedy = f"give some of {sets.classes}, or --withheld alone for none"
        nothing = fitting.Misfit("withheld", (), problem, remedy, "nothing is withheld")
        settings = fitting.fitted(settings, nothing)
    counts = sets.counts(settings.withheld)
    if settings.replacement or len(counts) < least:
        return settings
    sizes = {name: getattr(settings, name) for name in ("stack_size", "other_stack_size")}
    return fitting.fitted(settings, *fitting.stacks(sizes, counts))


def build(settings: ABCSettings, shape: tuple[int, int]) -> CorrespondenceObjective:
    """Embedder and loss of the settings, for images of a height and width."""
    from pyro_models.abc import Embedder, shifted
    from train.objective import CorrespondenceObjective

    require(min(shape) >= 15, f"--data: images are {shape[0]}x{shape[1]}: give 15x15 or more")
    embedder = Embedder(
        shape,
        settings.embed_dim,
        network=settings.network,
        channels=settings.channels,
        hidden=settings.hidden,
        normalise=settings.normalise,
    )
    return CorrespondenceObjective(
        embedder,
        similarity=settings.similarity,
        temperature=settings.temperature,
        view=shifted if settings.views == 2 else None,
    )


@leaves_no_trace
def main(settings: ABCSettings) -> dict[str, Any]:
    """Data, objective, loop, measures, figures."""
    from train import figures, verdict
    from train.data import digits
    from train.data.fingerprint import fingerprint
    from train.data.stacks import sets_of
    from train.engine import callbacks, runtime
    from train.engine.loop import fit
    from train.engine.runs import Run
    from train.metrics.embedding import GOALS, Watch
    from train.metrics.measuring import Measures

    device = runtime.setup(settings)
    train, held_out = digits.load(settings.data, settings.data_dir, settings.evaluate_on)
    sets = sets_of(train, held_out, column=settings.set_column)
    settings = sized(settings, sets)
    names = {"withheld": sets.find(settings.withheld), "names": sets.classes.values}
    batches = stacks(settings, train.images, sets.numbers[0], device, **names)
    require_held_out(sets.numbers[1], **names)
    options = {"pairs": 1, "replacement": True, "seed": 0, **names}
    others = stacks(settings, held_out.images, sets.numbers[1], device, **options)
    objective = build(settings, train.shape).to(device)
    inputs = {"shape": train.shape, "sets": sets.classes.values}
    run = Run.create(settings, "abc", **inputs, data_hash=fingerprint(train, held_out))

    watch = Watch(objective, train, held_out, sets.numbers, others, **names, seed=settings.seed)
    fitted = fit(
        objective,
        batches,
        run,
        settings,
        device,
        evaluate=watch.evaluate,
        callbacks=callbacks.standard(run, settings),
    )
    if not run.writes:
        return {}

    measures = Measures(run)
    watch.measure(measures)
    measures.draw("maps", lambda: figures.maps(watch.maps()))
    measures.draw("retrieval", lambda: figures.gallery(watch.retrieved()))
    measures.draw("curves", lambda: figures.curves(run.history(), watch.PANELS))
    return verdict.finish(run, fitted._asdict(), measures, GOALS)


if __name__ == "__main__":
    command(ABCSettings, main)
