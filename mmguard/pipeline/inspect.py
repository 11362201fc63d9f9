"""What calibration would make of a model, before anything is learned."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mmguard.bundle.manifest import OutputSpec
from mmguard.exporter.sites import Activation, LeftOut
from mmguard.pipeline.model_checks import drawn_inputs, look, try_on


@dataclass(frozen=True)
class Inspection:
    """What calibration would make of a model.

    Attributes:
        model: the file. opset: of ONNX's own operators. nodes: how many the graph has.
        input, input_dtype, input_shape: the model's input; None for a dynamic axis.
        logits: ONNX name of the value that is taken as the logits. output: the user's outputs, and what they are.
        sites, left_out: activations that bounds can go on, and those that none can, each with the reason.
        obstacles: why it cannot be calibrated; none where it can, as far as that shows without clean inputs.
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
    left_out: tuple[LeftOut, ...]
    obstacles: tuple[str, ...]

    def to_json(self) -> str:
        """As JSON, with a line's end."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def inspect(model: str | Path, logits: str | None = None) -> Inspection:
    """Look at an ONNX file as calibration would, and run it on random inputs where its input's shape is static.

    Args:
        model: the file. logits: ONNX name of the logits; None finds them.

    Raises:
        ModelError: it cannot be read as a classifier.
        MissingExtraError: mmguard was installed without the extra `calibrate`.
    """
    network = look(Path(model), logits)
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
        logits=classifier.scores.value,
        output=classifier.output,
        sites=network.found.sites,
        left_out=network.found.left_out,
        obstacles=tuple(map(str, obstacles)),
    )
