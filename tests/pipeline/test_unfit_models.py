"""Models that cannot be guarded: each is refused by the command with a clear message, exit code 1, and no file left."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from mmguard.calibrate.progress import AT_THE_START
from mmguard.cli.app import FAILED
from mmguard.cli.main import main
from tests.networks import HEADER, PLAIN

Write = Callable[[Path], None]


def text(body: str, header: str = HEADER) -> Write:
    return lambda path: onnx.save(parser.parse_model(header + body), path)


def replaced(*pairs: tuple[str, str], header: str = HEADER) -> Write:
    """The plain network with some of its text replaced."""
    body = PLAIN
    for old, new in pairs:
        assert old in body
        body = body.replace(old, new)
    return text(body, header)


def content(data: bytes) -> Write:
    """A file of these bytes."""

    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


def estimator(operator: str, **attributes: Any) -> Write:
    """A model of scikit-learn's kind: one operator of ai.onnx.ml that gives a label and scores."""

    def write(path: Path) -> None:
        node = helper.make_node(operator, ["x"], ["label", "scores"], domain="ai.onnx.ml", **attributes)
        graph = helper.make_graph(
            [node],
            "estimator",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
            [
                helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
                helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2]),
            ],
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)

    return write


TREE = estimator(
    "TreeEnsembleClassifier",
    nodes_treeids=[0, 0, 0],
    nodes_nodeids=[0, 1, 2],
    nodes_featureids=[0, 0, 0],
    nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
    nodes_values=[0.5, 0.0, 0.0],
    nodes_truenodeids=[1, 0, 0],
    nodes_falsenodeids=[2, 0, 0],
    nodes_hitrates=[1.0, 1.0, 1.0],
    nodes_missing_value_tracks_true=[0, 0, 0],
    class_treeids=[0, 0],
    class_nodeids=[1, 2],
    class_ids=[0, 1],
    class_weights=[1.0, 1.0],
    classlabels_int64s=[0, 1],
)
LINEAR = estimator("LinearClassifier", coefficients=[1.0] * 8, intercepts=[0.0, 1.0], classlabels_ints=[0, 1])


def with_branch(path: Path) -> None:
    """An If in the way, whose branches are graphs of their own."""
    model = parser.parse_model(HEADER + PLAIN)
    branch = [
        helper.make_graph(
            [helper.make_node(operator, ["hidden"], [f"{operator}_out"])],
            operator,
            [],
            [helper.make_tensor_value_info(f"{operator}_out", TensorProto.FLOAT, None)],
        )
        for operator in ("Relu", "Neg")
    ]
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    node = helper.make_node("If", ["condition"], ["chosen"], then_branch=branch[0], else_branch=branch[1])
    model.graph.node.insert(1, node)
    model.graph.node[2].input[0] = "chosen"
    onnx.save(model, path)


def external_lost(path: Path) -> None:
    ir.save(ir.from_onnx_text(HEADER + PLAIN), path, external_data="weights.data", size_threshold_bytes=0)
    (path.parent / "weights.data").unlink()


def truncated(path: Path) -> None:
    replaced()(path)
    path.write_bytes(path.read_bytes()[:-20])


def clipped_already(path: Path) -> None:
    replaced(
        ("{\n", "{ b = Constant<value = float {1.0}>()\n"),
        ("MatMul(hidden", "MatMul(low"),
        ("    logits =", "    low = Min(hidden, hidden_mmguard_bound)\n    logits ="),
        ("<float[4,3] w", "<float hidden_mmguard_bound = {1.0}, float[4,3] w"),
    )(path)


