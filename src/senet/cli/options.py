"""Options shared by several commands, and their values."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from senet.cli.parser import add_subject, add_switch
from senet.cli.values import class_names, numbers, parse_size, positive
from senet.errors import SenetError

if TYPE_CHECKING:
    from senet.data import Data
    from senet.training.job import DataOptions
    from senet.weights import DataRecord
    from senet.zoo import LoadedModel

__all__ = [
    "CHECKPOINT",
    "DATA",
    "NETWORKS",
    "add_data_options",
    "add_function_option",
    "add_limit_option",
    "add_network_options",
    "add_size_option",
    "add_split_option",
    "add_split_options",
    "add_use_options",
    "add_workers_option",
    "data_options",
    "data_to_evaluate",
    "load_network",
    "named_options",
    "network_options",
    "refuse_checkpoint",
    "user_function",
]

NETWORKS = "a name of `senet list`, timm:NAME, torchvision:NAME, or module:function of your own network"
"""Values of `--model`."""

CHECKPOINT = "a trained network: a .safetensors file, or the folder of a run (its best epoch)"
"""Values of `--checkpoint`."""

DATA = (
    "digits (included), folder:PATH (one subfolder per class), csv:FILE (paths and labels), shards:DIR (made by `senet "
    "shard`), cifar10, cifar100, fashion_mnist, imagenet:PATH, voc:PATH or coco:PATH (boxes), masks:PATH (masks)"
)
"""Values of `--data`."""

BATCH = 64
"""Batch size without training."""

CLASS_NAMES = "A,B,C|FILE"


def add_data_options(parser: argparse.ArgumentParser, *, required: bool, dense: bool = True) -> None:
    """Add `--data` and the options of its splits.

    Args:
        parser: Gets them in a group of their own.
        required: Whether the command needs data.
        dense: Whether the data may have boxes and masks.
    """
    group = parser.add_argument_group("data")
    default = "" if required else " (default: none)"
    group.add_argument("--data", required=required, metavar="DATA", help=DATA + default)
    add_split_options(group, dense=dense)


def add_split_options(group: argparse._ArgumentGroup, *, dense: bool = True) -> None:
    """Add the options that divide the data into splits and locate it."""
    group.add_argument(
        "--val-fraction",
        type=float,
        metavar="FRACTION",
        help="fraction of the images to validate on, where the data has no split (default: the checkpoint's, else 0.2)",
    )
    group.add_argument(
        "--folds",
        type=positive,
        metavar="N",
        help="divide the images into N folds, not by a fraction. Without --fold, `senet train` trains for each fold "
        "(default: the checkpoint's, else none)",
    )
    group.add_argument(
        "--fold",
        type=positive,
        metavar="K",
        help="fold of the validation images, 1 to N. The other folds are trained on (default: the checkpoint's)",
    )
    group.add_argument(
        "--group",
        metavar="COLUMN|REGEX",
        help="groups of images that are never divided, such as patients: a column of csv:, else a regular expression "
        "of paths (default: the checkpoint's, else the column group)",
    )
    group.add_argument(
        "--split-seed",
        type=int,
        metavar="SEED",
        help="seed of the choice of the validation images (default: the checkpoint's, else 0)",
    )
    if dense:
        group.add_argument(
            "--class-names",
            type=class_names,
            metavar=CLASS_NAMES,
            help="classes of boxes or masks, or a file with one name a line, counted from 0 in masks (default: the "
            "data's)",
        )
        add_switch(group, "--instances", help="masks hold numbers of single objects, all of the second class")
    add_switch(group, "--download", help="download a published data set if it is missing")
    group.add_argument(
        "--data-root", metavar="DIR", help="folder of published data sets (default: ~/.cache/senet/data)"
    )


def data_options(options: argparse.Namespace) -> DataOptions:
    """Return the values of `add_data_options`. `.open()` opens the data."""
    from senet.training.job import DataOptions

    return DataOptions(
        data=options.data,
        val_fraction=options.val_fraction,
        split_seed=options.split_seed,
        folds=options.folds,
        fold=options.fold,
        group=options.group,
        download=bool(options.download),
        root=options.data_root,
        classes=getattr(options, "class_names", None) or (),
        instances=bool(getattr(options, "instances", None)),
    )


def data_to_evaluate(options: argparse.Namespace, record: DataRecord | None) -> Data:
    """Open the data of `add_data_options`. By default it is divided as in the network's training."""
    return data_options(options).open(record=record, training=False)


def check_task(data: Data, loaded: LoadedModel, options: argparse.Namespace) -> None:
    """Raise a `SenetError` if the data's labels are for another task than the network."""
    if data.task != loaded.metadata.task:
        raise SenetError(f"{data.name} is for {data.task}; {options.checkpoint} is for {loaded.metadata.task}")


def add_split_option(group: argparse._ArgumentGroup | argparse.ArgumentParser, purpose: str) -> None:
    """Add `--split`, which chooses the images."""
    group.add_argument(
        "--split",
        choices=("train", "val", "test", "all"),
        help=f"split to {purpose} (default: test, else the run's validation images, else all)",
    )


def add_limit_option(group: argparse._ArgumentGroup | argparse.ArgumentParser, verb: str) -> None:
    """Add `--limit`, the largest number of images."""
    group.add_argument(
        "--limit",
        type=positive,
        metavar="N",
        help=f"{verb} at most N images, drawn at random but always the same (default: all)",
    )


