import subprocess
import sys

import pytest

MODULES = "mmguard, mmguard.guard, mmguard.cli.main"
EXTRAS = {
    "calibrate": ("torch", "onnx", "onnx_ir", "jinja2"),
    "serve": ("anyio", "starlette", "uvicorn"),
    "demo": ("onnxscript", "sklearn", "tritonclient"),
}
HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in {absent}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
"""


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_guard_and_the_command_import_without_an_extra(extra: str) -> None:
    # In a new process, because this one has imported much already.
    code = f"{HIDE.format(absent=EXTRAS[extra])}\nimport {MODULES}"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_the_guard_and_the_command_load_nothing_of_an_extra() -> None:
    # An import that is caught where it fails would still cost seconds and memory where it does not.
    code = f"import sys, {MODULES}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {name for names in EXTRAS.values() for name in names} & set(loaded)
