"""The table of input dtypes, against ONNX Runtime and ONNX themselves."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from mmguard.exporter.classifier import INPUTS
from mmguard.runtime.dtypes import INPUT_DTYPE_BY_ORT_TYPE, INPUT_DTYPES
from mmguard.runtime.session import new_session


@pytest.mark.parametrize(("kind", "dtype"), INPUT_DTYPE_BY_ORT_TYPE.items())
def test_onnx_runtime_calls_an_input_of_the_dtype_so(tmp_path: Path, kind: str, dtype: str) -> None:
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    values = [onnx.helper.make_tensor_value_info(name, element, ["N", 2]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "model.onnx")
    session = new_session(tmp_path / "model.onnx")
    assert session.get_inputs()[0].type == kind
    x = np.ones((3, 2), dtype)
    assert session.run(None, {"x": x})[0].dtype == x.dtype


def test_the_exporter_takes_the_same_dtypes() -> None:
    assert tuple(INPUTS.values()) == INPUT_DTYPES == ("float32", "float16", "float64", "uint8")
    for kind, dtype in INPUTS.items():
        assert kind.value == onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
