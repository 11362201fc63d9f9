import gzip
import tracemalloc
import zlib
from typing import Any

import pytest

from mmguard.errors import InputError, RequestTooLargeError
from mmguard.guard.serving import decompression as decompression_module
from mmguard.guard.serving.decompression import OUTPUT_STEP, decompress


def test_decompression_stops_at_the_limit() -> None:
    for encoding, compress in (("gzip", gzip.compress), ("deflate", zlib.compress)):
        assert decompress(compress(bytes(1000)), encoding, 1000) == bytes(1000)
        with pytest.raises(RequestTooLargeError, match="999 bytes"):
            decompress(compress(bytes(1000)), encoding, 999)
        with pytest.raises(RequestTooLargeError):
            decompress(compress(bytes(10**7)), encoding, 1000)
        for damaged in (b"", b"plain", compress(b"data")[:-1], compress(b"data") + b"more"):
            with pytest.raises(InputError, match=encoding):
                decompress(damaged, encoding, 1000)
    assert decompress(b"plain", "identity", 1000) == b"plain"
    with pytest.raises(InputError, match="Content-Encoding"):
        decompress(b"plain", "br", 1000)


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(b"data") * 2,
        gzip.compress(b"data") + bytes(10**5),
        gzip.compress(bytes(10**5))[:-1],
        gzip.compress(bytes(10**5))[:-8] + bytes(8),
    ],
    ids=["two members", "a long tail", "truncated", "another checksum"],
)
def test_a_body_is_one_whole_stream(body: bytes) -> None:
    with pytest.raises(InputError, match="gzip"):
        decompress(body, "gzip", 10**6)


def test_a_body_that_was_compressed_twice_is_undone_once() -> None:
    inner = gzip.compress(b"data")
    assert decompress(gzip.compress(inner), "gzip", 1000) == inner
    with pytest.raises(InputError, match="Content-Encoding"):
        decompress(gzip.compress(inner), "gzip, gzip", 1000)


def test_a_bomb_takes_little_more_memory_than_the_limit() -> None:
    bomb, limit = gzip.compress(bytes(2 * 10**8)), 3 * 10**7
    tracemalloc.start()
    try:
        with pytest.raises(RequestTooLargeError):
            decompress(bomb, "gzip", limit)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * limit


def test_a_body_that_hardly_compresses_is_undone_piece_by_piece() -> None:
    data = bytes(range(256)) * 1000
    assert decompress(gzip.compress(data, 0), "gzip", len(data)) == data
    assert decompress(zlib.compress(data, 0), "deflate", len(data)) == data


def test_what_is_made_at_once_is_little_however_much_it_decompresses_to() -> None:
    """While bytes are copied, no other thread runs."""
    made = list[int]()

    class Recorded(bytearray):
        def __iadd__(self, piece: Any) -> Any:  # type: ignore[misc]
            made.append(len(piece))
            return super().__iadd__(piece)

    data = bytes(20 * OUTPUT_STEP + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decompression_module, "bytearray", Recorded, raising=False)
        for size in (len(data), OUTPUT_STEP - 1, OUTPUT_STEP, OUTPUT_STEP + 1, 4 * OUTPUT_STEP):
            assert decompress(gzip.compress(data[:size]), "gzip", len(data)) == data[:size]
    assert max(made) <= OUTPUT_STEP
