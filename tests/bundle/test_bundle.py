import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from mmguard.bundle.bundle import MAX_MANIFEST_BYTES, Bundle
from mmguard.bundle.file_names import BOUNDS, MANIFEST, PROBES, PROVENANCE
from mmguard.bundle.manifest import SCHEMA_VERSION, Manifest, OutputSpec
from mmguard.bundle.manifest_checks import MAX_CLASSES, MAX_NAMES
from mmguard.bundle.tensors import write_tensors
from mmguard.bundle.write import check_destination, staged
from mmguard.detection.audit import audit
from mmguard.errors import AuditError, BundleError, SchemaError, TamperedBundleError
from mmguard.files.atomic import beside
from mmguard.guard import Guard
from mmguard.inputs.spec import InputSpec, Preprocessing
from mmguard.pipeline.paths import checkpoint_path
from tests.bundles import CLASSES, SITES, Head, hash_anew, run_model, tiny_bounds, tiny_network, write_tiny_bundle

LISTED = ("original.onnx", "clipped.onnx", BOUNDS, PROBES)


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny.mmguard"))


def change_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    change(raw)
    (bundle / MANIFEST).write_text(json.dumps(raw), encoding="utf-8")


def test_a_bundle_gives_back_what_was_written(tiny_bundle: Path) -> None:
    bundle = Bundle.open(str(tiny_bundle))
    network = tiny_network()
    bounds = tiny_bounds(network)
    assert (bundle.manifest.name, bundle.manifest.classes, bundle.manifest.sites) == ("tiny", CLASSES, SITES)
    assert set(bundle.manifest.files) == set(LISTED)
    for site, bound in bundle.bounds().items():
        np.testing.assert_array_equal(bound, bounds[site])
    probes = bundle.probes()
    np.testing.assert_allclose(probes.original, run_model(network.model(), probes.x), rtol=1e-5)
    np.testing.assert_allclose(probes.clipped, run_model(network.model(bounds), probes.x), rtol=1e-5)
    assert bundle.runtime_graph("clipped") == tiny_bundle / "clipped.onnx"
    assert "started" in bundle.provenance()


def test_a_bundle_is_audited_by_the_margins_of_its_original_network(tmp_path: Path, tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    expected = audit(bundle.manifest.calibration.margins())
    found = bundle.audit()
    assert (found.p_value, found.scale, found.suspect) == (expected.p_value, expected.scale, expected.suspect)
    copied = Path(shutil.copytree(tiny_bundle, tmp_path / "copied"))
    change_manifest(copied, lambda raw: raw["calibration"].update(original_margins={}, clipped_margins={}))
    with pytest.raises(AuditError, match="calibrated with --no-audit"):
        Bundle.open(copied).audit()


def test_two_equal_bundles_are_the_same_bytes(tmp_path: Path) -> None:
    folders = [write_tiny_bundle(tmp_path / name, "tiny", head=Head.SOFTMAX) for name in ("a", "b")]
    files = [
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    ]
    assert files[0] == files[1]


def test_a_manifest_survives_json_with_every_field(tiny_bundle: Path) -> None:
    text = (tiny_bundle / MANIFEST).read_text(encoding="utf-8")
    assert Manifest.from_json(text).to_json() == text


@pytest.mark.parametrize("resized", [((8, 9), None), (None, 9)])
def test_preprocessing_survives_json(bundle: Path, resized: tuple[tuple[int, int] | None, int | None]) -> None:
    manifest = Bundle.open(bundle).manifest
    preprocessing = Preprocessing(
        *("RGB", resized[0], 1 / 255, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), "NHWC", resized[1]),
        *("lanczos", (8, 9), "floor", "BGR"),
    )
    low = np.full((1, 1, 3), 0.1, np.float32)
    spec = InputSpec("image", (None, 8, 9, 3), low, low + 1, preprocessing, "float16")
    text = Manifest(**vars(manifest) | {"input": spec}).to_json()
    read = Manifest.from_json(text).input
    assert (read.shape, read.preprocessing, read.dtype) == (spec.shape, preprocessing, "float16")
    np.testing.assert_array_equal(read.low, low)
    assert read.low.dtype == np.float32


