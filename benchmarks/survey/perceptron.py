"""A scikit-learn MLP for tables, exported by skl2onnx: with a scaler in front, and labels and a map at the end."""

from pathlib import Path

import numpy as np

from benchmarks.record import Record
from benchmarks.survey import exports
from mmguard.errors import MmguardError

ENDS = {
    "a map of names": (10, True),
    "an array": (10, False),
    "two classes, a map of names": (2, True),
    "two classes, an array": (2, False),
}
"""Number of classes, and skl2onnx's option `zipmap`, which sets the form of the probabilities."""


def measure(folder: Path) -> Record:
    """Train on scikit-learn's digits, export in each way, and compare and guard the exports."""
    from skl2onnx import to_onnx
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    models = {
        classes: make_pipeline(StandardScaler(), MLPClassifier((64, 32), random_state=0, max_iter=100))
        for classes in (2, 10)
    }
    for classes, model in models.items():
        model.fit(x[600:], y[600:] % classes)
    network = models[10][-1]
    parameters = sum(weight.size for weight in (*network.coefs_, *network.intercepts_))
    record: Record = {"network": "StandardScaler, MLPClassifier", "shape": [64], "parameters": parameters}
    record["exports"], ends = {}, []
    for number, (name, (classes, zipmap)) in enumerate(ENDS.items()):
        path = folder / f"{number}.onnx"
        path.write_bytes(to_onnx(models[classes], x[:1], options={"zipmap": zipmap}).SerializeToString())
        try:
            record["exports"][name] = {"equal": True} | exports.judge(path, x[:4])
        except MmguardError as error:
            record["exports"][name] = {"equal": False, "mmguard": f"{type(error).__name__}: {error}"}
        ends.append(exports.guarded(path, x[:600], folder))
    return record | {"guarded": next((end for end in ends if end != "yes"), "yes")}
