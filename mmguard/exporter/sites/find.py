"""Find the values that calibration puts a bound on."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from mmguard.errors import ModelError, NoActivationError
from mmguard.exporter.sites.activation import Activation, LeftOut, Reason
from mmguard.exporter.sites.candidates import Candidate, find_candidates
from mmguard.exporter.sites.channels import ChannelAxes
from mmguard.exporter.sites.flow import Flow
from mmguard.exporter.sites.quantised import add_rectified
from mmguard.exporter.sites.role import divides, gates
from mmguard.exporter.sites.selection import ALL, select
from mmguard.exporter.values import Shape, ValueType, infer_values

logger = logging.getLogger(__name__)

BOUND_SUFFIX, CLIPPED_SUFFIX = "_mmguard_bound", "_mmguard_clipped"
"""What the names of inserted bounds, and of what they clip, end in."""

FLOATS = frozenset({None, ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
"""What a bound can be written in; None is not declared, and as good as float32."""

LISTED = 20
"""Activations that a message lists."""
MAX_ACTIVATIONS = 2000
"""What each of them is for takes a walk over the graph. Of the surveyed networks, the one with the most has 243."""


@dataclass(frozen=True)
class Survey:
    """Every activation of a graph, in its order.

    Attributes:
        sites: those that a bound can go on. left_out: the others.
    """

    sites: tuple[Activation, ...]
    left_out: tuple[LeftOut, ...]


def find_activations(model: ir.Model, logits: str, sites: str = ALL) -> list[Activation]:
    """The clip sites: activations that the logits depend on and that depend on the input, in graph order.

    Args:
        model: the user's graph.
        logits: name of the logits, which is never clipped itself.
        sites: `all`, `last` or patterns; see `select`.

    Raises:
        NoActivationError: there is none, or they are clipped already.
        OptionError: a pattern that fits none.
    """
    found = survey(model, logits)
    require_sites(model, found)
    for each in found.left_out:
        if each.reason in (Reason.BATCH, Reason.DYNAMIC):
            logger.warning("warning: %s (%s) is left unclipped: %s", each.value, each.operator, each.reason)
    return select(found.sites, sites)


def survey(model: ir.Model, logits: str) -> Survey:
    """Which activations can be clipped, and which cannot.

    Args:
        model: the user's graph. logits: name of the logits.

    Raises:
        NoActivationError: they are clipped already.
        ModelError: there are more than `MAX_ACTIVATIONS`, or far too many elementwise operators.
    """
    names = [*model.graph.initializers, *(value.name for node in model.graph for value in node.outputs)]
    if any(str(name).endswith((BOUND_SUFFIX, CLIPPED_SUFFIX)) for name in names):
        raise NoActivationError("the model is clipped by mmguard already; calibrate the original network")
    flow, types = Flow(model.graph, logits), infer_values(model)
    axes = ChannelAxes(flow, types)
    candidates = add_rectified(model.graph, flow, find_candidates(model.graph, flow))
    if (count := len(candidates.found)) > MAX_ACTIVATIONS:
        raise ModelError(f"the model has {count} activations; mmguard takes models of up to {MAX_ACTIVATIONS}")
    sizes_vary = _sizes_vary(model.graph, types)
    judged = [
        _judge(each, flow, axes, sizes_vary)
        for each in candidates.found
        if types.get(str(each.value.name), ValueType()).dtype in FLOATS
    ]
    sites = tuple(each for each in judged if isinstance(each, Activation))
    return Survey(sites, tuple(each for each in judged if isinstance(each, LeftOut)))


def _judge(candidate: Candidate, flow: Flow, axes: ChannelAxes, sizes_vary: bool) -> Activation | LeftOut:
    value, shape = candidate.value, axes.shape(candidate.value)
    axis = axes.axis(value)
    reason = _role(candidate, flow) or (None if shape is None else _unfit(shape, axis, sizes_vary))
    if reason is not None:
        return LeftOut(str(value.name), candidate.operator, reason)
    return Activation(str(value.name), candidate.operator, axis, *_sizes(shape, axis))


def _role(candidate: Candidate, flow: Flow) -> Reason | None:
    """Why the value is no activation between two layers; None where it is one."""
    value = candidate.value
    if value not in flow.needed:
        return Reason.AFTER if value in flow.after else Reason.UNUSED
    if value not in flow.feeding:
        return Reason.TAIL
    if divides(value):
        return Reason.DIVIDES
    return Reason.GATE if gates(candidate, flow) else None


def _unfit(shape: Shape, axis: int, sizes_vary: bool) -> Reason | None:
    """Why one bound a channel cannot be formed; None where it can."""
    if len(shape) < 2 or axis % len(shape) == 0:
        return Reason.BATCH
    # Where only the batch varies, a length that inference does not know is fixed all the same, but for the batch's own.
    dynamic = not isinstance(shape[axis], int) and (sizes_vary or isinstance(shape[0], int))
    return Reason.DYNAMIC if dynamic else None


def _sizes(shape: Shape | None, axis: int) -> tuple[int | None, int | None]:
    """Number of channels, and of places of each channel."""
    if shape is None:
        return None, None
    channels, rest = shape[axis], [size for i, size in enumerate(shape) if i not in (0, axis % len(shape))]
    known = [size for size in rest if isinstance(size, int)]
    places = math.prod(known) if len(known) == len(rest) else None
    return channels if isinstance(channels, int) else None, places


def _sizes_vary(graph: ir.Graph, types: Mapping[str, ValueType]) -> bool:
    """Whether an input of the graph has a dynamic axis beside the batch."""
    shapes = [types[str(value.name)].shape or () for value in graph.inputs if value.name not in graph.initializers]
    return any(not isinstance(size, int) for shape in shapes for size in shape[1:])


def require_sites(model: ir.Model, found: Survey) -> None:
    """Refuse a model without a clip site.

    Raises:
        NoActivationError: says which operators there are, and which activations were not taken.
    """
    if found.sites:
        return
    operators = ", ".join(sorted({node.op_type for node in model.graph})) or "none"
    left_out = "; ".join(f"{each.value} ({each.operator}) is left: {each.reason}" for each in found.left_out[:LISTED])
    text = f"the model has no activation to clip: its operators are {operators}, and a bound goes after Relu or its kin"
    raise NoActivationError(f"{text}; {left_out}" if left_out else text)
