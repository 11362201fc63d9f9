"""A scan yields one row for every input, and says which ones it did not judge."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mmguard import Guard, Policy
from mmguard.errors import InferenceError, InputError, UnreadableImageError
from mmguard.guard import scan as module
from mmguard.guard.scan import Row, scan, summarise
from mmguard.inputs.spec import Preprocessing
from mmguard.types import ABSTAIN, Decision, Reason
from tests.bundles import Array, add_trigger, clean_inputs, write_tiny_bundle

CLOSED = Policy(on_error="closed")


def with_input(bundle: Path, out: Path, **fields: Any) -> Path:
    """Copy a bundle, and change what its manifest says about the input."""
    shutil.copytree(bundle, out)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    manifest["input"] |= fields
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return out


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Iterator[Guard]:
    """A guard that reads images."""
    path = with_input(
        tiny_bundle, tmp_path_factory.mktemp("images") / "a.mmguard", preprocessing=asdict(Preprocessing())
    )
    with Guard(path, registry=None, policy=CLOSED) as opened:
        yield opened


def save(path: Path, i: int = 0, kind: str = "PNG", **options: Any) -> Path:
    """A clean input as an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(i)).save(path, kind, **options)
    return path


def pixels(i: int) -> npt.NDArray[np.uint8]:
    image: npt.NDArray[np.uint8] = np.round(255 * clean_inputs(9, seed=5)[i]).astype(np.uint8)
    return image.transpose(1, 2, 0)


def kinds(rows: list[Row]) -> dict[str, str]:
    """What became of each input."""
    return {row["input"]: next(key for key in ("error", "skipped", "reason") if key in row) for row in rows}


def test_every_file_has_one_row_in_order_whatever_its_name(guard: Guard, tmp_path: Path) -> None:
    names = ["a.avif", "a.jfif", "a.jp2", "a.apng", "a.pgm", "a.txt", "a", ".hidden.png", ".hid/b.png", "Thumbs.db"]
    for i, name in enumerate(names[:9]):
        save(tmp_path / name, i)
    (tmp_path / "README.md").write_text("words", encoding="utf-8")
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "none")
    rows = list(scan(guard, tmp_path, skip_bad=True))
    expected = dict.fromkeys(names[:9], "reason") | {"Thumbs.db": "skipped"}
    expected |= dict.fromkeys(["README.md", "pipe.png", "nowhere.png"], "error")
    assert kinds(rows) == expected
    assert [row["input"] for row in rows] == sorted(expected, key=lambda name: name.split("/"))
    labels = guard((np.stack([pixels(i) for i in range(9)]).transpose(0, 3, 1, 2) / 255).astype(np.float32)).labels
    assert [{row["input"]: row.get("label") for row in rows}[name] for name in names[:9]] == labels.tolist()
    summary = summarise(guard, rows)
    assert (summary.inputs, summary.unreadable, summary.untested, summary.skipped) == (9, 3, 0, ("Thumbs.db",))


@pytest.mark.parametrize("bad", ["bad.png", "README", "a.jpg"])
def test_what_does_not_decode_ends_a_scan_by_its_name_after_the_rows_before_it(
    guard: Guard, tmp_path: Path, bad: str
) -> None:
    save(tmp_path / "A.png")
    (tmp_path / bad).write_bytes(b"no image")
    save(tmp_path / "z.png")
    rows = scan(guard, tmp_path)
    assert next(rows)["input"] == "A.png"
    with pytest.raises(UnreadableImageError, match=rf"{bad}: not a readable image: .*pass --skip-bad"):
        next(rows)


def test_an_image_of_another_size_does_not_end_a_scan(guard: Guard, tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    save(tmp_path / "c.png")
    rows = list(scan(guard, tmp_path, skip_bad=True))
    assert kinds(rows) == {"a.png": "reason", "b.png": "error", "c.png": "reason"}
    assert "b.png: expected shape (3, 8, 8) after preprocessing, got (3, 9, 9)" in rows[1]["error"]
    with pytest.raises(InputError, match=r"b\.png: expected shape"):
        list(scan(guard, tmp_path))


def test_one_image_alone_is_read_by_what_it_is(guard: Guard, tmp_path: Path) -> None:
    assert [row["input"] for row in scan(guard, save(tmp_path / "a.dat"))] == ["a.dat"]
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="a pipe, not a file"):
        list(scan(guard, tmp_path / "pipe.png"))
    for nothing in (tmp_path / "none", tmp_path / "none.png"):
        with pytest.raises(InputError, match="nothing to scan"):
            list(scan(guard, nothing))
    (tmp_path / "empty.npy").mkdir()
    with pytest.raises(InputError, match="nothing to scan"):
        list(scan(guard, tmp_path / "empty.npy"))


