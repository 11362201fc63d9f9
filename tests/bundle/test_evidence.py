"""The evidence of a bundle: what its manifest and its probes say of activations, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmguard.bundle.bundle import Bundle
from mmguard.bundle.file_names import MANIFEST, PROBES
from mmguard.bundle.manifest import CriterionSpec, Manifest
from mmguard.bundle.tensors import read_tensors, write_tensors
from mmguard.detection.margins import Readings
from mmguard.detection.mmdf import Criterion
from mmguard.detection.statistics import STATISTICS
from mmguard.errors import SchemaError, TamperedBundleError
from mmguard.types import EvidenceSite
from tests.bundles import hash_anew
from tests.detection.test_mmdf import clean_readings
from tests.guard.wrapping.endings import write_evidence_bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evidence_bundle(tmp_path_factory.mktemp("evidence") / "b")


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(made, tmp_path / "b"))


def change_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    change(raw)
    (bundle / MANIFEST).write_text(json.dumps(raw), encoding="utf-8")


def parameters(raw: dict[str, Any], statistic: str) -> dict[str, Any]:
    """The parameters of one of the bundle's criteria."""
    found: dict[str, dict[str, Any]] = {each["statistic"]: each["parameters"] for each in raw["null"]["criteria"]}
    return found[statistic]


def test_the_manifest_lists_the_sites_whose_activations_are_read(made: Path) -> None:
    bundle = Bundle.open(made)
    assert bundle.manifest.evidence == (EvidenceSite("relu2", 1, "mean"), EvidenceSite("relu2", 1, "root"))
    assert bundle.manifest.runtime_graphs["original"] == "runtime/original.onnx"
    assert bundle.manifest.activation_columns == 3
    probes = bundle.probes()
    assert probes.activations is not None
    assert probes.activations.shape == (len(probes.x), 3)


def test_without_evidence_there_are_no_columns_of_activations(tiny_bundle: Path) -> None:
    assert Bundle.open(tiny_bundle).manifest.activation_columns == 0


def test_a_manifest_with_evidence_survives_json(made: Path) -> None:
    text = (made / MANIFEST).read_text(encoding="utf-8")
    assert Manifest.from_json(text).to_json() == text


