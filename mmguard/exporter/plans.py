"""The forms that the guard runs: each gives the logits beside the user's own output."""

from pathlib import Path

import onnx_ir as ir
from onnx_ir import external_data

from mmguard.manifest import OutputSpec
from mmguard.types import Tail

LOGITS = "mmguard_logits"


def write_plans(folder: Path, output: OutputSpec) -> tuple[dict[str, str], OutputSpec]:
    """Write plans where the user's output is not the logits; otherwise the networks are their own plans.

    Args:
        folder: bundle folder with `original.onnx` and `clipped.onnx`.
        output: the user's output and the value that holds the logits.

    Returns:
        File of each form, and the output as the plans give it.
    """
    forms = {form: f"{form}.onnx" for form in ("original", "clipped")}
    if output.tail is Tail.NONE:
        return forms, output
    (folder / "plans").mkdir()
    for file in forms.values():
        _add_logits(folder / file, folder / "plans" / file, output.logits)
    return {form: f"plans/{file}" for form, file in forms.items()}, OutputSpec(output.name, LOGITS, output.tail)


def _add_logits(source: Path, destination: Path, logits: str) -> None:
    """Add a value as a second graph output. External weights are put inside: a plan lies in another folder."""
    model = ir.load(source)
    external_data.load_to_model(model)
    graph = model.graph
    value = next(v for node in graph for v in node.outputs if v.name == logits)
    node = ir.node("Identity", [value], name=f"{LOGITS}_identity")
    scores = graph.outputs[0]  # a softmax keeps the shape and type of what it takes, which the graph need not declare
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = LOGITS, scores.shape, scores.type
    graph.append(node)
    graph.outputs.append(node.outputs[0])
    ir.save(model, destination)
