"""Parts of a network that keep their weights and running statistics, until an epoch."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from senet.errors import SenetError
from senet.models import Backbone
from senet.training.layers import BACKBONE, Layers
from senet.training.recipe import Recipe

__all__ = ["Freezing", "fine_tunes", "trained_part"]


def fine_tunes(recipe: Recipe) -> bool:
    """Whether a recipe treats some layers of a network otherwise than others."""
    return bool(recipe.freeze or recipe.freeze_bn) or (recipe.backbone_lr_factor, recipe.layer_decay) != (1.0, 1.0)


class Freezing:
    """The frozen part of a network in each epoch of a recipe. It follows from the epoch alone.

    Frozen parameters get no gradient. Frozen batch norms use their running statistics and never update them.

    Args:
        model: The network.
        layers: Its layers.
        recipe: The recipe, with `freeze`, `unfreeze_after` and `freeze_bn`.

    Raises:
        SenetError: The network has no such part, or nothing would train.

    Differs: Lightning's `BaseFinetuning` adds an optimizer's group when it unfreezes. Here the optimizer has all
        parameters from the start, and skips frozen ones since they have no gradient, so a resumed run repeats exactly.
    """

    def __init__(self, model: nn.Module, layers: Layers, recipe: Recipe) -> None:
        self.until = recipe.unfreeze_after
        part = layers.up_to(recipe.freeze) if recipe.freeze else frozenset()
        # A backbone of a detector freezes its own norms, see `Backbone.freeze`.
        own = any(isinstance(module, Backbone) for module in model.modules())
        norms = [m for m in model.modules() if recipe.freeze_bn and not own and isinstance(m, _BatchNorm)]
        self._always = [p for norm in norms for p in norm.parameters() if p.requires_grad]
        always = {id(p) for p in self._always}
        named = dict(model.named_parameters())
        self._part = [p for name, p in named.items() if name in part and p.requires_grad and id(p) not in always]
        self._norms = norms
        whole = set(norms)
        self._part_norms = [
            module
            for path, module in model.named_modules()
            if isinstance(module, _BatchNorm) and module not in whole and _is_within(path, part, named)
        ]
        if not any(p.requires_grad for p in named.values() if id(p) not in always and not _among(p, self._part)):
            raise SenetError("nothing would train: all parameters are frozen")

    @property
    def frozen(self) -> list[nn.Parameter]:
        """All parameters that are frozen in the first epoch."""
        return [*self._always, *self._part]

    @property
    def is_constant(self) -> bool:
        """Whether the same part is frozen in all epochs."""
        return not self.until

    def apply(self, epoch: int) -> None:
        """Freeze the part of an epoch, counted from 0, and unfreeze the rest of it."""
        free = bool(self.until) and epoch >= self.until
        for p in self._always:
            p.requires_grad_(False)
        for p in self._part:
            p.requires_grad_(free)
            if not free:
                p.grad = None
        for norm in self._norms:
            norm.eval()
        for norm in self._part_norms:
            norm.train(free)


def trained_part(model: nn.Module, layers: Layers, recipe: Recipe) -> str:
    """Describe what trains: `head only: 5,130 of 11,181,642 parameters`.

    Example:
        >>> import torch
        >>> from senet.training.freezing import trained_part
        >>> from senet.training.layers import find_layers
        >>> from senet.training.recipe import Recipe
        >>> from senet.zoo import create_model
        >>> model = create_model("cifar_resnet20", depth=1)
        >>> trained_part(model, find_layers(model, [torch.zeros(1, 3, 32, 32)]), Recipe(freeze="backbone"))
        'head only: 650 of 75,290 parameters'
    """
    freezing = Freezing(model, layers, recipe)
    every = sum(p.numel() for p in model.parameters())
    frozen = {id(p) for p in freezing.frozen}
    free = sum(p.numel() for p in model.parameters() if p.requires_grad and id(p) not in frozen)
    if recipe.freeze == BACKBONE:
        part = "head only"
    elif recipe.freeze:
        part = f"all after {recipe.freeze}"
    else:
        part = "all" if free == every else recipe.train if recipe.train != "all" else "all but frozen parts"
    until = f" for {recipe.unfreeze_after} epochs, then all" if recipe.unfreeze_after else ""
    return f"{part}: {free:,} of {every:,} parameters{until}"


def _among(parameter: nn.Parameter, those: list[nn.Parameter]) -> bool:
    return any(parameter is one for one in those)


def _is_within(path: str, part: frozenset[str], named: dict[str, nn.Parameter]) -> bool:
    """Whether a norm belongs to the frozen part. A norm without parameters belongs to the module around it."""
    while path:
        own = [name for name in named if name.startswith(f"{path}.")]
        if own:
            return part.issuperset(own)
        path = path.rpartition(".")[0]
    return False