@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_a_criterion_survives_the_manifest(made: Path, name: str) -> None:
    read = clean_readings(60, 3, 0)
    criterion, _ = Criterion.fit(name, read, None)
    spec = CriterionSpec.of(name, criterion)
    assert spec.criterion() == criterion
    raw = json.loads((made / MANIFEST).read_text(encoding="utf-8"))
    raw["null"]["criteria"] = [vars(spec)]
    manifest = Manifest.from_json(json.dumps(raw))
    assert manifest.null is not None
    (restored,) = manifest.null.test().criteria
    unseen = Readings(read.clipped, read.original, read.activations)
    np.testing.assert_array_equal(restored.scores(unseen), criterion.scores(unseen))


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (
            lambda raw: parameters(raw, "activation_distance").pop("stds"),
            "parameters of 'activation_distance': expected means, stds, got means",
        ),
        (
            lambda raw: parameters(raw, "supported_margin_gap").update(power=1.0),
            "parameters of 'supported_margin_gap': expected intercepts, slope, gap_std, mean, std, got",
        ),
        (
            lambda raw: parameters(raw, "original_margin").update(slope=0.0),
            "parameters of 'original_margin': expected none, got slope",
        ),
        (
            lambda raw: parameters(raw, "activation_excess").update(slope=0.0),
            "parameters of 'activation_excess': expected none, got slope",
        ),
        (lambda raw: parameters(raw, "activation_distance").update(means=0.0), "expected means, stds"),
        (lambda raw: parameters(raw, "supported_margin_gap").update(slope=[0.0]), "expected intercepts, slope"),
        (
            lambda raw: parameters(raw, "activation_distance")["means"].append(0.0),
            "means of 'activation_distance': expected 2 numbers, got 3",
        ),
        (
            lambda raw: parameters(raw, "activation_distance")["stds"].pop(),
            "stds of 'activation_distance': expected 2 numbers, got 1",
        ),
        (
            lambda raw: parameters(raw, "supported_margin_gap")["intercepts"].pop(),
            "intercepts of 'supported_margin_gap': expected 3 numbers, got 2",
        ),
        (
            lambda raw: parameters(raw, "activation_distance")["stds"].__setitem__(1, 0.0),
            "stds of 'activation_distance': expected numbers of at least 1e-30",
        ),
        (
            lambda raw: parameters(raw, "supported_margin_gap").update(gap_std=0),
            "gap_std of 'supported_margin_gap': expected numbers of at least 1e-30",
        ),
        (
            lambda raw: parameters(raw, "supported_margin_gap").update(std=-1.0),
            "std of 'supported_margin_gap': expected numbers of at least 1e-30",
        ),
        (lambda raw: parameters(raw, "supported_margin_gap").update(mean="0"), "malformed|expected"),
        (lambda raw: parameters(raw, "supported_margin_gap").update(mean=None), "malformed|expected"),
        (lambda raw: parameters(raw, "supported_margin_gap").update(mean=True), "malformed|expected"),
        (lambda raw: parameters(raw, "supported_margin_gap").update(mean=float("nan")), "malformed|expected|NaN"),
        (lambda raw: parameters(raw, "activation_distance")["means"].__setitem__(0, 10**400), "malformed|expected"),
        (lambda raw: raw["evidence"].append(raw["evidence"][0]), "evidence: .*relu2"),
        (lambda raw: raw["evidence"].pop(), "means of 'activation_distance': expected 1 numbers, got 2"),
        (lambda raw: raw["evidence"][0].update(axis=-2), "evidence: expected a name and an axis from -1"),
        (lambda raw: raw["evidence"][0].update(axis=10**6), "evidence: expected a name and an axis from -1"),
        (lambda raw: raw["evidence"][0].update(value=""), "evidence: expected a name and an axis"),
        (lambda raw: raw["evidence"][0].update(feature="max"), "malformed|feature"),
        (lambda raw: raw["evidence"][0].pop("feature"), "feature"),
        (lambda raw: raw.pop("evidence"), "evidence"),
        (lambda raw: raw.update(evidence=None), "evidence"),
    ],
)
def test_a_manifest_that_contradicts_its_statistics_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], object], refusal: str
) -> None:
    change_manifest(bundle, change)
    with pytest.raises(SchemaError, match=refusal):
        Bundle.open(bundle)


@pytest.mark.parametrize("statistic", ["activation_distance", "activation_excess", "supported_margin_gap"])
def test_a_statistic_of_activations_without_evidence_is_refused(bundle: Path, statistic: str) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["evidence"] = []
        raw["null"]["criteria"] = [each for each in raw["null"]["criteria"] if each["statistic"] == statistic]
        if statistic == "activation_distance":
            raw["null"]["criteria"][0]["parameters"] = {"means": [], "stds": []}

    change_manifest(bundle, change)
    with pytest.raises(SchemaError, match=f"statistic '{statistic}': expected at least one site in evidence"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("activations", "refusal"),
    [
        (None, "expected the tensors x, original, clipped, activations; do not use"),
        (np.zeros((3, 3)), "the tensor activations to contain 4 rows of activations, got shape"),
        (np.zeros((4, 3, 1)), "the tensor activations to contain 4 rows of activations, got shape"),
        (np.zeros((4, 2)), "expected 3 columns of activations, got 2"),
        (np.zeros((4, 4)), "expected 3 columns of activations, got 4"),
    ],
)
def test_each_probe_has_a_distance_at_each_site_and_an_excess(
    bundle: Path, activations: np.ndarray[Any, Any] | None, refusal: str
) -> None:
    tensors = {name: tensor for name, tensor in read_tensors(bundle / PROBES).items() if name != "activations"}
    if activations is not None:
        tensors["activations"] = activations.astype(np.float32)
    write_tensors(bundle / PROBES, tensors)
    hash_anew(bundle)
    with pytest.raises(TamperedBundleError, match=refusal):
        Bundle.open(bundle)


def test_activations_of_a_bundle_without_evidence_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "tiny.mmguard"))
    write_tensors(bundle / PROBES, read_tensors(bundle / PROBES) | {"activations": np.zeros((4, 2), np.float32)})
    hash_anew(bundle)
    with pytest.raises(TamperedBundleError, match="expected the tensors x, original, clipped; do not use"):
        Bundle.open(bundle)