@pytest.mark.parametrize(("shape", "names"), [((None, 3), 3), ((None, 1, 3), 3), ((None, None), 5)])
def test_columns_of_a_table_survive_json(bundle: Path, shape: tuple[int | None, ...], names: int) -> None:
    low = np.zeros((1,) * (len(shape) - 1), np.float32)
    columns = tuple(f"feature {i}" for i in range(names))
    spec = InputSpec("x", shape, low, low + 1, columns=columns)
    text = Manifest(**vars(Bundle.open(bundle).manifest) | {"input": spec}).to_json()
    assert Manifest.from_json(text).input.columns == columns


@pytest.mark.parametrize("name", LISTED)
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(TamperedBundleError, match=f"{name} is missing"):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", LISTED)
def test_a_truncated_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes((bundle / name).read_bytes()[:-1])
    with pytest.raises(TamperedBundleError, match=rf"{name} has \d+ bytes, but should have"):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", LISTED)
def test_a_changed_byte_is_found_before_the_guard_runs(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[-1] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(TamperedBundleError, match=f"{name} does not match its hash in the manifest"):
        Guard(bundle, registry=None)


def test_a_file_that_is_a_folder_is_missing(bundle: Path) -> None:
    (bundle / "clipped.onnx").unlink()
    (bundle / "clipped.onnx").mkdir()
    with pytest.raises(TamperedBundleError, match="is missing"):
        Bundle.open(bundle)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    for path, what in ((tmp_path, "not a guard bundle"), (tmp_path / "absent", "no such folder")):
        with pytest.raises(BundleError, match=f"{what}.*; use `mmguard calibrate` to write a bundle"):
            Bundle.open(path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 200_000, b'{"schema_version": ' + b"9" * 5000 + b"}"]
)
def test_a_manifest_that_is_no_manifest_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(SchemaError, match="manifest"):
        Bundle.open(bundle)


def test_a_huge_manifest_is_not_read(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmguard.bundle.bundle.MAX_MANIFEST_BYTES", 100)
    with pytest.raises(SchemaError, match="larger than 100 bytes"):
        Bundle.open(bundle)


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, str(SCHEMA_VERSION), None])
def test_another_schema_version_is_refused(bundle: Path, version: object) -> None:
    change_manifest(bundle, lambda raw: raw.update(schema_version=version))
    with pytest.raises(
        SchemaError,
        match=rf"schema version .* but this version of mmguard reads version {SCHEMA_VERSION}; calibrate again",
    ):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    "name", ["../clipped.onnx", "/etc/passwd", "runtime_graphs/../../x", "", "a/..", "a//b", "a\\b", "C:x"]
)
def test_a_file_name_that_could_leave_the_bundle_is_refused(bundle: Path, name: str) -> None:
    change_manifest(bundle, lambda raw: raw["runtime_graphs"].update(clipped=name))
    with pytest.raises(SchemaError, match="could point outside the bundle"):
        Bundle.open(bundle)
    change_manifest(bundle, lambda raw: raw["runtime_graphs"].update(clipped="clipped.onnx"))
    change_manifest(bundle, lambda raw: raw["files"].update({name: raw["files"]["clipped.onnx"]}))
    with pytest.raises(SchemaError, match="could point outside the bundle"):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a b", "x" * 129, 7])
def test_a_bundle_name_is_safe_in_a_url(bundle: Path, name: object) -> None:
    change_manifest(bundle, lambda raw: raw.update(name=name))
    with pytest.raises(SchemaError, match="malformed"):
        Bundle.open(bundle)


