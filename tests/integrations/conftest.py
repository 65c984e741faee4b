"""A Hub on this machine, with a cache of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hub_server import TOKEN, Hub, running_hub


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    """A running server in place of huggingface.co, and an empty cache, as the environment would set them."""
    with running_hub() as found:
        constants = "huggingface_hub.constants"
        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(f"{constants}.ENDPOINT", found.url)
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", found.url + template)
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)  # large files as git LFS, which the server speaks
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found
