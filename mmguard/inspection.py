"""What calibration would make of a model, before anything is learned."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmguard.errors import NoActivationError, UnsupportedOperatorError
from mmguard.extras import require_calibrate
from mmguard.manifest import OutputSpec
from mmguard.subject import read

if TYPE_CHECKING:
    from mmguard.exporter import Activation, LeftOut


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
    sites: "tuple[Activation, ...]"
    left_out: "tuple[LeftOut, ...]"
    obstacles: tuple[str, ...]

    def to_json(self) -> str:
        """As JSON, with a line's end."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def inspect_model(model: str | Path, logits: str | None = None) -> Inspection:
    """Look at an ONNX file as calibration would.

    Args:
        model: the file. logits: ONNX name of the logits; None finds them.

    Raises:
        ModelError: it cannot be read as a classifier.
        MissingExtraError: mmguard was installed without the extra `calibrate`.
    """
    require_calibrate()
    from mmguard import calibrate, exporter

    classifier = read(Path(model), logits)
    graph, obstacles = classifier.model, []
    found = exporter.Survey((), ())
    try:
        found = exporter.survey(graph, classifier.scores.value)
        exporter.require_sites(graph, found)
    except NoActivationError as error:
        obstacles.append(str(error))
    try:
        calibrate.DifferentiableGraph(exporter.scored(classifier), classifier.output.logits, widen=True)
    except UnsupportedOperatorError as error:
        obstacles.append(str(error))
    return Inspection(
        model=str(model),
        opset=graph.opset_imports.get("", 0),
        nodes=len(list(graph.graph)),
        input=classifier.input_name,
        input_dtype=classifier.input_dtype,
        input_shape=classifier.input_shape,
        logits=classifier.scores.value,
        output=classifier.output,
        sites=found.sites,
        left_out=found.left_out,
        obstacles=tuple(obstacles),
    )