@pytest.mark.parametrize("section", [None, "input", "output", "null", "calibration"])
def test_an_unknown_or_missing_field_is_named(bundle: Path, section: str | None) -> None:
    def part(raw: dict[str, Any]) -> dict[str, Any]:
        return raw if section is None else raw[section]

    change_manifest(bundle, lambda raw: part(raw).update(colour="red"))
    with pytest.raises(SchemaError, match="unknown 'colour'"):
        Bundle.open(bundle)
    change_manifest(bundle, lambda raw: part(raw).pop("colour"))
    Bundle.open(bundle)
    change_manifest(bundle, lambda raw: part(raw).popitem())
    with pytest.raises(SchemaError, match=r"malformed|schema version"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["null"].update(kind="cauchy"),
        lambda raw: raw["null"]["criteria"][0].update(std=0),
        lambda raw: raw["null"]["criteria"][0].update(std=float("inf")),
        lambda raw: raw["null"]["criteria"][0].update(mean=float("nan")),
        lambda raw: raw["null"]["criteria"][0].update(power=2.1),
        lambda raw: raw["null"]["criteria"][0].update(statistic="norm"),
        lambda raw: raw["null"]["criteria"][0]["parameters"]["intercepts"].pop(),
        lambda raw: raw["null"].update(criteria=[]),
        lambda raw: raw["null"].update(clean_scores=[0.0]),
        lambda raw: raw["null"].update(kind="empirical"),
        lambda raw: raw["null"].update(kind="empirical", n=3, clean_scores=[0.0, 1.0, float("nan")]),
        lambda raw: raw["null"].update(kind="empirical", n=3, clean_scores=[0.0, 2.0, 1.0]),
        lambda raw: raw["null"].update(n=0),
        lambda raw: raw["null"].update(n=-5),
        lambda raw: raw["null"].update(n="x"),
        lambda raw: raw["null"].update(kind="empirical", n=3, clean_scores=[0.0, 1.0, 2.0]),
        lambda raw: raw["null"].update(kind="empirical", n=3.0, clean_scores=[0.0, 1.0, 2.0]),
        lambda raw: raw["null"].update(theta=True),
        lambda raw: raw["null"].update(theta=0),
        lambda raw: raw["null"].update(theta="0.005"),
        lambda raw: raw["null"]["criteria"][0].update(mean=10**400),
        lambda raw: raw["null"].update(disagreement_theta=1.1),
        lambda raw: raw["calibration"].update(original_margins=None),
        lambda raw: raw["calibration"].update(original_margins=[1.0, 1.0, 9.0]),
        lambda raw: raw["calibration"]["original_margins"].pop("shared"),
        lambda raw: raw["calibration"]["original_margins"]["sample"].pop(),
        lambda raw: raw["calibration"]["clipped_margins"]["shared"].append(1.0),
        lambda raw: raw["calibration"]["clipped_margins"]["sample"].__setitem__(0, float("inf")),
        lambda raw: raw["calibration"]["original_margins"]["sample"].__setitem__(0, [1.0]),
        lambda raw: raw["calibration"].update(original_accuracy="0.9"),
        lambda raw: raw["calibration"].update(clipped_accuracy=1.5),
        lambda raw: raw["calibration"].update(agreement=float("nan")),
        lambda raw: raw["calibration"].update(rounds=2.5),
        lambda raw: raw["calibration"].update(n=2**70),
        lambda raw: raw["calibration"]["original_margins"]["sample"].__setitem__(0, 1e300),
        lambda raw: raw["sites"][0].update(channels=0),
        lambda raw: raw["sites"][0].update(axis=-2),
        lambda raw: raw["sites"].append(raw["sites"][0]),
        lambda raw: raw["sites"].__setitem__(0, None),
        lambda raw: raw["files"]["original.onnx"].update(sha256="0" * 63),
        lambda raw: raw["files"]["original.onnx"].update(sha256="0" * 64 + "\n"),
        lambda raw: raw["files"]["original.onnx"].update(size=-1),
        lambda raw: raw["files"].update({"Original.ONNX": raw["files"]["original.onnx"]}),
        lambda raw: raw["files"].update({"Manifest.json": raw["files"]["original.onnx"]}),
        lambda raw: raw["files"].update({"a/" * 16 + "b": raw["files"]["original.onnx"]}),
        lambda raw: raw["classes"].__setitem__(0, ""),
        lambda raw: raw["classes"].__setitem__(0, "x" * 1001),
        lambda raw: raw["settings"].update(rounds={"a": [[]]}),
        lambda raw: raw["settings"].update(rounds=[[1]]),
        lambda raw: raw["versions"].update(mmguard=1),
        lambda raw: raw.update(seed=-1),
        lambda raw: raw.update(seed=True),
        lambda raw: raw["output"].update(names=["logits", "logits"]),
        lambda raw: raw["input"].update(shape=[None]),
        lambda raw: raw["input"].update(shape=[None, 3, 0, 8]),
        lambda raw: raw["input"].update(shape=[None, 2**40, 2**40, 8]),
        lambda raw: raw["input"].update(shape=[None, 3, 8.0, 8]),
        lambda raw: raw["input"].update(shape="N388"),
        lambda raw: raw["input"].update(low=[[["0"]]]),
        lambda raw: raw["input"].update(low=[[[0.0]], [[0.0]], [[1e300]]]),
        lambda raw: raw["input"].update(low=[[[2.0]], [[0.0]], [[0.0]]]),
        lambda raw: raw["input"].update(low=[[[0.0]], [[0.0]]], high=[[[1.0]], [[1.0]]]),
        lambda raw: raw["input"].update(low=[[[[0.0]]]], high=[[[[1.0]]]]),
        lambda raw: raw["input"].update(columns=["age"]),
        lambda raw: raw["input"].update(columns=[""] * 192),
        lambda raw: raw["sites"][0].update(channels="4"),
        lambda raw: raw["files"]["original.onnx"].update(size="1"),
        lambda raw: raw["output"].update(head="Sigmoid"),
        lambda raw: raw["output"].update(names=[]),
        lambda raw: raw["output"].update(derived=["other"]),
        lambda raw: raw["output"].update(derived=raw["output"]["names"]),
        lambda raw: raw["runtime_graphs"].update(head="runtime/head.onnx"),
        lambda raw: raw["input"].update(low=[[1], [2, 3]]),
        lambda raw: raw["input"].update(dtype="int64"),
        lambda raw: raw["input"].update(preprocessing={"mode": "RGB"}),
        lambda raw: raw["input"].update(preprocessing=asdict(Preprocessing(layout="auto"))),
        lambda raw: raw["input"].update(preprocessing=asdict(Preprocessing()) | {"mode": "CMYK"}),
        lambda raw: raw["input"].update(preprocessing=asdict(Preprocessing()) | {"interpolation": "cubic"}),
        lambda raw: raw["input"].update(preprocessing=asdict(Preprocessing()) | {"crop": [8]}),
        lambda raw: raw["input"].update(preprocessing=asdict(Preprocessing()) | {"size": [8, 8.5]}),
        lambda raw: raw["input"].update(preprocessing=asdict(Preprocessing()) | {"shortest_edge": True}),
        lambda raw: raw["input"].update(preprocessing=asdict(Preprocessing()) | {"mean": ["0"]}),
        lambda raw: raw["input"].update(preprocessing=asdict(Preprocessing()) | {"std": []}),
        lambda raw: raw["input"].update(preprocessing=asdict(Preprocessing()) | {"scale": None}),
        lambda raw: raw["runtime_graphs"].pop("clipped"),
        lambda raw: raw.update(files=["original.onnx"]),
        lambda raw: raw.update(classes=None),
    ],
)
def test_a_malformed_field_is_refused(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    change_manifest(bundle, change)
    with pytest.raises(SchemaError, match="malformed"):
        Bundle.open(bundle)


def test_a_file_that_the_guard_needs_must_be_listed(bundle: Path) -> None:
    for name in LISTED:
        text = (bundle / MANIFEST).read_text(encoding="utf-8")
        change_manifest(bundle, lambda raw, name=name: raw["files"].pop(name))  # type: ignore[misc]
        with pytest.raises(SchemaError, match=f"files: expected an entry for {name}"):
            Bundle.open(bundle)
        (bundle / MANIFEST).write_text(text, encoding="utf-8")


def test_tensors_that_are_none_are_refused_even_where_the_hash_fits(bundle: Path) -> None:
    for content in (b"", b"not safetensors", b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 64):
        (bundle / BOUNDS).write_bytes(content)
        hash_anew(bundle)
        with pytest.raises(TamperedBundleError, match=r"not a readable safetensors|exactly one tensor for each"):
            Bundle.open(bundle)


BOUND = np.ones((4, 1, 1), np.float32)


@pytest.mark.parametrize(
    ("tensors", "refusal"),
    [
        ({}, "exactly one tensor for each"),
        ({"relu1": BOUND}, "exactly one tensor for each"),
        ({"relu1": BOUND, "relu2": np.ones((6, 1, 1), np.float32), "relu3": BOUND}, "exactly one tensor for each"),
        (
            {"relu1": BOUND, "relu2": np.ones((5, 1, 1), np.float32)},
            r"one number for each of 6 channels, got shape \(5, 1, 1\)",
        ),
        (
            {"relu1": BOUND, "relu2": np.ones((6, 1, 6), np.float32)},
            r"one number for each of 6 channels, got shape \(6, 1, 6\)",
        ),
        ({"relu1": BOUND, "relu2": np.float32(1)}, r"one number for each of 6 channels, got shape \(\)"),
        ({"relu1": BOUND, "relu2": np.ones((6, 1, 1), np.float64)}, r"expected 'relu2' to be F32 .*, got F64"),
        (
            {"relu1": BOUND, "relu2": np.ones((6,) + (1,) * 16, np.float32)},
            r"expected 'relu2' to be F32 with at most 16 axes, got F32",
        ),
    ],
)
def test_bounds_are_one_number_a_channel(bundle: Path, tensors: dict[str, Any], refusal: str) -> None:
    (bundle / BOUNDS).write_bytes(save({name: np.asarray(tensor) for name, tensor in tensors.items()}))
    hash_anew(bundle)
    with pytest.raises(TamperedBundleError, match=refusal):
        Bundle.open(bundle)


X, LOGITS = np.zeros((2, 3, 8, 8), np.float32), np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("tensors", "refusal"),
    [
        ({"x": X}, "expected the tensors x, original, clipped;"),
        ({"x": X[:, :2], "original": LOGITS, "clipped": LOGITS}, "the tensor x to contain inputs of shape"),
        ({"x": X[0], "original": LOGITS, "clipped": LOGITS}, "the tensor x to contain inputs of shape"),
        ({"x": X[:0], "original": LOGITS[:0], "clipped": LOGITS[:0]}, "the tensor x to contain inputs of shape"),
        (
            {"x": X, "original": LOGITS[:1], "clipped": LOGITS},
            "the tensor original to contain 2 rows of logits, got shape",
        ),
        (
            {"x": X, "original": LOGITS, "clipped": LOGITS[0]},
            "the tensor clipped to contain 2 rows of logits, got shape",
        ),
    ],
)
def test_probes_are_inputs_with_a_row_of_logits_each(bundle: Path, tensors: dict[str, Any], refusal: str) -> None:
    write_tensors(bundle / PROBES, tensors)
    hash_anew(bundle)
    with pytest.raises(TamperedBundleError, match=refusal):
        Bundle.open(bundle)


