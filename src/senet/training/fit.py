"""Run a training: from a network, a data set and a recipe to a folder with a usable network."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader

from senet.data import (
    Batch,
    BrokenReport,
    Data,
    ImageDataset,
    Normalise,
    Shard,
    eval_loader,
    eval_transform,
    train_loader,
    train_transform,
)
from senet.errors import SenetError
from senet.preprocessing import Preprocessing
from senet.surgery import trainable
from senet.training.cluster import is_first_process, placed
from senet.training.folder import METRICS, STATE
from senet.training.interruption import StopRequest
from senet.training.keeper import Keeper
from senet.training.module import ClassificationModule
from senet.training.progress import ProgressLine
from senet.training.recipe import Recipe, RunOptions
from senet.training.rollcall import RollCall, connection_lost
from senet.training.shared_norm import SharedStatistics
from senet.weights import Description

__all__ = ["Network", "Outcome", "check_output", "fit"]

LIGHTNING_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True)
class Network:
    """A network to train, and what must stand in its checkpoints so that it can be built again.

    Attributes:
        model: (N, C, H, W) -> logits (N, classes).
        name: As `senet.zoo.build_model` takes it.
        options: The options that it was made with, JSON-ready.
        preprocessing: What its images go through.
        new_head: Why its classifier is new, in words; empty if it knows the data's classes.
    """

    model: nn.Module
    name: str
    options: dict[str, Any]
    preprocessing: Preprocessing
    new_head: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Attributes:
        rows: One an epoch, as in `metrics.csv`.
        best: The row of the highest validation accuracy.
        seconds: Wall clock of this call.
        broken: How many broken images were skipped, in words; empty if none.
    """

    rows: list[dict[str, float]]
    best: dict[str, float]
    seconds: float
    broken: str


