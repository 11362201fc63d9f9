"""Every form of the calibration set, and every way in which it can be wrong."""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mmguard.calibrate.clean_set.labels import assign_classes
from mmguard.calibrate.clean_set.read import CleanSet, read_clean
from mmguard.errors import CleanSetError, InputError, UnreadableImageError
from mmguard.inputs.preprocessing import pixel_box
from mmguard.inputs.spec import InputSpec, Preprocessing


def image_spec(side: int | None = 4, size: tuple[int, int] | None = None) -> InputSpec:
    preprocessing = Preprocessing(size=size)
    return InputSpec("image", (None, 3, side, side), *pixel_box(preprocessing), preprocessing)


def save(path: Path, value: int = 0, side: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (value, value, value)).save(path)
    return path


def save_classes(folder: Path, names: tuple[str, ...]) -> Path:
    """Two images a class; all pixels of the class with index i are i."""
    for i, name in enumerate(names):
        save(folder / name / "one.png", i)
        save(folder / name / "deep" / "two.png", i)
    return folder


def save_arrays(path: Path, **arrays: npt.NDArray[np.generic]) -> Path:
    if path.suffix == ".npy":
        np.save(path, arrays["x"])
    else:
        np.savez(path, allow_pickle=False, **arrays)
    return path


def pixel_of(clean: CleanSet) -> list[int]:
    """The one value that every pixel of an image has."""
    return [round(255 * float(x[0, 0, 0])) for x in clean.x]


def test_class_folders_by_name_take_the_outputs_in_sorted_order(tmp_path: Path) -> None:
    clean = read_clean(save_classes(tmp_path, ("ship", "cat", "dog")), image_spec())
    labels, names = assign_classes(clean, 3, None)
    assert names == ["cat", "dog", "ship"]
    assert labels is not None
    assert {(pixel, names[label]) for pixel, label in zip(pixel_of(clean), labels, strict=True)} == {
        (0, "ship"),
        (1, "cat"),
        (2, "dog"),
    }
    assert clean.x.dtype == np.float32


def test_class_folders_by_number_are_the_outputs_themselves(tmp_path: Path) -> None:
    # As text, 10 would come before 2; and not every output needs a folder.
    clean = read_clean(save_classes(tmp_path, ("2", "10", "007")), image_spec())
    labels, names = assign_classes(clean, 11, None)
    assert labels is not None
    assert set(zip(pixel_of(clean), labels.tolist(), strict=True)) == {(0, 2), (1, 10), (2, 7)}
    assert names == [str(i) for i in range(11)]


def test_class_folders_by_given_names_follow_their_order(tmp_path: Path) -> None:
    clean = read_clean(save_classes(tmp_path, ("cat", "ship")), image_spec())
    labels, names = assign_classes(clean, 3, ["ship", "dog", "cat"])
    assert labels is not None
    assert set(zip(pixel_of(clean), labels.tolist(), strict=True)) == {(0, 2), (1, 0)}
    assert names == ["ship", "dog", "cat"]


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"{i}.png", i)
    clean = read_clean(tmp_path, image_spec())
    assert clean.y is None
    assert pixel_of(clean) == [0, 1, 2]
    assert assign_classes(clean, 2, ["yes", "no"]) == (None, ["yes", "no"])


@pytest.mark.parametrize("labelled", [True, False])
def test_an_npz_gives_its_arrays(tmp_path: Path, labelled: bool) -> None:
    x, y = np.ones((3, 3, 4, 4), np.float64), np.array([2, 0, 1], np.int16)
    path = save_arrays(tmp_path / "clean.npz", x=x, **({"y": y} if labelled else {}))
    clean = read_clean(path, image_spec())
    labels, names = assign_classes(clean, 3, None)
    assert clean.x.dtype == np.float32
    assert clean.x.shape == x.shape
    assert (labels is None) is not labelled
    if labels is not None:
        assert labels.tolist() == [2, 0, 1]
    assert names == ["0", "1", "2"]


def test_an_npy_gives_inputs_alone(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((5, 3, 4, 4), np.float32)
    clean = read_clean(save_arrays(tmp_path / "clean.npy", x=x), image_spec())
    np.testing.assert_array_equal(clean.x, x)
    assert clean.y is None


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 4, 4, 3), (2, 48)])
def test_arrays_that_the_model_does_not_take_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save_arrays(tmp_path / "clean.npy", x=np.zeros(shape, np.float32))
    got = re.escape(f"expected inputs of shape (N, 3, 4, 4), the input shape of the model, got {shape};")
    with pytest.raises(CleanSetError, match=got):
        read_clean(path, image_spec())


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (0, 5)])
def test_arrays_without_inputs_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save_arrays(tmp_path / "clean.npy", x=np.zeros(shape, np.float32))
    with pytest.raises(CleanSetError, match="the calibration set is empty; provide about 50 inputs per class"):
        read_clean(path, image_spec())


