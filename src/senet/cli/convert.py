"""Convert weights from or to the names of another library.

By default the result is a checkpoint of this package. The names of the weights show which library wrote the file.

Examples:
  senet convert se_resnet50.caffemodel --model se_resnet50 --out se_resnet50.safetensors
  senet convert --checkpoint best.pth --model se_resnet50 --class-names names.txt --out mine.safetensors
  senet convert runs/flowers --model se_resnet50 --to timm --out flowers.safetensors
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cli import external
from senet.cli import options as shared
from senet.cli.fields import add_field_options, given_fields
from senet.cli.parser import add_subject
from senet.cli.values import class_names
from senet.errors import SenetError, UnknownNameError
from senet.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import nn

    from senet.models import ModelSpec
    from senet.weights.contents import Contents

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet convert CHECKPOINT --model NAME --out FILE [--to LAYOUT]
                     [--class-names A,B,C] [options, see below]"""

LAYOUTS = "senet, torchvision, timm, cadene, mmpretrain, pytorchcv, moskomule, cifar, caffe"
"""Names in `senet.weights.LAYOUTS`, which needs torch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_subject(
        parser,
        "checkpoint",
        help="a .caffemodel, .pth, .pt, .ckpt, .bin or .safetensors file, or the folder of a run",
    )
    group = parser.add_argument_group("network")
    group.add_argument(
        "--model", required=True, metavar="NAME", help="the network that the weights are of, a name of `senet list`"
    )
    group.add_argument("--num-classes", type=int, metavar="N", help="outputs (default: the file's)")
    group.add_argument(
        "--class-names",
        type=class_names,
        metavar=shared.CLASS_NAMES,
        help="names of the outputs, or a file with one name a line (default: their numbers)",
    )
    shared.add_network_options(group)
    group = parser.add_argument_group("files")
    group.add_argument("--out", required=True, metavar="FILE", help="the .safetensors file to write")
    group.add_argument(
        "--layout",
        default="auto",
        metavar="LAYOUT",
        help=f"names in CHECKPOINT: auto, {LAYOUTS} (default: %(default)s)",
    )
    group.add_argument(
        "--to", default="senet", metavar="LAYOUT", help=f"names to write: {LAYOUTS} (default: %(default)s)"
    )
    group.add_argument(
        "--tag", metavar="NAME", help="the published checkpoint that CHECKPOINT is, or was made from (default: none)"
    )
    group = parser.add_argument_group("preprocessing that goes into the checkpoint")
    origin = "the tag's, else the library's, else the network's"
    shared.add_size_option(group, origin)
    add_field_options(group, Preprocessing, default=origin, leave_out=("size",))
    external.add_choice_options(parser, "CHECKPOINT")


def run(options: argparse.Namespace) -> int:
    """Convert."""
    import torch

    from senet.weights import CheckpointMetadata, load_weights, to_layout, write_checkpoint
    from senet.weights.checkpoint import write_tensors
    from senet.weights.reading import read_contents

    _check(options)
    out, names = Path(options.out), options.class_names or ()
    contents = read_contents(Path(options.checkpoint))
    spec, changes, images = _network(options, len(names), contents)
    with torch.device("meta"):
        model = spec.build()
    report = load_weights(model, contents, layout=options.layout, **external.given_choice(options))
    if options.to != "senet":
        write_tensors(out, to_layout(model, options.to))
    else:
        if report.images and options.tag is None:
            images = replace(report.images, **given_fields(options, Preprocessing))
        description = CheckpointMetadata(
            model=options.model,
            options=changes,
            classes=names or tuple(map(str, range(spec.num_classes))),
            preprocessing=images,
            training={"converted_from": Path(options.checkpoint).name, "layout": report.layout}
            | ({"averaged": True} if report.averaged else {}),
        )
        write_checkpoint(out, model.state_dict(), description)
    print(f"{options.checkpoint} ({report.layout}, {report.loaded} tensors) -> {out} ({options.to})")
    for note in report.notes:
        print(note)
    if options.to == "senet":
        print(f"images: {images}")
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse impossible arguments before a large file is read."""
    from senet.weights import LAYOUTS

    source, out, images = Path(options.checkpoint), Path(options.out), given_fields(options, Preprocessing)
    if out.suffix != ".safetensors":
        raise SenetError(f"--out {out}: give it a name that ends in .safetensors")
    if out.is_dir():
        raise SenetError(f"--out {out}: that is a folder; give the file's name")
    if not out.parent.is_dir():
        raise SenetError(f"--out {out}: there is no folder {out.parent}")
    if out.exists() and source.exists() and out.samefile(source):
        raise SenetError(f"--out {out}: that is CHECKPOINT itself; give it another name")
    if options.to not in LAYOUTS:
        raise UnknownNameError("layout", options.to, LAYOUTS)
    if options.to == "senet":
        if _is_ours(source):
            raise SenetError(f"{source} is a checkpoint of this package already: nothing to convert")
    elif images:
        flag = f"--{next(iter(images)).replace('_', '-')}"
        raise SenetError(f"{flag}: only a checkpoint of this package keeps its preprocessing, no file for {options.to}")
    elif out.with_suffix(".json").exists():
        raise SenetError(f"--out {out}: {out.stem}.json there describes another file of that name; give it another")


def _is_ours(source: Path) -> bool:
    """Whether checkpoint metadata of this package belongs to the file."""
    weights = source / "best.safetensors" if source.is_dir() else source
    return weights.suffix == ".safetensors" and weights.with_suffix(".json").is_file()


def _described(options: argparse.Namespace) -> dict[str, Any]:
    """Return the network's options from a checkpoint of this package."""
    from senet.weights import read_checkpoint

    _, description = read_checkpoint(Path(options.checkpoint))
    if description.model != options.model:
        raise SenetError(f"{options.checkpoint} is of {description.model}, not of {options.model}")
    shape = {"num_classes": len(description.classes), "in_channels": description.preprocessing.in_channels}
    return shape | description.options


def _network(
    options: argparse.Namespace, names: int, contents: Contents
) -> tuple[ModelSpec, dict[str, Any], Preprocessing]:
    """Return the network, its options, and the preprocessing where the file's layout doesn't determine it."""
    from senet.weights import find_card
    from senet.zoo import model_spec

    base = model_spec(options.model)
    card = None if options.tag is None else find_card(options.model, options.tag)
    images = card.preprocessing if card else base.preprocessing
    images = replace(images, **given_fields(options, Preprocessing))
    changes: dict[str, Any] = {"in_channels": images.in_channels} | dict(card.options if card else {})
    if _is_ours(Path(options.checkpoint)):
        changes |= _described(options)
    changes |= shared.network_options(options)
    if options.num_classes is not None or names:
        changes["num_classes"] = names if options.num_classes is None else options.num_classes
    elif "num_classes" not in changes:
        changes |= _outputs(base.changed(changes), contents, options)
    spec = base.changed(changes)
    if names and names != spec.num_classes:
        raise SenetError(f"--class-names: {names} names, and the network has {spec.num_classes} outputs")
    return spec, spec.differences(base), images


def _outputs(spec: ModelSpec, contents: Contents, options: argparse.Namespace) -> dict[str, int]:
    """Return the number of classes of the file's head as an option, or no option if it has no head."""
    import torch

    from senet.weights.matching import Choice
    from senet.weights.recognise import recognise

    def build(classes: int) -> nn.Module:
        with torch.device("meta"):
            return spec.changed({"num_classes": classes}).build()

    found = recognise(build, contents, Choice(**external.given_choice(options)), layout=options.layout)
    return {} if found.classes is None else {"num_classes": found.classes}
