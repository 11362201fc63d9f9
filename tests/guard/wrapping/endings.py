"""Bundles of the tiny network with every way in which classifiers end, and predictors of them that count their runs."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmguard.bundle.bundle import Bundle
from mmguard.bundle.file_names import BOUNDS, PROBES
from mmguard.bundle.manifest import ACTIVATIONS, CriterionSpec, NullSpec
from mmguard.bundle.tensors import write_tensors
from mmguard.bundle.write import staged, write
from mmguard.detection.evidence import ActivationEvidence
from mmguard.detection.margins import Readings
from mmguard.detection.mmdf import Criterion
from mmguard.detection.statistics import READ_ACTIVATIONS
from mmguard.errors import InferenceError
from mmguard.exporter.add_logits import file_with_logits
from mmguard.exporter.classifier import Classifier, read_classifier
from mmguard.exporter.equality import run
from mmguard.exporter.evidence.choose import choose_sites
from mmguard.exporter.evidence.pool import pooled_features
from mmguard.exporter.insert_min import write_clipped
from mmguard.exporter.runtime_graphs import write_runtime_graphs
from mmguard.exporter.sites.find import find_activations
from mmguard.guard.wrapping.base import WrappedPredictor
from mmguard.inputs.spec import InputSpec
from mmguard.types import ClipSite
from tests.bundles import Array, clean_inputs, tiny_bounds, tiny_network, write_tiny_bundle

FLOAT, HALF, LABEL, TEXT = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.STRING


@dataclass(frozen=True)
class Ending:
    """What follows the tiny network's scores.

    Attributes:
        nodes: in the order of the graph, from `scores` (N, 3), or (N, 1) of one column.
        outputs: names, element types and shapes; maps have no shape.
        column: whether the scores are one column, the last class's less the second's.
    """

    nodes: tuple[onnx.NodeProto, ...]
    outputs: tuple[tuple[str, int, list[str | int] | None], ...]
    column: bool = False


def _node(kind: str, given: str, made: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, given.split(), made.split(), name=made, **attributes)


LOW_LIMIT = 1e-10
"""Of probabilities, below those of the bundle's probes."""
SOFTMAX = _node("Softmax", "scores", "p", axis=1)
SIGMOID = _node("Sigmoid", "scores", "p")
ENDINGS = {
    "softmax": Ending((SOFTMAX,), (("p", FLOAT, ["N", 3]),)),
    "log-softmax": Ending((_node("LogSoftmax", "scores", "p", axis=1),), (("p", FLOAT, ["N", 3]),)),
    "softmax and label": Ending(
        (SOFTMAX, _node("ArgMax", "p", "label", axis=1, keepdims=0)),
        (("label", LABEL, ["N"]), ("p", FLOAT, ["N", 3])),
    ),
    "map": Ending(
        (SOFTMAX, _node("ZipMap", "p", "maps", domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])),
        (("maps", FLOAT, None),),
    ),
    "sigmoid": Ending((SIGMOID,), (("p", FLOAT, ["N", 1]),), column=True),
    "flat sigmoid": Ending((SIGMOID, _node("Squeeze", "p one", "flat")), (("flat", FLOAT, ["N"]),), column=True),
    "both of a sigmoid": Ending(
        (SIGMOID, _node("Sub", "unit p", "q"), _node("Concat", "q p", "both", axis=1)),
        (("both", FLOAT, ["N", 2]),),
        column=True,
    ),
    "label": Ending((_node("ArgMax", "scores", "label", axis=1, keepdims=0),), (("label", LABEL, ["N"]),)),
    "best": Ending((SOFTMAX, _node("TopK", "p one", "best which", axis=1)), (("best", FLOAT, ["N", 1]),)),
    "limited": Ending((SOFTMAX, _node("Max", "p limit", "clipped")), (("clipped", FLOAT, ["N", 3]),)),
    "barely limited": Ending((SOFTMAX, _node("Max", "p low_limit", "clipped")), (("clipped", FLOAT, ["N", 3]),)),
    "half": Ending((SOFTMAX, _node("Cast", "p", "half", to=HALF)), (("half", HALF, ["N", 3]),)),
    "halved": Ending(
        (SOFTMAX, _node("Cast", "p", "half", to=HALF), _node("Cast", "half", "p2", to=FLOAT)),
        (("p2", FLOAT, ["N", 3]),),
    ),
}
LOGITS = Ending((), (("scores", FLOAT, ["N", 3]),))
RECOVERED = (
    *("softmax", "log-softmax", "softmax and label", "map"),
    *("sigmoid", "flat sigmoid", "both of a sigmoid"),
)
"""Those whose logits can be had from their outputs."""


def model_of(ending: Ending, scale: float = 1) -> onnx.ModelProto:
    """The tiny network with that ending; all its logits times `scale`."""
    model = tiny_network().model()
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) * 1 for tensor in graph.initializer}
    for name in ("fc.weight", "fc.bias"):
        last_less_second = (weights[name][2:] - weights[name][1:2]) if ending.column else weights[name]
        weights[name] = (scale * last_less_second).astype(np.float32)
    weights["low_limit"] = np.full((1, 1), LOW_LIMIT, np.float32)
    weights |= {"one": np.array([1]), "unit": np.ones((1, 1), np.float32), "limit": np.full((1, 1), 1e-3, np.float32)}
    needed = {name for node in (*graph.node, *ending.nodes) for name in node.input}
    del graph.initializer[:], graph.output[:]
    graph.initializer.extend(numpy_helper.from_array(each, name) for name, each in weights.items() if name in needed)
    graph.node[-1].output[0] = "scores"
    graph.node.extend(ending.nodes)
    graph.output.extend(map(_output, ending.outputs))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _output(spec: tuple[str, int, list[str | int] | None]) -> onnx.ValueInfoProto:
    name, kind, shape = spec
    if shape is not None:
        return helper.make_tensor_value_info(name, kind, shape)
    scores = helper.make_tensor_type_proto(kind, [])
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(LABEL, scores))
    return helper.make_value_info(name, maps)


