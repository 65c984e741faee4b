"""Drawings of one image's explanation: a heat map over the image, and the gates as charts."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from senet.inspection.curves import MOST_CHANNELS
from senet.inspection.sampling import evenly

__all__ = ["STYLE", "enlarged", "gate_charts", "overlay"]

SHOWN: Final = 256
"""Least number of pixels of the shorter side of a displayed image."""
OPACITY: Final = 0.6
"""Of the heat map over the image."""

READING: Final = (
    "The factor of each channel in this image, block by block. The lines mark 0, 0.5 and 1. "
    "Beside each name: channels · mean ± standard deviation."
)

STYLE: Final = """
#image .image-container, #activation .image-container { box-sizing: border-box; padding-top: 28px; }
#gates h3 { margin: 0; font-size: 16px; }
#gates p { margin: 2px 0 12px; font-size: 13px; }
.gates { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 14px 18px; }
.gates figure { margin: 0; min-width: 0; }
.gates figcaption { display: flex; justify-content: space-between; gap: 8px; font-size: 13px; }
.gates figcaption b { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-weight: 600; }
.gates figcaption span { white-space: nowrap; opacity: .75; }
.gates svg { display: block; width: 100%; height: 64px; overflow: visible; }
.gates path { fill: none; vector-effect: non-scaling-stroke; }
.gates .axis { stroke: currentColor; opacity: .25; stroke-width: 1; }
.gates .gate { stroke: #0072b2; stroke-width: 1.5; }
.dark .gates .gate { stroke: #56b4e9; }
"""
"""CSS of the charts, and room for the name above each image."""


def enlarged(image: Image.Image) -> Image.Image:
    """Enlarge a small image, with its pixels as squares. A larger one is returned unchanged."""
    scale = SHOWN / min(image.size)
    if scale <= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.NEAREST)


def overlay(image: Image.Image, activation: Tensor) -> Image.Image:
    """Blend an image, in grey, with the heat map of a class.

    Args:
        image: In any mode.
        activation: (h, w), at least 0 everywhere. Its largest value gets the brightest colour.
    """
    from matplotlib import colormaps

    grey = np.asarray(enlarged(image).convert("L"), np.float32)[..., None] / 255
    heat = activation / activation.max().clamp(min=1e-12)
    smooth = np.asarray(Image.fromarray(heat.numpy()).resize(grey.shape[1::-1], Image.Resampling.BICUBIC)).clip(0, 1)
    colours = colormaps["inferno"](smooth)[..., :3]
    mixed = (1 - OPACITY) * grey + OPACITY * colours
    return Image.fromarray((255 * mixed).round().astype(np.uint8))


def gate_charts(gates: Mapping[str, Tensor]) -> str:
    """Return HTML with a chart for each block: its factors by channel, as lines of the report's charts.

    Args:
        gates: Block to its factors, (C,). Of many channels, some are shown, evenly spaced.
    """
    charts = "".join(_chart(name, gate) for name, gate in gates.items())
    return f"<h3>Gates</h3><p>{READING}</p><div class='gates'>{charts}</div>"


def _chart(name: str, gate: Tensor) -> str:
    shown = gate[evenly(len(gate), MOST_CHANNELS)]
    top, low = max(1.0, float(gate.max())), min(0.0, float(gate.min()))

    def height(value: Tensor) -> list[float]:
        """From 0 at the top of the chart to 100 at its foot."""
        found: list[float] = (100 * (top - value) / (top - low)).round(decimals=1).tolist()
        return found

    steps = height(shown)
    line = "".join(f"V{y:g}H{x}" for x, y in enumerate(steps, 1))
    axis = "".join(f"M0,{y:g}H{len(shown)}" for y in height(torch.tensor([0.0, 0.5, 1.0])))
    mean, spread = float(gate.mean()), float(gate.std(correction=0))
    label = f"{name}: {len(gate)} gates, mean {mean:.2f}, standard deviation {spread:.2f}"
    return (
        f'<figure><figcaption><b title="{escape(name)}">{escape(name)}</b>'
        f"<span>{len(gate)} · {mean:.2f} ± {spread:.2f}</span></figcaption>"
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {len(shown)} 100" preserveAspectRatio="none">'
        f'<path class="axis" d="{axis}"/><path class="gate" d="M0,{steps[0]:g}{line}"/></svg></figure>'
    )
