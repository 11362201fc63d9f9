import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.suspect import CleanSet, Suspect, predict


def test_the_backdoor_took(suspect: Suspect) -> None:
    assert suspect.record["clean_accuracy"] > 0.9
    assert suspect.record["attack_success"] > 0.9


def test_the_module_is_the_exported_network(suspect: Suspect, clean: CleanSet) -> None:
    expected = suspect.logits(clean.x)
    assert expected.shape == (len(clean.x), 10)
    assert np.allclose(predict(suspect.module(), clean.x), expected, atol=1e-4)


def test_a_module_is_a_copy(suspect: Suspect, clean: CleanSet) -> None:
    spoilt = suspect.module()
    for parameter in spoilt.parameters():
        parameter.data.zero_()
    assert not np.allclose(predict(spoilt, clean.x), suspect.logits(clean.x))
    assert np.allclose(predict(suspect.module(), clean.x), suspect.logits(clean.x), atol=1e-4)


def test_weights_that_are_not_there_are_named(suspect: Suspect, tmp_path: Path) -> None:
    model = onnx.load(suspect.path)
    for initialiser in model.graph.initializer:
        initialiser.name = initialiser.name.replace("stem.1.bias", "folded")
    onnx.save(model, tmp_path / "folded.onnx")
    (tmp_path / "folded.json").write_text(json.dumps(suspect.record))
    with pytest.raises(RuntimeError, match=r"stem\.1\.bias"):
        Suspect.load("folded", tmp_path).module()
