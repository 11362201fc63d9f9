"""Any tensor, bytes or network in any file of a bundle."""

import json
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper
from safetensors.numpy import save

from mmguard.bundle.file_names import BOUNDS, MANIFEST, PROBES
from tests.bundle.hostile.fields import anything, leaves
from tests.bundle.hostile.victim import Change, Victim
from tests.stub_graphs import TYPES, StubGraph


def mostly(right: Any, *others: Any) -> st.SearchStrategy[Any]:
    """What fits, two times of three: else something is refused before much is done."""
    return st.sampled_from([right] * 2 * len(others) + list(others))


SHAPES = [(), (0,), (3,), (4,), (6,), (4, 1, 1), (6, 1, 1), (1, 6, 1), (2, 3), (4, 3), (4, 3, 8, 8), (1,) * 20]
RIGHT = {"relu1": (4, 1, 1), "relu2": (6, 1, 1), "x": (4, 3, 8, 8), "original": (4, 3), "clipped": (4, 3)}


def _tensor(shape: tuple[int, ...], dtype: str, value: float) -> Any:
    with np.errstate(all="ignore"):
        return np.full(shape, value).astype(dtype)


def tensor(name: str) -> st.SearchStrategy[Any]:
    """A tensor that may be the one of that name."""
    numbers = st.sampled_from([0.0, 1.0, -1.0, 1e30, np.nan, np.inf])
    shape = mostly(RIGHT[name], *SHAPES) if name in RIGHT else st.sampled_from(SHAPES)
    return st.builds(_tensor, shape, mostly("f4", "f8", "f2", "i8", "u1", "?"), numbers)


names = st.sampled_from(["relu1", "relu2", "x", "original", "clipped"]) | st.text(max_size=3)


def changed_tensors(victim: Victim) -> st.SearchStrategy[Change]:
    """Any tensor in any file of them, or a header that lies."""
    bounds = st.fixed_dictionaries({name: tensor(name) for name in ("relu1", "relu2")})
    probes = st.fixed_dictionaries({name: tensor(name) for name in ("x", "original", "clipped")})
    drawn = st.dictionaries(names, tensor(""), max_size=4).map(save)
    header = st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.sampled_from(["F32", "BF16", "F8_E4M3", "F4", "C64", "", 1]) | leaves,
            "shape": st.lists(st.sampled_from([0, 1, 3, 4, 6, -1, 2**31, 2**63, 2**64 - 1]), max_size=4) | anything,
            "data_offsets": st.lists(st.sampled_from([0, 16, 24, 2**40, 2**64 - 1]), max_size=3) | anything,
        },
    )
    raw = st.builds(
        _with_header, st.dictionaries(names, header | anything, max_size=3), st.integers(0, 2**64 - 1) | st.none()
    )
    content = drawn | raw
    return st.one_of(
        st.builds(lambda file: Change({BOUNDS: file}), bounds.map(save) | content),
        st.builds(lambda file: Change({PROBES: file}), probes.map(save) | content),
    )


def _with_header(header: Any, size: int | None) -> bytes:
    text = json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + bytes(24)


def changed_bytes(victim: Victim) -> st.SearchStrategy[Change]:
    """Any bytes in any file."""
    return st.sampled_from([*victim.files, MANIFEST]).flatmap(lambda name: _damaged(victim, name))


def _damaged(victim: Victim, name: str) -> st.SearchStrategy[Change]:
    content = json.dumps(victim.raw).encode() if name == MANIFEST else victim.files[name]
    flips = st.dictionaries(st.integers(0, max(0, len(content) - 1)), st.integers(0, 255), min_size=1, max_size=8)
    drawn = st.one_of(
        st.binary(max_size=64),
        st.integers(0, len(content)).map(lambda length: content[:length]),
        st.binary(min_size=1, max_size=16).map(lambda more: content + more),
        flips.map(lambda changes: bytes(changes.get(i, byte) for i, byte in enumerate(content))),
    )
    if name == MANIFEST:
        return st.builds(lambda text: Change(manifest=text), drawn)
    return st.builds(lambda text: Change({name: text}), drawn | st.none())


def changed_networks(victim: Victim) -> st.SearchStrategy[Change]:
    """Networks of other names, widths, ranks and dtypes in place of a plan."""
    logits = victim.raw["output"]["logits"]
    outputs = tuple(dict.fromkeys((*victim.raw["output"]["names"], logits)))
    plan = st.builds(
        StubGraph,
        inputs=mostly(("image",), ("x",), ("image", "mask"), ("\x1b",)),
        shape=mostly(("N", 3, 8, 8), ("N", "C", "H", "W"), ("N", 3, 8), (1, 3, 8, 8), (7, 3, 8, 9)),
        dtype=mostly("float32", *TYPES),
        outputs=mostly(outputs, outputs[:1], ("y", *outputs[1:]), ("y",)),
        width=mostly(3, 1, 2, 4, None),
        axes=mostly(2, 1, 3),
        out=mostly("float32", *TYPES),
        declared=st.booleans(),
    ).map(StubGraph.bytes)
    head = st.builds(
        tail_plan,
        given=mostly(logits, "x"),
        name=mostly(outputs[0], "y"),
        node=st.sampled_from(["Softmax", "Transpose", "ReduceSum", "Flatten", "ArgMax", "Shape", "Unsqueeze"]),
        dtype=mostly("float32", "int64"),
        declared=mostly(True, False),
    )
    forms = victim.raw["runtime_graphs"]
    drawn = {path: head if form == "head" else plan for form, path in forms.items()}
    return st.fixed_dictionaries({}, optional=drawn).map(Change)


def tail_plan(given: str, name: str, node: str, dtype: str, declared: bool) -> bytes:
    """What makes something of logits, which need not be an output's values."""
    inputs = [given, "zero"] if node == "Unsqueeze" else [given]
    graph = helper.make_graph(
        [helper.make_node(node, inputs, ["made"]), helper.make_node("Cast", ["made"], [name], to=TYPES[dtype])],
        "head",
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, ["N", 3] if declared else None)],
        [helper.make_tensor_value_info(name, TYPES[dtype], None)],
        [helper.make_tensor("zero", TensorProto.INT64, [1], [0])] if node == "Unsqueeze" else [],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content
