"""Small runs of every method to explore: their weights are random, and nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train import abc, acai, ae, air, icvae
from train.engine import runtime
from train.engine.runs import Run
from train.method import Session
from train.methods import METHODS
from train.settings import Settings

SHAPE = (12, 10)
NAMES = ("grey", "colour", "quantities", "table", "scenes")
MEASURED = {"reconstruction_mse": 0.0123, "leakage": 0.122, "chance": 0.1, "count_accuracy": 0.9}


def save_data(folder: Path) -> dict[str, str]:
    """Writes grey and coloured images in three classes, and grey ones with two quantities."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, *SHAPE), dtype=np.uint8)
    classes = np.repeat(["ant", "bee", "cat"], 20)
    np.savez(folder / "grey.npz", images=images, labels=classes)
    coloured = rng.integers(0, 256, (60, *SHAPE, 3), dtype=np.uint8)
    np.savez(folder / "colour.npz", images=coloured, labels=classes)
    np.savez(folder / "quantities.npz", images=images, labels=rng.normal(size=(60, 2)))
    scenes = rng.integers(0, 256, (40, 20, 24), dtype=np.uint8)
    np.savez(folder / "scenes.npz", images=scenes, counts=np.arange(40) % 2)
    np.savez(folder / "table.npz", images=images)
    sizes = [f"{size:.3f}" for size in rng.normal(size=60)]
    rows = [f"{kind},{size}" for kind, size in zip(classes, sizes, strict=True)]
    (folder / "table.csv").write_text("\n".join(["kind,size", *rows]) + "\n")
    return {name: str(folder / f"{name}.npz") for name in NAMES}


def settings(data: dict[str, str]) -> dict[str, Settings]:
    """The settings of each run, by its name."""
    common: dict[str, Any] = {"batch_size": 8, "device": "cpu"}
    grey, small = common | {"data": data["grey"]}, {"hidden": (8,)}
    conditional = common | small | {"memory": 8, "batch_size": 20}
    scenes = common | {"data": data["scenes"], "guide": "convolutional", "window_size": 8}
    scenes |= {"guide_channels": 4, "guide_hidden": 8, "what_hidden": 8, "what_dim": 3}
    return {
        "ae": ae.AESettings(**grey, **small, z_dim=2),
        "ae-colour": ae.AESettings(**common, **small, data=data["colour"], z_dim=3),
        "acai": acai.ACAISettings(**grey, **small, network="dense", z_dim=5),
        "icvae": icvae.ICVAESettings(**conditional, data=data["grey"]),
        "icvae-quantities": icvae.ICVAESettings(
            **conditional, data=data["quantities"], invariance="kt", encoder_sees_labels=True
        ),
        "icvae-columns": icvae.ICVAESettings(
            **conditional,
            data=data["table"],
            labels=Path(data["table"]).with_suffix(".csv"),
            condition=("kind", "size"),
            invariance="kt",
        ),
        "icvae-echo": icvae.ICVAESettings(
            **conditional, data=data["grey"], invariance="echo", echo_terms=5
        ),
        "icvae-vae": icvae.ICVAESettings(
            **conditional, data=data["grey"], condition="none", invariance="none"
        ),
        "abc": abc.ABCSettings(**grey, stack_size=5, withheld=("cat",), channels=4),
        "air": air.AIRSettings(**scenes, max_objects=3),
        # A small graph, as its export takes long.
        "air-single": air.AIRSettings(
            **scenes, max_objects=1, background="black", composition="sum"
        ),
    }


def make_runs(folder: Path) -> dict[str, Path]:
    """Makes a run folder for each of :func:`settings`, and one of estimators.

    Returns:
        The folders by name.
    """
    made = {}
    for name, each in settings(save_data(folder)).items():
        method = METHODS[name.partition("-")[0]]
        with runtime.preserved():
            session = method.begin(each)
            objective = session.prepared.objective
            generator = torch.Generator().manual_seed(1)
            for weight in objective.parameters():
                scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.3
                weight.data.normal_(0, scale, generator=generator)
            if method.name == "air":
                # There are objects in most scenes.
                objective.guide.gains.data[:] = torch.tensor([5.0, 9.0])
        made[name] = save(folder / name, method.name, session, objective)
    made["bench"] = folder / "bench"
    save_bench(made["bench"])
    return made


def save(folder: Path, method: str, session: Session, objective: Any) -> Path:
    """Saves a run as if it had been trained for a step."""
    inputs = session.prepared.inputs | {"data_hash": session.data_hash}
    run = Run.create(replace(session.settings, run_dir=folder), method, **inputs)
    run.log(1, {"loss": 1.0})
    run.save_checkpoint(1, {"step": 1}, objective)
    run.finish(MEASURED)
    return run.directory


def save_bench(folder: Path) -> None:
    """Writes the tables of ``python -m train.estimators``."""
    folder.mkdir()
    (folder / "config.json").write_text('{"method": "estimators", "settings": {}, "inputs": {}}')
    rows = [
        f"{name},0,{step},{step / 10},{-100 + (i + 1) * step}"
        for i, name in enumerate(("marginal", "rloo"))
        for step in (1, 10, 20)
    ]
    header = "estimator,seed,step,seconds,elbo"
    (folder / "training.csv").write_text("\n".join([header, *rows, "iw,0,1,,"]) + "\n")
    (folder / "gradients.csv").write_text(
        "estimator,group,variance,bias_se\nmarginal,all,2.5,0.9\nrloo,all,4.5,1.1\niw,all,9,3\n"
    )
