"""Trains Slot Attention on scenes of objects, and measures its masks as those of AIR.

    python benchmarks/air_slots.py
    python benchmarks/air_slots.py --data tetrominoes --seeds 0 1 2
    python benchmarks/air_slots.py --evaluate-on validation --seeds 100 --out runs/choosing
    python benchmarks/air_slots.py --size paper

It is the reference that one would otherwise take for scenes of several objects, of this project's
own code, trained by its loop. ``--size small`` is for one core of a CPU: an encoder of 32 channels
whose first two convolutions have a stride of 2, a decoder that broadcasts to an eighth of each
side, an attention that starts as soft k-means, batches of 16 and 25,000 steps (10,000 on 64x64),
with a rate of 4e-4 that rises in 500 steps and falls to 0. ``--size paper`` has 5x5 convolutions
of 64 channels at full resolution, batches of 64 and 500,000 steps, and a rate of 4e-4 that rises in
10,000 steps and halves every 100,000. A step of it takes 9 s of one core on 35x35.

A table has the measures of held-out scenes. A pixel is in the segment of the slot whose mask is the
largest there. The background is a slot like the others, which the measures allow for. Finished runs
are not repeated; each has its ``results.json`` and its figures, scenes with their reconstructions
and masks among them.

References:
    | Object-Centric Learning with Slot Attention (Locatello et al., 2020)
    | https://arxiv.org/abs/2006.15055
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import tyro
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from pyro_models.slot_attention import SlotAutoencoder
from train.data.batches import as_input
from train.data.scenes import Scenes, ScenesSplit, load_scenes
from train.engine.saved import read_config, run_once
from train.errors import require
from train.method import Method
from train.metrics import segmentation
from train.metrics.goals import Beats, Goal
from train.metrics.measuring import Measures, Unmeasurable
from train.metrics.references import mean_image_mse
from train.metrics.watch import TrainingLog, Watch
from train.objective import Batch, Objective
from train.plots import COLOURS, picture
from train.settings import Count, Positive, Settings, Whole
from train.settings.common import SceneSettings
from train.tables import markdown

DATA = ("tetrominoes", "multi-sprites", "multi-sprites-colour")


@dataclass(frozen=True)
class SlotSettings(SceneSettings):
    """Train Slot Attention on scenes of objects."""

    FREE: ClassVar = SceneSettings.FREE | {"eval_every", "measure_on"}

    data: str = "tetrominoes"
    steps: Count = 10_000
    batch_size: Count = 16
    learning_rate: Positive = 4e-4
    decay: Literal["none", "cosine"] = "cosine"
    slots: Count | None = None
    """Number of slots; None: one more than the most objects of a scene."""
    slot_dim: Count = 64
    """Size of a slot."""
    slot_hidden: Count = 128
    """Units of the MLP that updates a slot."""
    iterations: Count = 3
    """Iterations of the attention."""
    channels: Count = 32
    """Channels of the encoder."""
    kernel: Count = 5
    """Height and width of the convolutions' kernels, an odd number."""
    strides: tuple[Count, ...] = (2, 2, 1, 1)
    """Strides of the encoder's convolutions."""
    decoder_channels: tuple[Count, ...] = (32, 32, 16)
    """Channels of the decoder's convolutions, but for the last one."""
    doublings: Whole = 3
    """How many of the decoder's convolutions, the last ones, double the sides."""
    clustering: bool = True
    """Start the attention as soft k-means, rather than with independent weights."""
    warm_up: Whole = 500
    """Steps in which the learning rate rises to --learning-rate."""
    half_life: Positive | None = None
    """Steps after which the learning rate is halved, besides --decay; None: it is not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.kernel % 2 == 1, f"--kernel {self.kernel} has no centre: give {self.kernel + 1}"
        )
        layers = len(self.decoder_channels) + 1
        require(
            self.doublings <= layers,
            f"--doublings {self.doublings} is above the {layers} convolutions of the decoder: give "
            "less, or more --decoder-channels",
        )


SMALL = {
    "tetrominoes": SlotSettings(data="tetrominoes", steps=25_000),
    "multi-sprites": SlotSettings(data="multi-sprites", steps=10_000),
    "multi-sprites-colour": SlotSettings(data="multi-sprites-colour", steps=10_000),
}
"""Settings for less than half an hour on one core of a CPU, by the data set."""

PAPER = SlotSettings(
    steps=500_000,
    batch_size=64,
    learning_rate=4e-4,
    decay="none",
    channels=64,
    strides=(1, 1, 1, 1),
    decoder_channels=(64, 64, 64),
    doublings=0,
    clustering=False,
    warm_up=10_000,
    half_life=100_000,
)
"""Sizes and schedule of the paper, at full resolution."""


class SlotObjective(Objective):
    r"""The mean squared error of a pixel in the slots' reconstruction, as the loss ``"slots"``.

    The learning rate rises linearly in the first :math:`w` steps. With a half-life :math:`h` its
    factor after :math:`t` steps is :math:`\min(1, (t + 1) / w) \, 2^{-t / h}`.

    Args:
        autoencoder: The autoencoder.
        warm_up: :math:`w`; 0 for none.
        half_life: :math:`h`; None for a factor that stays at 1.
    """

    loss_name = "slots"

    def __init__(
        self, autoencoder: SlotAutoencoder, warm_up: int = 0, half_life: float | None = None
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.warm_up = warm_up
        self.half_life = half_life

    def forward(self, batch: Batch, step: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        images = batch[0]
        error = (self.autoencoder(images).reconstruction - images).square().mean()
        return {"slots": error}, {"mse": error.detach()}

    def learning_rate_factor(self, done: int) -> float:
        rise = min(1.0, (done + 1) / self.warm_up) if self.warm_up else 1.0
        return rise * (0.5 ** (done / self.half_life) if self.half_life else 1.0)


class Explanation(NamedTuple):
    r"""What slots draw of :math:`M` scenes.

    Attributes:
        labels: The slot with the largest mask at each pixel, from 0, of shape :math:`(M, H, W)`,
            uint8.
        mse: The mean squared error per pixel of the reconstruction, of shape :math:`(M)`.
    """

    labels: Tensor
    mse: Tensor


@torch.no_grad()
def explain(autoencoder: SlotAutoencoder, images: Tensor, seed: int, batch: int = 100) -> Iterator:
    """Yields images as inputs, and what slots draw of them, in batches.

    Args:
        autoencoder: The autoencoder.
        images: Of shape (M, C, H, W), uint8.
        seed: Seed of the slots' first draws, which are the same each time.
        batch: The most images of a batch.
    """
    device = autoencoder.attention.loc.device
    generator = torch.Generator().manual_seed(seed)
    for chunk in images.split(batch):
        size = (len(chunk), autoencoder.slots, autoencoder.attention.slot_dim)
        noise = torch.randn(size, generator=generator).to(device)
        chunk = as_input(chunk.to(device))
        yield chunk, autoencoder(chunk, noise)


class SlotWatch(Watch):
    """Evaluates Slot Attention by its masks and its reconstruction.

    Args:
        autoencoder: The autoencoder.
        data: Training and held-out scenes.
        seed: Seed of the slots' first draws.
    """

    PANELS: ClassVar = {
        "squared error a pixel": {"mse": "training", "held_out_mse": "held out"},
        "foreground ARI": {"held_out_foreground_ari": "held out"},
    }
    EVALUATED = 320
    """Number of held-out scenes in an evaluation."""
    SHOWN = 8
    """Number of scenes in the figure."""

    def __init__(self, autoencoder: SlotAutoencoder, data: ScenesSplit, seed: int) -> None:
        self.autoencoder = autoencoder
        self.data = data
        self.seed = seed

    def explanation(self, scenes: Scenes) -> Explanation:
        """Evaluates scenes."""
        batches = [
            (drawn.masks.argmax(1).to(torch.uint8), error.square().mean((1, 2, 3)))
            for images, drawn in explain(self.autoencoder, scenes.images, self.seed)
            for error in [drawn.reconstruction - images]
        ]
        return Explanation(*(torch.cat(column).cpu() for column in zip(*batches, strict=True)))

    @cached_property
    def held_out(self) -> Explanation:
        """The evaluations of all held-out scenes, computed once, after training."""
        return self.explanation(self.data.held_out)

    def evaluate(self, step: int) -> dict[str, float]:
        scenes = self.data.held_out.select(slice(self.EVALUATED))
        labels, mse = self.explanation(scenes)
        metrics = {"held_out_mse": mse.mean().item()}
        if scenes.masks is not None:
            ari = segmentation.foreground_ari(scenes.masks, labels)
            metrics["held_out_foreground_ari"] = float(np.nanmean(ari))
        return metrics

    def measure(self) -> Measures:
        """Measures held-out scenes.

        The measures of :mod:`train.metrics.segmentation`, if masks are known;
        ``reconstruction_mse``, the mean squared error of a pixel, and
        ``reconstruction_mse_mean_image``, the error of predicting the mean training scene; and
        ``weights``, the number of weights.
        """
        train, held_out = self.data
        measures = Measures()

        def measured() -> dict[str, float]:
            if held_out.masks is None:
                raise Unmeasurable("the scenes have no masks")
            return segmentation.measure_segmentation(held_out.masks, self.held_out.labels)

        measures.add(segmentation.MEASURES, measured)
        measures.add("reconstruction_mse", lambda: self.held_out.mse.double().mean().item())
        measures.add(
            "reconstruction_mse_mean_image", lambda: mean_image_mse(train.images, held_out.images)
        )
        measures.add("weights", lambda: sum(w.numel() for w in self.autoencoder.parameters()))
        return measures

    def goals(self) -> list[Goal]:
        return [
            Beats(
                measure="reconstruction_mse",
                reference="reconstruction_mse_mean_image",
                beside="the mean training scene's",
                advice="more --steps, or another --learning-rate",
            )
        ]

    def figures(self, log: TrainingLog) -> dict[str, Callable[[], Figure]]:
        return {"slots": self.gallery, **super().figures(log)}

    def gallery(self) -> Figure:
        """Draws scenes, reconstructions, true masks and the slots' masks."""
        scenes = self.data.held_out.select(slice(self.SHOWN))
        ((images, drawn),) = explain(self.autoencoder, scenes.images, self.seed)
        slots = in_colours(drawn.masks.argmax(1).cpu().numpy() + 1)
        rows = {"scene": images.cpu().numpy(), "reconstruction": drawn.reconstruction.cpu().numpy()}
        if scenes.masks is not None:
            rows["true masks"] = in_colours(scenes.masks.numpy())
        rows["slots"] = slots
        figure = Figure(figsize=(1.25 * len(images) + 0.3, 1.3 * len(rows)), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, hspace=0, wspace=0)
        axes = figure.subplots(len(rows), len(images), squeeze=False)
        for row, (name, pictures) in zip(axes, rows.items(), strict=True):
            row[0].set_ylabel(name, fontsize=9)
            for axis, image in zip(row, pictures, strict=True):
                picture(axis, image.clip(0, 1))
        return figure


