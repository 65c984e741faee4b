"""The hyperparameters of a training (`Recipe`) and the options of its execution (`RunOptions`).

This module imports no torch, so that the command line shows the options at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from senet.data.augmentation import Augmentation
from senet.errors import SenetError, UnknownNameError

__all__ = [
    "BALANCED",
    "LOGGERS",
    "LOSSES",
    "OPTIMIZERS",
    "PRECISIONS",
    "SAMPLERS",
    "SCHEDULES",
    "TRAINED",
    "Recipe",
    "RunOptions",
]

LAMB = "lamb"
OPTIMIZERS = ("sgd", "adamw", LAMB)
SCHEDULES = ("cosine", "step", "one-cycle", "constant")
TRAINED = ("all", "attention")
BALANCED = "balanced"
SAMPLERS = ("random", BALANCED)
FOCAL = "focal"
BINARY = "bce"
LOSSES = ("cross-entropy", FOCAL, BINARY)
PRECISIONS = ("32", "bf16", "fp16")
LOGGERS = ("tensorboard", "csv", "wandb", "mlflow")
NO_LOGGER = "none"
WEIGHT_DECAY = {"sgd": 1e-4, "adamw": 0.05, LAMB: 0.02}
"""Weight decay for an optimizer other than the recipe's own."""
RELATIVE_RATE = {"sgd": 1.0, "adamw": 0.01, LAMB: 0.01}
"""Learning rate of an optimizer, relative to SGD's."""

