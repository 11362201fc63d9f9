import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmguard.errors import InputError, UnreadableImageError
from mmguard.images import find_images, image_batches, read_image
from mmguard.types import InputSpec, Preprocessing

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
    ],
)
def test_more_than_8_bits_are_refused_rather_than_lost(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImageError, match=rf"{name}: .* more than 8 bits a channel; give the inputs as \.npz"):
        read_image(tmp_path / name, Preprocessing())


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="more than 8 bits"):
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


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UnreadableImageError, match="not a readable image"):
        read_image(path, Preprocessing())


def test_images_are_found_below_a_folder_in_order(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/10.jpg", "a.webp", ".hidden.png", ".cache/c.png", "notes.txt", "b/.d/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == [
        "a.webp",
        "b/10.jpg",
        "b/2.PNG",
    ]


def test_images_are_found_behind_links_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(b"")
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "clean" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    found = [path.relative_to(tmp_path / "clean").as_posix() for path in find_images(tmp_path / "clean")]
    assert found == ["cat/a.png", "dog/a.png"]


def spec_of(*shape: int | None, how: Preprocessing | None = None) -> InputSpec:
    return InputSpec("image", (None, *shape), *BOX, how)


def test_images_come_in_batches_with_the_errors_apart(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png") for i in range(5)]
    paths[3].write_bytes(b"broken")
    batches = list(image_batches(paths, spec_of(3, 6, 8, how=Preprocessing()), 2))
    assert [good for good, _, _ in batches] == [paths[:2], [paths[2]], [paths[4]]]
    assert [x.shape for _, x, _ in batches] == [(2, 3, 6, 8), (1, 3, 6, 8), (1, 3, 6, 8)]
    assert [len(errors) for _, _, errors in batches] == [0, 1, 0]


def test_a_batch_of_broken_images_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"broken")
    ((good, x, errors),) = image_batches([tmp_path / "a.png"], spec_of(3, None, 8, how=Preprocessing()), 2)
    assert (good, x.shape, len(errors)) == ([], (0, 3, 1, 8), 1)


@pytest.mark.parametrize(
    ("shape", "how", "message"),
    [
        ((3, 4, 4), Preprocessing(), r"\(3, 6, 8\), the model takes \(3, 4, 4\); calibrate with --size 4x4"),
        ((6, 4, 3), Preprocessing(layout="NHWC"), "--size 6x4"),
        ((1, 6, 8), Preprocessing(), "the model takes"),
        ((144,), Preprocessing(), r"give the inputs as \.npy or \.npz"),
        ((6, 8), Preprocessing(), r"give the inputs as \.npy or \.npz"),
        ((3, 6, 8), None, "calibrated on arrays"),
    ],
)
def test_an_image_that_does_not_fit_the_model_is_refused(
    tmp_path: Path, shape: tuple[int, ...], how: Preprocessing | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        list(image_batches([save(tmp_path / "a.png")], spec_of(*shape, how=how), 2))


def test_images_of_two_sizes_do_not_make_a_batch(tmp_path: Path) -> None:
    paths = [save(tmp_path / "a.png"), save(tmp_path / "b.png", PIXELS[:4])]
    with pytest.raises(InputError, match=r"b\.png gives an input of shape \(3, 4, 8\).*--size"):
        list(image_batches(paths, spec_of(3, None, None, how=Preprocessing()), 2))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_an_image_is_given_in_the_models_dtype(tmp_path: Path, dtype: str) -> None:
    path, how = save(tmp_path / "a.png"), Preprocessing(mean=(0.5,), std=(0.3,))
    x = read_image(path, how, dtype)
    assert x.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(x, read_image(path, how).astype(dtype))


def test_a_model_that_takes_uint8_gets_the_pixels_themselves(tmp_path: Path) -> None:
    paths = [save(tmp_path / "a.png"), tmp_path / "absent.png"]
    spec = InputSpec("image", (None, 6, 8, 3), *BOX, Preprocessing(scale=1, layout="NHWC"), "uint8")
    ((good, x, errors),) = image_batches(paths, spec, 2)
    np.testing.assert_array_equal(x[0], PIXELS)
    assert (x.dtype.name, len(good), len(errors)) == ("uint8", 1, 1)
    ((_, nothing, _),) = image_batches(paths[1:], spec, 2)
    assert (nothing.dtype.name, nothing.shape) == ("uint8", (0, 6, 8, 3))


def test_an_image_that_would_grow_without_end_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((1, 5000, 3), np.uint8))
    with pytest.raises(UnreadableImageError, match="5000 x 1 pixels would be resized to 1280000 x 256"):
        read_image(path, Preprocessing(shortest_edge=256, crop=(224, 224)))