def in_colours(labels: np.ndarray) -> np.ndarray:
    """Gives each label above 0 of label maps (M, H, W) a colour; returns images (M, 3, H, W)."""
    palette = np.array([(0.15, 0.15, 0.15), *map(to_rgb, COLOURS)])
    indices = np.where(labels > 0, (labels.astype(np.int64) - 1) % len(COLOURS) + 1, 0)
    return np.moveaxis(palette[indices], -1, 1)


class Slots(Method):
    """Slot Attention."""

    name = "slots"
    settings = SlotSettings

    def load_data(self, settings: SlotSettings, data: Any = None) -> ScenesSplit:
        if data is None:
            return load_scenes(settings)
        if isinstance(data, ScenesSplit):
            return data
        return ScenesSplit.of(*super().load_data(settings, data))

    def resolved(self, settings: SlotSettings, data: ScenesSplit) -> SlotSettings:
        counts = data.train.counts
        if settings.slots is not None:
            return settings
        require(counts is not None, "the scenes have no counts: give --slots")
        return replace(settings, slots=int(counts.max()) + 1)

    def build(self, settings: SlotSettings, inputs: Mapping[str, Any]) -> SlotObjective:
        options = settings.select(
            *("slots", "slot_dim", "iterations", "channels", "kernel", "strides"),
            *("decoder_channels", "doublings", "clustering"),
        )
        shape = self.shape(inputs)
        autoencoder = SlotAutoencoder(shape, hidden=settings.slot_hidden, **options)
        return SlotObjective(autoencoder, settings.warm_up, settings.half_life)

    def watch(
        self, settings: SlotSettings, data: ScenesSplit, objective: SlotObjective
    ) -> SlotWatch:
        data = self.sampled(settings, data)
        return SlotWatch(objective.autoencoder, data, settings.seed)


