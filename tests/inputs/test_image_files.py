import io
import os
import re
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from PIL import Image

from mmguard.errors import InputError, UnreadableImageError
from mmguard.files.listing import Entry
from mmguard.files.opening import open_file
from mmguard.inputs.image_files import Picture, is_named_as_image, read_image, read_images
from mmguard.inputs.spec import InputSpec, Preprocessing

BOX = np.zeros((3, 1, 1), np.float32), np.ones((3, 1, 1), np.float32)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def save(path: Path, pixels: Any = PIXELS, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def png(bits: int, colour: int, channels: int) -> bytes:
    """A 4 x 4 PNG of any depth, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(4 * channels * bits // 8) for _ in range(4))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_a_lossless_image_gives_its_pixels_scaled(tmp_path: Path, suffix: str) -> None:
    x = read_image(save(tmp_path / f"a.{suffix}"), Preprocessing())
    np.testing.assert_allclose(x, PIXELS.transpose(2, 0, 1) / 255, rtol=1e-6)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous


@pytest.mark.parametrize("suffix", ["jpg", "webp", "gif"])
def test_a_lossy_image_is_decoded_as_pillow_does(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}")
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"), np.float32)
    np.testing.assert_allclose(read_image(path, Preprocessing()), expected.transpose(2, 0, 1) / 255, rtol=1e-6)


def test_preprocessing_is_scale_then_mean_then_deviation(tmp_path: Path) -> None:
    how = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), layout="NHWC")
    x = read_image(save(tmp_path / "a.png"), how)
    np.testing.assert_allclose(x, (PIXELS / 255 - how.mean) / how.std, rtol=1e-5, atol=1e-6)


def test_an_image_is_resized_to_height_by_width(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png")
    assert read_image(path, Preprocessing(size=(3, 5))).shape == (3, 3, 5)
    resized = Image.fromarray(PIXELS).resize((5, 3), Image.Resampling.BILINEAR)
    expected = np.asarray(resized, np.float32).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(read_image(path, Preprocessing(size=(3, 5))), expected, rtol=1e-6)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "1", "CMYK"])
def test_other_modes_are_converted(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "a.tif", mode=mode)
    assert read_image(path, Preprocessing()).shape == (3, 6, 8)
    assert read_image(path, Preprocessing(mode="L")).shape == (1, 6, 8)


def test_transparency_is_dropped_and_colour_kept(tmp_path: Path) -> None:
    with_alpha = np.dstack([PIXELS, np.zeros((6, 8), np.uint8)])
    x = read_image(save(tmp_path / "a.png", with_alpha), Preprocessing())
    np.testing.assert_allclose(x, PIXELS.transpose(2, 0, 1) / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("grey.png", png(16, 0, 1)),
        ("rgb.png", png(16, 2, 3)),
        ("grey-alpha.png", png(16, 4, 2)),
        ("rgba.png", png(16, 6, 4)),
        ("rgb.ppm", b"P6 2 2 65535\n" + bytes(24)),
        ("plain.ppm", b"P3 1 1 65535\n1 2 3\n"),
        ("grey.ppm", b"P5 2 2 65535\n" + bytes(8)),
        ("rgb.sgi", struct.pack(">hbbHHHH", 474, 0, 2, 3, 2, 2, 3).ljust(512, b"\0") + bytes(24)),
    ],
)
def test_more_than_8_bits_are_refused_rather_than_lost(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        UnreadableImageError,
        match=rf"{name}: expected 8 bits per channel, but this image .* has more; provide the inputs as \.npz",
    ):
        read_image(tmp_path / name, Preprocessing())


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"expected 8 bits per channel, but this image \(Pillow mode F\)"):
        read_image(save(tmp_path / "a.tif", np.ones((4, 4), np.float32)), Preprocessing())


def test_16_bits_a_pixel_are_not_16_a_channel(tmp_path: Path) -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 0, 8, 0, 0, 0, 0)
    (tmp_path / "a.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 62, 0, 0, 54) + header + bytes(8))
    assert read_image(tmp_path / "a.bmp", Preprocessing()).shape == (3, 2, 2)


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", png(8, 2, 3)[:-30], b"P6 2x 2 255\n" + bytes(12), b"P6 2 2 255\n" + bytes(3), b"BM"],
)
def test_what_cannot_be_decoded_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"a\.png: not a readable image"):
        read_image(tmp_path / "a.png", Preprocessing())


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tif", "webp", "ppm"])
def test_a_damaged_image_is_read_or_refused_and_never_crashes(tmp_path: Path, suffix: str) -> None:
    content = save(tmp_path / f"a.{suffix}").read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(40):
        damaged = bytearray(content[: rng.integers(len(content) // 2, len(content) + 1)])
        damaged[rng.integers(0, min(64, len(damaged)))] = rng.integers(256)
        (tmp_path / "b").write_bytes(damaged)
        try:
            x = read_image(tmp_path / "b", Preprocessing(size=(4, 4)))
        except UnreadableImageError:
            continue
        assert x.shape == (3, 4, 4)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match=r"absent\.png"):
        read_image(tmp_path / "absent.png", Preprocessing())


def spec_of(*shape: int | None, how: Preprocessing | None = None) -> InputSpec:
    return InputSpec("image", (None, *shape), *BOX, how)


def pictures(*paths: Path, spec: InputSpec | None = None) -> list[Picture]:
    return list(read_images(map(Entry, paths), spec or spec_of(3, 6, 8, how=Preprocessing())))


def encoded(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "name", ["a.jfif", "a.avif", "a.jpe", "a.jp2", "a.apng", "a.txt", "a", ".a.png", "Thumbs.db", "._a"]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "AVIF", "JPEG2000", "QOI"])
def test_what_decodes_is_an_input_whatever_its_name(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(encoded(kind))
    (picture,) = pictures(tmp_path / name)
    with Image.open(io.BytesIO(encoded(kind))) as image:
        expected = np.asarray(image.convert("RGB"), np.float32)
    assert picture.x is not None
    np.testing.assert_allclose(picture.x, expected.transpose(2, 0, 1) / 255, rtol=1e-6)


def test_pictures_come_in_order_with_the_errors_between(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png") for i in range(4)]
    paths[1].write_bytes(b"broken")
    read = pictures(*paths)
    assert [picture.path for picture in read] == paths
    assert [picture.x is None for picture in read] == [False, True, False, False]
    assert "1.png: not a readable image: Pillow does not recognise its format" in str(read[1].error)


def test_each_file_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [save(tmp_path / f"{i}.png") for i in range(4)]
    paths[1].write_bytes(b"broken")
    opened: list[str] = []

    def look(path: Path) -> BinaryIO:
        opened.append(path.name)
        return open_file(path)

    monkeypatch.setattr("mmguard.inputs.image_files.open_file", look)
    pictures(*paths)
    assert opened == [path.name for path in paths]


@pytest.mark.parametrize(
    "error", [NotImplementedError, RuntimeError, MemoryError, RecursionError, struct.error, ZeroDivisionError]
)
def test_whatever_a_decoder_raises_is_that_files_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise error("a\x1b[2Jmood")

    monkeypatch.setattr("mmguard.inputs.image_files.prepare", fail)
    (picture,) = pictures(save(tmp_path / "a.png"))
    assert isinstance(picture.error, UnreadableImageError)
    assert str(picture.error).endswith("a.png: not a readable image: a\ufffd[2Jmood")


def test_a_texture_of_an_unknown_form_is_its_files_error(tmp_path: Path) -> None:
    content = bytearray(encoded("DDS"))
    content[80:84] = (1).to_bytes(4, "little")
    (tmp_path / "a.png").write_bytes(content)
    assert "a.png: not a readable image: Unknown pixel format" in str(pictures(tmp_path / "a.png")[0].error)


@pytest.mark.parametrize(
    "kind", ["AVIF", "BLP", "DDS", "GIF", "ICO", "JPEG2000", "PCX", "QOI", "SGI", "TGA", "TIFF", "WEBP"]
)
def test_a_damaged_file_of_any_format_is_read_or_an_error(tmp_path: Path, kind: str) -> None:
    file = io.BytesIO()
    image = Image.fromarray(PIXELS)
    (image.convert("P") if kind == "BLP" else image).save(file, kind)
    rng = np.random.default_rng(1)
    for _ in range(60):
        content = bytearray(file.getvalue())
        content[rng.integers(0, min(len(content), 200))] = rng.integers(256)
        (tmp_path / "a").write_bytes(content)
        (picture,) = pictures(tmp_path / "a", spec=spec_of(3, 4, 4, how=Preprocessing(size=(4, 4))))
        assert (picture.x is None) is (picture.error is not None)


def test_no_other_program_decodes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was run"))
    (tmp_path / "a.png").write_bytes(encoded("EPS"))
    assert "Pillow does not recognise its format" in str(pictures(tmp_path / "a.png")[0].error)


@pytest.mark.parametrize("pixels", [10, 40])
def test_a_bomb_is_an_error_also_where_pillow_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int
) -> None:
    path = save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    assert "exceeds limit" in str(pictures(path)[0].error)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "WEBP", "AVIF", "MPO"])
def test_of_several_frames_the_first_is_the_input_and_that_is_said(tmp_path: Path, kind: str) -> None:
    frames = [Image.fromarray(np.full((6, 8, 3), value, np.uint8)) for value in (40, 200)]
    for several in (False, True):
        path = tmp_path / f"{several}.png"
        frames[0].save(path, kind, **({"save_all": True, "append_images": frames[1:]} if several else {}))
        (picture,) = pictures(path)
        assert picture.x is not None
        np.testing.assert_allclose(picture.x, 40 / 255, atol=0.02)
        assert picture.more_frames is several


def test_a_second_frame_that_is_damaged_is_one_too(tmp_path: Path) -> None:
    file = io.BytesIO()
    frames = [Image.fromarray(np.full((6, 8), value, np.uint8)) for value in (40, 200)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    content = bytearray(file.getvalue())
    second = content.rfind(b",")
    (tmp_path / "a.gif").write_bytes(content[: second + 5])
    (picture,) = pictures(tmp_path / "a.gif")
    assert picture.x is not None
    np.testing.assert_allclose(picture.x, 40 / 255, atol=0.01)


@pytest.mark.parametrize("name", ["Thumbs.db", ".DS_Store", "desktop.ini", "._a.png"])
def test_files_of_the_operating_system_are_passed_over_where_they_are_no_images(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\0\5\x16\7 no image")
    (picture,) = pictures(tmp_path / name)
    assert (picture.x, picture.error) == (None, None)
    assert picture.passed_over == "not an image, and has the name of an operating-system file"


@pytest.mark.parametrize("content", [encoded("PNG")[:-30], png(16, 2, 3), encoded("PNG", compress_level=0)[:100]])
def test_an_image_is_not_passed_over_by_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "Thumbs.db").write_bytes(content)
    (picture,) = pictures(tmp_path / "Thumbs.db")
    assert picture.error is not None
    assert not picture.passed_over


def test_what_is_no_file_is_an_error_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (picture,) = pictures(tmp_path / "pipe.png")
    assert "a pipe, not a file" in str(picture.error)
    listed = Entry(tmp_path / "Thumbs.db", problem="a pipe, not a file")
    (picture,) = read_images([listed], spec_of(3, 6, 8, how=Preprocessing()))
    assert str(picture.error).endswith("Thumbs.db: a pipe, not a file")
    (picture,) = read_images([Entry(tmp_path, passed_over="seen")], spec_of(3, 6, 8, how=Preprocessing()))
    assert (picture.x, picture.error, picture.passed_over) == (None, None, "seen")


@pytest.mark.parametrize(
    ("shape", "how", "message"),
    [
        ((3, 4, 4), Preprocessing(), r"expected shape \(3, 4, 4\) .*got \(3, 6, 8\); calibrate with --size 4x4"),
        ((6, 4, 3), Preprocessing(layout="NHWC"), "--size 6x4"),
        ((1, 6, 8), Preprocessing(), r"expected shape \(1, 6, 8\)"),
        ((144,), Preprocessing(), r"provide the inputs as \.npy or \.npz"),
        ((6, 8), Preprocessing(), r"provide the inputs as \.npy or \.npz"),
    ],
)
def test_an_image_that_does_not_fit_the_model_is_an_error(
    tmp_path: Path, shape: tuple[int, ...], how: Preprocessing, message: str
) -> None:
    (picture,) = pictures(save(tmp_path / "a.png"), spec=spec_of(*shape, how=how))
    assert isinstance(picture.error, InputError)
    assert re.search(message, str(picture.error))


def test_a_bundle_of_arrays_does_not_say_how_an_image_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not calibrated on images"):
        pictures(save(tmp_path / "a.png"), spec=spec_of(3, 6, 8))


def test_a_suffix_that_pillow_knows_names_an_image() -> None:
    assert all(is_named_as_image(Path(f"a.{suffix}")) for suffix in ("png", "JPG", "avif", "jfif", "jp2"))
    assert not any(is_named_as_image(Path(name)) for name in ("rows.jsonl", "rows", "rows.txt", "rows.csv"))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_an_image_is_given_in_the_models_dtype(tmp_path: Path, dtype: str) -> None:
    path, how = save(tmp_path / "a.png"), Preprocessing(mean=(0.5,), std=(0.3,))
    x = read_image(path, how, dtype)
    assert x.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(x, read_image(path, how).astype(dtype))


def test_a_model_that_takes_uint8_gets_the_pixels_themselves(tmp_path: Path) -> None:
    spec = InputSpec("image", (None, 6, 8, 3), *BOX, Preprocessing(scale=1, layout="NHWC"), "uint8")
    (picture,) = pictures(save(tmp_path / "a.png"), spec=spec)
    assert picture.x is not None
    assert picture.x.dtype == np.uint8
    np.testing.assert_array_equal(picture.x, PIXELS)


def test_an_image_that_would_grow_without_end_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((1, 5000, 3), np.uint8))
    with pytest.raises(UnreadableImageError, match="5000 x 1 pixels would be resized to 1280000 x 256"):
        read_image(path, Preprocessing(shortest_edge=256, crop=(224, 224)))