UNITS = {"s": 1, "min": 60, "h": 3600}
EVERY = re.compile(rf"(\d+)({'|'.join(UNITS)})?")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The hyperparameters of a training. Derive a recipe from another with `dataclasses.replace`.

    Attributes:
        epochs: Passes over the training images. Another number stretches the schedule (`for_epochs`).
        batch_size: Images per optimizer step, over all devices and micro-batches. Another number scales the learning
            rate in proportion (`for_batch_size`).
        train: Part of the network that learns: `"all"`, or the `"attention"` layers alone. Running statistics of norms
            follow the data in both cases.
        freeze: Part of the network that keeps its weights and running statistics. `"backbone"` is all but the
            classifier, the name of a stage such as `"layer2"` is everything up to its end, and empty is nothing.
        unfreeze_after: Epochs after which the frozen part trains too (0 is never).
        backbone_lr_factor: Factor of the learning rate of all but the classifier.
        layer_decay: Factor of the learning rate from each layer to the layer before it (1 is off).
        freeze_stages: Keep the stem and the stages of a backbone up to this number as they are (0 is none).
        freeze_bn: Keep all batch norms as they are: running statistics, weights and biases. This suits small batches.
        optimizer: `"sgd"` (with Nesterov momentum 0.9), `"adamw"` or `"lamb"` (of timm, which limits the norm of the
            whole gradient to 1). Norms and biases have no weight decay.
        lr: Peak learning rate at this batch size. AdamW or LAMB in place of SGD divides it by 100 (`for_optimizer`).
        weight_decay: L2 penalty (SGD) or decoupled weight decay (AdamW).
        schedule: Learning rate over time: `"cosine"` to zero, `"step"`, `"one-cycle"` (with SGD's momentum from 0.95 to
            0.85 and back) or `"constant"`.
        warmup_epochs: Epochs of linear warm-up, or of the one-cycle schedule's rising part.
        step_epochs: Epochs after which the step schedule lowers the learning rate.
        step_factor: Factor of the step schedule.
        class_weights: Weight of each class in the loss: `"balanced"` (in inverse proportion to its training images), or
            a dictionary from class to weight. Empty weighs all images alike.
        sampler: Choice of an epoch's images: `"random"` takes each once, `"balanced"` takes each class equally often.
        loss: Loss of a classifier: `"cross-entropy"`, `"focal"` with its exponent, such as `"focal:gamma=2"`, or
            `"bce"` (binary cross entropy, averaged over the classes). With `"bce:threshold=0.2"` the target of a class
            is 1 if its fraction in a blended image is above 0.2, else 0.
        metric: Validation metric that chooses the best epoch, such as `"balanced-accuracy"`, `"macro-f1"` or `"top1"`.
            Empty takes the task's first.
        label_smoothing: Fraction of the target that is spread evenly over the classes.
        mixup: Beta parameter of mixup (0 is off). With cutmix on too, each batch draws one of them.
        cutmix: Beta parameter of cutmix (0 is off).
        augmentation: Random changes of each training image.
        repeated_augmentation: Differently augmented copies of an image in a batch, or over the processes. An epoch
            keeps its number of samples, and with 3 takes a third of the images (1 is off).
        ema_decay: Decay per step of averaged weights, which are then validated and kept (0 is off). It rises to this
            value over the first steps.
        clip_grad_norm: Largest norm of the gradient (0 is off).
        grad_accumulation: Number of micro-batches per optimizer step, to save memory.
        patience: Stop after this many epochs without a better validation metric (0 is off).
        seed: Seed of the weights, the order of the images and the augmentation.
        expects: Result that the recipe should reach: metric, hardware and time in words.

    Raises:
        SenetError: A value is out of range.

    Example:
        >>> from dataclasses import replace
        >>> from senet.training import Recipe
        >>> recipe = Recipe(epochs=90, batch_size=256, lr=0.1, schedule="step", step_epochs=(30, 60))
        >>> recipe.for_epochs(45).step_epochs
        (15, 30)
        >>> recipe.for_batch_size(64).lr
        0.025
        >>> replace(recipe, mixup=0.2).mixup
        0.2
    """

    epochs: int = 30
    batch_size: int = 128
    train: str = "all"
    freeze: str = ""
    unfreeze_after: int = 0
    backbone_lr_factor: float = 1.0
    layer_decay: float = 1.0
    freeze_stages: int = 0
    freeze_bn: bool = False
    optimizer: str = "sgd"
    lr: float = 0.1
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    step_epochs: tuple[int, ...] = ()
    step_factor: float = 0.1
    class_weights: str | Mapping[str, float] = ""
    sampler: str = "random"
    loss: str = "cross-entropy"
    metric: str = ""
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    repeated_augmentation: int = 1
    ema_decay: float = 0.0
    clip_grad_norm: float = 0.0
    grad_accumulation: int = 1
    patience: int = 0
    seed: int = 0
    expects: str = ""

    def __post_init__(self) -> None:
        for f in fields(self):
            if f.type == "float":
                _require(math.isfinite(getattr(self, f.name)), f.name, getattr(self, f.name), "a finite number")
        for name in ("epochs", "batch_size", "grad_accumulation", "repeated_augmentation"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("weight_decay", "warmup_epochs", "mixup", "cutmix", "clip_grad_norm", "patience", "seed",
                     "freeze_stages", "unfreeze_after"):  # fmt: skip
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("label_smoothing", "ema_decay"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        _require(self.lr > 0, "lr", self.lr, "positive")
        _require(self.backbone_lr_factor > 0, "backbone_lr_factor", self.backbone_lr_factor, "positive")
        for name in ("step_factor", "layer_decay"):
            _require(0 < getattr(self, name) <= 1, name, getattr(self, name), "in (0, 1]")
        if self.batch_size % self.grad_accumulation:
            raise SenetError(
                f"batch_size={self.batch_size} can't be split into grad_accumulation={self.grad_accumulation} equal "
                "micro-batches"
            )
        for kind, name, known in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("choice of what trains", self.train, TRAINED),
            ("sampler", self.sampler, SAMPLERS),
        ):
            if name not in known:
                raise UnknownNameError(kind, name, known)
        if self.schedule == "step" and not self.step_epochs:
            raise SenetError("schedule='step' needs step_epochs, e.g. (30, 60, 90)")
        self._check_freezing()
        self._check_imbalance()

    def _check_freezing(self) -> None:
        if self.freeze and self.train != "all":
            raise SenetError(
                f"freeze={self.freeze!r} and train={self.train!r} both choose what trains; use one of them"
            )
        if self.unfreeze_after and not self.freeze:
            raise SenetError(f"unfreeze_after={self.unfreeze_after} has no effect without freeze")
        if self.unfreeze_after >= self.epochs:
            raise SenetError(f"unfreeze_after={self.unfreeze_after} must be less than epochs={self.epochs}")

    def _check_imbalance(self) -> None:
        gamma = self.focal_gamma
        if gamma and (self.mixup or self.cutmix or self.label_smoothing):
            raise SenetError(
                f"loss={self.loss!r} needs one class for each image; set label_smoothing, mixup and cutmix to 0"
            )
        if self.binary_threshold and self.label_smoothing:
            raise SenetError(f"label_smoothing={self.label_smoothing} has no effect with loss={self.loss!r}; use 0")
        if isinstance(self.class_weights, str):
            if self.class_weights not in ("", BALANCED):
                raise SenetError(f"class_weights={self.class_weights!r} must be 'balanced' or weights by class")
            if self.class_weights and self.sampler == BALANCED:
                raise SenetError(
                    "class_weights='balanced' and sampler='balanced' correct the same imbalance twice; use one of them"
                )
            return
        for name, weight in self.class_weights.items():
            _require(math.isfinite(weight) and weight >= 0, f"class_weights[{name!r}]", weight, "at least 0")

    @property
    def focal_gamma(self) -> float:
        """Exponent of the focal loss, 0 for other losses."""
        kind, option = self._loss
        if kind != FOCAL:
            return 0.0
        match = re.fullmatch(r"gamma=(\d+\.?\d*)", option or "gamma=2")
        if not match or not float(match[1]):
            raise SenetError(f"loss={self.loss!r}: write focal:gamma=NUMBER, with a positive number")
        return float(match[1])

    @property
    def is_binary(self) -> bool:
        """Whether the loss is binary cross entropy."""
        return self._loss[0] == BINARY

    @property
    def binary_threshold(self) -> float:
        """Fraction of a class above which its target in binary cross entropy is 1. 0 leaves fractions."""
        kind, option = self._loss
        if kind != BINARY or not option:
            return 0.0
        match = re.fullmatch(r"threshold=(0?\.\d+)", option)
        if not match or not float(match[1]):
            raise SenetError(f"loss={self.loss!r}: write bce:threshold=FRACTION, with a fraction in (0, 1)")
        return float(match[1])

    @property
    def _loss(self) -> tuple[str, str]:
        """Name and options of the loss."""
        kind, _, option = self.loss.partition(":")
        if kind not in LOSSES:
            raise UnknownNameError("loss", self.loss, LOSSES)
        if option and kind not in (FOCAL, BINARY):
            raise SenetError(f"loss={self.loss!r}: {kind} has no options")
        return kind, option

    def for_batch_size(self, batch_size: int) -> Recipe:
        """Return this recipe for another batch size, with the learning rate scaled linearly (Goyal et al. 2017).

        LAMB's is scaled by the square root (You et al. 2020, arXiv 1904.00962, section 4.3).
        """
        ratio = batch_size / self.batch_size
        return replace(self, batch_size=batch_size, lr=self.lr * (ratio**0.5 if self.optimizer == LAMB else ratio))

    def for_optimizer(self, optimizer: str) -> Recipe:
        """Return this recipe for another optimizer, with a suitable learning rate and weight decay.

        The steps of AdamW and LAMB do not grow with the gradient, so their learning rates are a hundredth of SGD's.
        Their weight decay is larger (Loshchilov & Hutter 2019).
        """
        if optimizer == self.optimizer:
            return self
        factor = RELATIVE_RATE.get(optimizer, 1.0) / RELATIVE_RATE[self.optimizer]
        decay = WEIGHT_DECAY.get(optimizer, self.weight_decay)
        return replace(self, optimizer=optimizer, lr=self.lr * factor, weight_decay=decay)

    def for_epochs(self, epochs: int) -> Recipe:
        """Return this recipe for another number of epochs, with warm-up and drops scaled in proportion."""
        _require(epochs >= 1, "epochs", epochs, "at least 1")
        stretch = epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            warmup_epochs=self.warmup_epochs * stretch,
            step_epochs=tuple(max(1, round(epoch * stretch)) for epoch in self.step_epochs),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary for `from_dict`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["class_weights"] = _plain_weights(self.class_weights)
        values["augmentation"] = {f.name: getattr(self.augmentation, f.name) for f in fields(Augmentation)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """Build a recipe from the result of `to_dict`."""
        plain = _with_tuples(values)
        return cls(**plain | {"augmentation": Augmentation(**_with_tuples(plain["augmentation"]))})


def _plain_weights(weights: str | Mapping[str, float]) -> str | dict[str, float]:
    return weights if isinstance(weights, str) else dict(weights)


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Replace JSON's lists by tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _require(good: bool, name: str, value: object, what: str) -> None:
    if not good:
        raise SenetError(f"{name}={value} must be {what}")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of a training's execution. They change its speed and memory, not its hyperparameters.

    Attributes:
        precision: Precision of the computation: `"32"`, or mixed with `"bf16"` or `"fp16"`.
        devices: Devices of this machine. 0 is all accelerators, or the CPU.
        nodes: Number of machines.
        strategy: Strategy of Lightning for several devices: `"auto"`, `"ddp"`, `"fsdp"`, ...
        sync_bn: Batch norms use the statistics of the images of all devices, so that results do not depend on the
            number of devices. Without it each device uses its own images, which is faster.
        workers: Processes per device that load images. -1 chooses by the number of cores.
        channels_last: Store feature maps as (N, H, W, C), which is faster on most hardware.
        grad_checkpointing: Recompute feature maps in the backward pass to save memory.
        compile: Run the network through `torch.compile`.
        accelerate: Run each batch norm with its activation and channel attention as one operator, on CPUs with
            the compiled kernel. Results differ by rounding.
        tf32: Multiply float32 numbers in TF32 (10 bits of the fraction instead of 23) on GPUs with CUDA that have it,
            in convolutions and matrix products. It is several times faster there.
        deterministic: Use only deterministic algorithms, which are slower on some GPUs. Without it, cuDNN tries its
            algorithms and keeps the fastest, where all images have one size.
        save_every: Interval between saved training states within an epoch: time such as `"300s"` or `"5min"`, or steps
            such as `"100"`. `"0"` saves only after each epoch.
        keep_states: Number of recent training states to keep.
        logger: Loggers, separated by commas: `tensorboard`, `csv`, `wandb` and `mlflow`, or `none`.
        log_every: Steps between two training losses in the loggers. 0 writes one loss per epoch only.

    Raises:
        SenetError: A value is out of range.

    Example:
        >>> from senet.training import RunOptions
        >>> options = RunOptions(precision="bf16", save_every="5min")
        >>> options.save_seconds, options.save_steps
        (300.0, 0)
    """

    precision: str = "32"
    devices: int = 0
    nodes: int = 1
    strategy: str = "auto"
    sync_bn: bool = True
    workers: int = -1
    channels_last: bool = True
    grad_checkpointing: bool = False
    compile: bool = False
    accelerate: bool = True
    tf32: bool = True
    deterministic: bool = False
    save_every: str = "300s"
    keep_states: int = 2
    logger: str = "tensorboard"
    log_every: int = 50

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UnknownNameError("precision", self.precision, PRECISIONS)
        _require(self.devices >= 0, "devices", self.devices, "at least 1 (0 chooses)")
        _require(self.nodes >= 1, "nodes", self.nodes, "at least 1")
        _require(self.workers >= -1, "workers", self.workers, "at least 0 (-1 chooses)")
        _require(self.keep_states >= 1, "keep_states", self.keep_states, "at least 1")
        _require(self.log_every >= 0, "log_every", self.log_every, "at least 0 (0 writes none)")
        for name in self.loggers:
            if name not in LOGGERS:
                raise UnknownNameError("logger", name, (*LOGGERS, NO_LOGGER))
        _require(
            EVERY.fullmatch(self.save_every) is not None, "save_every", self.save_every, "300s, 5min, or steps: 100"
        )

    @property
    def loggers(self) -> tuple[str, ...]:
        """Names of the loggers, each once."""
        return () if self.logger == NO_LOGGER else tuple(dict.fromkeys(self.logger.split(",")))

    @property
    def save_steps(self) -> int:
        """Steps between two states. 0 if states are saved by time or not at all within epochs."""
        return int(self.save_every) if self.save_every.isdigit() else 0

    @property
    def save_seconds(self) -> float:
        """Seconds between two states. 0 if states are saved by steps or not at all within epochs."""
        number, unit = EVERY.fullmatch(self.save_every).groups()  # type: ignore[union-attr]
        return float(number) * UNITS[unit] if unit else 0.0
