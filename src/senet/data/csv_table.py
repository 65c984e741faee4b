"""Reading text tables: delimiter, header, and the rows with their line numbers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from senet.errors import DataError

__all__ = ["CsvTable"]

DELIMITERS = (",", ";", "\t")


class CsvTable:
    """A table in UTF-8 with a line of column names. Commas, semicolons or tabs separate the columns.

    Args:
        file: The file. A byte order mark is skipped.

    Attributes:
        file: The file.
        header: Names of the columns, without blanks around them.

    Raises:
        DataError: The file can't be read as such a table.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from senet.data.csv_table import CsvTable
        >>> file = Path(tempfile.mkdtemp(), "list.csv")
        >>> _ = file.write_text("path;label\\na.jpg;cat\\n")
        >>> table = CsvTable(file)
        >>> table.header, list(table.rows())
        (['path', 'label'], [(2, ['a.jpg', 'cat'])])
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._text = _read_text(file)
        first = next((line for line in io.StringIO(self._text) if line.strip()), "")
        bare = re.sub(r'"[^"]*"', "", first)
        self._delimiter = max(DELIMITERS, key=bare.count)
        header = next(self._lines(), (0, []))[1]
        if not header:
            raise DataError(f"{file} is empty; its first line must name the columns, such as path,label")
        self.header = [name.strip() for name in header]

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of the last line and the cells of each row. Empty lines are skipped.

        Raises:
            DataError: A row has another number of cells than the header, or a quoted cell doesn't end.
        """
        columns = len(self.header)
        lines = self._lines()
        next(lines)
        for line, row in lines:
            if len(row) != columns:
                if len(row) < columns or any(cell.strip() for cell in row[columns:]):
                    raise DataError(
                        f"{self.file}, line {line}: {len(row)} cells, but the header names {columns} columns"
                    )
                del row[columns:]
            yield line, row

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(io.StringIO(self._text, newline=""), delimiter=self._delimiter, strict=True)
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{self.file}, line {reader.line_num}: {error}") from error

    def find(self, name: str) -> int:
        """Return the position of a column by its exact name, else without regard to case.

        Raises:
            DataError: There is no such column, or there are two.
        """
        found = [i for i, column in enumerate(self.header) if column == name.strip()] or [
            i for i, column in enumerate(self.header) if column.lower() == name.strip().lower()
        ]
        if len(found) != 1:
            wrong = "no column" if not found else f"{len(found)} columns"
            raise DataError(f"{self.file} has {wrong} {name!r}; its columns are {self.names}")
        return found[0]

    def find_any(self, names: Sequence[str]) -> int | None:
        """Return the position of the first of some names that is a column, or None.

        Case, blanks, `_` and `-` don't matter.
        """
        plain = [re.sub(r"[\s_-]", "", column).lower() for column in self.header]
        chosen = next((name for name in names if name in plain), None)
        if chosen is None:
            return None
        return self.find(self.header[plain.index(chosen)])

    @property
    def names(self) -> str:
        """The names of the columns, for messages."""
        return ", ".join(self.header[:20]) + (", ..." if len(self.header) > 20 else "")


def _read_text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{file}, line {line}: no UTF-8 text; save it as CSV in UTF-8") from None
    except OSError as error:
        raise DataError(f"{file} can't be read: {error.strerror}") from error
