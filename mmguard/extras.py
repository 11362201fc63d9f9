"""What must be installed for an extra, and the error that says so."""

from importlib.util import find_spec

from mmguard.errors import MissingExtraError


def require_calibrate() -> None:
    """Refuse to go on where a package of the extra `calibrate` is missing.

    Raises:
        MissingExtraError: names the package and the command that installs it.
    """
    for package in ("jinja2", "onnx_ir", "torch"):
        try:
            found = find_spec(package)  # without the seconds that an import takes
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise MissingExtraError(f"calibration needs {package}: pip install 'mmguard[calibrate]'")
