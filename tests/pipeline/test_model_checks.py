"""What a network must be: `inspect` says it as `calibrate` does, and `calibrate` before anything is learned."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmguard import Bundle, Guard
from mmguard.bundle import manifest_checks as consistency
from mmguard.errors import ModelError, OptionError
from mmguard.pipeline import model_checks as fitness
from mmguard.pipeline.api import inspect_model
from mmguard.runtime.batches import run_session
from tests.bundles import Array, clean_inputs, run_model, tiny_network
from tests.networks import write_clean
from tests.quick import calibrate

Change = Callable[[onnx.ModelProto], object]


def write(path: Path, change: Change) -> Path:
    model = tiny_network().model()
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def ended(output: str, *nodes: onnx.NodeProto, **constants: Any) -> Change:
    """Nodes after the logits."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
        model.graph.output[0].name = output

    return change


def node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(","), [output], **attributes)


def renamed(place: int, output: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[place].output[0] = output

    return change


def batch(value: int) -> Change:
    """The length that the batch's axis is declared with."""

    def change(model: onnx.ModelProto) -> None:
        for each in (*model.graph.input, *model.graph.output):
            each.type.tensor_type.shape.dim[0].dim_value = value

    return change


def straightened(model: onnx.ModelProto) -> None:
    for each in model.graph.node:
        each.op_type = each.op_type.replace("Relu", "Neg")


def length(axis: int, value: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = value

    return change


WRITTEN_OUT = (node("Neg", "logits", "n"), node("Exp", "n", "e"), node("Add", "e,one", "d"), node("Div", "one,d", "p"))
ONE = np.float32(1)

UNFIT: dict[str, tuple[Change, str]] = {
    "softmax over the batch": (
        ended("p", node("Softmax", "logits", "p", axis=0)),
        "depends on what else is in its batch: output 'p'",
    ),
    "mean over the batch": (
        ended("p", node("ReduceMean", "logits", "m", axes=[0]), node("Sub", "logits,m", "p")),
        "depends on what else is in its batch: output 'p'",
    ),
    "multi-label": (ended("p", node("Sigmoid", "logits", "p")), "multi-label: its output 'p' .* pass --logits logits"),
    "multi-label, written out": (ended("p", *WRITTEN_OUT, one=ONE), "multi-label: its output 'p' .* pass --logits p"),
    "one name twice": (lambda m: m.graph.output.append(m.graph.output[0]), "outputs of the model have the same name"),
    "a value made twice": (renamed(2, "relu1"), r"is not a valid ONNX model: .*relu1.* multiple times"),
    "no batch": (batch(0), r"declared with shape \[0,3,8,8\], but no axis may have length 0"),
    "no width": (length(3, 0), "no axis may have length 0"),
    "a batch baked in": (
        ended("p", node("Reshape", "logits,s", "p"), s=np.array([1, 3])),
        r"cannot run the model on inputs of shape .*dynamic batch axis",
    ),
    "no row for each": (ended("p", node("Reshape", "logits,s", "p"), s=np.array([-1, 6])), "one row per input"),
    "a regression": (
        ended("p", node("MatMul", "logits,s", "p"), s=np.ones((3, 1), np.float32)),
        "A model that outputs a single number is usually a regression model",
    ),
    "no activation": (straightened, "no activation to clip"),
    "a random operator": (ended("p", node("Bernoulli", "logits", "p")), "operator Bernoulli"),
    "a runtime that refuses": (
        ended("p", node("Add", "logits,whole", "p"), whole=np.array(1)),
        "ONNX Runtime reports: ",
    ),
    "gigabytes of constants": (
        ended("p", node("ConstantOfShape", "n", "z"), node("ReduceMax", "z", "t", keepdims=0),
              node("Add", "logits,t", "p"), n=np.array([10**9])),
        "computes 'z' from constants",
    ),
    "a name that a guard gives": (
        ended("p", node("Softmax", "logits", "mmguard_cast_out"), node("Identity", "mmguard_cast_out", "p")),
        "a value of the model is named 'mmguard_cast_out', but mmguard reserves this name",
    ),
    "a weight's name that a guard gives": (
        ended("p", node("MatMul", "logits,mmguard_columns", "z"), node("Sigmoid", "z", "p"),
              mmguard_columns=np.ones((3, 1), np.float32)),
        "a value of the model is named 'mmguard_columns', but mmguard reserves this name",
    ),
    "noise": (lambda m: m.Clear(), "is not a valid ONNX model"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), UNFIT.values(), ids=list(UNFIT))
def test_inspect_names_the_obstacle_that_calibrate_refuses_for(tmp_path: Path, change: Change, message: str) -> None:
    path, rounds = write(tmp_path / "model.onnx", change), list[object]()
    with pytest.raises(ModelError, match=message) as refused:
        calibrate(tmp_path, path, on_round=rounds.append)
    assert not rounds, "nothing is learned before"
    try:
        said = inspect_model(path).obstacles
    except ModelError as error:
        said = (str(error),)
    assert [figures(each) for each in said][:1] == [figures(str(refused.value))]


def figures(text: str) -> str:
    """Without numbers, such as those of the inputs that were tried."""
    return "".join(each for each in text if not each.isdigit() and each not in ".e-+")


def unsorted(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[1:] + nodes[:1])


def stale(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1000


def stale_inside(model: onnx.ModelProto) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("relu1", TensorProto.FLOAT, ["N", 99, 8, 8]))


def unshaped(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


TAKEN: dict[str, tuple[Change, bool]] = {
    "a batch of -1": (batch(-1), False),
    "a batch of -7": (batch(-7), False),
    "nodes in any order": (unsorted, True),
    "a stale output shape": (stale, True),
    "a stale shape inside": (stale_inside, True),
    "an output without a shape": (unshaped, True),
}


@pytest.mark.parametrize(("change", "warned"), TAKEN.values(), ids=list(TAKEN))
def test_what_onnx_runtime_runs_is_guarded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Change, warned: bool
) -> None:
    path = write(tmp_path / "model.onnx", change)
    assert not inspect_model(path).obstacles
    assert ("but ONNX's checker rejects it" in caplog.text) == warned
    opened = Bundle.open(calibrate(tmp_path, path))
    assert (opened.path / "original.onnx").read_bytes() == path.read_bytes()
    onnx.checker.check_model(opened.path / "clipped.onnx", full_check=True)
    x = clean_inputs(7, seed=3)
    decision = Guard(opened.path)(x)
    np.testing.assert_array_equal(decision.original_labels, run_model(tiny_network().model(), x).argmax(axis=1))
    (given,) = ort.InferenceSession(opened.path / "clipped.onnx").get_inputs()
    assert not isinstance(given.shape[0], int), "a batch of any size"
    assert opened.manifest.input.shape[0] is None


def test_a_negative_batch_axis_is_inspected_as_a_dynamic_one(tmp_path: Path) -> None:
    assert inspect_model(write(tmp_path / "model.onnx", batch(-1))).input_shape == (None, 3, 8, 8)


@pytest.mark.parametrize("declared", [None, "N", -1, 0])
def test_a_session_of_a_dynamic_batch_gets_whole_batches(declared: object) -> None:
    """However it declares that: ONNX Runtime's own Python interface gives None for -1, others' as it stands."""
    sizes: list[int] = []

    def run(names: list[str], feed: dict[str, Array]) -> list[Array]:
        sizes.append(len(feed["x"]))
        return [feed["x"]]

    given = SimpleNamespace(name="x", type="tensor(float)", shape=[declared, 2])
    session = SimpleNamespace(get_inputs=lambda: [given], run=run)
    np.testing.assert_array_equal(run_session(session, ["y"], np.ones((7, 2), np.float32))[0], np.ones((7, 2)))
    assert sizes == [7]


def test_weights_of_a_hub_s_cache_are_refused_with_what_to_do(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    onnx.save(
        tiny_network().model(), str(blobs / "m.onnx"), save_as_external_data=True, location="w.data", size_threshold=0
    )
    for name in ("m.onnx", "w.data"):
        (snapshot / name).symlink_to(blobs / name)
    with pytest.raises(
        ModelError, match=r"'w.data', which is a link to .*blobs/w.data, as is common in the caches of model hubs"
    ) as refused:
        calibrate(tmp_path, snapshot / "m.onnx")
    with pytest.raises(ModelError) as inspected:
        inspect_model(snapshot / "m.onnx")
    assert str(inspected.value) == str(refused.value)
    for each in snapshot.iterdir():  # as `cp -L` does
        (tmp_path / each.name).write_bytes(each.read_bytes())
    assert not inspect_model(tmp_path / "m.onnx").obstacles


def test_the_way_out_for_one_true_class_of_sigmoids_is_guarded(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", ended("p", node("Sigmoid", "logits", "p")))
    guard = Guard(calibrate(tmp_path, path, logits="logits"))
    x: Array = clean_inputs(20, seed=3)
    np.testing.assert_array_equal(guard(x).original_labels, run_model(tiny_network().model(), x).argmax(axis=1))


def test_a_model_of_dynamic_width_is_inspected_without_being_run(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", ended("p", node("Softmax", "logits", "p", axis=0)))
    model = onnx.load(path)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    onnx.save(model, path)
    assert not inspect_model(path).obstacles
    with pytest.raises(ModelError, match="depends on what else is in its batch"):
        calibrate(tmp_path, path, write_clean(tmp_path / "clean.npz"))


@pytest.mark.parametrize("row", [3, 50])
def test_a_clean_input_that_overflows_the_network_is_at_fault_and_not_an_operator(tmp_path: Path, row: int) -> None:
    x = clean_inputs(60)
    x[row] = 3e38
    np.savez(tmp_path / "clean.npz", x=x)
    with pytest.raises(ModelError, match=f"for 1 of the 60 clean inputs, the first at index {row};"):
        calibrate(tmp_path, write(tmp_path / "m.onnx", lambda _: None), tmp_path / "clean.npz")


def test_more_classes_than_a_manifest_holds_are_refused_before_anything_is_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitness, "MAX_CLASSES", 2)
    model = write(tmp_path / "m.onnx", lambda _: None)
    (obstacle,) = inspect_model(model).obstacles
    assert obstacle == "the model has 3 classes; mmguard supports up to 2"
    with pytest.raises(ModelError, match=obstacle):
        calibrate(tmp_path, model, on_round=refuse_to_learn)


def test_class_names_longer_than_a_manifest_holds_are_refused_before_anything_is_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consistency, "MAX_NAMES", 2000)
    model = write(tmp_path / "m.onnx", lambda _: None)
    names = [letter * 700 for letter in "abc"]
    with pytest.raises(OptionError, match="class names take up 2106 bytes as JSON, but at most 2000 bytes are allowed"):
        calibrate(tmp_path, model, classes=names, on_round=refuse_to_learn)


def refuse_to_learn(_: Any) -> None:
    pytest.fail("it learned")