def test_a_file_of_several_frames_says_so(guard: Guard, tmp_path: Path) -> None:
    triggered = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    for name, kind in (("a.png", "PNG"), ("b.gif", "GIF"), ("c.tif", "TIFF")):
        save(tmp_path / name, 0, kind, save_all=True, append_images=[triggered])
    save(tmp_path / "d.png")
    rows = list(scan(guard, tmp_path))
    assert [row.get("first_frame") for row in rows] == [True, True, True, None]
    assert rows[0]["p_value"] == rows[2]["p_value"] == rows[3]["p_value"]
    assert summarise(guard, rows).first_frames == 3


def test_rows_are_utf_8_whatever_a_file_is_called(guard: Guard, tmp_path: Path) -> None:
    names = [b"a\nb.png", b"caf\xe9.png", "größe.png".encode(), b"\x1b[2J.png"]
    for name in names:
        save(tmp_path / os.fsdecode(name))
    (tmp_path / os.fsdecode(b"bad\xff\x1b.png")).write_bytes(b"no image")
    rows = list(scan(guard, tmp_path, skip_bad=True))
    for row in rows:
        assert json.loads(json.dumps(row, ensure_ascii=False).encode()) == row
    assert {row["input"] for row in rows} == {
        *("a\nb.png", "caf\\xe9.png", "größe.png", "\x1b[2J.png", "bad\\xff\x1b.png")
    }
    (error,) = [row["error"] for row in rows if "error" in row]
    assert "bad\ufffd\ufffd.png" in error


def test_images_of_several_sizes_are_judged_where_the_model_takes_them(tmp_path: Path, guard: Guard) -> None:
    """Each size makes a batch of its own."""
    for i in range(6):
        Image.new("RGB", (8, 8 + i % 2), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    spec = replace(guard.bundle.manifest.input, shape=(None, 3, None, None))
    stub = Stub(guard, spec=spec)
    assert len(list(scan(stub, tmp_path))) == 6  # type: ignore[arg-type]
    assert [shape[1:] for shape in stub.shapes] == [(3, 8 + i % 2, 8) for i in range(6)]


class Stub:
    """Stands in for a guard with `on_error="closed"` whose networks overflow on large inputs."""

    def __init__(self, guard: Guard, spec: Any = None, limit: float = 1e30) -> None:
        manifest = replace(guard.bundle.manifest, input=spec or guard.bundle.manifest.input)
        self.bundle = replace(guard.bundle, manifest=manifest)
        self.shapes: list[tuple[int, ...]] = []
        self.limit = limit

    def __call__(self, x: Array) -> Decision:
        self.shapes.append(x.shape)
        bad = np.abs(x).max(axis=(1, 2, 3)) > self.limit
        unknown, none = np.where(bad, np.nan, 0.5), np.zeros(len(x), np.bool_)
        labels = np.where(bad, ABSTAIN, 1)
        reasons = np.where(bad, Reason.UNTESTED, Reason.NONE).astype(np.str_)
        return Decision(labels, np.ones_like(labels), labels, none, none, reasons, *[unknown] * 3)


def test_a_row_that_is_not_finite_is_named_and_the_others_are_judged(tiny_bundle: Path, tmp_path: Path) -> None:
    x = clean_inputs(140, seed=5).astype(np.float64)
    whole = x.astype(np.float32)
    x[3, 0, 0, 0], x[70, 1, 2, 3], x[71, 0, 0, 0] = np.nan, np.inf, 1e300
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "x.npy").rename(tmp_path / "x.NPY")
    with Guard(tiny_bundle, registry=None, policy=CLOSED) as guard:
        rows = list(scan(guard, tmp_path / "x.NPY", skip_bad=True))
        decision = guard(whole)
        with pytest.raises(InputError, match=r"x\.NPY: row 3 has .*more unusable rows: 70, 71; pass --skip-bad"):
            list(scan(guard, tmp_path / "x.NPY"))
    assert [row["input"] for row in rows] == [str(i) for i in range(140)]
    errors = {i: row["error"] for i, row in enumerate(rows) if "error" in row}
    assert errors == {i: f"row {i} has values that are NaN or infinite in float32" for i in (3, 70, 71)}
    good = [i for i in range(140) if i not in errors]
    assert [rows[i]["label"] for i in good] == decision.labels[good].tolist()
    np.testing.assert_allclose([rows[i]["p_value"] for i in good], decision.p_values[good], rtol=1e-3)
    assert summarise(guard, rows).inputs == 137


