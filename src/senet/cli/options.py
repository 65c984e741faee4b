"""Options that several verbs share, and options made from the fields of a dataclass."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from senet.errors import SenetError

if TYPE_CHECKING:
    from senet.data import Data
    from senet.training.job import DataOptions
    from senet.weights import DataRecord
    from senet.zoo import LoadedModel

__all__ = [
    "NETWORKS",
    "add_data_options",
    "add_field_options",
    "add_network_options",
    "add_runtime_option",
    "add_split_options",
    "add_use_options",
    "data_options",
    "data_to_evaluate",
    "given_fields",
    "load_network",
    "named_options",
    "network_options",
    "parse_size",
    "positive",
    "white_level",
]

NETWORKS = "a name of `senet list`, timm:NAME, torchvision:NAME, or module:function of your own network"
"""What `--model` takes."""

BATCH = 64
"""Images at a time where nothing is learned."""


def add_data_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """`--data` and what says which part of it."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        required=required,
        metavar="DATA",
        help="digits (embedded), folder:PATH (one sub-folder a class), shards:DIR (made by senet shard), cifar10, "
        "cifar100, fashion_mnist, imagenet:PATH; with boxes voc:PATH or coco:PATH; with masks masks:PATH",
    )
    add_split_options(group)


def add_split_options(group: argparse._ArgumentGroup) -> None:
    """What says which images of the data are trained on, and where it is."""
    group.add_argument(
        "--val-fraction", type=float, metavar="F", help="validate on about this share (default: the run's, else 0.2)"
    )
    group.add_argument(
        "--split-seed", type=int, metavar="N", help="of the choice of that share (default: the run's, else 0)"
    )
    group.add_argument(
        "--download", action="store_true", default=None, help="fetch a published data set that isn't there"
    )
    group.add_argument("--class-names", metavar="A,B", help="where boxes or masks don't say (masks: from number 0)")
    group.add_argument(
        "--instances",
        action="store_true",
        default=None,
        help="masks hold numbers of single objects, all of the second class",
    )
    group.add_argument("--data-root", metavar="DIR", help="where published data sets are kept")


def data_options(options: argparse.Namespace) -> DataOptions:
    """What `add_data_options` was given; `.open()` opens it."""
    from senet.training.job import DataOptions

    return DataOptions(
        data=options.data,
        val_fraction=options.val_fraction,
        split_seed=options.split_seed,
        download=bool(options.download),
        root=options.data_root,
        classes=tuple(filter(None, (name.strip() for name in (options.class_names or "").split(",")))),
        instances=bool(options.instances),
    )


def data_to_evaluate(options: argparse.Namespace, record: DataRecord | None) -> Data:
    """What `add_data_options` was given, divided as when the network was trained unless the options say otherwise."""
    return data_options(options).open(record=record, training=False)


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """What changes a network of this package."""
    group = parser.add_argument_group("network")
    group.add_argument("--attention", metavar="A", help="se, se:reduction=8,gate=hard-sigmoid, eca, cbam, ..., none")
    group.add_argument("--placement", metavar="P", help="standard, pre, post, identity or conv3x3")
    group.add_argument("--stages", metavar="N,N", help="stages with attention; the first residual stage is 2")
    group.add_argument(
        "--model-kwargs",
        action="append",
        metavar="NAME=VALUE",
        help="any other option that this network has, such as projection=true, ceil_pool=false, activation=relu6 or "
        "depths=[2,2,2,2]; as often as needed",
    )


def network_options(options: argparse.Namespace) -> dict[str, Any]:
    """What `add_network_options` was given, JSON-ready, for `senet.create_model`."""
    found: dict[str, Any] = {}
    if options.attention is not None:
        from senet.nn import parse_attention

        attention = parse_attention(options.attention)
        found["attention"] = None if attention is None else attention.to_dict()
    if options.placement is not None:
        found["placement"] = options.placement
    if options.stages is not None:
        found["stages"] = _numbers(options.stages, "--stages")
    return found | named_options(options)


def named_options(options: argparse.Namespace) -> dict[str, Any]:
    """What `--model-kwargs` was given, JSON-ready."""
    return dict(map(_named_option, options.model_kwargs or ()))


# What the classes, the images or an option of its own says.
_SAID_ELSEWHERE = ("attention", "placement", "stages", "num_classes", "in_channels", "preprocessing")


