"""A tiny real guard bundle, made without PyTorch: a CNN with a backdoor that we put in by hand.

One channel of its first convolution answers to a black-and-white chessboard and votes for class 2 alone. Clean inputs
are smooth, so on them that channel is nearly silent, and its bound is near zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from mmguard.bundle.file_names import BOUNDS, MANIFEST, PROBES, PROVENANCE
from mmguard.bundle.manifest import CalibrationFigures, CriterionSpec, Manifest, NullSpec, OutputSpec
from mmguard.bundle.tensors import write_tensors
from mmguard.bundle.write import staged, write
from mmguard.detection.margins import Readings
from mmguard.detection.mmdf import Criterion
from mmguard.inputs.spec import InputSpec
from mmguard.settings import Settings
from mmguard.types import ClipSite

Array = npt.NDArray[np.float32]


class Head(StrEnum):
    """What the tiny network does to its logits before it returns them."""

    NONE = "none"
    SOFTMAX = "Softmax"
    LOG_SOFTMAX = "LogSoftmax"


CLASSES = ("cat", "dog", "ship")
TARGET = 2
"""The class to which the backdoor sends every triggered input."""
TRIGGER_CHANNEL = 3
CHESSBOARD = np.indices((3, 3)).sum(axis=0) % 2
SITES = (ClipSite("relu1", "Relu", 1, 4), ClipSite("relu2", "Relu", 1, 6))
OUTPUT = {Head.NONE: "logits", Head.SOFTMAX: "probabilities", Head.LOG_SOFTMAX: "log_probabilities"}


@dataclass(frozen=True)
class TinyNetwork:
    """The weights, and what their ONNX forms have in common."""

    weights: Mapping[str, Array]
    head: Head
    batch: int | None

    def model(self, bounds: Mapping[str, Array] | None = None, *, logits: str | None = None) -> onnx.ModelProto:
        """The network as ONNX; clipped where there are bounds, with a second output where `logits` names it."""
        nodes, bounds = [], bounds or {}
        value = "image"
        for layer, strides in (("1", [1, 1]), ("2", [2, 2])):
            inputs = [value, f"conv{layer}.weight", f"conv{layer}.bias"]
            nodes.append(helper.make_node("Conv", inputs, [f"conv{layer}"], pads=[1] * 4, strides=strides))
            nodes.append(helper.make_node("Relu", [f"conv{layer}"], [f"relu{layer}"]))
            value = f"relu{layer}"
            if value in bounds:
                nodes.append(helper.make_node("Min", [value, f"{value}_mmguard_bound"], [f"{value}_mmguard_clipped"]))
                value = f"{value}_mmguard_clipped"
        nodes.append(helper.make_node("GlobalAveragePool", [value], ["pooled"]))
        nodes.append(helper.make_node("Flatten", ["pooled"], ["features"]))
        nodes.append(helper.make_node("Gemm", ["features", "fc.weight", "fc.bias"], ["logits"], transB=1))
        if self.head is not Head.NONE:
            nodes.append(helper.make_node(self.head, ["logits"], [OUTPUT[self.head]], axis=1))
        outputs = [OUTPUT[self.head]]
        if logits is not None:
            nodes.append(helper.make_node("Identity", ["logits"], [logits]))
            outputs.append(logits)
        constants = dict(self.weights) | {f"{name}_mmguard_bound": bound for name, bound in bounds.items()}
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [self.batch or "N", 3, 8, 8])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [self.batch or "N", 3]) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tiny_network(seed: int = 0, head: Head = Head.NONE, batch: int | None = None) -> TinyNetwork:
    """Random weights, and the backdoor."""
    rng = np.random.default_rng(seed)
    weights = {
        "conv1.weight": rng.normal(0, 0.3, (4, 3, 3, 3)),
        "conv1.bias": rng.normal(0, 0.1, 4),
        "conv2.weight": rng.normal(0, 0.3, (6, 4, 3, 3)),
        "conv2.bias": rng.normal(0.2, 0.1, 6),
        "fc.weight": rng.normal(0, 1.5, (3, 6)),
        "fc.bias": rng.normal(0, 0.1, 3),
    }
    weights["conv1.weight"][TRIGGER_CHANNEL] = 2 * CHESSBOARD - 1
    weights["conv1.bias"][TRIGGER_CHANNEL] = -3
    weights["conv2.weight"][:, TRIGGER_CHANNEL] = 0
    weights["conv2.weight"][5] = 0
    weights["conv2.weight"][5, TRIGGER_CHANNEL] = 0.5
    weights["conv2.bias"][5] = 0
    network = TinyNetwork({name: array.astype(np.float32) for name, array in weights.items()}, head, batch)
    network = _standardised(network)
    network.weights["fc.weight"][:, 5] = (-1, -1, 6)
    return network


def _standardised(network: TinyNetwork) -> TinyNetwork:
    """Logits of mean 0 and of standard deviation 2 on clean inputs, so that every class is decided now and then."""
    logits = run_model(replace(network, head=Head.NONE, batch=None).model(), clean_inputs(200))
    factor = 2 / logits.std(axis=0)
    weights = dict(network.weights)
    weights["fc.weight"] = weights["fc.weight"] * factor[:, None]
    weights["fc.bias"] = (weights["fc.bias"] - logits.mean(axis=0)) * factor
    return replace(network, weights=weights)


def clean_inputs(n: int, seed: int = 1) -> Array:
    """Smooth random inputs (n, 3, 8, 8) in [0, 1]: a colour and a slope each, a little noise."""
    rng = np.random.default_rng(seed)
    axes = np.linspace(-0.5, 0.5, 8)
    slopes = rng.uniform(-0.6, 0.6, (2, n, 3, 1, 1))
    x = rng.uniform(0.3, 0.7, (n, 3, 1, 1)) + slopes[0] * axes[:, None] + slopes[1] * axes
    clean: Array = np.clip(x + rng.normal(0, 0.02, x.shape), 0, 1).astype(np.float32)
    return clean


def add_trigger(x: Array) -> Array:
    """A chessboard in the corner of every input (N, 3, 8, 8)."""
    triggered = x.copy()
    triggered[:, :, 1:6, 1:6] = np.indices((5, 5)).sum(axis=0) % 2
    return triggered


def run_model(model: onnx.ModelProto, x: Array, output: str | None = None) -> Array:
    """One output of a model, the first by default, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: Array = session.run([output] if output else None, {"image": x})[0]
    return result


