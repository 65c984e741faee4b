"""Silence uninformative log lines of other libraries."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["errors_only"]


@contextmanager
def errors_only(*names: str) -> Iterator[None]:
    """Let these loggers (dotted names; "" is the root) report errors only within this context."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
