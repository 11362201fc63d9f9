"""Extracts the long list of numbers from a request's JSON, so that the rest can be parsed quickly.

A JSON parser blocks all other threads while it runs. Parsing 16 MiB of JSON takes tens of milliseconds.
"""

import secrets
from dataclasses import dataclass

from mmguard.errors import InputError
from mmguard.guard.serving.tensors import BLANKS, NUMBERS, SLICE

LIST_CHARACTERS = NUMBERS + b"[],"
MAX_REST_BYTES = 2**19
"""Maximum size of the JSON without the extracted list, in bytes.

This is enough for the other fields and for a list of numbers that is too short to be extracted.
"""


@dataclass(frozen=True)
class ExtractedNumbers:
    """A JSON text, split into a long list of numbers and the rest of the text.

    Attributes:
        rest: the text with `placeholder` in place of the list.
        placeholder: a JSON value that occurs nowhere else in the text; empty if no list was extracted.
        numbers: the text of the extracted list, which has not been parsed or checked yet; empty if no list
            was extracted.
    """

    rest: memoryview
    placeholder: bytes
    numbers: memoryview


def extract_numbers(text: memoryview) -> ExtractedNumbers:
    """Extract the first long run of numbers, brackets, commas and blanks from a JSON text.

    The text is divided into slices of `SLICE` bytes. A run is long if it fills at least one whole slice.

    Args:
        text: the JSON text.

    Returns:
        The run and the rest of the text. If there is no long run, the rest is the whole text.

    Raises:
        InputError: The rest of the text is longer than `MAX_REST_BYTES`.
    """
    begin, end = _long_run(text)
    if len(text) - (end - begin) > MAX_REST_BYTES:
        raise InputError(
            f"the request may contain at most {MAX_REST_BYTES} bytes of JSON besides one list of numbers in data; to "
            "send NaN or infinity, which JSON cannot represent, use a binary tensor"
        )
    if begin == end:
        return ExtractedNumbers(text, b"", text[:0])
    # If the run is inside a string, the quotation mark in the placeholder ends that string, so the JSON becomes invalid
    # and the parser raises an error.
    placeholder = b'["%s"]' % secrets.token_hex().encode()
    rest = memoryview(bytes(text[:begin]) + placeholder + bytes(text[end:]))
    return ExtractedNumbers(rest, placeholder, text[begin:end])


def _long_run(text: memoryview) -> tuple[int, int]:
    """Return the start and end of the first long run, excluding a trailing comma; (0, 0) if there is no long run."""
    whole = next((at for at in range(0, len(text) - SLICE + 1, SLICE) if not _other_characters(text, at)), None)
    if whole is None:
        return 0, 0
    before = bytes(text[max(whole - SLICE, 0) : whole])
    begin = whole - len(before) + len(before.rstrip(LIST_CHARACTERS))
    last = next((at for at in range(whole, len(text), SLICE) if _other_characters(text, at)), len(text))
    piece = bytes(text[last : last + SLICE])
    end = last + len(piece) - len(piece.lstrip(LIST_CHARACTERS))
    piece = bytes(text[max(end - SLICE, begin) : end])
    return begin, end - len(piece) + len(piece.rstrip(BLANKS + b","))


def _other_characters(text: memoryview, at: int) -> bytes:
    """Return those characters of the slice at a position that cannot occur in a list of numbers."""
    return bytes(text[at : at + SLICE]).translate(None, LIST_CHARACTERS)