def write_ended_bundle(
    out: Path, ending: Ending, statistics: Iterable[str] = ("residual_margin_gap",), scale: float = 1
) -> Path:
    """Write a bundle of `model_of` with runtime graphs, as calibration does; without statistics, an MMOM bundle."""
    probes = np.random.default_rng(2).random((4, 3, 8, 8), dtype=np.float32)
    model, bounds = model_of(ending, scale), tiny_bounds(tiny_network())
    return write_bundle(out, model, bounds, clean_inputs(200), probes, statistics)


def write_evidence_bundle(out: Path) -> Path:
    """Write a bundle of the tiny network whose test reads activations at two sites, and the margin."""
    statistics = ("supported_margin_gap", "activation_distance", "activation_excess", "original_margin")
    return write_ended_bundle(out, LOGITS, statistics)


def write_bundle(
    out: Path,
    model: onnx.ModelProto,
    bounds: dict[str, Array],
    x: Array,
    probes: Array,
    statistics: Iterable[str] = ("residual_margin_gap",),
) -> Path:
    """Write a bundle of a model by these bounds, its null and any evidence fitted on inputs x."""
    manifest = Bundle.open(write_tiny_bundle(out.with_name(f"{out.name}.tiny"))).manifest
    path = out.with_name(f"{out.name}.onnx")
    onnx.save(model, path)
    classifier = read_classifier(path)
    name, forms = classifier.output.logits, ("original", "clipped")
    with staged(out) as folder:
        shutil.copyfile(path, folder / "original.onnx")
        write_clipped(classifier, bounds, folder / "clipped.onnx")
        evidence = evidence_of(classifier, x) if READ_ACTIVATIONS & set(statistics) else None
        runtime_graphs = write_runtime_graphs(folder, classifier, evidence)
        write_tensors(folder / BOUNDS, bounds)
        probed = {form: run(folder / runtime_graphs[form], probes, name) for form in forms}
        if evidence is not None:
            probed["activations"] = run(folder / runtime_graphs["original"], probes, ACTIVATIONS)
        write_tensors(folder / PROBES, {"x": probes, **probed})
        original, clipped = (run(folder / runtime_graphs[form], x, name) for form in forms)
        activations = None if evidence is None else run(folder / runtime_graphs["original"], x, ACTIVATIONS)
        read = Readings(original, clipped, activations)
        fitted = {each: Criterion.fit(each, read, None)[0] for each in statistics}
        criteria = tuple(CriterionSpec.of(each, criterion) for each, criterion in fitted.items())
        margins = dict.fromkeys(("sample", "shared"), (1.0,) * original.shape[1])
        written = replace(
            manifest,
            input=InputSpec(classifier.input_name, (None, *x.shape[1:]), x.min(axis=0), x.max(axis=0)),
            output=classifier.output,
            runtime_graphs=runtime_graphs,
            sites=tuple(ClipSite(value, "Relu", 1, bound.size) for value, bound in bounds.items()),
            evidence=() if evidence is None else evidence.sites,
            classes=tuple(f"class{k}" for k in range(original.shape[1])),
            null=NullSpec("gaussian", len(x), 0.005, 0.05, criteria, ()) if criteria else None,
            calibration=replace(manifest.calibration, original_margins=margins, clipped_margins=margins),
        )
        write(folder, written, {"started": "2000-01-01T00:00:00+00:00"})
    return out


def evidence_of(classifier: Classifier, x: Array) -> ActivationEvidence:
    """Evidence fitted to inputs x, at the sites that calibration would choose."""
    sites = choose_sites(find_activations(classifier.model, classifier.logits_source.value))
    sites, features = pooled_features(classifier, sites, x)
    with file_with_logits(classifier) as path:
        logits = run(path, x, classifier.output.logits)
    return ActivationEvidence.fit(sites, features, logits.argmax(axis=1), logits.shape[1])


def session_of(bundle: Path, threads: int = 1) -> ort.InferenceSession:
    """A session of the bundle's model, as its user has one."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(bundle / "original.onnx", options, providers=["CPUExecutionProvider"])


def callable_of(bundle: Path) -> Callable[[Array], Array]:
    """The first output of that session."""
    session = session_of(bundle)

    def predict(x: Array) -> Array:
        output: Array = session.run(None, {"image": x})[0]
        return output

    return predict


def rows_of_the_original(safe: WrappedPredictor) -> list[int]:
    """From now on, how many rows each run of the bundle's own original has."""
    own, seen = safe.guard.networks.original, list[int]()

    def counted(x: Array) -> Any:
        seen.append(len(x))
        return own(x)

    safe.guard.networks.original = counted  # type: ignore[assignment]
    return seen


def check_closes(safe: WrappedPredictor, predict: Callable[[], Any]) -> None:
    """Hold a guarded predictor to what a context manager is: it predicts inside, and its guard is closed outside."""
    with safe as entered:
        assert entered is safe
        predict()
    for _ in range(2):
        with pytest.raises(InferenceError, match="the guard is closed"):
            predict()
        safe.close()