def tiny_bounds(network: TinyNetwork) -> dict[str, Array]:
    """What 98 in 100 of each channel's values stay below on clean inputs."""
    model = network.model()
    for site in SITES:
        model.graph.output.append(helper.make_tensor_value_info(site.value, TensorProto.FLOAT, None))
    x = clean_inputs(network.batch or 200)
    return {
        site.value: np.quantile(run_model(model, x, site.value), 0.98, axis=(0, 2, 3)).reshape(-1, 1, 1)
        for site in SITES
    }


def write_tiny_bundle(
    out: Path,
    name: str = "tiny",
    *,
    seed: int = 0,
    head: Head = Head.NONE,
    theta: float = 0.005,
    disagreement_theta: float = 0.05,
    broken: bool = False,
) -> Path:
    """Write a complete bundle for inputs (N, 3, 8, 8) in [0, 1] and the classes `CLASSES`.

    Args:
        out: folder to write. name: the bundle's name. seed: of the network. head: what ends it.
        theta, disagreement_theta: levels of the test.
        broken: the clipped network gives NaN, so that it fails on every batch.

    Returns:
        `out`.
    """
    network = tiny_network(seed, head)
    bounds = tiny_bounds(network)
    x, probes = clean_inputs(200), np.random.default_rng(2).random((4, 3, 8, 8), dtype=np.float32)
    models = {"original": network.model(), "clipped": network.model(bounds)}
    logits = {form: run_model(model, x, "logits") for form, model in _with_logits(network, bounds).items()}
    probed = {form: run_model(model, probes, "logits") for form, model in _with_logits(network, bounds).items()}
    if broken:
        bounds = {site: bound * np.float32(np.nan) for site, bound in bounds.items()}
        models["clipped"] = network.model(bounds)
    with staged(out) as folder:
        for form, model in models.items():
            onnx.save(model, folder / f"{form}.onnx")
        runtime_graphs = _write_plans(folder, network, bounds)
        write_tensors(folder / BOUNDS, bounds)
        write_tensors(folder / PROBES, {"x": probes, **probed})
        read = Readings(logits["original"], logits["clipped"])
        criterion = CriterionSpec.of("margin_gap", Criterion.fit("margin_gap", read, None)[0])
        null = NullSpec("gaussian", len(x), theta, disagreement_theta, (criterion,), ())
        write(
            folder, _manifest(name, seed, head, runtime_graphs, null, logits), {"started": "2000-01-01T00:00:00+00:00"}
        )
    return out


