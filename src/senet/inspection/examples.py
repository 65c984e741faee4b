"""Single images: the channels that a block raises and lowers, their feature maps, and a class activation map.

A gate that varies over positions is also shown as a picture.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.gates.recording import watching
from senet.gates.statistics import GateStatistics
from senet.inspection.class_activation import class_activation
from senet.nn.precision import in_float64
from senet.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Channel", "Example", "Heat", "SpatialGate", "explain_images", "image_of", "pixels_of"]

FINEST: Final = 16
"""Largest number of positions on a side of a displayed feature map."""
SMALL: Final = 64
"""Images up to this size are stored without loss."""


@dataclass(frozen=True)
class Heat:
    """A heat map over an image.

    Attributes:
        size: Height and width.
        values: One byte for each position, row by row, base64: 0 is the smallest, 255 the largest value.
    """

    size: tuple[int, int]
    values: str


@dataclass(frozen=True)
class Channel:
    """One channel of one block in one image.

    Attributes:
        channel: Its number.
        gate: Its factor in this image (averaged over positions, if it has several).
        mean: Its mean factor over all images.
        heat: Its feature map before the rescaling, or None without one.
    """

    channel: int
    gate: float
    mean: float
    heat: Heat | None


@dataclass(frozen=True)
class SpatialGate:
    """A gate over the positions of one image, averaged over the channels.

    Attributes:
        least: Smallest factor of the displayed map.
        largest: Largest factor of the displayed map.
        heat: The factors.
    """

    least: float
    largest: float
    heat: Heat


@dataclass(frozen=True)
class Example:
    """One image.

    Attributes:
        label: Its class, or one of its labels.
        prediction: The predicted class, or None if the outputs are no classes.
        probability: Probability of the predicted class.
        image: The network's input, as a data URL.
        heat: Class activation map of the predicted class.
        raised: Path of a block to the channels raised most above their mean, in descending order.
        lowered: Path of a block to the channels lowered most below their mean.
        spatial: Path of a block to its gate by position. Blocks with one factor per channel are left out.
    """

    label: str
    prediction: str | None
    probability: float | None
    image: str
    heat: Heat | None
    raised: dict[str, tuple[Channel, ...]]
    lowered: dict[str, tuple[Channel, ...]]
    spatial: dict[str, SpatialGate]


def explain_images(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    statistics: Mapping[str, GateStatistics],
    images: Tensor,
    labels: Sequence[str],
    *,
    outputs: Sequence[str],
    preprocessing: Preprocessing | None,
    multi_label: bool = False,
    top: int = 3,
) -> list[Example]:
    """Explain some images, (n, C, H, W), on the network's device.

    Args:
        model: The network.
        layers: Path to attention layer.
        statistics: Statistics of these layers over all images.
        images: Inputs of the network.
        labels: Class of each image.
        outputs: Class names of the network's outputs, empty if unknown.
        preprocessing: Preprocessing to undo for display. None stretches the values.
        multi_label: Whether each output has a probability of its own.
        top: Number of raised and of lowered channels.
    """
    seen: dict[str, Tensor] = {}
    maps: dict[str, Tensor] = {}
    over_space: dict[str, Tensor] = {}

    def see(path: str, gate: Tensor, count: int) -> None:
        seen[path] = _by_image(gate, count)
        if gate.ndim == 4 and gate.shape[2] * gate.shape[3] > 1:
            over_space[path] = _by_position(gate, count)

    with ExitStack() as stack:
        stack.enter_context(watching(layers, see))
        for path, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(_keep_input(path, maps)).remove)
        logits, maps_of_class = class_activation(model, images)
    known = isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] == len(outputs)
    shares = (logits.sigmoid() if multi_label else logits.softmax(1)) if known else None
    found = []
    for i, label in enumerate(labels):
        ranks = {path: _ranked(seen[path][i], statistics[path].mean, maps[path][i], top) for path in seen}
        probability, prediction = (None, None) if shares is None else shares[i].max(0)
        found.append(
            Example(
                label=label,
                prediction=None if prediction is None else outputs[int(prediction)],
                probability=None if probability is None else float(probability),
                image=image_of(images[i], preprocessing),
                heat=None if maps_of_class is None else _heat(maps_of_class[i]),
                raised={path: both[0] for path, both in ranks.items()},
                lowered={path: both[1] for path, both in ranks.items()},
                spatial={path: _spatial(gates[i]) for path, gates in over_space.items()},
            )
        )
    return found


def _by_image(gate: Tensor, images: int) -> Tensor:
    """(N, C), averaged over positions."""
    return in_float64(gate.detach().expand(images, *gate.shape[1:]).reshape(images, gate.shape[1], -1).mean(2))


def _by_position(gate: Tensor, images: int) -> Tensor:
    """(N, H, W), averaged over the channels."""
    return gate.detach().float().mean(1).expand(images, *gate.shape[2:]).cpu()


def _spatial(gate: Tensor) -> SpatialGate:
    small = _displayed(gate)
    return SpatialGate(round(float(small.min()), 3), round(float(small.max()), 3), _heat(gate))


def _keep_input(path: str, maps: dict[str, Tensor]) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        maps[path] = args[0].detach().float().cpu()

    return hook


def _ranked(gate: Tensor, mean: Tensor, maps: Tensor, top: int) -> tuple[tuple[Channel, ...], tuple[Channel, ...]]:
    """Return the channels raised and lowered most in one image. `maps` is (C, H, W)."""
    above = gate - mean
    order = above.argsort(descending=True).tolist()
    raised = [channel for channel in order if above[channel] > 0][:top]
    lowered = [channel for channel in order[::-1] if above[channel] < 0][:top]

    def described(channel: int) -> Channel:
        heat = _heat(maps[channel]) if maps.ndim == 3 and len(maps) == len(gate) else None
        return Channel(channel, round(float(gate[channel]), 3), round(float(mean[channel]), 3), heat)

    return tuple(map(described, raised)), tuple(map(described, lowered))


def _heat(values: Tensor) -> Heat:
    """Average (H, W) down to the displayed size, as bytes."""
    values = _displayed(values)
    least, largest = float(values.min()), float(values.max())
    scaled = (values - least) / (largest - least) if largest > least else torch.zeros_like(values)
    text = base64.b64encode((255 * scaled).round().to(torch.uint8).numpy().tobytes()).decode()
    return Heat((values.shape[0], values.shape[1]), text)


def _displayed(values: Tensor) -> Tensor:
    values = values.detach().float().cpu()
    size = min(FINEST, values.shape[0]), min(FINEST, values.shape[1])
    return F.adaptive_avg_pool2d(values[None], size)[0]


def image_of(image: Tensor, preprocessing: Preprocessing | None) -> str:
    """Convert the network's input, (C, H, W), to a data URL."""
    pixels = pixels_of(image, preprocessing)
    kind = "PNG" if max(pixels.size) <= SMALL else "JPEG"
    file = BytesIO()
    pixels.save(file, kind, quality=85)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def pixels_of(image: Tensor, preprocessing: Preprocessing | None) -> Image.Image:
    """Convert the network's input, (C, H, W), back to an image. Of any channels it shows the first three or one."""
    from PIL import Image

    from senet.pages.stretching import stretched

    image = image.detach().float().cpu()
    if preprocessing is None:
        image = (image - image.min()) / (image.max() - image.min()).clamp(min=1e-12)
        image = image[:3] if len(image) >= 3 else image[:1]
    elif preprocessing.reads_bands:
        return stretched((image.flip(0) if preprocessing.channel_order == "BGR" else image).numpy())
    else:
        mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
        image = (image * std + mean) / preprocessing.value_range
        image = image.flip(0) if preprocessing.channel_order == "BGR" else image
    return Image.fromarray((255 * image.clamp(0, 1)).round().to(torch.uint8).movedim(0, -1).squeeze(-1).numpy())