def test_a_table_that_only_needs_another_shape_is_told_which(tmp_path: Path) -> None:
    path, spec = tmp_path / "clean.csv", image_spec()
    rows = np.arange(2 * 48, dtype=np.float32).reshape(2, 48)
    lines = [",".join(f"c{i}" for i in range(48)), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(CleanSetError, match=r"so save the inputs as .npz after x.reshape\(-1, 3, 4, 4\)"):
        read_clean(path, spec)
    assert read_clean(save_arrays(tmp_path / "clean.npz", x=rows.reshape(-1, 3, 4, 4)), spec).x.shape == (2, 3, 4, 4)
    path = save_arrays(tmp_path / "clean.npy", x=np.zeros((2, 4, 4, 3), np.float32))
    with pytest.raises(
        CleanSetError, match=r"got \(2, 4, 4, 3\); save the inputs in the shape that the model takes$"
    ):  # a reshape would mix its numbers up
        read_clean(path, spec)


def test_numbers_that_are_names_are_told_of_the_option(tmp_path: Path) -> None:
    angles = ("0", "90", "180", "270")
    clean = read_clean(save_classes(tmp_path, angles), image_spec())
    with pytest.raises(
        CleanSetError,
        match=r"class 270 has no output: the model has outputs 0 to 3, .* provide all class names with --classes FILE",
    ):
        assign_classes(clean, 4, None)
    labels, names = assign_classes(clean, 4, angles)
    assert names == list(angles)
    assert labels is not None
    assert set(labels.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "none: no such file or folder; pass the path of the calibration set"),
        ("clean.txt", "expected the calibration set as a folder of images, or .* got a file with the suffix .txt"),
        ("clean", "got a file without a suffix"),
    ],
)
def test_what_is_no_clean_set_is_named(tmp_path: Path, name: str, message: str) -> None:
    for name_of_file in ("clean.txt", "clean"):
        (tmp_path / name_of_file).write_text("1,2", encoding="utf-8")
    with pytest.raises(CleanSetError, match=message):
        read_clean(tmp_path / name, image_spec())


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CleanSetError, match="no images in this folder; provide about 50 images per class"):
        read_clean(tmp_path, image_spec())


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    save_classes(tmp_path, ("cat", "dog"))
    (tmp_path / "ship").mkdir()
    (tmp_path / ".cache").mkdir()
    with pytest.raises(
        CleanSetError, match="class folders without images: ship; add images, or remove the empty folders"
    ):
        read_clean(tmp_path, image_spec())


