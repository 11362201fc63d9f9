"""Check the path of a scan's output file, and open the file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mmguard.errors import InputError, OptionError
from mmguard.files.atomic import beside, sweep
from mmguard.inputs.array_files import is_array_file
from mmguard.inputs.image_files import is_named_as_image


def check_rows_file(out: Path, bundle: Path, inputs: Path) -> None:
    """Check that the output file of a scan is outside the bundle and the scanned folder, and is not an input.

    Args:
        out: file for the rows.
        bundle: folder of the bundle.
        inputs: file or folder to scan.

    Raises:
        OptionError: `out` lies in the bundle or in the scanned folder, is the scanned file, or has the suffix of an
            image or array file.
    """
    place = out.resolve()
    if place.is_relative_to(bundle.resolve()):
        raise OptionError(f"--out {out} lies in the bundle; choose another path")
    if place != inputs.resolve() and place.is_relative_to(inputs.resolve()):
        raise OptionError(f"--out {out} lies in the scanned folder, where every file is an input; choose another path")
    if place == inputs.resolve() or is_named_as_image(out) or is_array_file(out):
        raise OptionError(
            f"--out {out} is an input, or has the suffix of an image or array file; choose another path, such as "
            "rows.jsonl"
        )


@contextmanager
def rows_file(out: Path | None) -> Iterator[TextIO]:
    """Open standard output, or a temporary file that replaces `out` when all rows have been written.

    If several scans write to the same `out`, the file ends up with only the rows of the scan that finished last.

    Args:
        out: the file; None for standard output.

    Yields:
        A text file to write lines to.

    Raises:
        InputError: the file cannot be written.
    """
    if out is None:
        try:
            yield sys.stdout
        finally:
            sys.stdout.flush()  # so that the rows come before any message on standard error
        return
    out = out.resolve()
    if out.exists() and not out.is_file():  # a device or a pipe cannot be replaced
        with out.open("w", encoding="utf-8") as file:
            yield file
        return
    if not out.parent.is_dir():
        raise InputError(f"--out {out} cannot be written: {out.parent} is not a folder")
    try:
        with _replacing(out) as file:
            yield file
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error}") from error


@contextmanager
def _replacing(out: Path) -> Iterator[TextIO]:
    """Open a file in a private folder next to `out`, and move the file to `out` at the end."""
    sweep(out)
    with beside(out) as folder:
        with (folder / out.name).open("w", encoding="utf-8") as file:
            yield file
        (folder / out.name).replace(out)
