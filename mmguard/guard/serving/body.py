"""The body of an HTTP request, bounded: decompressed no further than a limit."""

import zlib

from mmguard.errors import InputError, RequestTooLargeError

MAX_REQUEST_BYTES = 128 * 2**20
"""Default limit: 128 images of 224 x 224 as binary float32 are 73 MiB."""
MAX_JSON_BYTES = 16 * 2**20
"""Default limit of the JSON alone: five such images."""
ENCODINGS = ("gzip", "deflate", "identity")
STEP, PIECE = 2**14, 2**18
"""Bytes that are decompressed at once, and that are made of them at once. No other thread runs while they are kept."""


def decompress(body: bytes | bytearray, encoding: str, limit: int) -> bytes | bytearray:
    """Undo a body's Content-Encoding.

    Args:
        encoding: `gzip`, `deflate` (of zlib, as HTTP says) or `identity`.

    Raises:
        InputError: another encoding, or a body that is not so encoded.
        RequestTooLargeError: it decompresses to more than `limit` bytes; then little more than that is made.
    """
    encoding = encoding.strip().lower()
    if encoding not in ENCODINGS:
        raise InputError(f"Content-Encoding must be one of {', '.join(ENCODINGS)}, got {encoding[:40]!r}")
    if encoding == "identity":
        return body
    decoder = zlib.decompressobj(wbits=31 if encoding == "gzip" else zlib.MAX_WBITS)
    result, given, left = bytearray(), memoryview(b""), memoryview(body)
    try:
        while not decoder.eof:
            made = decoder.decompress(given, PIECE)
            result += made
            if len(result) > limit:
                raise too_large(limit)
            if decoder.unconsumed_tail or len(made) == PIECE:  # there may be more to be had of what was given
                given = memoryview(decoder.unconsumed_tail)
            elif left:
                given, left = left[:STEP], left[STEP:]
            else:
                break
    except zlib.error as error:
        raise InputError(f"the body is not {encoding}: {error}") from error
    if left or decoder.unused_data or not decoder.eof:
        raise InputError(f"the body is not one whole {encoding} stream")
    return result


def too_large(limit: int) -> RequestTooLargeError:
    """The refusal of a request, or of its JSON, that has more bytes than the server takes."""
    return RequestTooLargeError(
        f"this request may have {limit} bytes, also decompressed; split the batch, or send the tensor as binary data, "
        "which takes less than JSON and may be larger"
    )
