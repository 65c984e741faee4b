"""Handle Ctrl-C and SIGTERM at a step where the training can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["Interrupted", "StopRequest"]


class Interrupted(Exception):  # noqa: N818 - a request of the user, not an error
    """The user stopped the training. Its state is saved."""


class StopRequest:
    """Within this context, the first Ctrl-C or SIGTERM only sets `requested`. The second one stops at once.

    Args:
        report: Called once with a line for the user.

    Attributes:
        requested: Whether the user asked to stop.
        immediate: While true, the first signal raises `Interrupted` at once.
    """

    def __init__(self, report: Callable[[str], object]) -> None:
        self.requested = False
        self.immediate = False
        self._tell = report
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        self.install()
        return self

    def install(self) -> None:
        """Install the signal handlers, in place of any others."""
        if threading.current_thread() is threading.main_thread() and not self.requested:
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.signal(number, self._note)
                self._before.setdefault(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True
        self._restore()
        self._tell(f"stopping {'' if self.immediate else 'after this step '}and saving (again to stop at once) ...")
        if self.immediate:
            raise Interrupted

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