def fit(
    network: Network,
    data: Data,
    recipe: Recipe,
    folder: Path,
    *,
    run: RunOptions | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Outcome:
    """Train, and leave checkpoints, `metrics.csv`, `curves.png` and TensorBoard logs in `folder`.

    Args:
        network: What to train.
        data: What on.
        recipe: How, as far as it changes the result.
        folder: Exists already.
        run: How, as far as it doesn't.
        resume: Go on from the state in `folder`, at the step where it was saved; a run that was killed before it
            saved any begins anew.
        console: For bar and messages; standard error if None.

    Raises:
        SenetError: Anything that can't work, before training starts; a loss that is no number, during it.
        Interrupted: Ctrl-C; the state is saved.
    """
    run, console = placed(run or RunOptions()), console or Console(stderr=True)
    started = time.monotonic()
    check_output(network, len(data.classes))
    if recipe.train != "all":
        trainable(network.model, recipe.train)
    if run.checkpointing:
        _turn_on_checkpointing(network)
    if run.compile:
        network.model.compile()
    broken = BrokenReport(
        len(data.train) + len(data.val),
        tell=lambda *it: console.print(f"skipped {': '.join(it)}", highlight=False),
        data=data.name,
    )
    with (
        StopRequest(console.print if is_first_process() else str) as stop,
        _quiet_lightning(),
    ):
        keeper = Keeper(
            folder,
            lambda metrics, epoch: Description(
                model=network.name,
                options=network.options,
                classes=data.classes,
                preprocessing=network.preprocessing,
                metrics=metrics,
                training={"epoch": epoch, "data": data.name, "recipe": recipe.to_dict()},
            ),
            stop=stop,
            tell=lambda line: console.print(line, highlight=False, soft_wrap=True),
            title=f"{network.name} on {data.name}",
        )  # fmt: skip
        roll_call = RollCall(f"go on with: senet train --resume {folder}")
        statistics = SharedStatistics()
        callbacks = [keeper, ProgressLine(console), roll_call, *_early_stop(recipe)]
        trainer = _trainer(recipe, run, folder, callbacks, [statistics] if run.sync_norm else [])
        state = _read_state(folder, recipe) if resume else None
        loaders = _loaders(network, data, recipe, run, trainer)
        if state is not None:
            loaders[0].batch_sampler.resume_at(*Keeper.position(state))  # type: ignore[union-attr]
        module = ClassificationModule(
            network.model, recipe, len(data.classes), channels_last=run.channels_last, broken=broken,
            normalise=Normalise(network.preprocessing),
        )  # fmt: skip
        try:
            trainer.fit(module, *loaders, ckpt_path=folder / STATE if state is not None else None, weights_only=True)
        except MisconfigurationException as error:
            raise SenetError(f"this training can't run here: {error}") from error
        except RuntimeError as error:
            if trainer.world_size > 1 and connection_lost(error):
                raise SenetError(roll_call.explain()) from error
            raise
        finally:
            statistics.revert(module)
    return Outcome(keeper.rows, keeper.best, time.monotonic() - started, broken.summary())


def check_output(network: Network, classes: int) -> None:
    """Run one blank image, so that a network that doesn't fit is refused before anything is loaded.

    Raises:
        SenetError: It can't take its own images, or doesn't give `classes` logits.
    """
    preprocessing = network.preprocessing
    like = next(network.model.parameters(), None)
    if like is None:
        raise SenetError(f"{network.name} has no parameters to train")
    image = torch.zeros(1, preprocessing.in_channels, *preprocessing.size, dtype=like.dtype, device=like.device)
    was = network.model.training
    network.model.eval()
    try:
        with torch.no_grad():
            output = network.model(image)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SenetError(f"{network.name} can't take an image of shape {tuple(image.shape[1:])}: {reason}") from error
    finally:
        network.model.train(was)
    if not isinstance(output, torch.Tensor) or output.shape != (1, classes):
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise SenetError(f"{network.name} gives {shape} for one image; the data has {classes} classes: (1, {classes})")


def _turn_on_checkpointing(network: Network) -> None:
    if not hasattr(network.model, "checkpointing"):
        raise SenetError(f"gradient checkpointing is built into this package's networks; {network.name} has none")
    network.model.checkpointing = True  # type: ignore[assignment]


def _trainer(
    recipe: Recipe, run: RunOptions, folder: Path, callbacks: list[L.Callback], plugins: list[Any]
) -> L.Trainer:
    if recipe.ema_decay and run.strategy.startswith("fsdp"):
        raise SenetError("averaged weights (ema_decay) can't be kept under fsdp; use --ema-decay 0 or --strategy ddp")
    try:
        return L.Trainer(
            accelerator="auto",
            devices=run.devices or "auto",
            num_nodes=run.nodes,
            strategy=run.strategy,
            precision=LIGHTNING_PRECISION[run.precision],  # type: ignore[arg-type]
            max_epochs=recipe.epochs,
            accumulate_grad_batches=recipe.accumulate,
            gradient_clip_val=recipe.clip_norm or None,
            deterministic=run.deterministic,
            logger=TensorBoardLogger(folder, name="", version="tensorboard"),
            callbacks=callbacks,
            plugins=plugins,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1_000_000,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise SenetError(f"this training can't run here: {error}") from error


def _early_stop(recipe: Recipe) -> Iterable[L.Callback]:
    if recipe.patience:
        yield EarlyStopping("val/top1", mode="max", patience=recipe.patience)


def _loaders(
    network: Network, data: Data, recipe: Recipe, run: RunOptions, trainer: L.Trainer
) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    shard = Shard(trainer.global_rank, trainer.world_size)
    pieces = recipe.accumulate * shard.world_size
    if recipe.batch_size % pieces:
        raise SenetError(
            f"batch_size={recipe.batch_size} can't be split equally over {shard.world_size} devices x "
            f"{recipe.accumulate} accumulated pieces; use a multiple of {pieces}"
        )
    check_shares(len(data.val), world_size=shard.world_size)
    share = min(recipe.batch_size // pieces, len(data.train) // shard.world_size)
    workers = None if run.workers < 0 else run.workers
    train_set = ImageDataset(data.train, train_transform(network.preprocessing, recipe.augmentation), seed=recipe.seed)
    val_set = ImageDataset(data.val, eval_transform(network.preprocessing))
    return (
        train_loader(train_set, batch_size=share, shard=shard, workers=workers),
        eval_loader(val_set, batch_size=max(share, 64), shard=shard, workers=workers),
    )


def check_shares(images: int, *, world_size: int) -> None:
    """Refuse a validation in which a process has nothing to do: the others would wait for it.

    Raises:
        SenetError: There are fewer images than processes.
    """
    if images < world_size:
        raise SenetError(
            f"{images} image{'s' * (images != 1)} to validate on can't be shared by {world_size} processes; "
            f"use at most {images} device{'s' * (images != 1)}"
        )


def _read_state(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    path = folder / STATE
    if not path.is_file():
        table = folder / METRICS
        if table.is_file() and len(table.read_text().splitlines()) > 2:
            raise SenetError(
                f"{folder} can't be resumed: its {STATE} is gone, and it is trained for more than an epoch"
            )
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise SenetError(
            f"{path} can't be read ({type(error).__name__}): truncated, or not written by this package"
        ) from error
    if Keeper.position(state)[0] >= recipe.epochs:
        raise SenetError(f"{folder} is trained to its end, {recipe.epochs} epochs; --epochs with more goes on")
    return state


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's notes on hardware and its advice on settings that are chosen here are not for our users."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning(\..*)?")
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
