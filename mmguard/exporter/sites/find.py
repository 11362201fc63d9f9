"""Find the clip sites: the values that can get a bound."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from mmguard.errors import ModelError, NoActivationError
from mmguard.exporter.shape_inference import Shape, ValueType, infer_values
from mmguard.exporter.sites.activation import Activation, ExcludedActivation, Exclusion
from mmguard.exporter.sites.candidates import Candidate, find_candidates
from mmguard.exporter.sites.channels import ChannelAxes
from mmguard.exporter.sites.flow import Flow
from mmguard.exporter.sites.quantised import add_rectified
from mmguard.exporter.sites.role import divides, gates
from mmguard.exporter.sites.selection import ALL, select

logger = logging.getLogger(__name__)

BOUND_SUFFIX, CLIPPED_SUFFIX = "_mmguard_bound", "_mmguard_clipped"
"""Suffixes for the names of inserted bounds and of clipped values."""

FLOATS = frozenset({None, ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
"""Dtypes that a bound can have. None stands for an undeclared dtype, which is treated as float32."""

LISTED = 20
"""Largest number of activations that a message lists."""
MAX_ACTIVATIONS = 2000
"""Largest number of activations that a model may have. Each activation requires a pass over the graph. The networks
surveyed have up to 243 activations."""


@dataclass(frozen=True)
class Survey:
    """The activations of a model, in the order of its graph.

    Attributes:
        sites: activations that can get a bound.
        excluded: activations that cannot get a bound.
    """

    sites: tuple[Activation, ...]
    excluded: tuple[ExcludedActivation, ...]


def find_activations(model: ir.Model, logits: str, sites: str = ALL) -> list[Activation]:
    """Find the clip sites, and return those that the argument `sites` selects.

    Args:
        model: the user's graph.
        logits: name of the logits, which are never clipped themselves.
        sites: `all`, `last` or patterns; see `select`.

    Returns:
        The chosen clip sites, in the graph's order.

    Raises:
        NoActivationError: the model has no clip site, or is already clipped.
        ModelError: the model has more activations or elementwise operators than mmguard accepts.
        OptionError: a pattern matches no clip site.
    """
    found = survey(model, logits)
    require_sites(model, found)
    for each in found.excluded:
        if each.reason in (Exclusion.BATCH, Exclusion.DYNAMIC):
            logger.warning("warning: %s (%s) is not clipped: %s", each.value, each.operator, each.reason)
    return select(found.sites, sites)


def survey(model: ir.Model, logits: str) -> Survey:
    """Find the activations of a model, and determine which of them are clip sites.

    A clip site depends on the input, and at least one layer lies between the clip site and the logits.

    Args:
        model: the user's graph, which is not changed.
        logits: name of the logits.

    Returns:
        The clip sites and the excluded activations.

    Raises:
        NoActivationError: the model is already clipped.
        ModelError: the model has more than `MAX_ACTIVATIONS` activations, or too many elementwise operators.
    """
    names = [*model.graph.initializers, *(value.name for node in model.graph for value in node.outputs)]
    if any(str(name).endswith((BOUND_SUFFIX, CLIPPED_SUFFIX)) for name in names):
        raise NoActivationError("the model is already clipped by mmguard; calibrate the original network")
    flow, types = Flow(model.graph, logits), infer_values(model)
    axes = ChannelAxes(flow, types)
    candidates = add_rectified(model.graph, flow, find_candidates(model.graph, flow))
    if (count := len(candidates.found)) > MAX_ACTIVATIONS:
        raise ModelError(f"the model has {count} activations, but mmguard accepts at most {MAX_ACTIVATIONS}")
    sizes_vary = _sizes_vary(model.graph, types)
    judged = [
        _judge(each, flow, axes, sizes_vary)
        for each in candidates.found
        if types.get(str(each.value.name), ValueType()).dtype in FLOATS
    ]
    sites = tuple(each for each in judged if isinstance(each, Activation))
    return Survey(sites, tuple(each for each in judged if isinstance(each, ExcludedActivation)))


def _judge(candidate: Candidate, flow: Flow, axes: ChannelAxes, sizes_vary: bool) -> Activation | ExcludedActivation:
    value, shape = candidate.value, axes.shape(candidate.value)
    axis = axes.axis(value)
    reason = _wrong_role(candidate, flow) or (None if shape is None else _wrong_shape(shape, axis, sizes_vary))
    if reason is not None:
        return ExcludedActivation(str(value.name), candidate.operator, reason)
    return Activation(str(value.name), candidate.operator, axis, *_sizes(shape, axis))


def _wrong_role(candidate: Candidate, flow: Flow) -> Exclusion | None:
    """Return why the value's role in the graph excludes it as a clip site, or None if the role is suitable."""
    value = candidate.value
    if value not in flow.needed:
        return Exclusion.AFTER_LOGITS if value in flow.after else Exclusion.UNUSED
    if value not in flow.feeding:
        return Exclusion.AFTER_LAST_LAYER
    if divides(value):
        return Exclusion.DIVISOR
    return Exclusion.GATE if gates(candidate, flow) else None


def _wrong_shape(shape: Shape, axis: int, sizes_vary: bool) -> Exclusion | None:
    """Return why the value cannot have one bound per channel, or None if it can have one bound per channel."""
    if len(shape) < 2 or axis % len(shape) == 0:
        return Exclusion.BATCH
    # If only the batch size varies, a length that could not be inferred is still fixed, unless it is the batch size.
    dynamic = not isinstance(shape[axis], int) and (sizes_vary or isinstance(shape[0], int))
    return Exclusion.DYNAMIC if dynamic else None


def _sizes(shape: Shape | None, axis: int) -> tuple[int | None, int | None]:
    """Return the number of channels and the number of positions per channel. A number that is not known is None."""
    if shape is None:
        return None, None
    channels, rest = shape[axis], [size for i, size in enumerate(shape) if i not in (0, axis % len(shape))]
    known = [size for size in rest if isinstance(size, int)]
    places = math.prod(known) if len(known) == len(rest) else None
    return channels if isinstance(channels, int) else None, places


def _sizes_vary(graph: ir.Graph, types: Mapping[str, ValueType]) -> bool:
    """Return whether an input of the graph has a dynamic axis other than the batch axis."""
    shapes = [types[str(value.name)].shape or () for value in graph.inputs if value.name not in graph.initializers]
    return any(not isinstance(size, int) for shape in shapes for size in shape[1:])


def require_sites(model: ir.Model, found: Survey) -> None:
    """Check that a model has a clip site.

    Args:
        model: the user's graph.
        found: the model's activations.

    Raises:
        NoActivationError: the model has no clip site; the message lists its operators and the excluded activations.
    """
    if found.sites:
        return
    operators = ", ".join(sorted({node.op_type for node in model.graph})) or "none"
    excluded = "; ".join(
        f"{each.value} ({each.operator}) is not clipped: {each.reason}" for each in found.excluded[:LISTED]
    )
    text = (
        f"the model has no activation to clip: its operators are {operators}; provide a model with Relu or a similar "
        "activation between its layers"
    )
    raise NoActivationError(f"{text}; {excluded}" if excluded else text)
