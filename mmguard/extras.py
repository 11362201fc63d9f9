"""What must be installed for an extra, and the error that says so."""

from mmguard.errors import MissingExtraError


def require_calibrate() -> None:
    """Refuse to go on where a package of the extra `calibrate` is missing.

    Raises:
        MissingExtraError: names the package and the command that installs it.
    """
    try:
        import jinja2  # noqa: F401
        import onnx_ir  # noqa: F401
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"calibration needs {error.name}: pip install 'mmguard[calibrate]'") from error
