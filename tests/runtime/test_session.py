from pathlib import Path

import numpy as np
import onnx_ir as ir

from mmguard.calibrate.graph.compare import assert_matches_onnxruntime
from mmguard.calibrate.graph.differentiable import DifferentiableGraph
from mmguard.guard.sessions import PROVIDERS, open_session
from mmguard.runtime.session import new_session

PADDED = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 1, 4, 4] x) => (float[N, 1, 2, 2] y)
<int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}> { a = Pad(x, p)  y = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(a) }"""


def test_zeros_around_negative_values_are_their_maximum(tmp_path: Path) -> None:
    model, path = ir.from_onnx_text(PADDED), tmp_path / "padded.onnx"
    ir.save(model, path)
    x = -np.ones((3, 1, 4, 4), np.float32)
    for session in (new_session(path), open_session(path, PROVIDERS["cpu"], 1)):
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], np.tile([[[0, 0], [0, -1]]], (3, 1, 1, 1)))
    assert_matches_onnxruntime(DifferentiableGraph(model, "y"), path, x, "y")
