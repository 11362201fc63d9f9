"""The long list of numbers in a request's JSON, taken out of it, so that a parser is done with the rest in an instant.

While a JSON parser runs, no other thread does: tens of milliseconds for 16 MiB.
"""

import secrets
from dataclasses import dataclass

from mmguard.errors import InputError
from mmguard.guard.serving.tensors import BLANKS, NUMBERS, SLICE

LISTED = NUMBERS + b"[],"
MAX_REST_BYTES = 2**19
"""Of the JSON without that list: room for some fields, and for a list too short to be taken out."""


@dataclass(frozen=True)
class Cut:
    """A JSON text without its long list.

    Attributes:
        rest: with `mark` in the place of the list.
        mark: JSON that is nowhere else in it; empty where nothing was taken.
        numbers: what was taken, which nobody has parsed yet.
    """

    rest: memoryview
    mark: bytes
    numbers: memoryview


def cut_list(text: memoryview) -> Cut:
    """Take out the first run of numbers, brackets, commas and blanks that fills a slice.

    Raises:
        InputError: more is left than `MAX_REST_BYTES`.
    """
    begin, end = _long_run(text)
    if len(text) - (end - begin) > MAX_REST_BYTES:
        raise InputError(
            f"the request may have {MAX_REST_BYTES} bytes of JSON beside one list of numbers, its data; JSON has no "
            "NaN or Infinity in such a list: send them as binary"
        )
    if begin == end:
        return Cut(text, b"", text[:0])
    mark = b'["%s"]' % secrets.token_hex().encode()  # in a string it would end that, and so be found out
    return Cut(memoryview(bytes(text[:begin]) + mark + bytes(text[end:])), mark, text[begin:end])


def _long_run(text: memoryview) -> tuple[int, int]:
    """Where it begins and ends; a comma behind it is not of it."""
    whole = next((at for at in range(0, len(text) - SLICE + 1, SLICE) if not _others(text, at)), None)
    if whole is None:
        return 0, 0
    before = bytes(text[max(whole - SLICE, 0) : whole])
    begin = whole - len(before) + len(before.rstrip(LISTED))
    last = next((at for at in range(whole, len(text), SLICE) if _others(text, at)), len(text))
    piece = bytes(text[last : last + SLICE])
    end = last + len(piece) - len(piece.lstrip(LISTED))
    piece = bytes(text[max(end - SLICE, begin) : end])
    return begin, end - len(piece) + len(piece.rstrip(BLANKS + b","))


def _others(text: memoryview, at: int) -> bytes:
    """What else is in a slice."""
    return bytes(text[at : at + SLICE]).translate(None, LISTED)
