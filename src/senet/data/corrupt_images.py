"""Counting the corrupt images of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from senet.errors import DataError

__all__ = ["CorruptImageReport"]


class CorruptImageReport:
    """Collect the corrupt images that batches report. It lives in the main process.

    Args:
        total: Number of images in the set.
        limit: Largest number of corrupt images that is tolerated. None means one in a hundred, but at least 10.
        report: Called with path and reason of each corrupt image, once each.
        data: The set's name on the command line, for the advice.
    """

    def __init__(
        self,
        total: int,
        *,
        limit: int | None = None,
        report: Callable[[str, str], None] | None = None,
        data: str = "folder:PATH",
    ) -> None:
        self.limit = max(10, total // 100) if limit is None else limit
        self.reasons: dict[str, str] = {}
        self._report = report
        self._data = data

    def add(self, corrupt: Iterable[Iterable[str]]) -> None:
        """Add the corrupt images of one batch.

        Raises:
            DataError: More corrupt images than the limit.
        """
        for path, reason in corrupt:
            if path in self.reasons:
                continue
            self.reasons[path] = reason
            if self._report is not None:
                self._report(path, reason)
        if len(self) > self.limit:
            path, reason = next(reversed(self.reasons.items()))
            raise DataError(
                f"{len(self)} corrupt images, more than the limit of {self.limit}; the last: "
                f"{path}: {reason}\n"
                f"`senet doctor --data {self._data}` lists all of them"
            )

    def __len__(self) -> int:
        return len(self.reasons)

    def summary(self) -> str:
        """Return one line for the end of a run, empty if no image was corrupt."""
        return f"{len(self)} corrupt image{'s' * (len(self) != 1)} skipped" if self.reasons else ""