def _named_option(text: str) -> tuple[str, Any]:
    """`depth=3` -> ("depth", 3): the value as in JSON, or the text itself."""
    name, given, value = text.partition("=")
    name = name.replace("-", "_")
    if not given or not name:
        raise SenetError(f"--model-kwargs {text}: write NAME=VALUE, such as projection=true")
    if name in _SAID_ELSEWHERE:
        raise SenetError(f"--model-kwargs {text}: {name} isn't given this way; --help shows what says it")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SenetError(f"{option} {text}: write whole numbers with commas, such as 3,4") from None


def parse_size(text: str) -> tuple[int, int]:
    """`224` or `256x192` (height x width) in pixels."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match or int(match[1]) < 1 or (match[2] and int(match[2]) < 1):
        raise argparse.ArgumentTypeError(f"{text!r}: write 224, or 256x192 for height x width")
    return int(match[1]), int(match[2] or match[1])


def add_use_options(parser: argparse.ArgumentParser) -> None:
    """Which trained network, and how to run it."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--checkpoint", required=True, metavar="X", help="a .safetensors file, or a training's folder (its best)"
    )
    group.add_argument("--model", metavar="M:F", help="your own network's module:function, if it was trained with one")
    group.add_argument(
        "--batch-size", type=positive, metavar="N", help=f"images at a time (default {BATCH}; 8 with boxes or masks)"
    )
    group.add_argument("--precision", default="32", metavar="P", help="32, bf16 or fp16 (default 32)")
    group.add_argument("--workers", type=int, metavar="N", help="processes that decode images")


def add_runtime_option(parser: argparse.ArgumentParser) -> None:
    """`--runtime`, of verbs whose `--checkpoint` may be an exported file."""
    parser.add_argument(
        "--runtime",
        metavar="R",
        help="if X is a file of `senet export`: onnxruntime, openvino or torch (default: the format's own)",
    )


def load_network(options: argparse.Namespace) -> LoadedModel:
    """What `--checkpoint` names: a checkpoint, or an exported file in its runtime.

    Raises:
        SenetError: An option has no effect on it.
    """
    from senet.deploy.loading import is_exported, load_exported
    from senet.tasks import load_model

    if not is_exported(options.checkpoint):
        if options.runtime is not None:
            raise SenetError(f"--runtime {options.runtime}: {options.checkpoint} is no file of `senet export`")
        return load_model(options.checkpoint, factory=options.model)
    if options.precision != "32":
        raise SenetError(f"--precision {options.precision}: an exported file has its own; export it in another")
    if options.model is not None:
        raise SenetError(f"--model {options.model}: an exported file holds its network")
    return load_exported(options.checkpoint, runtime=options.runtime)


def white_level(text: str) -> int | str:
    """`4095` or `auto`."""
    if text == "auto":
        return text
    if not text.isdigit() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r}: write a value of 16 bits, 1 to 65535 (4095 for 12 bits), or auto")
    return int(text)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def add_field_options(
    parser: argparse.ArgumentParser, title: str, owner: type, *, leave_out: Iterable[str] = ()
) -> argparse._ArgumentGroup:
    """One option a field of a dataclass, with the help text of its docstring; nothing given leaves the field alone.

    Returns:
        Their group, for options of the same kind that are written otherwise.
    """
    group = parser.add_argument_group(title)
    helps = _attribute_texts(owner)
    for entry in fields(owner):
        if entry.name in leave_out:
            continue
        flag, text = f"--{entry.name.replace('_', '-')}", helps.get(entry.name, "").replace("%", "%%")
        kind = str(entry.type)
        if kind == "bool":
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif kind == "tuple[float, float]":
            group.add_argument(flag, nargs=2, type=float, default=None, metavar=("MIN", "MAX"), help=text)
        elif kind.startswith("tuple"):
            convert = int if "int" in kind else float
            group.add_argument(flag, nargs="+", type=convert, default=None, metavar="N", help=text)
        else:
            converts = {"int": int, "float": float, "str": str}
            group.add_argument(flag, type=converts[kind], default=None, metavar=kind[0].upper(), help=text)
    return group


def given_fields(options: argparse.Namespace, owner: type) -> dict[str, Any]:
    """The fields that the user gave values for."""
    values = {f.name: getattr(options, f.name, None) for f in fields(owner)}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if value is not None
    }


def _attribute_texts(owner: type) -> dict[str, str]:
    """Field to its text in the `Attributes:` section of a Google-style docstring."""
    section = (owner.__doc__ or "").partition("Attributes:\n")[2]
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        entry = re.match(r" {8}(\w+): (.*)", line)
        if entry:
            name = entry[1]
            found[name] = entry[2]
        elif line.startswith(" " * 12) and name:
            found[name] += f" {line.strip()}"
        elif line.strip():
            break
    return {key: text.replace("`", "").replace('"', "") for key, text in found.items()}
