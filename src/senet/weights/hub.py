"""A card's file from the Hugging Face hub, or from its cache on this machine."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from senet.errors import CheckpointError
from senet.weights.card import Card
from senet.weights.files import sha256

__all__ = ["fetch"]


def fetch(card: Card, *, cache: str | os.PathLike[str] | None = None) -> Path:
    """The card's file, downloaded once and verified each time.

    Args:
        card: Of what.
        cache: The hub's cache folder; by default where `huggingface_hub` keeps it (`HF_HOME`, `HF_HUB_CACHE`).

    Raises:
        CheckpointError: It can't be had, says how it could; or it isn't the file that was published.
    """
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    where = f"{card.file} of https://huggingface.co/{card.repo}"
    try:
        path = _cached_or_downloaded(card, None if cache is None else os.fspath(cache))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{where} is not in the cache, and the hub can't be reached from here; on a machine that reaches it run "
            f"`hf download {card.repo} {card.file}` and copy its cache folder here, or give the file to "
            "senet.load_weights"
        ) from error
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        raise CheckpointError(f"{where}: the hub has no such file, or not for everybody") from error
    except (OSError, ValueError) as error:  # the hub's own errors are among these
        raise CheckpointError(f"{where}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    _verify(path, card)
    return path


def _cached_or_downloaded(card: Card, cache: str | None) -> Path:
    """The file in the cache, if it is there, without asking the hub (half a minute without a network)."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    with suppress(LocalEntryNotFoundError):
        return Path(hf_hub_download(card.repo, card.file, cache_dir=cache, local_files_only=True))
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # each retry would be two lines; what came of them is told once
    try:
        return Path(hf_hub_download(card.repo, card.file, cache_dir=cache))
    finally:
        logging.set_verbosity(verbosity)


def _verify(path: Path, card: Card) -> None:
    """Compare with the card's hash, else with the one that the hub stores large files under in its cache."""
    blob = path.resolve().name
    expected = card.sha256 or (blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None)
    if expected is not None and sha256(path) != expected:
        raise CheckpointError(
            f"{path}: its hash isn't {expected[:12]}..., the published one: truncated or altered; delete it and fetch "
            "it again"
        )
