"""The paper's tables as experiments: the network, recipe and published error of each row.

`PaperRow.unstated` lists choices that the paper doesn't state. Rows that the paper quotes from other publications have
no recipe.

Source: Hu et al. 2018 (arXiv 1709.01507 v4), Tables 2-8 and 10-16; section 6.1 and 7 for the recipes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from senet.errors import UnknownNameError
from senet.training.recipe import Recipe
from senet.training.recipes import cifar_paper, coco, imagenet

__all__ = ["TABLES", "PaperRow", "PaperTable", "PublishedResult", "paper_table_named"]


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """One trained row of a table.

    Attributes:
        name: Short name, unique within the table.
        model: A name of `list_models()`.
        recipe: The paper's recipe.
        options: Model options, JSON-ready.
        against: Name of the row to compare with, empty for a baseline.
        published: The paper's figures in percent.
        metric: Metric of the figures. Errors are "top-1/top-5".
        data: Value of `--data`: `imagenet`, `cifar10`, ..., or the name of data without a reader here.
        size: Height and width of the images in pixels, where not the network's own.
        task: Task of the network, a key of `senet.tasks.TASKS`.
        head: Name of the task's head on the backbone, which starts from ImageNet weights.
        unstated: Choices for recipe and network that the paper doesn't state.
    """

    name: str
    model: str
    recipe: Recipe
    options: Mapping[str, Any] = field(default_factory=dict)
    against: str = ""
    published: str
    metric: str = "error"
    data: str = "imagenet"
    size: tuple[int, int] | None = None
    task: str = "classification"
    head: str = ""
    unstated: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PublishedResult:
    """A row that can't be trained here.

    Attributes:
        name: The paper's name.
        published: Its error, as printed.
        why: The reason.
    """

    name: str
    published: str
    why: str


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """One table of the paper.

    Attributes:
        title: Subject of the comparison.
        rows: Rows that can be trained.
        quoted: Rows that can't.
        any_network: Whether all rows are one network with different attention, so that `--model` can replace it.
    """

    title: str
    rows: tuple[PaperRow, ...] = ()
    quoted: tuple[PublishedResult, ...] = ()
    any_network: bool = False


WEIGHT_DECAY: Final = "weight decay 1e-4"

# Section 7: learning rate 0.1, divided by 10 where the loss plateaus, about 300 epochs in all. Its footnote gives a
# fixed schedule, with 23.21/6.53 for ResNet-50 and 22.20/6.00 for SE-ResNet-50. The fixed one is reproducible.
ablation = replace(
    imagenet,
    epochs=270,
    batch_size=256,
    lr=0.1,
    step_epochs=(125, 200, 250),
    label_smoothing=0.1,
    expects="ResNet-50: 23.21% error, SE-ResNet-50: 22.20% (footnote in section 7)",
)
_ABLATION_UNSTATED = (
    WEIGHT_DECAY, "batch size 256", "how much label smoothing: 0.1",
    "the table's errors are of a schedule that follows the loss, ours is the footnote's fixed one",
)  # fmt: skip

# Section 6.1, Table 3: batch 256, 0.1 divided by 10 where the validation loss plateaus, about 400 epochs, milder
# augmentation "as in ShuffleNet".
mobile = replace(
    imagenet,
    epochs=400,
    batch_size=256,
    lr=0.1,
    weight_decay=4e-5,
    step_epochs=(185, 296, 370),
    augmentation=replace(imagenet.augmentation, scale=(0.25, 1.0)),
    expects="se_mobilenet_v1: 25.3% error, se_shufflenet_v1_g3: 31.0% (paper, Table 3)",
)
_MOBILE_UNSTATED = (
    "weight decay 4e-5 (ShuffleNet's publication)", "area from 25%",
    "drops at 185, 296 and 370 of 400 epochs: the paper follows the validation loss",
)  # fmt: skip

inception_resnet = replace(imagenet, expects="se_inception_resnet_v2: 19.80% error (paper, Table 2)")

# Zagoruyko & Komodakis 2016 (arXiv 1605.07146), section 3.
wide = replace(
    cifar_paper,
    epochs=200,
    weight_decay=5e-4,
    step_epochs=(60, 120, 160),
    step_factor=0.2,
    expects="se_wrn16_8: 3.88% error on CIFAR-10 (paper, Table 4)",
)

# Gastaldi 2017 (arXiv 1705.07485), section 3; cutout from DeVries & Taylor 2017 (arXiv 1708.04552).
shake_shake = replace(
    cifar_paper,
    epochs=1800,
    lr=0.2,
    schedule="cosine",
    step_epochs=(),
    augmentation=replace(cifar_paper.augmentation, cutout=16),
    expects="se_shake_shake26_2x96d: 2.12% error on CIFAR-10 (paper, Table 4)",
)
shake_even = replace(
    shake_shake,
    batch_size=32,
    lr=0.025,
    augmentation=replace(cifar_paper.augmentation, cutout=8),
    expects="se_shake_even29_2x4x64d: 15.41% error on CIFAR-100 (paper, Table 5)",
)
_ORIGINALS: Final = ("all but flip, crop and normalisation: as in the network's own publication",)

# The paper trains Places365 "from scratch" and states no more.
places = replace(imagenet, expects="se_resnet152: 40.37% error on Places365 (paper, Table 6)")

# Appendix: 64 GPUs, batch 2048, learning rate 1.0, label smoothing, dropout 0.2 (the network's own).
senet154 = replace(
    imagenet,
    batch_size=2048,
    lr=1.0,
    label_smoothing=0.1,
    expects="senet154: 18.68% error at 224 pixels (paper, Table 8)",
)
_SENET_UNSTATED = (
    WEIGHT_DECAY, "how much label smoothing: 0.1", "in which epochs norms are frozen at the end: none here"
)  # fmt: skip


def _pair(plain: str, errors: tuple[str, str], recipe: Recipe, **more: Any) -> tuple[PaperRow, PaperRow]:
    """Return the rows of a network without and with SE."""
    baseline = PaperRow(name=plain, model=plain, recipe=recipe, published=errors[0], **more)
    return baseline, PaperRow(
        name=f"se_{plain}", model=f"se_{plain}", recipe=recipe, published=errors[1], against=plain, **more
    )


def _table2() -> PaperTable:
    unstated = (WEIGHT_DECAY,)
    rows: list[PaperRow] = []
    for model, plain, attended in (
        ("resnet50", "24.80/7.48", "23.29/6.62"),
        ("resnet101", "23.17/6.52", "22.38/6.07"),
        ("resnet152", "22.42/6.34", "21.57/5.73"),
        ("resnext50_32x4d", "22.11/5.90", "21.10/5.49"),
        ("resnext101_32x4d", "21.18/5.57", "20.70/5.01"),
        ("vgg16", "27.02/8.81", "25.22/7.70"),
        ("bn_inception", "25.38/7.89", "24.23/7.14"),
    ):
        rows += _pair(model, (plain, attended), imagenet, unstated=unstated)
    rows += _pair("inception_resnet_v2", ("20.37/5.21", "19.80/4.79"), inception_resnet, unstated=unstated)
    return PaperTable(title="ImageNet: each network as re-implemented, and with SE", rows=tuple(rows))


def _table3() -> PaperTable:
    rows = (
        *_pair("mobilenet_v1", ("28.4/9.4", "25.3/7.7"), mobile, unstated=_MOBILE_UNSTATED),
        *_pair("shufflenet_v1_g3", ("32.6/12.5", "31.0/11.1"), mobile, unstated=_MOBILE_UNSTATED),
    )
    return PaperTable(title="ImageNet: networks for mobile devices", rows=rows)


def _cifar(data: str, errors: tuple[tuple[str, str], ...], last: tuple[PaperRow, PaperRow]) -> tuple[PaperRow, ...]:
    rows: list[PaperRow] = []
    for model, pair, recipe in zip(
        ("cifar_preresnet110", "cifar_preresnet164", "wrn16_8"), errors, (cifar_paper, cifar_paper, wide), strict=True
    ):
        rows += _pair(model, pair, recipe, data=data, unstated=_ORIGINALS)
    return (*rows, *last)


def _table6() -> PaperTable:
    rows = _pair(
        "resnet152", ("41.15/11.61", "40.37/11.01"), places, data="folder:PLACES365", unstated=("the whole recipe",)
    )
    why = "quoted from the publication of Places365; no network of this package"
    return PaperTable(
        title="Places365: ResNet-152 with and without SE",
        rows=rows,
        quoted=(PublishedResult(name="Places-365-CNN", published="41.07/11.48", why=why),),
    )


def _table7() -> PaperTable:
    more = {"metric": "AP@.5/AP", "data": "coco:COCO", "task": "detection", "head": "faster_rcnn"}
    unstated = (WEIGHT_DECAY, "ImageNet weights: from Table 2 (--checkpoint)", "images of 800 to 1,333 pixels")
    rows = (
        *_pair("resnet50", ("57.9/38.0", "61.0/40.4"), coco, unstated=unstated, **more),
        *_pair("resnet101", ("60.1/39.9", "62.7/41.9"), coco, unstated=unstated, **more),
    )
    return PaperTable(title="COCO: Faster R-CNN with and without SE in its backbone", rows=rows)


def _table8() -> PaperTable:
    row = PaperRow(name="senet154", model="senet154", recipe=senet154, published="18.68/4.47", unstated=_SENET_UNSTATED)
    why = "quoted from its own publication; the paper trained none for this table"
    quoted = (
        ("ResNet-152", "23.0/6.7"), ("ResNet-200", "21.7/5.8"), ("Inception-v3", "-/- (21.2/5.6 at 299)"),
        ("Inception-v4", "-/- (20.0/5.0 at 299)"), ("Inception-ResNet-v2", "-/- (19.9/4.9 at 299)"),
        ("ResNeXt-101 64x4d", "20.4/5.3"), ("DenseNet-264", "22.15/6.12"), ("Attention-92", "-/- (19.5/4.8 at 320)"),
        ("PyramidNet-200", "20.1/5.4"), ("DPN-131", "19.93/5.12"),
    )  # fmt: skip
    return PaperTable(
        title="ImageNet: SENet-154 among the best of its time (17.28/3.79 evaluated at 320 pixels)",
        rows=(row,),
        quoted=tuple(PublishedResult(name=name, published=error, why=why) for name, error in quoted),
    )


SE: Final = {"kind": "se", "reduction": 16, "bias": False}
"""The ablations' block has no biases (section 7)."""


