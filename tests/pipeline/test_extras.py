"""Commands whose extra is not installed say so."""

import subprocess
import sys

import pytest

from mmguard.cli.app import FAILED

HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == "{hidden}":
            raise ModuleNotFoundError("not installed", name=name)

sys.meta_path.insert(0, Hidden())
"""


@pytest.mark.parametrize(
    ("hidden", "words", "message"),
    [
        (
            "torch",
            "['calibrate', 'model.onnx', 'clean']",
            "calibration needs torch: in your clone of mmguard, run pip install '.[calibrate]'",
        ),
        (
            "jinja2",
            "['calibrate', 'model.onnx', 'clean']",
            "calibration needs jinja2: in your clone of mmguard, run pip install '.[calibrate]'",
        ),
        (
            "uvicorn",
            "['serve', 'a.mmguard']",
            "serving needs uvicorn: in your clone of mmguard, run pip install '.[serve]'",
        ),
        ("sklearn", "['demo']", "the demo needs sklearn: in your clone of mmguard, run pip install '.[demo]'"),
    ],
)
def test_a_missing_extra_is_named_with_what_installs_it(hidden: str, words: str, message: str) -> None:
    code = f"{HIDE.format(hidden=hidden)}\nfrom mmguard.cli.main import main\nmain({words})"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout) == (FAILED, "")
    assert finished.stderr == f"mmguard: {message}\n"
