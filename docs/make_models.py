"""Write docs/reference/models.md: every network with its size, its cost and its published errors.

python docs/make_models.py
"""

from __future__ import annotations

from pathlib import Path

import senet
from senet.models import MODELS, PUBLISHED, Published
from senet.profiling import cost
from senet.weights import Card, cards

PAGE = Path(__file__).parent / "reference" / "models.md"

HEAD = """# Models

This table lists every network with its size, its cost and its published errors.
[Networks](networks.md) lists the published definition behind each one.
`python docs/make_models.py` generates this page.

```python
import senet

model = senet.create_model("se_resnet50", device="meta")  # allocates no weights
print(senet.cost(model, input_size=(3, 224, 224)))
```

| column | meaning |
|---|---|
| pixels | side of the image |
| parameters | learnable parameters |
| million MACs | multiply-accumulates of convolutions and linear layers for one image (the paper's FLOPs) |
| published MACs | the printed figure, **bold** where the definition can't reproduce it (see below the table) |
| stages | channels@stride of each stage's last feature map, as `features_only=True` returns them |
| published errors | top-1/top-5 error in percent, single crop, of ImageNet unless the cell names other data |
| checkpoint | of `pretrained=True`, with timm's published errors (results-imagenet.csv) and image size |

- All other published MACs differ by at most three in their last digit.
- The published errors were not measured here.
- `senet.weights.cards(name)` lists a network's other checkpoints.

| source of an error | meaning |
|---|---|
| T2 to T8 | tables of Hu et al. 2018 (arXiv 1709.01507 v4). T2 and T3 print re-implementations of the plain networks |
| README | the authors' README: longer training, other augmentation |
| akamaster, pytorchcv | public CIFAR-10 checkpoints of exactly this network |

## Table of models

| network | pixels | parameters | million MACs | published MACs | stages | published errors | checkpoint |
|---|---|---|---|---|---|---|---|
"""

NOTES = """
## MACs that can't be reproduced
"""


def row(name: str) -> str:
    """Return the table row of one network."""
    model = senet.create_model(name, device="meta")
    size = model.spec.preprocessing.size
    counted = cost(model, (model.spec.in_channels, *size))
    published = PUBLISHED.get(name, ())
    printed = next((_printed(p, counted.macs) for p in published if p.macs), "")
    stages = " ".join(f"{info.channels}@{info.stride}" for info in model.feature_info)
    errors = ", ".join(_errors(p, model.spec.preprocessing.size[0]) for p in published)
    checkpoint = next(map(_checkpoint, cards(name).values()), "")
    cells = (f"`{name}`", str(size[0]), f"{counted.params:,}", f"{counted.macs / 1e6:,.1f}", printed, stages, errors,
             checkpoint)  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def _printed(published: Published, macs: int) -> str:
    return f"**{published.macs}**" if published.agreement(macs) == "differs" else published.macs


def _checkpoint(card: Card) -> str:
    name = card.repo.rpartition("/")[2]
    if not card.metrics:
        return f"`{name}`"
    top1, top5 = (100 * (1 - card.metrics[key]) for key in ("top1", "top5"))
    return f"`{name}` {top1:.2f}/{top5:.2f} at {card.metrics['size']:.0f}"


WHERE = {"the authors' README": "README", "akamaster/": "akamaster", "pytorchcv ": "pytorchcv"}
"""Start of a source to its short name. Sources in the paper end in the number of their table."""


def _errors(published: Published, pixels: int) -> str:
    short = (name for start, name in WHERE.items() if published.source.startswith(start))
    where = next(short, f"T{published.source[-1]}")
    data = "" if published.data == "ImageNet" else f"{published.data}, "
    other = f", {published.pixels} pixels" if published.pixels != pixels else ""
    return f"{published.errors} ({data}{where}{other})"


def tail() -> str:
    """Return the notes below the table."""
    lines = [f"- `{p.model}`, {p.macs}: {p.discrepancy}." for rows in PUBLISHED.values() for p in rows if p.discrepancy]
    return "\n" + "\n".join(lines) + "\n"


def page() -> str:
    """Return the whole page."""
    return HEAD + "".join(row(name) for name in senet.list_models()) + NOTES + tail()


if __name__ == "__main__":
    assert set(PUBLISHED) <= set(MODELS)
    PAGE.write_text(page(), encoding="utf-8")
