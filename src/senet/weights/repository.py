"""Repositories of the Hugging Face Hub: addresses (`hf://user/name@revision`) and downloads."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from senet.errors import CheckpointError, SenetError, shown
from senet.weights.checkpoint import HUB_CONFIG, HUB_WEIGHTS
from senet.weights.hub import download, explained

__all__ = ["HubAddress", "fetch_repository", "is_address", "local_checkpoint"]

PREFIXES: Final = ("hf://", "hf-hub:")
"""The start of an address: this package's for a checkpoint, timm's for a network."""

_ADDRESS: Final = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w.-]+(?:/[\w.-]+)*))?", re.ASCII)


@dataclass(frozen=True)
class HubAddress:
    """A repository on the Hugging Face Hub.

    Attributes:
        repo: `user/name`.
        revision: A branch, a tag or a commit. None is the main branch.

    Example:
        >>> from senet.weights.repository import HubAddress
        >>> HubAddress.parse("hf://user/flowers@v2")
        HubAddress(repo='user/flowers', revision='v2')
        >>> HubAddress.parse("hf-hub:user/flowers").revision is None
        True
    """

    repo: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """Parse `hf://user/name`, `hf-hub:user/name` or `user/name`, each with an optional `@revision`.

        Raises:
            SenetError: It has another form.
        """
        found = _ADDRESS.fullmatch(text.removeprefix(PREFIXES[0]).removeprefix(PREFIXES[1]))
        if found is None or ".." in text:
            raise SenetError(
                f"{shown(text)} is not a repository of the Hugging Face Hub; write hf://user/name@revision"
            )
        return cls(found["repo"], found["revision"])

    def __str__(self) -> str:
        return f"{PREFIXES[0]}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def is_address(text: object) -> bool:
    """Whether a text is the address of a repository (`hf://...` or `hf-hub:...`)."""
    return isinstance(text, str) and text.startswith(PREFIXES)


def fetch_repository(address: HubAddress, *, cache: str | os.PathLike[str] | None = None) -> Path:
    """Download the weights and the metadata of one commit of a repository, unless they are in the cache.

    Only these two files are read, and no pickle. `read_checkpoint` of the folder verifies the weights' hash.

    Args:
        address: The repository.
        cache: The hub's cache folder. The default is the folder of `huggingface_hub` (`HF_HOME`, `HF_HUB_CACHE`).

    Returns:
        The folder in the cache.

    Raises:
        CheckpointError: A file doesn't exist or can't be downloaded. The message names a remedy.

    Example:
        >>> from senet.weights.repository import HubAddress, fetch_repository
        >>> fetch_repository(HubAddress.parse("hf://user/flowers"))  # doctest: +SKIP
        PosixPath('.../models--user--flowers/snapshots/0123456789abcdef')
    """
    folder = None if cache is None else os.fspath(cache)
    with explained(HUB_CONFIG, address.repo):
        config = download(address.repo, HUB_CONFIG, revision=address.revision, cache=folder)
    with explained(HUB_WEIGHTS, address.repo):  # of the same commit, also if another one is pushed meanwhile
        weights = download(address.repo, HUB_WEIGHTS, revision=config.parent.name, cache=folder)
    if weights.parent != config.parent:
        raise CheckpointError(f"{address}: {config} and {weights} are of different commits; load it again")
    return config.parent


def local_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Return the path of a checkpoint. The address of a repository is downloaded first."""
    if is_address(path):
        return fetch_repository(HubAddress.parse(str(path)))
    return Path(path)
