"""The networks in timm's registry, as `senet_<name>`. Importing this module registers them.

`timm.create_model`, `timm.list_models` and every tool on top of them (such as segmentation_models_pytorch) then know
the networks of this package, with timm's options.

Example:
    >>> import timm, torch
    >>> import senet.integrations.timm
    >>> model = timm.create_model("senet_se_resnet18", features_only=True, in_chans=4, out_indices=(1, 3)).eval()
    >>> model.feature_info.channels(), model.feature_info.reduction()
    ([64, 256], [4, 16])
    >>> [tuple(feature_map.shape) for feature_map in model(torch.rand(1, 4, 64, 64))]
    [(1, 64, 16, 16), (1, 256, 4, 4)]
"""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, resolve_pretrained_cfg

from senet.integrations.timm_config import PREFIX, for_timm, timm_config
from senet.integrations.timm_network import TimmNetwork
from senet.models import MODELS
from senet.weights import Card, fetch, find_card, load_weights
from senet.weights.catalog import CARDS

__all__: list[str] = []  # timm adds the name of each network


def _card_config(card: Card) -> dict[str, Any]:
    config = timm_config(MODELS[card.model], card.preprocessing)
    return config | {"hf_hub_id": card.repo, "license": card.licence}


def _configs() -> dict[str, Any]:
    cards = {f"{PREFIX}{card.model}.{card.tag}": _card_config(card) for card in CARDS}
    published = {card.model for card in CARDS}
    others = {name: spec for name, spec in MODELS.items() if name not in published}
    return cards | {f"{PREFIX}{name}": timm_config(s, for_timm(s.preprocessing)) for name, s in others.items()}


default_cfgs = generate_default_cfgs(_configs())
"""The name that timm's registry looks up."""


def _card(name: str, config: Any) -> Card | None:
    """Return the public checkpoint of timm's configuration, or None if the user gave another source of weights.

    Raises:
        SenetError: There are no pretrained weights.
    """
    if config.url or config.file or config.state_dict:
        return None
    if config.hf_hub_id is None:
        return find_card(name, True)  # raises an error that lists the networks with a checkpoint
    return next((card for card in CARDS if (card.model, card.repo) == (name, config.hf_hub_id)), None)


def _build(
    name: str,
    *,
    card: Card | None,
    cache: str | Path | None,
    num_classes: int = 1000,
    in_chans: int = 3,
    global_pool: str = "avg",
    drop_rate: float | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> TimmNetwork:
    """Build a network from timm's options, and from those of its spec."""
    own = MODELS[name]
    given: dict[str, Any] = {"preprocessing": for_timm(own.preprocessing)}
    if card is not None:
        given |= card.network_options()
    if drop_rate is not None and "dropout" in {field.name for field in fields(own)}:
        given["dropout"] = drop_rate
    # Without a classifier the hidden layers before it would be missing.
    given |= {"num_classes": num_classes or own.num_classes, "in_channels": in_chans}
    spec = own.changed(given | options)
    with torch.device(device if device is not None else torch.get_default_device()):
        network = spec.build()
        if card is not None:
            load_weights(network, fetch(card, cache=cache), layout=card.layout, transfer=True)
        built = TimmNetwork(network, num_classes=num_classes, global_pool=global_pool, drop_rate=drop_rate)
    return built.to(dtype=dtype)


def _create(
    name: str,
    /,
    pretrained: bool = False,
    *,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    **options: Any,
) -> torch.nn.Module:
    """Build one network for `timm.create_model`."""
    variant = f"{PREFIX}{name}"
    card = None
    if pretrained:
        card = _card(name, resolve_pretrained_cfg(variant, pretrained_cfg, pretrained_cfg_overlay))
    return build_model_with_cfg(
        partial(_build, name, card=card, cache=cache_dir),
        variant,
        pretrained and card is None,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=pretrained_cfg_overlay,
        cache_dir=cache_dir,
        feature_cfg={"out_indices": None, "feature_cls": "getter"},  # all feature maps
        **options,
    )


def _register(name: str) -> None:
    def entry(pretrained: bool = False, **options: Any) -> torch.nn.Module:
        return _create(name, pretrained, **options)

    entry.__name__ = entry.__qualname__ = f"{PREFIX}{name}"
    entry.__doc__ = f"Build `{name}` with timm's options."
    globals()[entry.__name__] = register_model(entry)


for _name in MODELS:
    _register(_name)