def test_numbers_that_are_not_finite_are_refused_when_they_are_read(bundle: Path) -> None:
    write_tensors(bundle / PROBES, {"x": X, "original": LOGITS, "clipped": LOGITS * np.nan})
    write_tensors(bundle / BOUNDS, {"relu1": BOUND, "relu2": np.full((6, 1, 1), np.inf, np.float32)})
    hash_anew(bundle)
    opened = Bundle.open(bundle)
    for read in (opened.probes, opened.bounds):
        with pytest.raises(TamperedBundleError, match="contains NaN or infinity; do not use"):
            read()


@pytest.mark.parametrize("name", ["weights.data", ".DS_Store", "runtime/head.onnx", "manifest.json~", "clipped.ONNX"])
def test_a_file_that_is_not_listed_is_refused_and_named(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_bytes(b"")
    with pytest.raises(TamperedBundleError, match=rf"does not list: '{name.split('/')[0]}'; remove them"):
        Bundle.open(bundle)


def test_a_folder_that_holds_nothing_listed_is_refused_unread(bundle: Path) -> None:
    for i in range(20):
        (bundle / ".git" / str(i)).mkdir(parents=True)
    with pytest.raises(TamperedBundleError, match=r"does not list: '\.git'; remove them"):
        Bundle.open(bundle)


def test_a_file_beside_a_listed_one_in_a_folder_of_the_bundle_is_refused(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny.mmguard", head=Head.SOFTMAX)
    Bundle.open(bundle)
    (bundle / "runtime" / "weights.data").write_bytes(b"")
    with pytest.raises(TamperedBundleError, match=r"does not list: 'runtime/weights\.data'"):
        Bundle.open(bundle)


def test_a_listed_file_that_nothing_uses_is_fine(bundle: Path) -> None:
    (bundle / "notes").mkdir()
    (bundle / "notes" / "why.txt").write_text("asked for", encoding="utf-8")
    hash_anew(bundle)
    assert "notes/why.txt" in Bundle.open(bundle).manifest.files


@pytest.mark.parametrize("name", [*LISTED, MANIFEST, PROVENANCE])
def test_a_link_in_a_bundle_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TamperedBundleError, match=f"{name} is a link"):
        Bundle.open(bundle)


def test_a_folder_of_a_bundle_that_is_a_link_is_refused(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny.mmguard", head=Head.SOFTMAX)
    (bundle / "runtime").rename(tmp_path / "elsewhere")
    (bundle / "runtime").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TamperedBundleError, match="runtime is a link"):
        Bundle.open(bundle)


def test_a_link_to_a_bundle_opens_it(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle)
    assert Bundle.open(tmp_path / "current").manifest.name == "tiny"


def test_a_pipe_in_a_bundle_is_not_read(bundle: Path) -> None:
    for name in (PROVENANCE, BOUNDS, MANIFEST):
        (bundle / name).unlink()
        os.mkfifo(bundle / name)
        with pytest.raises(BundleError, match=r"is not a file|is missing|not a guard bundle"):
            Bundle.open(bundle)


def test_classes_are_as_many_as_logits(bundle: Path) -> None:
    def forget_a_class(raw: dict[str, Any]) -> None:
        raw["classes"].pop()
        figures = raw["calibration"]
        for margins in (*figures["original_margins"].values(), *figures["clipped_margins"].values()):
            margins.pop()
        for criterion in raw["null"]["criteria"]:
            criterion["parameters"]["intercepts"].pop()

    change_manifest(bundle, forget_a_class)
    with pytest.raises(SchemaError, match="lists 2 classes, but the model has 3 logits"):
        Bundle.open(bundle)


@pytest.mark.parametrize("out", ["/", ".", "x" * 201, "é" * 101, "x" * 300])
def test_a_destination_that_can_be_no_bundle_is_refused(out: str) -> None:
    with pytest.raises(BundleError, match=r"not a guard bundle|its name is longer than 200 bytes"):
        check_destination(Path(out))


def test_the_longest_name_that_is_taken_can_be_written(tmp_path: Path) -> None:
    for out in (tmp_path / ("x" * 200), tmp_path / ("é" * 100)):
        check_destination(out)
        with beside(out) as folder, beside(checkpoint_path(out)) as kept:
            assert folder.is_dir()
            assert kept.is_dir()


def test_a_full_disk_is_said_with_the_bundle_s_name(tmp_path: Path) -> None:
    with (
        pytest.raises(BundleError, match=r"new\.mmguard cannot be written: .*No space left"),
        staged(tmp_path / "new.mmguard"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_provenance_that_cannot_be_read_is_said(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    for content in (b"", b"{", b"[]", b"1", b"[" * 100_000, b"\xff", b" " * 2**21 + b"{}", b'{"seconds": NaN}'):
        (bundle / PROVENANCE).write_bytes(content)
        with pytest.raises(BundleError, match="provenance"):
            opened.provenance()
    (bundle / PROVENANCE).unlink()
    with pytest.raises(BundleError, match="provenance"):
        opened.provenance()


def test_an_interrupted_bundle_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with staged(tmp_path / "new.mmguard") as folder:
            (folder / "original.onnx").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_bundle_leaves_the_older_one(bundle: Path) -> None:
    def interrupted() -> None:
        with staged(bundle):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    Bundle.open(bundle)
    assert list(bundle.parent.iterdir()) == [bundle]


def test_a_bundle_is_replaced_by_a_bundle_and_nothing_else_is(bundle: Path, tmp_path: Path) -> None:
    write_tiny_bundle(bundle, "newer")
    assert Bundle.open(bundle).manifest.name == "newer"
    assert list(bundle.parent.iterdir()) == [bundle]
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(BundleError, match="not a guard bundle"):
        write_tiny_bundle(documents)
    assert (documents / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_a_parent_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(BundleError, match="cannot be written"), staged(tmp_path / "file" / "x.mmguard"):
        pass


def test_another_tool_s_folder_with_a_manifest_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text("{}")
    with pytest.raises(BundleError, match="not a guard bundle"):
        check_destination(tmp_path / "app")


def test_the_docs_are_of_this_schema() -> None:
    text = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text()
    assert text.startswith(f"# The guard bundle, schema version {SCHEMA_VERSION}\n")
    assert f"| `schema_version` | integer | {SCHEMA_VERSION} |" in text
    documented = {"versions", "seed", "files", *(field.name for field in fields(OutputSpec))}
    assert all(f"`{name}`" in text or f"`output.{name}`" in text for name in documented)


def test_the_most_classes_that_are_taken_fit_into_a_manifest(tiny_bundle: Path) -> None:
    """Long numbers for all scales of the search and two criteria, and names of the greatest length."""
    manifest, k = Bundle.open(tiny_bundle).manifest, MAX_CLASSES
    assert manifest.null is not None
    names = tuple(f"{i:06}".ljust(MAX_NAMES // k - 2, "x") for i in range(k))
    margins = dict.fromkeys(("sample", "shared", "pixels", "warp"), (-1.2345678901234567e-05,) * k)
    criterion = manifest.null.criteria[0]
    criterion = replace(criterion, parameters=criterion.parameters | {"intercepts": margins["sample"]})
    full = replace(
        manifest,
        classes=names,
        null=replace(manifest.null, criteria=(criterion, criterion)),
        calibration=replace(manifest.calibration, original_margins=margins, clipped_margins=margins),
    )
    text = full.to_json()
    assert len(text) <= MAX_MANIFEST_BYTES
    assert len(Manifest.from_json(text).classes) == k


@pytest.mark.parametrize(
    ("change", "which"),
    [
        (lambda raw: raw["settings"].pop("theta"), r"Manifest\.settings: missing 'theta'; expected the fields"),
        (lambda raw: raw["settings"].update(zz=1), r"Manifest\.settings: unknown 'zz'; expected the fields"),
        (lambda raw: raw["settings"].update(theta=7), r"theta must be a number above 0 and at most 1, got 7"),
    ],
)
def test_a_wrong_setting_is_named(bundle: Path, change: Callable[[Any], Any], which: str) -> None:
    change_manifest(bundle, change)
    with pytest.raises(SchemaError, match=which):
        Bundle.open(bundle)