def add_size_option(group: argparse._ArgumentGroup | argparse.ArgumentParser, default: str) -> None:
    """Add `--size`, in pixels."""
    group.add_argument(
        "--size",
        type=parse_size,
        metavar="PIXELS",
        help=f"image size: 224, or 256x192 for height x width (default: {default})",
    )


def add_network_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that change a network of this package."""
    group.add_argument(
        "--attention",
        metavar="SPEC",
        help="se, eca, ese, ge, sse, scse, cbam, bam, sk, channel, ceca, srm, gct, fca, lc0, coord, ela, simam, ema, "
        "triplet, shuffle, sge, gc, grn, strip, split or none, with options such as "
        "se:reduction=8,gate=hard-sigmoid (default: the network's)",
    )
    group.add_argument(
        "--placement",
        metavar="NAME",
        help="place of attention in a block: standard, pre, post, identity or conv3x3 (in MobileNet and ShuffleNet the "
        "depthwise convolution) (default: the network's)",
    )
    group.add_argument(
        "--stages",
        type=numbers,
        metavar="N,N",
        help="stages with attention (the first residual stage is 2) (default: the network's)",
    )
    group.add_argument(
        "--model-kwargs",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        help="other options of the network, such as projection=true activation=relu6 depths=[2,2,2,2], may be repeated "
        "(default: the network's)",
    )


def network_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the values of `add_network_options` as options of `senet.create_model`, JSON-ready."""
    found: dict[str, Any] = {}
    if options.attention is not None:
        from senet.nn import parse_attention

        attention = parse_attention(options.attention)
        found["attention"] = None if attention is None else attention.to_dict()
    if options.placement is not None:
        found["placement"] = options.placement
    if options.stages is not None:
        found["stages"] = options.stages
    return found | named_options(options)


def named_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the values of `--model-kwargs`, JSON-ready."""
    return dict(map(_named_option, options.model_kwargs or ()))


# Options of the command line, or determined by the classes and images.
_SAID_ELSEWHERE = ("attention", "placement", "stages", "num_classes", "in_channels", "preprocessing")


def _named_option(text: str) -> tuple[str, Any]:
    """Parse `depth=3` into `("depth", 3)`: a JSON value, or else the text."""
    name, given, value = text.partition("=")
    name = name.replace("-", "_")
    if not given or not name:
        raise SenetError(f"--model-kwargs {text}: write NAME=VALUE, such as projection=true")
    if name in _SAID_ELSEWHERE:
        raise SenetError(f"--model-kwargs {text}: {name} has an option of its own; --help shows it")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def add_use_options(parser: argparse.ArgumentParser, *, positional: bool, exported: bool) -> None:
    """Add the options of a trained network and its runtime.

    Args:
        parser: Gets them in a group of their own.
        positional: Whether the network may be a positional argument.
        exported: Whether it may be a file of `senet export`.
    """
    group = parser.add_argument_group("network")
    text = CHECKPOINT + (", or a file of `senet export`" if exported else "")
    if positional:
        add_subject(group, "checkpoint", help=text)
    else:
        group.add_argument("--checkpoint", required=True, metavar="CHECKPOINT", help=text)
    add_function_option(group)
    if exported:
        group.add_argument(
            "--runtime",
            metavar="NAME",
            help="runtime of an exported file: onnxruntime, openvino or torch (default: the format's own)",
        )
    group = parser.add_argument_group("running")
    dense = ", 8 with boxes or masks" if exported else ""
    group.add_argument("--batch-size", type=positive, metavar="N", help=f"images at a time (default: {BATCH}{dense})")
    group.add_argument("--precision", default="32", metavar="PRECISION", help="32, bf16 or fp16 (default: %(default)s)")
    add_workers_option(group)


def add_function_option(group: argparse._ArgumentGroup) -> None:
    """Add `--model` for the function behind a checkpoint's network."""
    group.add_argument(
        "--model",
        metavar="MODULE:FUNCTION",
        help="function that builds your own network, if the checkpoint is of one (default: none)",
    )


def add_workers_option(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Add `--workers`."""
    group.add_argument(
        "--workers", type=int, metavar="N", help="processes that load images (default: by the number of cores)"
    )


def refuse_checkpoint(model: str, instead: str = "use --checkpoint {}") -> None:
    """Raise a `SenetError` if an architecture's name is the path of a trained network.

    Args:
        model: The name.
        instead: A solution. `{}` stands for the path.
    """
    from senet.training.model_initialization import is_checkpoint

    if is_checkpoint(model):
        raise SenetError(f"--model {model} is a path, and an architecture is wanted; {instead.format(model)}")


def user_function(options: argparse.Namespace) -> str | None:
    """Return the value of `add_function_option`."""
    if options.model is not None:
        refuse_checkpoint(options.model)
    model: str | None = options.model
    return model


def load_network(options: argparse.Namespace) -> LoadedModel:
    """Load `--checkpoint`: a checkpoint, or an exported file in its runtime.

    Raises:
        SenetError: An option has no effect on the file.
    """
    from senet.deploy.loading import is_exported, load_exported
    from senet.tasks import load_model

    if not is_exported(options.checkpoint):
        if options.runtime is not None:
            raise SenetError(f"--runtime {options.runtime}: {options.checkpoint} is no file of `senet export`")
        return load_model(options.checkpoint, factory=user_function(options))
    if options.precision != "32":
        raise SenetError(f"--precision {options.precision}: an exported file has its own; export it in another")
    if options.model is not None:
        raise SenetError(f"--model {options.model}: an exported file holds its network")
    return load_exported(options.checkpoint, runtime=options.runtime)
