"""Inspection of a model before calibration: its input, outputs, clip sites and obstacles to calibration."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mmguard.bundle.manifest import OutputSpec
from mmguard.exporter.sites import Activation, ExcludedActivation
from mmguard.pipeline.model_checks import drawn_inputs, look, try_on


@dataclass(frozen=True)
class Inspection:
    """What mmguard finds in a model.

    Attributes:
        model: path of the ONNX file.
        opset: version of the standard ONNX operator set.
        nodes: number of nodes in the graph.
        input: ONNX name of the input.
        input_dtype: NumPy name of the input's dtype.
        input_shape: shape of the input, with None for each dynamic axis.
        logits: ONNX name of the value that mmguard treats as the logits.
        output: the model's outputs.
        sites: activations that can be clipped.
        left_out: activations that cannot be clipped, with the reasons.
        obstacles: reasons why the model cannot be calibrated. Some obstacles can be found only with a calibration set.
    """

    model: str
    opset: int
    nodes: int
    input: str
    input_dtype: str
    input_shape: tuple[int | None, ...]
    logits: str
    output: OutputSpec
    sites: tuple[Activation, ...]
    left_out: tuple[ExcludedActivation, ...]
    obstacles: tuple[str, ...]

    def to_json(self) -> str:
        """Return the inspection as JSON, ending in a newline."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def inspect(model: Path, logits: str | None) -> Inspection:
    """Inspect an ONNX file, as documented in `mmguard.inspect_model`.

    Args:
        model: path of the ONNX file.
        logits: ONNX name of the logits. If None, mmguard searches the model for them.

    Returns:
        The inspection.

    Raises:
        ModelError: the file is not a classifier that mmguard can read.
        OptionError: `logits` is not the name of a value that could be the logits.
    """
    network = look(model, logits)
    classifier, obstacles = network.classifier, network.obstacles
    if not obstacles and (x := drawn_inputs(classifier)) is not None:
        obstacles = try_on(network, x)
    graph = classifier.model
    return Inspection(
        model=str(model),
        opset=graph.opset_imports.get("", graph.opset_imports.get("ai.onnx", 0)),
        nodes=len(list(graph.graph)),
        input=classifier.input_name,
        input_dtype=classifier.input_dtype,
        input_shape=classifier.input_shape,
        logits=classifier.logits_source.value,
        output=classifier.output,
        sites=network.found.sites,
        left_out=network.found.excluded,
        obstacles=tuple(map(str, obstacles)),
    )