def test_a_row_that_the_networks_cannot_judge_is_named_and_the_others_are_judged(guard: Guard, tmp_path: Path) -> None:
    x = clean_inputs(100, seed=5)
    x[70] *= 1e38
    np.save(tmp_path / "x.npy", x)
    stub: Any = Stub(guard)
    rows = list(scan(stub, tmp_path / "x.npy", skip_bad=True))
    assert [row["reason"] for row in rows] == ["untested" if i == 70 else "none" for i in range(100)]
    assert (rows[70]["label"], rows[70]["class"], rows[70]["p_value"], rows[70]["margin_gap"]) == (-1, None, None, None)
    summary = summarise(stub, rows)
    assert (summary.inputs, summary.untested, summary.flagged) == (99, 1, 0)
    going = scan(stub, tmp_path / "x.npy")
    assert [next(going)["input"] for _ in range(70)] == [str(i) for i in range(70)]
    with pytest.raises(InferenceError, match=r"input 70 could not be tested, .*--skip-bad"):
        next(going)


def test_a_scan_whose_networks_judge_nothing_is_no_success(guard: Guard, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", clean_inputs(5))
    stub: Any = Stub(guard, limit=0)
    rows = list(scan(stub, tmp_path / "x.npy", skip_bad=True))
    assert {row["reason"] for row in rows} == {"untested"}
    with pytest.raises(InputError, match="no input was judged"):
        summarise(stub, rows)
    with pytest.raises(InferenceError, match="input 0 could not"):
        list(scan(stub, tmp_path / "x.npy"))


def test_a_row_that_overflows_a_real_network_is_untested_alone(guard: Guard, tmp_path: Path) -> None:
    x = clean_inputs(100, seed=5)
    x[70] = np.finfo(np.float32).max
    np.save(tmp_path / "x.npy", x)
    rows = list(scan(guard, tmp_path / "x.npy", skip_bad=True))
    assert [i for i, row in enumerate(rows) if row["reason"] == "untested"] == [70]
    assert rows[70]["label"] == ABSTAIN
    with pytest.raises(InferenceError, match="input 70 could not"):
        list(scan(guard, tmp_path / "x.npy"))


def test_a_failure_of_a_batch_says_which_inputs_were_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    np.save(tmp_path / "x.npy", clean_inputs(5))
    bundle = write_tiny_bundle(tmp_path / "b.mmguard", broken=True)
    with Guard(bundle, registry=None) as guard, pytest.raises(InferenceError, match=r"^inputs 0 to 1: "):
        list(scan(guard, tmp_path / "x.npy"))


def test_an_array_of_another_shape_is_refused_as_a_whole(guard: Guard, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((5, 3, 8, 9), np.nan))
    with pytest.raises(InputError, match=r"expected shape \(N, 3, 8, 8\), got \(5, 3, 8, 9\)"):
        list(scan(guard, tmp_path / "x.npy", skip_bad=True))


def test_a_guard_scans_as_the_function_does(guard: Guard, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / name)
    (tmp_path / "c.txt").write_text("words", encoding="utf-8")
    expected = list(scan(guard, tmp_path, skip_bad=True))
    for inputs in (tmp_path, str(tmp_path)):
        assert list(guard.scan(inputs, skip_bad=True)) == expected
    rows = guard.scan(tmp_path)
    assert [next(rows), next(rows)] == expected[:2]
    with pytest.raises(UnreadableImageError, match=r"c\.txt: .*pass --skip-bad \(in Python: skip_bad=True\)"):
        next(rows)


def test_a_guard_s_scan_reads_nothing_before_it_is_iterated(guard: Guard, tmp_path: Path) -> None:
    rows = guard.scan(tmp_path / "none")
    with pytest.raises(InputError, match="nothing to scan: no such file or folder"):
        next(rows)


def test_a_trigger_in_a_file_without_a_suffix_is_flagged(guard: Guard, tmp_path: Path) -> None:
    x = np.round(255 * add_trigger(clean_inputs(6, seed=5))).clip(0, 255).astype(np.uint8)
    for i, image in enumerate(x):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{i}", "PNG")
    assert all(row["flagged"] for row in scan(guard, tmp_path))