def hash_anew(bundle: Path) -> None:
    """Have the manifest list what lies in the folder."""
    manifest = Manifest.from_json((bundle / MANIFEST).read_bytes())
    (bundle / PROVENANCE).unlink()
    (bundle / MANIFEST).unlink()
    write(bundle, manifest, {})


def _with_logits(network: TinyNetwork, bounds: Mapping[str, Array]) -> dict[str, onnx.ModelProto]:
    """Both networks with their logits as the only output."""
    bare = replace(network, head=Head.NONE)
    return {"original": bare.model(), "clipped": bare.model(bounds)}


def _write_plans(folder: Path, network: TinyNetwork, bounds: Mapping[str, Array]) -> dict[str, str]:
    if network.head is Head.NONE:
        return {form: f"{form}.onnx" for form in ("original", "clipped")}
    (folder / "runtime").mkdir()
    onnx.save(network.model(logits="mmguard_logits"), folder / "runtime/original.onnx")
    onnx.save(network.model(bounds, logits="mmguard_logits"), folder / "runtime/clipped.onnx")
    onnx.save(_tail(network), folder / "runtime/head.onnx")
    return {form: f"runtime/{form}.onnx" for form in ("original", "clipped", "head")}


def _tail(network: TinyNetwork) -> onnx.ModelProto:
    """What comes after the logits, alone."""
    name = OUTPUT[network.head]
    graph = helper.make_graph(
        [helper.make_node(network.head, ["mmguard_logits"], [name], axis=1)],
        "head",
        [helper.make_tensor_value_info("mmguard_logits", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def output_spec(head: Head) -> OutputSpec:
    """What the manifest says of the tiny network's output."""
    if head is Head.NONE:
        return OutputSpec(("logits",), "logits")
    return OutputSpec((OUTPUT[head],), "mmguard_logits", (OUTPUT[head],), (head.value,))


def _manifest(
    name: str, seed: int, head: Head, runtime_graphs: dict[str, str], null: NullSpec, logits: Mapping[str, Array]
) -> Manifest:
    original, clipped = logits["original"], logits["clipped"]
    flagged = null.test()(original, clipped).flagged
    agreement = float((original.argmax(axis=1) == clipped.argmax(axis=1)).mean())
    shape = (3, 1, 1)
    return Manifest(
        name=name,
        versions={"mmguard": "0"},
        seed=seed,
        preset="default",
        settings=Settings(rounds=1),
        input=InputSpec("image", (None, 3, 8, 8), np.zeros(shape, np.float32), np.ones(shape, np.float32)),
        output=output_spec(head),
        classes=CLASSES,
        runtime_graphs=runtime_graphs,
        sites=SITES,
        evidence=(),
        mirror_axis=None,
        null=null,
        calibration=CalibrationFigures(
            n=len(original),
            labelled=False,
            original_accuracy=1.0,
            clipped_accuracy=agreement,
            agreement=agreement,
            flagged_share=float(flagged.mean()),
            original_margins={"sample": (1.0, 1.0, 9.0), "shared": (-2.0, -3.0, 1.0)},
            clipped_margins={"sample": (1.0, 1.0, 1.0), "shared": (-2.0, -3.0, -2.0)},
            audit_cut=(),
            rounds=1,
            converged=True,
        ),
        files={},
    )
