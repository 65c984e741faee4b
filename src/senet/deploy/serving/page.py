"""The page: an upload, and what the network sees in the image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from senet.data import CorruptImage
from senet.deploy.extras import need
from senet.deploy.serving.drawing import STYLE, enlarged, gate_charts
from senet.deploy.serving.explanation import explain
from senet.errors import SenetError
from senet.gates import gated_layers
from senet.zoo import LoadedModel

if TYPE_CHECKING:
    import gradio

__all__ = ["make_page", "page_options"]

LARGEST: Final = "50mb"
"""Largest upload."""

FONTS: Final = {
    "font": ["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
    "font_mono": ["ui-monospace", "monospace"],
}
"""Fonts of the reader's system. Gradio's own ones would be fetched."""


def make_page(loaded: LoadedModel, *, topk: int = 5) -> gradio.Blocks:
    """Return Gradio's page for a network.

    Args:
        loaded: The network.
        topk: Number of shown classes.

    Raises:
        SenetError: Gradio isn't installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # some of it starts at the import
    gr = need("gradio", "senet serve", "serve")
    name = loaded.metadata.model

    def show(path: str) -> list[Any]:
        name = Path(path).name
        try:
            seen = explain(loaded, path, topk=topk)
        except SenetError as error:
            reason = error.reason if isinstance(error, CorruptImage) else str(error)
            return [None, gr.update(value=f"{name}: {reason}", visible=True), *[gr.update(visible=False)] * 4]
        charts = gate_charts(seen.gates) if seen.gates else None
        return [
            None,  # the field is free for the next image
            gr.update(visible=False),
            gr.update(value=enlarged(seen.image), label=name, visible=True),
            *(gr.update(value=value, visible=bool(value)) for value in (seen.activation, seen.classes, charts)),
        ]

    with gr.Blocks(title=f"{name} · senet", analytics_enabled=False) as page:
        gr.Markdown(f"# {name}\n{_described(loaded)}")
        upload = gr.File(label="Image", file_types=["image"], type="filepath", height=150, elem_id="upload")
        trouble = gr.Textbox(label="This image can't be shown", visible=False, elem_id="trouble")
        with gr.Row(equal_height=True):
            image = gr.Image(visible=False, elem_id="image", **PICTURE)
            activation = gr.Image(label="Class activation", visible=False, elem_id="activation", **PICTURE)
            classes = gr.Label(label="Classes", visible=False, elem_id="classes", num_top_classes=topk)
        gates = gr.HTML(visible=False, elem_id="gates", container=True)
        if not gated_layers(loaded.model):
            gr.Markdown("This network has no attention layers, so there are no gates.")
        shown = [upload, trouble, image, activation, classes, gates]
        upload.upload(show, upload, shown, api_visibility="private", show_progress="minimal")
    return page


PICTURE: Final[dict[str, Any]] = {"interactive": False, "buttons": ["fullscreen"], "height": 300, "format": "png"}


def _described(loaded: LoadedModel) -> str:
    height, width = loaded.preprocessing.size
    return f"{loaded.metadata.task} · {len(loaded.classes)} classes · {height}x{width} pixels"


def page_options() -> dict[str, Any]:
    """Return the options of the page that Gradio takes where the page is mounted."""
    gr = need("gradio", "senet serve", "serve")
    return {
        "theme": gr.themes.Default(**FONTS),
        "css": STYLE,
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "pwa": False,
        "mcp_server": False,
        "max_file_size": LARGEST,
    }
