"""CSV files from outside: rows by column name, with every fault said by file and line.

Knows nothing of what the columns mean.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hwsparse.errors import DataError

MAX_CSV_BYTES = 256 * 2**20


def read_rows(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a UTF-8 CSV file with a header, as (line number, cells of `columns`); other columns are ignored.

    Raises:
        DataError: unreadable, too large, not UTF-8, a column or cell missing, or no row.
    """
    rows = []
    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise DataError(f"{path} takes more than {MAX_CSV_BYTES} bytes")
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
                raise DataError(f"{path}: the header has no column {missing[0]!r}; it needs {','.join(columns)}")
            for row in reader:
                cells = {name: row[name] for name in columns}
                if None in cells.values() or None in row:
                    raise DataError(f"{path} line {reader.line_num}: the row has not as many cells as the header")
                rows.append((reader.line_num, cells))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a UTF-8 CSV file: {error}") from None
    if not rows:
        raise DataError(f"{path} has no rows: the data set is empty")
    return rows


def header(path: Path) -> tuple[str, ...]:
    """Column names of a CSV file.

    Raises:
        DataError: unreadable or not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return tuple(next(csv.reader([file.readline(2**16)]), ()))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a UTF-8 CSV file: {error}") from None


def choose(count: int, limit: int | None, seed: int) -> list[int]:
    """Which of `count` items to take: all, or `limit` of them drawn by `seed`, in their order.

    Raises:
        DataError: the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise DataError(f"the limit on samples must be at least 1, not {limit}")
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(int(i) for i in np.random.default_rng(seed).choice(count, limit, replace=False))