def test_a_folder_of_classes_and_of_images_is_refused(tmp_path: Path) -> None:
    save_classes(tmp_path, ("cat", "dog"))
    save(tmp_path / "stray.png")
    with pytest.raises(
        CleanSetError, match=r"both class folders \(cat, ...\) and images \(stray.png, ...\); move each image"
    ):
        read_clean(tmp_path, image_spec())


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    save_classes(tmp_path, ("cat", "dog"))
    (tmp_path / "cat" / "bad.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match=r"bad.png.*--skip-bad"):
        read_clean(tmp_path, image_spec())


def test_unreadable_images_are_passed_over_and_counted(tmp_path: Path) -> None:
    save_classes(tmp_path, ("cat", "dog"))
    (tmp_path / "cat" / "bad.png").write_bytes(b"no image")
    clean = read_clean(tmp_path, image_spec(), skip_bad=True)
    assert clean.y is not None
    assert list(zip(pixel_of(clean), clean.y.tolist(), strict=True)) == [(0, 0), (0, 0), (1, 1), (1, 1)]
    assert ["bad.png" in str(error) for error in clean.skipped] == [True]


def test_a_folder_of_unreadable_images_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(
        CleanSetError, match=r"no file in this folder can be decoded as an image \(first error: .*bad\.png"
    ):
        read_clean(tmp_path, image_spec(), skip_bad=True)


def test_images_of_several_sizes_need_one_size(tmp_path: Path) -> None:
    save(tmp_path / "small.png", side=4)
    save(tmp_path / "tall.png", side=9)
    with pytest.raises(InputError, match="--size"):
        read_clean(tmp_path, image_spec(None))
    assert read_clean(tmp_path, image_spec(None, size=(5, 6))).x.shape == (2, 3, 5, 6)


def test_sizes_that_differ_between_batches_of_decoding_need_one_size_too(tmp_path: Path) -> None:
    for i in range(256):
        save(tmp_path / f"{i:03}.png", side=4)
    save(tmp_path / "last.png", side=9)
    with pytest.raises(CleanSetError, match=r"expected images of the same size, but .*000\.png .*last\.png .*--size"):
        read_clean(tmp_path, image_spec(None))


def test_an_image_of_another_size_than_the_models_says_which(tmp_path: Path) -> None:
    save(tmp_path / "a.png", side=9)
    with pytest.raises(InputError, match="--size 4x4"):
        read_clean(tmp_path, image_spec())


def test_a_file_that_is_no_image_is_named_whatever_its_suffix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    save_classes(tmp_path, ("cat", "dog"))
    (tmp_path / "cat" / "labels.csv").write_text("a,b", encoding="utf-8")
    (tmp_path / "README").write_text("of this set", encoding="utf-8")
    with pytest.raises(UnreadableImageError, match=r"README.*--skip-bad"):
        read_clean(tmp_path, image_spec())
    clean = read_clean(tmp_path, image_spec(), skip_bad=True)
    assert [str(error).split(":")[0].rsplit("/")[-1] for error in clean.skipped] == ["README", "labels.csv"]
    assert caplog.messages == ["skipping files that cannot be decoded: README, cat/labels.csv"]
    assert pixel_of(clean) == [0, 0, 1, 1]


def test_an_image_counts_whatever_its_suffix(tmp_path: Path) -> None:
    for i, suffix in enumerate((".png", ".jfif", ".avif", ".jp2", ".apng", "")):
        save(tmp_path / "cat" / f"{i}.png", 40 * i).rename(tmp_path / "cat" / f"{i}{suffix}")
    assert pixel_of(read_clean(tmp_path, image_spec())) == [0, 40, 80, 120, 160, 200]


def test_what_is_passed_over_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    save_classes(tmp_path, ("cat", "dog"))
    save(tmp_path / ".ipynb_checkpoints" / "a.png", 9)
    save(tmp_path / "cat" / ".hidden.png", 9)
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "dog" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    clean = read_clean(tmp_path, image_spec())
    assert pixel_of(clean) == [0, 0, 1, 1]
    assert not clean.skipped
    said = caplog.messages[-1]
    assert said.startswith("ignoring ")
    assert set(said.removeprefix("ignoring ").split(", ")) == {
        ".DS_Store",
        ".ipynb_checkpoints",
        "cat/.hidden.png",
        "dog/Thumbs.db",
    }


def test_a_class_whose_files_are_all_bad_is_named(tmp_path: Path) -> None:
    save_classes(tmp_path, ("cat", "dog"))
    (tmp_path / "ship").mkdir()
    (tmp_path / "ship" / "a.png").write_bytes(b"no image")
    with pytest.raises(
        CleanSetError, match="class folders without images: ship; add images, or remove the empty folders"
    ):
        read_clean(tmp_path, image_spec(), skip_bad=True)


def vectors(features: int = 2, dtype: str = "float32") -> InputSpec:
    return InputSpec("x", (None, features), np.zeros(features, np.float32), np.ones(features, np.float32), dtype=dtype)


BAD_ROWS: dict[str, str | npt.NDArray[np.float64]] = {
    "a.npy": np.array([[0, 1], [np.nan, 1], [2, 3], [4, 1e300], [5, 6]]),
    "a.npz": np.array([[0, 1], [-np.inf, 1], [2, 3], [4, np.nan], [5, 6]]),
    "a.csv": "u,v,label\n0,1,0\n,1,1\n2,3,2\n4,1e300,3\n5,6,4\n",
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_rows_that_cannot_be_inputs_are_named_or_left_out(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path, bad = tmp_path / name, BAD_ROWS[name]
    if isinstance(bad, str):
        path.write_text(bad, encoding="utf-8")
    else:
        save_arrays(path, x=bad, y=np.arange(5))
    with pytest.raises(CleanSetError, match=rf"{name}: row 1 .*more unusable rows: 3; .*--skip-bad"):
        read_clean(path, vectors())
    clean = read_clean(path, vectors(), skip_bad=True)
    assert clean.x.tolist() == [[0, 1], [2, 3], [5, 6]]
    assert name == "a.npy" or (clean.y is not None and clean.y.tolist() == [0, 2, 4])
    assert [str(error)[:5] for error in clean.skipped] == ["row 1", "row 3"]
    assert caplog.messages[0].startswith("skipping 2 rows: ")
    assert caplog.messages[0].endswith("; more unusable rows: 3")
    assert clean.columns == (("u", "v") if name == "a.csv" else None)


def test_arrays_of_bad_rows_alone_are_refused(tmp_path: Path) -> None:
    path = save_arrays(tmp_path / "a.npy", x=np.full((3, 2), np.nan))
    with pytest.raises(
        CleanSetError, match="no rows are left for the calibration; provide rows that the model can take"
    ):
        read_clean(path, vectors(), skip_bad=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u,v,class\n1,2,0\n", r"shape \(N, 2\), .*; if one of the columns contains labels, rename it to label"),
        ("u,v,label\n1,2,cat\n3,4,\n", "row 1 has no label; label every row, or leave out all labels"),
    ],
)
def test_a_table_without_its_labels_says_so(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.CSV").write_text(text, encoding="utf-8")
    with pytest.raises(CleanSetError, match=message):
        read_clean(tmp_path / "a.CSV", vectors())
