"""Turn anybody's weights into a checkpoint of this package, or into timm's.

senet convert se_resnet50.caffemodel --model se_resnet50 --out se_resnet50.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

from senet.cli import options as shared
from senet.errors import CheckpointError, SenetError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This verb's options."""
    parser.add_argument("source", metavar="SRC", help=".caffemodel, .pth, .pt, .th, .bin or .safetensors")
    parser.add_argument("--model", required=True, metavar="NAME", help="the network it is of, a name of `senet list`")
    parser.add_argument("--out", required=True, metavar="X", help="the .safetensors file to write")
    parser.add_argument("--layout", default="auto", metavar="L", help="whose names it has (default: told from them)")
    parser.add_argument("--to", default="senet", metavar="L", help="write for: senet (default), timm, torchvision, ...")
    parser.add_argument("--num-classes", type=int, metavar="N", help="its outputs (default: the network's own)")
    parser.add_argument("--classes", metavar="FILE", help="the outputs' names, one a line (default: their numbers)")
    shared.add_network_options(parser)


def run(options: argparse.Namespace) -> int:
    """Convert."""
    import torch

    from senet.weights import LAYOUTS, Description, load_weights, to_layout, write_atomically, write_checkpoint
    from senet.zoo import model_spec

    out = Path(options.out)
    if out.suffix != ".safetensors":
        raise SenetError(f"--out {out}: give it a name that ends in .safetensors")
    changes = shared.network_options(options)
    names = _names(options.classes)
    count = options.num_classes if options.num_classes is not None else len(names) or None
    if count is not None:
        changes["num_classes"] = count
    base = model_spec(options.model)
    spec = base.changed(changes)
    if names and len(names) != spec.num_classes:
        raise SenetError(f"{options.classes} has {len(names)} names, the network {spec.num_classes} outputs")
    if options.to not in LAYOUTS:
        to_layout(torch.nn.Identity(), options.to)  # says which there are
    with torch.device("meta"):
        model = spec.build()
    report = load_weights(model, options.source, layout=options.layout)
    if options.to == "senet":
        description = Description(
            model=options.model,
            options=spec.differences(base),
            classes=names or tuple(map(str, range(spec.num_classes))),
            preprocessing=spec.preprocessing,
            training={"converted_from": Path(options.source).name, "layout": report.layout},
        )
        write_checkpoint(out, model.state_dict(), description)
    else:
        from safetensors.torch import save_file

        tensors = {key: t.contiguous() for key, t in to_layout(model, options.to).items()}
        write_atomically(out, lambda temporary: save_file(tensors, temporary, metadata={"format": "pt"}))
    print(f"{options.source} ({report.layout}, {report.loaded} tensors) -> {out} ({options.to})")
    return 0


def _names(file: str | None) -> tuple[str, ...]:
    if file is None:
        return ()
    try:
        names = tuple(line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise SenetError(f"--classes {file}: no UTF-8 text") from error
    if not names:
        raise CheckpointError(f"--classes {file}: no names in it")
    return names