METHOD = Slots()


@dataclass(frozen=True)
class Benchmark:
    """Train Slot Attention on each data set, and print a table."""

    data: tuple[Literal[DATA], ...] = DATA
    """Data sets."""
    seeds: tuple[int, ...] = (0,)
    """Seeds, of scenes and of weights; from 100 to choose settings."""
    size: Literal["small", "paper"] = "small"
    """Sizes and schedule: for one core of a CPU, or the paper's."""
    evaluate_on: Literal["test", "validation"] = "test"
    """Held-out scenes. validation: others than those of the test, to choose settings with."""
    steps: int | None = None
    """Training steps; None: those of --size."""
    batch_size: int | None = None
    """Scenes in a step; None: those of --size."""
    learning_rate: float | None = None
    """Learning rate; None: that of --size."""
    train_scenes: int = 60_000
    """Number of training scenes."""
    held_out_scenes: int = 5_000
    """Number of held-out scenes."""
    out: Path = Path("runs/benchmarks")
    """Folder that the runs are written to."""


def settings_of(benchmark: Benchmark, data: str, seed: int) -> SlotSettings:
    """Returns the settings of a run."""
    base = SMALL[data] if benchmark.size == "small" else replace(PAPER, data=data)
    chosen = {
        name: getattr(benchmark, name)
        for name in ("steps", "batch_size", "learning_rate")
        if getattr(benchmark, name) is not None
    }
    others = ("evaluate_on", "train_scenes", "held_out_scenes")
    run = benchmark.out / f"slots-{benchmark.size}-{data}-{benchmark.evaluate_on}-{seed}"
    return replace(
        base,
        **chosen,
        **{name: getattr(benchmark, name) for name in others},
        seed=seed,
        run_dir=run,
        resume=(run / "config.json").exists(),
    )


