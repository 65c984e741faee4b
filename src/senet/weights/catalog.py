"""The catalog of public checkpoints, with the metadata and metrics of their publishers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from senet.errors import SenetError, UnknownNameError
from senet.nn import SE
from senet.preprocessing import Preprocessing
from senet.weights.card import Card

__all__ = ["CARDS", "cards", "find_card"]

_STATISTICS = {
    "in1k": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}

# Columns: our name, timm's name and tag, licence, pixels, crop, interpolation and statistics of timm 1.0.31's
# configurations. Then top-1 and top-5 in percent and their image size in pixels, from timm's results-imagenet.csv.
# `pretrained=True` selects a network's first row. The repository is `timm/NAME.TAG`. timm itself still loads the
# `legacy_*` networks from its GitHub releases.
_TIMM = """
se_resnet18 legacy_seresnet18.in1k apache-2.0 224 0.875 bicubic in1k 71.766 90.332 224
se_resnet34 legacy_seresnet34.in1k apache-2.0 224 0.875 bilinear in1k 74.808 92.126 224
se_resnet50 legacy_seresnet50.in1k apache-2.0 224 0.875 bilinear in1k 77.644 93.758 224
se_resnet101 legacy_seresnet101.in1k apache-2.0 224 0.875 bilinear in1k 78.386 94.262 224
se_resnet152 legacy_seresnet152.in1k apache-2.0 224 0.875 bilinear in1k 78.660 94.370 224
se_resnext50_32x4d legacy_seresnext50_32x4d.in1k apache-2.0 224 0.875 bilinear in1k 79.076 94.432 224
se_resnext101_32x4d legacy_seresnext101_32x4d.in1k apache-2.0 224 0.875 bilinear in1k 80.230 95.026 224
senet154 legacy_senet154.in1k apache-2.0 224 0.875 bilinear in1k 81.308 95.492 224
se_resnet50_v1_5 seresnet50.ra2_in1k apache-2.0 224 0.875 bicubic in1k 81.284 95.652 288
se_resnet50_v1_5 seresnet50.a1_in1k apache-2.0 224 0.95 bicubic in1k 81.102 95.120 288
se_resnet50_v1_5 seresnet50.a2_in1k apache-2.0 224 0.95 bicubic in1k 81.106 95.222 288
se_resnet50_v1_5 seresnet50.a3_in1k apache-2.0 160 0.95 bicubic in1k 77.028 93.074 224
se_resnext50_32x4d_v1_5 seresnext50_32x4d.racm_in1k apache-2.0 224 0.875 bicubic in1k 82.196 96.148 288
se_resnext50_32x4d_v1_5 seresnext50_32x4d.gluon_in1k apache-2.0 224 0.875 bicubic in1k 79.910 94.824 224
se_resnext101_32x4d_v1_5 seresnext101_32x4d.gluon_in1k apache-2.0 224 0.875 bicubic in1k 80.892 95.296 224
resnext50_32x4d_v1_5 resnext50_32x4d.a1_in1k apache-2.0 224 0.95 bicubic in1k 81.466 95.174 288
resnext50_32x4d_v1_5 resnext50_32x4d.a1h_in1k apache-2.0 224 0.95 bicubic in1k 82.014 95.934 288
resnext50_32x4d_v1_5 resnext50_32x4d.a2_in1k apache-2.0 224 0.95 bicubic in1k 81.304 95.096 288
resnext50_32x4d_v1_5 resnext50_32x4d.a3_in1k apache-2.0 160 0.95 bicubic in1k 79.268 94.306 224
resnext50_32x4d_v1_5 resnext50_32x4d.fb_ssl_yfcc100m_ft_in1k cc-by-nc-4.0 224 0.875 bilinear in1k 80.338 95.398 224
resnext50_32x4d_v1_5 resnext50_32x4d.fb_swsl_ig1b_ft_in1k cc-by-nc-4.0 224 0.875 bilinear in1k 82.174 96.222 224
resnext50_32x4d_v1_5 resnext50_32x4d.gluon_in1k apache-2.0 224 0.875 bicubic in1k 79.360 94.430 224
resnext50_32x4d_v1_5 resnext50_32x4d.ra_in1k apache-2.0 224 0.875 bicubic in1k 80.698 95.390 288
resnext50_32x4d_v1_5 resnext50_32x4d.tv2_in1k bsd-3-clause 176 0.875 bilinear in1k 81.182 95.340 224
resnext50_32x4d_v1_5 resnext50_32x4d.tv_in1k bsd-3-clause 224 0.875 bilinear in1k 77.618 93.696 224
resnext101_32x4d_v1_5 resnext101_32x4d.fb_ssl_yfcc100m_ft_in1k cc-by-nc-4.0 224 0.875 bilinear in1k 80.924 95.734 224
resnext101_32x4d_v1_5 resnext101_32x4d.fb_swsl_ig1b_ft_in1k cc-by-nc-4.0 224 0.875 bilinear in1k - - -
resnext101_32x4d_v1_5 resnext101_32x4d.gluon_in1k apache-2.0 224 0.875 bicubic in1k 80.340 94.930 224
resnet18_v1_5 resnet18.a1_in1k apache-2.0 224 0.95 bicubic in1k 73.158 91.026 288
resnet18_v1_5 resnet18.a2_in1k apache-2.0 224 0.95 bicubic in1k 72.372 90.596 288
resnet18_v1_5 resnet18.a3_in1k apache-2.0 160 0.95 bicubic in1k 68.254 88.176 224
resnet18_v1_5 resnet18.fb_ssl_yfcc100m_ft_in1k cc-by-nc-4.0 224 0.875 bilinear in1k 72.594 91.418 224
resnet18_v1_5 resnet18.fb_swsl_ig1b_ft_in1k cc-by-nc-4.0 224 0.875 bilinear in1k 73.282 91.732 224
resnet18_v1_5 resnet18.gluon_in1k apache-2.0 224 0.875 bicubic in1k 70.838 89.754 224
resnet18_v1_5 resnet18.tv_in1k bsd-3-clause 224 0.875 bilinear in1k 69.760 89.070 224
resnet34_v1_5 resnet34.a1_in1k apache-2.0 224 0.95 bicubic in1k 77.918 93.766 288
resnet34_v1_5 resnet34.a2_in1k apache-2.0 224 0.95 bicubic in1k 77.158 93.274 288
resnet34_v1_5 resnet34.a3_in1k apache-2.0 160 0.95 bicubic in1k 72.970 91.108 224
resnet34_v1_5 resnet34.bt_in1k apache-2.0 224 0.875 bicubic in1k 76.480 93.354 288
resnet34_v1_5 resnet34.gluon_in1k apache-2.0 224 0.875 bicubic in1k 74.578 91.984 224
resnet34_v1_5 resnet34.ra4_e3600_r224_in1k apache-2.0 224 0.9 bicubic half - - -
resnet34_v1_5 resnet34.tv_in1k bsd-3-clause 224 0.875 bilinear in1k - - -
resnet50_v1_5 resnet50.a1_in1k apache-2.0 224 0.95 bicubic in1k 81.214 95.102 288
resnet50_v1_5 resnet50.a1h_in1k apache-2.0 176 0.9 bicubic in1k 80.676 95.306 224
resnet50_v1_5 resnet50.a2_in1k apache-2.0 224 0.95 bicubic in1k 80.772 94.988 288
resnet50_v1_5 resnet50.a3_in1k apache-2.0 160 0.95 bicubic in1k 78.048 93.780 224
resnet50_v1_5 resnet50.am_in1k apache-2.0 224 0.875 bicubic in1k 78.998 94.396 224
resnet50_v1_5 resnet50.b1k_in1k apache-2.0 224 0.95 bicubic in1k 80.706 95.432 288
resnet50_v1_5 resnet50.b2k_in1k apache-2.0 224 0.95 bicubic in1k 80.454 95.318 288
resnet50_v1_5 resnet50.bt_in1k apache-2.0 224 0.875 bicubic in1k 79.640 94.892 288
resnet50_v1_5 resnet50.c1_in1k apache-2.0 224 0.95 bicubic in1k 80.912 95.552 288
resnet50_v1_5 resnet50.c2_in1k apache-2.0 224 0.95 bicubic in1k 80.870 95.534 288
resnet50_v1_5 resnet50.d_in1k apache-2.0 224 0.95 bicubic in1k 80.972 95.430 288
resnet50_v1_5 resnet50.fb_ssl_yfcc100m_ft_in1k cc-by-nc-4.0 224 0.875 bilinear in1k 79.234 94.826 224
resnet50_v1_5 resnet50.fb_swsl_ig1b_ft_in1k cc-by-nc-4.0 224 0.875 bilinear in1k 81.182 95.992 224
resnet50_v1_5 resnet50.gluon_in1k apache-2.0 224 0.875 bicubic in1k 77.580 93.718 224
resnet50_v1_5 resnet50.ra_in1k apache-2.0 224 0.875 bicubic in1k 79.836 94.966 288
resnet50_v1_5 resnet50.ram_in1k apache-2.0 224 0.875 bicubic in1k 79.976 95.052 288
resnet50_v1_5 resnet50.tv2_in1k bsd-3-clause 176 0.875 bilinear in1k 80.850 95.434 224
resnet50_v1_5 resnet50.tv_in1k bsd-3-clause 224 0.875 bilinear in1k 76.130 92.858 224
resnet101_v1_5 resnet101.a1_in1k apache-2.0 224 0.95 bicubic in1k - - -
resnet101_v1_5 resnet101.a1h_in1k apache-2.0 224 0.95 bicubic in1k - - -
resnet101_v1_5 resnet101.a2_in1k apache-2.0 224 0.95 bicubic in1k 82.236 95.730 288
resnet101_v1_5 resnet101.a3_in1k apache-2.0 160 0.95 bicubic in1k 79.814 94.606 224
resnet101_v1_5 resnet101.gluon_in1k apache-2.0 224 0.875 bicubic in1k 79.310 94.522 224
resnet101_v1_5 resnet101.tv2_in1k bsd-3-clause 176 0.875 bilinear in1k 81.890 95.768 224
resnet101_v1_5 resnet101.tv_in1k bsd-3-clause 224 0.875 bilinear in1k 77.376 93.542 224
resnet152_v1_5 resnet152.a1_in1k apache-2.0 224 0.95 bicubic in1k - - -
resnet152_v1_5 resnet152.a1h_in1k apache-2.0 224 0.95 bicubic in1k - - -
resnet152_v1_5 resnet152.a2_in1k apache-2.0 224 0.95 bicubic in1k - - -
resnet152_v1_5 resnet152.a3_in1k apache-2.0 160 0.95 bicubic in1k 80.546 95.000 224
resnet152_v1_5 resnet152.gluon_in1k apache-2.0 224 0.875 bicubic in1k 79.694 94.736 224
resnet152_v1_5 resnet152.tv2_in1k bsd-3-clause 176 0.875 bilinear in1k - - -
resnet152_v1_5 resnet152.tv_in1k bsd-3-clause 224 0.875 bilinear in1k 78.322 94.048 224
vgg11 vgg11_bn.tv_in1k bsd-3-clause 224 0.875 bilinear in1k 70.382 89.808 224
vgg13 vgg13_bn.tv_in1k bsd-3-clause 224 0.875 bilinear in1k 71.588 90.378 224
vgg16 vgg16_bn.tv_in1k bsd-3-clause 224 0.875 bilinear in1k 73.370 91.514 224
vgg19 vgg19_bn.tv_in1k bsd-3-clause 224 0.875 bilinear in1k 74.216 91.844 224
densenet121 densenet121.ra_in1k apache-2.0 224 0.875 bicubic in1k 76.500 93.368 288
densenet121 densenet121.tv_in1k apache-2.0 224 0.875 bicubic in1k 74.764 92.154 224
densenet169 densenet169.tv_in1k apache-2.0 224 0.875 bicubic in1k 75.900 93.028 224
densenet201 densenet201.tv_in1k apache-2.0 224 0.875 bicubic in1k 77.286 93.480 224
mobilenet_v1 mobilenetv1_100.ra4_e3600_r224_in1k apache-2.0 224 0.875 bicubic half - - -
inception_v3 inception_v3.tv_in1k apache-2.0 299 0.875 bicubic half 77.434 93.474 299
inception_v3 inception_v3.gluon_in1k apache-2.0 299 0.875 bicubic in1k 78.806 94.374 299
inception_v3 inception_v3.tf_adv_in1k apache-2.0 299 0.875 bicubic half 77.592 93.730 299
inception_v3 inception_v3.tf_in1k apache-2.0 299 0.875 bicubic half 77.862 93.644 299
inception_resnet_v2 inception_resnet_v2.tf_in1k apache-2.0 299 0.8975 bicubic half 80.462 95.308 299
inception_resnet_v2 inception_resnet_v2.tf_ens_adv_in1k apache-2.0 299 0.8975 bicubic half 79.978 94.946 299
"""

# Options by the start of timm's names. timm rounds the hidden width of its SE-ResNets up to multiples of 8, and uses
# ReLU6 in MobileNet. Its two smallest networks end their branches in a ReLU.
_OPTIONS: dict[str, dict[str, Any]] = {
    "legacy_seresnet18": {"branch_relu": True},
    "legacy_seresnet34": {"branch_relu": True},
    "seres": {"attention": SE(rounding="timm")},
    "mobilenetv1": {"activation": "relu6"},
}

_SOURCE = "timm, results/results-imagenet.csv at commit 0173a139"


def _card(row: str) -> Card:
    model, name, licence, pixels, crop, interpolation, statistics, top1, top5, measured = row.split()
    mean, std = _STATISTICS[statistics]
    metrics = {}
    if top1 != "-":
        metrics = {"top1": float(top1) / 100, "top5": float(top5) / 100, "size": float(measured)}
    return Card(
        model=model,
        tag=name.partition(".")[2],
        repo=f"timm/{name}",
        licence=licence,
        preprocessing=Preprocessing(
            size=(int(pixels), int(pixels)),
            crop_fraction=float(crop),
            interpolation=interpolation,
            mean=mean,
            std=std,
        ),
        layout="timm",
        options=next((options for start, options in _OPTIONS.items() if name.startswith(start)), {}),
        metrics=metrics,
        metrics_source=_SOURCE if metrics else "",
    )


CARDS: tuple[Card, ...] = tuple(_card(row) for row in _TIMM.strip().splitlines())
"""All public checkpoints. The first one of a network is its default."""

assert len({(card.model, card.tag) for card in CARDS}) == len(CARDS), "two cards of a network share a tag"


def cards(model: str) -> Mapping[str, Card]:
    """Return the public checkpoints of a network by tag, the default first.

    Example:
        >>> from senet.weights import cards
        >>> list(cards("se_resnet50_v1_5"))
        ['ra2_in1k', 'a1_in1k', 'a2_in1k', 'a3_in1k']
        >>> cards("cifar_resnet20")
        {}
    """
    return {card.tag: card for card in CARDS if card.model == model}


def find_card(model: str, tag: bool | str) -> Card:
    """Return one public checkpoint of a network.

    Args:
        model: Name of the network.
        tag: Tag of the checkpoint, or True for the default.

    Raises:
        SenetError: The network has no public checkpoint.
        UnknownNameError: The network has no checkpoint with this tag. The message names the nearest tags.

    Example:
        >>> from senet.weights import find_card
        >>> find_card("resnet50_v1_5", True).tag
        'a1_in1k'
        >>> find_card("resnet50_v1_5", "tv2_in1k").preprocessing.size
        (176, 176)
    """
    found = cards(model)
    if not found:
        others = sorted({card.model for card in CARDS})
        raise SenetError(f"{model} has no public checkpoint; networks with one: {', '.join(others)}")
    if tag is True:
        return next(iter(found.values()))
    if tag not in found:
        raise UnknownNameError(f"checkpoint of {model}", tag, found)
    return found[str(tag)]
