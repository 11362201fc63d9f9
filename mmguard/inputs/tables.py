"""Tables of numbers, `.csv`, as Python, R and spreadsheets write them: read right, or refused with what to do."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmguard.errors import InputError
from mmguard.files.listing import open_file, shown
from mmguard.text.format import some
from mmguard.text.sanitize import visible

LABEL = "label"
"""Name of the column that holds labels, in letters of any case."""
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}

Lines = list[tuple[int, list[str]]]
"""Rows of cells, each with the number of the line that it ends on."""


@dataclass(frozen=True)
class Table:
    """A table of N rows and F features.

    Attributes:
        columns: names of the features, without blanks around them.
        x: (N, F) float64; a row of `faults` is NaN.
        labels: N words, or None where no column is named `label`; those of a row of `faults` are empty.
        faults: what is wrong with rows that cannot be read, by their number from 0.
    """

    columns: tuple[str, ...]
    x: npt.NDArray[np.float64]
    labels: tuple[str, ...] | None
    faults: dict[int, str]


def read_table(path: Path) -> Table:
    """Read a `.csv`: UTF-8, commas between cells, a first row of names, then rows of numbers.

    Raises:
        InputError: no such table; the message says what to change.
    """
    (_, header), *rows = _lines(path)
    names = [name.strip() for name in header]
    _check_names(path, names)
    at = next((i for i, name in enumerate(names) if name.lower() == LABEL), None)
    columns = tuple(name for i, name in enumerate(names) if i != at)
    x = np.full((len(rows), len(columns)), np.nan)
    labels, faults = [""] * len(rows), dict[int, str]()
    for i, (line, cells) in enumerate(rows):
        try:
            if len(cells) != len(names):
                raise ValueError(f"{len(cells)} columns, where the first row names {len(names)}")
            label = "" if at is None else cells.pop(at).strip()
            x[i] = [_number(*cell) for cell in zip(columns, cells, strict=True)]
            labels[i] = label
        except ValueError as error:
            faults[i] = f"on line {line}: {error}"
    return Table(columns, x, None if at is None else tuple(labels), faults)


def _lines(path: Path) -> Lines:
    """The rows that are not empty; one at least."""
    try:
        with open_file(path) as file:
            if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise InputError(f"{shown(path)}: the table is UTF-16; save it as UTF-8")
            file.seek(0)
            with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
                reader = csv.reader(text)
                lines = [(reader.line_num, cells) for cells in reader if cells]
    except UnicodeDecodeError as error:
        raise InputError(f"{shown(path)}: the table is not UTF-8 ({error}); save it as UTF-8") from error
    except (OSError, csv.Error) as error:
        raise InputError(f"{shown(path)}: not a readable .csv of numbers below a row of names: {error}") from error
    if not lines:
        raise InputError(f"{shown(path)}: the table is empty; give a row of names, and rows of numbers below it")
    return lines


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Refuse a first row that does not name every column once."""
    found = next((word for sign, word in SEPARATORS.items() if len(names) == 1 and sign in names[0]), None)
    if found:
        raise InputError(f"{shown(path)}: the columns are separated by {found}; separate them by commas")
    if names[0].startswith("#"):
        raise InputError(f"{shown(path)}: the first row is a comment; it must name the columns, without a #")
    if numbers := [name for name in names if _is_number(name)]:
        raise InputError(
            f"{shown(path)}: the first row must name the columns, it has numbers: {some(numbers)}; put a row "
            "of names first, none of which is a number"
        )
    if "" in names:
        raise InputError(
            f"{shown(path)}: column {names.index('') + 1} of {len(names)} has no name; name it, or remove it (as "
            "pandas does by to_csv(index=False), and a comma at the end of each line makes one too)"
        )
    counts = Counter(LABEL if name.lower() == LABEL else name for name in names)
    if twice := [name for name, count in counts.items() if count > 1]:
        named = visible(some(twice))
        raise InputError(f"{shown(path)}: the first row names {named} more than once; give each column its own name")


def parse_labels(words: Iterable[str]) -> npt.NDArray[np.generic]:
    """Whole numbers as int64, other numbers as float64, anything else as it stands."""
    words = list(words)
    if not all(map(_is_number, words)):
        return np.array(words, dtype=np.str_)
    labels = np.array(words, dtype=np.float64)
    whole = np.isfinite(labels).all() and (labels == np.rint(labels)).all()
    return labels.astype(np.int64) if whole else labels


def _number(column: str, text: str) -> float:
    if not _is_number(text):
        raise ValueError(
            f"column {column!r}: {text!r} is no number such as -0.5 or 1e-3; only a column named {LABEL} may hold words"
        )
    return float(text)


def _is_number(text: str) -> bool:
    if "_" in text:  # 1_000 is one to Python alone
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True
