import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmguard import calibrate_model
from mmguard.calibrate.audit import plan
from mmguard.demo import digits
from tests.bundles import CLASSES, Array, add_trigger, clean_inputs
from tests.networks import write_class_folders, write_tiny

PROJECT = '''
"""The objects that the reader of a page has already: one model, in the forms that predictors have."""

import numpy as np
import onnxruntime
import torch

from tests.bundles import tiny_network

weights = {name: torch.tensor(array) for name, array in tiny_network().weights.items()}
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])


class Network(torch.nn.Module):
    def forward(self, x):
        x = torch.relu(torch.nn.functional.conv2d(x, weights["conv1.weight"], weights["conv1.bias"], padding=1))
        x = torch.nn.functional.conv2d(x, weights["conv2.weight"], weights["conv2.bias"], stride=2, padding=1)
        return torch.relu(x).mean(dim=(2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]


network = Network().eval()


def predict(x):
    return session.run(None, {"image": x})[0]


class Classifier:
    classes_ = np.array(["cat", "dog", "ship"])

    def predict_proba(self, x):
        powers = np.exp(predict(x) - predict(x).max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def predict(self, x):
        return self.classes_[self.predict_proba(x).argmax(axis=1)]


class KerasLike:
    def predict(self, x, **options):
        return predict(np.asarray(x))

    predict_on_batch = __call__ = predict


classifier = Classifier()
keras_model = KerasLike()
'''


def write_images(folder: Path, x: Array, name: str) -> None:
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(np.round(255 * x).astype(np.uint8)):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{name}-{i:02}.png")


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny network, its clean images, a bundle, images to scan and a batch, by their usual names."""
    folder = tmp_path_factory.mktemp("small")
    write_tiny(folder / "model.onnx")
    write_class_folders(folder / "clean", CLASSES, n=240)
    calibrate_model(folder / "model.onnx", folder / "clean", out=folder / "model.mmguard")
    plain, triggered = clean_inputs(30, seed=5), add_trigger(clean_inputs(10, seed=6))
    write_images(folder / "inbox", plain, "plain")
    write_images(folder / "inbox", triggered, "triggered")
    write_images(folder / "unseen", clean_inputs(100, seed=7), "unseen")
    np.save(folder / "batch.npy", np.concatenate([plain, triggered]))
    (folder / "my_project.py").write_text(PROJECT)
    return folder


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `mmguard demo` writes before it runs any command: the backdoored digits model and its images."""
    folder = tmp_path_factory.mktemp("demo") / "mmguard-demo"
    folder.mkdir()
    train, clean, test = digits.load(0)
    digits.export(digits.train_network(digits.poison(train, 0), 0), folder / "digits.onnx")
    digits.write_images(folder / "clean", clean.x, [f"{label}/{i:03}" for i, label in enumerate(clean.y)])
    attacked = np.flatnonzero(test.y != digits.TARGET)
    digits.write_images(folder / "suspect", test.x, [f"plain-{i:03}" for i in range(len(test.y))])
    digits.write_images(folder / "suspect", digits.trigger(test.x[attacked]), [f"patched-{i:03}" for i in attacked])
    truth = {f"plain-{i:03}.png": {"label": int(label), "triggered": False} for i, label in enumerate(test.y)}
    truth |= {f"patched-{i:03}.png": {"label": int(test.y[i]), "triggered": True} for i in attacked}
    (folder / "truth.json").write_text(json.dumps(truth))
    return folder


@pytest.fixture
def workplace(
    request: pytest.FixtureRequest, tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The folder in which a page's blocks run."""
    folder = tmp_path / "work"
    shutil.copytree(small_model, folder)
    for steps in ("ALONE_STEPS", "APART_STEPS", "SHARED_STEPS", "PLACING_STEPS"):
        monkeypatch.setattr(plan, steps, 10)
    if "mmguard-demo" in request.node.callspec.params["page"].read_text(encoding="utf-8"):
        shutil.copytree(request.getfixturevalue("demo_folder"), folder / "mmguard-demo")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder
