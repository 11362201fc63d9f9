"""Read `.csv` tables written by Python, R or a spreadsheet, and explain why an ambiguous table is refused."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError
from mmguard.files.opening import open_file
from mmguard.text.format import first_few
from mmguard.text.sanitize import sanitize, shown

LABEL = "label"
"""Name of the column that contains labels, in upper or lower case."""
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}

Lines = list[tuple[int, list[str]]]
"""For each row, the number of the line on which the row ends, and the row's cells."""


@dataclass(frozen=True)
class Table:
    """A table of N rows and F features.

    Attributes:
        columns: names of the features, without leading or trailing whitespace.
        x: (N, F) float64; NaN in the rows listed in `faults`.
        labels: N labels as text, with an empty string for each row listed in `faults`; None if no column is named
            `label`.
        faults: the reason why each unreadable row cannot be read, by row number (counted from 0).
    """

    columns: tuple[str, ...]
    x: npt.NDArray[np.float64]
    labels: tuple[str, ...] | None
    faults: dict[int, str]


def read_csv(path: Path) -> Table:
    """Read a `.csv` file in UTF-8 that contains a row of column names, followed by rows of comma-separated numbers.

    Args:
        path: the file.

    Returns:
        The table. Rows that cannot be read are listed in `faults`; all other rows are read.

    Raises:
        InputError: The file cannot be read or does not have this format; the message explains what to change.
    """
    (_, header), *rows = _rows(path)
    names = [name.strip() for name in header]
    _check_names(path, names)
    at = next((i for i, name in enumerate(names) if name.lower() == LABEL), None)
    columns = tuple(name for i, name in enumerate(names) if i != at)
    x = np.full((len(rows), len(columns)), np.nan)
    labels, faults = [""] * len(rows), dict[int, str]()
    for i, (line, cells) in enumerate(rows):
        try:
            labels[i], x[i] = _parse_row(cells, columns, at)
        except ValueError as error:
            faults[i] = f"on line {line}: {error}"
    return Table(columns, x, None if at is None else tuple(labels), faults)


def _rows(path: Path) -> Lines:
    """Return all rows that are not empty. Refuse a file in which every row is empty."""
    try:
        with open_file(path) as file:
            if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise InputError(f"{shown(path)}: the table is encoded in UTF-16; save it in UTF-8")
            file.seek(0)
            with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
                reader = csv.reader(text)
                lines = [(reader.line_num, cells) for cells in reader if cells]
    except UnicodeDecodeError as error:
        raise InputError(f"{shown(path)}: the table is not encoded in UTF-8 ({error}); save it in UTF-8") from error
    except (OSError, csv.Error) as error:
        raise InputError(
            f"{shown(path)}: not a readable .csv file: {error}; provide a row of column names, then rows of numbers"
        ) from error
    if not lines:
        raise InputError(f"{shown(path)}: the table is empty; provide a row of column names, then rows of numbers")
    return lines


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Check that the first row contains a different name for each column."""
    found = next((word for sign, word in SEPARATORS.items() if len(names) == 1 and sign in names[0]), None)
    if found:
        raise InputError(f"{shown(path)}: the columns are separated by {found}; separate them with commas")
    if names[0].startswith("#"):
        raise InputError(
            f"{shown(path)}: the first row is a comment; start the table with the column names, without a #"
        )
    if numbers := [name for name in names if _is_number(name)]:
        raise InputError(
            f"{shown(path)}: expected column names in the first row, got numbers: {first_few(numbers)}; insert "
            "a row of column names that are not numbers"
        )
    if "" in names:
        raise InputError(
            f"{shown(path)}: column {names.index('') + 1} of {len(names)} has no name; name or remove this column "
            "(pandas writes a column without a name unless you pass index=False to to_csv; a comma at the end of each "
            "line also adds a column without a name)"
        )
    counts = Counter(LABEL if name.lower() == LABEL else name for name in names)
    if twice := [name for name, count in counts.items() if count > 1]:
        named = sanitize(first_few(twice))
        raise InputError(
            f"{shown(path)}: the first row contains these column names more than once: {named}; give each column a "
            "different name"
        )


def parse_labels(words: Iterable[str]) -> npt.NDArray[np.generic]:
    """Convert the labels of a table from text to numbers if all labels are numbers.

    Args:
        words: the labels as text, one per row.

    Returns:
        The labels: int64 if all labels are whole numbers, float64 if all are numbers, otherwise strings.

    Example:
        >>> parse_labels(["1", "0.0"]).tolist()
        [1, 0]
        >>> parse_labels(["cat", "7"]).tolist()
        ['cat', '7']
    """
    words = list(words)
    if not all(map(_is_number, words)):
        return np.array(words, dtype=np.str_)
    labels = np.array(words, dtype=np.float64)
    whole = np.isfinite(labels).all() and (labels == np.rint(labels)).all()
    return labels.astype(np.int64) if whole else labels


def _parse_row(cells: list[str], columns: Sequence[str], at: int | None) -> tuple[str, list[float]]:
    """Return the label and the features of a row; `at` is the index of the label column, or None if there is none."""
    expected = len(columns) + (at is not None)
    if len(cells) != expected:
        raise ValueError(f"expected {expected} columns, as in the first row, got {len(cells)}")
    label = "" if at is None else cells.pop(at).strip()
    return label, [_number(*cell) for cell in zip(columns, cells, strict=True)]


def _number(column: str, text: str) -> float:
    if not _is_number(text):
        raise ValueError(
            f"column {column!r}: expected a number such as -0.5 or 1e-3, got {text!r}; only a column named {LABEL} may "
            "contain words"
        )
    return float(text)


def _is_number(text: str) -> bool:
    if "_" in text:  # only Python reads 1_000 as a number
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True
