"""Run a training of a network on a data set by a recipe."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import FSDPStrategy, Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from rich.console import Console
from torch import nn
from torch.distributed.fsdp import MixedPrecision
from torch.utils.data import DataLoader

from senet.console import line_printer, plain_console
from senet.data import (
    Batch,
    Data,
    Shard,
    annotation_issues,
    eval_loader,
    train_loader,
)
from senet.data.balance import (
    balanced_weights,
    class_counts,
    positive_weights,
    report_rare_classes,
    weights_by_name,
)
from senet.data.checks import check_masks, report_data
from senet.data.corrupt_images import CorruptImageReport
from senet.data.sources import missing_classes
from senet.errors import DataError, SenetError
from senet.inference.backends import cuda_backends
from senet.models import Backbone
from senet.preprocessing import Preprocessing
from senet.surgery import trainable
from senet.tasks import CLASSIFICATION, CLASSIFIERS, task_named
from senet.tasks.distillation import Distillation
from senet.tasks.task import Task
from senet.training.acceleration import accelerated
from senet.training.checkpointer import TrainingCheckpointer
from senet.training.cluster import is_first_process, placed
from senet.training.failures import translate_errors
from senet.training.freezing import Freezing, fine_tunes, trained_part
from senet.training.heartbeat import Heartbeat
from senet.training.interruption import Interrupted, StopRequest
from senet.training.layers import Layers, find_layers
from senet.training.module import TrainingModule
from senet.training.outcome import Outcome, outcome_of, write_outcome
from senet.training.progress import ProgressLine
from senet.training.recipe import BALANCED, LAMB, Recipe, RunOptions
from senet.training.requirements import require_packages
from senet.training.states import TrainingState
from senet.training.sync_batchnorm import SyncBatchNormPlugin
from senet.training.teacher import Teacher
from senet.weights import CheckpointMetadata

__all__ = [
    "Network",
    "check_annotations",
    "fit",
    "make_loaders",
    "make_module",
    "make_trainer",
    "prepare_network",
    "quiet_lightning",
]

LIGHTNING_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@dataclass(frozen=True)
class Network:
    """A network to train, and the metadata for its checkpoints.

    Attributes:
        model: The network. For classification (N, C, H, W) -> logits (N, classes), see `senet.tasks` for others.
        name: Name for `senet.zoo.build_model`.
        options: Model options, JSON-ready.
        preprocessing: Preprocessing of the images.
        new_head: Reason why its classifier is newly initialized, empty if it isn't.
        task: Task of the network, a key of `senet.tasks.TASKS`.
        head: Head on the backbone, where it is a backbone.
    """

    model: nn.Module
    name: str
    options: dict[str, Any]
    preprocessing: Preprocessing
    new_head: str = ""
    task: str = CLASSIFICATION
    head: Mapping[str, Any] = field(default_factory=dict)


def fit(
    network: Network,
    data: Data,
    recipe: Recipe,
    folder: Path,
    *,
    run: RunOptions | None = None,
    state: TrainingState | None = None,
    console: Console | None = None,
    teacher: tuple[Distillation, Teacher] | None = None,
    callbacks: Iterable[L.Callback] = (),
) -> Outcome:
    """Train a network, and write checkpoints, `metrics.csv`, `curves.png` and logs to `folder`.

    Args:
        network: Network to train.
        data: Training and validation data.
        recipe: Hyperparameters.
        folder: Existing folder for the results.
        run: Options of the execution.
        state: Training state to resume from. None starts with the network as it is.
        console: Console for progress bar and messages, or None for standard error.
        teacher: The result of `Teacher.build`, or None to learn from the labels alone.
        callbacks: Further callbacks of Lightning. `trainer.callback_metrics` has `val/top1` and the other metrics.

    Raises:
        SenetError: Invalid options (before training starts), or a non-finite loss (during it).
        Interrupted: The user pressed Ctrl-C. The state is saved.
    """
    run, console = placed(run or RunOptions()), console or plain_console()
    started = time.monotonic()
    require_packages(recipe, run)
    task = task_named(network.task)
    task.check_recipe(recipe)
    task.check_network(network.model, network.name, network.preprocessing, data.classes)
    report = line_printer(console)
    check_annotations(data, report)
    report_missing_classes(data, report)
    if data.task in CLASSIFIERS and is_first_process():
        corrected = bool(recipe.class_weights) or recipe.sampler == BALANCED or bool(recipe.focal_gamma)
        images = len(data.train) if data.multi_label else None
        report_rare_classes(class_counts(data.train, data.classes), report, corrected=corrected, images=images)
    check_masks(data, ("train", "val"), training=True)
    if is_first_process():
        report_data(data, network.preprocessing, report, augmentation=recipe.augmentation)
    prepare_network(network, recipe, run)
    layers = find_layers(network.model, task.example(network.preprocessing)) if fine_tunes(recipe) else None
    freezing = Freezing(network.model, layers, recipe) if layers is not None else None
    if layers is not None and is_first_process():
        report(f"training {trained_part(network.model, layers, recipe)}")
    if freezing is not None and freezing.is_constant:
        freezing.apply(0)  # before the network is wrapped for several devices
    record = data.record() if is_first_process() else None  # only the first process writes it
    taught = {"teacher": teacher[1].record()} if teacher else {}
    corrupt_images = CorruptImageReport(
        len(data.train) + len(data.val), report=lambda *it: report(f"skipped {': '.join(it)}"), data=data.name
    )
    with StopRequest(report if is_first_process() else str) as stop, quiet_lightning():
        checkpointer = TrainingCheckpointer(
            folder,
            lambda metrics, epoch: CheckpointMetadata(
                model=network.name,
                options=network.options,
                classes=data.classes,
                preprocessing=network.preprocessing,
                metrics=metrics,
                training={"epoch": epoch, "data": data.name, "recipe": recipe.to_dict(), **taught, **data.numbering},
                data=record,
                task=network.task,
                head=dict(network.head),
                thresholds=tuple(module.objective.thresholds),
            ),
            metrics=task.metrics_for(recipe.metric),
            stop=stop,
            report=report,
            run=run,
            corrupt_images=corrupt_images,
            title=f"{network.name} on {data.name}",
        )  # fmt: skip
        heartbeat = Heartbeat(f"continue with: senet train --resume {folder}")
        statistics = SyncBatchNormPlugin()
        own = [checkpointer, ProgressLine(console), heartbeat, *_early_stop(recipe, task)]
        trainer = make_trainer(recipe, run, folder, [*own, *callbacks], [statistics] if run.sync_bn else [])
        loaders = make_loaders(task, network, data, recipe, run, trainer)
        if state is not None:
            loaders[0].batch_sampler.resume_at(state.epoch, state.batch)  # type: ignore[union-attr]
        module = make_module(
            network, data, recipe, run, trainer, layers=layers, freezing=freezing, teacher=teacher,
            corrupt_images=corrupt_images,
        )  # fmt: skip
        acceleration = accelerated(
            list(dict.fromkeys((module.model, module.best_weights))),
            task.example(network.preprocessing),
            run,
            trainer.strategy.root_device,
            devices=trainer.world_size,
            report=report if is_first_process() else str,
        )
        backends = cuda_backends(
            trainer.strategy.root_device, autotune=task.has_fixed_size and not run.deterministic, tf32=run.tf32
        )
        explained = translate_errors(checkpointer, _batch_shape(loaders[0], network.preprocessing))
        try:
            with acceleration, backends, explained:
                trainer.fit(module, *loaders, ckpt_path=state.path if state else None, weights_only=True)
        except MisconfigurationException as error:
            raise SenetError(f"this training can't run here: {error}") from error
        except SIGTERMException:  # from Lightning, after the checkpointer. It is ignored once all epochs are done
            if len(checkpointer.rows) < recipe.epochs:
                raise Interrupted from None
        except RuntimeError as error:
            lost = heartbeat.explain(error)
            if not lost:
                raise
            raise SenetError(lost) from error
        finally:
            statistics.revert(module)
    seconds = time.monotonic() - started
    outcome = outcome_of(
        checkpointer.rows,
        checkpointer.metrics[0].key,
        folder=folder,
        seconds=seconds,
        corrupt_images=corrupt_images.summary(),
    )
    if trainer.is_global_zero:
        write_outcome(folder, outcome, epochs=recipe.epochs)
    return outcome


def make_module(
    network: Network,
    data: Data,
    recipe: Recipe,
    run: RunOptions,
    trainer: L.Trainer,
    *,
    layers: Layers | None,
    freezing: Freezing | None,
    teacher: tuple[Distillation, Teacher] | None,
    corrupt_images: CorruptImageReport | None = None,
) -> TrainingModule:
    """Make the training and validation step of a network, with the loss of its task and recipe.

    Args:
        network: Network to train.
        data: Training and validation data.
        recipe: Hyperparameters.
        run: Options of the execution.
        trainer: The trainer that gets it.
        layers: Layers of the network where the recipe treats them differently, else None.
        freezing: Frozen part of the network, None for none.
        teacher: The result of `Teacher.build`, or None.
        corrupt_images: Report of corrupt images.
    """
    objective = task_named(network.task).objective(
        data.classes,
        with_class_weights(recipe, data),
        preprocessing=network.preprocessing,
        channels_last=run.channels_last,
    )
    if teacher is not None:
        objective.distillation = teacher[0]  # type: ignore[assignment]
    # PyTorch saves the optimizer's state of sharded weights in the order of contiguous memory.
    strided = run.channels_last and not isinstance(trainer.strategy, FSDPStrategy)
    return TrainingModule(
        network.model,
        recipe,
        objective,
        channels_last=strided,
        corrupt_images=corrupt_images,
        freezing=freezing,
        scales=None if layers is None else layers.scales(backbone=recipe.backbone_lr_factor, decay=recipe.layer_decay),
        teacher=teacher[1].record() if teacher else None,
    )


def check_annotations(data: Data, report: Callable[[str], object]) -> None:
    """Report repaired annotation issues before training.

    Raises:
        DataError: An issue can't be repaired, or there are too many repaired ones.
    """
    issues = annotation_issues(data)
    advice = f"`senet doctor --data {data.name}` lists all"
    fatal = [issue for issue in issues if issue.fatal]
    if fatal:
        more = f"\n{len(fatal)} such issues; {advice}" if len(fatal) > 1 else ""
        raise DataError(f"{fatal[0].path}: {fatal[0].reason}{more}")
    boxes = sum(sum(split.counts(len(data.classes))) for split in data.splits.values() if hasattr(split, "counts"))
    limit = max(10, boxes // 100)
    if len(issues) > limit:
        path, reason, _ = issues[0]
        raise DataError(
            f"{len(issues)} boxes of {boxes + len(issues):,} are invalid, more than the limit of {limit}; the first: "
            f"{path}: {reason}\n{advice}"
        )
    for issue in issues:
        report(f"{issue.path}: {issue.reason}")


def report_missing_classes(data: Data, report: Callable[[str], object]) -> None:
    """Report classes without a validation image.

    Raises:
        DataError: No image of multi-label data has a label.
    """
    missing = missing_classes(data.val, data.classes) if data.task in CLASSIFIERS else ()
    if data.multi_label and len(missing) == len(data.classes):
        raise DataError(f"no validation image of {data.name} has a label, so there is no mAP to choose the best epoch")
    if missing:
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        report(f"{len(missing)} of {len(data.classes)} classes have no validation image: {names}")


def with_class_weights(recipe: Recipe, data: Data) -> Recipe:
    """Return the recipe with a weight for each class of the data, where it weighs classes.

    Raises:
        SenetError: The weights are for other classes.
    """
    if recipe.class_weights == BALANCED:
        counts = class_counts(data.train, data.classes)
        weights = positive_weights(counts, len(data.train)) if data.multi_label else balanced_weights(counts)
        return replace(recipe, class_weights=weights)
    if not recipe.class_weights:
        return recipe
    assert not isinstance(recipe.class_weights, str)
    return replace(recipe, class_weights=weights_by_name(recipe.class_weights, data.classes))


def prepare_network(network: Network, recipe: Recipe, run: RunOptions) -> None:
    """Freeze parts, turn on gradient checkpointing and compile, as the options ask.

    Raises:
        SenetError: The network doesn't support one of them.
    """
    if recipe.freeze_stages or (recipe.freeze_bn and _backbone(network) is not None):
        _freeze(network, recipe)
    if recipe.train != "all":
        trainable(network.model, recipe.train)
    if run.grad_checkpointing:
        _turn_on_checkpointing(network)
    if run.compile:
        network.model.compile()


def _backbone(network: Network) -> Backbone | None:
    return next((module for module in network.model.modules() if isinstance(module, Backbone)), None)


def _freeze(network: Network, recipe: Recipe) -> None:
    backbone = _backbone(network)
    if backbone is None:
        raise SenetError(
            f"freeze_stages needs a backbone of this package; {network.name} for {network.task} has none, so use freeze"
        )
    backbone.freeze(recipe.freeze_stages, norms=recipe.freeze_bn)


def _turn_on_checkpointing(network: Network) -> None:
    able = [module for module in network.model.modules() if hasattr(module, "grad_checkpointing")]
    if not able:
        raise SenetError(f"gradient checkpointing needs a network of this package; {network.name} doesn't support it")
    able[0].grad_checkpointing = True  # type: ignore[assignment]


def make_trainer(
    recipe: Recipe, run: RunOptions, folder: Path, callbacks: list[L.Callback], plugins: list[Any], **more: Any
) -> L.Trainer:
    """Make Lightning's trainer.

    Args:
        recipe: Hyperparameters.
        run: Options of the execution.
        folder: Folder of the run.
        callbacks: Callbacks.
        plugins: Plugins.
        **more: Further arguments of `lightning.Trainer`.

    Raises:
        SenetError: The options don't work together, or not on this machine.
    """
    if recipe.ema_decay and run.strategy.startswith("fsdp"):
        raise SenetError("averaged weights (ema_decay) can't be kept under fsdp; use --ema-decay 0 or --strategy ddp")
    if recipe.optimizer == LAMB and run.strategy.startswith("fsdp"):
        raise SenetError("lamb needs the norm of whole weights, which fsdp shards; use --optimizer adamw or "
                         "--strategy ddp")  # fmt: skip
    try:
        trainer = L.Trainer(
            accelerator="auto",
            devices=run.devices or "auto",
            num_nodes=run.nodes,
            strategy=_strategy(run, unfreezes=bool(recipe.unfreeze_after)),
            precision=LIGHTNING_PRECISION[run.precision],  # type: ignore[arg-type]
            max_epochs=recipe.epochs,
            accumulate_grad_batches=recipe.grad_accumulation,
            gradient_clip_val=recipe.clip_grad_norm or None,
            deterministic=run.deterministic,
            logger=False,  # the checkpointer logs before it saves a state
            default_root_dir=folder,
            callbacks=callbacks,
            plugins=plugins,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1_000_000,
            **more,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise SenetError(f"this training can't run here: {error}") from error
    # In each step it would wait for a broadcast of SIGTERM, which `StopRequest` handles.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    return trainer


def _strategy(run: RunOptions, *, unfreezes: bool) -> str | Strategy:
    """Return Lightning's strategy. Sharded networks have the precision of all others.

    Lightning would keep their running statistics in 16 bits under mixed precision.

    Raises:
        SenetError: Sharded networks would have to unfreeze a part.
    """
    name = run.strategy
    if unfreezes and name in FSDPStrategy.get_registered_strategies():
        raise SenetError("unfreeze_after is not possible under fsdp, which fixes what trains; use --strategy ddp")
    if unfreezes and (name == "ddp" or (name == "auto" and _processes(run) > 1)):
        return "ddp_find_unused_parameters_true"  # the frozen part has no gradient at first
    if name not in FSDPStrategy.get_registered_strategies():
        return name
    wide = MixedPrecision(param_dtype=torch.float32, reduce_dtype=torch.float32, buffer_dtype=torch.float32)
    return FSDPStrategy(mixed_precision=wide, cpu_offload=name == "fsdp_cpu_offload")


def _processes(run: RunOptions) -> int:
    here = torch.accelerator.device_count() if torch.accelerator.is_available() else 1
    return (run.devices or here) * run.nodes


def _early_stop(recipe: Recipe, task: Task) -> Iterable[L.Callback]:
    if recipe.patience:
        # A non-finite metric never counts as better.
        yield EarlyStopping(
            f"val/{task.metrics_for(recipe.metric)[0].key}", mode="max", patience=recipe.patience, check_finite=False
        )


def make_loaders(
    task: Task, network: Network, data: Data, recipe: Recipe, run: RunOptions, trainer: L.Trainer
) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """Return the loaders of this process's training and validation images.

    Raises:
        SenetError: The images or the batch can't be split over the devices and micro-batches.
    """
    shard = Shard(trainer.global_rank, trainer.world_size)
    pieces = recipe.grad_accumulation * shard.world_size
    if recipe.batch_size % pieces:
        raise SenetError(
            f"batch_size={recipe.batch_size} can't be split equally over {shard.world_size} devices x "
            f"{recipe.grad_accumulation} micro-batches; use a multiple of {pieces}"
        )
    check_shares(len(data.val), world_size=shard.world_size)
    share = min(recipe.batch_size, len(data.train)) // pieces
    if not share:
        raise SenetError(
            f"{len(data.train)} training images can't be split over {shard.world_size} devices x "
            f"{recipe.grad_accumulation} micro-batches; use a smaller --grad-accumulation"
        )
    workers = None if run.workers < 0 else run.workers
    train_set, val_set = task.datasets(data, network.preprocessing, recipe)
    return (
        train_loader(train_set, batch_size=share, shard=shard, multiple=recipe.grad_accumulation, workers=workers),
        eval_loader(val_set, batch_size=task.eval_batch_size(share), shard=shard, workers=workers),
    )


def check_shares(images: int, *, world_size: int) -> None:
    """Refuse fewer validation images than processes, since processes would wait for one without images.

    Raises:
        SenetError: There are fewer images than processes.
    """
    if images < world_size:
        raise SenetError(
            f"{images} validation image{'s' * (images != 1)} can't be shared by {world_size} processes; "
            f"use at most {images} device{'s' * (images != 1)}"
        )


def _batch_shape(loader: DataLoader[Batch], preprocessing: Preprocessing) -> str:
    size = (loader.batch_sampler.batch_size, preprocessing.in_channels, *preprocessing.size)  # type: ignore[union-attr]
    return " x ".join(map(str, size))


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's notes on hardware and its advice on settings that are chosen here."""
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