SEGMENTATION = """
segmentation (float[n,2,4,4] x) => (float[n,3,4,4] map)
<float[3,2,1,1] w = {1, 2, 3, 4, 5, 6}>
{
    hidden = Relu(x)
    map = Conv(hidden, w)
}
"""
SEQUENCE = """
sequence (float[n,t,4] x) => (float[n,t,3] tokens)
<float[4,3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}>
{
    hidden = Relu(x)
    tokens = MatMul(hidden, w)
}
"""
RECURRENT = """
recurrent (float[n,1,4] x) => (float[n,3] logits)
<float[1,3,4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[1,3,3] r = {1, 2, 3, 4, 5, 6, 7, 8, 9},
 float[3,3] v = {1, 2, 3, 4, 5, 6, 7, 8, 9}>
{
    steps = Transpose<perm = [1, 0, 2]>(x)
    all, last = RNN<hidden_size = 3>(steps, w, r)
    axis = Constant<value_ints = [0]>()
    state = Squeeze(last, axis)
    hidden = Relu(state)
    logits = MatMul(hidden, v)
}
"""
MATMUL = "    logits = MatMul(hidden, w)"
UNFIT: dict[str, tuple[Write, str]] = {
    "tree ensemble": (TREE, "TreeEnsembleClassifier .*decision trees, .* are not neural networks"),
    "linear classifier": (LINEAR, "LinearClassifier .*vector machines and similar models are not neural networks"),
    "no activation": (replaced(("Relu(x)", "Neg(x)")), "no activation to clip: its operators are MatMul, Neg"),
    "clipped already": (clipped_already, "already clipped by mmguard; calibrate the original network"),
    "detector": (
        replaced(
            ("float[n,3] logits", "float[n,1,3] logits, float[n,4,1] boxes"),
            (
                MATMUL,
                """    a = Constant<value_ints = [1]>()
    b = Constant<value_ints = [2]>()
    scores = MatMul(hidden, w)
    logits = Unsqueeze(scores, a)
    boxes = Unsqueeze(hidden, b)""",
            ),
        ),
        r"cannot find the logits of a classifier in this model; .*'logits' \(FLOAT, shape .* 'boxes'",
    ),
    "segmentation": (
        text(SEGMENTATION),
        r"expected float logits of shape .*'map' \(FLOAT, shape",
    ),
    "sequence model": (
        text(SEQUENCE),
        r"'tokens' \(FLOAT, shape .*looks like a detector, a segmentation model or a sequence model",
    ),
    "regression": (
        replaced(
            ("float[n,3] logits", "float[n,1] logits"),
            ("float[4,3] w", "float[4,1] w"),
            (", 3.0, 0.5, 0.0, -1.0, 2.0, 1.5, -0.5, 1.0, 1.0, -3.0", ", 3.0, 0.5"),
        ),
        r"K at least 2.*'logits' \(FLOAT, shape",
    ),
    "token ids": (
        replaced(
            ("float[n,4] x", "int64[n,4] x"),
            ("Relu(x)", "Relu(f)"),
            ("{\n    hidden", "{ f = Cast<to = 1>(x)\n    hidden"),
        ),
        "input 'x' has dtype INT64; provide a model whose input dtype is one of float32",
    ),
    "text": (
        replaced(
            ("float[n,4] x", "string[n,4] x"),
            ("Relu(x)", "Relu(f)"),
            ("{\n    hidden", "{ f = Cast<to = 1>(x)\n    hidden"),
        ),
        "input 'x' has dtype STRING",
    ),
    "two inputs": (
        replaced(
            ("float[n,4] x)", "float[n,4] x, float[n,4] mask)"),
            ("Relu(x)", "Relu(m)"),
            ("{\n    hidden", "{ m = Mul(x, mask)\n    hidden"),
        ),
        r"has 2 inputs \(x, mask\)",
    ),
    "two heads": (
        replaced(
            ("float[n,3] logits", "float[n,3] logits, float[n,3] aux"), (MATMUL, MATMUL + "\n    aux = MatMul(x, w)")
        ),
        "'logits' and 'aux' could each be the logits",
    ),
    "classes before inputs": (
        replaced(
            ("float[n,3] logits", "float[3,n] logits"),
            (MATMUL, "    scores = MatMul(hidden, w)\n    logits = Transpose<perm = [1, 0]>(scores)"),
        ),
        r"expected output 'logits' to have one row per input .* it has shape \(3, 2\) for 2 inputs",
    ),
    "If": (with_branch, r"has control flow \(If\), which mmguard cannot clip"),
    "recurrent": (
        text(RECURRENT),
        "operator RNN",
    ),
    "random": (
        replaced(
            ("Relu(x)", "Relu(noisy)"),
            ("{\n    hidden", "{ noise = RandomNormalLike(x) noisy = Add(x, noise)\n    hidden"),
        ),
        "operator RandomNormalLike",
    ),
    "custom operator": (
        replaced(
            ("Relu(x)", "Relu(bent)"),
            ("{\n    hidden", "{ bent = acme.Bend(x)\n    hidden"),
            header='<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>',
        ),
        "operator acme.Bend",
    ),
    "no ONNX": (content(b'{"model": "weights"}'), "is not a valid ONNX model"),
    "a zip, as PyTorch saves": (content(b"PK\x03\x04" + bytes(100)), "is not a valid ONNX model"),
    "empty": (content(b""), "is not a valid ONNX model"),
    "truncated": (truncated, "is not a valid ONNX model"),
    "weights lost": (external_lost, r"weights\.data"),
    "no file": (lambda path: None, "no such file"),
}


@pytest.mark.parametrize(("write", "message"), UNFIT.values(), ids=list(UNFIT))
def test_an_unfit_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, write: Write, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "model.onnx")
    shape = (60, 2, 4, 4) if "seg" in message else (60, 1, 4)
    x = np.random.default_rng(0).random(shape if "RNN" in message or "map" in message else (60, 4), np.float32)
    np.save(tmp_path / "clean.npy", x)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(SystemExit) as exit_:
        main(["calibrate", "model.onnx", "clean.npy"])
    said = " ".join(capsys.readouterr().err.split())
    assert exit_.value.code == FAILED
    assert "Traceback" not in said
    assert said.removeprefix(f"{AT_THE_START.task} ").startswith("mmguard: ")
    assert re.search(message, said), said
    assert sorted(path.name for path in tmp_path.iterdir()) == before