def require_same(settings: SlotSettings) -> None:
    """Raises :class:`InputError` if the run folder has a run of other settings."""
    if not settings.resume:
        return
    free = Settings.FREE - {"steps"} | {"slots"}
    wanted = {name: value for name, value in asdict(settings).items() if name not in free}
    saved = METHOD.settings(**read_config(settings.run_dir).settings)
    other = [name for name, value in wanted.items() if getattr(saved, name) != value]
    require(
        not other,
        f"{settings.run_dir} has a run with another {', '.join(other)}: give another --out",
    )


def make(settings: SlotSettings, resume: bool) -> None:
    """Trains a run, or goes on with one that was stopped."""
    METHOD.main(replace(settings, resume=resume))


def main(benchmark: Benchmark) -> None:
    """Trains the runs that are not finished, and prints a Markdown table."""
    rows = []
    for data in benchmark.data:
        for seed in benchmark.seeds:
            settings = settings_of(benchmark, data, seed)
            require_same(settings)
            measured = run_once(settings.run_dir, partial(make, settings))
            seconds = measured["train_seconds"]
            row = {"data": data, "seed": seed, "steps": measured["steps"]}
            row |= {name: measured[name] for name in segmentation.MEASURES}
            row |= {
                "squared error": measured["reconstruction_mse"],
                "of the mean scene": measured["reconstruction_mse_mean_image"],
                "ms a step": round(1_000 * seconds / measured["steps"]),
                "minutes": round(seconds / 60, 1),
            }
            rows.append(row)
    print(markdown(rows, list(rows[0])))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
