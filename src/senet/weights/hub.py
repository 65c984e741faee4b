"""Fetch public checkpoints from the Hugging Face hub or its local cache."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from senet.errors import CheckpointError
from senet.weights.card import Card
from senet.weights.files import sha256

__all__ = ["download", "explained", "fetch", "first_line"]


def fetch(card: Card, *, cache: str | os.PathLike[str] | None = None) -> Path:
    """Return the path of a public checkpoint. The file is downloaded once and verified each time.

    Args:
        card: The public checkpoint.
        cache: The hub's cache folder. The default is the folder of `huggingface_hub` (`HF_HOME`, `HF_HUB_CACHE`).

    Returns:
        Path of the file.

    Raises:
        CheckpointError: The file can't be downloaded (the message names a remedy), or its hash differs from the
            published one.

    Example:
        >>> from senet.weights import fetch, find_card
        >>> fetch(find_card("se_resnet50", True)).name  # doctest: +SKIP
        'model.safetensors'
    """
    with explained(card.file, card.repo):
        path = _cached_or_downloaded(card, None if cache is None else os.fspath(cache))
    _verify(path, card)
    return path


@contextmanager
def explained(file: str, repo: str) -> Iterator[None]:
    """Raise the hub library's errors within the block as a `CheckpointError` with a remedy."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{file} of https://huggingface.co/{repo}"
    try:
        yield
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{where} is not in the cache, and the hub can't be reached; on a machine with access run "
            f"`hf download {repo} {file}` and copy its cache folder here, or pass the file to "
            "senet.load_weights"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{where}: the repository has no such branch, tag or commit") from error
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        raise CheckpointError(f"{where}: the file does not exist on the hub, or is not public") from error
    except (OSError, ValueError) as error:  # includes the hub's own errors
        raise CheckpointError(f"{where}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _cached_or_downloaded(card: Card, cache: str | None) -> Path:
    """Return the file from the cache, else download it. A cached file needs no request (30 s without a network)."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with suppress(LocalEntryNotFoundError):
        return Path(hf_hub_download(card.repo, card.file, cache_dir=cache, local_files_only=True))
    return download(card.repo, card.file, cache=cache)


def download(repo: str, file: str, *, revision: str | None = None, cache: str | None = None) -> Path:
    """Return a file of the hub, downloaded unless the newest one is in the cache. Raises the library's errors."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # each retry would print two lines, but the outcome is reported once
    try:
        return Path(hf_hub_download(repo, file, revision=revision, cache_dir=cache))
    finally:
        logging.set_verbosity(verbosity)


def _verify(path: Path, card: Card) -> None:
    """Compare the file's hash with the card's, else with the hash in the name of the hub's cached file."""
    blob = path.resolve().name
    expected = card.sha256 or (blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None)
    if expected is not None and sha256(path) != expected:
        raise CheckpointError(
            f"{path}: its hash isn't {expected[:12]}..., the published one: truncated or altered; delete it and "
            "download it again"
        )
