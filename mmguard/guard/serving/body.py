"""The body of an HTTP request, bounded: read and decompressed no further than a limit."""

import zlib
from typing import TYPE_CHECKING

from mmguard.errors import InputError, RequestTooLargeError

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_REQUEST_BYTES = 128 * 2**20
"""Default limit: 128 images of 224 x 224 as binary float32 are 73 MiB."""
ENCODINGS = ("gzip", "deflate", "identity")


async def read_body(request: "Request", limit: int) -> bytes:
    """Read a request's body.

    Raises:
        RequestTooLargeError: it is longer than `limit` bytes; then no more than that is read.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit:
            raise _too_large(limit)
        body += chunk
    return bytes(body)


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo a body's Content-Encoding.

    Args:
        encoding: `gzip`, `deflate` (of zlib, as HTTP says) or `identity`.

    Raises:
        InputError: another encoding, or a body that is not so encoded.
        RequestTooLargeError: it decompresses to more than `limit` bytes; then no more than that is made.
    """
    encoding = encoding.strip().lower()
    if encoding not in ENCODINGS:
        raise InputError(f"Content-Encoding must be one of {', '.join(ENCODINGS)}, got {encoding[:40]!r}")
    if encoding == "identity":
        return body
    decoder = zlib.decompressobj(wbits=31 if encoding == "gzip" else zlib.MAX_WBITS)
    try:
        result = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise InputError(f"the body is not {encoding}: {error}") from error
    if len(result) > limit:
        raise _too_large(limit)
    if not decoder.eof or decoder.unused_data:
        raise InputError(f"the body is not one whole {encoding} stream")
    return result


def _too_large(limit: int) -> RequestTooLargeError:
    return RequestTooLargeError(f"a request may have {limit} bytes, also decompressed; split the batch")