def _ablation(title: str, rows: Mapping[str, tuple[str, dict[str, Any]]], base: str) -> PaperTable:
    """Return a table of ResNet-50 with different attention.

    Args:
        title: Title of the table.
        rows: Name to published error and model options.
        base: Name of the baseline row.
    """
    made = [
        PaperRow(
            name=name,
            model="resnet50",
            recipe=ablation,
            options=options,
            against="" if name == base else base,
            published=error,
            unstated=_ABLATION_UNSTATED,
        )
        for name, (error, options) in rows.items()
    ]
    made.sort(key=lambda row: row.against != "")  # the base first
    return PaperTable(title=title, rows=tuple(made), any_network=True)


_PLAIN: Final = ("23.30/6.55", {"attention": None})
_SE: Final = ("22.28/6.03", {"attention": SE})


def _with(**changes: Any) -> dict[str, Any]:
    return {"attention": SE | changes}


TABLES: Final[Mapping[str, PaperTable]] = {
    "table2": _table2(),
    "table3": _table3(),
    "table4": PaperTable(
        title="CIFAR-10",
        rows=_cifar(
            "cifar10",
            (("6.37", "5.21"), ("5.46", "4.39"), ("4.27", "3.88")),
            _pair("shake_shake26_2x96d", ("2.56", "2.12"), shake_shake, data="cifar10", unstated=_ORIGINALS),
        ),
    ),
    "table5": PaperTable(
        title="CIFAR-100",
        rows=_cifar(
            "cifar100",
            (("26.88", "23.85"), ("24.33", "21.31"), ("20.43", "19.14")),
            _pair("shake_even29_2x4x64d", ("15.85", "15.41"), shake_even, data="cifar100", unstated=_ORIGINALS),
        ),
    ),
    "table6": _table6(),
    "table7": _table7(),
    "table8": _table8(),
    "table10": _ablation(
        "reduction ratio",
        {
            "original": _PLAIN,
            "r2": ("22.29/6.00", _with(reduction=2)),
            "r4": ("22.25/6.09", _with(reduction=4)),
            "r8": ("22.26/5.99", _with(reduction=8)),
            "r16": _SE,
            "r32": ("22.72/6.20", _with(reduction=32)),
        },
        base="original",
    ),
    "table11": _ablation("squeeze", {"max": ("22.57/6.09", _with(squeeze="max")), "avg": _SE}, base="avg"),
    "table12": _ablation(
        "excitation's last function",
        {
            "relu": ("23.47/6.98", _with(gate="relu")),
            "tanh": ("23.00/6.38", _with(gate="tanh")),
            "sigmoid": _SE,
        },
        base="sigmoid",
    ),
    "table13": _ablation(
        "stages with SE",
        {
            "original": _PLAIN,
            "stage2": ("23.03/6.48", _SE[1] | {"stages": [2]}),
            "stage3": ("23.04/6.32", _SE[1] | {"stages": [3]}),
            "stage4": ("22.68/6.22", _SE[1] | {"stages": [4]}),
            "all": _SE,
        },
        base="original",
    ),
    "table14": _ablation(
        "where the block sits",
        {
            "se": _SE,
            "pre": ("22.23/6.00", _SE[1] | {"placement": "pre"}),
            "post": ("22.78/6.35", _SE[1] | {"placement": "post"}),
            "identity": ("22.20/6.15", _SE[1] | {"placement": "identity"}),
        },
        base="se",
    ),
    "table15": _ablation(
        "the block right after the 3x3 convolution",
        {"se": _SE, "3x3": ("22.48/6.02", _SE[1] | {"placement": "conv3x3"})},
        base="se",
    ),
    "table16": _ablation(
        "without the squeeze",
        {"original": _PLAIN, "nosqueeze": ("22.93/6.39", _with(squeeze="none")), "se": _SE},
        base="original",
    ),
}
"""Name to table."""


def paper_table_named(name: str) -> PaperTable:
    """Return the table of a name.

    Raises:
        UnknownNameError: The name is unknown.
    """
    if name not in TABLES:
        raise UnknownNameError("table", name, TABLES)
    return TABLES[name]
