"""The file that a scan's rows go to."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mmguard.errors import InputError, OptionError
from mmguard.files.atomic import beside, sweep
from mmguard.inputs.images import is_named_as_image
from mmguard.inputs.reading import is_array


def check_rows_file(out: Path, bundle: Path, inputs: Path) -> None:
    """Refuse rows that would take the place of what is read, or be read themselves.

    Raises:
        OptionError: `out` lies inside the bundle or the folder that is scanned, is what is scanned, or is named as an
            input.
    """
    place = out.resolve()
    if place.is_relative_to(bundle.resolve()):
        raise OptionError(f"--out {out} lies inside the bundle; choose another file")
    if place != inputs.resolve() and place.is_relative_to(inputs.resolve()):
        raise OptionError(
            f"--out {out} lies inside the scanned folder, of which every file is an input; choose another"
        )
    if place == inputs.resolve() or is_named_as_image(out) or is_array(out):
        raise OptionError(
            f"--out {out} is an input, or named as an image or an array; choose another file, such as rows.jsonl"
        )


@contextmanager
def rows_file(out: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that takes the place of `out` once every line is in it.

    Nobody else writes to it meanwhile: of several scans with one `out`, the last to end gives the whole of it.

    Raises:
        InputError: it cannot be written.
    """
    if out is None:
        try:
            yield sys.stdout
        finally:
            sys.stdout.flush()  # before the word on how the scan ended
        return
    out = out.resolve()
    if out.exists() and not out.is_file():  # a device or a pipe is written to, never replaced
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
    """A file in a private folder beside `out`, which takes its place at the end. What killed scans left is removed."""
    sweep(out)
    with beside(out) as folder:
        with (folder / out.name).open("w", encoding="utf-8") as file:
            yield file
        (folder / out.name).replace(out)
