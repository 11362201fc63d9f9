"""Files of arrays from anywhere: no traceback, and no more memory than the file can hold."""

import contextlib
import io
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmguard.errors import InputError
from mmguard.inputs.numpy_files import load_numpy_file

X = np.random.default_rng(0).random((8, 3, 4))


def npy(x: Any = X) -> bytes:
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


def header(shape: object, descr: str = "'<f4'", body: bytes = bytes(64)) -> bytes:
    """An `.npy` that claims a shape and a dtype."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (117 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def zipped(content: bytes, method: int = zipfile.ZIP_STORED, name: str = "x.npy") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def patched(content: bytes, local: int, central: int, value: int) -> bytes:
    """A zip with one two-byte field changed in both of its headers."""
    changed = bytearray(content)
    for magic, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        struct.pack_into("<H", changed, content.find(magic) + offset, value)
    return bytes(changed)


def damaged(content: bytes) -> bytes:
    return content[:60] + b"\xff" * 30 + content[90:]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_arrays_are_read_however_python_packs_them(tmp_path: Path, method: int) -> None:
    (tmp_path / "a.npz").write_bytes(zipped(npy(), method))
    np.testing.assert_array_equal(load_numpy_file(tmp_path / "a.npz")["x"], X)


@pytest.mark.parametrize("x", [np.asfortranarray(X), X.astype(">f8"), X.astype(np.longdouble), X[:0], X[::2, :, ::-1]])
def test_arrays_are_read_however_their_numbers_lie(tmp_path: Path, x: Any) -> None:
    np.save(tmp_path / "a.npy", x)
    np.testing.assert_array_equal(load_numpy_file(tmp_path / "a.npy")["x"], x)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_arrays_of_both_versions_are_read(tmp_path: Path, version: tuple[int, int]) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, X, version)
    np.testing.assert_array_equal(load_numpy_file(tmp_path / "a.npy")["x"], X)


def test_only_inputs_and_labels_are_read(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("x.npy", "y.npy"):
            archive.writestr(name, npy())
        archive.writestr("z.npy", b"damaged")
    (tmp_path / "a.npz").write_bytes(file.getvalue())
    assert sorted(load_numpy_file(tmp_path / "a.npz")) == ["x", "y"]


REFUSED: dict[str, tuple[bytes, str]] = {
    "Deflate64": (
        patched(zipped(npy()), 8, 10, 9),
        "compression method is not supported; write the file with numpy.save",
    ),
    "Zstandard": (patched(zipped(npy()), 8, 10, 93), "not a readable"),
    "encrypted": (patched(zipped(npy()), 6, 8, 1), "encrypted"),
    "damaged LZMA": (damaged(zipped(npy(), zipfile.ZIP_LZMA)), "not a readable"),
    "damaged deflate": (damaged(zipped(npy(), zipfile.ZIP_DEFLATED)), "not a readable"),
    "damaged bzip2": (damaged(zipped(npy(), zipfile.ZIP_BZIP2)), "not a readable"),
    "changed numbers": (zipped(npy())[:-200] + b"\1" + zipped(npy())[-199:], "Bad CRC"),
    "a member that is no array": (zipped(b"text"), "not a readable"),
    "a member in a folder": (zipped(npy(), name="data/x.npy"), r"named x .*found \['data/x'\]"),
    "an empty zip": (b"PK\5\6" + bytes(18), r"named x .*found \[\]"),
    "559 TiB": (header((200_000_000_000, 3, 16, 16)), "614,400,000,000,000 bytes, more than a file of this size"),
    "more than 64 bits": (header((2**70,)), "more than a file of this size"),
    "too long by one": (header((17,)), "68 bytes, more than"),
    "negative": (header((-8, 3)), "more than a file"),
    "twice negative": (header((-2, -4)), "more than a file"),
    "559 TiB in a zip": (zipped(header((200_000_000_000, 3, 16, 16))), "more than a file of this size"),
    "no shape": (header("7"), "not a readable"),
    "not literal": (header("__import__('os')"), "not a readable"),
    "nested": (header("(" * 3000), "not a readable"),
    "no dtype": (header((2,), "'<q9'"), "not a readable"),
    "objects": (header((2,), "'|O'"), "Python objects"),
    "objects in fields": (header((2,), "[('a', '|O')]"), "Python objects"),
    "empty": (b"", "not a readable"),
    "text": (b"hello", "not a readable"),
    "a pickle": (b"\x80\x04K\x01.", "not a readable"),
    "cut short": (npy()[:-1], "more than a file of this size"),
    "version 3": (b"\x93NUMPY\x03\x00" + npy()[8:], "a structured array"),
    "version 9": (b"\x93NUMPY\x09\x00" + npy()[8:], "a structured array|not a readable"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=list(REFUSED))
def test_a_file_that_is_damaged_or_lies_is_refused_by_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.npz: .*{message}" if "named x" not in message else message):
        load_numpy_file(tmp_path / "a.npz")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.npy"):
        with pytest.raises(InputError, match=path.name):
            load_numpy_file(path)


def bomb(method: int, claimed: int) -> bytes:
    """A zip whose member claims so many bytes of zeros, and has a few."""
    content = zipped(header((claimed // 4,), body=bytes(2**16)), method)
    at = content.find(b"PK\x01\x02") + 24
    return content[:at] + struct.pack("<I", claimed) + content[at + 4 :]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_STORED])
def test_a_member_that_claims_more_than_its_bytes_can_hold_takes_no_memory(tmp_path: Path, method: int) -> None:
    (tmp_path / "a.npz").write_bytes(bomb(method, 2**31))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="more than a file of this size should contain"):
            load_numpy_file(tmp_path / "a.npz")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_zeros_may_be_packed_as_tightly_as_they_go(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((2, 2**20)))
    assert (tmp_path / "a.npz").stat().st_size < 2**24 / 500
    assert load_numpy_file(tmp_path / "a.npz")["x"].shape == (2, 2**20)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_raises_anything_but_an_error_of_mmguard(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([npy(), zipped(npy()), zipped(npy(), zipfile.ZIP_DEFLATED)])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 140))
        content[at] = data.draw(st.integers(0, 255))
    (tmp_path / "a.npz").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(InputError):
        load_numpy_file(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["none.npz", "none.npy"])
def test_a_missing_file_is_called_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: there is no such file; check the path"):
        load_numpy_file(tmp_path / name)
