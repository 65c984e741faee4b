"""How many corrupt images a run has met, and when they are too many."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from senet.errors import DataError

__all__ = ["CorruptImageReport"]


class CorruptImageReport:
    """Collects the corrupt images that batches tell of; lives in the main process.

    Args:
        total: Number of images in the set.
        limit: How many corrupt images are put up with; None means one in a hundred, but at least 10.
        tell: Called with path and reason of each corrupt image, once each.
        data: The set's name on the command line, for the advice.
    """

    def __init__(
        self,
        total: int,
        *,
        limit: int | None = None,
        tell: Callable[[str, str], None] | None = None,
        data: str = "folder:PATH",
    ) -> None:
        self.limit = max(10, total // 100) if limit is None else limit
        self.reasons: dict[str, str] = {}
        self._tell = tell
        self._data = data

    def add(self, corrupt: Iterable[Iterable[str]]) -> None:
        """Note what one batch met.

        Raises:
            DataError: More corrupt images than the limit.
        """
        for path, reason in corrupt:
            if path in self.reasons:
                continue
            self.reasons[path] = reason
            if self._tell is not None:
                self._tell(path, reason)
        if len(self) > self.limit:
            path, reason = next(reversed(self.reasons.items()))
            raise DataError(
                f"{len(self)} corrupt images, more than the limit of {self.limit}; the last: "
                f"{path}: {reason}\n"
                f"`senet doctor --data {self._data}` lists them all"
            )

    def __len__(self) -> int:
        return len(self.reasons)

    def summary(self) -> str:
        """One line for the end of a run; empty if nothing was corrupt."""
        return f"{len(self)} corrupt image{'s' * (len(self) != 1)} skipped" if self.reasons else ""
