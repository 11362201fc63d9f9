"""Decompresses HTTP request bodies up to a size limit."""

import zlib

from mmguard.errors import InputError
from mmguard.guard.serving.options import check_size

ENCODINGS = ("gzip", "deflate", "identity")
INPUT_STEP, OUTPUT_STEP = 2**14, 2**18
"""Maximum number of bytes to read and to write in one step of decompression.

Other threads cannot run while these bytes are copied.
"""


def decompress(body: bytes | bytearray, encoding: str, limit: int) -> bytes | bytearray:
    """Decompress a request body according to its Content-Encoding.

    Decompression stops soon after `limit` bytes, so a decompression bomb uses only slightly more than `limit` bytes of
    memory.

    Args:
        body: the body as received.
        encoding: value of the header `Content-Encoding`: `gzip`, `deflate` (the zlib format, as specified by the HTTP
            standard) or `identity`.
        limit: maximum size after decompression, in bytes.

    Returns:
        The decompressed body; for `identity`, the object `body` itself.

    Raises:
        InputError: The encoding is not supported, or the body is not exactly one complete stream in that encoding.
        RequestTooLargeError: The body decompresses to more than `limit` bytes.

    Example:
        >>> bytes(decompress(zlib.compress(b"body"), "deflate", limit=100))
        b'body'
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
            made = decoder.decompress(given, OUTPUT_STEP)
            result += made
            check_size(len(result), limit)
            if decoder.unconsumed_tail or len(made) == OUTPUT_STEP:  # the decoder may have more output
                given = memoryview(decoder.unconsumed_tail)
            elif left:
                given, left = left[:INPUT_STEP], left[INPUT_STEP:]
            else:
                break
    except zlib.error as error:
        raise InputError(f"the body is not valid {encoding} data: {error}; check Content-Encoding") from error
    if left or decoder.unused_data or not decoder.eof:
        raise InputError(f"the body must be exactly one complete {encoding} stream; check Content-Encoding")
    return result
