"""`mmguard inspect`: show a bundle, or what calibration would make of a model."""

from pathlib import Path

from mmguard.bundle.bundle import Bundle
from mmguard.cli.app import DONE, FAILED, app
from mmguard.cli.formatting import (
    describe_bundle,
    describe_model,
)
from mmguard.pipeline.api import inspect_model


@app.command
def inspect(path: Path, *, logits: str | None = None, json: bool = False) -> int:
    """Show what a bundle holds, after checking every file's hash; or what calibration would make of an ONNX file.

    Exit code 1 of an ONNX file: it cannot be calibrated, for the reason that is shown.

    Parameters
    ----------
    path
        Guard bundle, or ONNX file.
    logits
        ONNX name of an ONNX file's logits, (N, K), where they are not found by themselves.
    json
        Print the whole manifest, or all that is found, as JSON.
    """
    if path.suffix == ".onnx" or path.is_file():
        found = inspect_model(path, logits)
        print(found.to_json() if json else describe_model(found), end="" if json else "\n")
        return FAILED if found.obstacles else DONE
    opened = Bundle.open(path)
    if json:
        print(opened.manifest.to_json(), end="")
    else:
        print(describe_bundle(opened))
    return DONE
